-- Writing outcomes, with every lock held: resolve what the instances decide, one update for all, and what follows.
-- Invariants 1 and 3. Next: what goes out with it (137_outbox); the instance is due again (110_claim), waits for a signal
-- (140_signal) or for children, or has ended (kernel/090_end), and is kept for a time (138_keep).

create or replace function gendurable._apply_outcomes(
    p_worker text, p_outcomes gendurable.outcome[], p_keys text[], p_scoped boolean, p_family boolean, p_homed boolean,
    p_lease interval, p_now timestamptz, p_places tid[]
) returns jsonb
language plpgsql as $$
declare
    v_outcomes gendurable.outcome[] := p_outcomes;
    v_consumes boolean;
    v_special boolean;
    v_limited boolean;
    v_moved boolean;
    v_routed boolean;
    v_keeps boolean;
    v_closes boolean;
    v_outbox boolean := false;
    v_odd boolean;
    v_errs boolean;
    v_attributed boolean;
    v_journaled boolean;
    v_forgets boolean;
    v_history boolean := false;
    v_used jsonb;
    v_new gendurable.new_instance[];
    v_settled boolean := true;
    v_waiting text[] := '{}'::text[];
    v_crowded text[] := '{}'::text[];
    v_kept bigint[] := '{}'::bigint[];
    v_halted bigint[];
    v_mail boolean;
    v_ends boolean;
    v_freed text[];
    v_written record;
begin
    select bool_or(o.keep), bool_or(o.ends or o.kind = 'error'),
        bool_or(o.kind not in ('next', 'done') or o.consume is not null or o.rate_limit is not null or o.queue is not null
            or o.close_ms is not null or o.inserts is not null or o.sends is not null or o.attributes is not null),
        bool_or(o.journal is not null), bool_or(o.journal ? 'forget'),
        p_homed or (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1)
    into v_keeps, v_ends, v_odd, v_journaled, v_forgets, v_routed
    from unnest(p_outcomes) o;
    if v_odd then
        -- of most outcomes nothing of this is to be asked
        select bool_or(o.consume is not null), bool_or(o.kind in ('error', 'await', 'schedule_childs')),
            bool_or(o.rate_limit is not null), bool_or(o.queue is not null), bool_or(o.close_ms is not null),
            bool_or(o.inserts is not null or o.sends is not null), bool_or(o.error is not null),
            bool_or(o.attributes is not null)
        into v_consumes, v_special, v_limited, v_moved, v_closes, v_outbox, v_errs, v_attributed
        from unnest(p_outcomes) o;
    end if;
    if gendurable._history_asked() then
        v_history := coalesce(gendurable._keeps_history(), false);
        if v_history and v_consumes then
            v_used := gendurable._list_used(p_outcomes);
        end if;
    end if;
    if v_limited then
        perform gendurable._need_rate_limit(o.rate_limit, coalesce(o.weight, 1))
        from unnest(p_outcomes) o where o.rate_limit is not null;
    end if;
    if v_closes then
        perform gendurable._close_rate_limits(p_outcomes, p_now);
    end if;
    if v_consumes then
        perform gendurable._use_up_signals(v_outcomes);
    end if;
    if v_outbox then
        -- before anything is removed: what is inserted inherits from its instance
        v_new := gendurable._read_inserts(p_outcomes);
    end if;
    if v_special then
        v_outcomes := gendurable._resolve_outcomes(v_outcomes, p_now);
    end if;
    if v_routed then
        v_outcomes := gendurable._route_outcomes(v_outcomes);
    end if;
    if v_attributed then
        v_outcomes := gendurable._merge_attributes(v_outcomes);
    end if;
    if v_ends and gendurable._retains() then
        select k.outcomes, k.queues into v_outcomes, v_freed from gendurable._keep_outcomes(v_outcomes, p_now) k;
        if v_outcomes = '{}' then
            perform gendurable._keep_batons(p_keys, '{}', p_now);
            perform gendurable._wake_sleepers(v_freed);
            if v_outbox then
                perform gendurable._empty_outbox(p_outcomes, v_new);
            end if;
            return '{}'::jsonb;
        end if;
    end if;
    if p_keys <> '{}' then
        v_settled := gendurable._is_settled();
        v_waiting := p_keys;
        if v_settled then
            v_waiting := gendurable._find_waiting(p_keys);
            v_crowded := case
                when exists (select from gendurable.paused_queue) then gendurable._find_crowded(v_waiting, p_now)
                else v_waiting
            end;
        end if;
    end if;
    if v_keeps then
        -- nothing may park while it is being decided who waits for what: then no claim of a key is kept either
        select k.ids, k.mail, k.halted into v_kept, v_mail, v_halted
        from gendurable._choose_kept(
            v_outcomes, case when v_settled then v_crowded else p_keys end, v_settled, p_family, gendurable._carries_all()) k;
        -- what an instance sends to itself is shown with the claim that goes on
        v_mail := v_mail or v_outbox;
    end if;
    if p_scoped then
        perform gendurable._take_unique_keys(array_agg(o.id), array_agg(
            case when o.id = any(v_kept) then 'executing' else o.status end))
        from unnest(v_outcomes) o;
    end if;
    if v_moved then
        perform gendurable._note_queues(array(select o.queue from unnest(v_outcomes) o));
    end if;

    if v_errs then
        perform gendurable._note_errors(p_outcomes, null, p_now);
    end if;
    if v_history then
        perform gendurable._note_outcomes(v_outcomes, p_outcomes, null, v_used, p_now);
    end if;
    if v_journaled then
        if v_forgets then
            perform gendurable._forget_entries(v_outcomes);
        end if;
        perform gendurable._record(array_agg(o.id), array_agg(o.journal)) from unnest(v_outcomes) o where o.journal is not null;
    end if;
    v_written := gendurable._write_outcomes(
        p_worker, v_outcomes, v_kept, v_mail, v_crowded, p_lease, p_now,
        case when p_scoped is not true then p_places end);  -- scoped ones were written, and stand elsewhere
    if v_attributed then
        perform gendurable._note_words(array(select o.id from unnest(v_outcomes) o where o.attributes is not null));
    end if;
    if v_written.ended is not null then
        if p_family then
            perform gendurable._note_ended_parents(array(
                select i.id from gendurable.instance i where i.id = any(v_written.ended) and i.children_pending is not null));
        end if;
        perform gendurable._finish_ended(v_written.ended, v_written.done, v_written.parents, v_written.barriers, p_now);
    end if;
    if v_waiting <> '{}' then
        -- in the other keys nobody is parked who could lack a baton
        perform gendurable._keep_batons(v_waiting, array(select o.id from unnest(v_outcomes) o), p_now);
    end if;
    v_freed := v_written.queues || v_freed;
    -- expressions: mostly there is one queue on which nobody sleeps
    if v_freed is not null and (cardinality(v_freed) > 1 or not gendurable._is_awake(v_freed[1])) then
        perform gendurable._wake_sleepers(v_freed);
    end if;
    if v_outbox then
        perform gendurable._empty_outbox(p_outcomes, v_new);
    end if;
    if v_halted is not null then
        if exists (select from gendurable.machine m where m.timeouts is not null) then
            -- into another step, whose time begins now
            perform gendurable._time_claims(
                array(select i.id from gendurable.instance i where i.id = any(v_halted) and i.timeout_at is null), p_now);
        end if;
        v_written.answers := v_written.answers || gendurable._halted_answers(v_outcomes, v_halted);
    end if;
    return coalesce(v_written.answers, '{}');
