\ir helpers/tap.psql
select no_plan();

-- What holds of a queue with a limit, whatever was done: as many slots as rows that execute, and no more than it allows.
create function t.slots(p_queue text) returns text
language sql as $$
    select string_agg(i.queue_slot::text, ' ' order by i.queue_slot)
        || case when bool_or(i.status <> 'executing') then ' of rows that do not execute' else '' end
    from gendurable.instance i
    where i.queue = p_queue and (i.queue_slot is not null or i.status = 'executing')
$$;
create function t.running(p_queue text) returns bigint
language sql as $$
    select count(*) from gendurable.instance i where i.queue = p_queue and i.status = 'executing'
$$;

-- how many start

select count(gd_insert('m', p_queue => 'lim')) from generate_series(1, 10);
select gd_set_queue('lim', '{"limit": 3}');
select is((select q.max_executing from gd_queues q where q.queue = 'lim'), 3, 'gd_queues tells of it');
select is((select count(*) from t.take('lim', 2)), 2::bigint, 'a limit of 3: two start');
select is((select count(*) from t.take('lim', 5)), 1::bigint, 'and one more');
select is(t.slots('lim'), '0 1 2', '(each has a slot)');
select is_empty($$select * from t.take('lim', 5)$$, 'then none');
select is((select v.due from gd_queues v where v.queue = 'lim'), 7::bigint, 'the others are due');
select min(v.id) as a, max(v.id) as b from gd_instances v where v.queue = 'lim' and v.status = 'executing' \gset
select t.put(:a, '{"kind": "done"}');
select is(t.slots('lim'), '1 2', 'an end frees its slot');
select is((select count(*) from t.take('lim', 5)), 1::bigint, 'for one');
select is(t.slots('lim'), '0 1 2', '(the same slot)');
select t.put(:b, '{"kind": "next", "step": "b", "delay_ms": 100000}');
select is((select count(*) from t.take('lim', 5)), 1::bigint, 'so does a next');
select gd_cancel(min(v.id)) from gd_instances v where v.queue = 'lim' and v.status = 'executing';
select is((select count(*) from t.take('lim', 5)), 1::bigint, 'and a cancel');
select is(gd_release('w', null), 3, '(all given back)');
select is(t.slots('lim'), null, 'and a release');
select is((select count(*) from t.take('lim', 10)), 3::bigint, '(three again)');
select set_config('gendurable.floor', '', false);
select is((select count(*) from gd_claim_many('w', '{"lim": 5, "free": 5}')), 0::bigint, 'gd_claim_many as well');
select count(gd_insert('m', p_queue => 'free')) from generate_series(1, 4);
select is((select count(*) from gd_claim_many('w', '{"lim": 5, "free": 5}')), 4::bigint, 'other queues go on beside it');
select is(t.slots('free'), null, '(without slots)');

-- lost workers

select t.expire(v.id) from gd_instances v where v.queue = 'lim' and v.status = 'executing';
select is((select count(*) from t.take('lim', 10)), 3::bigint, 'what a lost worker held is taken over');
select is(t.slots('lim'), '0 1 2', '(and no more)');
select t.expire(min(v.id)) from gd_instances v where v.queue = 'lim' and v.status = 'executing';
select gd_insert('m', p_queue => 'lim', p_priority => -5) as urgent \gset
select is((select c.id from t.take('lim', 10) c), :'urgent', 'one that is more urgent gets the slot of one that was lost');
select is(t.slots('lim'), '0 1 2', '(that was given back)');
select is((select count(*) from gd_instances v where v.queue = 'lim' and v.crashes = 1 and v.status = 'runnable'), 4::bigint, '(so it is, as those before it)');
insert into gendurable.renewal (instance_id, claim_no, until)
select i.id, i.claim_no, clock_timestamp() + interval '1 hour' from gendurable.instance i where i.queue = 'lim' and i.status = 'executing';
select t.expire(v.id) from gd_instances v where v.queue = 'lim' and v.status = 'executing';
select is_empty($$select * from t.take('lim', 10)$$, 'a claim that was renewed beside its row keeps its slot');
delete from gendurable.renewal;
update gendurable.instance set crashes = 19 where queue = 'lim' and status = 'executing';
select is((select count(*) from t.take('lim', 10)), 3::bigint, 'at the crash cap they end, and make room');
select is((select count(*) from gd_instances v where v.queue = 'lim' and v.status = 'failed'), 3::bigint, '(so they do)');
select t.expire(v.id) from gd_instances v where v.queue = 'lim' and v.status = 'executing';
select is(gd_reap(), 3, 'upkeep takes them back');
select is(t.slots('lim'), null, 'and frees their slots');

