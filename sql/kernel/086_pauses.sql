-- Pauses. A paused queue is passed over (065_decide). A paused machine, version or step, and an instance that is paused by itself, is
-- met: a claim that finds such a row due sets it aside, out of the index of the claims, out of its key and out of the line before
-- its rate limit, and passes its key's baton on. So each row is written once, and nothing is decided about others: nobody has to be
-- told. What makes such a row due again (a signal, a child, gd_retry) knows of no pause; the next claim meets it. aside_at is its place
-- and time, with which it comes back.
-- Who resumes a machine brings some rows back and leaves a note (resumed): claims bring back the rest, batch by batch. Claims that
-- began before may set rows aside after that: the note stays until all of them have ended, and upkeep looks at all that is aside.
-- Invariant 6: what is aside is paused, or there is a note, or upkeep finds it.
-- Next: 087_conflict, what an insert does about the holder of its key.

-- Sets, since only so what reads a table is inlined.
create or replace function gendurable._find_pause(p_fsm text, p_version int, p_step text)
returns table (version int, step text, paused_at timestamptz, paused_by text)
language sql stable parallel safe rows 1 as $$
    select m.version, m.step, m.paused_at, m.paused_by
    from gendurable.paused_machine m
    where m.fsm = p_fsm and (m.version = 0 or m.version = p_version) and (m.step = '' or m.step = p_step)
$$;

