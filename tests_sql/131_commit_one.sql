\ir helpers/tap.psql
\ir helpers/twins.psql
select no_plan();

-- in the caller's own transaction

select gd_insert('m', p_queue => 'one') as id \gset
select claim_no as no from t.take('one') \gset
create table business (order_id int);
begin;
insert into business values (1);
select gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', :no, 'kind', 'next', 'step', 'b'));
rollback;
select is(t.status(:id), 'executing', 'commit_one: rolled back means it never happened');
begin;
insert into business values (2);
select gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', :no, 'kind', 'next', 'step', 'b'));
commit;
select is((select array_agg(b.order_id) from business b), '{2}', 'commit_one: with the business write');
select is((select v.step from gd_instances v where v.id = :id), 'b', 'and the next step');
select t.raises(
    format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "done"}')$$, :id, :no), 'GD505', 'commit_one: the claim is lost');
select t.raises(
    $$select gd_commit_one('w', '{"id": 999999999, "claim_no": 1, "kind": "done"}')$$, 'GD505', 'commit_one: no such claim');
select claim_no as no from t.take('one') \gset
select t.raises(format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "up"}')$$, :id, :no), 'GD501', 'commit_one: an unknown kind');
select t.raises(format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "next"}')$$, :id, :no), 'GD501', 'commit_one: no step');
select t.raises(
    format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "next", "step": "s", "rate_limit": "r"}')$$, :id, :no), 'GD502',
    'commit_one: no such rate limit');
select t.raises(
    format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "schedule_childs", "step": "s", "childs": [{}]}')$$, :id, :no),
    'GD501', 'commit_one: a bad child');
select t.raises($$select gd_commit_one('w', null)$$, 'GD501', 'commit_one: null');
select t.raises($$select gd_commit_one('', '{}')$$, 'GD501', 'commit_one: an empty worker');
select lives_ok(
    format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "done", "result": 5}')$$, :id, :no), 'commit_one: done');
select is((select r.result from gd_result(:id) r), '5', '(with its result)');

set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_commit_one('w', '{}')$$, 'GD504', 'commit_one: under REPEATABLE READ');
set default_transaction_isolation = 'read committed';

-- numbers that are no id, or hardly

select t.raises(format($$select gd_commit_one('w', '{"id": %s, "claim_no": 1, "kind": "done"}')$$, x.id), x.state, 'commit_one: id ' || x.id)
from (values ('1.5', 'GD501'), ('1e40', 'GD501'), ('9223372036854775808', 'GD501'), ('"5"', 'GD501'), ('null', 'GD501'),
    ('9223372036854775807', 'GD505'), ('-9223372036854775808', 'GD505'), ('-5', 'GD505'), ('7.0', 'GD505'), ('0', 'GD505')) x (id, state);
select gd_insert('m', p_queue => 'num') as id \gset
select claim_no as no from t.take('num') \gset
select lives_ok(
    format($$select gd_commit_one('w', '{"id": %s.0, "claim_no": %s.00, "kind": "done"}')$$, :id, :no), 'whole numbers with a point');

-- keep: the answer is the next claim

select gd_insert('m', '{"a": 1}', p_queue => 'keep', p_meta => '{"tag": 1}') as id \gset
select claim_no as no from t.take('keep') \gset
create temp table kept as
select gd_commit_one('w2', jsonb_build_object('id', :id, 'claim_no', :no, 'kind', 'next', 'step', 'b', 'state', '{"a": 2}'::jsonb, 'keep', true)) as claim;
select is(
    (select k.claim - 'claim_no' from kept k),
    jsonb_build_object('id', :id, 'fsm', 'm', 'fsm_version', 1, 'step', 'b', 'state', '{"a": 2}'::jsonb, 'attempt', 0, 'queue', 'keep',
        'partition_key', null, 'unique_key', null, 'parent_id', null, 'awaits', null, 'timed_out', false, 'signals', '[]'::jsonb,
        'childs', '[]'::jsonb, 'meta', '{"tag": 1}'::jsonb, 'attributes', '{}'::jsonb), 'keep: the next claim');
select is((select k.claim -> 'claim_no' from kept k), (select to_jsonb(i.claim_no) from gendurable.instance i where i.id = :id), 'with its number');
select is((select row(v.status, v.worker)::text from gd_instances v where v.id = :id), '(executing,w2)', 'and it is held');
select t.raises(
    format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "done"}')$$, :id, :no), 'GD505', 'the old number is worth nothing');
select gd_signal(:id, 'hello', '7');
select is(
    (select gd_commit_one('w', jsonb_build_object('id', i.id, 'claim_no', i.claim_no, 'kind', 'next', 'step', 'c', 'keep', true)) #> '{signals,0,payload}'
    from gendurable.instance i where i.id = :id), '7', 'keep: with the inbox');
select is(
    (select gd_commit_one('w', jsonb_build_object('id', i.id, 'claim_no', i.claim_no, 'kind', 'next', 'step', 'c', 'keep', true, 'delay_ms', 60000))
    from gendurable.instance i where i.id = :id), null, 'keep with a delay: given back');
select is(t.status(:id), 'runnable', 'and not executing');

