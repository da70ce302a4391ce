-- Leases: renewing them, and giving claims back. Those that end unrenewed are taken away by a claim (112_scan) or by the upkeep
-- (212_reap).
-- Next: 130_commit.

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
    v_held bigint[];
    v_lease constant interval := coalesce(p_lease, '60 seconds');
    v_now timestamptz;
    v_until timestamptz;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    perform gendurable._need_lease(v_lease);
    select coalesce(array_agg(c.id), '{}'), coalesce(array_agg(c.claim_no), '{}') into v_ids, v_nos
    from gendurable._parse_claims(p_claims) c;
    v_now := clock_timestamp();
    v_until := v_now + v_lease;

    with held as materialized (
        select i.id
        from unnest(v_ids, v_nos) c (id, claim_no)
        join gendurable.instance i on i.id = any(array[c.id])
        where i.claim_no = c.claim_no and i.status = 'executing' and not gendurable._is_over(i.expires_at, i.timeout_at, v_now)
        for no key update of i skip locked
    ), renewed as (
        update gendurable.instance i
        set lease_expires_at = least(v_until, i.timeout_at, i.expires_at)
        from held h
        where i.id = any(array[h.id])
        returning i.id
    )
    select coalesce(array_agg(r.id), '{}') into v_held from renewed r;
    if exists (select from gendurable.renewal) then
        delete from gendurable.renewal r
        using (
            select x.instance_id, x.claim_no
            from gendurable.renewal x
            where x.instance_id = any(v_held)
            for update skip locked
        ) d
        where r.instance_id = d.instance_id and r.claim_no = d.claim_no;
    end if;
    if cardinality(v_held) = cardinality(v_ids) then
        return;
    end if;

    -- A locked row is neither lost, since its commit may be on the way, nor to be lost while its worker lives.
    perform gendurable._renew_beside(v_ids, v_nos, v_lease, v_until);
    return query
        select c.id, c.claim_no
        from unnest(v_ids, v_nos) c (id, claim_no)
        where not exists (
            select from gendurable.instance i
            where i.id = any(array[c.id]) and i.claim_no = c.claim_no and i.status = 'executing'
                and not gendurable._is_over(i.expires_at, i.timeout_at, v_now));
end $$;

comment on function gd_heartbeat(text, jsonb, interval) is
'Renews the leases of the claims [[id, claim_no], ...] and returns those that are lost: committed, cancelled, taken
over, past the timeout of their step or the deadline of their instance; no lease goes beyond these. An expired lease
that nobody has taken over is renewed. A row that somebody has locked is not reported. Once
half of its lease has passed, its claim is renewed beside the row: nobody takes it over while its worker sends
heartbeats, however long the lock is held. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_release(
    p_worker text, p_claims jsonb, p_delay interval = '0', p_crashed boolean = false
) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '10ms' as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_ids bigint[];
    v_nos bigint[];
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    if coalesce(p_delay, '0') < interval '0' or not isfinite(p_delay) then
        perform gendurable._invalid('p_delay must be finite and not negative', 'got ' || p_delay, 'Use 0 for now.');
    end if;
    if not gendurable._can_write() then
        return 0;
    end if;
    if p_claims is null or p_claims = 'null' then
        -- held rows are due rows: found through the index that serves the claims
        select h.ids, h.claim_nos into v_ids, v_nos
        from gendurable._find_held(p_worker, null, v_now, 1000000, 1000000) h;
    else
        select array_agg(c.id), array_agg(c.claim_no) into v_ids, v_nos from gendurable._parse_claims(p_claims) c;
    end if;
    return gendurable._release_claims(v_ids, v_nos, v_now, v_now + coalesce(p_delay, '0'), coalesce(p_crashed, false));
end $$;

comment on function gd_release(text, jsonb, interval, boolean) is
'Gives claims [[id, claim_no], ...] back, due after p_delay, without burning an attempt; null: all that p_worker
holds, for which it reads the due rows of each priority until 1,000 in a row are held by nobody. Returns how many.
p_crashed: the worker does not know what became of the steps. They count as those of a worker that was lost: attempt
and crashes + 1, and at 20 crashes in a row the instance has failed.
Left to their lease, or to the next call: what somebody''s open transaction holds, and rows of more than 500 keys in
one call. A claim past the timeout of its step, or the deadline of its instance, cannot be given back. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gendurable._release_claims(
    p_ids bigint[], p_nos bigint[], p_now timestamptz, p_due timestamptz, p_crashed boolean
) returns int
language plpgsql as $$
declare
    v_ids bigint[];
    v_keys text[];
