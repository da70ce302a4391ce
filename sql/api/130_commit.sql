-- Committing outcomes: what gd_commit promises. What is done: plain outcomes are written (133_short); the JSON of the others is
-- read (132_read), every lock is taken that is free (134_lock), and all is written at once (136_apply), in halves where that fails.
-- Invariant 1: an outcome commits only under the claim that produced it, once. Next: 131_commit_one.

create or replace function gd_commit(p_worker text, p_outcomes jsonb, p_lease interval = '60 seconds')
returns table (ord int, id bigint, claim_no bigint, result text, detail jsonb)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
-- what cannot be skipped (a unique key in somebody's open transaction, a table lock) is waited for this long
set lock_timeout = '10ms' as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_lease constant interval := coalesce(p_lease, '60 seconds');
    v_one jsonb;
    v_alone boolean := false;
    v_state text;
    v_short record;
    v_all gendurable.outcome[];
    v_answers jsonb;
begin
    if not gendurable._is_ready(p_worker, v_lease) then
        perform gendurable._need_read_committed();
        perform gendurable._need_text(p_worker, 'p_worker');
        perform gendurable._need_lease(v_lease);
    end if;
    if jsonb_typeof(p_outcomes) is distinct from 'array' then
        perform gendurable._invalid('p_outcomes must be a JSON array', 'got ' || coalesce(jsonb_typeof(p_outcomes), 'null'),
            'Pass an array of outcomes: [{"id": ..., "claim_no": ..., "kind": "done"}].');
    end if;
    if jsonb_array_length(p_outcomes) = 1 then
        v_one := p_outcomes -> 0;
        v_alone := gendurable._is_short_outcome(v_one);
        if v_alone then
            -- A batch of one costs what its statements cost to set up. Most have the short way of gd_commit_one; what does not
            -- come through there, for whatever reason, is answered by the way of all others.
            begin
                if gendurable._commit_plain(
                    (v_one ->> 'id')::bigint, (v_one ->> 'claim_no')::bigint, v_one ->> 'kind' = 'done', v_one ->> 'step',
                    v_one -> 'state', v_one -> 'result')
                then
                    ord := 0;
                    id := (v_one ->> 'id')::bigint;
                    claim_no := (v_one ->> 'claim_no')::bigint;
                    result := 'ok';
                    return next;
                    return;
                end if;
            exception
                when others or assert_failure then
                    get stacked diagnostics v_state = returned_sqlstate;
                    if not gendurable._blames_outcome(v_state) and not gendurable._blames_lock(v_state) then
                        raise;
                    end if;
            end;
        end if;
    end if;

    v_short := gendurable._commit_short(p_worker, case when v_alone then '[]' else p_outcomes end, v_lease, v_now);
    if cardinality(v_short.ords) = jsonb_array_length(p_outcomes) then
        return query
            select s.ord, s.id, s.claim_no, 'ok', s.detail
            from unnest(v_short.ords, v_short.ids, v_short.claims, v_short.details) s (ord, id, claim_no, detail)
            order by s.ord;
        return;
    end if;
    v_all := gendurable._parse_outcomes(p_outcomes, v_now);
    if v_short.ords <> '{}' then
        -- a subquery, which is hashed; the array would be walked for each outcome
        v_all := array(select u from unnest(v_all) u where u.ord not in (select s.ord from unnest(v_short.ords) s (ord)));
    end if;
    v_answers := gendurable._commit_outcomes(p_worker, v_all, v_lease, v_now);
    return query
        select s.ord, s.id, s.claim_no, 'ok', s.detail
        from unnest(v_short.ords, v_short.ids, v_short.claims, v_short.details) s (ord, id, claim_no, detail)
        union all
        select a.ord, a.id, a.claim_no, a.result, a.detail from gendurable._answer_outcomes(v_all, v_answers) a
        order by 1;
end $$;

comment on function gd_commit(text, jsonb, interval) is
'Commits outcomes of claimed instances in one transaction, and answers for each, by its place ord, with a result:

  ok: committed. detail is null, but for "keep", where it is the next claim, or null when that was given back
  stale: the claim is not this one any more, the timeout of its step or the deadline of its instance has passed, or
    the batch names it twice; nothing was written
  busy: another transaction holds a lock that this outcome needs; nothing was written, send it again
  rejected: the outcome is not valid; detail says why (message, sqlstate). Nothing was written and the claim stands:
    commit another outcome, normally "error"

One bad outcome does not disturb its neighbours. The call waits for nobody: what is locked elsewhere is answered
"busy" after some ten milliseconds. What it waits for in all has an end, too: where many outcomes of a batch insert
unique keys that open transactions have inserted, some are "busy" untried, not the same ones each time. p_lease is the new lease of kept claims. Kinds of outcomes: "next",
"replay", "await", "schedule_childs", "done", "stop", "error". Needs READ COMMITTED (GD504); raises GD501 when
p_outcomes is no array, and class 22 errors of the JSON itself (U+0000) before anything is looked at.';

create or replace function gendurable._answer_outcomes(p_outcomes gendurable.outcome[], p_answers jsonb)
returns table (ord int, id bigint, claim_no bigint, result text, detail jsonb)
language plpgsql as $$
#variable_conflict use_column
begin
    if not jsonb_path_exists(p_answers, '$.*.kept') then
        -- without the table, which somebody may have locked
        return query
            select u.ord, u.id, u.claim_no, coalesce(p_answers -> u.ord::text ->> 'result', 'ok'),
                nullif(p_answers -> u.ord::text -> 'detail', 'null')
            from unnest(p_outcomes) u;
        return;
    end if;
    return query
        select o.ord, o.id, o.claim_no, coalesce(o.answer ->> 'result', 'ok'),
            coalesce(k.row, nullif(o.answer -> 'detail', 'null'))
        from (
            select u.ord, u.id, u.claim_no, p_answers -> u.ord::text as answer, u.journal is not null as slim,
                u.journal -> 'brief' = 'true' as brief
            from unnest(p_outcomes) u
        ) o
        left join lateral (
            -- what gd_claim would hand out for the kept claim, of a flow in memory what is new of it, or its number
            select case
                when o.brief and c.signals = '[]' and o.answer ->> 'kept' <> 'halted' then to_jsonb(c.claim_no)
                when o.slim then gendurable._renewed(c.id, c.claim_no, c.step, c.attempt, c.signals, c.attributes)
                    || case when o.answer ->> 'kept' = 'halted' then '{"halted": true}' else '{}' end::jsonb
                else to_jsonb(c)
            end as row
            from gendurable.instance i
            cross join lateral gendurable._claimed(
                p_id => i.id, p_claim_no => i.claim_no, p_fsm => i.fsm, p_fsm_version => i.fsm_version, p_step => i.step,
                p_state => i.state, p_attempt => i.attempt, p_queue => i.queue, p_partition_key => i.partition_key,
                p_unique_key => i.unique_key, p_parent_id => i.parent_id, p_awaits => null, p_timed_out => false,
                p_signals => case
                    when o.answer ->> 'kept' = 'mail' then gendurable._present_inbox(i.id, null) else '[]'
                end,
                p_childs => '[]', p_meta => i.meta, p_attributes => i.attributes) c
            where o.answer ? 'kept' and i.id = any(array[o.id])
        ) k on true
        order by o.ord;
end $$;

comment on function gendurable._answer_outcomes(gendurable.outcome[], jsonb) is
    'What gd_commit answers for outcomes; p_answers: as _commit_outcomes gives them.';

create or replace function gendurable._commit_outcomes(
    p_worker text, p_outcomes gendurable.outcome[], p_lease interval, p_now timestamptz
) returns jsonb
language plpgsql as $$
declare
    v_outcomes gendurable.outcome[] := p_outcomes;
    v_answers jsonb := '{}'::jsonb;
    v_odd boolean;
    v_locked record;
begin
    if not gendurable._can_write() then
        return (select coalesce(jsonb_object_agg(o.ord, gendurable._answer('busy')), '{}') from unnest(p_outcomes) o);
    end if;
    -- what cannot be read, and every outcome but the first of one claim; for one alone an expression, and not a query
    v_odd := p_outcomes[1].kind = 'rejected';
    if cardinality(p_outcomes) > 1 then
        v_odd := (select count(distinct u.id) < count(*) or bool_or(u.kind = 'rejected') from unnest(p_outcomes) u);
    end if;
    if v_odd then
        select coalesce(jsonb_object_agg(o.ord, case
            when o.kind = 'rejected' then gendurable._answer('rejected', o.step, o.error)
            else gendurable._answer('stale')
        end), '{}')
        into v_answers
        from (
            select u.*, row_number() over (partition by u.id, u.claim_no order by u.ord) as copy from unnest(p_outcomes) u
        ) o
        where o.kind = 'rejected' or o.copy > 1;
        v_outcomes := array(select u from unnest(p_outcomes) u where not v_answers ? u.ord::text);
    end if;

    v_locked := gendurable._lock_outcomes(v_outcomes);
    if v_locked.answers <> '{}' then
        v_answers := v_answers || v_locked.answers;
        v_outcomes := array(select u from unnest(v_outcomes) u where not v_answers ? u.ord::text);
    end if;
    v_answers := v_answers || gendurable._apply_isolated(
        p_worker, v_outcomes, v_locked.keys, v_locked.scoped, v_locked.family, v_locked.homed, p_lease, p_now,
        v_locked.places);
    if v_locked.slotted is not null then
        perform gendurable._wake_for_slots(v_locked.slotted, v_locked.queues);
    end if;
    return v_answers;
end $$;

comment on function gendurable._commit_outcomes(text, gendurable.outcome[], interval, timestamptz) is
    'Commits outcomes that were read, waiting for nobody: {ord: answer} for all but those that are simply ok. Under
lock_timeout.';

create or replace function gendurable._apply_isolated(
    p_worker text, p_outcomes gendurable.outcome[], p_keys text[], p_scoped boolean, p_family boolean, p_homed boolean,
    p_lease interval, p_now timestamptz, p_places tid[]
) returns jsonb
language plpgsql as $$
declare
    v_all gendurable.outcome[];
    v_last constant int := cardinality(p_outcomes);
    v_answers jsonb := '{}'::jsonb;
    v_from int := 1;
    v_size int := v_last;
    v_written int := 0;
    v_waits int := 0;
    v_state text;
    v_message text;
    v_constraint text;
begin
    -- Part by part: the next is smaller where one fails, and larger where two have not. One bad outcome in 400 costs some 20
    -- sub-transactions, and 400 bad ones hardly more than 400.
    while v_from <= v_last loop
        v_size := least(v_size, v_last - v_from + 1);
        begin
            if v_size = v_last then
                return gendurable._apply_outcomes(
                    p_worker, p_outcomes, p_keys, p_scoped, p_family, p_homed, p_lease, p_now, p_places);
            end if;
            v_answers := v_answers || gendurable._apply_outcomes(
                p_worker, v_all[v_from : v_from + v_size - 1], p_keys, p_scoped, p_family, p_homed, p_lease, p_now, p_places);
            v_from := v_from + v_size;
            v_written := v_written + 1;
            v_size := case when v_written > 1 then 2 * v_size else v_size end;
            continue;
        exception
            when others or assert_failure then
                get stacked diagnostics
                    v_state = returned_sqlstate, v_message = message_text, v_constraint = constraint_name;
                if not gendurable._blames_outcome(v_state) and not gendurable._blames_lock(v_state) then
                    raise;
                end if;
        end;
        if v_all is null then
            v_all := p_outcomes;  -- not before: it is copied
        end if;
        if v_state = '55P03' then
            -- an open transaction may stand before every outcome of a batch: half as long for each that follows
            perform set_config('lock_timeout', greatest(
                (extract(epoch from current_setting('lock_timeout')::interval) * 500)::int, 1)::text, true);
        end if;
        if v_size = 1 then
            v_answers := v_answers || jsonb_build_object(v_all[v_from].ord, case
                -- two sessions took one unique key at the same moment: the second try sees the first one's. A journal has one
                -- session at a time: what is twice there would be so for ever.
                when gendurable._blames_lock(v_state) or (v_state = '23505' and v_constraint <> 'journal_pkey') then gendurable._answer('busy')
                else gendurable._answer('rejected', v_state, v_message)
            end);
            v_from := v_from + 1;
        end if;
        v_written := 0;
        if not gendurable._blames_lock(v_state) then
            v_size := greatest(v_size / 2, 1);
            continue;
        end if;
        -- waits are few, and for those that are to blame alone
        v_size := greatest(v_size / 4, 1);
        v_waits := v_waits + 1;
        if v_waits = 1 then
            -- What waits for nobody comes first. The rest has no order: of what is busy without a try in the end it must not be
            -- the same ones each time.
            v_all := v_all[: v_from - 1] || array(
                select u from unnest(v_all[v_from :]) u
                order by gendurable._takes_names(u.inserts, u.childs, u.queue), random());
        elsif v_waits >= gendurable._most_waits() then
            return v_answers || coalesce((
                select jsonb_object_agg(u.ord, gendurable._answer('busy')) from unnest(v_all[v_from :]) u), '{}');
        end if;
    end loop;
    return v_answers;
end $$;

comment on function gendurable._apply_isolated(
    text, gendurable.outcome[], text[], boolean, boolean, boolean, interval, timestamptz, tid[]
) is
    'As _apply_outcomes, in parts where it fails, so that one bad outcome takes nobody with it; answers for those that failed, too.
It waits a bounded number of times for what cannot be skipped.';

create or replace function gendurable._takes_names(p_inserts jsonb, p_childs jsonb, p_queue text) returns boolean
language sql immutable parallel safe as $$
    select p_inserts is not null or p_childs is not null or p_queue is not null
$$;

comment on function gendurable._takes_names(jsonb, jsonb, text) is
    'Whether an outcome takes names that another transaction may have taken and not committed: unique keys, a new queue.';

-- The door through which gd_run_claims commits (244_group): what it cannot have makes the effect of its row roll back.
create or replace function gendurable._commit_run(p_worker text, p_outcomes jsonb, p_from jsonb[] = null) returns jsonb
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '10ms' as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_all gendurable.outcome[] := gendurable._parse_outcomes(p_outcomes, v_now);
begin
    if starts_with(p_worker, 'gd_rehearse:') then
        -- what is shown of the outbox (241_run_undone), which nothing else tells
        perform set_config('gendurable.rehearsed', p_outcomes::text, true);
    end if;
    for v_at in 1 .. coalesce(cardinality(p_from), 0) loop
        if octet_length(p_from[v_at] ->> 'step') <= gendurable._longest_name() and jsonb_typeof(p_from[v_at] -> 'state') = 'object'
            and v_all[v_at].kind <> 'rejected'
        then
            -- what it says by itself, with "at", goes before
            v_all[v_at].from_step := coalesce(v_all[v_at].from_step, p_from[v_at] ->> 'step');
            v_all[v_at].from_state := coalesce(v_all[v_at].from_state, p_from[v_at] -> 'state');
        end if;
    end loop;
    return gendurable._commit_outcomes(p_worker, v_all, interval '60 seconds', v_now);
end $$;

comment on function gendurable._commit_run(text, jsonb, jsonb[]) is
    'Commits outcomes: {ord: answer} for all but those that are simply ok. p_from: of those that end a chain, what its last link got:
they are made from its step and state.';
