\ir helpers/tap.psql
select no_plan();

-- The numbers of what a filter finds, in the order of the list; walked in pages of p_limit, p_look at a time.
create function t.listed(p_filter jsonb, p_limit int = 100, p_look int = 20000) returns text
language plpgsql as $$
declare
    v_text text := '';
    v_after jsonb;
    v_pages int := 0;
    v_one record;
    v_rows int;
begin
    loop
        v_rows := 0;
        for v_one in
            select l.*, v.meta ->> 'n' as n
            from gd_list(p_filter, v_after, p_limit, p_look) with ordinality l
            left join gd_instances v on v.id = l.id
            order by l.ordinality
        loop
            v_rows := v_rows + 1;
            v_after := v_one.cursor;
            v_text := v_text || coalesce(v_one.n, '') || case when v_one.id is null then '' else ' ' end;
        end loop;
        v_pages := v_pages + 1;
        -- a full page, or a row that only says where to go on
        exit when v_rows = 0 or (v_rows < p_limit and v_one.id is not null);
        if v_pages > 1000 then
            raise exception 'this does not end';
        end if;
    end loop;
    return rtrim(v_text);
end $$;

select is(t.listed('{}'), '', 'nothing is there');
select is((select (c.count, c.exact) from gd_count() c), (0::bigint, true), '(counted)');

select gd_insert('fa', p_queue => 'fq1', p_partition_key => 'tenant:1', p_meta => '{"n": "a", "tags": {"x": 1}}') as a \gset
select gd_insert('fb', p_queue => 'fq1', p_partition_key => 'tenant:2', p_unique_key => 'order:7', p_meta => '{"n": "b"}') as b \gset
select gd_insert('fa', p_queue => 'fq2', p_unique_key => 'order:8', p_delay => '1 hour', p_meta => '{"n": "c"}') as c \gset
select gd_insert('fa', p_queue => 'fq3', p_meta => '{"n": "d"}') as d \gset
select t.run('fq3', '{"kind": "stop", "reason": "no route to 100% of hosts"}');
select gd_insert('fb', p_queue => 'fq3', p_meta => '{"n": "e"}') as e \gset
select t.run('fq3', '{"kind": "await", "step": "s", "signals": ["paid"]}');
select gd_insert('fb', p_queue => 'fq4', p_partition_key => 'tenant:1', p_priority => -1, p_unique_key => 'order:7b', p_meta => '{"n": "f"}') as f \gset
select t.run('fq4', '{"kind": "done"}');
select gd_insert('fa', p_queue => 'fq5', p_partition_key => 'tenant:1', p_unique_key => 'order:7b', p_meta => '{"n": "g"}') as g \gset
select gd_insert('fp', p_queue => 'fq6', p_meta => '{"n": "h"}') as h \gset
select t.run('fq6', '{"kind": "schedule_childs", "step": "s",
    "childs": [{"fsm": "fc", "queue": "fq7", "meta": {"n": "i"}}, {"fsm": "fc", "queue": "fq7", "meta": {"n": "j"}}]}');
select gd_cancel(:c, 'not needed');
select count(*) from gd_claim('w', 'fq7', 1);
select gd_set_rate_limit('l', 0, null, 1);
select gd_schedule('s', '@daily', 'm');

create temp table asked (filter jsonb, found text) on commit preserve rows;
insert into asked values
    ('{}', 'j i h g f e d c b a'),
    ('{"fsm": "fa"}', 'g d c a'),
    ('{"fsm": "fa", "queue": "fq1"}', 'a'),
    ('{"status": "failed"}', 'd'),
    ('{"status": ["cancelled", "failed"]}', 'c d'),
    ('{"status": ["cancelled", "failed"], "fsm": "fa"}', 'c d'),
    ('{"status": ["cancelled", "failed"], "fsm": "fb"}', ''),
    ('{"status": "failed", "error": "100% of"}', 'd'),
    ('{"status": "failed", "error": "200% of"}', ''),
    ('{"status": ["cancelled", "failed"], "finished_after": "2000-01-01T00:00:00Z"}', 'c d'),
    ('{"status": ["cancelled", "failed"], "finished_before": "2000-01-01T00:00:00Z"}', ''),
    ('{"status": ["cancelled", "failed"], "finished_after": "2100-01-01T00:00:00Z", "fsm": "fa"}', ''),
    ('{"status": "done"}', 'f'),
    ('{"status": ["done", "failed"]}', 'f d'),
    ('{"status": "runnable"}', 'j g b a'),
    ('{"status": "runnable", "queue": "fq1"}', 'b a'),
    ('{"status": "awaiting_signal", "queue": "fq3"}', 'e'),
    ('{"status": ["awaiting_children", "executing"]}', 'i h'),
    ('{"worker": "w"}', 'i'),
    ('{"partition_key": "tenant:1"}', 'g f a'),
    ('{"partition_key": "tenant:1", "status": "done"}', 'f'),
    ('{"partition_prefix": "tenant:"}', 'g f b a'),
    ('{"unique_key": "order:7"}', 'b'),
    ('{"unique_key": "order:7b"}', 'g f'),
    ('{"unique_key": "order:9"}', ''),
    ('{"unique_prefix": "order:7"}', 'g f b'),
    ('{"meta": {"tags": {"x": 1}}}', 'a'),
    ('{"due_before": "2100-01-01T00:00:00Z"}', 'j i g b a'),
    ('{"inserted_before": "2000-01-01T00:00:00Z"}', ''),
    ('{"stuck_for_ms": 3600000}', '');
