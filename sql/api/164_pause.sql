-- Pauses by hand: of an instance, and of a machine, one of its versions, one of its steps. What claims make of them stands in
-- 118_stops and kernel/086_pauses; pauses of queues in 180_operate and 166_queue.
-- Next: 166_queue.

create or replace function gd_pause(p_id bigint) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
declare
    v_row record;
    v_now timestamptz;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_instance(p_id);
    select i.status, i.eligible_at, i.lane_at, i.bucket_at, i.partition_key, i.paused_at into v_row
    from gendurable.instance i
    where i.id = p_id
    for no key update;
    if not found or gendurable._is_terminal(v_row.status) or v_row.paused_at is not null then
        return false;
    end if;
    v_now := clock_timestamp();
    perform gendurable._note_event(
        array[p_id], 'pause', null, jsonb_build_object('by', gendurable._actor()), v_now);
    insert into gendurable.special default values;
    update gendurable.instance i set paused_at = v_now, paused_by = gendurable._actor() where i.id = p_id;
    -- What it would be met for is done now. Behind somebody who has its key the next claim does it.
    if v_row.status in ('runnable', 'awaiting_signal') and coalesce(v_row.eligible_at, v_row.lane_at, v_row.bucket_at) <= v_now
        and (v_row.lane_at is null or v_row.lane_at <= v_now)
        and (v_row.partition_key is null or gendurable._try_keys(array[v_row.partition_key], 5) <> '{}')
    then
        perform gendurable._set_aside(array[p_id], v_now);
    end if;
    perform gendurable._note_by_hand('gd_pause', p_id, '{}', 1);
    return true;
end $$;

comment on function gd_pause(bigint) is
'Pauses an instance: no claim that begins after the commit of this hands it out. A step that runs is finished and committed,
and with it the pause begins: neither a claim that is kept nor a chain goes on. Signals, ended children, cancels and its
deadline reach it as ever; it ends, or is due when it is resumed, at the place in its key and queue that it had. While it
is paused its key is free for others. gd_retry ends the pause of one that has ended. False: it has ended, or is paused.
Another transaction that has locked its row is met with 55P03 after a second. The view gd_pauses says who paused what.
Raises GD503, GD504.';

create or replace function gd_resume(p_id bigint) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
declare
    v_row record;
    v_now timestamptz;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_instance(p_id);
    select i.status, i.queue, i.fsm, i.fsm_version, i.step, i.paused_at, i.aside_at into v_row
    from gendurable.instance i
    where i.id = p_id
    for no key update;
    if not found or gendurable._is_terminal(v_row.status) or v_row.paused_at is null then
        return false;
    end if;
    v_now := clock_timestamp();
    perform gendurable._note_event(
        array[p_id], 'resume', null, jsonb_build_object('by', gendurable._actor()), v_now);
    update gendurable.instance i set paused_at = null, paused_by = null where i.id = p_id;
    if v_row.aside_at is null then
        -- a claim may just have passed over it
        perform gendurable._wake_sleepers(array[v_row.queue]);
    elsif not coalesce((select true from gendurable._find_pause(v_row.fsm, v_row.fsm_version, v_row.step) limit 1), false) then
        perform gendurable._bring_back(array[p_id], v_now);
    end if;
    perform gendurable._note_by_hand('gd_resume', p_id, '{}', 1);
    return true;
end $$;

comment on function gd_resume(bigint) is
'Ends the pause of an instance. While its machine, its step or its queue is paused it goes on waiting for that. False: it is
not paused, or has ended. Waits as gd_pause does. Raises GD503, GD504.';

create or replace function gd_pause_machine(p_fsm text, p_version int = null, p_step text = null) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_paused_machine(p_fsm, p_version, p_step);
    insert into gendurable.paused_machine (fsm, version, step, paused_by)
    values (p_fsm, coalesce(p_version, 0), coalesce(p_step, ''), gendurable._actor())
    on conflict do nothing;
    if not found then
        return false;
    end if;
    perform gendurable._note_by_hand(
        'gd_pause_machine', null, jsonb_build_object('fsm', p_fsm, 'version', p_version, 'step', p_step), 1);
    return true;
end $$;

comment on function gd_pause_machine(text, int, text) is
'Pauses a machine, or a version or a step of it (of all its versions, without p_version): claims that begin after the commit
of this hand out nothing of it, whatever the queue. Running steps are finished and committed; claims that are kept and
chains do not go on with a step that is paused. Inserts, signals, ended children, cancels, retries and deadlines go on as
ever. A claim that meets a due row of it sets the row aside, and whoever waits behind it in its key goes on; each row
costs that once. False: the very same is paused already. It need not be known: what is inserted later is paused, too.
Waits for nobody but another that pauses or resumes the very same, who is met with 55P03 after a second. The view
gd_pauses says who paused what. Raises GD501, GD504.';

create or replace function gd_resume_machine(p_fsm text, p_version int = null, p_step text = null) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_paused_machine(p_fsm, p_version, p_step);
    delete from gendurable.paused_machine m
    where m.fsm = p_fsm and m.version = coalesce(p_version, 0) and m.step = coalesce(p_step, '');
    if not found then
        return false;
    end if;
    insert into gendurable.resumed (fsm) values (p_fsm);
    perform gendurable._bring_back_some(p_fsm, 1000, clock_timestamp());
    -- whatever queues they sleep on
    perform gendurable._notify_listeners('');
    perform gendurable._note_by_hand(
        'gd_resume_machine', null, jsonb_build_object('fsm', p_fsm, 'version', p_version, 'step', p_step), 1);
    return true;
end $$;

comment on function gd_resume_machine(text, int, text) is
'Ends what gd_pause_machine began with the same arguments: other pauses of the machine stay. What was set aside is due again
at the place in its key and queue that it had: 1,000 rows at once, the others batch by batch with the claims that follow,
and with gd_maintain. False: the very same is not paused. Waits as gd_pause_machine does. Raises GD501, GD504.';

create or replace function gendurable._need_paused_machine(p_fsm text, p_version int, p_step text) returns void
language plpgsql as $$
begin
    perform gendurable._need_text(p_fsm, 'p_fsm');
    if p_step is not null then
        perform gendurable._need_text(p_step, 'p_step');
    end if;
    if p_version < 1 then
        perform gendurable._invalid('p_version must be at least 1', 'got ' || p_version,
            'Leave it out for all versions.');
    end if;
end $$;

comment on function gendurable._need_paused_machine(text, int, text) is
    'Raises GD501 unless a machine, a version or a step can be called so.';