-- raised, lowered, removed

select count(gd_insert('m', p_queue => 'low')) from generate_series(1, 20);
select gd_set_queue('low', '{"limit": 2}');
select count(*) from t.take('low', 10);
select gd_set_queue('low', '{"limit": 5}');
select is((select count(*) from t.take('low', 10)), 3::bigint, 'raised: the rest starts');
select gd_set_queue('low', '{}');
select is_empty($$select * from t.take('low', 10)$$, 'an option that is not named stays');
select gd_set_queue('low', '{"limit": 2}');
select is_empty($$select * from t.take('low', 10)$$, 'lowered: nothing starts');
select t.put(i.id, '{"kind": "done"}') from gendurable.instance i where i.queue = 'low' and i.queue_slot < 3;
select is_empty($$select * from t.take('low', 10)$$, 'until there is room: slots above the limit count');
select is(t.slots('low'), '3 4', '(these)');
select i.id as high from gendurable.instance i where i.queue = 'low' and i.queue_slot = 4 \gset
select is(t.answer(:high, '{"kind": "next", "step": "b", "keep": true}') -> 'detail', 'null', 'a claim beyond the limit is not kept');
select is((select count(*) from t.take('low', 10)), 1::bigint, '(it makes room)');
select is(t.slots('low'), '0 3', '(so it does)');
select i.id as zero from gendurable.instance i where i.queue = 'low' and i.queue_slot = 0 \gset
select is(t.answer(:zero, '{"kind": "next", "step": "b", "keep": true}') -> 'detail' ->> 'step', 'b', 'one within it is');
select is(t.slots('low'), '0 3', 'with its slot');
select gd_set_queue('low', '{"limit": 0}');
select is_empty($$select * from t.take('low', 10)$$, '0: none');
select t.put(i.id, '{"kind": "done"}') from gendurable.instance i where i.queue = 'low' and i.status = 'executing';
select is_empty($$select * from t.take('low', 10)$$, '(none)');
select gd_set_queue('low', '{"limit": null}');
select is((select q.max_executing from gd_queues q where q.queue = 'low'), null, 'removed');
select is((select count(*) from t.take('low', 10)), 10::bigint, 'all that are wanted start');
select is(t.slots('low'), null, 'without slots');

-- what executes when the limit is set

select gd_set_queue('low', '{"limit": 12}');
select is((select count(*) from t.take('low', 10)), 2::bigint, 'what executes counts');
select is(t.slots('low'), '0 1 2 3 4 5 6 7 8 9 10 11', 'and has got slots');
select count(gd_insert('m', p_queue => 'old', p_priority => g % 3)) from generate_series(1, 12) g;
select count(*) from t.take('old', 6);
select gd_set_queue('old', '{"limit": 4}');
select is_empty($$select * from t.take('old', 10)$$, 'more than the limit: nothing starts');
select gd_release('w', jsonb_build_array(jsonb_build_array(i.id, i.claim_no))) from gendurable.instance i
where i.queue = 'old' and i.status = 'executing' and i.queue_slot >= 3;
select is((select count(*) from t.take('old', 10)), 1::bigint, 'until there is room');
select is(t.running('old'), 4::bigint, '(four run)');

-- with keys, priorities, pauses

