-- Lists of instances, newest first, for people and dashboards. Which index leads to the rows that a filter asks for is decided
-- here; each call looks at a bounded number of them, and says where to go on.
-- Next: 196_records, what was kept of one instance.

create or replace function gd_list(
    p_filter jsonb = '{}', p_after jsonb = null, p_limit int = 100, p_look int = 20000
) returns table (
    id bigint, fsm text, fsm_version int, step text, status text, queue text, priority int, eligible_at timestamptz,
    attempt int, crashes int, worker text, lease_expires_at timestamptz, awaits text[], partition_key text, unique_key text,
    rate_limit text, parent_id bigint, children_pending int, last_error text, attributes jsonb, inserted_at timestamptz,
    updated_at timestamptz, finished_at timestamptz, expires_at timestamptz, paused_at timestamptz, cursor jsonb
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
-- the filter as constants: a plan for any filter would ask all of it of each row
set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    v_limit constant int := coalesce(p_limit, 100);
    v_walk record;
begin
    perform gendurable._need_limit(p_limit);
    v_walk := gendurable._walk(p_filter, p_after, v_limit, p_look);
    return query
        select i.id, i.fsm, i.fsm_version, i.step, i.status::text, i.queue, i.priority, i.eligible_at, i.attempt, i.crashes,
            i.worker, i.lease_expires_at, i.awaits, i.partition_key, i.unique_key, i.rate_limit, i.parent_id,
            coalesce(i.children_pending, 0), gendurable._cut_error(i.last_error), coalesce(i.attributes, '{}'), i.inserted_at,
            i.updated_at, i.finished_at, i.expires_at, i.paused_at,
            gendurable._cursor(case when v_walk.by_failure then i.failed_at end, i.id)
        from unnest(v_walk.ids) with ordinality u (id, ord)
        join gendurable.instance i on i.id = any(array[u.id])
        order by u.ord;
    if v_walk.next is not null and cardinality(v_walk.ids) < v_limit then
        -- it has stopped early
        cursor := v_walk.next;
        return next;
    end if;
end $$;

comment on function gd_list(jsonb, jsonb, int, int) is
'Which instances fit a filter, newest first: up to p_limit of them, behind the cursor p_after. Where the filter asks for
status "failed" or "cancelled" alone, the latest end comes first, else the highest id. Columns are those of gd_instances
without state, result and meta; of last_error the first 500 characters. cursor: pass that of the last row as p_after
for the next page.

A call looks at p_look instances at most. If it finds fewer than p_limit and there are more to look at, a last row in
which all is null but the cursor says where to go on. These are found through an index, however many instances there
are: id, parent_id, unique_key, partition_key (up to p_look of a key), attributes (by the rarest text, number or boolean at
their top or in an array there; of up to 10,000); status "failed", "cancelled", also by fsm and
finished_after or finished_before; those two alone, while up to p_look have ended in that time; all that have not ended (such statuses, worker, due_before, stuck_for_ms), while these are
up to p_look, of a queue if it is asked for. Others are looked at from the newest on. Raises GD501.';

create or replace function gd_count(p_filter jsonb = '{}', p_most int = 100000, p_look int = 20000)
returns table (count bigint, exact boolean)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    v_walk record;
begin
    if p_most < 1 then
        perform gendurable._invalid('p_most must be at least 1', 'got ' || p_most, 'Pass where counting may end.');
    end if;
    v_walk := gendurable._walk(p_filter, null, coalesce(p_most, 100000), p_look);
    count := cardinality(v_walk.ids);
    exact := v_walk.next is null;
    return next;
end $$;

comment on function gd_count(jsonb, int, int) is
'How many instances fit a filter. It looks at p_look instances at most, as gd_list does, and counts up to p_most; exact
says whether that was all, else there may be more. Raises GD501.';

create or replace function gendurable._cursor(p_failed_at timestamptz, p_id bigint) returns jsonb
language sql immutable parallel safe as $$
    select case
        when p_failed_at is null then jsonb_build_object('id', p_id)
        else jsonb_build_object('id', p_id, 'failed_us', gendurable._epoch_us(p_failed_at))
    end
$$;

comment on function gendurable._cursor(timestamptz, bigint) is 'Where a list goes on.';

create or replace function gendurable._parse_cursor(p_after jsonb, p_by_failure boolean, out id bigint, out failed_at timestamptz)
language plpgsql stable as $$
declare
    v_problem constant text := case
        when coalesce(p_after, 'null') = 'null' then null
        when jsonb_typeof(p_after) <> 'object' then 'p_after must be the cursor of a row'
        else coalesce(
            gendurable._id_problem(p_after -> 'id', 'id'),
            case when p_by_failure then gendurable._id_problem(p_after -> 'failed_us', 'failed_us') end)
    end;
begin
    if v_problem is not null then
        perform gendurable._invalid(v_problem, left(p_after::text, 200), 'Pass the cursor of the last row, with the same filter.');
    end if;
    id := coalesce((p_after ->> 'id')::numeric::bigint, 9223372036854775807);
    if p_by_failure then
        failed_at := coalesce(
            timestamptz 'epoch' + (p_after ->> 'failed_us')::numeric::bigint * interval '1 microsecond', timestamptz 'infinity');
    end if;
end $$;

comment on function gendurable._parse_cursor(jsonb, boolean) is
    'Behind which id, and behind which time if by failure, a list goes on; null: from the newest on. Raises GD501.';

create or replace function gendurable._walk(
    p_filter jsonb, p_after jsonb, p_limit int, p_look int, out ids bigint[], out next jsonb, out by_failure boolean
)
language plpgsql stable as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_look constant int := coalesce(p_look, 20000);
    v_filter gendurable.filter := gendurable._parse_filter(p_filter, v_now);
    v_after record;
    v_some bigint[];
    v_floor bigint;                                -- all rows from this id on are among these; null: all are
    v_last timestamptz;
    v_found bigint[];
begin
    perform gendurable._need_look(v_look, 'instances');
    by_failure := coalesce(v_filter.statuses <@ '{failed,cancelled}' and v_filter.ids is null and v_filter.parent_id is null
        and v_filter.unique_key is null and v_filter.partition_key is null, false);
    v_after := gendurable._parse_cursor(p_after, by_failure);
    if by_failure then
        if v_filter.attributes is not null then
            v_found := gendurable._find_newest_with(
                v_filter.attributes, 9223372036854775807, gendurable._look_by_word(v_look));
        end if;
        if cardinality(v_found) < gendurable._look_by_word(v_look) then
            -- all that have these attributes, in the order of the ends
            v_some := array(
                select i.id
                from unnest(v_found) u (id)
                -- offset: each is looked up by its id, and not in the indexes of all that failed
                cross join lateral (select x.id, x.failed_at from gendurable.instance x where x.id = u.id offset 0) i
                where i.failed_at is not null and (i.failed_at, i.id) < (v_after.failed_at, v_after.id)
                order by i.failed_at desc, i.id desc);
            ids := array(
                select u.id
                from (select x.id, x.ord from unnest(v_some) with ordinality x (id, ord) order by x.ord) u
                join gendurable.instance i on i.id = any(array[u.id])
                where gendurable._fits(i, v_filter, v_now)
                order by u.ord
                limit p_limit);
        else
            select f.ids, f.last_id, f.last_at into ids, v_floor, v_last
            from gendurable._find_failed(v_filter, v_after.failed_at, v_after.id, p_limit, v_look, v_now) f;
        end if;
        if cardinality(ids) = p_limit then
            next := (
                select gendurable._cursor(i.failed_at, i.id) from gendurable.instance i where i.id = ids[cardinality(ids)]);
        elsif v_floor is not null then
            next := gendurable._cursor(v_last, v_floor);
        end if;
        return;
    end if;
    select f.ids, f.last_id into v_some, v_floor from gendurable._find_some(v_filter, v_after.id, v_look) f;
    -- they lead the way; asked of each row once more, 10,000 of them would be looked up 10,000 times
    v_filter.ids := null;
    if v_some is null then
        v_floor := (
            select i.id from gendurable.instance i where i.id < v_after.id and i.id > 0 order by i.id desc offset v_look - 1 limit 1);
        ids := array(
            select i.id
            from gendurable.instance i
            where i.id < v_after.id and i.id >= coalesce(v_floor, 1) and gendurable._fits(i, v_filter, v_now)
            order by i.id desc
            limit p_limit);
    else
        ids := array(
            select u.id
            from (
                select distinct x.id
                from unnest(v_some) x (id)
                where x.id < v_after.id and x.id >= coalesce(v_floor, 1)
                order by x.id desc
            ) u
            join gendurable.instance i on i.id = any(array[u.id])
            where gendurable._fits(i, v_filter, v_now)
            order by u.id desc
            limit p_limit);
    end if;
    if cardinality(ids) = p_limit then
        next := gendurable._cursor(null, ids[cardinality(ids)]);
    elsif v_floor is not null then
        next := gendurable._cursor(null, v_floor);
    end if;
end $$;

comment on function gendurable._walk(jsonb, jsonb, int, int) is
    'Which instances fit a filter, in the order of a list: up to p_limit behind a cursor, of p_look that are looked at. next: where to
go on; null: that was all. by_failure: the order is that of ends. Raises GD501.';

create or replace function gendurable._find_failed(
    p_filter gendurable.filter, p_at timestamptz, p_id bigint, p_limit int, p_look int, p_now timestamptz,
    out ids bigint[], out last_id bigint, out last_at timestamptz
)
language plpgsql stable as $$
declare
    v_from constant timestamptz := coalesce(p_filter.finished_after, timestamptz '-infinity');
    v_until constant timestamptz := least(p_at, p_filter.finished_before);
    v_id constant bigint := case when v_until < p_at then 0 else p_id end;
begin
    -- how far it looks, by the index alone; then each row once
    if p_filter.fsm is not null then
        select i.failed_at, i.id into last_at, last_id
        from gendurable.instance i
        where i.fsm = p_filter.fsm and i.failed_at is not null and i.failed_at >= v_from
            and (i.failed_at, i.id) < (v_until, v_id)
        order by i.failed_at desc, i.id desc
        offset p_look - 1
        limit 1;
        ids := array(
            select i.id
            from gendurable.instance i
            where i.fsm = p_filter.fsm and i.failed_at is not null and i.failed_at >= v_from
                and (i.failed_at, i.id) < (v_until, v_id)
                and (i.failed_at, i.id) >= (coalesce(last_at, timestamptz '-infinity'), coalesce(last_id, 0))
                and gendurable._fits(i, p_filter, p_now)
            order by i.failed_at desc, i.id desc
            limit p_limit);
    else
        select i.failed_at, i.id into last_at, last_id
        from gendurable.instance i
        where i.failed_at is not null and i.failed_at >= v_from and (i.failed_at, i.id) < (v_until, v_id)
        order by i.failed_at desc, i.id desc
        offset p_look - 1
        limit 1;
        ids := array(
            select i.id
            from gendurable.instance i
            where i.failed_at is not null and i.failed_at >= v_from and (i.failed_at, i.id) < (v_until, v_id)
                and (i.failed_at, i.id) >= (coalesce(last_at, timestamptz '-infinity'), coalesce(last_id, 0))
                and gendurable._fits(i, p_filter, p_now)
            order by i.failed_at desc, i.id desc
            limit p_limit);
    end if;
end $$;

comment on function gendurable._find_failed(gendurable.filter, timestamptz, bigint, int, int, timestamptz) is
    'What failed or was cancelled before a time (and, at that time, before an id) and fits, the latest first: up to p_limit of p_look.
last_at, last_id: where the look ended; null: that was all.';

create or replace function gendurable._find_ended(p_from timestamptz, p_until timestamptz, p_look int) returns bigint[]
language plpgsql stable as $$
declare
    v_ids bigint[] := array(
        select i.id
        from gendurable.instance i
        where i.finished_at is not null and i.keep_until is null and i.barrier_no is null
            and i.finished_at >= p_from and i.finished_at < p_until
        order by i.finished_at, i.id
        limit p_look);
begin
    if cardinality(v_ids) < p_look then
        v_ids := v_ids || array(
            select i.id
            from gendurable.instance i
            where i.finished_at is not null and (i.keep_until is not null or i.barrier_no is not null)
                and i.finished_at >= p_from and i.finished_at < p_until
            order by i.finished_at, i.id
            limit p_look - cardinality(v_ids));
    end if;
    return case when cardinality(v_ids) < p_look then v_ids end;
end $$;

comment on function gendurable._find_ended(timestamptz, timestamptz, int) is
    'All that ended in a time; null: p_look of them or more.';

create or replace function gendurable._find_some(
    p_filter gendurable.filter, p_before bigint, p_look int, out ids bigint[], out last_id bigint
)
language plpgsql stable as $$
declare
    v_lives constant boolean := coalesce(p_filter.statuses <@ '{runnable,executing,awaiting_signal,awaiting_children}', false)
        or p_filter.worker is not null or p_filter.due_before is not null or p_filter.stuck_since is not null;
    v_few constant int := gendurable._look_by_word(p_look);
    v_others bigint[];
    v_found bigint[];
begin
    if p_filter.attributes is not null and (p_filter.ids, p_filter.unique_key, p_filter.parent_id) is null then
        v_found := gendurable._find_newest_with(p_filter.attributes, p_before, v_few);
    end if;
    if cardinality(v_found) < v_few then
        ids := v_found;
    elsif p_filter.ids is not null then
        ids := p_filter.ids;
    elsif p_filter.unique_key is not null then
        ids := array(
            select i.id
            from gendurable.instance i
            where i.unique_key = p_filter.unique_key and i.unique_held is null and i.id < p_before
            order by i.id desc
            limit p_look);
        last_id := ids[p_look];
        ids := ids || array(select i.id from gendurable.instance i where i.unique_held = p_filter.unique_key);
    elsif p_filter.parent_id is not null then
        ids := array(
            select i.id
            from gendurable.instance i
            where i.parent_id = p_filter.parent_id and i.id < p_before
            order by i.id desc
            limit p_look);
        last_id := ids[p_look];
    elsif p_filter.partition_key is not null then
        ids := array(
            select i.id
            from gendurable.instance i
            where i.partition_key = p_filter.partition_key and i.lane_at is not null
            limit p_look);
        if cardinality(ids) < p_look then
            v_others := array(
                select i.id
                from gendurable.instance i
                where i.partition_key = p_filter.partition_key and i.lane_at is null and i.id < p_before
                order by i.id desc
                limit p_look);
            last_id := v_others[p_look];
            ids := ids || v_others;
        else
            ids := null;
        end if;
    elsif v_lives then
        -- in the index of the claims, or in that of what is parked
        if p_filter.queue is not null then
            ids := array(
                select i.id from gendurable.instance i where i.queue = p_filter.queue and i.eligible_at is not null limit p_look);
            if cardinality(ids) < p_look then
                v_others := array(
                    select i.id
                    from gendurable.instance i
                    where i.queue = p_filter.queue and i.eligible_at is null and i.finished_at is null
                    limit p_look);
            end if;
        else
            ids := array(select i.id from gendurable.instance i where i.eligible_at is not null limit p_look);
            if cardinality(ids) < p_look then
                v_others := array(
                    select i.id from gendurable.instance i where i.eligible_at is null and i.finished_at is null limit p_look);
            end if;
        end if;
        ids := case when cardinality(ids) + cardinality(v_others) < p_look then ids || v_others end;
    end if;
    if ids is null and not v_lives and (p_filter.finished_after is not null or p_filter.finished_before is not null) then
        ids := gendurable._find_ended(
            coalesce(p_filter.finished_after, '-infinity'), coalesce(p_filter.finished_before, 'infinity'), p_look);
    end if;
    if ids is null and v_found is not null then
        -- no other way leads to fewer
        ids := v_found;
        last_id := v_found[v_few];
    end if;
end $$;

comment on function gendurable._find_some(gendurable.filter, bigint, int) is
    'Rows among which a filter is to look, if an index leads to them: all from last_id on (null: all). null: none does, or to too many.';
