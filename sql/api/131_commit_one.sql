-- Committing one outcome in a transaction of the caller's, together with what its step has written there: strictly, since what
-- cannot be committed must take all of that back. It waits for locks. Most outcomes say little, of instances that have little:
-- these take a short way of one update. All others go as those of gd_commit do.
-- Invariants 1 and 8. Next: 132_read.

create or replace function gd_commit_one(p_worker text, p_outcome jsonb) returns jsonb
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
begin
    if not gendurable._is_ready(p_worker, interval '1 second') then
        perform gendurable._need_read_committed();
        perform gendurable._need_text(p_worker, 'p_worker');
    end if;
    return case
        when gendurable._is_short_outcome(p_outcome) then
            case
                when gendurable._commit_plain(
                    (p_outcome ->> 'id')::bigint, (p_outcome ->> 'claim_no')::bigint, p_outcome ->> 'kind' = 'done',
                    p_outcome ->> 'step', p_outcome -> 'state', p_outcome -> 'result') then null
                else gendurable._commit_strictly(p_worker, p_outcome)
            end
        else gendurable._commit_strictly(p_worker, p_outcome)
    end;
end $$;

comment on function gd_commit_one(text, jsonb) is
'Commits one outcome inside the caller''s own transaction, together with the writes of the step. It waits for locks.
It raises GD505 when the claim is lost, and the reason when the outcome is not valid, so that all of it rolls back.
The answer is null, but for "keep": the next claim, as gd_commit gives it in detail, with a lease of 60 seconds; null
when it was given back. Call it last: the row of the instance is locked from then on, and what signals or cancels it
waits for the end of the transaction. Needs READ COMMITTED (GD504).';

create or replace function gendurable._commit_plain(
    p_id bigint, p_claim_no bigint, p_ends boolean, p_step text, p_state jsonb, p_result jsonb
) returns boolean
language plpgsql as $$
declare
    v_queue text;
begin
    if gendurable._history_asked() then
        if (
            select true
            from gendurable.instance i
            join gendurable.machine m on m.fsm = i.fsm and m.version = i.fsm_version
            where i.id = p_id and m.history is not null
        ) then
            return false;
        end if;
    end if;
    if p_ends and gendurable._retains() then
        return false;
    end if;
    if not p_ends and gendurable._steps_asked() and gendurable._lacks_next(p_id, p_step) then
        return false;
    end if;
    v_queue := gendurable._write_plain_outcome(p_id, p_claim_no, p_ends, p_step, p_state, p_result);
    if v_queue is null then
        return false;
    end if;
    if not p_ends then
        if not gendurable._is_awake(v_queue) then
            perform gendurable._wake_sleepers(array[v_queue]);
        end if;
    -- looked up in a statement behind the lock: whoever signals or watches has the row locked. Mostly there is nothing.
    elsif (select true from gendurable.signal s where s.instance_id = p_id limit 1)
        or (select true from gendurable.watch w where w.instance_id = p_id limit 1)
    then
        perform gendurable._finish_ended(array[p_id], array[p_id], null, null, clock_timestamp());
    end if;
    return true;
end $$;

comment on function gendurable._commit_plain(bigint, bigint, boolean, text, jsonb, jsonb) is
    'Commits a plain outcome of an instance that has nothing which others depend on; false: it is not one, its claim is lost or
its row is locked, and nothing was written.';

create or replace function gendurable._commit_strictly(p_worker text, p_outcome jsonb) returns jsonb
language plpgsql as $$
declare
    -- variables and not expressions: what is used more than once in a helper is inlined only so
    v_now timestamptz := clock_timestamp();
    v_outcome gendurable.outcome;
    v_row record;
    v_keys text[];
    v_answers jsonb;