begin
    v_ids := array(
        select i.id
        from unnest(p_ids, p_nos) c (id, claim_no)
        join gendurable.instance i on i.id = any(array[c.id])
        where i.claim_no = c.claim_no and i.status = 'executing' and not gendurable._is_over(i.expires_at, i.timeout_at, p_now)
        for no key update of i skip locked);
    -- What somebody's open transaction holds is left to its lease: giving back waits for nobody. The server's lock
    -- table is small and shared: so many keys in one transaction and no more.
    v_keys := gendurable._try_keys(array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.id = any(v_ids) and i.partition_key is not null
        order by 1
        limit gendurable._most_keys()), 5);
    v_ids := array(
        select i.id
        from gendurable.instance i
        where i.id = any(v_ids) and (i.partition_key is null or i.partition_key = any(v_keys))
        order by i.id);
    return gendurable._release_isolated(v_ids, p_now, p_due, p_crashed);
end $$;

comment on function gendurable._release_claims(bigint[], bigint[], timestamptz, timestamptz, boolean) is
    'Gives claims back, due at p_due; how many. What somebody has locked is left to its lease. Under lock_timeout.';

create or replace function gendurable._release_isolated(
    p_ids bigint[], p_now timestamptz, p_due timestamptz, p_crashed boolean
) returns int
language plpgsql as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
    v_capped bigint[];
    v_lost bigint[];
begin
    if p_ids = '{}' then
        return 0;
    end if;
    begin
        if not p_crashed then
            return gendurable._give_back(p_ids, p_now, p_due, false);
        end if;
        v_capped := array(
            select i.id from gendurable.instance i where i.id = any(p_ids) and i.crashes + 1 >= gendurable._crash_cap());
        v_lost := array(select u.id from unnest(p_ids) u (id) where u.id <> all(v_capped));
        perform gendurable._note_crashes(v_lost, p_now);
        return case when v_capped = '{}' then 0 else gendurable._end_crashed(v_capped, p_now) end
            + gendurable._give_back(v_lost, p_now, p_due, true);
    exception
        when others or assert_failure then
            if not gendurable._blames_row(sqlstate) then
                raise;
            end if;
            if v_half = 0 then
                return 0;
            end if;
    end;
    return gendurable._release_isolated(p_ids[:v_half], p_now, p_due, p_crashed)
        + gendurable._release_isolated(p_ids[v_half + 1:], p_now, p_due, p_crashed);
end $$;

comment on function gendurable._release_isolated(bigint[], timestamptz, timestamptz, boolean) is
    'Gives rows back, or ends those at the crash cap; in halves where it fails: what cannot be given back now is left to its lease.';

create or replace function gendurable._release_run(p_ids bigint[], p_nos bigint[]) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '10ms' as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    if not gendurable._can_write() then
        return 0;
    end if;
    return gendurable._release_claims(p_ids, p_nos, v_now, v_now, false);
end $$;

comment on function gendurable._release_run(bigint[], bigint[]) is
    'The door through which gd_run gives back what it has not run.';

create or replace function gendurable._renew_beside(
    p_ids bigint[], p_nos bigint[], p_lease interval, p_until timestamptz
) returns void
language plpgsql as $$
declare
    v_timeout constant text := current_setting('lock_timeout');
    v_row record;
    v_waits int := 0;
begin
    -- Mostly the lock is that of the commit, which lasts for milliseconds: while half of the lease is left, the next
    -- heartbeat has time enough.
    for v_row in
        select distinct c.id, c.claim_no, least(p_until, i.timeout_at, i.expires_at) as until
        from unnest(p_ids, p_nos) c (id, claim_no)
        join gendurable.instance i on i.id = any(array[c.id])
        where i.claim_no = c.claim_no and i.status = 'executing' and i.lease_expires_at <= p_until - p_lease / 2
        order by c.id
    loop
        begin
            perform set_config('lock_timeout', '5ms', true);
            insert into gendurable.renewal as r (instance_id, claim_no, until)
            values (v_row.id, v_row.claim_no, v_row.until)
            on conflict (instance_id, claim_no) do update set until = excluded.until;
        exception when lock_not_available then
            -- another heartbeat for the same claim has not ended
            v_waits := v_waits + 1;
            exit when v_waits = 10;
            continue;
        end;
        perform set_config('lock_timeout', v_timeout, true);
    end loop;
end $$;

comment on function gendurable._renew_beside(bigint[], bigint[], interval, timestamptz) is
    'Renews claims beside their rows, which somebody has locked.';
