-- Leases: renewing them, giving claims back, and taking expired ones away.

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
            'Pass [[id, claim_no], ...] as handed out by gd_claim.');
    end if;
    return query
        select (c ->> 0)::bigint, (c ->> 1)::bigint from jsonb_array_elements(p_claims) c;
end $$;

comment on function gendurable._parse_claims(jsonb) is 'Reads [[id, claim_no], ...]; raises GD501.';

create or replace function gd_heartbeat(p_worker text, p_claims jsonb, p_lease interval = '60 seconds')
returns table (id bigint, claim_no bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
        join gendurable.instance i on i.id = any(array[c.id])
        where i.claim_no = c.claim_no and i.status = 'executing'
        for no key update of i skip locked
    )
    update gendurable.instance i
    set lease_expires_at = v_until
    from held h
    where i.id = any(array[h.id]);

    -- a locked row is neither renewed nor lost: its commit may be on the way
    return query
        select c.id, c.claim_no
        from unnest(v_ids, v_nos) c (id, claim_no)
        where not exists (
            select from gendurable.instance i
            where i.id = any(array[c.id]) and i.claim_no = c.claim_no and i.status = 'executing');
end $$;

comment on function gd_heartbeat(text, jsonb, interval) is
'Renews the leases of the claims [[id, claim_no], ...] and returns those that are lost: committed, cancelled, or claimed
by another worker. A row that is locked right now is neither renewed nor reported. Needs READ COMMITTED (GD504).';

create or replace function gd_release(p_worker text, p_claims jsonb, p_delay interval = '0') returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_ids bigint[];
    v_nos bigint[];
    v_keys text[];
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    if coalesce(p_delay, '0') < interval '0' or not isfinite(p_delay) then
        perform gendurable._invalid('p_delay must be finite and not negative', 'got ' || p_delay, 'Use 0 for now.');
    end if;
    if p_claims is null or p_claims = 'null' then
        -- held rows are due rows: found through the index that serves the claims, queue by queue
        v_ids := array(
            select i.id
            from (select distinct p.queue, p.priority from gendurable.queue_priority p) p
            cross join (values (0::smallint), (1::smallint)) w (woken)
            join gendurable.instance i on i.queue = p.queue and i.priority = p.priority and i.woken = w.woken
            where i.eligible_at <= v_now and i.status = 'executing' and i.worker = p_worker
            for no key update of i skip locked);
    else
        select array_agg(c.id), array_agg(c.claim_no) into v_ids, v_nos from gendurable._parse_claims(p_claims) c;
        v_ids := array(
            select i.id
            from unnest(v_ids, v_nos) c (id, claim_no)
            join gendurable.instance i on i.id = any(array[c.id])
            where i.claim_no = c.claim_no and i.status = 'executing'
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
'Gives claims [[id, claim_no], ...] back, due after p_delay, without burning an attempt; null: all that p_worker holds
(which reads every due row). Returns how many were given back: not those that are lost, nor those that somebody''s open transaction
holds (they wait for their lease). Needs READ COMMITTED (GD504).';

create or replace function gd_reap(p_limit int = 1000) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_limit(p_limit);
    return gendurable._reap(coalesce(p_limit, 1000));
end $$;

comment on function gd_reap(int) is
'Takes back up to p_limit claims whose lease has expired: due again now, with attempt + 1 and their key''s slot freed;
after 20 lost claims in a row an instance ends as failed. Returns how many. Locked rows are left for the next call; a
priority''s walk ends after 1,000 rows in a row that nobody holds. Needs READ COMMITTED (GD504).';
