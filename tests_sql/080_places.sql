\ir helpers/tap.psql
select no_plan();

-- Rows are found by the places that were seen when they were locked. A place that is not theirs any more makes it slower, and
-- nothing else.

-- with the settings of gd_claim, under which the rows come in the order of the ids
create function pg_temp.claims(p_places tid[]) returns setof text language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_ids constant bigint[] := array(select i.id from gendurable.instance i where i.queue = 'places' order by i.id);
begin
    return query select c.step from gendurable._to_executing_bare('w', v_ids, p_places, clock_timestamp(), '60 seconds') c;
    update gendurable.instance i set status = 'runnable', worker = null, lease_expires_at = null where i.id = any(v_ids);
end $$;
create function pg_temp.places() returns tid[] language sql as $$
    select array_agg(i.ctid order by i.id) from gendurable.instance i where i.queue = 'places'
$$;

select count(*) from gd_insert_many(
    (select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', 'places', 'step', s)) from unnest('{a,b,c}'::text[]) s));
select pg_temp.places() as old \gset
select results_eq(
    format('select * from pg_temp.claims(%L)', :'old'), $$values ('a'), ('b'), ('c')$$, 'by their places');
select isnt(pg_temp.places()::text, :'old', '(which are others then)');
select results_eq(
    format('select * from pg_temp.claims(%L)', :'old'), $$values ('a'), ('b'), ('c')$$, 'by those of dead versions');
select results_eq(
    format('select * from pg_temp.claims(%L)', (
        select array_agg(p order by n desc) from unnest(pg_temp.places()) with ordinality u (p, n))),
    $$values ('b'), ('a'), ('c')$$, 'by each other''s: what stands elsewhere comes last');
select results_eq(
    $$select * from pg_temp.claims(array['(4294967290,1)', null, '(0,60000)']::tid[])$$,
    $$values ('a'), ('b'), ('c')$$, 'by what is no place');
select results_eq('select * from pg_temp.claims(null)', $$values ('a'), ('b'), ('c')$$, 'by none');

-- commits: with what writes a row between its lock and its outcome, and with outcomes that fall out of the batch

select count(*) from gd_insert_many((
    select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', 'scoped', 'step', 's' || n, 'unique_key', 'p' || n,
        'unique_scope', '["executing"]'::jsonb)) from generate_series(1, 4) n));
create temp table held as select id, claim_no, step from gd_claim('w', 'scoped', 4);
select is((select count(*) from held), 4::bigint, 'four are claimed');
select results_eq(
    $$select c.result from held h right join gd_commit('w', (
        select jsonb_agg(o order by n) from (
            select row_number() over (order by h.id desc) * 2 as n,
                jsonb_build_object('id', h.id, 'claim_no', h.claim_no, 'kind', 'next', 'step', h.step || '+') as o
            from held h
            union all
            select 3, jsonb_build_object('id', h.id, 'claim_no', h.claim_no - 1, 'kind', 'next', 'step', 'stale') from held h
            where h.step = 's4'
            union all
            select 5, '{"id": "x"}'
        ) x)) c on h.id = c.id and c.result = 'ok' order by c.ord$$,
    $$values ('ok'), ('stale'), ('ok'), ('rejected'), ('ok'), ('ok')$$, 'in any order, with others between them');
select is_empty(
    $$select from held h join gd_instances v using (id) where v.step <> h.step || '+' or v.status <> 'runnable'$$,
    'each has its own outcome');

-- what was written between its lock and its outcome, or is elsewhere for any other reason

select count(*) from gd_insert_many((
    select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', 'moved', 'step', 's' || n)) from generate_series(1, 5) n));
create temp table taken as select row_number() over (order by id) as n, id, claim_no from gd_claim('w', 'moved', 5);
create function pg_temp.write(p_places tid[]) returns text
language sql as $$
    select w.ended::text || ' ' || w.done::text || ' ' || coalesce(w.queues::text, '-') || ' ' || coalesce(w.answers::text, '-')
    from (select jsonb_agg(jsonb_build_object('id', t.id, 'claim_no', t.claim_no) || case
            when t.n < 4 then '{"kind": "done"}' else '{"kind": "next", "step": "more", "keep": true}' end::jsonb order by t.n) as all,
            array_agg(t.id order by t.n) as ids
        from taken t) o
    cross join lateral gendurable._write_outcomes('w', gendurable._parse_outcomes(o.all, now()), o.ids[4:5], false, '{}', '60 seconds', now(), p_places) w
$$;
select array_agg(i.ctid order by i.id) as places from taken join gendurable.instance i on i.id = taken.id \gset
begin;
select pg_temp.write(:'places') as by_place \gset
rollback;
begin;
select pg_temp.write(null) as by_id \gset
rollback;
select is(:'by_id'::text, :'by_place'::text, 'by ids as by their places');
begin;
select pg_temp.write(array['(4294967290,1)', null, (:'places'::tid[])[3], (:'places'::tid[])[5], (:'places'::tid[])[4]]::tid[]) as mixed \gset
select set_eq('select i.step || i.status from taken join gendurable.instance i using (id)', array['s1done', 's2done', 's3done', 'moreexecuting'],
    'all are written where only some stand where they stood');
rollback;
create function pg_temp.sorted(p_text text) returns text
language sql as $$ select string_agg(w, ' ' order by w) from regexp_split_to_table(p_text, '[^0-9a-z]+') w $$;
select is(pg_temp.sorted(:'mixed'), pg_temp.sorted(:'by_place'), 'and it is said of all what has become of them');

-- outcomes that it cannot tell apart, or whose rows are not there: all are written, or none and it says so

create function pg_temp.wrong(p_ids bigint[], p_ords int[], p_places tid[]) returns text
language sql as $$
    select w.ended::text
    from (
        select array_agg(gendurable._outcome(
            p_ord => u.ord, p_id => u.id, p_claim_no => 1, p_kind => 'done', p_status => 'done', p_ends => true) order by u.n) as all
        from unnest(p_ids, p_ords) with ordinality u (id, ord, n)
    ) o
    cross join lateral gendurable._write_outcomes('w', o.all, '{}', false, '{}', '60 seconds', now(), p_places) w
$$;
select array_agg(id order by n) as ids, array_agg(id order by n) || 0::bigint as more from taken where n < 4 \gset
select throws_ok(format('select pg_temp.wrong(%L, ''{0,0,0}'', null)', :'ids'), 'P0004', null, 'one ord for all');
select throws_ok(format('select pg_temp.wrong(%L, ''{0,0,0}'', %L)', :'ids', :'places'), 'P0004', null, 'with their places');
select throws_ok(format('select pg_temp.wrong(%L, ''{0,1,2,3}'', null)', :'more'), 'P0004', null, 'no such row');
select throws_ok(format('select pg_temp.wrong(%L, ''{0,1,2,3}'', %L)', :'more', :'places'), 'P0004', null, 'with their places');
select is(pg_temp.wrong(:'ids', '{0,1,2}', null), :'ids', 'each with its own');

select * from finish();
