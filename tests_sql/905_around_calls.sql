-- Calls under settings and arguments of others: what they mean does not change, what is not meant is refused.
\ir helpers/tap.psql
select no_plan();

-- a delay is so many seconds, whatever the clocks of the session's zone do meanwhile

create temp table off as
select z.zone, d.days, null::numeric as seconds
from unnest('{UTC,Europe/Berlin,America/New_York,Australia/Lord_Howe}'::text[]) z (zone)
cross join generate_series(30, 330, 60) d (days);
create procedure pg_temp.insert_all() language plpgsql as $$
declare
    r record;
    v_id bigint;
begin
    for r in select o.zone, o.days from off o loop
        perform set_config('TimeZone', r.zone, true);
        v_id := public.gd_insert('m', p_queue => 'dst', p_delay => make_interval(days => r.days));
        update off o set seconds = extract(epoch from i.eligible_at - i.inserted_at)
        from public.gd_instances i where i.id = v_id and o.zone = r.zone and o.days = r.days;
    end loop;
end $$;
call pg_temp.insert_all();
select is_empty($$select * from off where seconds is distinct from days * 86400$$, 'a day is 24 hours in every zone');
set timezone = 'Europe/Berlin';
select n.id from gd_insert_many('[{"fsm": "m", "delay_ms": 12960000000}]') n \gset
select is(
    (select extract(epoch from i.eligible_at - i.inserted_at)::bigint from gd_instances i where i.id = :id), 12960000::bigint,
    'and so many milliseconds are so many');
select t.raises($$select gd_insert('m', p_delay => '290000 years')$$, 'GD501', 'a delay past all times');
select t.raises($$select gd_insert_many('[{"fsm": "m", "delay_ms": 1e400}]')$$, 'GD501', 'many: a delay past all numbers');
select t.raises($$select gd_insert_many('[{"fsm": "m", "weight": 1e400}]')$$, 'GD501', 'many: a weight past all numbers');
select t.raises($$select gd_insert_many('[{"fsm": "m", "version": 1e400}]')$$, 'GD501', 'many: a version past all numbers');
select t.raises($$select gd_insert_many('[{"fsm": "m", "version": true}]')$$, 'GD501', 'many: a version that is true');
select t.raises($$select gd_insert_many('[{"fsm": "m", "delay_ms": false}]')$$, 'GD501', 'many: a delay that is false');
select t.raises(
    $$select gd_insert_many('[{"fsm": "m", "unique_key": "k", "unique_scope": [["done"]]}]')$$, 'GD501', 'many: a nested scope');
select t.raises($$select gd_insert_many('[[{"fsm": "m"}]]')$$, 'GD501', 'many: a nested array');

-- a time in JSON says what it means by itself

set datestyle = 'SQL, DMY';
create temp table timed as select n.ord, n.id from gd_insert_many(
        '[{"fsm": "m", "eligible_at": "2031-05-06T07:08:09Z"}, {"fsm": "m", "eligible_at": "2031-05-06 07:08:09.5+02"},
          {"fsm": "m", "eligible_at": "2031-05-06T07:08+05:30"}, {"fsm": "m", "eligible_at": "10000-01-01T00:00:00+0000"},
          {"fsm": "m", "eligible_at": "0001-01-01T00:00:00Z"}]') n;
select is(
    (select array_agg(extract(epoch from i.eligible_at)::bigint order by n.ord) from timed n join gd_instances i on i.id = n.id),
    array[1935817689, 1935810490, 1935797880, 253402300800, -62135596800], 'ISO 8601 with a zone is read as it is');
select t.raises(format($$select gd_insert_many('[{"fsm": "m", "eligible_at": "%s"}]')$$, v.text), 'GD501', 'not: ' || v.text)
from unnest(
    '{2031-05-06,2031-05-06T07:08:09,06/05/2031 07:08 UTC,tomorrow,now,infinity,epoch,05.06.2031}'::text[]
    || '{2031-05-06T07:08:09 Europe/Berlin,20310506T070809Z}'::text[]) v (text);
select t.raises($$select gd_insert_many('[{"fsm": "m", "eligible_at": 5}]')$$, 'GD501', 'nor a number');
create temp table mortal as select n.ord, n.id from gd_insert_many(
        '[{"fsm": "m", "expires_at": "2031-05-06T07:08:09Z"}, {"fsm": "m", "expires_at": "10000-01-01T00:00:00+0000"},
          {"fsm": "m", "expires_at": "0001-01-01T00:00:00Z"}, {"fsm": "m", "expires_ms": 9e15}, {"fsm": "m", "expires_ms": 12960000000}]') n;
select is(
    (select array_agg(extract(epoch from i.expires_at)::bigint order by n.ord) from mortal n join gendurable.instance i on i.id = n.id where n.ord < 3),
    array[1935817689, 253402300800, -62135596800], 'so is a deadline');
select is(
    (select extract(epoch from i.expires_at - i.inserted_at)::bigint / 100 from mortal n join gendurable.instance i on i.id = n.id where n.ord = 4),
    129600::bigint, 'and so many milliseconds are so many, whatever the zone');
select is(gd_maintain() ->> 'expired', '1', '(the one that has passed)');
select is(r.last_error, 'expired at 0001-01-01T00:00:00.000Z', 'told in UTC and in one style') from mortal n cross join gd_result(n.id) r where n.ord = 2;
select t.raises($$select gd_insert_many('[{"fsm": "m", "expires_ms": 1e400}]')$$, 'GD501', 'many: a deadline past all numbers');
select t.raises($$select gd_insert_many('[{"fsm": "m", "expires_at": "06/05/2031 07:08 UTC"}]')$$, 'GD501', 'many: a deadline in a style of its own');
select gd_insert('m', p_queue => 'bc', p_expires_at => '4713-01-01 BC');
select is(gd_maintain() ->> 'expired', '1', 'a deadline before all others');
reset datestyle;
reset timezone;

