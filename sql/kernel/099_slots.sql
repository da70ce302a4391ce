-- Slots of queues. Where a queue has a limit (gd_set_queue), whatever executes in it holds a slot, a number under a unique index,
-- so rows of other queues carry nothing, and their claims stay HOT. Only claims take slots, under the queue's lock, which is only
-- tried: one claim at a time. Whatever ends a claim frees its slot (080_transitions) and wakes who sleeps on the queue.
-- Invariant: at most as many executing rows of a queue as its limit says.
-- The kernel ends here; the stages of an instance's life begin in api/100_insert.

create or replace function gendurable._find_limited(p_queues text[]) returns text[]
language plpgsql stable as $$
begin
    return array(
        select s.queue from gendurable.queue_setting s where s.queue = any(p_queues) and s.max_executing is not null);
end $$;

comment on function gendurable._find_limited(text[]) is 'Those of the queues that have a limit.';

-- A set, since only so what reads a table is inlined.
create or replace function gendurable._halts(
    p_queue text, p_slot int, p_paused_at timestamptz, p_fsm text, p_version int, p_step text
) returns setof boolean
language sql stable parallel safe rows 1 as $$
    select true from gendurable.paused_queue q where q.queue = p_queue
    union all
    select true where p_paused_at is not null
    union all
    select true from gendurable._find_pause(p_fsm, p_version, p_step)
    union all
    -- beyond a limit that was lowered, or without a slot of its own, it makes room
    select true
    from gendurable.queue_setting s
    where s.queue = p_queue and coalesce(p_slot >= s.max_executing, s.max_executing is not null)
$$;

