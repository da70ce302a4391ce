-- Schedules: an instance at each tick of a cron expression. How a tick fires stands in kernel/075_schedules, when it comes in
-- kernel/028_tick. Whoever changes a schedule waits for others that do, then for the claim that may just fire it.
-- What can be scheduled and how a schedule is locked stands in the next file. Next: 202_scheduled.

create or replace function gd_schedule(
    p_name text, p_cron text, p_fsm text, p_options jsonb = '{}', p_timezone text = 'UTC'
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_zone constant text := coalesce(p_timezone, 'UTC');
    v_options constant jsonb := gendurable._tidy_options(p_options);
    v_now timestamptz;
    v_s record;
    v_place record;
    v_cron gendurable.cron;
    v_since timestamptz;
    v_next timestamptz;
begin
    perform gendurable._need_read_committed();
    if gendurable._is_scheduled(p_name, p_cron, p_fsm, v_options, v_zone) then
        perform gendurable._see_schedule(p_name, false);
        return;
    end if;
    v_cron := gendurable._read_schedule(p_name, p_cron, p_fsm, v_options, v_zone);
    perform gendurable._lock_schedule(p_name);
    v_now := clock_timestamp();
    select s.cron, s.timezone, s.since, s.next_at, s.bell_id, s.paused_at into v_s
    from gendurable.schedule s
    where s.name = p_name;
    if not found then
        perform gendurable._add_schedule(p_name, p_cron, p_fsm, v_options, v_zone, v_now, false);
        perform gendurable._note_by_hand('gd_schedule', null, jsonb_build_object(
            'name', p_name, 'made', true, 'cron', p_cron, 'timezone', v_zone, 'fsm', p_fsm), 1);
        return;
    end if;
    -- with the same clock a tick that is due stays due
    v_since := case when v_s.cron = p_cron and v_s.timezone = v_zone then v_s.since else v_now end;
    v_next := case
        when v_s.paused_at is not null then null
        when v_since = v_s.since then v_s.next_at
        else gendurable._need_tick(v_cron, p_cron, v_zone, v_since, v_now)
    end;
    v_place := gendurable._find_bell_place(p_fsm, v_options);
    update gendurable.schedule s
    set cron = p_cron, timezone = v_zone, fsm = p_fsm, options = v_options, since = v_since, queue = v_place.queue,
        priority = v_place.priority, last_error = null, seen_at = v_now
    where s.name = p_name;
    if v_next is not null then
        perform gendurable._hang_bell(p_name, v_s.bell_id, v_next, v_next, v_place.queue, v_place.priority);
    end if;
    perform gendurable._note_by_hand('gd_schedule', null, jsonb_build_object(
        'name', p_name, 'made', false, 'cron', p_cron, 'timezone', v_zone, 'fsm', p_fsm), 1);
end $$;

comment on function gd_schedule(text, text, text, jsonb, text) is
'Inserts an instance of machine p_fsm at each tick of a cron expression, due at once, with its meta and {"schedule":
name, "tick": "2031-05-06T07:08:00Z"}. Whoever claims in the queue of what it inserts fires it: a queue that is paused
or that nobody serves fires nothing, and its ticks are missed ones. No tick comes twice, however many claim.

  p_name: called again with the same arguments it changes nothing. With other options a tick that is due stays due;
    with another expression or zone the next tick counts from now
  p_cron: five fields: minute, hour, day of the month, month, day of the week; lists, ranges, steps (*/n, a-b/n, and
    a/n from a on), names of months and days in any case, 0 and 7 for Sunday. If both days are restricted, either
    fits; if one of them begins with *, both must. Or @hourly, @daily, @midnight, @weekly, @monthly, @yearly,
    @annually. Or @every with an interval of a second or more without months, counted from when it was scheduled
  p_timezone: a name out of pg_timezone_names. Where its clock changes, an expression whose minute or hour begins
    with * goes by elapsed time: it leaves a skipped hour out, and ticks in both passes of a repeated one. Any other
    ticks once right after a skipped hour that it names, and in the first pass of a repeated one
  p_options: the keys of an object of gd_insert_many, without fsm, eligible_at and delay_ms, and:
  catch_up: what ticks leave that were missed: "one" (the default): one instance, for the latest; "none":
    nothing, unless it is of the last minute; "all": an instance for each, 100 a claim
  overlap: while an earlier one has not ended: "allow" (the default); "skip": nothing is inserted, by the
    unique key "schedule:NAME" unless the options have one; "queue": it waits, by the partition key "schedule:NAME"
    unless the options have one