end $$;

comment on function gendurable._apply_outcomes(
    text, gendurable.outcome[], text[], boolean, boolean, boolean, interval, timestamptz, tid[]
) is
    'Writes the outcomes, all in one update, and what follows from them; answers for the claims that were kept. Under
the locks of the rows, their parents and the keys.';

create or replace function gendurable._close_rate_limits(p_outcomes gendurable.outcome[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_one record;
begin
    for v_one in
        select case when o.kind = 'next' or o.from_step is not null then o.rate_limit else i.rate_limit end as bucket,
            max(o.close_ms) as close_ms
        from unnest(p_outcomes) o
        join gendurable.instance i on i.id = any(array[o.id])
        where o.close_ms is not null
        group by 1
    loop
        if v_one.bucket is null then
            perform gendurable._invalid('close_ms needs a rate limit', 'the instance, or the outcome next, names none',
                'Leave close_ms out, or give the instance a rate_limit.');
        end if;
        insert into gendurable.bucket_closed (bucket, until)
        values (v_one.bucket, p_now + v_one.close_ms * interval '1 millisecond');
    end loop;
end $$;

comment on function gendurable._close_rate_limits(gendurable.outcome[], timestamptz) is
    'Closes the buckets of outcomes with close_ms: that of the instance, of a next the new one.';

create or replace function gendurable._use_up_signals(p_outcomes gendurable.outcome[]) returns void
language plpgsql as $$
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
end $$;

comment on function gendurable._use_up_signals(gendurable.outcome[]) is 'Removes the signals that outcomes have used.';

create or replace function gendurable._resolve_outcomes(p_outcomes gendurable.outcome[], p_now timestamptz)
returns gendurable.outcome[]
language plpgsql as $$
declare
    v_outcomes gendurable.outcome[] := p_outcomes;
    v_one gendurable.outcome;
begin
    for v_at in 1 .. cardinality(v_outcomes) loop
        v_one := v_outcomes[v_at];
        v_outcomes[v_at] := case v_one.kind
            when 'error' then gendurable._decide_error(v_one, p_now)
            when 'await' then gendurable._decide_await(v_one, p_now)
            when 'schedule_childs' then gendurable._fan_out(v_one, p_now)
            else v_one
        end;
    end loop;
    return v_outcomes;
end $$;

comment on function gendurable._resolve_outcomes(gendurable.outcome[], timestamptz) is
    'Decides what depends on the instance, outcome by outcome. Under the rows'' locks, after signals were used up.';

create or replace function gendurable._decide_await(p_outcome gendurable.outcome, p_now timestamptz)
returns gendurable.outcome
language plpgsql as $$
declare
    v_one gendurable.outcome := p_outcome;
begin
    v_one.deadline_at := v_one.eligible_at;
    -- What this claim presented while the row awaited that name does not count again. The row is locked, so a signal that
    -- is not seen here comes later and finds the row parked.
    if exists (
        select from gendurable.instance i
        join gendurable.signal s on s.instance_id = i.id
        where i.id = v_one.id and s.name = any(v_one.awaits)
            and (v_one.from_step is not null or s.id <> all(coalesce(i.shown, '{}')))
    ) then
        v_one.status := 'runnable';
        v_one.eligible_at := p_now;
        v_one.deadline_at := null;
    end if;
    return v_one;
end $$;

comment on function gendurable._decide_await(gendurable.outcome, timestamptz) is
    'An await parks, unless a signal that answers it is in the inbox already.';

create or replace function gendurable._fan_out(p_outcome gendurable.outcome, p_now timestamptz)
returns gendurable.outcome
language plpgsql as $$
declare
    v_one gendurable.outcome := p_outcome;
    v_row record;
begin
    select i.meta, i.expires_at into v_row from gendurable.instance i where i.id = v_one.id;
    v_one.children := cardinality(array_remove(
        gendurable._insert_instances(
            gendurable._parse_instances(v_one.childs), v_one.id, v_one.claim_no, gendurable._trace_of(v_row.meta),
            v_row.expires_at),
        null));
    if v_one.children = 0 then
        v_one.status := 'runnable';
        v_one.eligible_at := p_now;
    end if;
    return v_one;
end $$;

comment on function gendurable._fan_out(gendurable.outcome, timestamptz) is
    'Inserts the children of an outcome; where there are none the parent goes on at once.';

create or replace function gendurable._choose_kept(
    p_outcomes gendurable.outcome[], p_crowded text[], p_settled boolean, p_family boolean, p_carries boolean,
    out ids bigint[], out mail boolean, out halted bigint[]
)
language plpgsql as $$
declare
    -- mostly there is nothing that only the row tells
    v_look boolean := p_crowded <> '{}' or p_family;
    v_held boolean := false;
begin
    if exists (select from gendurable.special) then
        v_look := true;
        v_held := exists (select from gendurable.hold);
    end if;
    select coalesce(array_agg(k.id), '{}'), bool_or(k.mail and not k.halted), array_agg(k.id) filter (where k.halted)
    into ids, mail, halted
    from (
        -- not "and", which asks for both where there is no mail
        select c.id, c.runs, c.mail, not c.free or case when c.mail then gendurable._has_large_inbox(c.id) else false end as halted
        from (
            select o.id, o.journal -> 'runs' = 'true' and o.queue is null and o.priority is null as runs,
                (select true from gendurable.signal s where s.instance_id = o.id limit 1) as mail,
                -- what a session cannot carry for certain is not put into the answer
                p_carries and not v_held and case
                    when v_look or o.queue is not null or o.priority is not null then (
                        select coalesce(o.queue, i.queue) = i.queue and coalesce(o.priority, i.priority) = i.priority
                            -- a flow does not give way to those who wait in its key: it holds that until it parks or ends
                            and (
                                i.partition_key is null or i.partition_key <> all(p_crowded)
                                or (o.journal is not null and p_settled))
                            and not exists (select from gendurable._halts(
                                i.queue, i.queue_slot, i.paused_at, i.fsm, i.fsm_version, coalesce(o.step, i.step)))
                            -- children and large inboxes are handed out by claims, which carry a bounded number of bytes; a
                            -- flow has its children
                            and (i.children_pending is null or o.journal is not null)
                            -- the time of a step counts from its claim
                            and not exists (
                                select from gendurable.machine m
                                where m.fsm = i.fsm and m.version = i.fsm_version and m.timeouts ? o.step)
                        from gendurable.instance i
                        where i.id = o.id)
                    else true
                end as free
            from unnest(p_outcomes) o
            where o.keep and not o.delayed and not o.rekey and o.rate_limit is null
            offset 0
        ) c
        offset 0
    ) k
    -- whose steps run still would run twice without the claim: it is kept for their end, and nothing new begins meanwhile
    where not k.halted or k.runs;
end $$;

comment on function gendurable._choose_kept(gendurable.outcome[], text[], boolean, boolean, boolean) is
    'Which outcomes with keep may keep their claim: nobody waits for it, which one with a journal does not ask where all is settled,
and nothing else changes. mail: one of them has signals. halted: those of them that keep it only since steps of them run. p_carries:
whether this session can carry whatever text they have.';

create or replace function gendurable._halted_answers(p_outcomes gendurable.outcome[], p_ids bigint[]) returns jsonb
language plpgsql as $$
begin
    return (
        select jsonb_object_agg(o.ord, jsonb '{"kept": "halted"}') from unnest(p_outcomes) o where o.id = any(p_ids));
end $$;

comment on function gendurable._halted_answers(gendurable.outcome[], bigint[]) is
    'The answers for claims that are kept for the end of what runs.';
