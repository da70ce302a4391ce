\ir helpers/tap.psql
select no_plan();

select gd_insert('m', p_queue => 'hol') as a \gset
select gd_insert('m', p_queue => 'hol') as b \gset
select count(*) from t.take('hol');
select t.raises($$select gd_hold_all('')$$, 'GD501', 'no reason');
select t.raises($$select gd_hold_all(null)$$, 'GD501', 'null');
select is(gd_release_hold(), false, 'nothing is held');
select is_empty('select * from gd_holds', '(nobody holds)');
select gd_hold_all('a restored copy');
select results_eq($$select reason, held_by, held_at <= clock_timestamp() from gd_holds$$,
    $$values ('a restored copy'::text, session_user::text collate "default", true)$$, 'the view says why, by whom and since when');
select gd_hold_all('a restored copy');
select is((select count(*) from gd_holds), 1::bigint, 'the same once more is the same');

select is_empty($$select * from t.take('hol', 10)$$, 'a claim answers nothing');
select set_config('gendurable.floor', '', false);
select is_empty($$select * from gd_claim_many('w', '{"hol": 10, "other": 3}')$$, 'of several queues neither');
select gd_insert('m', p_queue => 'hol') as c \gset
select is(t.status(:a), 'executing', '(a step runs)');
select is((select count(*) from gendurable.instance i, gd_heartbeat('w', jsonb_build_array(jsonb_build_array(i.id, i.claim_no))) where i.id = :a),
    0::bigint, 'its heartbeats go on');
select is(t.answer(:a, '{"kind": "next", "step": "b", "keep": true}'), '{"result": "ok", "detail": null}', 'its claim is not kept');
select is(t.status(:a), 'runnable', 'but given back');
select is((select s.next_due from gd_sleep('w', '{hol}') s), null, 'sleepers wait for the release');
select gd_insert('m', p_queue => 'hol', p_delay => '10 seconds') as _ \gset
select is((select s.next_due from gd_sleep('w', '{hol}') s), null, 'whatever becomes due');
select gd_wake('w');

select set_config('gendurable.actor', 'ann', false);
select gd_hold_all('another reason');
select is((select h.held_by from gd_holds h where h.reason = 'another reason'), 'ann as ' || session_user, 'a name may be given');
select set_config('gendurable.actor', '', false);
select is(gd_release_hold(), true, 'released');
select is((select count(*) from gd_holds), 0::bigint, 'whoever held');
select is((select count(*) from t.take('hol', 10)), 3::bigint, 'and all goes on');
select is(t.answer(:a, '{"kind": "next", "step": "c", "keep": true}') -> 'detail' ->> 'step', 'c', 'claims are kept again');
select gd_hold_all('upkeep');
select t.expire(:b);
select is(gd_reap(), 1, 'while all is held, lost claims are taken back');
select is(gd_release_hold(), true, '(released)');

set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_hold_all('x')$$, 'GD504', 'hold: under REPEATABLE READ');
select t.raises($$select gd_release_hold()$$, 'GD504', 'release: under REPEATABLE READ');
set default_transaction_isolation = 'read committed';

select * from finish();
