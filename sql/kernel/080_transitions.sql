-- The transitions between statuses: nothing else writes a status. What is kept of each (errors, history) is written by whoever
-- calls these, before (084_records). A row begins as runnable (070_new_instance) and becomes executing by a claim; a commit
-- writes where it goes from there, all kinds in one statement; a signal, the last child, a lost or given back claim and gd_retry
-- make it runnable; what ends it from outside of a step is 090_end. The table of all transitions stands in CONTRIBUTING.md.
-- Invariant 1: a committed transition is never undone, repeated or skipped. Under the locks of the rows; what a key needs
-- then is its baton's matter (060_baton). Next: 082_deliver, what wakes a row that waits for a signal.

create or replace function gendurable._to_runnable(
    p_ids bigint[], p_due timestamptz, p_crashed boolean, p_now timestamptz
) returns int
language plpgsql as $$
declare
    v_count int;
    v_queues text[];
    v_routed boolean;
begin
    perform gendurable._take_unique_keys(p_ids, array_fill('runnable'::gendurable.status, array[cardinality(p_ids)]));
    with due as (
        update gendurable.instance i
        set status = 'runnable', eligible_at = p_due, woken = 1,
            -- out of a claim it keeps its turn, also where it is not due at once: those behind it wait
            lane_at = case
                when i.partition_key is null then null
                when i.status = 'executing' then coalesce(i.lane_at, p_due)
                else p_due
            end,
            worker = null, lease_expires_at = null, timeout_at = null, slot_no = null, queue_slot = null, bucket_at = null,
            aside_at = null,
            -- what had ended begins anew
            attempt = case
                when i.finished_at is null then i.attempt + (p_crashed and not gendurable._is_run(i.worker))::int else 0
            end,
            crashes = case when i.finished_at is null then i.crashes + p_crashed::int else 0 end,
            finished_at = null, failed_at = null, result = null, keep_until = null,
            -- a signal has answered the await; else it stands as it was
            deadline_at = case when i.status <> 'awaiting_signal' then i.deadline_at end,
            children_pending = case when i.children_pending is not null then 0 end,
            unique_held = case
                when i.finished_at is null then gendurable._unique_held(i.unique_held, i.unique_scope, 'runnable')
                when 'runnable' = any(coalesce(i.unique_scope, '{runnable}')) then i.unique_key
            end,
            updated_at = p_now
        where i.id = any(p_ids)
        returning i.queue, i.home
    )
    select count(*)::int, array_agg(distinct d.queue), bool_or(d.home is not null)
    into v_count, v_queues, v_routed
    from due d;
    if not v_routed then
        -- a statement without a variable is planned once: signals are not under force_generic_plan
        v_routed := (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1);
    end if;
    if v_routed then
        perform gendurable._place_rows(p_ids, null, p_now);
    end if;
    if p_due <= p_now + gendurable._longest_poll() and v_queues is not null
        -- an expression: mostly there is one queue on which nobody sleeps
        and (cardinality(v_queues) > 1 or not gendurable._is_awake(v_queues[1]))
    then
        perform gendurable._wake_sleepers(v_queues);
    end if;
    return v_count;
end $$;

comment on function gendurable._to_runnable(bigint[], timestamptz, boolean, timestamptz) is
    'Makes rows runnable that waited for a signal or for children, were executing (p_crashed: their worker was lost), or had ended,
due at p_due; how many. Raises unique_violation where one that had ended cannot have its unique key back.';