A tick that cannot insert is told in gd_schedules.last_error, and the next one comes as if nothing were. All is
checked at once: raises GD501, also for an expression that names no day that there is; GD502 for a rate limit that
there is not; GD504. Waits for the claim that fires the schedule, and for others that change it.';

create or replace function gd_unschedule(p_name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_name, 'p_name');
    perform gendurable._lock_schedule(p_name);
    delete from gendurable.instance i
    where i.id = (select s.bell_id from gendurable.schedule s where s.name = p_name) and i.id < 0;
    delete from gendurable.schedule s where s.name = p_name;
    if not found then
        return false;
    end if;
    perform gendurable._note_by_hand('gd_unschedule', null, jsonb_build_object('name', p_name), 1);
    return true;
end $$;

comment on function gd_unschedule(text) is
'Forgets a schedule; what it has inserted stays. False: there is none. An engine that still has it in its code
schedules it again at its next start: gd_pause_schedule stops it for good. Waits as gd_schedule does. Raises GD501,
GD504.';

create or replace function gd_pause_schedule(p_name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_s record;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_name, 'p_name');
    perform gendurable._lock_schedule(p_name);
    select s.bell_id, s.paused_at into v_s from gendurable.schedule s where s.name = p_name;
    if not found then
        perform gendurable._refuse_schedule(p_name);
    elsif v_s.paused_at is not null then
        return false;
    end if;
    delete from gendurable.instance i where i.id = v_s.bell_id and i.id < 0;
    update gendurable.schedule s
    set paused_at = clock_timestamp(), next_at = null, bell_id = null
    where s.name = p_name;
    perform gendurable._note_by_hand('gd_pause_schedule', null, jsonb_build_object('name', p_name), 1);
    return true;
end $$;

comment on function gd_pause_schedule(text) is
'Stops the ticks of a schedule, until gd_resume_schedule; gd_trigger still works. False: it is paused already. Waits as
gd_schedule does. Raises GD501, GD502, GD504.';

create or replace function gd_resume_schedule(p_name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_s record;
    v_now timestamptz;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_name, 'p_name');
    perform gendurable._lock_schedule(p_name);
    if not exists (select from gendurable.schedule s where s.name = p_name) then
        perform gendurable._refuse_schedule(p_name);
    end if;
    v_now := clock_timestamp();
    update gendurable.schedule s
    set paused_at = null,
        -- behind the last one that has fired, wherever the clock was then
        next_at = gendurable._need_tick(
            gendurable._parse_cron(s.cron), s.cron, s.timezone, s.since, greatest(v_now, s.last_tick_at)),
        bell_id = 0
    where s.name = p_name and s.paused_at is not null
    returning s.next_at, s.fsm, s.options into v_s;
    if not found then
        return false;
    end if;
    perform gendurable._hang_bell(p_name, null, v_s.next_at, v_s.next_at, p.queue, p.priority)
    from gendurable._find_bell_place(v_s.fsm, v_s.options) p;
    perform gendurable._note_by_hand('gd_resume_schedule', null, jsonb_build_object('name', p_name), 1);
    return true;
end $$;

comment on function gd_resume_schedule(text) is
'Ends the pause of a schedule: its next tick counts from now, and what it missed meanwhile is not caught up. False: it
is not paused. Waits as gd_schedule does. Raises GD501, GD502, GD504.';