-- The short way writes what gd_commit writes. Twins: one is committed each way.

select gd_set_rate_limit('twins', 1000, '1 s');
create temp table twins as
select x.what, y.outcome, t.twin(x.what, 'twin_a' || x.no || y.no) as a, t.twin(x.what, 'twin_b' || x.no || y.no) as b
from unnest(
        '{plain,tried,await,"await, over",inbox,child,parent,lifted,key,unique,"unique, scope","unique, runnable",limited,deadline,
          timeout,queue slot}'::text[])
        with ordinality x (what, no),
    unnest(array['{"kind": "next", "step": "b"}', '{"kind": "next", "step": "b", "state": {"z": 1}}', '{"kind": "done"}',
        '{"kind": "done", "result": {"r": [1]}}', '{"kind": "done", "result": null}']::jsonb[]) with ordinality y (outcome, no);
select is(c.result, 'ok', format('%s: %s, committed the long way', w.what, w.outcome))
from twins w
cross join lateral t.commit_long(array[w.a], array[w.outcome]) c;
set track_functions = 'pl';
create temp table ways as
select w.what, w.outcome, w.b,
    pg_stat_get_xact_function_calls('gendurable._commit_strictly(text, jsonb)'::regprocedure) as before,
    gd_commit_one('w', w.outcome || jsonb_build_object('id', w.b, 'claim_no', (select i.claim_no from gendurable.instance i where i.id = w.b))) as answer,
    pg_stat_get_xact_function_calls('gendurable._commit_strictly(text, jsonb)'::regprocedure) as behind
from twins w;
reset track_functions;
select is(t.seen(w.b), t.seen(w.a), format('%s: %s is written as the long way does', w.what, w.outcome)) from twins w;
select results_eq(
    $$select distinct w.what from ways w where w.behind is distinct from w.before order by 1$$,
    $$values ('child'), ('key'), ('parent'), ('queue slot'), ('unique, runnable'), ('unique, scope')$$,
    'the long way is for what has something to look after');
select results_eq(
    $$select distinct w.what from ways w where w.outcome ->> 'kind' = 'next' and w.behind is distinct from w.before order by 1$$,
    $$values ('key'), ('queue slot'), ('unique, runnable'), ('unique, scope')$$, 'and a next of a child or a parent has not');

-- what is over

select gd_insert('m', p_queue => 'over', p_expires_at => clock_timestamp() + interval '1 hour') as id \gset
select claim_no as no from t.take('over') \gset
select t.elapse(:id, '2 hours');
select t.raises(
    format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "next", "step": "b"}')$$, :id, :no), 'GD505', 'past its deadline: next');
select t.raises(
    format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "done"}')$$, :id, :no), 'GD505', 'past its deadline: done');

-- gd_commit has the same short way for an outcome that is alone

create function t.alone(p_queue text, p_outcome jsonb) returns text language plpgsql as $$
declare
    v_long constant regprocedure := 'gendurable._commit_outcomes(text, gendurable.outcome[], interval, timestamptz)';
    v_id constant bigint := gd_insert('m', p_queue => p_queue);
    v_claim_no constant bigint := (select c.claim_no from t.take(p_queue) c);
    v_before constant bigint := coalesce(pg_stat_get_xact_function_calls(v_long), 0);
    v_got record;
begin
    select c.* into strict v_got
    from gd_commit('w', jsonb_build_array(p_outcome || jsonb_build_object('id', v_id, 'claim_no', v_claim_no))) c;
    return concat_ws(' ', v_got.result, (v_got.ord, v_got.id, v_got.claim_no) = (0, v_id, v_claim_no), v_got.detail ->> 'message',
        coalesce(pg_stat_get_xact_function_calls(v_long), 0) - v_before);
end $$;
create function t.minds() returns trigger language plpgsql as $$
begin
    raise exception 'minds';
end $$;
create trigger minds before update on gendurable.instance for each row when (new.step = 'bad') execute function t.minds();
set track_functions = 'pl';
select is(t.alone('alone_' || x.no, x.outcome), x.answer, format('gd_commit of one: %s', x.outcome))
from (values (1, '{"kind": "next", "step": "b"}'::jsonb, 'ok t 0'), (2, '{"kind": "done", "result": 1}', 'ok t 0'),
    (3, '{"kind": "replay"}', 'ok t 1'), (4, '{"kind": "next", "step": "b", "delay_ms": 5}', 'ok t 1'),
    (5, '{"kind": "next", "step": "bad"}', 'rejected t minds 1')) x (no, outcome, answer);
reset track_functions;
select is(t.status(i.id), 'executing', 'what the short way could not write is under its claim')
from gendurable.instance i where i.queue = 'alone_5';
drop trigger minds on gendurable.instance;

-- where a machine says how long its instances are kept

select gd_register('fleeting', 1, 's', p_options => '{"retain": {"done": 0}}');
select gd_insert('fleeting', p_queue => 'fl') as id \gset
select gd_commit_one('w', (select jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'done') from t.take('fl') c));
select is((select count(*) from gendurable.instance i where i.id = :id), 0::bigint, 'what is not kept at all is removed at once');

select * from finish();
