-- What gd_schedule and its like ask of their arguments, how a schedule is locked, and how one is stored.
-- Next: 210_maintain.

create or replace function gendurable._tidy_options(p_options jsonb) returns jsonb
language plpgsql immutable as $$
begin
    -- null is the same as absent, so that the same call is known again
    return case jsonb_typeof(p_options)
        when 'object' then p_options - array(select o.key from jsonb_each(p_options) o where o.value = 'null')
        else coalesce(nullif(p_options, 'null'), '{}')
    end;
end $$;

comment on function gendurable._tidy_options(jsonb) is 'Options as they are kept: without those that are null.';

create or replace function gendurable._is_scheduled(
    p_name text, p_cron text, p_fsm text, p_options jsonb, p_zone text
) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from gendurable.schedule s
        where s.name = p_name and s.cron = p_cron and s.fsm = p_fsm and s.options = p_options and s.timezone = p_zone);
end $$;

comment on function gendurable._is_scheduled(text, text, text, jsonb, text) is 'Whether a schedule is there just so.';

create or replace function gendurable._see_schedule(p_name text, p_declared boolean) returns void
language plpgsql as $$
begin
    -- Every engine does this at start: to the hour, and in nobody's way.
    update gendurable.schedule s
    set seen_at = clock_timestamp(), declared = s.declared or p_declared
    where s.name = any(array(
        select x.name
        from gendurable.schedule x
        where x.name = p_name and (
            x.seen_at not between clock_timestamp() - interval '1 hour' and clock_timestamp() or p_declared > x.declared)
        for no key update skip locked));
end $$;

comment on function gendurable._see_schedule(text, boolean) is 'Notes that a schedule is still wanted.';

