-- Pausing, resuming and setting limits decide who waits for what in a key, while other transactions act on what was true
-- before. Neither waits for the other, which may be a forgotten one: a decision announces itself, and whatever parks or
-- passes a baton meanwhile lifts more than it needs; the keys that older transactions still hold are put down as doubtful,
-- and whoever claims next looks at them again when their locks are free (065_decide).
-- Invariant 8. Next: 060_baton.

create or replace function gendurable._mark_special() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- Always a row of its own, in the same transaction: one that is there already may just be removed by the upkeep.
    insert into gendurable.special default values;
    return null;
end $$;

comment on function gendurable._mark_special() is 'Says that one of the tables of gendurable.special has got a row.';

create or replace function gendurable._has_pauses() returns boolean
language plpgsql stable as $$
begin
    return exists (select from gendurable.paused_machine)
        or exists (
            select from gendurable.instance i
            where i.paused_at is not null and i.finished_at is null and coalesce(i.paused_at, i.aside_at) is not null);
end $$;

comment on function gendurable._has_pauses() is 'Whether a machine, a version, a step or an instance is paused.';

create or replace function gendurable._is_seen_by_all(p_xid xid8) returns boolean
language plpgsql as $$
begin
    -- Who runs now holds a snapshot; when none is from before, those that are left in open transactions have a number below ours,
    -- if they have written anything.
    return pg_snapshot_xmin(pg_current_snapshot()) > p_xid and not exists (
        select from pg_stat_activity a
        where a.datname = current_database() and a.pid <> pg_backend_pid() and age(a.backend_xmin) >= age(p_xid::xid));
end $$;

comment on function gendurable._is_seen_by_all(xid8) is
    'Whether every statement of this database that runs now, or in an open transaction still may, sees what a transaction has written.';

create or replace function gendurable._forget_special() returns void
language plpgsql as $$
begin
    -- One statement, one snapshot: who adds to one of the tables meanwhile adds a row that is not seen here.
    delete from gendurable.special d
    where d.ctid = any(array(select s.ctid from gendurable.special s limit 10000 for update skip locked))
        and not exists (select from gendurable.paused_queue)
        and not exists (select from gendurable.doubtful_key)
        and not exists (select from gendurable.hold)
        and not exists (select from gendurable.queue_setting)
        and not gendurable._has_pauses()
        and not exists (select from gendurable.resumed)
        and not exists (select from gendurable.machine m where m.timeouts is not null)
        and not exists (select from gendurable.machine m where m.retain is not null);
    if not found then
        -- of the many that decisions have left the latest is enough
        delete from gendurable.special d
        where d.ctid = any(array(
            select s.ctid
            from gendurable.special s
            where s.marked_at < (select max(x.marked_at) from gendurable.special x)
            order by s.marked_at
            limit 10000
            for update skip locked));
    end if;
end $$;

comment on function gendurable._forget_special() is
    'Empties gendurable.special where nothing is special any more, and else keeps it short.';

create or replace function gendurable._is_free(p_place int) returns boolean
language sql volatile as $$
    select pg_try_advisory_lock_shared(gendurable._lock_of_decisions(), p_place)
        and pg_advisory_unlock_shared(gendurable._lock_of_decisions(), p_place)
$$;

comment on function gendurable._is_free(int) is 'Whether nobody who decides something stands at one of the four places.';

create or replace function gendurable._is_settled() returns boolean
language plpgsql as $$
begin
    -- Only tried: held to the end of a transaction that somebody forgets, it would keep everybody from deciding. Whoever
    -- asks holds the locks of its keys, by which a decision that begins now finds it.
    return gendurable._is_free(1) and gendurable._is_free(2) and gendurable._is_free(3) and gendurable._is_free(4);
end $$;

comment on function gendurable._is_settled() is
    'Whether rows may be parked: no queue is being paused or resumed and no limit is being set. Under the keys'' locks.';

create or replace function gendurable._announce_decision() returns void
language plpgsql as $$
declare
    -- where an earlier call of this transaction stands: that is tried first, and got again
    v_place text := current_setting('gendurable.place', true);
begin
    -- One of four places: three operators may forget their transactions. Those who look hold a place for microseconds.
    for v_try in 1 .. 400 loop
        if v_try > 1 or coalesce(v_place not in ('1', '2', '3', '4'), true) then
            v_place := 1 + v_try % 4;
        end if;
        if pg_try_advisory_xact_lock(gendurable._lock_of_decisions(), v_place::int) then
            perform set_config('gendurable.place', v_place, true);
            return;
        end if;
        if v_try % 4 = 0 then
            perform pg_sleep(0.002);
        end if;
    end loop;
    raise exception using errcode = 'lock_not_available',
        message = 'other transactions are pausing or resuming queues or setting limits, and do not end',
        hint = format('See pg_locks where locktype = ''advisory'' and classid = %s; end them, or try again later.',
            gendurable._lock_of_decisions());
end $$;

comment on function gendurable._announce_decision() is
    'Says until the end of the transaction that something is being decided; raises 55P03 where four others never end.';

create or replace function gendurable._note_doubt(p_keys text[]) returns void
language plpgsql as $$
begin
    insert into gendurable.doubtful_key (partition_key)
    select distinct k.key from unnest(p_keys) k (key) where k.key is not null;
    if found then
        insert into gendurable.special default values;
        -- the empty name wakes everybody: any claim may look at them
        perform gendurable._notify_listeners('');
    end if;
end $$;

comment on function gendurable._note_doubt(text[]) is 'Puts keys down that must be looked at again when their locks are free.';

create or replace function gendurable._note_doubt_once(p_keys text[]) returns void
language plpgsql as $$
begin
    -- Who looks at a key again holds its lock until what it took down is gone: what stands here under that lock stays.
    perform gendurable._note_doubt(array(
        select k.key
        from unnest(p_keys) k (key)
        where not exists (select from gendurable.doubtful_key d where d.partition_key = k.key)));
end $$;

comment on function gendurable._note_doubt_once(text[]) is
    'Puts keys down that are not down already: while a decision stays open, each commit in them would. Under the keys'' locks.';