-- names have an end, everywhere

select t.raises($$select gd_insert('m', p_step => repeat('x', 2001))$$, 'GD501', 'too long a step');
select t.raises($$select gd_insert(repeat('x', 2001))$$, 'GD501', 'too long a machine');
select t.raises($$select gd_insert('m', p_rate_limit => repeat('x', 2001))$$, 'GD501', 'too long a rate limit');
select t.raises($$select gd_insert_many(jsonb_build_array(jsonb_build_object('fsm', 'm', 'step', repeat('x', 2001))))$$, 'GD501', 'many: too long a step');
select isnt(gd_insert('m', p_queue => repeat('q', 2000), p_step => repeat('x', 2000)), null, 'up to 2,000 bytes');

-- an outcome: what cannot be sent cannot be awaited

select gd_insert('m', p_queue => 'out') as id \gset
create temp table claimed as select c.id, c.claim_no from gd_claim('w', 'out') c;
create function pg_temp.answer(p_outcome jsonb) returns text language sql as $$
    select a.result || coalesce(' ' || (a.detail ->> 'sqlstate'), '')
    from claimed c, public.gd_commit('w', jsonb_build_array(jsonb_build_object('id', c.id, 'claim_no', c.claim_no) || p_outcome)) a
$$;
select is(pg_temp.answer(v.outcome), 'rejected GD501', v.name)
from (values
    ('an await of too long a name', jsonb_build_object('kind', 'await', 'signals', repeat('x', 2001))),
    ('and of one among others', jsonb_build_object('kind', 'await', 'signals', array['a', repeat('x', 2001)])),
    ('and of nulls', '{"kind": "await", "signals": ["a", null]}'),
    ('and of more than 1,000', jsonb_build_object('kind', 'await', 'signals', array(select 's' || n from generate_series(1, 1001) n))),
    ('too long a step', jsonb_build_object('kind', 'next', 'step', repeat('x', 2001))),
    ('too long a queue', jsonb_build_object('kind', 'next', 'step', 'b', 'queue', repeat('x', 2001))),
    ('a weight past all numbers', '{"kind": "next", "step": "b", "weight": 1e400}'),
    ('a timeout past all times', '{"kind": "await", "signals": "a", "timeout_ms": 1e400}'),
    ('a delay that is true', '{"kind": "replay", "delay_ms": true}'),
    ('half a signal consumed', '{"kind": "next", "step": "b", "consume": [1.5]}'),
    ('one beyond all ids', '{"kind": "next", "step": "b", "consume": [9223372036854775808]}'),
    ('a negative one', '{"kind": "next", "step": "b", "consume": [-1]}'),
    ('a nested one', '{"kind": "next", "step": "b", "consume": [[1]]}'),
    ('more than 10,000', jsonb_build_object('kind', 'next', 'step', 'b', 'consume', array(select n from generate_series(1, 10001) n)))
) v (name, outcome);
select results_eq(
    $$select a.id, a.claim_no, a.result from gd_commit('w', '[{"id": 9223372036854775807, "claim_no": 1000000000000000001, "kind": "x"}]') a$$,
    $$values (9223372036854775807, 1000000000000000001, 'rejected')$$, 'a rejected outcome of any id says whose it is');
select is(pg_temp.answer(jsonb_build_object('kind', 'await', 'step', 'b', 'signals', array(select 's' || n from generate_series(1, 1000) n))),
    'ok', '1,000 names are fine');
select gd_insert('m', p_queue => 'long') as id \gset
delete from claimed;
insert into claimed select c.id, c.claim_no from gd_claim('w', 'long') c;
select is(pg_temp.answer(jsonb_build_object('kind', 'stop', 'reason', repeat('x', 3000000))), 'ok', 'a long reason');
select is((select length(r.last_error) from gd_result(:id) r), 100000, 'is kept as far as anybody reads it');

-- an id that was sent as a text

select gd_insert('m', p_queue => 'id') as id \gset
select t.raises(format($$select gd_signal('%s', 'go')$$, :id), 'GD501', 'the id of a live instance is no key that nobody holds');
prepare by_driver as select gd_signal($1, $2);
select t.raises(format($$execute by_driver('%s', 'go')$$, :id), 'GD501', 'nor is it for a driver that sends no types');
select is(gd_signal(:id, 'go'), 'delivered', 'as a number it is the address');
select gd_insert('m', p_queue => 'other', p_unique_key => :'id') as other \gset
select is(gd_signal(:'id', 'go'), 'delivered', 'a key of digits that is held is the address');
select is((select count(*)::int from gendurable.signal s where s.instance_id = :other), 1, 'and its holder gets the signal');
select is(gd_signal(v.text, 'go'), 'no_target', 'no such id: ' || v.text)
from unnest('{999999999,0,-1,9223372036854775808,99999999999999999999999,1x}'::text[]) v (text);
select is(gd_signal('0' || :'id', 'go'), 'no_target', 'nor another way of writing it');
select gd_cancel(:other), gd_cancel(:id);
select is(gd_signal(:'id', 'go'), 'no_target', 'an instance that has ended is none that could be meant');

select * from finish();