create or replace function gd_trigger(p_name text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_s record;
    v_id bigint;
begin
    perform gendurable._need_text(p_name, 'p_name');
    -- Nothing of it is written to the schedule: whoever forgets this transaction holds up no tick.
    select s.fsm, s.options into v_s from gendurable.schedule s where s.name = p_name;
    if not found then
        perform gendurable._refuse_schedule(p_name);
    end if;
    v_id := (gendurable._insert_instances(gendurable._parse_instances(jsonb_build_array(
        gendurable._make_tick(p_name, v_s.fsm, v_s.options, v_now, v_now))), null, null, '{}'))[1];
    if v_id is not null then
        perform gendurable._note_by_hand('gd_trigger', v_id, jsonb_build_object('name', p_name), 1);
    end if;
    return v_id;
end $$;

comment on function gd_trigger(text) is
'Inserts now what a schedule would insert at a tick, with the time of the call as its tick, whether it is paused or
not: the new id. Null: the unique key is taken, with overlap "skip" by one that has not ended. Its ticks go on as
before. Raises GD501, GD502.';

create or replace function gd_announce_schedules(p_schedules jsonb, p_machines text[] = '{}')
returns table (
    name text, result text, cron text, timezone text, fsm text, options jsonb, seen_at timestamptz
)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    v_given record;
    v_names text[] := array[]::text[];
begin
    perform gendurable._need_read_committed();
    if jsonb_typeof(p_schedules) is distinct from 'array'
        or jsonb_path_exists(p_schedules, 'strict $[*] ? (@.type() != "object")')
    then
        perform gendurable._invalid('p_schedules must be an array of objects', 'got ' || coalesce(left(p_schedules::text, 200), 'null'),
            'Pass [{"name": ..., "cron": ..., "fsm": ..., "options": {...}, "timezone": ...}].');
    end if;
    for v_given in
        select e.o - '{name,cron,fsm,options,timezone}'::text[] as more, e.o ->> 'name' as name, e.o ->> 'cron' as cron,
            e.o ->> 'fsm' as fsm, gendurable._tidy_options(e.o -> 'options') as options,
            coalesce(e.o ->> 'timezone', 'UTC') as timezone
        from jsonb_array_elements(p_schedules) e (o)
        order by 2
    loop
        if v_given.more <> '{}' then
            perform gendurable._invalid('unknown key in a schedule', left(v_given.more::text, 200),
                'Keys of a schedule: name, cron, fsm, options, timezone.');
        end if;
        result := gendurable._announce_schedule(
            v_given.name, v_given.cron, v_given.fsm, v_given.options, v_given.timezone);
        v_names := v_names || v_given.name;
        if result in ('made', 'busy') then
            name := v_given.name;
            cron := v_given.cron;
            timezone := v_given.timezone;
            fsm := v_given.fsm;
            options := v_given.options;
            seen_at := null;
            return next;
        else
            return query
                select s.name, result, s.cron, s.timezone, s.fsm, s.options, s.seen_at
                from gendurable.schedule s
                where s.name = v_given.name;
        end if;
    end loop;
    return query
        select s.name, 'gone', s.cron, s.timezone, s.fsm, s.options, s.seen_at
        from gendurable.schedule s
        where s.declared and s.fsm = any(p_machines) and s.name <> all(v_names)
        order by s.name
        limit 1000;
end $$;

comment on function gd_announce_schedules(jsonb, text[]) is
'What an engine says of the schedules in its code, at its start and about once an hour: [{"name": ..., "cron": ...,
"fsm": ..., "options": {...}, "timezone": "UTC"}], with the arguments of gd_schedule. It schedules those that are not
there, notes that the others were seen, and changes none of them: what an operator has changed or paused stays so.
One row for each:

  name: the schedule
  result: "made": it was not there; "same"; "differs": there it is another one, as the other columns say; "busy":
    somebody is changing it, call again. "gone": not in p_schedules, but in the database, where an engine had announced
    it for one of p_machines
  cron, timezone, fsm, options: as it stands in the database now
  seen_at: when it was seen last: to the hour

Waits for nobody. Raises GD501, GD502, GD504 as gd_schedule does; then nothing is changed.';
