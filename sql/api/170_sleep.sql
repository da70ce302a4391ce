-- Sleeping dispatchers. Each holds a session-level shared advisory lock for each of its queues: visible at once,
-- gone with its connection, blind to snapshots. Whoever makes a row due looks for that lock after the row is written
-- (kernel/030_wake).
-- Invariant 6. Next: 180_operate.

create or replace function gd_sleep(p_worker text, p_queues text[])
returns table (next_due timestamptz, horizon xid8)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
#variable_conflict use_column
declare
    v_now timestamptz;
    v_held int[];
    v_next timestamptz;
    v_queue text;
    v_priority bigint;
    v_memory constant jsonb := gendurable._recall_memory();
    v_looks int := 0;
    v_horizon xid8;
    v_limited text[];
begin
    perform gendurable._need_text(p_worker, 'p_worker');
    perform gendurable._need_read_committed();
    if (
        case
            when p_queues is null or array_ndims(p_queues) > 1 then true
            else array_position(p_queues, null) is not null
        end
    ) then
        perform gendurable._invalid('p_queues must be an array of names', null, 'Pass the queues to sleep on.');
    end if;
    v_held := gendurable._find_sleeps();
    -- two names may have one hash, and gd_wake unlocks each hash once
    perform pg_advisory_lock_shared(gendurable._lock_of_sleep(), q.hash)
    from (select distinct hashtext(u.queue) as hash from unnest(p_queues) u (queue)) q
    where q.hash <> all(v_held);

    -- A writer that looked before the lock was there had its transaction id by then, a smaller one than this. (The
    -- snapshot's xmax would be too small: it is the last id that has ended, plus one, and may belong to a writer.)
    v_horizon := pg_current_xact_id();
    v_now := clock_timestamp();
    if exists (select from gendurable.hold) then
        return query select null::timestamptz, v_horizon;    -- gd_release_hold wakes everybody
        return;
    end if;
    if exists (select from gendurable.queue_setting) then
        v_limited := gendurable._find_limited(p_queues);
    end if;
    foreach v_queue in array p_queues loop
        continue when exists (select from gendurable.paused_queue q where q.queue = v_queue);
        if v_queue = any(v_limited) then
            -- whoever ends there wakes this session: until then nothing that becomes due is worth a claim
            continue when gendurable._is_full(v_queue, v_now);
            if gendurable._is_busy(v_queue) then
                v_next := least(v_next, v_now + interval '250 ms');
            end if;
        end if;
        if not gendurable._may_look(v_memory -> v_queue, gendurable._epoch_us(v_now)) then
            -- the next claim may not look for priorities that this session does not know
            v_next := least(v_next, v_now + interval '250 ms');
        end if;
        v_priority := -2147483649;
        loop
            v_priority := gendurable._find_next_priority(v_queue, v_priority, null);
            exit when v_priority is null;
            v_looks := v_looks + 1;
            if v_looks > 1000 then
                -- a client may use any number of priorities: what is not looked at is asked for by the next call
                v_next := least(v_next, v_now + interval '1 second');
                exit;
            end if;
            v_next := least(v_next, (
                select min(d.eligible_at)
                from (values (0::smallint), (1::smallint)) w (woken)
                cross join lateral (
                    select i.eligible_at
                    from gendurable.instance i
                    where i.queue = v_queue and i.priority = v_priority and i.woken = w.woken and i.eligible_at > v_now
                    order by i.eligible_at
                    limit 1
                ) d));
        end loop;
    end loop;
    if exists (select from gendurable.doubtful_key) then
        v_next := least(v_next, v_now + interval '250 ms');
    end if;
    if exists (select from gendurable.resumed) then
        v_next := least(v_next, greatest((select min(r.again_at) from gendurable.resumed r), v_now + interval '100 ms'));
    end if;
    if gendurable._seen(v_memory, v_now) is not null then
        -- the clock was set back: the next claim moves what was due by the old one
        v_next := least(v_next, v_now + interval '1 second');
    end if;
    return query select v_next, v_horizon;
end $$;

comment on function gd_sleep(text, text[]) is
'Marks this session as asleep on the queues, until gd_wake or its end: while it is, whoever makes a row due in them
sends a notification "gendurable" with the queue''s name. Call it on the connection that has done "LISTEN
gendurable", claim once more, then wait.

  next_due: when the next delayed row or deadline is due (null: none)
  horizon: writers older than this transaction id may have looked before you slept; poll until
    pg_snapshot_xmin(pg_current_snapshot()) >= horizon, then call gd_sleep again for the next due time (they may have
    written for later) and claim once more

Each call is followed by a claim: what is due by then is not in next_due. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_wake(p_worker text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_hash int;
begin
    perform gendurable._need_text(p_worker, 'p_worker');
    foreach v_hash in array gendurable._find_sleeps() loop
        perform pg_advisory_unlock_shared(gendurable._lock_of_sleep(), v_hash);
    end loop;
end $$;

comment on function gd_wake(text) is 'Ends gd_sleep for all queues of this session. Raises GD501.';

create or replace function gendurable._find_sleeps() returns int[]
language plpgsql stable as $$
begin
    -- asked of the server and not remembered: a session-level lock outlives the rollback that a memory would not
    return array(
        select l.objid::bigint::bit(32)::int
        from pg_locks l
        where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.classid = gendurable._lock_of_sleep() and l.objsubid = 2
            and l.granted and l.mode = 'ShareLock');
end $$;

comment on function gendurable._find_sleeps() is 'The hashes of the queues that this session sleeps on.';
