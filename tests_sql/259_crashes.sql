\ir helpers/tap.psql
select no_plan();

-- a loss of all that one worker executes in a queue
create function t.lose(p_queue text) returns void
language plpgsql as $$
begin
    perform t.take(p_queue, 100);
    perform gd_release('w', (select jsonb_agg(jsonb_build_array(v.id, i.claim_no))
        from gd_instances v join gendurable.instance i on i.id = v.id where v.queue = p_queue and v.status = 'executing'), p_crashed => true);
end $$;

select is_empty('select * from gd_crashes()', 'nothing has lost a worker');
select gd_insert('m', p_queue => 'qa') as a \gset
select gd_insert('m', p_queue => 'qa') as b \gset
select t.lose('qa');
select t.lose('qa');
select results_eq('select c.id, c.crashes, c.lost, c.exact from gd_crashes() c order by c.id',
    format('values (%s::bigint, 2, 2::bigint, true), (%s::bigint, 2, 2::bigint, true)', :a, :b), 'both have lost theirs twice');

-- one of them goes on
select t.run('qa', '{"kind": "next", "step": "two"}') as went \gset
select t.lose('qa');
select results_eq('select c.crashes, c.lost from gd_crashes() c', 'values (3, 3::bigint), (1, 3::bigint)', 'the one with the most in a row is first');
select is((select c.id from gd_crashes(p_limit => 1) c), case when :went = :a then :b else :a end::bigint, 'as many as are asked for');
select is((select c.worker from gd_crashes() c limit 1), 'w', 'with the worker that had it');
select is((select c.step from gd_crashes() c where c.id = :went), 'two', 'and the step at which it is now');
select is((select (sum(c.lost), bool_or(c.exact)) from gd_crashes(p_look => 3) c), (3::numeric, false), 'a bounded look says so');
select is_empty('select * from gd_crashes(clock_timestamp())', 'since then none');
select ok((select c.first_at < c.last_at from gd_crashes() c limit 1), 'from when to when');

-- other errors are none
select gd_insert('m', p_queue => 'qb') as e \gset
select t.run('qb', '{"kind": "error", "error": "no"}') is not null as x;
select is_empty(format('select * from gd_crashes() c where c.id = %s', :e), 'an error is no loss');

-- with the instance its losses go
select gd_cancel(:went), gd_delete(:went);
select is((select count(*) from gd_crashes()), 1::bigint, 'what is gone is not told');
select t.raises('select * from gd_crashes(p_look => 0)', 'GD501', 'no look');
select t.raises('select * from gd_crashes(p_limit => -1)', 'GD501', 'fewer than none');
select is((select count(*) from gd_crashes(null, null, null)), 1::bigint, 'null: the default');

-- the doctor speaks of those that lose theirs again and again

create function t.doctor() returns text
language sql as $$
    select d.level || ' ' || d.message from gd_doctor() d where d."check" = 'crashes'
$$;

select gd_cancel(v.id) from gd_instances v where v.status = 'runnable';
select is(t.doctor(), 'ok nothing loses its worker again and again', 'what has ended is no matter');
select gd_insert('m', p_queue => 'qd') as d \gset
select t.lose('qd'), t.lose('qd');
select matches(t.doctor(), '^ok', 'twice is chance');
select t.lose('qd');
select is(t.doctor(), format('warning instances lose their worker again and again, up to 3 times in a row: %s', :d), 'three times is not');
select count(gd_insert('m', p_queue => 'qe')) from generate_series(1, 24);
select t.lose('qe'), t.lose('qe'), t.lose('qe');
select matches(t.doctor(), ' and 22 more$', 'of many it says how many they are');
select is((select jsonb_array_length(d.detail -> 'crashes') from gd_doctor() d where d."check" = 'crashes'), 20, 'and tells of the first');
update gendurable.error set at = at - interval '2 hours';
select matches(t.doctor(), '^ok', 'what was long ago is no matter');

select * from finish();
