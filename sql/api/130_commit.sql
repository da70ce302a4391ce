-- Committing outcomes: what gd_commit and gd_commit_one promise. What is done: the JSON is read (132_read), every lock is taken
-- that is free (134_lock), and all is written at once (136_apply), in halves where that fails.
-- Invariant 1: an outcome commits only under the claim that produced it, once. Next: 132_read.

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

    v_all := gendurable._parse_outcomes(p_outcomes, v_now);
    v_answers := gendurable._commit_outcomes(p_worker, v_all, v_lease, v_now);
    if v_answers = '{}' then
        return query select o.ord, o.id, o.claim_no, 'ok', null::jsonb from unnest(v_all) o;
        return;
    end if;
    return query
        select o.ord, o.id, o.claim_no, coalesce(o.answer ->> 'result', 'ok'),
            coalesce(k.row, nullif(o.answer -> 'detail', 'null'))
        from (select u.ord, u.id, u.claim_no, v_answers -> u.ord::text as answer from unnest(v_all) u) o
        left join lateral (
            -- what gd_claim would hand out for the kept claim
            select to_jsonb(c) as row
            from gendurable.instance i
            cross join lateral gendurable._claimed(
                p_id => i.id, p_claim_no => i.claim_no, p_fsm => i.fsm, p_fsm_version => i.fsm_version, p_step => i.step,
                p_state => i.state, p_attempt => i.attempt, p_queue => i.queue, p_partition_key => i.partition_key,
                p_unique_key => i.unique_key, p_parent_id => i.parent_id, p_awaits => null, p_timed_out => false,
                p_signals => case
                    when o.answer ->> 'kept' = 'mail' then gendurable._present_inbox(i.id, null) else '[]'
                end,
                p_childs => '[]', p_meta => i.meta) c
            where o.answer ? 'kept' and i.id = any(array[o.id])
        ) k on true
        order by o.ord;
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
"busy" after some ten milliseconds at most. p_lease is the new lease of kept claims. Kinds of outcomes: "next",
"replay", "await", "schedule_childs", "done", "stop", "error". Needs READ COMMITTED (GD504); raises GD501 when
p_outcomes is no array, and class 22 errors of the JSON itself (U+0000) before anything is looked at.';

create or replace function gd_commit_one(p_worker text, p_outcome jsonb) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    -- variables and not expressions: what is used more than once in a helper is inlined only so
    v_now timestamptz := clock_timestamp();
    v_json jsonb;
    v_outcome gendurable.outcome;
    v_row record;
    v_keys text[];
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    if gendurable._outcome_problem(p_outcome) is not null then
        perform gendurable._invalid(gendurable._outcome_problem(p_outcome), left(p_outcome::text, 200),
            'See the table of outcomes in the SQL reference.');
    end if;
    v_json := p_outcome - 'keep'::text;
    v_outcome := gendurable._parse_outcome(0, v_json, v_now);

    -- the order that every waiting call uses: the parent, the row, then its keys, sorted
    if v_outcome.ends or v_outcome.kind = 'error' then
        perform from gendurable.instance p
        where p.id = (select i.parent_id from gendurable.instance i where i.id = v_outcome.id)
        for no key update;
    end if;
    select i.partition_key, i.unique_scope is not null as scoped, i.children_pending is not null as family, i.expires_at,
        i.timeout_at, i.queue, i.queue_slot
    into v_row
    from gendurable.instance i
    where i.id = v_outcome.id and i.claim_no = v_outcome.claim_no and i.status = 'executing'
    for no key update;
    if not found then
        perform gendurable._raise_lost(v_outcome);
    end if;
    v_keys := array(
        select distinct k from unnest(array[v_row.partition_key, v_outcome.partition_key]) k
        where k is not null order by 1);
    perform gendurable._lock_keys(v_keys);
    v_now := clock_timestamp();
    if gendurable._is_over(v_row.expires_at, v_row.timeout_at, v_now) then
        perform gendurable._raise_lost(v_outcome);
    end if;
    v_outcome := gendurable._parse_outcome(0, v_json, v_now);
    perform gendurable._apply_outcomes(
        p_worker, array[v_outcome], v_keys, v_row.scoped, v_row.family, interval '60 seconds', v_now);
    if v_row.queue_slot is not null then
        perform gendurable._wake_sleepers(array[v_row.queue]);
    end if;
