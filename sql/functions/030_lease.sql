-- Leases: renewing them, giving claims back, and taking expired ones away.

create or replace function gendurable._need_lease(p_lease interval) returns void
language plpgsql as $$
begin
    if p_lease is null or not p_lease > interval '0' or p_lease > interval '1000 years' then
        perform gendurable._invalid('p_lease must be positive', 'got ' || coalesce(p_lease::text, 'null'),
            'A lease is how long a worker may stay silent, for example ''60 seconds''.');
    end if;
end $$;

comment on function gendurable._need_lease(interval) is 'Raises GD501 unless the lease is positive.';

create or replace function gendurable._parse_claims(p_claims jsonb)
returns table (id bigint, claim_no bigint)
language plpgsql as $$
begin
    if jsonb_typeof(p_claims) is distinct from 'array' or exists (
        select from jsonb_array_elements(p_claims) c
        where jsonb_typeof(c) <> 'array' or jsonb_array_length(c) <> 2
            or jsonb_typeof(c -> 0) <> 'number' or jsonb_typeof(c -> 1) <> 'number'
    ) then
        perform gendurable._invalid('p_claims must be an array of [id, claim_no]', left(p_claims::text, 200),
            'Pass [[id, claim_no], …] as handed out by gd_claim.');
    end if;
    return query
        select (c ->> 0)::bigint, (c ->> 1)::bigint from jsonb_array_elements(p_claims) c;
end $$;

comment on function gendurable._parse_claims(jsonb) is 'Reads [[id, claim_no], …]; raises GD501.';

create or replace function gd_heartbeat(p_worker text, p_claims jsonb, p_lease interval = '60 seconds')
returns table (id bigint, claim_no bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
#variable_conflict use_column
declare
    v_ids bigint[];
    v_nos bigint[];
    v_until timestamptz;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    perform gendurable._need_lease(coalesce(p_lease, '60 seconds'));
    select coalesce(array_agg(c.id), '{}'), coalesce(array_agg(c.claim_no), '{}') into v_ids, v_nos
    from gendurable._parse_claims(p_claims) c;
    v_until := clock_timestamp() + coalesce(p_lease, '60 seconds');

    with held as materialized (
        select i.id
        from unnest(v_ids, v_nos) c (id, claim_no)
        join gendurable.instance i on i.id = c.id
        where i.claim_no = c.claim_no and i.status = 'executing'
        for no key update of i skip locked
    )
    update gendurable.instance i
    set lease_expires_at = v_until
    from held h
    where i.id = h.id;

    -- a locked row is neither renewed nor lost: its commit may be on the way
    return query
        select c.id, c.claim_no
        from unnest(v_ids, v_nos) c (id, claim_no)
        where not exists (
            select from gendurable.instance i
            where i.id = c.id and i.claim_no = c.claim_no and i.status = 'executing');
end $$;

comment on function gd_heartbeat(text, jsonb, interval) is
'Renews the leases of the claims [[id, claim_no], …] and returns those that are lost: committed, cancelled, or claimed
by another worker. A row that is locked right now is neither renewed nor reported. Needs READ COMMITTED (GD504).';

create or replace function gd_release(p_worker text, p_claims jsonb, p_delay interval = '0') returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_ids bigint[];
    v_keys text[];
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    if coalesce(p_delay, '0') < interval '0' then
        perform gendurable._invalid('p_delay must not be negative', 'got ' || p_delay, 'Use 0 for now.');
    end if;
    if p_claims is null or p_claims = 'null' then
        -- held rows are due rows: found through the index that serves the claims, queue by queue
        v_ids := array(
            select i.id
            from (select distinct p.queue, p.priority from gendurable.queue_priority p) p
            join gendurable.instance i on i.queue = p.queue and i.priority = p.priority
            where i.eligible_at <= v_now and i.status = 'executing' and i.worker = p_worker
            for no key update of i skip locked);
    else
        v_ids := array(
            select i.id
            from gendurable._parse_claims(p_claims) c
            join gendurable.instance i on i.id = c.id
            where i.claim_no = c.claim_no and i.status = 'executing' and i.worker = p_worker
            for no key update of i skip locked);
    end if;
    -- what somebody's open transaction holds is left to its lease: giving back waits for nobody
    v_keys := gendurable._try_keys(array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.id = any(v_ids) and i.partition_key is not null order by 1), 5);
    v_ids := array(
        select i.id
        from gendurable.instance i
        where i.id = any(v_ids) and (i.partition_key is null or i.partition_key = any(v_keys)));
    return gendurable._give_back(v_ids, v_now, v_now + coalesce(p_delay, '0'), false);
