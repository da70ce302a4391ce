-- Writing outcomes, with every lock held: resolve what the instances decide, one update for all, and what follows.
-- Invariants 1 and 3. Next: the instance is due again (110_claim), waits for a signal (140_signal) or for children, or has ended
-- (kernel/090_end).

create or replace function gendurable._apply(
    p_worker text, p_outcomes gendurable.outcome[], p_keys text[], p_scoped boolean, p_family boolean, p_lease interval,
    p_now timestamptz
) returns jsonb
language plpgsql as $$
declare
    v_outcomes gendurable.outcome[] := p_outcomes;
    v_special boolean;
    v_limited boolean;
    v_moved boolean;
    v_keeps boolean;
    v_settled boolean := true;
    v_crowded text[] := '{}'::text[];
    v_kept bigint[] := '{}'::bigint[];
    v_mail boolean;
    v_ended bigint[];
    v_done bigint[];
    v_parents bigint[];
    v_barriers bigint[];
    v_queues text[];
    v_answers jsonb;
    v_claim_no constant bigint := gendurable._epoch_us(p_now);
begin
    select bool_or(o.kind in ('error', 'await', 'schedule_childs') or o.consume is not null),
        bool_or(o.rate_limit is not null), bool_or(o.queue is not null), bool_or(o.keep)
    into v_special, v_limited, v_moved, v_keeps
    from unnest(p_outcomes) o;
    if v_limited then
        perform gendurable._need_rate_limit(o.rate_limit) from unnest(p_outcomes) o where o.rate_limit is not null;
    end if;
    if v_special then
        v_outcomes := gendurable._resolve(v_outcomes, p_now);
    end if;
    if p_keys <> '{}' then
        v_settled := gendurable._settled();
        if v_settled then
            v_crowded := gendurable._crowded(p_keys, p_now);
        end if;
    end if;
    -- what a session cannot carry for certain is not put into the answer
    if v_keeps and gendurable._carries() then
        -- nothing may park while it is being decided who waits for what: then no claim of a key is kept either
        select k.ids, k.mail into v_kept, v_mail
        from gendurable._kept(v_outcomes, case when v_settled then v_crowded else p_keys end, p_family) k;
    end if;
    if p_scoped then
        perform gendurable._take_keys(array_agg(o.id), array_agg(
            case when o.id = any(v_kept) then 'executing' else o.status end))
        from unnest(v_outcomes) o;
    end if;
    if v_moved then
        insert into gendurable.queue_name (queue)
        select distinct o.queue
        from unnest(v_outcomes) o
        where o.queue is not null and not exists (select from gendurable.queue_name q where q.queue = o.queue);
    end if;

    with written as (
        update gendurable.instance i
        set status = case when o.kept then 'executing' else o.status end,
            step = case when o.kind = 'replay' or o.ends then i.step else coalesce(o.step, i.step) end,
            state = coalesce(o.state, i.state),
            queue = coalesce(o.queue, i.queue),
            priority = coalesce(o.priority, i.priority),
            partition_key = case when o.rekey then o.partition_key else i.partition_key end,
            eligible_at = case
                when o.kept then i.eligible_at
                -- somebody waits in its key: it parks behind them, and who is first is lifted below
                when o.eligible_at <= p_now
                    and case when o.rekey then o.partition_key else i.partition_key end = any(v_crowded) then null
                else o.eligible_at
            end,
            lane_at = case
                when o.kept then i.lane_at
                when case when o.rekey then o.partition_key else i.partition_key end is not null then o.eligible_at
            end,
            -- a step that stops is shown the same once more if gd_retry makes it run again
            deadline_at = case when o.kind = 'await' then o.deadline_at when o.kind in ('replay', 'stop') then i.deadline_at end,
            slot_no = case when o.kept then i.slot_no end,
            woken = case when o.kept then i.woken else 1 end,
            claim_no = case when o.kept then greatest(i.claim_no + 1, v_claim_no) else i.claim_no end,
            worker = case when o.kept then p_worker end,
            lease_expires_at = case when o.kept then p_now + p_lease end,
            attempt = case when o.kind = 'replay' then i.attempt + 1 when o.ends then i.attempt else 0 end,
            crashes = 0,
            awaits = case when o.kind = 'await' then o.awaits when o.kind in ('replay', 'stop') then i.awaits end,
            shown = case when o.kind in ('await', 'replay', 'stop') then i.shown end,
            children_pending = coalesce(o.children, i.children_pending),
            rate_limit = case when o.kind = 'replay' then i.rate_limit else o.rate_limit end,
            weight = case
                when o.kind = 'replay' then i.weight when o.rate_limit is not null then coalesce(o.weight, 1)
            end,
            last_error = coalesce(o.error, case when o.kind = 'replay' then i.last_error end),
            result = o.result,
            finished_at = case when o.ends then p_now end,
            updated_at = p_now,
            unique_held = gendurable._unique_held(i.unique_held, i.unique_scope,
                case when o.kept then 'executing' else o.status end)
        from (
            -- offset: looked for once, and not in each column that asks
            select u.*, u.keep and u.id = any(v_kept) as kept from unnest(v_outcomes) u offset 0
        ) o
        where i.id = any(array[o.id])
        returning i.id, i.status, i.queue, i.eligible_at, i.finished_at, i.parent_id, i.barrier_no, o.ord
    )
    select array_agg(w.id) filter (where w.finished_at is not null),
        array_agg(w.id) filter (where w.status = 'done'),
        array_agg(w.parent_id) filter (where w.finished_at is not null and w.barrier_no is not null),
        array_agg(w.barrier_no) filter (where w.finished_at is not null and w.barrier_no is not null),
        array_agg(distinct w.queue) filter (
            where w.status <> 'executing' and w.eligible_at <= p_now + gendurable._longest_poll()),
        jsonb_object_agg(w.ord, case when v_mail then jsonb '{"kept": "mail"}' else jsonb '{"kept": true}' end)
            filter (where w.status = 'executing')
    into v_ended, v_done, v_parents, v_barriers, v_queues, v_answers
    from written w;

    if v_ended is not null then
        perform gendurable._after_end(v_ended, v_done, v_parents, v_barriers, p_now);
    end if;
    if p_keys <> '{}' then
        perform gendurable._keep_baton(p_keys, array(select o.id from unnest(v_outcomes) o), p_now);
    end if;
    perform gendurable._wake(v_queues);
    return coalesce(v_answers, '{}');
