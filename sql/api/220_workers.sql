-- Workers that are known: they say hello, are told what was set for them, and say goodbye. A hello writes one row that is its worker's
-- own, and waits for nobody: who holds that row, or the table, in an open transaction costs the worker nothing but being noted.
-- Next: 222_stats.

create or replace function gd_hello(p_worker text, p_about jsonb) returns jsonb
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '10ms' as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_noted record;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    perform gendurable._need_about(p_about);
    v_noted := gendurable._note_worker(p_worker, p_about, v_now);
    return jsonb_build_object(
        'noted', v_noted.noted, 'clash', v_noted.clash, 'counted', v_noted.counted, 'now', v_now,
        'drain', exists (select from gendurable.draining d where d.worker = p_worker),
        'held', exists (select from gendurable.hold),
        'queues', (
            select coalesce(jsonb_object_agg(q.queue, q.told), '{}')
            from (
                select k.queue, jsonb_build_object('concurrency', (
                        select s.concurrency from gendurable.queue_setting s where s.queue = any(array[k.queue])
                    ), 'paused', exists (select from gendurable.paused_queue p where p.queue = any(array[k.queue]))) as told
                from jsonb_object_keys(coalesce(nullif(p_about -> 'queues', 'null'), '{}')) k (queue)
            ) q
            where q.told <> '{"concurrency": null, "paused": false}'));
end $$;

comment on function gd_hello(text, jsonb) is
'A worker says that it lives, when it starts and then at each interval, and is told what was set for it. Whoever has
not said hello for three intervals counts as gone, and the next gd_maintain forgets it. p_about is an object, in which
nothing is needed:

  host, pid, version, started_at: what people know it by; started_at by its own clock
  interval_ms: the time until it says hello again, 20000 if it is not said, a day at most
  at: the time by its own clock, now: gd_workers tells how far that is off
  queues: {name: how many steps of it run at once}
  machines: [[fsm, version, [step, ...]], ...], what it can run; more: true if that is not all; autoload: packages of which
    it imports what it does not know; sql_steps: true if it runs steps that are functions of the database
  state: "running", "draining", "drained" or "stopping"; running: how many steps run now
  listens: true if it listens to the channel gendurable_control
  counters: {no, rows: [[fsm, step, outcome, count, seconds, next_step], ...]}, steps that have ended since the last report
    that was counted, 500 rows at most, next_step where they went on to another one; no grows with each report

It answers with an object:

  noted: false if somebody has its row or the table locked: it is not seen this time
  clash: true if another process has said hello under this name, and lives
  counted: the no of the last report that was counted: what is not is sent again, in the same report
  now: the time of the server
  drain: true if it is to claim nothing more (gd_drain_worker)
  held: true while gd_hold_all holds everything
  queues: {name: {concurrency, paused}} of those of its queues of which something is set; concurrency null: its own number

