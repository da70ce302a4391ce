-- The operator's hand: cancel, retry, reschedule, pause, resume. These wait for locks, in the one order of all
-- waiting calls: rows by id (a parent's is smaller than its children's), then keys, sorted.
-- Next: 182_bulk, the same for many at once.

create or replace function gd_cancel(p_id bigint, p_reason text = null, p_cascade boolean = false) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_batch constant int := 1000;
    v_reason constant text := gendurable._cut_reason(p_reason);
    v_now timestamptz;
    v_live bigint[];
    v_keys text[];
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_instance(p_id);
    v_live := gendurable._lock_tree(p_id, coalesce(p_cascade, false));
    v_live := array(
        select i.id from gendurable.instance i
        where i.id = any(v_live) and not gendurable._is_terminal(i.status)
        order by i.id);
    if p_id <> all(v_live) then
        return false;
    end if;
    -- The server's lock table is small and shared: rows of more keys end without the locks.
    v_keys := array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.id = any(v_live) and i.partition_key is not null
        order by 1
        limit gendurable._most_keys());
    perform gendurable._lock_keys(v_keys);
    v_now := clock_timestamp();
    -- by id, so that parents end before their children count in their barriers
    for v_at in 0 .. (cardinality(v_live) - 1) / v_batch loop
        perform gendurable._cancel_instances(v_live[v_at * v_batch + 1:(v_at + 1) * v_batch], v_keys, v_reason, v_now);
    end loop;
    perform gendurable._note_by_hand('gd_cancel', p_id,
        jsonb_build_object('reason', p_reason, 'cascade', nullif(p_cascade, false)), cardinality(v_live));
    return true;
end $$;

comment on function gd_cancel(bigint, text, boolean) is
'Ends an instance as "cancelled", with p_cascade all its descendants as well, however many: beyond 500 partition keys,
ended rows stay due for a moment and pass their keys on. p_reason, cut at 8,000 characters, becomes its last_error.
The outcome of a running step will be "stale", and its worker is told at once if it listens (gd_hello); the key and the
parent''s barrier are released. Its inbox stays for gd_retry. False: it has ended already. Waits for locks. Raises GD503, GD504.';

create or replace function gd_retry(p_id bigint, p_step text = null, p_state jsonb = null) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_instance(p_id);
    if p_step is not null then
        perform gendurable._need_text(p_step, 'p_step');
    end if;
    perform gendurable._need_object(p_state, 'p_state', 'Leave it out to keep the state.');
    perform gendurable._lock_tree(p_id, false);
    if p_step is not null then
        perform gendurable._need_no_flow(p_id, 'p_step');
    end if;
    perform gendurable._need_step(i.fsm, i.fsm_version, coalesce(p_step, i.step))
    from gendurable.instance i
    where i.id = p_id and i.failed_at is not null;
    begin
        if gendurable._retry_instances(array[p_id], p_step, nullif(p_state, 'null'), clock_timestamp()) = 0 then
            return false;
        end if;
    exception when unique_violation then
        return false;
    end;
    perform gendurable._note_by_hand('gd_retry', p_id,
        jsonb_build_object('step', p_step, 'state', case when p_state <> 'null' then 'another one' end), 1);
    return true;
end $$;

comment on function gd_retry(bigint, text, jsonb) is
'Makes a failed or cancelled instance run again, at p_step (default: where it ended), with p_state (default: its own),
attempt 0. It has the signals that no step had used up; where it ended, the step is shown the same awaits, signals
and timed_out once more.
A flow goes on behind its last checkpoint, and where one has failed it, with that one: its journal is dropped from there
on, and attempts count anew. With p_state it begins from the start, with an empty journal; p_step does not go with it. Its parent waits for it again only if it still waits in that barrier. False: it is neither
failed nor cancelled, or its unique key is taken. GD501 also where its version has registered its steps (gd_register) and
has no such one. Waits for locks. Raises GD501, GD503, GD504.';

create or replace function gd_reschedule(p_id bigint, p_eligible_at timestamptz) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_key text;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_instance(p_id);
    perform gendurable._need_time(p_eligible_at);
    select i.partition_key into v_key
    from gendurable.instance i
    where i.id = p_id and i.status in ('runnable', 'awaiting_signal')
    for no key update;
    if not found then
        return false;
    end if;
    perform gendurable._lock_keys(array[v_key]);
    perform gendurable._reschedule_instances(array[p_id], p_eligible_at, clock_timestamp());
    perform gendurable._note_by_hand('gd_reschedule', p_id, jsonb_build_object('eligible_at', p_eligible_at), 1);
    return true;
end $$;

comment on function gd_reschedule(bigint, timestamptz) is
'Moves when a runnable instance is due (also one that waits in its key: its place moves too), or the deadline of an
await. False: it is in neither status. Waits for locks. Raises GD501, GD503, GD504.';

create or replace function gd_pause_queue(p_queue text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_queue, 'p_queue');
    if gendurable._pause_queue(p_queue) then
        perform gendurable._note_by_hand('gd_pause_queue', null, jsonb_build_object('queue', p_queue), 1);
    end if;
    perform gendurable._tell_servers(p_queue);
end $$;

comment on function gd_pause_queue(text) is
'Stops handing out instances of the queue; running steps go on and commit. Waits for nobody''s open transaction, but
for a fifth of a second where one holds a partition key; another that pauses or resumes this very queue is met with
55P03 after a second. Raises GD501, GD504.';

create or replace function gd_resume_queue(p_queue text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_queue, 'p_queue');
    if gendurable._resume_queue(p_queue) then
        perform gendurable._note_by_hand('gd_resume_queue', null, jsonb_build_object('queue', p_queue), 1);
    end if;
    perform gendurable._tell_servers(p_queue);
end $$;

comment on function gd_resume_queue(text) is
'Ends a pause; workers are woken. Waits as gd_pause_queue does. Raises GD501, GD504.';

create or replace function gendurable._lock_tree(p_id bigint, p_cascade boolean) returns bigint[]
language plpgsql as $$
declare
    v_tree bigint[] := '{}'::bigint[];
    v_seen bigint[];
begin
    -- a running descendant may fan out while its row is waited for: again until nothing new is found
    loop
        v_seen := v_tree;
        v_tree := array(
            with recursive tree as (
                select p_id as id
                union
                select i.id from tree t join gendurable.instance i on i.parent_id = t.id where p_cascade
            )
            select t.id from tree t order by t.id);
        exit when v_tree = v_seen;
        perform from gendurable.instance i
        where i.id = any(v_tree || (select r.parent_id from gendurable.instance r where r.id = p_id))
        order by i.id
        for no key update;
    end loop;
    return v_tree;
end $$;

comment on function gendurable._lock_tree(bigint, boolean) is
    'Locks an instance, its parent and, if asked, all its descendants; the ids without the parent''s.';
