-- Documents of gd_export become instances again. What comes in is a stranger's: all of it is looked at before anything is written
-- (188_import_check), numbers and places are given anew, and what depends on others (who counts in a barrier, whether a signal
-- answers an await) is worked out here.
-- Next: 188_import_check.

create or replace function gd_import(p_document jsonb) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
-- a unique key may be held by somebody's open transaction
set lock_timeout = '1s' as $$
declare
    v_all jsonb;
    v_what text;
    v_ids bigint[];
    v_key text;
begin
    begin
        perform gendurable._refuse_document(p_document);
        v_all := p_document -> 'instances';
        v_ids := gendurable._import_instances(v_all);
    exception
        when data_exception then
            get stacked diagnostics v_what = message_text;
            perform gendurable._invalid('a value of the document cannot be read', v_what,
                'Pass a document of gd_export as it was given.');
        when unique_violation then
            get stacked diagnostics v_what = constraint_name;
            if v_what <> 'instance_unique_held' then
                raise;
            end if;
            select i.unique_held, i.id::text into v_key, v_what
            from jsonb_array_elements(v_all) e (o)
            join gendurable.instance i on i.unique_held = e.o ->> 'unique_key'
            where e.o -> 'unique_held' = 'true'
            limit 1;
            raise warning 'the unique key % is held by instance %: nothing was imported',
                coalesce(quote_literal(v_key), 'of one of them'), coalesce(v_what, 'of another session');
            return null;
    end;
    perform gendurable._note_by_hand('gd_import', v_ids[1],
        jsonb_build_object('exported', v_all #> '{0,id}', 'from', p_document -> 'exported_at'), cardinality(v_ids));
    return v_ids[1];
end $$;

comment on function gd_import(jsonb) is
'Makes the instances of a document of gd_export, all or none, and returns the new id of the one that was exported; null where
another instance holds a unique key that one of them has (a warning says which): nothing was imported.

They have new ids, and stand as they stood, with their inboxes, journals, errors and histories, as children of their new parents. What
was executing is due, at its place in its key and with its attempt; a parent awaits those of its children that have not ended.
Step queues, keys and rate limits are those of this database. What had ended keeps the time of its end, and is removed by
the retention that counts from it, unless gd_retry makes it run again in the same transaction.

The document is examined as anybody''s. Raises GD501 for one that is not valid, larger than 64 MB, or of a newer format (one of an older release is read), and
GD502 where something names a rate limit that is not there; 55P03 where somebody''s open transaction has one of the unique
keys for a second.';

create or replace function gendurable._import_instances(p_all jsonb) returns bigint[]
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_ids constant bigint[] := array(
        select nextval('gendurable.instance_id_seq') from generate_series(1, jsonb_array_length(p_all)));
    -- their places in the document, by the old ids
    v_places constant jsonb := (
        select jsonb_object_agg((e.o ->> 'id')::numeric::bigint, e.at)
        from jsonb_array_elements(p_all) with ordinality e (o, at));
    v_pending jsonb;
    v_shown jsonb;
    v_moved record;
begin
    -- by the places of the parents: who has children, and how many of them are still awaited
    select coalesce(jsonb_object_agg(c.parent, c.open), '{}') into v_pending
    from (
        select v_places ->> ((e.o ->> 'parent_id')::numeric::bigint)::text as parent,
            count(*) filter (
                where e.o -> 'awaited' = 'true' and not gendurable._is_terminal((e.o ->> 'status')::gendurable.status)) as open
        from jsonb_array_elements(p_all) e (o)
        where coalesce(e.o -> 'parent_id', 'null') <> 'null'
        group by 1
    ) c;
    v_shown := gendurable._import_inboxes(p_all, v_ids);
    perform gendurable._place_imported(p_all, v_ids, v_places, v_pending, v_shown, v_now);
    perform gendurable._import_past(p_all, v_ids);
    perform gendurable._add_words(v_ids);

    if p_all @? '$[*].paused_at ? (@ <> null)' then
        -- claims ask about pauses only where this says so
        insert into gendurable.special default values;
    end if;

    -- those that stand elsewhere than in the document may have come into the scope of their keys by that
    select array_agg(i.id) as ids, array_agg(i.status) as statuses into v_moved
    from jsonb_array_elements(p_all) with ordinality e (o, at)
    join gendurable.instance i on i.id = any(array[v_ids[e.at]])
    where i.status <> (e.o ->> 'status')::gendurable.status and i.unique_scope is not null;
    if v_moved.ids is not null then
        perform gendurable._take_unique_keys(v_moved.ids, v_moved.statuses);
    end if;
    select array_agg(distinct i.queue) as queues,
        array_agg(i.id) filter (where i.finished_at is null) as ids,
        array_agg(distinct i.queue) filter (where i.eligible_at <= v_now + gendurable._longest_poll()) as due
    into v_moved
    from gendurable.instance i
    where i.id = any(v_ids);
    perform gendurable._note_queues(v_moved.queues);
    perform gendurable._place_rows(v_moved.ids, null, v_now);
    perform gendurable._wake_sleepers(v_moved.due);
    return v_ids;
end $$;

comment on function gendurable._import_instances(jsonb) is
    'Writes the instances of a document that was examined: their ids, in its order. Raises unique_violation where a key is taken.';

create or replace function gendurable._import_status(p_one jsonb, p_pending int) returns gendurable.status
language plpgsql immutable as $$
begin
    return (case p_one ->> 'status'
        when 'executing' then 'runnable'
        when 'awaiting_children' then case when p_pending > 0 then 'awaiting_children' else 'runnable' end
        when 'awaiting_signal' then case
            when exists (
                select from jsonb_array_elements(p_one -> 'signals') s
                where p_one -> 'awaits' ? (s ->> 'name') and s -> 'shown' is distinct from 'true'
            ) then 'runnable'
            else 'awaiting_signal'
        end
        else p_one ->> 'status'
    end)::gendurable.status;
end $$;

comment on function gendurable._import_status(jsonb, int) is
    'Where an instance of a document stands here: nobody works at it, and what it waits for may be there.';

create or replace function gendurable._place_imported(
    p_all jsonb, p_ids bigint[], p_places jsonb, p_pending jsonb, p_shown jsonb, p_now timestamptz
) returns void
language plpgsql as $$
declare
    -- the number of every barrier that stands in the document; of those that were left, one before it
    v_barrier constant bigint := gendurable._epoch_us(p_now);
begin
    insert into gendurable.instance (
        id, inserted_at, updated_at, parent_id, barrier_no, claim_no, max_attempts, fsm_version, priority, eligible_at, lane_at,
        deadline_at, finished_at, failed_at, children_pending, status, attempt, crashes, fsm, step, queue, partition_key,
        unique_key, unique_held, unique_scope, rate_limit, weight, awaits, shown, last_error, result, meta, state, expires_at,
        keep_until, attributes, paused_at, paused_by)
    select
        p_ids[e.at], (o ->> 'inserted_at')::timestamptz, p_now, p_ids[w.parent],
        case
            when o -> 'awaited' = 'true' then v_barrier
            -- kept until its parent has ended
            when not gendurable._is_terminal((p_all #>> array[(w.parent - 1)::text, 'status'])::gendurable.status) then v_barrier - 1
        end,
        v_barrier, (o ->> 'max_attempts')::numeric::int, (o ->> 'version')::numeric::int,
        coalesce((o ->> 'priority')::numeric::int, 0), d.due,
        case
            when w.key is null or d.due is null then null
            when w.was in ('runnable', 'executing') then coalesce((o ->> 'lane_at')::timestamptz, d.due)
            else d.due
        end,
        -- a signal that is there has answered the await
        case when w.awaits is not null and not (w.was = 'awaiting_signal' and w.status = 'runnable') then w.deadline end,
        case when w.ended then (o ->> 'finished_at')::timestamptz end,
        case when w.ended and w.status <> 'done' then (o ->> 'finished_at')::timestamptz end,
        case
            when w.status = 'awaiting_children' then (p_pending ->> e.at::text)::int when p_pending ? e.at::text then 0
        end,
        w.status, coalesce((o ->> 'attempt')::numeric::int, 0), coalesce((o ->> 'crashes')::numeric::int, 0), o ->> 'fsm',
        o ->> 'step', o ->> 'queue', w.key, o ->> 'unique_key',
        gendurable._unique_held(case when o -> 'unique_held' = 'true' then o ->> 'unique_key' end, w.scope, w.status), w.scope,
        o ->> 'rate_limit',
        case when o ->> 'rate_limit' is not null then coalesce((o ->> 'weight')::double precision, 1) end,
        w.awaits,
        case
            when w.awaits is not null
                then array(select s.id::bigint from jsonb_array_elements_text(p_shown -> e.at::text) s (id))
        end,
        o ->> 'last_error', case when w.status = 'done' then o -> 'result' end,
        coalesce(nullif(o -> 'meta', 'null'), '{}'), coalesce(nullif(o -> 'state', 'null'), '{}'),
        case when not w.ended then (o ->> 'expires_at')::timestamptz end,
        case when w.ended then (o ->> 'keep_until')::timestamptz end, nullif(nullif(o -> 'attributes', 'null'), '{}'),
        (o ->> 'paused_at')::timestamptz, o ->> 'paused_by'
    from jsonb_array_elements(p_all) with ordinality e (o, at)
    cross join lateral (
        select x.*, gendurable._is_terminal(x.status) as ended,
            case when x.was not in ('done', 'awaiting_children') and jsonb_typeof(o -> 'awaits') = 'array'
                then gendurable._texts(o -> 'awaits') end as awaits
        from (
            select (p_places ->> ((o ->> 'parent_id')::numeric::bigint)::text)::int as parent, o ->> 'status' as was,
                o ->> 'partition_key' as key, (o ->> 'deadline_at')::timestamptz as deadline,
                gendurable._import_status(o, (p_pending ->> e.at::text)::int) as status,
                case when jsonb_typeof(o -> 'unique_scope') = 'array'
                    then gendurable._texts(o -> 'unique_scope')::gendurable.status[] end as scope
            offset 0
        ) x
        offset 0
    ) w
    cross join lateral (
        select case
            when w.status = 'awaiting_signal' then w.deadline
            when w.status <> 'runnable' then null
            when w.was = 'runnable' then (o ->> 'eligible_at')::timestamptz
            else p_now
        end as due
        offset 0
    ) d
    -- sorted: two documents with the same keys wait for each other one way round only
    order by o ->> 'unique_key', e.at;
end $$;

comment on function gendurable._place_imported(jsonb, bigint[], jsonb, jsonb, jsonb, timestamptz) is
    'Writes the rows of imported instances, as what stands in no line and no slot: whoever claims next sorts them in. By place in the
document: p_places of the old ids, p_pending, the open children of those that have children, p_shown, the signals that do not count again.';

create or replace function gendurable._import_inboxes(p_all jsonb, p_ids bigint[]) returns jsonb
language plpgsql as $$
declare
    v_shown jsonb;
begin
    insert into gendurable.signal_seen (instance_id, dedup_key)
    select distinct p_ids[e.at], k.key
    from jsonb_array_elements(p_all) with ordinality e (o, at)
    cross join lateral jsonb_array_elements_text(e.o -> 'seen') k (key);

    with come as materialized (
        select s.at, s.signal, nextval('gendurable.signal_id_seq') as id
        from (
            select e.at, j.signal
            from jsonb_array_elements(p_all) with ordinality e (o, at)
            cross join lateral jsonb_array_elements(e.o -> 'signals') with ordinality j (signal, ord)
            order by e.at, j.ord
        ) s
    ), put as (
        insert into gendurable.signal (instance_id, id, inserted_at, name, payload)
        select p_ids[c.at], c.id, (c.signal ->> 'inserted_at')::timestamptz, c.signal ->> 'name', c.signal -> 'payload'
        from come c
    )
    select jsonb_object_agg(s.at, s.ids) into v_shown
    from (
        select c.at, jsonb_agg(c.id) as ids from come c where c.signal -> 'shown' = 'true' group by c.at
    ) s;
    return coalesce(v_shown, '{}');
end $$;

comment on function gendurable._import_inboxes(jsonb, bigint[]) is
    'Writes the inboxes of imported instances: of each place in the document the signals that do not count for its await again.';

create or replace function gendurable._import_past(p_all jsonb, p_ids bigint[]) returns void
language plpgsql as $$
begin
    insert into gendurable.error (instance_id, no, at, attempt, kind, step, worker, error, traceback)
    select p_ids[e.at], j.ord, (j.x ->> 'at')::timestamptz, (j.x ->> 'attempt')::numeric::int, j.x ->> 'kind', j.x ->> 'step',
        j.x ->> 'worker', gendurable._cut_middle(j.x ->> 'error'), gendurable._cut_middle(j.x ->> 'traceback')
    from jsonb_array_elements(p_all) with ordinality e (o, at)
    cross join lateral jsonb_array_elements(e.o -> 'errors') with ordinality j (x, ord);

    insert into gendurable.history (instance_id, no, at, seconds, attempt, kind, step, next_step, worker, state, detail)
    select p_ids[e.at], (j.x ->> 'no')::numeric::bigint, (j.x ->> 'at')::timestamptz, (j.x ->> 'seconds')::double precision,
        (j.x ->> 'attempt')::numeric::int, j.x ->> 'kind', j.x ->> 'step', j.x ->> 'next_step', j.x ->> 'worker',
        nullif(j.x -> 'state', 'null'), nullif(j.x -> 'detail', 'null')
    from jsonb_array_elements(p_all) with ordinality e (o, at)
    cross join lateral jsonb_array_elements(e.o -> 'history') j (x);

    insert into gendurable.journal (instance_id, seq, entry)
    select p_ids[e.at], j.seq, j.entry
    from jsonb_array_elements(p_all) with ordinality e (o, at)
    cross join lateral jsonb_array_elements(coalesce(e.o -> 'journal', '[]')) with ordinality j (entry, seq);
end $$;

comment on function gendurable._import_past(jsonb, bigint[]) is
    'Writes the errors of imported instances, numbered anew, their histories and journals.';
