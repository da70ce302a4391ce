-- Why an instance does not run: one row for each cause that holds it now, the decisive one first. One snapshot (the functions are
-- stable), no row lock and no write, so that it works beside whatever is stuck, and on a standby. What each cause is read from stands
-- in the files behind this one; here they are put in order, and followed from one instance to the next: from a parent to its child, to
-- who holds the slot of its key, to who has locked that one's row.
-- Each of them answers a JSON object (_cause), null where it does not hold: what it says goes on the words "it" or "which".
-- Next: 252_why_own.

create or replace function gd_why(p_id bigint)
returns table (cause text, since timestamptz, until timestamptz, message text, detail jsonb)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
        select c.value ->> 'cause', (c.value ->> 'since')::timestamptz, (c.value ->> 'until')::timestamptz,
            'It ' || (c.value ->> 'says') || '.', c.value -> 'detail'
        from jsonb_array_elements(gendurable._causes(p_id, gendurable._deepest_cause(), clock_timestamp())) with ordinality c
        order by c.ordinality;
end $$;

comment on function gd_why(bigint) is
'Why an instance does not run now: a row for each cause, the decisive one first. message is a sentence for people; ids and
names stand in detail, among them "instance", the one that has to move first, and "because", why that one does not: {id,
cause, since, until, message, detail}, up to five instances deep. since and until are null where they mean nothing. No
rows: there is no such instance (any more).

The causes are "ended", "expired", "executing" (with an ended lease the message says why nobody has claimed it again),
"signal", "children", "everything held", "instance paused", "machine paused", "step paused", "queue paused", "delayed", "locked", "key", "bucket closed",
"limit", "queue full", "step refused", "machine unknown", "queue not served", "crashing" and "due". What a locking session runs is shown
where the role of the session may see it.

Counts are cut at 10,000: detail then says "more". It reads one snapshot and takes no lock. On a standby the sessions of
the primary are not seen.';

create or replace function gendurable._deepest_cause() returns int
language sql immutable parallel safe as $$
    select 5
$$;

comment on function gendurable._deepest_cause() is 'How many instances deep causes are followed.';

create or replace function gendurable._causes(p_id bigint, p_deep int, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_all jsonb;
    v_causes jsonb := '[]'::jsonb;
    v_one jsonb;
    v_inner jsonb;
begin
    v_all := gendurable._list_causes(p_id, p_now);
    for v_one in select c.value from jsonb_array_elements(v_all) with ordinality c where c.value <> 'null' order by c.ordinality
    loop
        v_inner := null;
        if v_one ? 'instance' then
            v_one := jsonb_set(v_one, '{detail,instance}', v_one -> 'instance');
            if p_deep > 1 then
                v_inner := gendurable._causes((v_one ->> 'instance')::bigint, p_deep - 1, p_now) -> 0;
            end if;
        end if;
        if v_inner is not null then
            v_one := jsonb_set(v_one, '{says}', to_jsonb((v_one ->> 'says') || ', which ' || (v_inner ->> 'says')));
            v_one := jsonb_set(v_one, '{detail,because}', v_inner - '{says,instance}'::text[] || jsonb_build_object(
                'id', v_one -> 'instance', 'message', 'It ' || (v_inner ->> 'says') || '.'));
        end if;
        v_causes := v_causes || jsonb_build_array(v_one);
        -- of an instance that another one waits for, the decisive cause will do
        exit when p_deep < gendurable._deepest_cause();
    end loop;
    return v_causes;
end $$;

comment on function gendurable._causes(bigint, int, timestamptz) is
    'The causes that hold an instance, with those of the instances behind them, p_deep deep; of a deeper one the first cause alone.';

create or replace function gendurable._list_causes(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_own jsonb;
    v_locked jsonb;
    v_stopped jsonb;
    v_key jsonb;
    v_claim jsonb := '[]'::jsonb;
begin
    select i.status, i.eligible_at, i.lane_at, i.bucket_at, i.deadline_at, i.partition_key, i.paused_at, i.aside_at,
        i.status = 'executing' and (i.lease_expires_at > p_now or gendurable._is_renewed(i.id, i.claim_no, p_now)) as lives
    into v_row
    from gendurable.instance i
    where i.id = p_id and i.id > 0;
    if not found then
        return '[]'::jsonb;
    end if;
    if gendurable._is_terminal(v_row.status) then
        return jsonb_build_array(gendurable._why_ended(p_id, p_now));
    end if;
    v_locked := gendurable._why_locked(p_id, p_now);
    if v_row.lives then
        return jsonb_build_array(
            gendurable._why_executing(p_id, v_locked ->> 'says', p_now), v_locked, gendurable._why_crashing(p_id));
    end if;
    v_own := case
        when v_row.status = 'awaiting_children' then gendurable._why_children(p_id)
        when v_row.status = 'awaiting_signal' and coalesce(v_row.deadline_at > p_now, true)
            then gendurable._why_signal(p_id, p_now)
    end;
    if v_own is null and v_row.status <> 'executing' then
        v_key := gendurable._why_key(p_id, coalesce(v_row.eligible_at, v_row.bucket_at, v_row.aside_at) is null, p_now);
        if v_row.eligible_at > p_now and v_key is null then
            v_own := gendurable._why_delayed(p_id, p_now);
        end if;
    end if;
    if v_own is null then
        -- somebody would have to claim it
        v_claim := jsonb_build_array(v_key) || gendurable._why_limits(p_id, p_now)
            || jsonb_build_array(
                gendurable._why_queue_full(p_id), gendurable._why_step(p_id), gendurable._why_unknown(p_id, p_now),
                gendurable._why_unserved(p_id, p_now),
                gendurable._why_crashing(p_id),
                case when v_row.status <> 'executing' then gendurable._why_due(p_id, p_now) end);
    end if;
    v_stopped := gendurable._why_stopped(p_id, p_now);
    v_claim := v_stopped || jsonb_build_array(v_locked) || v_claim;
    -- what it waits for of itself comes first, but for a delay: whoever stopped it did not say until when
    return jsonb_build_array(
        gendurable._why_expired(p_id, p_now),
        case when v_row.status = 'executing' then gendurable._why_executing(p_id, (
            select c.value ->> 'says'
            from jsonb_array_elements(v_claim) with ordinality c
            where c.value <> 'null' order by c.ordinality limit 1), p_now) end,
        case when v_own ->> 'cause' <> 'delayed' then v_own end)
        || case
            when v_own ->> 'cause' = 'delayed'
                then v_stopped || jsonb_build_array(v_own, v_locked, gendurable._why_crashing(p_id))
            else v_claim
        end;
end $$;

comment on function gendurable._list_causes(bigint, timestamptz) is
    'The causes that hold one instance, in the order in which they decide; nulls between them.';
