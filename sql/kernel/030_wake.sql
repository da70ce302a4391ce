-- Telling those who sleep that something is due. NOTIFY takes a lock of the whole server until the commit, so only a queue on
-- which somebody sleeps is told of. How dispatchers fall asleep stands in api/170_sleep.
-- Invariant 6: nothing is due while all sleep. Next: 040_unique, the keys of which one instance holds each.

create or replace function gendurable._may_notify() returns boolean
language sql stable parallel safe as $$
    -- A transaction that has notified cannot be prepared. Whoever says off costs others a poll, and nothing else.
    select lower(coalesce(current_setting('gendurable.notify', true), '')) not in ('off', 'false', 'no', '0')
$$;

comment on function gendurable._may_notify() is 'Whether this session notifies: not with gendurable.notify = off.';

create or replace function gendurable._notify_listeners(p_queue text) returns void
language plpgsql as $$
begin
    if gendurable._may_notify() then
        -- a payload ends at 7,999 bytes; the empty one wakes everybody
        perform pg_notify('gendurable', case when octet_length(p_queue) < 8000 then p_queue else '' end);
    end if;
end $$;

comment on function gendurable._notify_listeners(text) is 'Notifies whoever listens that something is due in a queue, at commit.';

create or replace function gendurable._is_awake(p_queue text) returns boolean
language sql volatile as $$
    -- one expression: a `perform` of its own would be one more statement on every insert
    select case
        when pg_try_advisory_lock(gendurable._lock_of_sleep(), hashtext(p_queue))
            then pg_advisory_unlock(gendurable._lock_of_sleep(), hashtext(p_queue))
        else false
    end
$$;

comment on function gendurable._is_awake(text) is
    'Whether nobody sleeps on a queue. False, too, while another session asks at the same moment.';

create or replace function gendurable._wake_sleepers(p_queues text[]) returns void
language plpgsql as $$
declare
    v_queue text;
    v_awake boolean;
begin
    -- NOTIFY takes a lock of the whole server until the commit: only for a queue on which somebody sleeps. A sleeper keeps
    -- its lock; another writer that looks at the same moment has let it go by the second or third try, unless it was
    -- taken off its processor meanwhile: the list of all locks, dearer to read, tells the two apart.
    foreach v_queue in array coalesce(p_queues, '{}') loop
        for v_try in 1 .. 3 loop
            v_awake := gendurable._is_awake(v_queue);
            exit when v_awake;
        end loop;
        if not v_awake and exists (
            select from pg_locks l
            where l.locktype = 'advisory' and l.classid = gendurable._lock_of_sleep() and l.objsubid = 2
                and l.objid::bigint::bit(32)::int = hashtext(v_queue) and l.mode = 'ShareLock' and l.granted
        ) then
            perform gendurable._notify_listeners(v_queue);
        end if;
    end loop;
end $$;

comment on function gendurable._wake_sleepers(text[]) is 'Notifies the dispatchers that sleep on these queues, at commit.';
