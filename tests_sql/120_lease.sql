\ir helpers/tap.psql
select no_plan();

create function t.claims(p_queue text) returns jsonb
language sql as $$
    select coalesce(jsonb_agg(jsonb_build_array(i.id, i.claim_no) order by i.id), '[]')
    from gendurable.instance i
    where i.queue = p_queue and i.status = 'executing'
$$;

-- heartbeat

select gd_insert('m', p_queue => 'hb'), gd_insert('m', p_queue => 'hb');
select count(*) from t.take('hb', 2, 'w', '5 seconds');
select is_empty($$select * from gd_heartbeat('w', t.claims('hb'), '1 hour')$$, 'claims that still stand are not reported');
select ok(bool_and(v.lease_expires_at > clock_timestamp() + interval '59 minutes'), 'and have a new lease')
from gd_instances v where v.queue = 'hb';
select id as one, claim_no as no from gendurable.instance where queue = 'hb' order by id limit 1 \gset
select results_eq(
    format($$select id, claim_no from gd_heartbeat('w', '[[%s, %s], [%s, 1], [999999999, 7]]')$$, :one, :no, :one),
    format('values (%s::bigint, 1::bigint), (999999999, 7)', :one), 'lost: another claim number, and an id that never was');
select is_empty($$select * from gd_heartbeat('w', '[]')$$, 'no claims, no answer');
select t.put(:one, '{"kind": "done"}');
select results_eq(
    format($$select id, claim_no from gd_heartbeat('w', '[[%s, %s]]')$$, :one, :no),
    format('values (%s::bigint, %s::bigint)', :one, :no), 'lost: committed');
select v.id as two from gd_instances v where v.queue = 'hb' and v.status = 'executing' \gset
select t.claims('hb') as claims \gset
select t.expire(:two);
select is_empty(format($$select * from gd_heartbeat('w', %L)$$, :'claims'), 'expired but not taken over: renewed');
select is_empty($$select * from t.take('hb')$$, 'so nobody gets it');
select gd_cancel(:two);
select is((select count(*) from gd_heartbeat('w', :'claims')), 1::bigint, 'lost: cancelled');

select t.raises($$select gd_heartbeat('', '[]')$$, 'GD501', 'heartbeat: an empty worker');
select t.raises($$select gd_heartbeat('w', null)$$, 'GD501', 'heartbeat: no claims');
select t.raises($$select gd_heartbeat('w', '{}')$$, 'GD501', 'heartbeat: claims that are an object');
select t.raises($$select gd_heartbeat('w', '[1, 2]')$$, 'GD501', 'heartbeat: claims that are numbers');
select t.raises($$select gd_heartbeat('w', '[[1]]')$$, 'GD501', 'heartbeat: a claim without its number');
select t.raises($$select gd_heartbeat('w', '[["1", "2"]]')$$, 'GD501', 'heartbeat: a claim of texts');
select t.raises($$select gd_heartbeat('w', '[]', '0')$$, 'GD501', 'heartbeat: a lease of nothing');

select gd_insert('m', p_queue => 'hb2') as hb \gset
select count(*) from t.take('hb2', 1, 'w', '1 second');
insert into gendurable.renewal (instance_id, claim_no, until)
select i.id, i.claim_no, now() + interval '1 hour' from gendurable.instance i where i.id = :hb;
select t.expire(:hb);
select is_empty($$select * from t.take('hb2')$$, 'renewed beside its row: nobody gets it');
select is(gd_reap(), 0, 'nor is it taken back');
select is(gd_maintain() ->> 'reaped', '0', 'by nobody');
update gendurable.renewal set until = now();
select is(gd_maintain() ->> 'reaped', '1', 'when that is over, it is');
select is((select count(*) from gendurable.renewal), 0::bigint, 'and goes');
select gd_cancel(:hb) as _ \gset

-- the lease of a timed step, and of an instance with a deadline, goes no further

select gd_register('timed', 1, 'start', 'hb3', '{"timeouts": {"start": 5000}}');
select gd_insert('timed', p_queue => 'hb3') as timed \gset
select gd_insert('m', p_queue => 'hb3', p_expires_at => now() + interval '7 seconds') as mortal \gset
select count(*) from t.take('hb3', 2, 'w', '1 hour');
select results_eq(
    format('select lease_expires_at = timeout_at, timeout_at - updated_at from gendurable.instance where id = %s', :timed),
    $$values (true, interval '5 seconds')$$, 'the lease of a timed step ends with its timeout');
