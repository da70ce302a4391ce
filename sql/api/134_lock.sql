-- The locks of a commit: rows, parents, targets of signals (137_outbox), keys. It waits for nobody: what is not free makes an
-- outcome busy. Invariant 8. Next: 136_apply.

create or replace function gendurable._lock_outcomes(
    p_outcomes gendurable.outcome[], out answers jsonb, out keys text[], out scoped boolean,
    out family boolean, out homed boolean, out slotted bigint[], out queues text[], out places tid[]
)
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_asks constant boolean := gendurable._steps_asked();
    v_lacking jsonb;
    v_ords int[];
    v_parents bigint[];
    v_sending gendurable.outcome[];
    v_missed bigint[];
    v_new_keys text[];
    v_slotted boolean;
    v_sends boolean;
begin
    -- A commit waits for nobody: what is locked is skipped and answered busy. Nothing waits, so no order can deadlock.
    with held as materialized (
        select o.ord, i.place, o.partition_key as new_key, i.partition_key, i.unique_scope, i.children_pending, i.queue_slot,
            o.sends is not null as sends, i.home, i.fsm, i.fsm_version,
            case when v_asks and not o.ends then coalesce(o.step, o.from_step) end as step,
            case when i.barrier_no is not null and (o.ends or o.kind = 'error') then i.parent_id end as parent_id
        from unnest(p_outcomes) o
        cross join lateral (
            select x.ctid as place, x.partition_key, x.unique_scope, x.barrier_no, x.parent_id, x.children_pending, x.queue_slot, x.home,
                x.fsm, x.fsm_version
            from gendurable.instance x
            -- Backwards: while somebody holds a snapshot, dead versions of the row stand before the one that lives.
            where x.id >= o.id and x.id <= o.id and x.claim_no = o.claim_no and x.status = 'executing'
                and not gendurable._is_over(x.expires_at, x.timeout_at, v_now)
            order by x.id desc
            limit 1
            for no key update skip locked
        ) i
    )
    select coalesce(array_agg(h.ord), '{}'), array_agg(h.place),
        coalesce(array_agg(h.parent_id) filter (where h.parent_id is not null), '{}'),
        coalesce(array_agg(h.partition_key) filter (where h.partition_key is not null), '{}'),
        coalesce(array_agg(h.new_key) filter (where h.new_key is not null), '{}'),
        bool_or(h.unique_scope is not null), bool_or(h.children_pending is not null),
        bool_or(h.home is not null), bool_or(h.queue_slot is not null), bool_or(h.sends),
        -- one look at each machine and step, and not at each row: "offset" keeps the question behind the "distinct"
        case when v_asks then (
            select jsonb_agg(jsonb_build_array(k.fsm, k.fsm_version, k.step))
            from (select distinct s.fsm, s.fsm_version, s.step from held s where s.step is not null offset 0) k
            where gendurable._lacks_step(k.fsm, k.fsm_version, k.step)) end
    into v_ords, places, v_parents, keys, v_new_keys, scoped, family, homed, v_slotted, v_sends, v_lacking
    from held h;
    if v_slotted then
        select array_agg(i.id), array_agg(i.queue) into slotted, queues
        from unnest(p_outcomes) o
        join gendurable.instance i on i.id = any(array[o.id])
        where o.ord = any(v_ords) and i.queue_slot is not null;
    end if;

    answers := '{}';
    if v_ords[cardinality(v_ords)] >= cardinality(p_outcomes) then
        places := null;                            -- some were left out before: they are not found by their numbers
    end if;
    if cardinality(v_ords) < cardinality(p_outcomes) then
        places := null;
        select jsonb_object_agg(o.ord, gendurable._answer(case when i.id is null then 'stale' else 'busy' end))
        into answers
        from unnest(p_outcomes) o
        left join gendurable.instance i on i.id = any(array[o.id]) and i.claim_no = o.claim_no and i.status = 'executing'
            and not gendurable._is_over(i.expires_at, i.timeout_at, v_now)
        where o.ord <> all(v_ords);
    end if;

    if v_lacking is not null then
        answers := answers || gendurable._refuse_unknown(p_outcomes, v_lacking, v_ords);
    end if;

    if v_parents <> '{}' then
        v_parents := gendurable._try_rows(v_parents, true);
    end if;
    if v_parents <> '{}' then
        select answers || coalesce(jsonb_object_agg(o.ord, gendurable._answer('busy')), '{}') into answers
        from unnest(p_outcomes) o
        join gendurable.instance i on i.id = any(array[o.id])
        where i.parent_id = any(v_parents) and o.ord = any(v_ords) and (o.ends or o.kind = 'error');
    end if;

    if v_sends then
        v_sending := array(
            select o from unnest(p_outcomes) o
            where o.sends is not null and o.ord = any(v_ords) and not answers ? o.ord::text);
        v_missed := gendurable._try_rows(gendurable._find_targets(v_sending), false);
        if v_missed <> '{}' then
            answers := answers || gendurable._find_senders(v_sending, v_missed);
        end if;
    end if;

    if keys <> '{}' or v_new_keys <> '{}' then
        keys := array(select distinct k from unnest(keys || v_new_keys) k order by 1);
        v_new_keys := keys;
        keys := gendurable._try_keys(keys, 5);
        if cardinality(keys) < cardinality(v_new_keys) then
            select answers || coalesce(jsonb_object_agg(o.ord, gendurable._answer('busy')), '{}') into answers
            from unnest(p_outcomes) o
            join gendurable.instance i on i.id = any(array[o.id])
            where o.ord = any(v_ords)
                and (
                    -- null-safe: with no key locked, null <> all('{}') is true
                    (i.partition_key is not null and i.partition_key <> all(keys))
                    or (o.partition_key is not null and o.partition_key <> all(keys)));
        end if;
    end if;
end $$;

comment on function gendurable._lock_outcomes(gendurable.outcome[]) is
    'Takes every lock that the outcomes need and that is free; answers for those that miss one or have lost their claim. slotted and
queues: rows that hold slots of their queues. places: where the rows stand, by the numbers of all outcomes, null if some are missing.';

create or replace function gendurable._refuse_unknown(p_outcomes gendurable.outcome[], p_lacking jsonb, p_ords int[]) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_object_agg(o.ord, gendurable._answer(
            'rejected', 'GD501', gendurable._describe_lack(i.fsm, i.fsm_version, coalesce(o.step, o.from_step)))), '{}')
        from unnest(p_outcomes) o
        join gendurable.instance i on i.id = any(array[o.id])
        where o.ord = any(p_ords) and not o.ends
            and p_lacking @> jsonb_build_array(jsonb_build_array(i.fsm, i.fsm_version, coalesce(o.step, o.from_step))));
end $$;

comment on function gendurable._refuse_unknown(gendurable.outcome[], jsonb, int[]) is
    'Answers for those outcomes that lead to a step which the version of their instance does not have; p_lacking: [[fsm, version,
step], ...].';
