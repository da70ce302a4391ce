-- What a decision (055_doubt) does about the keys that it is about, and what claims do later about those that were in doubt.
-- Next: 067_routes, in which queue a row stands.

create or replace function gendurable._find_holders(p_class int) returns text[]
language plpgsql as $$
begin
    -- prepared transactions have no process
    return array(
        select (((l.classid::bigint << 32) | l.objid::bigint)::text || ' ' || l.virtualtransaction)
        from pg_locks l
        where l.locktype = 'advisory' and l.granted and l.pid is distinct from pg_backend_pid()
            and case when p_class is null then l.objsubid = 1 else l.objsubid = 2 and l.classid = p_class end
            and l.database = (select d.oid from pg_database d where d.datname = current_database()));
end $$;

comment on function gendurable._find_holders(int) is
    'Which locks of a class other transactions hold, null: of keys; the lock, and whose it is.';

create or replace function gendurable._outwait_holders(p_class int) returns text[]
language plpgsql as $$
declare
    v_held text[] := gendurable._find_holders(p_class);
begin
    -- those that are at work end in a few milliseconds
    for v_try in 1 .. 8 loop
        exit when v_held = '{}';
        perform pg_sleep(0.005 * v_try);
        v_held := array(select h from unnest(v_held) h where h = any(gendurable._find_holders(p_class)));
    end loop;
    return v_held;
end $$;

comment on function gendurable._outwait_holders(int) is
    'Waits a fifth of a second at most for those who hold locks of a class now, null: of keys; what of it is still held.';

create or replace function gendurable._find_held_keys() returns text[]
language plpgsql as $$
declare
    v_held constant text[] := gendurable._outwait_holders(null);
    v_locks bigint[];
    v_keys text[] := '{}'::text[];
    v_key text := '';
begin
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

comment on function gendurable._find_held_keys() is
    'Keys with waiting rows whose locks others hold now, and go on holding for a fifth of a second: they may act on what was true before.';

create or replace function gendurable._outwait_key_holders() returns void
language plpgsql as $$
begin
    -- Before anything is read that the decision acts on: those that end meanwhile move batons.
    perform gendurable._note_doubt(gendurable._find_held_keys());
end $$;

comment on function gendurable._outwait_key_holders() is
    'Puts down the keys that others may act on without knowing of the decision that was announced; short ones are waited for.';

create or replace function gendurable._carry_out_decision(p_keys text[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_some constant text[] := p_keys[:1000];
    v_heads record;
    v_lifted bigint[];
begin
    perform gendurable._note_doubt(p_keys[1001:]);
    -- Without the keys' locks: becoming due needs none. A due row is its own baton, and the gate keeps the order.
    select coalesce(array_agg(h.id), '{}') as ids, coalesce(array_agg(k.key), '{}') as keys into v_heads
    from unnest(v_some) k (key)
    cross join lateral unnest(gendurable._find_heads(
        k.key, least(gendurable._find_key_limit(k.key), greatest(1000 / greatest(cardinality(v_some), 1), 10)))) h (id)
    join gendurable.instance i on i.id = any(array[h.id])
    where i.eligible_at is null and i.lane_at is not null;
    v_lifted := gendurable._lift_rows(v_heads.ids, p_now);
    perform gendurable._note_doubt(array(
        select u.key from unnest(v_heads.ids, v_heads.keys) u (id, key) where u.id <> all(v_lifted)));
end $$;

comment on function gendurable._carry_out_decision(text[], timestamptz) is
    'Makes the first rows of each key due that are parked, as many as its limit, and puts down the keys where that cannot be
done now. After the decision is written, and in a later statement than _outwait_holders.';

create or replace function gendurable._settle_doubts(p_now timestamptz) returns void
language plpgsql as $$
declare
    v_key text;
    v_heads bigint[];
begin
    if not gendurable._is_settled() then
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
        v_heads := gendurable._find_heads(v_key, least(gendurable._find_key_limit(v_key), 100));
        if cardinality(gendurable._lift_rows(v_heads, p_now)) = cardinality(v_heads) then
            delete from gendurable.doubtful_key d
            where d.ctid = any(array(
                select x.ctid from gendurable.doubtful_key x where x.partition_key = v_key for update skip locked));
        end if;
    end loop;
end $$;

comment on function gendurable._settle_doubts(timestamptz) is
    'Lifts the first rows of doubtful keys whose locks are free, in claims, until nothing is in doubt.';