end $$;

comment on function gendurable._apply(text, gendurable.outcome[], text[], boolean, boolean, interval, timestamptz) is
    'Writes the outcomes, all in one update, and what follows from them; answers for the claims that were kept. Under
the locks of the rows, their parents and the keys.';

create or replace function gendurable._resolve(p_outcomes gendurable.outcome[], p_now timestamptz)
returns gendurable.outcome[]
language plpgsql as $$
declare
    v_outcomes gendurable.outcome[] := p_outcomes;
    v_one gendurable.outcome;
    v_row record;
begin
    -- signal by signal (hence the offset): with "any" of the array the planner may walk the whole inbox
    delete from gendurable.signal s
    using (
        select o.id as instance_id, c.id
        from unnest(p_outcomes) o
        cross join lateral unnest(o.consume) c (id)
        offset 0
    ) u
    where s.instance_id = u.instance_id and s.id = u.id;

    for v_at in 1 .. cardinality(v_outcomes) loop
        v_one := v_outcomes[v_at];
        continue when v_one.kind not in ('error', 'await', 'schedule_childs');
        select i.attempt, i.fsm, i.fsm_version, i.awaits, i.shown, i.meta,
            coalesce(i.max_attempts, (
                select m.max_attempts from gendurable.machine m where m.fsm = i.fsm and m.version = i.fsm_version
            ), 20) as max_attempts
        into v_row
        from gendurable.instance i
        where i.id = v_one.id;

        if v_one.kind = 'error' then
            if v_row.attempt + 1 < v_row.max_attempts then
                v_one.kind := 'replay';
                if not v_one.delayed then
                    -- a fifth up or down: instances that failed together do not come back together
                    v_one.eligible_at := p_now + (0.8 + 0.4 * random())
                        * least(interval '1 second' * power(2, least(v_row.attempt, 20)), interval '5 minutes');
                end if;
            else
                v_one.kind := 'stop';
                v_one.status := 'failed';
                v_one.ends := true;
                v_one.eligible_at := null;
            end if;
        elsif v_one.kind = 'await' then
            v_one.deadline_at := v_one.eligible_at;
            -- What this claim presented while the row awaited that name does not count again. The row is locked, so
            -- a signal that is not seen here comes later and finds the row parked.
            if exists (
                select from gendurable.signal s
                where s.instance_id = v_one.id and s.name = any(v_one.awaits)
                    and s.id <> all(coalesce(v_row.shown, '{}'))
            ) then
                v_one.status := 'runnable';
                v_one.eligible_at := p_now;
                v_one.deadline_at := null;
            end if;
        else
            v_one.children := cardinality(array_remove(
                gendurable._insert(gendurable._parse_instances(v_one.childs), v_one.id, v_one.claim_no,
                    gendurable._trace_of(v_row.meta)), null));
            if v_one.children = 0 then
                v_one.status := 'runnable';
                v_one.eligible_at := p_now;
            end if;
        end if;
        v_outcomes[v_at] := v_one;
    end loop;
    return v_outcomes;
end $$;

comment on function gendurable._resolve(gendurable.outcome[], timestamptz) is
    'Uses up signals and decides what depends on the instance: error becomes replay or stop, an await is answered or parks, children are
inserted. Under the rows'' locks.';

create or replace function gendurable._kept(
    p_outcomes gendurable.outcome[], p_crowded text[], p_family boolean, out ids bigint[], out mail boolean
)
language plpgsql as $$
declare
    -- mostly there is nothing that only the row tells
    v_look constant boolean := p_crowded <> '{}' or p_family or exists (select from gendurable.paused_queue);
begin
    select coalesce(array_agg(k.id), '{}'), bool_or(k.mail)
    into ids, mail
    from (
        select o.id, (select true from gendurable.signal s where s.instance_id = o.id limit 1) as mail
        from unnest(p_outcomes) o
        where o.keep and not o.delayed and not o.rekey and o.rate_limit is null
            and case
                when v_look or o.queue is not null or o.priority is not null then (
                    select coalesce(o.queue, i.queue) = i.queue and coalesce(o.priority, i.priority) = i.priority
                        and (i.partition_key is null or i.partition_key <> all(p_crowded))
                        and not exists (select from gendurable.paused_queue q where q.queue = i.queue)
                        -- children and large inboxes are handed out by claims, which carry a bounded number of bytes
                        and i.children_pending is null
                    from gendurable.instance i
                    where i.id = o.id)
                else true
            end
        offset 0
    ) k
    where k.mail is null or not gendurable._has_large_inbox(k.id);
end $$;

comment on function gendurable._kept(gendurable.outcome[], text[], boolean) is
    'Which outcomes with keep may keep their claim: nobody waits for it, and nothing else changes. mail: one of them has signals.';