end $$;

comment on function gd_release(text, jsonb, interval) is
'Gives claims [[id, claim_no], …] of p_worker back, due after p_delay, without burning an attempt; null: all that
p_worker holds. Returns how many were given back: not those that are lost, nor those that somebody''s open transaction
holds (they wait for their lease). Needs READ COMMITTED (GD504).';

create or replace function gendurable._give_back(
    p_ids bigint[], p_now timestamptz, p_due timestamptz, p_crashed boolean
) returns int
language plpgsql as $$
declare
    v_keys text[];
    v_queues text[];
    v_count int;
begin
    v_keys := array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.id = any(p_ids) and i.partition_key is not null);
    perform gendurable._take_keys(p_ids, array_fill('runnable'::gendurable.status, array[cardinality(p_ids)]));
    with back as (
        update gendurable.instance i
        set status = 'runnable', worker = null, lease_expires_at = null, slot_no = null, woken = 1,
            eligible_at = p_due,
            -- due at once, it keeps its turn
            lane_at = case when i.partition_key is not null then
                case when p_due > p_now then p_due else coalesce(i.lane_at, p_due) end end,
            attempt = i.attempt + p_crashed::int,
            crashes = i.crashes + p_crashed::int,
            unique_held = gendurable._unique_held(i.unique_held, i.unique_scope, 'runnable'),
            updated_at = p_now
        where i.id = any(p_ids)
        returning i.queue
    )
    select count(*)::int, array_agg(distinct b.queue) into v_count, v_queues from back b;
    if p_due <= p_now + gendurable._longest_poll() then
        perform gendurable._wake(v_queues);
    end if;
    perform gendurable._keep_baton(v_keys, p_ids, p_now);
    return v_count;
end $$;

comment on function gendurable._give_back(bigint[], timestamptz, timestamptz, boolean) is
    'Makes executing rows runnable again and passes their keys on. Under the locks of the rows and their keys.';

create or replace function gendurable._reap(p_limit int) returns int
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_lane record;
    v_row record;
    v_unheld int;
    v_count int := 0;
begin
    for v_lane in select distinct p.queue, p.priority from gendurable.queue_priority p order by 1, 2 loop
        -- Held rows became due before what waits behind them: after many rows that nobody holds there are no more.
        v_unheld := 0;
        for v_row in
            select i.id, i.status, i.lease_expires_at, i.claim_no
            from gendurable.instance i
            where i.queue = v_lane.queue and i.priority = v_lane.priority and i.woken in (0, 1)
                and i.eligible_at <= v_now
            order by i.woken, i.eligible_at, i.id
        loop
            exit when v_count >= p_limit;
            if v_row.status <> 'executing' then
                v_unheld := v_unheld + 1;
                exit when v_unheld >= 1000;
            else
                v_unheld := 0;
                if v_row.lease_expires_at <= v_now then
                    v_count := v_count + gendurable._reap_one(v_row.id, v_row.claim_no, v_now);
                end if;
            end if;
        end loop;
    end loop;
    return v_count;
end $$;

comment on function gendurable._reap(int) is 'Takes back up to p_limit expired claims; how many.';

create or replace function gd_reap(p_limit int = 1000) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_limit(p_limit);
    return gendurable._reap(coalesce(p_limit, 1000));
end $$;

comment on function gd_reap(int) is
'Takes back up to p_limit claims whose lease has expired: due again now, with attempt + 1 and their key''s slot freed;
after 20 lost claims in a row an instance ends as failed. Returns how many. Locked rows are left for the next call; a
priority''s walk ends after 1,000 rows in a row that nobody holds. Needs READ COMMITTED (GD504).';

create or replace function gendurable._reap_one(p_id bigint, p_claim_no bigint, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_row record;
begin
    select i.crashes, i.partition_key, i.parent_id into v_row
    from gendurable.instance i
    where i.id = p_id and i.claim_no = p_claim_no and i.status = 'executing' and i.lease_expires_at <= p_now
    for no key update skip locked;
    if not found or (v_row.partition_key is not null
        and not pg_try_advisory_xact_lock(gendurable._key_lock(v_row.partition_key)))
    then
        return 0;
    end if;
    if v_row.crashes + 1 >= gendurable._crash_cap() then
        return gendurable._end_crashed(array[p_id], p_now);
    end if;
    return gendurable._give_back(array[p_id], p_now, p_now, true);
end $$;

comment on function gendurable._reap_one(bigint, bigint, timestamptz) is
    'Takes one expired claim back if nothing that it needs is locked; 1 if it did.';