select ok(i.lease_expires_at = i.expires_at, 'and no lease goes beyond the deadline') from gendurable.instance i where i.id = :mortal;
select t.claims('hb3') as claims \gset
select is_empty(format($$select * from gd_heartbeat('w', %L, '1 day')$$, :'claims'), '(renewed)');
select ok(bool_and(i.lease_expires_at = coalesce(i.timeout_at, i.expires_at)), 'nor does a renewal')
from gendurable.instance i where i.id in (:timed, :mortal);
select gendurable._renew_beside(array[:timed], array[i.claim_no], '1 day', now() + interval '1 day') from gendurable.instance i where i.id = :timed;
select is(r.until, i.timeout_at, 'nor one beside the row') from gendurable.renewal r join gendurable.instance i on i.id = :timed;
delete from gendurable.renewal;
select t.elapse(:timed, '5 seconds'), t.elapse(:mortal, '7 seconds');
select results_eq(
    format($$select id from gd_heartbeat('w', %L, '1 day') order by id$$, :'claims'),
    format('values (%s::bigint), (%s)', :timed, :mortal), 'then both claims are lost');
select ok(bool_and(i.lease_expires_at < now()), 'and not renewed') from gendurable.instance i where i.id in (:timed, :mortal);
select is(gd_release('w', :'claims'), 0, 'and cannot be given back');
select is(gd_reap(), 2, 'they are taken back');
select results_eq(
    format('select status, attempt, crashes, last_error from gd_instances where id = %s', :timed),
    $$values ('runnable', 1, 0, 'timed out after 5 s in step ''start''')$$, 'a timeout counts as an error and not as a crash');
select matches(v.last_error, '^expired at 2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z$', 'past its deadline an instance has failed')
from gd_instances v where v.id = :mortal;
select is(t.status(:mortal), 'failed', '(failed)');
select gd_cancel(:timed) as _ \gset

-- release

select gd_insert('m', p_queue => 'rel'), gd_insert('m', p_queue => 'rel'), gd_insert('m', p_queue => 'rel');
select count(*) from t.take('rel', 3);
select t.claims('rel') as claims \gset
select is(gd_release('w', jsonb_build_array(:'claims'::jsonb -> 0)), 1, 'one claim is given back');
select is((select array_agg(row(c.attempt)::text) from t.take('rel', 3) c), '{(0)}', 'it is due now and no attempt is burnt');
select is(gd_release('w', :'claims'), 2, 'a claim that is lost is not given back again');
select is((select v.crashes from gd_instances v where v.queue = 'rel' limit 1), 0, 'a release is no crash');
select is((select count(*) from t.take('rel', 3)), 2::bigint, '(claimed again)');
select is(gd_release('w', t.claims('rel'), '1 hour'), 3, 'with a delay');
select is_empty($$select * from t.take('rel', 3)$$, 'they are not due yet');
select ok(bool_and(v.eligible_at > clock_timestamp() + interval '59 minutes'), 'but then') from gd_instances v where v.queue = 'rel';

select gd_insert('m', p_queue => 'all'), gd_insert('m', p_queue => 'all', p_priority => 3), gd_insert('m', p_queue => 'all_b');
select count(*) from t.take('all', 5, 'w-all');
select count(*) from t.take('all_b', 5, 'w-all');
select gd_insert('m', p_queue => 'all');
select count(*) from t.take('all', 5, 'w-other');
select is(gd_release('w-all', null), 3, 'null: all that this worker holds, whatever the queue');
select is((select array_agg(v.worker) from gd_instances v where v.status = 'executing' and v.queue like 'all%'), '{w-other}', 'and nothing else');
select is(gd_release('w-other', t.claims('all')), 1, '(given back)');
select count(*) from t.take('all', 1, 'w-1');
select is(gd_release('w-2', t.claims('all')), 1, 'the name is a label: the claim number proves who owns a claim');

select t.raises($$select gd_release('', '[]')$$, 'GD501', 'release: an empty worker');
select t.raises($$select gd_release('w', '{}')$$, 'GD501', 'release: claims that are an object');
select t.raises($$select gd_release('w', '[[1]]')$$, 'GD501', 'release: half a claim');
select t.raises($$select gd_release('w', '[]', '-1 s')$$, 'GD501', 'release: a negative delay');
select is(gd_release('w', '[]'), 0, 'release: nothing');
select case
    when current_setting('server_version_num')::int >= 170000
        then t.raises($$select gd_release('w', '[]', 'infinity')$$, 'GD501', 'release: an infinite delay')
    else skip('an infinite interval needs PostgreSQL 17')
end;

-- given back as by a lost worker

select gd_insert('m', p_queue => 'cr'), gd_insert('m', p_queue => 'cr', p_partition_key => 'cr'), gd_insert('m', p_queue => 'cr');
select count(*) from t.take('cr', 3);
update gendurable.instance set crashes = gendurable._crash_cap() - 1 where id = (select max(i.id) from gendurable.instance i where i.queue = 'cr');
select is(gd_release('w', t.claims('cr'), '1 hour', true), 3, 'crashed: all three');
select results_eq(
    $$select v.status, v.attempt, v.crashes, v.eligible_at > clock_timestamp() + interval '59 minutes', v.last_error like '%crash cap%'
    from gd_instances v where v.queue = 'cr' order by v.id$$,
    format($$values ('runnable', 1, 1, true, null::boolean), ('runnable', 1, 1, true, null), ('failed', 0, %s, null, true)$$, gendurable._crash_cap()),
    'each counts as a crash, and at the cap it has failed');
