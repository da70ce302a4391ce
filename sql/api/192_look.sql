-- Looking at one instance, and at what came out of it. Nothing here takes a lock, and each look reads a bounded number of rows.
-- Next: 194_list.

create or replace function gd_get(p_id bigint) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
begin
    return (
        select jsonb_build_object(
            'id', i.id, 'fsm', i.fsm, 'fsm_version', i.fsm_version, 'step', i.step, 'status', i.status, 'queue', i.queue,
            'priority', i.priority, 'eligible_at', i.eligible_at, 'attempt', i.attempt, 'max_attempts', i.max_attempts,
            'crashes', i.crashes, 'worker', i.worker, 'lease_expires_at', i.lease_expires_at, 'timeout_at', i.timeout_at,
            'awaits', i.awaits, 'deadline_at', i.deadline_at, 'partition_key', i.partition_key, 'unique_key', i.unique_key,
            'unique_scope', i.unique_scope, 'rate_limit', i.rate_limit, 'weight', i.weight, 'parent_id', i.parent_id,
            'children_pending', coalesce(i.children_pending, 0))
            || jsonb_build_object(
                'state', i.state, 'result', i.result, 'last_error', i.last_error, 'meta', i.meta,
                'attributes', coalesce(i.attributes, '{}'), 'inserted_at', i.inserted_at, 'updated_at', i.updated_at,
                'finished_at', i.finished_at, 'expires_at', i.expires_at, 'keep_until', i.keep_until, 'paused_at', i.paused_at,
                'signals', gendurable._list_inbox(i.id), 'children', gendurable._count_children(i.id),
                'errors', gendurable._list_errors(i.id),
                'watched', exists (select from gendurable.watch w where w.instance_id = i.id))
        from gendurable.instance i
        where i.id = p_id and i.id > 0);
end $$;

comment on function gd_get(bigint) is
'One instance with all that belongs to it, as a JSON object; null: there is no such instance (any more). Its keys are
the columns of gd_instances and

  max_attempts, unique_scope, weight: as given at the insert; null: the default
  deadline_at: until when it awaits a signal
  signals: what lies in its inbox: [{id, name, inserted_at, bytes}], the first 100; bytes: the size of the payload as it
    is stored
  children: how many of its first 10,000 children stand where: {"done": 3, "failed": 1}
  errors: its last 10, newest first: [{at, step, attempt, kind, worker, error}], as of gd_errors, which has the
    tracebacks
  watched: whether somebody is told when it ends';

create or replace function gd_tree(p_id bigint, p_depth int = 10, p_limit int = 10000)
returns table (
    id bigint, parent_id bigint, depth int, fsm text, step text, status text, last_error text, inserted_at timestamptz,
    finished_at timestamptz
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_depth constant int := coalesce(p_depth, 10);
    v_left int := coalesce(p_limit, 10000);
    v_level bigint[];
begin
    perform gendurable._need_limit(p_limit);
    if v_depth < 0 then
        perform gendurable._invalid('p_depth must not be negative', 'got ' || v_depth, 'Pass 0 for the instance alone.');
    end if;
    v_level := array(select i.id from gendurable.instance i where i.id = p_id and i.id > 0);
    for v_at in 0 .. v_depth loop
        exit when v_level = '{}' or v_left <= 0;
        v_left := v_left - cardinality(v_level);
        return query
            select i.id, i.parent_id, v_at, i.fsm, i.step, i.status::text, gendurable._cut_error(i.last_error), i.inserted_at,
                i.finished_at
            from unnest(v_level) with ordinality u (id, ord)
            join gendurable.instance i on i.id = any(array[u.id])
            order by u.ord;
        v_level := array(
            select c.id
            from unnest(v_level) with ordinality u (id, ord)
            cross join lateral (
                select i.id from gendurable.instance i
                -- a range: where few parents have most rows, "=" would be looked for along the primary key
                where i.parent_id between u.id and u.id
                order by i.parent_id, i.id
                limit v_left
            ) c
            order by u.ord, c.id
            limit v_left);
    end loop;
end $$;

comment on function gd_tree(bigint, int, int) is
'An instance, its children, theirs, and so on: level by level, p_depth levels below it and p_limit rows at most. Of
last_error the first 500 characters. No rows: there is no such instance (any more). Raises GD501.';

create or replace function gendurable._list_inbox(p_id bigint) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(
            jsonb_build_object('id', s.id, 'name', s.name, 'inserted_at', s.inserted_at, 'bytes', s.bytes) order by s.id), '[]')
        from (
            select s.id, s.name, s.inserted_at, pg_column_size(s.payload) as bytes
            from gendurable.signal s
            where s.instance_id = p_id
            order by s.id
            limit 100
        ) s);
end $$;

comment on function gendurable._list_inbox(bigint) is 'What lies in an inbox, without the payloads: the first 100.';

create or replace function gendurable._count_children(p_id bigint) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_object_agg(c.status, c.count), '{}')
        from (
            select x.status, count(*) as count
            from (
                select i.status
                from gendurable.instance i
                where i.parent_id between p_id and p_id
                order by i.parent_id, i.id
                limit gendurable._most_children()
            ) x
            group by x.status
        ) c);
end $$;

comment on function gendurable._count_children(bigint) is 'How many of the first children of an instance stand where.';