comment on function gendurable._find_pause(text, int, text) is
    'The pauses that hold a step of a version of a machine; of the step '''': those that hold every step.';

create or replace function gendurable._find_paused(p_ids bigint[]) returns bigint[]
language plpgsql stable as $$
begin
    return array(
        select i.id
        from unnest(p_ids) u (id)
        join gendurable.instance i on i.id = any(array[u.id])
        where i.paused_at is not null
            or (select true from gendurable._find_pause(i.fsm, i.fsm_version, i.step) limit 1));
end $$;

comment on function gendurable._find_paused(bigint[]) is 'Those of the instances that are paused, or whose step is.';

create or replace function gendurable._find_paused_behind(p_keys text[], p_buckets text[], p_queue text) returns bigint[]
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    -- in all some hundreds
    v_most constant int := greatest(500 / greatest(cardinality(p_keys) + cardinality(p_buckets), 1), 5);
    v_near bigint[];
begin
    v_near := array(
        select x.id
        from unnest(p_keys) k (key)
        cross join lateral (
            select i.id
            from gendurable.instance i
            -- not what was given back for a while: those behind it wait for that
            where i.partition_key = k.key and i.lane_at <= v_now and i.slot_no is null
                and (i.eligible_at is null or i.eligible_at <= v_now)
            order by i.priority, i.lane_at, i.id
            limit v_most
        ) x
        union all
        select x.id
        from unnest(p_buckets) b (bucket)
        cross join lateral (
            select i.id
            from gendurable.instance i
            where i.rate_limit = b.bucket and i.queue = p_queue and i.bucket_at is not null and i.partition_key is null
            order by i.priority, i.bucket_at, i.id
            limit v_most
        ) x);
    return array(
        select i.id
        from gendurable.instance i
        where i.id = any(gendurable._find_paused(v_near)) and i.aside_at is null and i.status <> 'executing'
        order by i.id
        for no key update skip locked);
end $$;

comment on function gendurable._find_paused_behind(text[], text[], text) is
    'Locks paused rows among the first of keys, and of the lines of rate limits in a queue: one look sets many of them aside. Under
the keys'' locks.';

create or replace function gendurable._set_aside(p_ids bigint[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_keys text[];
begin
    with aside as (
        update gendurable.instance i
        set aside_at = coalesce(i.lane_at, i.eligible_at, i.bucket_at), aside_step = i.step, eligible_at = null, lane_at = null,
            bucket_at = null, woken = 1, updated_at = p_now
        where i.id = any(p_ids) and i.aside_at is null and i.status in ('runnable', 'awaiting_signal')
            and coalesce(i.lane_at, i.eligible_at, i.bucket_at) is not null
        returning i.partition_key
    )
    select array_agg(distinct a.partition_key) into v_keys from aside a where a.partition_key is not null;
    perform gendurable._keep_batons(v_keys, p_ids, p_now);
end $$;

comment on function gendurable._set_aside(bigint[], timestamptz) is
    'Sets rows aside that are due, or stand in their keys or lines, and passes their keys'' batons on. Under the locks of the rows and
the keys.';

create or replace function gendurable._set_lane_aside(p_key text, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_ids bigint[];
begin
    -- looked at without the lock first: mostly there is nothing to do
    if gendurable._find_paused(gendurable._find_heads(p_key, 1)) = '{}'
        or not pg_try_advisory_xact_lock(gendurable._key_lock(p_key))
    then
        return;
    end if;
    v_ids := gendurable._find_paused_behind(array[p_key], '{}', null);
    if v_ids <> '{}' then
        perform gendurable._set_aside(v_ids, p_now);
    end if;
end $$;

comment on function gendurable._set_lane_aside(text, timestamptz) is
    'Sets the paused rows at the head of a key aside, if nobody else has its lock: no claim may meet them, in a queue that nobody
serves.';

create or replace function gendurable._bring_back(p_ids bigint[], p_now timestamptz) returns int
language plpgsql as $$
declare
    v_count int;
    v_queues text[];
begin
    -- Without the locks of their keys, as an insert does it: a due row is its own baton.
    with back as (
        update gendurable.instance i
        set eligible_at = least(i.aside_at, p_now),
            lane_at = case when i.partition_key is not null then least(i.aside_at, p_now) end,
            aside_at = null, aside_step = null, woken = 1, updated_at = p_now
        where i.id = any(p_ids) and i.aside_at is not null
        returning i.queue
    )
    select count(*)::int, array_agg(distinct b.queue) into v_count, v_queues from back b;
    perform gendurable._wake_sleepers(v_queues);
    return v_count;
end $$;

comment on function gendurable._bring_back(bigint[], timestamptz) is
    'Makes rows due that were set aside, at their places: how many. Under the locks of the rows.';

create or replace function gendurable._bring_back_free(p_ids bigint[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_paused constant bigint[] := gendurable._find_paused(p_ids);
begin
    perform gendurable._bring_back(array(select u.id from unnest(p_ids) u (id) where u.id <> all(v_paused)), p_now);
end $$;

comment on function gendurable._bring_back_free(bigint[], timestamptz) is
    'Makes those of the rows due that are aside and not paused any more: for whoever ends the pause of some, or moves them to another
step or version. Under the locks of the rows.';

create or replace function gendurable._find_aside(
    p_fsm text, p_step text, p_version int, p_id bigint, out fsm text, out step text, out version int, out id bigint
)
language plpgsql as $$
begin
    select i.fsm, i.aside_step, i.fsm_version, i.id into fsm, step, version, id
    from gendurable.instance i
    where i.paused_at is null and i.finished_at is null and coalesce(i.paused_at, i.aside_at) is not null
        and (i.fsm, i.aside_step, i.fsm_version, i.id) > (p_fsm, p_step, p_version, p_id)
    order by i.paused_at, i.fsm, i.aside_step, i.fsm_version, i.id
    limit 1;
end $$;

comment on function gendurable._find_aside(text, text, int, bigint) is
    'The next row that a pause of its machine has set aside, in the order of machines, steps and versions; nulls: there is none.';

create or replace function gendurable._bring_back_group(
    p_fsm text, p_step text, p_version int, p_id bigint, p_most int, p_now timestamptz, out count int, out last_id bigint
)
language plpgsql as $$
declare
    v_ids bigint[];
begin
    count := 0;
    last_id := 9223372036854775807;
    if (select true from gendurable._find_pause(p_fsm, p_version, p_step) limit 1) then
        return;
    end if;
    v_ids := array(
        select i.id
        from gendurable.instance i
        where i.paused_at is null and i.fsm = p_fsm and i.aside_step = p_step and i.fsm_version = p_version and i.id >= p_id
            and i.finished_at is null and coalesce(i.paused_at, i.aside_at) is not null
        order by i.paused_at, i.fsm, i.aside_step, i.fsm_version, i.id
        limit p_most
        for no key update skip locked);
    if v_ids <> '{}' then
        count := gendurable._bring_back(v_ids, p_now);
        if cardinality(v_ids) = p_most then
            last_id := v_ids[p_most];
        end if;
    end if;
end $$;

comment on function gendurable._bring_back_group(text, text, int, bigint, int, timestamptz) is
    'Brings rows of a step of a version back, from an id on, if they are not paused: how many, and up to which one it looked.';

create or replace function gendurable._bring_back_some(p_fsm text, p_most int, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_note record;
    v_next record;
    v_done record;
    v_count int := 0;
    v_ended boolean := false;
begin
    -- one claim at a time; the others go on
    select r.id, r.fsm, r.at_step, r.at_version, r.at_id, r.rounds, r.changed_in, r.known_in into v_note
    from gendurable.resumed r
    where r.again_at <= p_now and (p_fsm is null or r.fsm = p_fsm)
    order by r.rounds, r.id
    limit 1
    for no key update skip locked;
    if not found then
        return 0;
    end if;
    for v_look in 1 .. 50 loop
        v_next := gendurable._find_aside(v_note.fsm, v_note.at_step, v_note.at_version, v_note.at_id);
        v_ended := v_next.fsm is distinct from v_note.fsm;
        exit when v_ended;
        v_done := gendurable._bring_back_group(
            v_next.fsm, v_next.step, v_next.version, v_next.id, p_most - v_count, p_now);
        v_count := v_count + v_done.count;
        v_note.at_step := v_next.step;
        v_note.at_version := v_next.version;
        v_note.at_id := v_done.last_id;
        exit when v_count >= p_most;
    end loop;
    if v_ended then
        perform gendurable._end_round(v_note.id, v_note.fsm, v_note.rounds, v_note.changed_in, v_note.known_in, p_now);
        return v_count;
    end if;
    update gendurable.resumed r
    set at_step = v_note.at_step, at_version = v_note.at_version, at_id = v_note.at_id
    where r.id = v_note.id;
    -- whoever claims next goes on, in whatever queue
    perform gendurable._notify_listeners('');
    return v_count;
end $$;

comment on function gendurable._bring_back_some(text, int, timestamptz) is
    'Brings up to p_most rows of a machine that was resumed (p_fsm; null: any) back, from where the last call ended, and wakes whoever
goes on: how many.';

create or replace function gendurable._end_round(
    p_id bigint, p_fsm text, p_rounds int, p_changed_in xid8, p_known_in xid8, p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_next record;
    v_known_in xid8 := p_known_in;
    v_step text := '';
    v_version int := 0;
    v_id bigint := 0;
begin
    -- As of a limit of a queue (_note_settled, 099_slots). Asked before it is looked what is left: when all who may not know of the
    -- end of the pause have ended, what they have set aside is seen by the next statement.
    if coalesce(pg_snapshot_xmin(pg_current_snapshot()) >= p_known_in, false) then
        for v_look in 1 .. 50 loop
            v_next := gendurable._find_aside(p_fsm, v_step, v_version, v_id);
            if v_next.fsm is distinct from p_fsm then
                delete from gendurable.resumed r where r.id = p_id;
                return;
            end if;
            -- what is left is paused by another pause, or was locked
            exit when not coalesce(
                (select true from gendurable._find_pause(v_next.fsm, v_next.version, v_next.step) limit 1), false);
            v_step := v_next.step;
            v_version := v_next.version;
            v_id := 9223372036854775807;
        end loop;
    elsif p_known_in is null and gendurable._is_seen_by_all(p_changed_in) then
        v_known_in := pg_current_xact_id();
    end if;
    update gendurable.resumed r
    set at_step = '', at_version = 0, at_id = 0, rounds = p_rounds + 1, known_in = v_known_in,
        again_at = p_now + least(interval '100 ms' * 2 ^ least(p_rounds, 10), interval '1 minute')
    where r.id = p_id;
end $$;

comment on function gendurable._end_round(bigint, text, int, xid8, xid8, timestamptz) is
    'Ends a round over what is aside of a machine: the note goes when nobody can set rows aside any more for the pause that is over,
and none are left; else there is another round.';

create or replace function gendurable._bring_back_strays(p_now timestamptz, p_until timestamptz) returns int
language plpgsql as $$
declare
    v_most constant int := 2000;
    v_place jsonb := gendurable._recall_place('aside');
    v_behind boolean := v_place is not null;         -- what stands before the place was not looked at in this call
    v_next record;
    v_done record;
    v_count int := 0;
begin
    for v_look in 1 .. 2000 loop
        exit when v_count >= v_most or clock_timestamp() > p_until;
        v_next := gendurable._find_aside(
            coalesce(v_place ->> 0, ''), coalesce(v_place ->> 1, ''), coalesce((v_place ->> 2)::int, 0),
            coalesce((v_place ->> 3)::bigint, 0));
        if v_next.fsm is null then
            v_place := null;
            exit when not v_behind;
            v_behind := false;
            continue;
        end if;
        v_done := gendurable._bring_back_group(
            v_next.fsm, v_next.step, v_next.version, v_next.id, v_most - v_count, p_now);
        v_count := v_count + v_done.count;
        v_place := jsonb_build_array(v_next.fsm, v_next.step, v_next.version, v_done.last_id);
    end loop;
    perform gendurable._keep_place('aside', v_place);
    return v_count;
end $$;

comment on function gendurable._bring_back_strays(timestamptz, timestamptz) is
    'Brings back what is aside although no pause holds it, 2,000 rows a call: how many.';

create or replace function gendurable._pause_queue(p_queue text) returns boolean
language plpgsql as $$
begin
    perform gendurable._announce_decision();
    insert into gendurable.paused_queue (queue, paused_by) values (p_queue, gendurable._actor()) on conflict do nothing;
    if not found then
        return false;
    end if;
    -- rows of this queue may hold the batons of keys with rows in other queues
    perform gendurable._outwait_key_holders();
    perform gendurable._carry_out_decision(array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.lane_at is not null and i.slot_no is null and i.queue = p_queue
            and (i.eligible_at is not null or i.bucket_at is not null)
        union
        select i.partition_key
        from gendurable.instance i
        where i.partition_key is not null and i.eligible_at is not null and i.lane_at is null and i.queue = p_queue
    ), clock_timestamp());
    return true;
end $$;

comment on function gendurable._pause_queue(text) is 'Pauses a queue; false: it is paused already. Under lock_timeout.';

create or replace function gendurable._resume_queue(p_queue text) returns boolean
language plpgsql as $$
begin
    perform gendurable._announce_decision();
    delete from gendurable.paused_queue q where q.queue = p_queue;
    if not found then
        return false;
    end if;
    perform gendurable._outwait_key_holders();
    perform gendurable._carry_out_decision(array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.queue = p_queue and i.eligible_at is null and i.finished_at is null and i.lane_at is not null
    ), clock_timestamp());
    perform gendurable._wake_sleepers(array[p_queue]);
    return true;
end $$;

comment on function gendurable._resume_queue(text) is 'Ends the pause of a queue; false: it is not paused. Under lock_timeout.';