create or replace function gendurable._resume(p_id bigint, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_row record;
begin
    -- What _to_runnable does, without what an instance that waits for a signal has not: setting that up is half of the update.
    update gendurable.instance i
    set status = 'runnable', eligible_at = p_now, woken = 1, lane_at = case when i.partition_key is not null then p_now end,
        aside_at = null, deadline_at = null, updated_at = p_now
    where i.id = p_id returning i.queue, i.home is not null or (
        select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1) as routed
    into v_row;
    if v_row.routed then
        perform gendurable._place_rows(array[p_id], null, p_now);
    end if;
    if not gendurable._is_awake(v_row.queue) then
        perform gendurable._wake_sleepers(array[v_row.queue]);
    end if;
end $$;

comment on function gendurable._resume(bigint, timestamptz) is
    'Makes a locked row runnable that awaits a signal and has no scope of its own for its unique key, due now.';

create or replace function gendurable._to_executing(
    p_worker text, p_ids bigint[], p_slots int[], p_now timestamptz, p_lease interval
) returns void
language plpgsql as $$
declare
    v_claim_no constant bigint := gendurable._epoch_us(p_now);
begin
    update gendurable.instance i
    set status = 'executing',
        worker = p_worker,
        -- nobody holds it beyond its deadline
        lease_expires_at = least(p_now + p_lease, i.expires_at),
        timeout_at = null,
        -- a claim committed asynchronously can be lost in a crash of the server: its number is not used again
        claim_no = greatest(i.claim_no + 1, v_claim_no),
        attempt = i.attempt + (i.status = 'executing' and not gendurable._is_run(i.worker))::int,
        crashes = i.crashes + (i.status = 'executing')::int,
        slot_no = w.slot_no,
        -- out of a line it comes back into the index of the claims, where a lease is looked at
        eligible_at = coalesce(i.eligible_at, p_now),
        bucket_at = null,
        updated_at = p_now,
        unique_held = gendurable._unique_held(i.unique_held, i.unique_scope, 'executing'),
        deadline_at = case
            when i.deadline_at is not null and (
                select true from gendurable.signal s
                where s.instance_id = i.id and s.name = any(i.awaits) and s.id <> all(coalesce(i.shown, '{}'))
                limit 1
            ) is null then i.deadline_at
        end,
        -- what an await may ignore later: signals presented while the row awaited their name
        shown = case
            when i.awaits is not null then array(
                select s.id
                from unnest(i.awaits) a (name)
                cross join lateral (
                    -- name by name: one range for all of them would be sorted as a whole before the limit
                    select s.id from gendurable.signal s
                    where s.instance_id = i.id and s.name = a.name
                    order by s.id limit gendurable._most_signals()
                ) s
                order by s.id
                limit gendurable._most_signals())
        end
    from unnest(p_ids, p_slots) w (id, slot_no)
    -- not "=": see docs/performance.md, "Plans"; the same in all that joins rows to an array of what is asked for
    where i.id = any(array[w.id]);
end $$;

comment on function gendurable._to_executing(text, bigint[], int[], timestamptz, interval) is
    'Begins claims on locked rows, with the slot that each got of its key.';

create or replace function gendurable._to_executing_bare(
    p_worker text, p_ids bigint[], p_places tid[], p_now timestamptz, p_lease interval
) returns setof gendurable.claimed
language plpgsql as $$
#variable_conflict use_column
declare
    v_claim_no constant bigint := gendurable._epoch_us(p_now);
    v_found int;
    v_ids bigint[];
    v_places tid[];
begin
    -- As _to_executing and _hand_out do, without what these rows have not: setting that up is a good part of a claim of a few rows.
    -- By their places, one by one: where a snapshot is held, an id leads past all dead versions of its row. is true: no index has that.
    return query
        update gendurable.instance i
        set status = 'executing', worker = p_worker, lease_expires_at = p_now + p_lease,
            claim_no = greatest(i.claim_no + 1, v_claim_no), updated_at = p_now
        from unnest(p_ids, p_places) w (id, place)
        where i.ctid = w.place and (i.id = w.id) is true
        returning i.id, i.claim_no, i.fsm, i.fsm_version, i.step, i.state, i.attempt, i.queue, null::text, i.unique_key,
            i.parent_id, null::text[], false, jsonb '[]', jsonb '[]', i.meta, coalesce(i.attributes, '{}');
    get diagnostics v_found = row_count;
    if v_found < cardinality(p_ids) then
        -- what this transaction has written since then stands elsewhere
        select array_agg(u.id order by u.ord), array_agg(x.ctid order by u.ord) into v_ids, v_places
        from unnest(p_ids, p_places) with ordinality u (id, place, ord)
        join gendurable.instance x on x.id = any(array[u.id]) and x.status = 'runnable' and x.ctid is distinct from u.place;
        return query select * from gendurable._to_executing_bare(p_worker, v_ids, v_places, p_now, p_lease);
    end if;
end $$;

comment on function gendurable._to_executing_bare(text, bigint[], tid[], timestamptz, interval) is
    'Begins claims on locked rows that are runnable, in no key or scope, have no await, no signal and no children, and hands them
out. p_places: where they stand. Those that stand elsewhere come last.';

-- One statement for all kinds: one for each would cost a set-up each. What is the same for several columns is worked out once.
create or replace function gendurable._write_outcomes(
    p_worker text, p_outcomes gendurable.outcome[], p_kept bigint[], p_mail boolean, p_crowded text[], p_lease interval,
    p_now timestamptz, p_places tid[],
    out ended bigint[], out done bigint[], out parents bigint[], out barriers bigint[], out queues text[], out answers jsonb
)
language plpgsql as $$
declare
    v_claim_no constant bigint := gendurable._epoch_us(p_now);
    v_places tid[] := p_places;
    v_ids bigint[];
    v_one record;
begin
    if v_places is null then
        for v_one in
            select o.ord, i.ctid as place from unnest(p_outcomes) o join gendurable.instance i on i.id = any(array[o.id])
        loop
            v_places[1 + v_one.ord] := v_one.place;
        end loop;
    end if;
    with written as (
        update gendurable.instance i
        set status = o.next_status, step = coalesce(o.step, o.from_step, i.step),
            state = coalesce(o.state, o.from_state, i.state),
            queue = coalesce(o.queue, i.queue),
            home = o.home,
            priority = coalesce(o.priority, i.priority),
            partition_key = gendurable._next_key(o.rekey, o.partition_key, i.partition_key),
            eligible_at = case
                when o.kept then i.eligible_at
                -- somebody waits in its key: it parks behind them, and who is first is lifted when all is written
                when o.eligible_at <= p_now
                    and gendurable._next_key(o.rekey, o.partition_key, i.partition_key) = any(p_crowded) then null
                else o.eligible_at
            end,
            lane_at = case
                when o.kept then i.lane_at
                when gendurable._next_key(o.rekey, o.partition_key, i.partition_key) is not null then o.eligible_at
            end,
            deadline_at = case when o.kind = 'await' then o.deadline_at when o.stays and o.shown_again then i.deadline_at end,
            slot_no = case when o.kept then i.slot_no end, queue_slot = case when o.kept then i.queue_slot end,
            woken = case when o.kept then i.woken else 1 end,
            claim_no = case when o.kept then greatest(i.claim_no + 1, v_claim_no) else i.claim_no end,
            worker = case when o.kept then p_worker end,
            -- what runs still has no more time than it had; else no claim is kept into a timed step
            lease_expires_at = case when o.kept then least(
                p_now + p_lease, i.expires_at, case when o.runs and o.step = i.step then i.timeout_at end) end,
            timeout_at = case when o.kept and o.runs and o.step = i.step then i.timeout_at end,
            expires_at = case when not o.ends then i.expires_at end,
            attempt = case when o.stays then i.attempt else 0 end + (o.kind = 'replay')::int,
            crashes = case when p_worker is null then i.crashes else 0 end,
            awaits = case when o.kind = 'await' then o.awaits when o.stays and o.shown_again then i.awaits end,
            shown = case when o.from_step is null and (o.kind = 'await' or o.shown_again) then i.shown end,
            children_pending = coalesce(o.children, i.children_pending),
            -- kept at the end for gd_retry: what is tried again is limited, too
            rate_limit = case when o.stays then i.rate_limit else o.rate_limit end,
            weight = case
                when o.stays then i.weight when o.rate_limit is not null then coalesce(o.weight, 1)
            end,
            last_error = coalesce(o.error, case when o.stays and not o.ends then i.last_error end),
            result = o.result,
            finished_at = case when o.ends then p_now end,
            failed_at = case when o.ends and o.next_status <> 'done' then p_now end,
            keep_until = o.keep_until,
            updated_at = p_now,
            unique_held = gendurable._unique_held(i.unique_held, i.unique_scope, o.next_status),
            attributes = nullif(coalesce(o.attributes, i.attributes), '{}')
        from (
            select k.*,
                case when k.kept then 'executing' else k.status end as next_status,
                -- a step that stops is shown the same once more if gd_retry makes it run again
                k.kind in ('replay', 'stop') as shown_again,
                -- it ends in the step that was claimed, or runs it again: what belongs to that step goes on
                (k.kind = 'replay' or k.ends) and k.from_step is null as stays,
                k.journal -> 'runs' = 'true' as runs
            -- offset: looked for once, and not in each column that asks
            from (
                select u.*, u.keep and u.id = any(p_kept) as kept, v_places[1 + u.ord] as place from unnest(p_outcomes) u offset 0
            ) k
        ) o
        where i.ctid = o.place and (i.id = o.id) is true
        returning i.id, i.status, i.queue, i.eligible_at, i.finished_at, i.parent_id, i.barrier_no, o.ord
    )
    select array_agg(w.id) filter (where w.finished_at is not null),
        array_agg(w.id) filter (where w.status = 'done'),
        array_agg(w.parent_id) filter (where w.finished_at is not null and w.barrier_no is not null),
        array_agg(w.barrier_no) filter (where w.finished_at is not null and w.barrier_no is not null),
        array_agg(w.queue) filter (
            where w.status <> 'executing' and w.eligible_at <= p_now + gendurable._longest_poll()),
        jsonb_object_agg(w.ord, gendurable._kept_answer(p_mail)) filter (where w.status = 'executing'),
        array_agg(w.id)
    into ended, done, parents, barriers, queues, answers, v_ids
    from written w;
    if coalesce(cardinality(v_ids), 0) < cardinality(p_outcomes) then
        -- the rows are locked: what this transaction has written since then stands elsewhere, and none has gone
        assert p_places is not null, 'not every outcome was written: some have one ord, or no instance';
        select ended || r.e, done || r.d, parents || r.p, barriers || r.b, queues || r.q, coalesce(answers || r.a, r.a, answers)
        into ended, done, parents, barriers, queues, answers
        from gendurable._write_outcomes(
            p_worker, array(select o from unnest(p_outcomes) o where o.id <> all(coalesce(v_ids, '{}'))), p_kept, p_mail, p_crowded,
            p_lease, p_now, null) r (e, d, p, b, q, a);
    end if;
    if cardinality(queues) > 1 then
        -- not sorted in the aggregate, which costs more, and most where a row is committed alone
        queues := array(select distinct q from unnest(queues) q);
    end if;
end $$;

comment on function gendurable._write_outcomes(
    text, gendurable.outcome[], bigint[], boolean, text[], interval, timestamptz, tid[]
) is
    'Writes outcomes whose claims hold: which instances ended, of these the done ones, the barriers that they counted in, the queues
in which something is due soon, and the answers for claims that go on (p_kept; p_mail: some have signals). p_worker: null where
no worker has answered: the time of the step was up. p_places: by ord, of which each has its own; null: not known. P0004: not all were.';

create or replace function gendurable._to_ended(
    p_ids bigint[], p_status gendurable.status, p_error text, p_crashed boolean, p_now timestamptz,
    out ids bigint[], out parents bigint[], out barriers bigint[], out keys text[]
)
language plpgsql as $$
declare
    v_queues constant text[] := array(
        select distinct i.queue from gendurable.instance i where i.id = any(p_ids) and i.queue_slot is not null);
begin
    perform gendurable._take_unique_keys(p_ids, array_fill(p_status, array[cardinality(p_ids)]));
    with ended as (
        update gendurable.instance i
        set status = p_status,
            last_error = coalesce(
                p_error, case when p_status = 'failed' then gendurable._expiry_error(i.expires_at) end, i.last_error),
            finished_at = p_now, updated_at = p_now, failed_at = case when p_status <> 'done' then p_now end,
            eligible_at = null, lane_at = null, bucket_at = null, aside_at = null, slot_no = null, queue_slot = null, worker = null,
            lease_expires_at = null, timeout_at = null, expires_at = null,
            crashes = i.crashes + p_crashed::int,
            unique_held = gendurable._unique_held(i.unique_held, i.unique_scope, p_status)
        where i.id = any(p_ids) and i.finished_at is null
        returning i.id, i.parent_id, i.barrier_no, i.partition_key
    )
    select array_agg(e.id), array_agg(e.parent_id), array_agg(e.barrier_no),
        array_agg(distinct e.partition_key) filter (where e.partition_key is not null)
    into ids, parents, barriers, keys
    from ended e;
    perform gendurable._wake_sleepers(v_queues);
end $$;

comment on function gendurable._to_ended(bigint[], gendurable.status, text, boolean, timestamptz) is
    'Ends rows from outside of a step, as failed (without an error: their deadline has passed) or cancelled: the ids, the barriers
that they counted in, and the keys whose batons are to be kept. Awaits, deadline and inbox stay, for gd_retry.';

create or replace function gendurable._give_back(
    p_ids bigint[], p_now timestamptz, p_due timestamptz, p_crashed boolean
) returns int
language plpgsql as $$
declare
    v_keys text[];
    v_queues text[];
    v_count int;
begin
    select array_agg(distinct i.partition_key) filter (where i.partition_key is not null),
        array_agg(distinct i.queue) filter (where i.queue_slot is not null)
    into v_keys, v_queues
    from gendurable.instance i
    where i.id = any(p_ids);
    v_count := gendurable._to_runnable(p_ids, p_due, p_crashed, p_now);
    perform gendurable._keep_batons(v_keys, p_ids, p_now);
    if v_queues is not null then
        -- whenever they are due: others may have their slots
        perform gendurable._wake_sleepers(v_queues);
    end if;
    return v_count;
end $$;

comment on function gendurable._give_back(bigint[], timestamptz, timestamptz, boolean) is
    'Makes executing rows runnable again and passes their keys on. Under the locks of the rows and their keys.';
