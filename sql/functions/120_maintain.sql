-- Housekeeping: retention, and the repair of what should never be broken.

create or replace function gendurable._gc(p_retention interval, p_limit int) returns int
language plpgsql as $$
declare
    v_before constant timestamptz := clock_timestamp() - p_retention;
    v_old bigint[];
    v_parents bigint[];
    v_count int;
begin
    v_old := array(
        select i.id
        from gendurable.instance i
        where i.finished_at < v_before
            and i.eligible_at is null                -- else it carries the baton of its key
            and not exists (
                select from gendurable.instance p where p.id = i.parent_id and p.finished_at is null)
        order by i.finished_at, i.id
        limit p_limit
        for update skip locked);
    -- A parent that gd_retry makes live again at this moment keeps its children: locked, or no longer ended.
    v_parents := array(
        select p.id
        from gendurable.instance p
        where p.id in (select i.parent_id from gendurable.instance i where i.id = any(v_old))
            and p.finished_at is not null
        for share skip locked);
    delete from gendurable.instance i
    where i.id = any(v_old) and (
        -- a subquery, which is hashed; the array would be walked for each row
        i.parent_id is null or i.parent_id in (select p.id from unnest(v_parents) p (id))
        or not exists (select from gendurable.instance p where p.id = i.parent_id));
    get diagnostics v_count = row_count;
    return v_count;
end $$;

comment on function gendurable._gc(interval, int) is 'Removes old finished instances; how many.';

create or replace function gendurable._need_retention(p_retention interval) returns void
language plpgsql as $$
begin
    if p_retention < interval '0' then
        perform gendurable._invalid('p_retention must not be negative', 'got ' || p_retention, 'Use 0 to keep nothing.');
    end if;
end $$;

comment on function gendurable._need_retention(interval) is 'Raises GD501 for a negative retention.';

create or replace function gd_gc(p_retention interval = '7 days', p_limit int = 10000) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_retention(p_retention);
    perform gendurable._need_limit(p_limit);
    return gendurable._gc(coalesce(p_retention, '7 days'), coalesce(p_limit, 10000));
end $$;

comment on function gd_gc(interval, int) is
'Removes up to p_limit instances that ended longer than p_retention ago, with their remembered signal keys; never a
child whose parent has not ended. Returns how many. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gendurable._repair_batons(p_now timestamptz) returns int
language plpgsql as $$
declare
    v_key text := '';
    v_count int := 0;
begin
    loop
        -- from key to key through the index, whatever the number of rows in each
        select i.partition_key into v_key
        from gendurable.instance i
        where i.partition_key > v_key and i.lane_at is not null
        order by i.partition_key
        limit 1;
        exit when not found;
        if gendurable._lacks_baton(v_key, p_now) and pg_try_advisory_xact_lock(gendurable._key_lock(v_key)) then
            -- looked at again under the lock: a commit may just have been passing it on
            if gendurable._lacks_baton(v_key, p_now) then
                v_count := v_count + cardinality(gendurable._lift(
                    gendurable._heads(v_key, gendurable._key_limit(v_key)), p_now));
            end if;
        end if;
    end loop;
    return v_count;
end $$;

comment on function gendurable._repair_batons(timestamptz) is
    'Lifts the first row of every key that waits without a slot holder or a due row; how many rows.';

create or replace function gendurable._lacks_baton(p_key text, p_now timestamptz) returns boolean
language plpgsql volatile as $$
begin
    return not exists (
            select from gendurable.instance i where i.partition_key = p_key and i.slot_no is not null)
        and cardinality(gendurable._heads(p_key, 1)) > 0
        and not exists (
            select from gendurable.instance i
            where i.partition_key = p_key and i.lane_at is not null and i.slot_no is null
                and i.eligible_at <= p_now + interval '100 ms'
                and not exists (select from gendurable.paused_queue q where q.queue = i.queue))
        and not exists (
            -- a row that carries it without a place in the key
            select from gendurable.instance i
            where i.partition_key = p_key and i.eligible_at is not null and i.lane_at is null
                and not exists (select from gendurable.paused_queue q where q.queue = i.queue));
end $$;

comment on function gendurable._lacks_baton(text, timestamptz) is
    'Whether rows of the key wait while nothing will ever look at them. It should never be so.';

create or replace function gd_maintain(p_retention interval = '7 days') returns jsonb
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_reaped int := 0;
    v_removed int := 0;
    v_repaired int := 0;
    v_runs boolean;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_retention(p_retention);
    -- one caller at a time: the others have nothing to do
    v_runs := pg_try_advisory_xact_lock(7304, 0);
    if v_runs then
        v_reaped := gendurable._reap(10000);
        v_repaired := gendurable._repair_batons(clock_timestamp());
        v_removed := gendurable._gc(coalesce(p_retention, '7 days'), 10000);
    end if;
    return jsonb_build_object('ran', v_runs, 'reaped', v_reaped, 'repaired', v_repaired, 'removed', v_removed);
end $$;

comment on function gd_maintain(interval) is
'All housekeeping in one bounded call: takes expired claims back, removes instances that ended longer than p_retention
ago, repairs keys. {"ran": false} where another session is at it; "repaired" counts keys that waited for nobody, and
anything but 0 is a defect worth a report. For every dispatcher and for pg_cron, as often as wanted.
Needs READ COMMITTED (GD504); raises GD501.';