insert into asked
select jsonb_build_object('id', jsonb_build_array(:a, :d, :d, 0, :g)), 'g d a'
union all
select jsonb_build_object('id', :e), 'e'
union all
select jsonb_build_object('parent_id', :h), 'j i'
union all
select jsonb_build_object('parent_id', :h, 'status', 'executing'), 'i'
union all
select jsonb_build_object('parent_id', :a), '';
select is(t.listed(a.filter), a.found, a.filter::text) from asked a;
-- whatever a page holds, and however little a call looks at
select is(t.listed(a.filter, x.size, x.look), a.found, format('%s: %s a page, %s a look', a.filter, x.size, x.look))
from asked a
cross join (values (1, 20000), (2, 20000), (1, 1), (2, 1), (100, 1), (100, 2), (3, 3)) x (size, look);
select is(
    (select (c.count, c.exact) from gd_count(a.filter) c),
    (cardinality(string_to_array(a.found, ' '))::bigint, true), format('%s: counted', a.filter))
from asked a;
-- gd_match means the same
select set_eq(
    format('select unnest(ids) from gd_match(%L)', a.filter), format('select id from gd_list(%L)', a.filter), format('%s: matched', a.filter))
from asked a;

-- counting ends somewhere
select is((select (c.count, c.exact) from gd_count('{}', 3) c), (3::bigint, false), 'up to so many');
select is((select (c.count, c.exact) from gd_count('{}', 100, 4) c), (4::bigint, false), 'of so many that are looked at');
select is((select (c.count, c.exact) from gd_count('{"fsm": "none"}', 100, 4) c), (0::bigint, false), 'also where none fits');
select is((select count(*) from gd_list('{"fsm": "none"}', null, 100, 4) l where l.id is null and l.cursor is not null), 1::bigint,
    'a list that stops early says where to go on');
select is((select l.last_error from gd_list('{"status": "cancelled"}') l), 'not needed', 'with its error');
update gendurable.instance set last_error = repeat('y', 600) where id = :d;
select is((select length(l.last_error) from gd_list('{"status": "failed"}') l), 500, 'which is cut');

-- those that failed come by the time of their end
update gendurable.instance set finished_at = now(), failed_at = now() where id = :d;
select is(t.listed('{"status": ["cancelled", "failed"]}'), 'd c', 'who failed last is first');
update gendurable.instance set finished_at = '2026-01-01Z', failed_at = '2026-01-01Z' where id in (:c, :d);
select is(t.listed('{"status": ["cancelled", "failed"]}', 1), 'd c', 'at the same time: by id');
select is(t.listed('{"status": ["cancelled", "failed"], "finished_before": "2026-01-01T00:00:00Z"}', 1), '', 'before that: none');
select is(t.listed('{"status": ["cancelled", "failed"], "finished_after": "2026-01-01T00:00:00Z"}', 1), 'd c', 'from then on: both');
select gd_retry(:d);
select is(t.listed('{"status": ["cancelled", "failed"]}'), 'c', 'who runs again has not failed');

-- bad calls
select t.raises($$select * from gd_list('{"fsmm": "a"}')$$, 'GD501', 'an unknown filter');
select t.raises($$select * from gd_list('{}', '{"id": "x"}')$$, 'GD501', 'no cursor');
select t.raises($$select * from gd_list('{}', '[1]')$$, 'GD501', 'nor this');
select t.raises($$select * from gd_list('{"status": "failed"}', '{"id": 1}')$$, 'GD501', 'the cursor of another filter');
select t.raises($$select * from gd_list('{"status": "failed"}', '{"id": 1, "failed_us": 1e30}')$$, 'GD501', 'beyond all time');
select is_empty($$select * from gd_list('{}', null, 0)$$, 'an empty page');
select t.raises($$select * from gd_list('{}', null, -1)$$, 'GD501', 'less than that');
select t.raises($$select * from gd_list('{}', null, 1, 0)$$, 'GD501', 'a look at nothing');
select t.raises($$select * from gd_count('{}', 0)$$, 'GD501', 'counting to nothing');

-- what has ended in a time is found by that, also what is kept for a time of its own, and children of a barrier

select gd_insert('le', p_queue => 'leq', p_meta => jsonb_build_object('n', g)) from generate_series(1, 4) g;
select gd_register('lk', 1, 'start', 'leq', '{"retain": {"done": 3600000}}');
select gd_insert('lk', p_meta => '{"n": "k"}');
select gd_insert('lp', p_queue => 'leq', p_meta => '{"n": "p"}', p_priority => -1) as lp \gset
select t.run('leq', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "lc", "queue": "leq", "meta": {"n": "c"}},
    {"fsm": "lc", "queue": "far"}]}');
select clock_timestamp() as began \gset
select t.run('leq', '{"kind": "done"}') from generate_series(1, 6);
select count(gd_insert('late', p_queue => 'later')) from generate_series(1, 100);
select is(t.listed(jsonb_build_object('finished_after', :'began'), 100, 10), 'c k 4 3 2 1', 'all of them, though the newest 10 instances are others');
select is((select (c.count, c.exact) from gd_count(jsonb_build_object('finished_after', :'began'), p_look => 10) c), (6::bigint, true), '(counted)');
select is(t.listed(jsonb_build_object('finished_after', :'began', 'fsm', 'lk'), 100, 10), 'k', 'with other filters');
select is(t.listed(jsonb_build_object('finished_after', :'began', 'finished_before', :'began')), '', 'of no time none');
select is((select c.exact from gd_count(jsonb_build_object('finished_after', :'began'), p_look => 5) c), false,
    'more than are looked at: among the newest, and it says so');
select is(t.listed(jsonb_build_object('finished_after', :'began'), 100, 5), 'c k 4 3 2 1', 'page by page they are found all the same');

select * from finish();