select is(gd_release('w', '[[999999999, 1]]', p_crashed => true), 0, 'crashed: a claim that is gone');
select gd_insert('m', p_queue => 'cr2') as id \gset
select count(*) from t.take('cr2');
select is(gd_release('w', t.claims('cr2'), p_crashed => null), 1, 'crashed null: the default');
select is((select v.crashes from gd_instances v where v.id = :id), 0, '(no crash)');

select gd_insert('m', p_queue => 'aw') as id \gset
select t.run('aw', '{"kind": "await", "signals": "go", "step": "s", "timeout_ms": 60000}');
select gd_signal(:id, 'go', '1');
select count(*) from t.take('aw');
select is(gd_release('w', t.claims('aw')), 1, 'a woken await is given back');
select is(
    (select row(c.step, c.awaits, jsonb_array_length(c.signals), c.timed_out, c.attempt)::text from t.take('aw') c),
    '(s,{go},1,f,0)', 'and is handed out again with its signal');

-- reap

select gd_insert('m', p_queue => 'reap') as a \gset
select gd_insert('m', p_queue => 'reap') as b \gset
select count(*) from t.take('reap', 2);
select is(gd_reap(), 0, 'nothing has expired');
select t.expire(:a);
select is(gd_reap(0), 0, 'a limit of 0 reaps nothing');
select is(gd_reap(), 1, 'an expired claim is taken back');
select results_eq(
    format('select status, attempt, crashes, worker, lease_expires_at from gd_instances where id = %s', :a),
    $$values ('runnable', 1, 1, null::text, null::timestamptz)$$, 'with attempt and crashes counted');
select is(t.status(:b), 'executing', 'a live one is not');
select is((select c.attempt from t.take('reap') c), 1, 'and it is due now');
select t.raises($$select gd_reap(-1)$$, 'GD501', 'reap: a negative limit');

select count(*) from gd_insert_many((select jsonb_agg('{"fsm": "m", "queue": "reap5"}'::jsonb) from generate_series(1, 5)));
select count(*) from t.take('reap5', 5);
select count(t.expire(v.id)) from gd_instances v where v.queue = 'reap5';
select is(gd_reap(3), 3, 'no more than the limit');
select is(gd_reap(3), 2, 'and the rest next time');

select gd_insert('m', p_queue => 'reapcap') as parent \gset
select t.run('reapcap', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "reapcap_c"}]}');
select v.id as child from gd_instances v where v.parent_id = :parent \gset
create procedure t.reap(p_queue text, p_id bigint, p_times int)
language plpgsql as $$
begin
    for n in 1 .. p_times loop
        perform from t.take(p_queue);
        perform t.expire(p_id);
        perform gd_reap();
    end loop;
end $$;
call t.reap('reapcap_c', :child, 19);
select is(t.status(:child), 'runnable', 'after 19 lost claims it is given back');
call t.reap('reapcap_c', :child, 1);
select results_eq(
    format('select status, crashes from gd_instances where id = %s', :child), $$values ('failed', 20)$$,
    'the twentieth is the end');
select matches(r.last_error, '20', 'which says why') from gd_result(:child) r;
select is((select c.id from t.take('reapcap') c), :'parent', 'and releases its parent');

-- a slot is kept by its crashed holder until it is claimed again or reaped

select gd_insert('m', p_queue => 'slot', p_partition_key => 'slot') as a \gset
select gd_insert('m', p_queue => 'slot', p_partition_key => 'slot') as b \gset
select is((select array_agg(c.id) from t.take('slot', 5) c), array[:a]::bigint[], 'one holder');
select t.expire(:a);
select is((select array_agg(c.id) from t.take('slot', 5) c), array[:a]::bigint[], 'the crashed holder keeps its slot');
select t.expire(:a);
select is(gd_reap(), 1, 'reap frees it');
select is((select array_agg(c.id) from t.take('slot', 5) c), array[:a]::bigint[], 'and it keeps its place in the key');
select is(gd_release('w', t.claims('slot'), '1 hour'), 1, 'a release with a delay frees it too');
select is((select array_agg(c.id) from t.take('slot', 5) c), null, 'but the row keeps its turn: those behind it wait');
update gendurable.instance set eligible_at = now() where id = :a;
select is((select array_agg(c.id) from t.take('slot', 5) c), array[:a]::bigint[], 'until it is due again');
select t.put(:a, '{"kind": "done"}');
select is((select array_agg(c.id) from t.take('slot', 5) c), array[:b]::bigint[], 'and then the next of the key has its turn');
select is(t.repaired(), 0, 'no baton was dropped');

set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_heartbeat('w', '[]')$$, 'GD504', 'heartbeat: under REPEATABLE READ');
select t.raises($$select gd_release('w', '[]')$$, 'GD504', 'release: under REPEATABLE READ');
select t.raises($$select gd_reap()$$, 'GD504', 'reap: under REPEATABLE READ');
set default_transaction_isolation = 'read committed';

select * from finish();