comment on function gendurable._halts(text, int, timestamptz, text, int, text) is
    'A row where a claim of a queue is not to go on with a step ('''': with any) of an instance: the queue, the instance or the step is
paused, or the queue has no room for it.';

create or replace function gendurable._is_busy(p_queue text) returns boolean
language plpgsql as $$
begin
    -- Who ends such a claim may tell nobody. The lock is taken for the session, so that it can be let go at once.
    return case
            when pg_try_advisory_lock(gendurable._lock_of_queues(), hashtext(p_queue))
                then not pg_advisory_unlock(gendurable._lock_of_queues(), hashtext(p_queue))
            else true
        end
        or exists (select from gendurable.queue_setting s where s.queue = p_queue and s.changed_in is not null);
end $$;

comment on function gendurable._is_busy(text) is
    'Whether another session is at a claim of a queue with a limit, or what executes there may not have got its slot yet.';

create or replace function gendurable._count_slots(p_queue text, p_now timestamptz, out used int, out expired bigint[])
language plpgsql as $$
begin
    select count(*)::int, coalesce(array_agg(i.id) filter (where i.lease_expires_at <= p_now), '{}')
    into used, expired
    from gendurable.instance i
    where i.queue = p_queue and i.queue_slot is not null;
end $$;

comment on function gendurable._count_slots(text, timestamptz) is
    'How many slots of a queue are held, and by which claims whose lease has ended.';

create or replace function gendurable._take_back(p_id bigint, p_claim_no bigint, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_row record;
begin
    select i.crashes, i.partition_key, i.expires_at, i.timeout_at into v_row
    from gendurable.instance i
    where i.id = p_id and i.claim_no = p_claim_no and i.status = 'executing'
        and i.lease_expires_at <= p_now and not gendurable._is_renewed(i.id, i.claim_no, p_now)
    for no key update skip locked;
    if not found then
        return 0;
    end if;
    if gendurable._is_over(v_row.expires_at, v_row.timeout_at, p_now) then
        return (select e.count from gendurable._end_over(array[p_id]) e);
    end if;
    if v_row.partition_key is not null
        and not pg_try_advisory_xact_lock(gendurable._key_lock(v_row.partition_key))
    then
        return 0;
    end if;
    if v_row.crashes + 1 >= gendurable._crash_cap() then
        return gendurable._end_crashed(array[p_id], p_now);
    end if;
    perform gendurable._note_crashes(array[p_id], p_now);
    return gendurable._give_back(array[p_id], p_now, p_now, true);
end $$;

comment on function gendurable._take_back(bigint, bigint, timestamptz) is
    'Takes one expired claim back if nothing that it needs is locked; 1 if it did.';

create or replace function gendurable._free_expired(p_ids bigint[], p_now timestamptz) returns int
language plpgsql as $$
declare
    v_row record;
    v_count int := 0;
begin
    for v_row in select i.id, i.claim_no from gendurable.instance i where i.id = any(p_ids[:100]) order by i.id loop
        begin
            v_count := v_count + gendurable._take_back(v_row.id, v_row.claim_no, p_now);
        exception
            when others or assert_failure then
                if not gendurable._blames_row(sqlstate) then
                    raise;
                end if;
        end;
    end loop;
    return v_count;
end $$;

comment on function gendurable._free_expired(bigint[], timestamptz) is
    'Takes expired claims back, up to 100 of them: how many. One that cannot be given back keeps its slot.';

create or replace function gendurable._give_slots(p_queue text, p_ids bigint[]) returns void
language plpgsql as $$
begin
    update gendurable.instance i
    set queue_slot = w.slot
    from (
        select n.id, f.slot
        from (
            select u.id, row_number() over (order by u.ord) as place
            from unnest(p_ids) with ordinality u (id, ord)
            join gendurable.instance x on x.id = any(array[u.id])
            -- who was lost in its slot keeps it
            where x.queue_slot is null
        ) n
        join (
            -- the lowest that are free: what was lowered leaves slots above the limit, which empty first
            select g.slot, row_number() over (order by g.slot) as place
            from generate_series(0, cardinality(p_ids) + (
                select count(*)::int from gendurable.instance h where h.queue = p_queue and h.queue_slot is not null) - 1) g (slot)
            where not exists (
                select from gendurable.instance h where h.queue = p_queue and h.queue_slot = g.slot)
        ) f on f.place = n.place
        offset 0
    ) w
    where i.id = any(array[w.id]);
end $$;

comment on function gendurable._give_slots(text, bigint[]) is
    'Gives slots of a queue to rows that have none. Under the locks of the queue and the rows.';

create or replace function gendurable._count_strays(p_queue text, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_strays bigint[];
    v_locked bigint[];
begin
    -- They became due before what waits behind them: those that stand first in each range.
    v_strays := array(
        with recursive p as (
            (select i.priority from gendurable.instance i
                where i.queue = p_queue and i.eligible_at is not null
                order by i.queue, i.priority limit 1)
            union all
            select (select i.priority from gendurable.instance i
                where i.queue = p_queue and i.eligible_at is not null and i.priority > p.priority
                order by i.queue, i.priority limit 1)
            from p
            where p.priority is not null
        )

        select h.id
        from (
            select d.id, d.status, d.queue_slot
            from (select p.priority from p where p.priority is not null limit 1000) y
            cross join (values (0::smallint), (1::smallint)) w (woken)
            cross join lateral (
                select i.id, i.status, i.queue_slot
                from gendurable.instance i
                where i.queue = p_queue and i.priority = y.priority and i.woken = w.woken and i.eligible_at <= p_now
                order by i.eligible_at, i.id
                limit gendurable._most_looks()
            ) d
            limit 5 * gendurable._most_looks()
        ) h
        where h.status = 'executing' and h.queue_slot is null);
    if v_strays = '{}' then
        return 0;
    end if;
    v_locked := array(
        select i.id
        from gendurable.instance i
        where i.id = any(v_strays) and i.status = 'executing' and i.queue = p_queue and i.queue_slot is null
        order by i.id
        for no key update skip locked);
    if v_locked <> '{}' then
        perform gendurable._give_slots(p_queue, v_locked);
    end if;
    -- those that somebody has locked may execute for longer than that: they count
    return (
        select count(*)::int
        from gendurable.instance i
        where i.id = any(v_strays) and i.status = 'executing' and i.queue = p_queue and i.queue_slot is null);
end $$;

comment on function gendurable._count_strays(text, timestamptz) is
    'Gives slots to what executes in a queue without one, from before its limit was set; how many are left that could not get one
now. Under the lock of the queue.';

create or replace function gendurable._note_settled(p_queue text, p_changed_in xid8, p_known_in xid8) returns boolean
language plpgsql as $$
declare
    v_settled constant boolean := coalesce(pg_snapshot_xmin(pg_current_snapshot()) >= p_known_in, false);
begin
    -- Claims that began before the limit was committed do not know of it. When all who may not have ended, what they left is seen
    -- by the next statement.
    if not v_settled and (p_known_in is not null or not gendurable._is_seen_by_all(p_changed_in)) then
        return false;
    end if;
    update gendurable.queue_setting s
    set changed_in = case when not v_settled then s.changed_in end,
        known_in = case when not v_settled then pg_current_xact_id() end
    from (
        select x.queue from gendurable.queue_setting x
        where x.queue = p_queue and x.changed_in = p_changed_in
        for no key update skip locked
    ) l
    where s.queue = l.queue;
    return v_settled;
end $$;

comment on function gendurable._note_settled(text, xid8, xid8) is
    'Notes how far the claims have ended that may not know of a queue''s limit; whether all have. Under the lock of the queue.';

create or replace function gendurable._find_room(p_queue text, p_wanted int, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_setting record;
    v_used record;
    v_room int;
begin
    -- Lock first, read in later statements.
    select s.max_executing, s.changed_in, s.known_in into v_setting
    from gendurable.queue_setting s
    where s.queue = p_queue;
    if v_setting.max_executing is null then
        return p_wanted;
    end if;
    v_room := v_setting.max_executing;
    if v_setting.changed_in is not null then
        perform gendurable._note_settled(p_queue, v_setting.changed_in, v_setting.known_in);
        v_room := v_room - gendurable._count_strays(p_queue, p_now);
    end if;
    v_used := gendurable._count_slots(p_queue, p_now);
    v_room := v_room - v_used.used;
    if v_room < p_wanted and v_used.expired <> '{}' then
        v_room := v_room + gendurable._free_expired(v_used.expired, p_now);
    end if;
    return greatest(v_room, 0);
end $$;

comment on function gendurable._find_room(text, int, timestamptz) is
    'How many rows of a queue may start: p_wanted where it has no limit any more. Takes back expired claims where that is too
little. Under the lock of the queue.';

create or replace function gendurable._open_queue(p_queue text, p_wanted int, p_tries int, p_now timestamptz) returns int
language plpgsql as $$
begin
    for v_try in 1 .. p_tries loop
        if pg_try_advisory_xact_lock(gendurable._lock_of_queues(), hashtext(p_queue)) then
            return gendurable._find_room(p_queue, p_wanted, p_now);
        end if;
        if v_try < p_tries then
            -- a claim takes a few milliseconds; one in somebody's open transaction holds up this queue and no other
            perform pg_sleep(0.002 * v_try);
        end if;
    end loop;
    return null;
end $$;

comment on function gendurable._open_queue(text, int, int, timestamptz) is
    'Begins a claim of a queue with a limit: for how many rows there is room, up to p_wanted of which are asked for; null: another
claim is at it.';

create or replace function gendurable._fill_slots(p_queue text, p_ids bigint[], p_more boolean) returns void
language plpgsql as $$
begin
    perform gendurable._give_slots(p_queue, p_ids);
    if p_more then
        -- Whoever was held off by this claim found nothing, and sleeps.
        perform gendurable._wake_sleepers(array[p_queue]);
    end if;
end $$;

comment on function gendurable._fill_slots(text, bigint[], boolean) is
    'Ends a claim of a queue with a limit: its rows get slots. p_more: there is room, and may be more that is due.';

create or replace function gendurable._wake_for_slots(p_ids bigint[], p_queues text[]) returns void
language plpgsql as $$
begin
    -- not for claims that were kept, or not written
    perform gendurable._wake_sleepers(array(
        select distinct u.queue
        from unnest(p_ids, p_queues) u (id, queue)
        where not exists (select from gendurable.instance i where i.id = any(array[u.id]) and i.queue_slot is not null)));
end $$;

comment on function gendurable._wake_for_slots(bigint[], text[]) is
    'Wakes who sleeps on queues in which one of these rows has let go of its slot.';

create or replace function gendurable._is_full(p_queue text, p_now timestamptz) returns boolean
language plpgsql as $$
declare
    v_used record;
begin
    v_used := gendurable._count_slots(p_queue, p_now);
    return v_used.expired = '{}' and v_used.used >= (
        select s.max_executing from gendurable.queue_setting s where s.queue = p_queue);
end $$;

comment on function gendurable._is_full(text, timestamptz) is
    'Whether no row of a queue with a limit can start before somebody ends there, and wakes who sleeps. False without a limit.';
