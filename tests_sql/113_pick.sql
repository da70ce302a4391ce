\ir helpers/tap.psql
select no_plan();

-- The short way of a claim: what it takes and writes is what the long way would; whatever it does not look after goes that way.

-- What a next claim of the queue would take by the short way; null: it goes the long way.
create function pg_temp.short(p_queue text, p_limit bigint, p_memory jsonb = gendurable._recall_memory()) returns bigint[]
language plpgsql as $$
declare
    v_floor constant text := current_setting('gendurable.floor', true);
    v_ids constant bigint[] := (select p.ids from gendurable._pick_plain(p_queue, 0, p_limit, p_memory) p);
begin
    perform set_config('gendurable.floor', v_floor, false);
    return v_ids;
end $$;
create function pg_temp.may(p_queue text) returns boolean language sql as $$
    select gendurable._recall_memory() #>> array[p_queue, '', '4'] is not null
$$;
create function pg_temp.put_in(p_queue text, p_count int, p_more jsonb = '{}') returns bigint[] language sql as $$
    select array_agg(n.id order by n.ord)
    from gd_insert_many((
        select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', p_queue, 'step', lpad(n::text, 3, '0')) || p_more order by n)
        from generate_series(1, p_count) n)) n
$$;

select set_config('gendurable.floor', '', false);
select pg_temp.put_in('q', 60) as ids \gset
select is(pg_temp.may('q'), false, 'a session that knows nothing goes the long way');
select is((select array_agg(c.id) from gd_claim('long', 'q', 3) c), (:'ids'::bigint[])[1:3], 'so does its first claim');
select is(pg_temp.may('q'), true, 'which met plain rows alone');
select is(pg_temp.short('q', 4), (:'ids'::bigint[])[4:7], 'so the next may go the short way');
select is((select array_agg(c.id) from gd_claim('short', 'q', 2) c), (:'ids'::bigint[])[4:5], 'as it does');
select is(
    (select array_agg(c.id) from gd_claim_many('short', '{"q": 1}', '60 seconds', '{"ahead": {"q": 3}}') c), (:'ids'::bigint[])[6:9],
    'with those that are ahead');
select is(
    (select array_agg(distinct to_jsonb(i) - '{id,claim_no,lease_expires_at,updated_at,inserted_at,eligible_at,worker,step}'::text[])
        from gendurable.instance i where i.queue = 'q' and i.status = 'executing'),
    (select array[to_jsonb(i) - '{id,claim_no,lease_expires_at,updated_at,inserted_at,eligible_at,worker,step}'::text[]]
        from gendurable.instance i where i.id = (:'ids'::bigint[])[1]),
    'both write the same');
select is(
    (select count(*) from gendurable.instance i
    where i.queue = 'q' and i.worker = 'short' and i.claim_no = gendurable._epoch_us(i.updated_at)
        and i.lease_expires_at = i.updated_at + interval '60 seconds'), 6::bigint,
    'a lease and a number from the time of the claim');

-- the memory

