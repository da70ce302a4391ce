-- Changing and removing one instance by hand. An edit writes no status: what an instance waits for, and until when, stays; what runs
-- then is changed. These wait for locks as 180_operate does, rows before keys.
-- Next: 189_audit, who did what.

create or replace function gd_edit(
    p_id bigint, p_step text = null, p_state jsonb = null, p_queue text = null, p_priority int = null, p_meta jsonb = null
) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_state constant jsonb := nullif(p_state, 'null');
    v_meta constant jsonb := nullif(p_meta, 'null');
    v_changed constant text[] := array_remove(array[
        case when p_step is not null then 'step' end, case when v_state is not null then 'state' end,
        case when p_queue is not null then 'queue' end, case when p_priority is not null then 'priority' end,
        case when v_meta is not null then 'meta' end], null);
    v_row record;
    v_now timestamptz;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_instance(p_id);
    perform gendurable._need_edit(p_step, v_state, p_queue, v_meta);
    select i.status, i.partition_key, i.finished_at, i.priority, i.paused_at, i.fsm, i.fsm_version into v_row
    from gendurable.instance i
    where i.id = p_id
    for no key update;
    if not found or v_row.status = 'executing' then
        return false;
    end if;
    if p_step is not null then
        perform gendurable._need_no_flow(p_id, 'p_step');
        perform gendurable._need_step(v_row.fsm, v_row.fsm_version, p_step);
    end if;
    if v_changed = '{}' then
        return true;
    end if;
    perform gendurable._lock_keys(array[v_row.partition_key]);
    v_now := clock_timestamp();
    perform gendurable._note_edit(p_id, p_step, v_changed, v_now);
    update gendurable.instance i
    set step = coalesce(p_step, i.step), aside_step = case when i.aside_at is not null then coalesce(p_step, i.step) end,
        state = coalesce(v_state, i.state), meta = coalesce(v_meta, i.meta), priority = coalesce(p_priority, i.priority),
        -- the attempts of a step are its own; what has ended keeps them, for people to see
        attempt = case when p_step is null or i.finished_at is not null then i.attempt else 0 end,
        crashes = case when p_step is null or i.finished_at is not null then i.crashes else 0 end,
        updated_at = v_now
    where i.id = p_id;
    if p_step is not null and v_row.paused_at is null then
        -- a pause of its step has set it aside; one that still holds meets it again
        perform gendurable._bring_back(array[p_id], v_now);
    end if;
    if (p_step is not null or p_queue is not null) and gendurable._place_rows(array[p_id], p_queue, v_now) > 0
        or p_priority <> v_row.priority
    then
        -- Lines before rate limits are of a queue and priority, and out of one it is due. What is due comes behind what sessions
        -- have looked at in that place already; its turn in its key is another column.
        update gendurable.instance i
        set eligible_at = v_now, bucket_at = null, woken = case when i.bucket_at is null then i.woken else 1 end
        where i.id = p_id and i.finished_at is null and (i.eligible_at <= v_now or i.bucket_at is not null);
    end if;
    perform gendurable._keep_batons(array_remove(array[v_row.partition_key], null), array[p_id], v_now);
    -- also where it was due already: a claim may have passed over it while it was locked here
    perform gendurable._wake_sleepers(array(
        select i.queue from gendurable.instance i
        where i.id = p_id and i.finished_at is null and i.eligible_at <= v_now + gendurable._longest_poll()));
    perform gendurable._note_by_hand('gd_edit', p_id, jsonb_build_object('changed', to_jsonb(v_changed), 'step', p_step,
        'queue', p_queue, 'priority', p_priority), 1);
    return true;
end $$;

comment on function gd_edit(bigint, text, jsonb, text, int, jsonb) is
'Changes an instance that does not execute. What is left out or null stays as it is:

  p_step: what runs next, or when what it waits for has come; its attempts begin anew, also where it is the same step; not
    of a flow
  p_state: all of its state, an object; {} empties it. Of a flow these are its arguments; what it has come through stays
  p_queue: its own queue from now on; it stands in that of its step where that has one
  p_priority: its priority
  p_meta: all of its meta, an object

It goes on waiting for what it waits for (its time, a signal, children, its turn in its key), and one that has ended stays
so: gd_reschedule and gd_retry change that. One that comes to another queue or priority out of the line before a rate limit
stands at the end of that line there. What was changed and by whom stands in gd_errors, and in gd_history where its machine
keeps one, as "edited". False: it is executing; where its worker is lost, gd_reap takes it back. Waits for locks. Raises
GD501, GD503, GD504.';

create or replace function gendurable._need_edit(p_step text, p_state jsonb, p_queue text, p_meta jsonb) returns void
language plpgsql as $$
begin
    if p_step is not null then
        perform gendurable._need_text(p_step, 'p_step');
    end if;
    if p_queue is not null then
        perform gendurable._need_text(p_queue, 'p_queue');
    end if;
    perform gendurable._need_object(p_state, 'p_state', 'Leave it out to keep the state.');
    perform gendurable._need_object(p_meta, 'p_meta', 'Leave it out to keep the meta.');
end $$;

comment on function gendurable._need_edit(text, jsonb, text, jsonb) is 'Raises GD501 unless an instance can be changed to this.';

create or replace function gd_delete(p_id bigint) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_row record;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_instance(p_id);
    -- nobody is waited for, for nothing
    if exists (select from gendurable.instance i where i.id = p_id and i.finished_at is null) then
        return false;
    end if;
    perform from gendurable.instance i
    where i.id = (select x.parent_id from gendurable.instance x where x.id = p_id)
    for share;
    select i.fsm, i.status, i.partition_key, i.eligible_at is not null as carries into v_row
    from gendurable.instance i
    where i.id = p_id and i.finished_at is not null
    for update;
    if v_row.carries then
        perform gendurable._lock_keys(array[v_row.partition_key]);
        perform gendurable._relieve_carriers(array[p_id], array[v_row.partition_key], clock_timestamp());
    end if;
    if gendurable._remove_locked(gendurable._lock_ended(array[p_id])) = '{}' then
        return false;
    end if;
    perform gendurable._note_by_hand('gd_delete', p_id, jsonb_build_object('fsm', v_row.fsm, 'status', v_row.status), 1);
    return true;
end $$;

comment on function gd_delete(bigint) is
'Removes an instance that has ended, with its inbox, errors, history and journal, before its retention does. Its children stay. False:
it has not ended, or its parent has not, which may still be handed its result; or all that wait in its partition key are
locked by others, and it passes the key on. A foreign key of yours that refers to it raises its error. gd_audit says what was
removed. Waits for locks. Raises GD503, GD504.';
