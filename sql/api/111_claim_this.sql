-- The door through which gd_rehearse claims one instance (241_run_undone): the gate that every claim passes, for a row that was
-- named and not found; and if it cannot start now, why.
-- Next: 112_scan, how the others are found.

create or replace function gendurable._claim_this(
    p_worker text, p_id bigint, p_lease interval,
    out claim_no bigint, out fsm text, out step text, out why text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_row record;
    v_picked gendurable.candidate[];
    v_limited boolean;
    v_room int;
    v_round record;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    perform gendurable._need_lease(p_lease);
    select i.id, i.fsm, i.step, i.queue, i.priority, i.woken, i.status, i.eligible_at, i.partition_key, i.rate_limit into v_row
    from gendurable.instance i
    where i.id = p_id and i.id > 0;
    fsm := v_row.fsm;
    step := v_row.step;
    why := coalesce(
        gendurable._stop_reason(v_row.queue), gendurable._pause_reason(p_id), gendurable._wait_reason(p_id, v_now));
    if why is not null then
        return;
    end if;
    v_limited := gendurable._find_limited(array[v_row.queue]) <> '{}';
    if v_limited then
        v_room := gendurable._open_queue(v_row.queue, 1, 3, v_now);
        if v_room is distinct from 1 then
            why := case
                when v_room = 0 then 'its queue is full: ' else 'another claim is at its queue, which has a limit: '
            end || v_row.queue;
            return;
        end if;
    end if;
    -- the first one from its own place on
    v_picked := gendurable._pick_due(
        v_row.queue, v_row.priority, v_row.woken, v_row.eligible_at, p_id - 1, v_now, 1, null, v_now, null);
    if (v_picked[1]).id is distinct from p_id then
        why := 'another transaction holds it';
        return;
    end if;
    v_round := gendurable._take_round(
        p_worker, v_row.queue, v_row.priority, v_picked, 1, gendurable._most_bytes(), p_lease, v_now, null, true);
    if not coalesce(p_id = any(v_round.ids), false) then
        why := coalesce(
            (select 'it ends as failed: ' || i.last_error from gendurable.instance i where i.id = p_id and i.finished_at is not null),
            case
                when v_row.rate_limit is not null then 'it waits for its rate limit: ' || v_row.rate_limit
                when v_row.partition_key is not null then 'others come before it in its key: ' || v_row.partition_key
                else 'it is put off, having lost its worker several times'
            end);
        return;
    end if;
    if v_round.started is null then
        perform gendurable._to_executing(p_worker, v_round.ids, null, v_now, p_lease);
    end if;
    if v_limited then
        perform gendurable._fill_slots(v_row.queue, v_round.ids, false);
    end if;
    perform gendurable._time_claims(v_round.ids, v_now);
    claim_no := (select i.claim_no from gendurable.instance i where i.id = p_id);
end $$;

comment on function gendurable._claim_this(text, bigint, interval) is
    'Starts this instance, if it is due and nothing holds it up: the number of the claim; else why not.';
