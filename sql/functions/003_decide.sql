-- Pausing, resuming and setting limits decide who waits for what in a key, while other transactions act on what was true
-- before. Neither waits for the other, which may be a forgotten one: a decision announces itself, and whatever parks or
-- passes a baton meanwhile lifts more than it needs; the keys that older transactions still hold are put down as doubtful,
-- and whoever claims next looks at them again when their locks are free.

create or replace function gendurable._settled() returns boolean
language plpgsql as $$
begin
    -- Only tried: held to the end of a transaction that somebody forgets, it would keep everybody from deciding. Whoever
    -- asks holds the locks of its keys, by which a decision that begins now finds it.
    return pg_try_advisory_lock_shared(7305, 1) and pg_advisory_unlock_shared(7305, 1)
        and pg_try_advisory_lock_shared(7305, 2) and pg_advisory_unlock_shared(7305, 2)
        and pg_try_advisory_lock_shared(7305, 3) and pg_advisory_unlock_shared(7305, 3)
        and pg_try_advisory_lock_shared(7305, 4) and pg_advisory_unlock_shared(7305, 4);
end $$;

comment on function gendurable._settled() is
    'Whether rows may be parked: no queue is being paused or resumed and no limit is being set. Under the keys'' locks.';

create or replace function gendurable._announce() returns void
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
        if pg_try_advisory_xact_lock(7305, v_place::int) then
            perform set_config('gendurable.place', v_place, true);
            return;
        end if;
        if v_try % 4 = 0 then
            perform pg_sleep(0.002);
        end if;
    end loop;
    raise exception using errcode = 'lock_not_available',
        message = 'other transactions are pausing or resuming queues or setting limits, and do not end',
        hint = 'See pg_locks where locktype = ''advisory'' and classid = 7305; end them, or try again later.';
end $$;

comment on function gendurable._announce() is
    'Says until the end of the transaction that something is being decided; raises 55P03 where four others never end.';

create or replace function gendurable._doubt(p_keys text[]) returns void
language plpgsql as $$
begin
    insert into gendurable.doubtful_key (partition_key)
    select distinct k.key from unnest(p_keys) k (key) where k.key is not null;
    if found then
        -- the empty name wakes everybody: any claim may look at them
        perform gendurable._notify('');
    end if;
end $$;

comment on function gendurable._doubt(text[]) is 'Puts keys down that must be looked at again when their locks are free.';

create or replace function gendurable._doubt_once(p_keys text[]) returns void
language plpgsql as $$
begin
    -- Who looks at a key again holds its lock until what it took down is gone: what stands here under that lock stays.
    perform gendurable._doubt(array(
        select k.key
        from unnest(p_keys) k (key)
        where not exists (select from gendurable.doubtful_key d where d.partition_key = k.key)));
end $$;

comment on function gendurable._doubt_once(text[]) is
    'Puts keys down that are not down already: while a decision stays open, each commit in them would. Under the keys'' locks.';

create or replace function gendurable._key_holders() returns text[]
language plpgsql as $$
begin
    -- prepared transactions have no process
    return array(
        select (((l.classid::bigint << 32) | l.objid::bigint)::text || ' ' || l.virtualtransaction)
        from pg_locks l
        where l.locktype = 'advisory' and l.objsubid = 1 and l.granted and l.pid is distinct from pg_backend_pid()
            and l.database = (select d.oid from pg_database d where d.datname = current_database()));
end $$;

comment on function gendurable._key_holders() is 'Which locks of keys other transactions hold: the lock, and whose it is.';

create or replace function gendurable._held_keys() returns text[]
language plpgsql as $$
declare
    v_held text[] := gendurable._key_holders();
    v_locks bigint[];
    v_keys text[] := '{}'::text[];
    v_key text := '';
begin
    -- those that are at work end in a few milliseconds
    for v_try in 1 .. 8 loop
        exit when v_held = '{}';
        perform pg_sleep(0.005 * v_try);
        v_held := array(select h from unnest(v_held) h where h = any(gendurable._key_holders()));
    end loop;
    if v_held = '{}' then
        return v_keys;
    end if;
    v_locks := array(select split_part(h, ' ', 1)::bigint from unnest(v_held) h);
    -- A key in doubt has rows that wait in it. From key to key through the index; behind so many the repair of gd_maintain
    -- finds them.
    for v_look in 1 .. 100000 loop
        select i.partition_key into v_key
        from gendurable.instance i
        where i.partition_key > v_key and i.lane_at is not null
        order by i.partition_key
        limit 1;
        exit when not found;
        if gendurable._key_lock(v_key) = any(v_locks) then
            v_keys := v_keys || v_key;
        end if;
    end loop;
    return v_keys;
end $$;

comment on function gendurable._held_keys() is
    'Keys with waiting rows whose locks others hold now, and go on holding for a fifth of a second: they may act on what was true before.';

create or replace function gendurable._outwait_holders() returns void
language plpgsql as $$
begin
    -- Before anything is read that the decision acts on: those that end meanwhile move batons.
    perform gendurable._doubt(gendurable._held_keys());
end $$;

comment on function gendurable._outwait_holders() is
    'Puts down the keys that others may act on without knowing of the decision that was announced; short ones are waited for.';

create or replace function gendurable._decide(p_keys text[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_some constant text[] := p_keys[:1000];
    v_heads record;
    v_lifted bigint[];
begin
    perform gendurable._doubt(p_keys[1001:]);
    -- Without the keys' locks: becoming due needs none. A due row is its own baton, and the gate keeps the order.
    select coalesce(array_agg(h.id), '{}') as ids, coalesce(array_agg(k.key), '{}') as keys into v_heads
    from unnest(v_some) k (key)
    cross join lateral unnest(gendurable._heads(
        k.key, least(gendurable._key_limit(k.key), greatest(1000 / greatest(cardinality(v_some), 1), 10)))) h (id)
    join gendurable.instance i on i.id = any(array[h.id])
    where i.eligible_at is null and i.lane_at is not null;
    v_lifted := gendurable._lift(v_heads.ids, p_now);
    perform gendurable._doubt(array(
        select u.key from unnest(v_heads.ids, v_heads.keys) u (id, key) where u.id <> all(v_lifted)));
end $$;

comment on function gendurable._decide(text[], timestamptz) is
    'Makes the first rows of each key due that are parked, as many as its limit, and puts down the keys where that cannot be
done now. After the decision is written, and in a later statement than _outwait_holders.';

create or replace function gendurable._settle_doubts(p_now timestamptz) returns void
language plpgsql as $$
declare
    v_key text;
    v_heads bigint[];
begin
    if not gendurable._settled() then
        return;
    end if;
    for v_key in
        -- any of them: some may be held for long
        select s.key
        from (select distinct d.partition_key as key from (select x.partition_key from gendurable.doubtful_key x limit 1000) d) s
        order by random()
        limit 10
    loop
        -- whoever was in doubt has ended when the key is free
        continue when not pg_try_advisory_xact_lock(gendurable._key_lock(v_key));
        v_heads := gendurable._heads(v_key, least(gendurable._key_limit(v_key), 100));
        if cardinality(gendurable._lift(v_heads, p_now)) = cardinality(v_heads) then
            delete from gendurable.doubtful_key d
            where d.ctid = any(array(
                select x.ctid from gendurable.doubtful_key x where x.partition_key = v_key for update skip locked));
        end if;
    end loop;
end $$;

comment on function gendurable._settle_doubts(timestamptz) is
    'Lifts the first rows of doubtful keys whose locks are free, in claims, until nothing is in doubt.';