p_about has at most 64,000 bytes. Waits for nobody. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_bye(p_worker text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '10ms' as $$
declare
    v_found boolean;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    begin
        delete from gendurable.worker d
        where d.worker = any(array(select w.worker from gendurable.worker w where w.worker = p_worker for update skip locked));
        v_found := found;
        delete from gendurable.draining d
        where d.worker = any(array(select x.worker from gendurable.draining x where x.worker = p_worker for update skip locked));
    exception when lock_not_available then
        return false;
    end;
    return v_found;
end $$;

comment on function gd_bye(text) is
'A worker has ended: it is forgotten, and so is that it was to drain. What it still holds is given back by gd_release,
or left to its lease. False: it was not known, or somebody has its row locked, and it is forgotten when it is overdue.
Waits for nobody. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gendurable._read_time(p_value jsonb) returns timestamptz
language plpgsql stable as $$
begin
    return (p_value #>> '{}'::text[])::timestamptz;
exception when datetime_field_overflow or invalid_datetime_format or invalid_time_zone_displacement_value or invalid_parameter_value then
    return null;
end $$;

comment on function gendurable._read_time(jsonb) is 'A time in JSON; null: there is no such time.';

create or replace function gendurable._need_about(p_about jsonb) returns void
language plpgsql as $$
declare
    v_most constant int := 64000;
    v_problem text;
begin
    if jsonb_typeof(p_about) is distinct from 'object' then
        perform gendurable._invalid('p_about must be a JSON object', 'got ' || coalesce(jsonb_typeof(p_about), 'null'),
            'Pass {} to say nothing.');
    end if;
    perform gendurable._need_options(p_about,
        '{host,pid,version,started_at,interval_ms,at,queues,machines,more,autoload,sql_steps,state,running,listens,counters}');
    if octet_length(p_about::text) > v_most then
        perform gendurable._invalid('p_about is too long', octet_length(p_about::text) || ' bytes',
            'Leave out steps or machines, and say "more": true.');
    end if;
    v_problem := coalesce(
        gendurable._text_problem(p_about -> 'host', 'host', false),
        gendurable._number_problem(p_about -> 'pid', 'pid', 0),
        gendurable._text_problem(p_about -> 'version', 'version', false),
        gendurable._clock_problem(p_about -> 'started_at', 'started_at'),
        gendurable._clock_problem(p_about -> 'at', 'at'),
        gendurable._number_problem(p_about -> 'interval_ms', 'interval_ms', 1),
        case when (p_about ->> 'interval_ms')::numeric > 86400000 then 'interval_ms is more than a day' end,
        gendurable._number_problem(p_about -> 'running', 'running', 0),
        case
            when coalesce(p_about ->> 'state', 'running') <> all('{running,draining,drained,stopping}'::text[])
                then 'state must be running, draining, drained or stopping'
        end,
        gendurable._flag_problem(p_about -> 'listens', 'listens'),
        gendurable._flag_problem(p_about -> 'more', 'more'),
        gendurable._flag_problem(p_about -> 'sql_steps', 'sql_steps'),
        gendurable._queues_problem(p_about -> 'queues'),
        gendurable._machines_problem(p_about -> 'machines'),
        gendurable._list_problem(p_about -> 'autoload', 'autoload'),
        gendurable._counters_problem(p_about -> 'counters'));
    if v_problem is not null then
        perform gendurable._invalid(v_problem, left(p_about::text, 200), 'The comment of gd_hello tells what is in p_about.');
    end if;
end $$;

comment on function gendurable._need_about(jsonb) is 'Raises GD501 unless a worker can say this of itself.';

create or replace function gendurable._number_problem(p_value jsonb, p_name text, p_least int) returns text
language plpgsql immutable as $$
begin
    -- what the views read as a number must be written as one: 5.0 is a whole number, and no integer
    return coalesce(gendurable._int_problem(p_value, p_name, p_least), case
        when p_value #>> '{}'::text[] ~ '[^-0-9]' and p_value <> 'null' then p_name || ' must be a whole number' end);
end $$;

comment on function gendurable._number_problem(jsonb, text, int) is 'What is wrong with an integer that is kept in JSON, or null.';

create or replace function gendurable._clock_problem(p_value jsonb, p_name text) returns text
language plpgsql stable as $$
begin
    return coalesce(gendurable._time_problem(p_value, p_name), case
        when p_value <> 'null' and gendurable._read_time(p_value) is null then p_name || ' is no time that there is' end);
end $$;

comment on function gendurable._clock_problem(jsonb, text) is 'What is wrong with a time by the clock of somebody else, or null.';

create or replace function gendurable._queues_problem(p_queues jsonb) returns text
language plpgsql immutable as $$
begin
    if p_queues is null or p_queues = 'null' then
        return null;
    end if;
    if jsonb_typeof(p_queues) <> 'object' then
        return 'queues must be a JSON object';
    end if;
    return (
        select min(coalesce(
            gendurable._text_problem(to_jsonb(q.key), 'the name of a queue', true),
            case when q.value = 'null' then 'the number of a queue is missing' end,
            gendurable._number_problem(q.value, 'the number of a queue', 0)))
        from jsonb_each(p_queues) q);
end $$;

comment on function gendurable._queues_problem(jsonb) is 'What is wrong with {queue: number}, or null.';

create or replace function gendurable._list_problem(p_names jsonb, p_name text) returns text
language plpgsql immutable as $$
begin
    if p_names is null or p_names = 'null' then
        return null;
    end if;
    if jsonb_typeof(p_names) <> 'array' then
        return p_name || ' must be an array of names';
    end if;
    return (
        select min(gendurable._text_problem(n.value, 'a name in ' || p_name, true))
        from jsonb_array_elements(p_names) n (value));
end $$;

comment on function gendurable._list_problem(jsonb, text) is 'What is wrong with an array of names, or null.';

create or replace function gendurable._machines_problem(p_machines jsonb) returns text
language plpgsql immutable as $$
begin
    if p_machines is null or p_machines = 'null' then
        return null;
    end if;
    if jsonb_typeof(p_machines) <> 'array' then
        return 'machines must be an array';
    end if;
    return (
        select min(case
            when jsonb_typeof(m.value) <> 'array' then 'a machine must be [fsm, version, [step, ...]]'
            when jsonb_array_length(m.value) <> 3 then 'a machine must be [fsm, version, [step, ...]]'
            else coalesce(
                gendurable._text_problem(m.value -> 0, 'the name of a machine', true),
                case when m.value -> 1 = 'null' then 'the version of a machine is missing' end,
                gendurable._number_problem(m.value -> 1, 'the version of a machine', null),
                case when m.value -> 2 = 'null' then 'the steps of a machine are missing' end,
                gendurable._list_problem(m.value -> 2, 'the steps of a machine'))
        end)
        from jsonb_array_elements(p_machines) m (value));
end $$;

comment on function gendurable._machines_problem(jsonb) is 'What is wrong with [[fsm, version, [step]]], or null.';

create or replace function gendurable._counters_problem(p_counters jsonb) returns text
language plpgsql immutable as $$
declare
    v_rows constant jsonb := case when jsonb_typeof(p_counters) = 'object' then p_counters -> 'rows' end;
begin
    if p_counters is null or p_counters = 'null' then
        return null;
    end if;
    if jsonb_typeof(p_counters) <> 'object' or jsonb_typeof(v_rows) is distinct from 'array' then
        return 'counters must be {"no": number, "rows": array}';
    end if;
    if jsonb_array_length(v_rows) > 500 then
        return 'counters has more than 500 rows';
    end if;
    return coalesce(
        case when coalesce(p_counters -> 'no', 'null') = 'null' then 'the no of counters is missing' end,
        gendurable._number_problem(p_counters -> 'no', 'the no of counters', 1),
        (
            select min(case
                when jsonb_typeof(r.value) <> 'array' then 'a counter must be [fsm, step, outcome, count, seconds, next_step]'
                when jsonb_array_length(r.value) not between 5 and 6
                    then 'a counter must be [fsm, step, outcome, count, seconds, next_step]'
                when coalesce(jsonb_typeof(r.value -> 3), '') <> 'number' or coalesce(jsonb_typeof(r.value -> 4), '') <> 'number'
                    then 'a counter must be [fsm, step, outcome, count, seconds, next_step]'
                else coalesce(
                    gendurable._text_problem(r.value -> 0, 'the machine of a counter', true),
                    gendurable._text_problem(r.value -> 1, 'the step of a counter', true),
                    gendurable._text_problem(r.value -> 2, 'the outcome of a counter', true),
                    gendurable._text_problem(r.value -> 5, 'the next step of a counter', false),
                    gendurable._number_problem(r.value -> 3, 'the count of a counter', 0),
                    case when (r.value ->> 4)::numeric not between 0 and 1e9 then 'the seconds of a counter are out of range' end)
            end)
            from jsonb_array_elements(v_rows) r (value)
        ));
end $$;

comment on function gendurable._counters_problem(jsonb) is 'What is wrong with a report of ended steps, or null.';

create or replace function gendurable._note_worker(
    p_worker text, p_about jsonb, p_now timestamptz, out noted boolean, out clash boolean, out counted bigint
)
language plpgsql as $$
declare
    v_about constant jsonb := jsonb_strip_nulls(
        p_about - '{started_at,at,machines,queues,state,running,counters}'::text[]);
    v_machines constant jsonb := coalesce(nullif(p_about -> 'machines', 'null'), '[]');
    v_queues constant jsonb := coalesce(nullif(p_about -> 'queues', 'null'), '{}');
    v_state constant text := coalesce(p_about ->> 'state', 'running');
    v_running constant int := coalesce((p_about ->> 'running')::numeric::int, 0);
    v_started constant timestamptz := gendurable._read_time(p_about -> 'started_at');
    v_skew constant double precision :=
        extract(epoch from gendurable._read_time(p_about -> 'at')) - extract(epoch from p_now);
    -- more than three intervals, so that one that says hello a little late the third time is not gone
    v_until constant timestamptz :=
        p_now + 3.5 * gendurable._ms(coalesce(nullif(p_about -> 'interval_ms', 'null'), '20000'));
    v_known record;
begin
    clash := false;
    begin
        select w.about, w.started_at, w.until, w.counted into v_known
        from gendurable.worker w
        where w.worker = p_worker
        for no key update skip locked;
        noted := found;
        if noted then
            clash := v_known.until > p_now
                and (v_known.started_at, v_known.about -> 'host', v_known.about -> 'pid')
                    is distinct from (v_started, v_about -> 'host', v_about -> 'pid');
            counted := case when clash then 0 else v_known.counted end;
            counted := greatest(counted, gendurable._count_steps(p_about -> 'counters', counted, p_now));
            -- what has not changed is not written anew: large values lie in a table of their own
            update gendurable.worker w
            set about = case when w.about = v_about then w.about else v_about end,
                machines = case when w.machines = v_machines then w.machines else v_machines end,
                queues = case when w.queues = v_queues then w.queues else v_queues end,
                state = v_state, running = v_running, started_at = v_started, skew = v_skew, seen_at = p_now, until = v_until,
                first_seen_at = case when clash or w.until <= p_now then p_now else w.first_seen_at end,
                counted = _note_worker.counted
            where w.worker = p_worker;
        else
            insert into gendurable.worker (
                worker, about, machines, queues, state, running, started_at, skew, first_seen_at, seen_at, until, counted)
            values (
                p_worker, v_about, v_machines, v_queues, v_state, v_running, v_started, v_skew, p_now, p_now, v_until,
                coalesce((p_about #>> '{counters,no}')::numeric::bigint, 0))
            on conflict do nothing;
            noted := found;
            if noted then
                counted := gendurable._count_steps(p_about -> 'counters', 0, p_now);
            end if;
        end if;
    exception when lock_not_available then
        noted := false;
    end;
    if not noted then
        counted := null;
    end if;
end $$;

comment on function gendurable._note_worker(text, jsonb, timestamptz) is
    'Writes down what a worker says, unless somebody has its row: whether it could, whether another one is known by this name, and
up to which of its reports was counted.';

create or replace function gendurable._count_steps(p_counters jsonb, p_counted bigint, p_now timestamptz) returns bigint
language plpgsql as $$
declare
    v_no constant bigint := (p_counters ->> 'no')::numeric::bigint;
begin
    if v_no is null or v_no <= p_counted then
        return p_counted;
    end if;
    insert into gendurable.minute_count (at, fsm, step, outcome, count, seconds, next_step)
    select date_trunc('minute', p_now), r.value ->> 0, r.value ->> 1, r.value ->> 2, (r.value ->> 3)::numeric::bigint,
        (r.value ->> 4)::double precision, r.value ->> 5
    from jsonb_array_elements(p_counters -> 'rows') r (value);
    return v_no;
end $$;

comment on function gendurable._count_steps(jsonb, bigint, timestamptz) is
    'Counts a report of ended steps, unless it was counted: the number of the last that was.';