select ok(
    (gendurable._recall_memory() #>> '{q,0,1,0}')::bigint
    <= gendurable._epoch_us(clock_timestamp()) - gendurable._floor_margin_us(), 'its floor stays its margin behind');
update gendurable.instance i set eligible_at = i.eligible_at - interval '1 minute' where i.queue = 'q' and i.status = 'runnable';
select set_config('gendurable.floor', '', false);
select (select array_agg(c.id) from gd_claim('w', 'q', 2) c) = (:'ids'::bigint[])[10:11] as long,
    (select array_agg(c.id) from gd_claim('w', 'q', 2) c) = (:'ids'::bigint[])[12:13] as short;
select is(
    gendurable._recall_memory() #> '{q,0,1}',
    (select jsonb_build_array(gendurable._epoch_us(i.eligible_at), i.id) from gendurable.instance i where i.id = (:'ids'::bigint[])[13]),
    'and is the last row that was taken, where that is older');
select is(
    pg_temp.short('q', 1, jsonb_set(gendurable._recall_memory(), '{q,0,2}', '0')), null, 'not where a full scan is due');
select is(
    pg_temp.short('q', 1, jsonb_set(gendurable._recall_memory(), '{"",0}', to_jsonb(gendurable._epoch_us(now() + interval '1 minute')))),
    null, 'nor where the clock was set back');
select is(pg_temp.short('q', 0), null, 'nor for nothing');
select is(pg_temp.short('q', 1001), null, 'nor for very many');
select is(pg_temp.short('q', 100), null, 'nor where not as many are due as are wanted');
set client_encoding = 'LATIN1';
select is(pg_temp.short('q', 1), null, 'nor where texts may not be carried');
reset client_encoding;
select is(pg_temp.short('q', 1), (:'ids'::bigint[])[14:14], 'nothing of this has changed anything');

-- rows that are not plain: each column that makes one so

create function pg_temp.odd(p_id bigint, p_set text) returns boolean language plpgsql as $$
declare
    v_ids bigint[];
    v_other bigint[];
begin
    alter table gendurable.instance drop constraint instance_is_whole;
    execute format('update gendurable.instance set %s where id = %s', p_set, p_id);
    -- it is the second one
    v_ids := pg_temp.short('q', 2);
    v_other := pg_temp.short('q', 1);
    raise exception using errcode = 'TT001', message = (v_ids is null and v_other is not null)::text;
exception when sqlstate 'TT001' then
    return sqlerrm::boolean;
end $$;
select is(pg_temp.odd((:'ids'::bigint[])[15], s), true, 'not a row with ' || s)
from unnest(array[
    'partition_key = ''k''', 'unique_scope = ''{runnable}''', 'rate_limit = ''r''', 'expires_at = now() + interval ''1 day''',
    'timeout_at = now() + interval ''1 day''', 'crashes = 3', 'awaits = ''{a}''', 'deadline_at = now()', 'shown = ''{}''',
    'children_pending = 0', 'status = ''awaiting_signal''', 'status = ''executing'', worker = ''w'', lease_expires_at = now()',
    'state = jsonb_build_object(''a'', (select string_agg(md5(g::text), '''') from generate_series(1, 1000) g))',
    'meta = jsonb_build_object(''a'', (select string_agg(md5(g::text), '''') from generate_series(1, 1000) g))',
    'state = jsonb_build_object(''a'', repeat(''ab'', 20000))']) s;
select is(pg_temp.odd((:'ids'::bigint[])[15], s), false, 'but one with ' || s)
from unnest(array[
    'attempt = 2', 'crashes = 2', 'unique_key = ''u''', 'attributes = ''{"a": 1}''', 'parent_id = 1', 'max_attempts = 1',
    'state = ''{"n": 1}''']) s;
select gd_signal((:'ids'::bigint[])[15], 'hello');
select is(pg_temp.short('q', 2), null, 'nor a row with a signal');
select is(pg_temp.short('q', 1), (:'ids'::bigint[])[14:14], 'one before it is');
select is(
    (select array_agg(c.id || ' ' || jsonb_array_length(c.signals) order by c.id) from gd_claim('w', 'q', 2) c),
    array[(:'ids'::bigint[])[14] || ' 0', (:'ids'::bigint[])[15] || ' 1'], 'the long way hands both out');
select is(pg_temp.may('q'), false, 'and the next claim goes it, too');
select count(*) from gd_claim('w', 'q', 1);
select is(pg_temp.may('q'), true, 'until it has met plain ones alone');

-- what comes before them

select is(pg_temp.short('q', 1), (:'ids'::bigint[])[17:17], 'nothing is before it');
begin;
update gendurable.instance i set woken = 0, eligible_at = now() - interval '1 ms' where i.id = (:'ids'::bigint[])[30];
select is(pg_temp.short('q', 1), null, 'not where a lifted row is due');
update gendurable.instance i set eligible_at = now() + interval '1 day' where i.id = (:'ids'::bigint[])[30];
select is(pg_temp.short('q', 1), (:'ids'::bigint[])[17:17], 'one that is not due is in nobody''s way');
rollback;
select gd_insert('m', p_queue => 'q', p_priority => -1) as urgent \gset
select is(pg_temp.short('q', 1), null, 'nor where there is an earlier priority');
select is((select array_agg(c.id) from gd_claim('w', 'q', 2) c), array[:urgent, (:'ids'::bigint[])[17]], 'which comes first');
select is(pg_temp.may('q'), false, 'a claim of two priorities says nothing of the next');
select t.put(:urgent, '{"kind": "done"}');
select count(*) from gd_claim('w', 'q', 1);
select count(*) from gd_claim('w', 'q', 1);
select is(pg_temp.may('q'), true, 'one of a priority does, when the other is forgotten');

-- what is special anywhere

begin;
select gd_pause_queue('elsewhere');
select is(pg_temp.short('q', 1), null, 'not where something is paused');
rollback;
begin;
select gd_hold_all('a test');
select is(pg_temp.short('q', 1), null, 'nor where all is held');
rollback;
begin;
select gd_set_queue('elsewhere', '{"limit": 1}');
select is(pg_temp.short('q', 1), null, 'nor where a queue has a limit');
rollback;
begin;
select gd_register('timed', 1, 'a', 'elsewhere', '{"timeouts": {"a": 1000}}');
select is(pg_temp.short('q', 1), null, 'nor where a step has a timeout');
rollback;
select is(pg_temp.short('q', 1), (:'ids'::bigint[])[20:20], 'and again where nothing is');

-- what was written in the same transaction stands elsewhere, and is found

begin;
update gendurable.instance i set state = '{"n": 2}' where i.id = (:'ids'::bigint[])[20];
select is((select c.state from gd_claim('w', 'q', 1) c), '{"n": 2}', 'a row that this transaction has written');
rollback;

-- what claims one after the other take is the same either way: of plain rows, delayed ones, priorities, signals and large states

create temp table seen (o int generated always as identity, way text, step text);
do $$
declare
    v_rows constant jsonb := (
        select jsonb_agg(jsonb_build_object(
            'fsm', 'm', 'step', 's' || g, 'priority', case when g % 40 in (7, 8) then -1 when g % 23 = 0 then 1 else 0 end,
            'eligible_at', '2020-01-01'::timestamptz + (g % 50) * interval '1 second',
            'state', case when g % 61 = 0 then jsonb_build_object('a', repeat('a', 10000)) else '{}' end) order by g)
        from generate_series(1, 400) g);
    v_limits constant int[] := '{1,1,5,20,1,2,40,3}';
    v_way text;
    v_count int;
begin
    foreach v_way in array '{long,short}'::text[] loop
        perform gd_insert_many((select jsonb_agg(r || jsonb_build_object('queue', v_way)) from jsonb_array_elements(v_rows) r));
        perform gd_signal(i.id, 'x') from gendurable.instance i where i.queue = v_way and i.step in ('s33', 's34', 's300');
        perform set_config('gendurable.floor', '', false);
        for v_at in 0 .. 1000 loop
            if v_way = 'long' then
                perform set_config('gendurable.floor', '', false);
            end if;
            insert into seen (way, step) select v_way, c.step from gd_claim('w', v_way, v_limits[1 + v_at % 8]) c;
            get diagnostics v_count = row_count;
            exit when v_count = 0;
        end loop;
    end loop;
end $$;
select is((select count(distinct s.step) from seen s where s.way = 'short'), 400::bigint, 'all rows, each once');
select is(
    (select array_agg(s.step order by s.o) from seen s where s.way = 'short'),
    (select array_agg(s.step order by s.o) from seen s where s.way = 'long'), 'in the same order');

select * from finish();
