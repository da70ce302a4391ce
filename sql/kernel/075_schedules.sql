-- Schedules: what a tick inserts, and how the claim that meets a schedule's bell fires it. There is no clock besides the bell,
-- and no leader: whoever has locked the bell fires, inserts, and puts the next bell, all in the transaction of its claim, so that
-- no tick is lost and none comes twice. What it inserts is due at the start of that claim: later than that, the same claim would
-- take a keyed one for a row that only carries the baton of its key.
-- A claim that rang and was not full notifies: who claims may be the only one who sleeps, and knows a next due time from before.
-- Order of locks: the name (only by who changes a schedule), the bell, the schedule; a claim and the upkeep only try.
-- Next: 080_transitions, what becomes of instances.

create or replace function gendurable._make_tick(
    p_name text, p_fsm text, p_options jsonb, p_tick timestamptz, p_due timestamptz
) returns jsonb
language plpgsql as $$
begin
    -- in UTC, and to the second unless @every counts from between two
    return case p_options ->> 'overlap'
            when 'skip' then jsonb_build_object('unique_key', 'schedule:' || p_name)
            when 'queue' then jsonb_build_object('partition_key', 'schedule:' || p_name)
            else '{}'
        end
        || (p_options - '{catch_up,overlap}'::text[])
        || jsonb_build_object(
            'fsm', p_fsm,
            'eligible_at', to_char(p_due at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'meta', coalesce(nullif(p_options -> 'meta', 'null'), '{}') || jsonb_build_object(
                'schedule', p_name,
                'tick', to_char(p_tick at time zone 'UTC', case
                    when date_trunc('second', p_tick) = p_tick then 'YYYY-MM-DD"T"HH24:MI:SS"Z"'
                    else 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
                end)));
end $$;

comment on function gendurable._make_tick(text, text, jsonb, timestamptz, timestamptz) is
    'What a tick of a schedule inserts, as an object of gd_insert_many.';

create or replace function gendurable._find_bell_place(p_fsm text, p_options jsonb, out queue text, out priority int)
language plpgsql as $$
declare
    v_machine record;
begin
    select m.version, m.initial_step, m.queue into v_machine
    from gendurable.machine m
    where m.fsm = p_fsm and ((p_options ->> 'version') is null or m.version = (p_options ->> 'version')::numeric::int)
    order by m.pinned desc, m.version desc
    limit 1;
    queue := coalesce(
        (select r.queue from gendurable._find_route(
            p_fsm, coalesce((p_options ->> 'version')::numeric::int, v_machine.version, 1),
            coalesce(p_options ->> 'step', v_machine.initial_step, 'start')) r (queue)),
        p_options ->> 'queue', v_machine.queue, 'default');
    priority := coalesce((p_options ->> 'priority')::numeric::int, 0);
end $$;

comment on function gendurable._find_bell_place(text, jsonb) is
    'The queue and the priority of what a schedule inserts: there its bell stands, and who claims there fires it.';

create or replace function gendurable._hang_bell(
    p_name text, p_old bigint, p_next timestamptz, p_ring timestamptz, p_queue text, p_priority int
) returns void
language plpgsql as $$
declare
    v_bell bigint;
begin
    delete from gendurable.instance i where i.id = p_old and i.id < 0;
    -- Not before now: what lies behind the floors of the claims is found a second later, and a bell that was due at the start
    -- of the claim that puts it would ring in that claim again.
    v_bell := gendurable._put_bell(
        p_queue, p_priority, greatest(p_ring, clock_timestamp() + interval '1 millisecond'), null, p_name);
    update gendurable.schedule s
    set bell_id = v_bell, next_at = p_next, queue = p_queue, priority = p_priority
    where s.name = p_name;
end $$;

comment on function gendurable._hang_bell(text, bigint, timestamptz, timestamptz, text, int) is
    'Puts the bell of a schedule for its next tick, in place of another one. Under the locks of both.';

create or replace function gendurable._plan_ticks(
    p_cron gendurable.cron, p_zone text, p_since timestamptz, p_next timestamptz, p_catch_up text, p_now timestamptz,
    out ticks timestamptz[], out last_at timestamptz, out next_at timestamptz
)
language plpgsql as $$
begin
    ticks := '{}';
    if p_catch_up = 'all' then
        next_at := p_next;
        while next_at <= p_now and cardinality(ticks) < gendurable._most_ticks() loop
            last_at := next_at;
            ticks := ticks || next_at;
            next_at := gendurable._next_tick(p_cron, p_zone, p_since, next_at);
        end loop;
    else
        last_at := gendurable._last_tick(p_cron, p_zone, p_since, p_next, p_now);
        if p_catch_up is distinct from 'none' or last_at >= p_now - interval '1 minute' then
            ticks := array[last_at];
        end if;
        next_at := gendurable._next_tick(p_cron, p_zone, p_since, greatest(last_at, p_now));
    end if;
end $$;

comment on function gendurable._plan_ticks(
    gendurable.cron, text, timestamptz, timestamptz, text, timestamptz
) is
    'Which of the ticks from p_next up to now insert something; the last one that was dealt with, and the one behind it.';

create or replace function gendurable._insert_ticks(
    p_name text, p_fsm text, p_options jsonb, p_ticks timestamptz[], p_due timestamptz
) returns bigint[]
language plpgsql as $$
declare
    v_timeout constant text := current_setting('lock_timeout');
    v_ids bigint[];
begin
    -- a claim waits for nobody: a unique key may be held by a transaction that is still open
    perform set_config('lock_timeout', '10ms', true);
    v_ids := gendurable._insert_instances(gendurable._parse_instances((
        select jsonb_agg(gendurable._make_tick(p_name, p_fsm, p_options, t.tick, p_due) order by t.tick)
        from unnest(p_ticks) t (tick))), null, null, '{}');
    perform set_config('lock_timeout', v_timeout, true);
    return v_ids;
end $$;

comment on function gendurable._insert_ticks(text, text, jsonb, timestamptz[], timestamptz) is
    'Inserts an instance for each tick: their ids, null where the unique key is taken.';

create or replace function gendurable._ring_schedule(p_bell bigint, p_name text, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_s record;
    v_place record;
    v_ticks timestamptz[];
    v_last timestamptz;
    v_next timestamptz;
    v_ids bigint[];
    v_again timestamptz;
    v_state text;
    v_message text;
begin
    select s.cron, s.timezone, s.fsm, s.options, s.since, s.next_at into v_s
    from gendurable.schedule s
    where s.name = p_name and s.bell_id = p_bell
    for update skip locked;
    if not found then
        if exists (select from gendurable.schedule s where s.name = p_name and s.bell_id = p_bell) then
            -- somebody has locked it: whoever claims then looks again
            update gendurable.instance i
            set eligible_at = clock_timestamp() + gendurable._baton_pause(), updated_at = p_now
            where i.id = p_bell;
        else
            delete from gendurable.instance i where i.id = p_bell;
        end if;
        return;
    end if;
    v_place := gendurable._find_bell_place(v_s.fsm, v_s.options);
    if v_s.next_at > p_now then
        -- a clock that was set back has made the bell due, and the tick not
        perform gendurable._hang_bell(p_name, p_bell, v_s.next_at, v_s.next_at, v_place.queue, v_place.priority);
        return;
    end if;
    begin
        select t.ticks, t.last_at, t.next_at into v_ticks, v_last, v_next
        from gendurable._plan_ticks(
            gendurable._parse_cron(v_s.cron), v_s.timezone, v_s.since, v_s.next_at, v_s.options ->> 'catch_up', p_now) t;
        if v_next is null then
            perform gendurable._refuse_cron(v_s.cron, 'it names no day that there is');
        end if;
        if v_ticks <> '{}' then
            v_ids := gendurable._insert_ticks(p_name, v_s.fsm, v_s.options, v_ticks, p_now);
        end if;
    exception
        when others or assert_failure then
            get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
            if not gendurable._blames_row(v_state) then
                raise;
            end if;
            -- The tick stays due beside somebody's lock, and where nothing says when the next one is: the server may have
            -- lost the time zone.
            v_again := case
                when gendurable._blames_lock(v_state) then clock_timestamp() + interval '1 second'
                when v_next is null then clock_timestamp() + interval '1 hour'
            end;
    end;
    if v_again is not null then
        v_next := v_s.next_at;
    end if;
    perform gendurable._hang_bell(p_name, p_bell, v_next, coalesce(v_again, v_next), v_place.queue, v_place.priority);
    v_ids := array_remove(v_ids, null);
    update gendurable.schedule s
    set last_tick_at = case when v_again is null and v_ticks <> '{}' then v_last else s.last_tick_at end,
        last_at = case when v_ids <> '{}' then clock_timestamp() else s.last_at end,
        last_id = coalesce(v_ids[cardinality(v_ids)], s.last_id),
        last_error = left(v_message, 2000)
    where s.name = p_name;
end $$;

comment on function gendurable._ring_schedule(bigint, text, timestamptz) is
    'Fires the schedule that a bell stands for, and puts the bell of its next tick. What goes wrong with it is told in the schedule.';

create or replace function gendurable._ring_schedules(p_bells bigint[], p_now timestamptz) returns void
language plpgsql as $$
begin
    -- A worker may begin at once with what is inserted here: a server that loses this transaction would fire the tick again.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    perform gendurable._ring_schedule(i.id, i.unique_key, p_now)
    from (
        select x.id, x.unique_key
        from gendurable.instance x
        where x.id = any(p_bells) and x.id < 0
        order by x.eligible_at, x.id desc
    ) i;
end $$;

comment on function gendurable._ring_schedules(bigint[], timestamptz) is
    'Fires the schedules of these bells, which the caller has locked: what was due at p_now, when its claim began.';

create or replace function gendurable._rehang_bell(p_name text) returns boolean
language plpgsql as $$
declare
    v_s record;
    v_place record;
    v_has boolean;
begin
    -- Without waiting, and the bell before the schedule as always: who rings it puts the next one at the right place anyway.
    select s.bell_id into v_s from gendurable.schedule s where s.name = p_name;
    perform from gendurable.instance i where i.id = v_s.bell_id for update skip locked;
    v_has := found;
    select s.fsm, s.options, s.next_at, s.bell_id, s.queue, s.priority into v_s
    from gendurable.schedule s
    where s.name = p_name and s.bell_id = v_s.bell_id and s.paused_at is null
    for update skip locked;
    -- Read in a later statement than the lock: the bell is locked by somebody, or there is none.
    if not found or (not v_has and exists (select from gendurable.instance i where i.id = v_s.bell_id)) then
        return false;
    end if;
    v_place := gendurable._find_bell_place(v_s.fsm, v_s.options);
    if not v_has or v_place.queue <> v_s.queue or v_place.priority <> v_s.priority then
        perform gendurable._hang_bell(p_name, v_s.bell_id, v_s.next_at, v_s.next_at, v_place.queue, v_place.priority);
    end if;
    return not v_has;
end $$;

comment on function gendurable._rehang_bell(text) is
    'Puts the bell of a schedule where its machine is served now, unless somebody has it locked. True: there was none.';

create or replace function gendurable._move_bells(p_fsm text) returns void
language plpgsql as $$
begin
    perform gendurable._rehang_bell(s.name)
    from (
        select x.name
        from gendurable.schedule x
        where x.fsm = p_fsm and x.paused_at is null
        order by x.name
        limit gendurable._most_keys()
    ) s;
end $$;

comment on function gendurable._move_bells(text) is
    'Moves the bells of the schedules of a machine that has come to another queue, or whose first step has. Those that are locked
follow with their next tick, or with the upkeep.';