create or replace function gendurable._refuse_schedule(p_name text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'GD502',
        message = 'no such schedule', detail = quote_literal(p_name), hint = 'The view gd_schedules lists them.';
end $$;

comment on function gendurable._refuse_schedule(text) is 'Raises GD502: there is no schedule of this name.';

create or replace function gendurable._need_tick(
    p_cron gendurable.cron, p_text text, p_zone text, p_since timestamptz, p_after timestamptz
) returns timestamptz
language plpgsql as $$
declare
    v_next constant timestamptz := gendurable._next_tick(p_cron, p_zone, p_since, p_after);
begin
    if v_next is null then
        perform gendurable._refuse_cron(p_text, 'it names no day that there is', 'No month has such a day.');
    end if;
    return v_next;
end $$;

comment on function gendurable._need_tick(gendurable.cron, text, text, timestamptz, timestamptz) is
    'The first tick behind an instant; raises GD501 where there is none.';

create or replace function gendurable._read_schedule(
    p_name text, p_cron text, p_fsm text, p_options jsonb, p_zone text
) returns gendurable.cron
language plpgsql as $$
declare
    v_cron gendurable.cron;
    v_now constant timestamptz := clock_timestamp();
begin
    perform gendurable._need_text(p_name, 'p_name');
    perform gendurable._need_text(p_cron, 'p_cron');
    perform gendurable._need_text(p_fsm, 'p_fsm');
    if jsonb_typeof(p_options) <> 'object' then
        perform gendurable._invalid('p_options must be a JSON object', 'got ' || jsonb_typeof(p_options), 'Pass {} for none.');
    end if;
    if p_options ?| '{fsm,eligible_at,delay_ms,expires_at}'::text[] then
        perform gendurable._invalid('an option cannot be given to a schedule', left(p_options::text, 200),
            'The machine is p_fsm, and an instance is due at its tick: leave out fsm, eligible_at, delay_ms and expires_at.');
    end if;
    if p_options ->> 'catch_up' not in ('one', 'none', 'all') or p_options ->> 'overlap' not in ('allow', 'skip', 'queue') then
        perform gendurable._invalid('unknown value of an option',
            format('catch_up: %s, overlap: %s', left(p_options ->> 'catch_up', 100), left(p_options ->> 'overlap', 100)),
            'catch_up is "one", "none" or "all"; overlap is "allow", "skip" or "queue".');
    end if;
    v_cron := gendurable._parse_cron(p_cron);
    -- the view and not "at time zone", which also takes what POSIX reads the other way round
    if not exists (select from pg_timezone_names z where z.name = p_zone) then
        perform gendurable._invalid('p_timezone is not the name of a time zone', 'got ' || quote_literal(left(p_zone, 200)),
            'Pass a name out of pg_timezone_names, such as Europe/Berlin.');
    end if;
    perform gendurable._need_tick(v_cron, p_cron, p_zone, v_now, v_now);
    perform gendurable._refuse_new_instances(gendurable._parse_instances(jsonb_build_array(
        gendurable._make_tick(p_name, p_fsm, p_options, v_now, v_now))));
    return v_cron;
end $$;

comment on function gendurable._read_schedule(text, text, text, jsonb, text) is
    'Raises GD501 or GD502 unless this can be scheduled; its expression.';

create or replace function gendurable._lock_schedule(p_name text) returns void
language plpgsql as $$
declare
    v_bell bigint;
begin
    perform pg_advisory_xact_lock(gendurable._lock_of_schedules(), hashtext(p_name));
    -- A claim that fires it has locked its bell, deletes that and puts another one: waited for, and looked for again.
    loop
        v_bell := (select s.bell_id from gendurable.schedule s where s.name = p_name);
        exit when v_bell is null;
        perform from gendurable.instance i where i.id = v_bell and i.id < 0 for update;
        exit when (select s.bell_id from gendurable.schedule s where s.name = p_name) is not distinct from v_bell;
    end loop;
    perform from gendurable.schedule s where s.name = p_name for update;
end $$;

comment on function gendurable._lock_schedule(text) is
    'Locks a schedule for a change, with its bell; if there is none, its name.';

create or replace function gendurable._add_schedule(
    p_name text, p_cron text, p_fsm text, p_options jsonb, p_zone text, p_now timestamptz, p_declared boolean
) returns void
language plpgsql as $$
declare
    v_next constant timestamptz := gendurable._need_tick(
        gendurable._parse_cron(p_cron), p_cron, p_zone, p_now, p_now);
    v_place constant record := gendurable._find_bell_place(p_fsm, p_options);
begin
    insert into gendurable.schedule (
        name, cron, timezone, fsm, options, queue, priority, since, next_at, bell_id, seen_at, declared)
    values (
        p_name, p_cron, p_zone, p_fsm, p_options, v_place.queue, v_place.priority, p_now, v_next, 0, p_now, p_declared);
    perform gendurable._hang_bell(p_name, null, v_next, v_next, v_place.queue, v_place.priority);
end $$;

comment on function gendurable._add_schedule(text, text, text, jsonb, text, timestamptz, boolean) is
    'Stores a schedule that was checked, and puts its first bell. Under the lock of its name.';

create or replace function gendurable._announce_schedule(
    p_name text, p_cron text, p_fsm text, p_options jsonb, p_zone text
) returns text
language plpgsql as $$
begin
    if not exists (select from gendurable.schedule s where s.name = p_name) then
        perform gendurable._read_schedule(p_name, p_cron, p_fsm, p_options, p_zone);
        if not pg_try_advisory_xact_lock(gendurable._lock_of_schedules(), hashtext(p_name)) then
            return 'busy';
        end if;
        -- read in a later statement than the lock
        if not exists (select from gendurable.schedule s where s.name = p_name) then
            perform gendurable._add_schedule(p_name, p_cron, p_fsm, p_options, p_zone, clock_timestamp(), true);
            return 'made';
        end if;
    end if;
    perform gendurable._see_schedule(p_name, true);
    return case
        when gendurable._is_scheduled(p_name, p_cron, p_fsm, p_options, p_zone) then 'same' else 'differs' end;
end $$;

comment on function gendurable._announce_schedule(text, text, text, jsonb, text) is
    'Schedules what is not there, and notes that the others were seen: made, same, differs or busy.';