end $$;

comment on function gd_commit_one(text, jsonb) is
'Commits one outcome inside the caller''s own transaction, together with the writes of the step. It waits for locks.
It raises GD505 when the claim is lost, and the reason when the outcome is not valid, so that all of it rolls back.
"keep" is not honoured. Needs READ COMMITTED (GD504).';

create or replace function gendurable._raise_lost(p_outcome gendurable.outcome) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'GD505', message = 'the claim is lost',
        detail = format('id %s, claim_no %s', p_outcome.id, p_outcome.claim_no),
        hint = 'Roll back: another worker runs this step, its time was up, or the instance was cancelled.';
end $$;

comment on function gendurable._raise_lost(gendurable.outcome) is 'Raises GD505: the outcome comes under a claim that is lost.';

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
        p_worker, v_outcomes, v_locked.keys, v_locked.scoped, v_locked.family, p_lease, p_now);
    if v_locked.slotted is not null then
        perform gendurable._wake_for_slots(v_locked.slotted, v_locked.queues);
    end if;
    return v_answers;
end $$;

comment on function gendurable._commit_outcomes(text, gendurable.outcome[], interval, timestamptz) is
    'Commits outcomes that were read, waiting for nobody: {ord: answer} for all but those that are simply ok. Under
lock_timeout.';

create or replace function gendurable._apply_isolated(
    p_worker text, p_outcomes gendurable.outcome[], p_keys text[], p_scoped boolean, p_family boolean, p_lease interval,
    p_now timestamptz
) returns jsonb
language plpgsql as $$
declare
    v_half int := cardinality(p_outcomes) / 2;
    v_state text;
    v_message text;
    v_result text;
begin
    if p_outcomes = '{}' then
        return '{}'::jsonb;
    end if;
    begin
        return gendurable._apply_outcomes(p_worker, p_outcomes, p_keys, p_scoped, p_family, p_lease, p_now);
    exception
        when others or assert_failure then
            get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
            if not gendurable._blames_outcome(v_state) and not gendurable._blames_lock(v_state) then
                raise;
            end if;
            -- two sessions took one unique key at the same moment: the second try sees the first one's
            v_result := case
                when gendurable._blames_lock(v_state) or v_state = '23505' then 'busy' else 'rejected' end;
    end;
    if v_half = 0 then
        return jsonb_build_object(p_outcomes[1].ord, case
            when v_result = 'busy' then gendurable._answer('busy')
            else gendurable._answer('rejected', v_state, v_message)
        end);
    end if;
    -- halves, and halves of halves: one bad outcome in 400 costs 17 sub-transactions and not 400
    return gendurable._apply_isolated(p_worker, p_outcomes[:v_half], p_keys, p_scoped, p_family, p_lease, p_now)
        || gendurable._apply_isolated(p_worker, p_outcomes[v_half + 1:], p_keys, p_scoped, p_family, p_lease, p_now);
end $$;

comment on function gendurable._apply_isolated(text, gendurable.outcome[], text[], boolean, boolean, interval, timestamptz) is
    '_apply, in halves where it fails, so that one bad outcome takes nobody with it; answers for those that failed.';

-- The door through which gd_run_claims commits (244_group): what it cannot have makes the effect of its row roll back.
create or replace function gendurable._commit_run(p_worker text, p_outcomes jsonb) returns jsonb
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '10ms' as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    return gendurable._commit_outcomes(
        p_worker, gendurable._parse_outcomes(p_outcomes, v_now), interval '60 seconds', v_now);
end $$;

comment on function gendurable._commit_run(text, jsonb) is
    'Commits outcomes: {ord: answer} for all but those that are simply ok.';