select count(gd_insert('m', p_queue => 'key', p_partition_key => 'key:' || g % 4, p_priority => g)) from generate_series(1, 12) g;
select gd_set_queue('key', '{"limit": 2}');
select results_eq($$select partition_key from t.take('key', 10) order by 1$$, $$values ('key:1'), ('key:2')$$, 'keys: the first two');
select is((select count(*) from gd_instances v where v.queue = 'key' and v.eligible_at is not null and v.status = 'runnable'
    and v.partition_key in ('key:0', 'key:3')), 6::bigint, 'those that the limit cuts stay due');
select is(t.slots('key'), '0 1', '(with slots)');
create temp table order_of (at int generated always as identity, id bigint, partition_key text);
do $$
begin
    for v_round in 1 .. 40 loop
        perform t.put(v.id, '{"kind": "done"}') from gd_instances v where v.queue = 'key' and v.status = 'executing';
        insert into order_of (id, partition_key) select c.id, c.partition_key from t.take('key', 10) c;
        if t.running('key') > 2 then
            raise exception 'more than two run';
        end if;
    end loop;
end $$;
select is((select count(*) from order_of), 10::bigint, 'all start, one after the other');
select is((select count(*) from (select o.id < lag(o.id) over (partition by o.partition_key order by o.at) as wrong from order_of o) x where x.wrong),
    0::bigint, 'in the order of each key');
select gd_pause_queue('old');
select gd_set_queue('old', '{"limit": 100}');
select is_empty($$select * from t.take('old', 10)$$, 'a paused queue stays paused');
select gd_resume_queue('old');
select is((select count(*) from t.take('old', 100)), 8::bigint, 'and goes on');

-- sleeping

select gd_set_queue('slp', '{"limit": 1}');
select count(gd_insert('m', p_queue => 'slp')) from generate_series(1, 2);
select gd_insert('m', p_queue => 'slp', p_delay => '20 seconds') as _ \gset
select ok((select s.next_due from gd_sleep('w', '{slp}') s) < clock_timestamp() + interval '1 second',
    'while claims may be under way that do not know of the limit, it is looked again soon');
select count(*) from t.take('slp');
select count(*) from t.take('slp');
select count(*) from t.take('slp');
select is((select s.next_due from gd_sleep('w', '{slp}') s), null, 'a full queue: nothing that becomes due is worth a claim');
select t.run('slp', '{"kind": "done"}');
select t.put(v.id, '{"kind": "done"}') from gd_instances v where v.queue = 'slp' and v.status = 'executing';
select is((select date_trunc('minute', s.next_due - clock_timestamp() + interval '30 seconds') from gd_sleep('w', '{slp}') s), '00:00',
    'one with room: the next row that becomes due');
select gd_wake('w');

-- what is refused

select t.raises($$select gd_set_queue('', '{}')$$, 'GD501', 'an empty name');
select t.raises($$select gd_set_queue(null, '{}')$$, 'GD501', 'no name');
select t.raises($$select gd_set_queue('q', '{"limit": -1}')$$, 'GD501', 'a negative limit');
select t.raises($$select gd_set_queue('q', '{"limit": 1.5}')$$, 'GD501', 'a broken one');
select t.raises($$select gd_set_queue('q', '{"limit": "3"}')$$, 'GD501', 'a text');
select t.raises($$select gd_set_queue('q', '{"limit": 1e300}')$$, 'GD501', 'too much');
select t.raises($$select gd_set_queue('q', '{"limits": 1}')$$, 'GD501', 'an unknown option');
select t.raises($$select gd_set_queue('q', '[]')$$, 'GD501', 'no object');
select lives_ok($$select gd_set_queue('q', null), gd_set_queue('q', '{}')$$, 'no options are none');
select is((select count(*) from gd_queues q where q.queue = 'q'), 0::bigint, '(nothing was set)');
select gd_set_queue('q', '{"limit": 2147483647}');
select is((select q.due from gd_queues q where q.queue = 'q'), 0::bigint, 'a queue without rows that has a limit is seen');
set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_set_queue('q', '{}')$$, 'GD504', 'under REPEATABLE READ');
set default_transaction_isolation = 'read committed';

select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