begin
    if gendurable._outcome_problem(p_outcome) is not null then
        perform gendurable._invalid(gendurable._outcome_problem(p_outcome), left(p_outcome::text, 200),
            'See the table of outcomes in the SQL reference.');
    end if;
    v_outcome := gendurable._parse_outcome(0, p_outcome, v_now);

    -- the order that every waiting call uses: rows by id, which puts a parent before its children, then keys, sorted
    perform gendurable._lock_rows_of(v_outcome);
    select i.partition_key, i.unique_scope is not null as scoped, i.children_pending is not null as family,
        i.home is not null as homed, i.expires_at, i.timeout_at, i.queue, i.queue_slot, i.fsm, i.fsm_version, i.ctid as place
    into v_row
    from gendurable.instance i
    where i.id = v_outcome.id and i.claim_no = v_outcome.claim_no and i.status = 'executing';
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
    v_outcome := gendurable._parse_outcome(0, p_outcome, v_now);
    if not v_outcome.ends then
        perform gendurable._need_step(v_row.fsm, v_row.fsm_version, coalesce(v_outcome.step, v_outcome.from_step));
    end if;
    v_answers := gendurable._apply_outcomes(
        p_worker, array[v_outcome], v_keys, v_row.scoped, v_row.family, v_row.homed, interval '60 seconds', v_now,
        array[v_row.place]);
    if v_row.queue_slot is not null then
        perform gendurable._wake_for_slots(array[v_outcome.id], array[v_row.queue]);
    end if;
    if v_answers = '{}' then
        return null;
    end if;
    return gendurable._present_kept(v_outcome.id, v_answers -> '0' ->> 'kept' = 'mail')
        || case when v_answers -> '0' ->> 'kept' = 'halted' then '{"halted": true}' else '{}' end::jsonb;
end $$;

comment on function gendurable._commit_strictly(text, jsonb) is
    'Commits one outcome of any kind, or raises why not; the next claim where it was kept.';

-- All rows that an outcome concerns are waited for in one statement, by id: one by one, two that concern each other's row
-- would wait for each other. Whatever an outcome comes to concern (another instance that it tells something) belongs here.
create or replace function gendurable._lock_rows_of(p_outcome gendurable.outcome) returns void
language plpgsql as $$
declare
    v_ids bigint[] := array[p_outcome.id];
begin
    if p_outcome.ends or p_outcome.kind = 'error' then
        -- it may count in the barrier of its parent
        v_ids := v_ids || (
            select i.parent_id from gendurable.instance i where i.id = p_outcome.id and i.barrier_no is not null);
    end if;
    if p_outcome.sends is not null then
        -- a key that passes on meanwhile mostly goes to a new instance, whose id is above all of these
        v_ids := v_ids || gendurable._find_targets(array[p_outcome]);
    end if;
    perform from gendurable.instance i where i.id = any(v_ids) order by i.id for no key update;
end $$;

comment on function gendurable._lock_rows_of(gendurable.outcome) is
    'Locks every row that an outcome concerns, waiting for each: its own, the parent that it may count in, and
those that its signals go to.';

create or replace function gendurable._present_kept(p_id bigint, p_mail boolean) returns jsonb
language plpgsql as $$
begin
    return (
        select to_jsonb(c)
        from gendurable.instance i
        cross join lateral gendurable._claimed(
            p_id => i.id, p_claim_no => i.claim_no, p_fsm => i.fsm, p_fsm_version => i.fsm_version, p_step => i.step,
            p_state => i.state, p_attempt => i.attempt, p_queue => i.queue, p_partition_key => i.partition_key,
            p_unique_key => i.unique_key, p_parent_id => i.parent_id, p_awaits => null, p_timed_out => false,
            p_signals => case when p_mail then gendurable._present_inbox(i.id, null) else '[]' end,
            p_childs => '[]', p_meta => i.meta, p_attributes => i.attributes) c
        where i.id = p_id);
end $$;

comment on function gendurable._present_kept(bigint, boolean) is
    'What gd_claim would hand out for a claim that was kept.';

create or replace function gendurable._raise_lost(p_outcome gendurable.outcome) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'GD505', message = 'the claim is lost',
        detail = format('id %s, claim_no %s', p_outcome.id, p_outcome.claim_no),
        hint = 'Roll back: another worker runs this step, its time was up, or the instance was cancelled.';
end $$;

comment on function gendurable._raise_lost(gendurable.outcome) is 'Raises GD505: the outcome comes under a claim that is lost.';
