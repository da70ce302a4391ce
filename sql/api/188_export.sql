-- An instance as a document, with its descendants and all that belongs to them: for bug reports, and to move it. The document says
-- how things stand, and nothing of how they are kept here: what is parked in its key or in a line has the time at which it was
-- due, what a worker has is as if it were given back.
-- Next: 188_import, which reads it.

create or replace function gd_export(p_id bigint) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
-- the same document, whoever asks for it
set timezone = 'UTC' set extra_float_digits = 1 as $$
declare
    v_most constant int := gendurable._most_children();
    v_level bigint[] := array[p_id];
    v_ids bigint[] := '{}'::bigint[];
    v_all jsonb[] := '{}'::jsonb[];
    v_id bigint;
    v_one jsonb;
    v_past record;
    v_bytes bigint := 0;
begin
    perform gendurable._need_instance(p_id);
    while v_level <> '{}' loop
        foreach v_id in array v_level loop
            v_one := gendurable._export_one(v_id, v_id = p_id, gendurable._most_bytes() - v_bytes);
            v_bytes := v_bytes + pg_column_size(v_one);
            v_all := v_all || v_one;
        end loop;
        v_ids := v_ids || v_level;
        v_level := array(
            select c.id
            from unnest(v_level) with ordinality u (id, ord)
            cross join lateral (
                select i.id from gendurable.instance i
                -- a range: where few parents have most rows, "=" would be looked for along the primary key
                where i.parent_id between u.id and u.id
                order by i.parent_id, i.id
                limit v_most - cardinality(v_ids) + 1
            ) c
            order by u.ord, c.id
            limit v_most - cardinality(v_ids) + 1);
        if cardinality(v_ids) + cardinality(v_level) > v_most then
            perform gendurable._refuse_export(format('it has more than %s descendants', v_most - 1));
        end if;
    end loop;

    v_bytes := 0;
    for v_at in 1 .. cardinality(v_ids) loop
        v_past := gendurable._export_past(v_ids[v_at], gendurable._most_bytes() - v_bytes);
        v_bytes := v_bytes + v_past.bytes;
        v_all[v_at] := v_all[v_at] || v_past.past;
    end loop;
    return jsonb_build_object('format', gendurable._document_format(), 'gendurable', gendurable._version(),
        'exported_at', clock_timestamp(), 'instances', to_jsonb(v_all));
end $$;

comment on function gd_export(bigint) is
'An instance with all its descendants, their inboxes, dedup keys, journals, errors and histories, as one JSON document for gd_import,
here or in another database. It is read as of one moment, without a lock, and stays as it is here: a running step goes on.
Up to 10,000 instances and 16 MB of states, results, inboxes and journals, else GD501. Of what was kept of their past, the newest errors
and up to 1,000 entries of each history, 16 MB in all: "left_out" says how many older ones there are. Not in it: its parent,
watchers, and what is known of machines, queues and limits. Raises GD501, GD503.';

create or replace function gendurable._refuse_export(p_detail text) returns void
language plpgsql as $$
begin
    perform gendurable._invalid('the instance is too large for one document', p_detail,
        'Export its children one by one, as of gd_childs; each is an instance of its own then.');
end $$;

comment on function gendurable._refuse_export(text) is 'Raises GD501: an export would be larger than it may be.';

create or replace function gendurable._export_one(p_id bigint, p_root boolean, p_room bigint) returns jsonb
language plpgsql stable as $$
declare
    v_one jsonb;
    v_room bigint;
begin
    select jsonb_build_object(
            'id', i.id, 'parent_id', case when not p_root then i.parent_id end,
            'awaited', not p_root and p.status = 'awaiting_children' and p.claim_no = i.barrier_no,
            'fsm', i.fsm, 'version', i.fsm_version, 'step', i.step, 'status', i.status, 'queue', coalesce(i.home, i.queue),
            'priority', i.priority, 'partition_key', i.partition_key, 'unique_key', i.unique_key, 'unique_scope', i.unique_scope,
            'unique_held', i.unique_held is not null, 'rate_limit', i.rate_limit, 'weight', i.weight, 'attempt', i.attempt,
            'max_attempts', i.max_attempts, 'crashes', i.crashes, 'worker', i.worker, 'awaits', i.awaits)
        || jsonb_build_object(
            'eligible_at', case when i.status = 'runnable' then coalesce(i.eligible_at, i.bucket_at, i.lane_at, i.aside_at) end,
            'lane_at', case when i.status in ('runnable', 'executing') and i.partition_key is not null then coalesce(i.lane_at, i.aside_at) end,
            'deadline_at', i.deadline_at, 'expires_at', i.expires_at, 'inserted_at', i.inserted_at, 'finished_at', i.finished_at,
            'keep_until', i.keep_until, 'paused_at', i.paused_at, 'paused_by', i.paused_by, 'state', i.state, 'meta', i.meta, 'attributes', i.attributes,
            'last_error', i.last_error)
        -- no result is not JSON null
        || case when i.result is null then '{}' else jsonb_build_object('result', i.result) end
    into v_one
    from gendurable.instance i
    left join gendurable.instance p on p.id = i.parent_id
    where i.id = p_id;
    v_room := p_room - pg_column_size(v_one);
    v_one := v_one || jsonb_build_object('signals', gendurable._export_inbox(p_id, v_room));
    v_room := p_room - pg_column_size(v_one);
    v_one := v_one || jsonb_build_object('seen', gendurable._export_seen(p_id, v_room));
    v_room := p_room - pg_column_size(v_one);
    v_one := v_one || jsonb_build_object('journal', gendurable._export_journal(p_id, v_room));
    if pg_column_size(v_one) > p_room then
        perform gendurable._refuse_export('the states, results, inboxes and journals are more than 16 MB');
    end if;
    return v_one;
end $$;

comment on function gendurable._export_one(bigint, boolean, bigint) is
    'An instance as it stands in a document, without its past; p_room: how many bytes are left for it.';

create or replace function gendurable._export_inbox(p_id bigint, p_room bigint) returns jsonb
language plpgsql stable as $$
declare
    v_shown constant bigint[] := (select i.shown from gendurable.instance i where i.id = p_id);
    v_signals jsonb[] := '{}'::jsonb[];
    v_one jsonb;
    v_bytes bigint := 0;
begin
    for v_one in
        select jsonb_build_object('name', s.name, 'payload', s.payload, 'inserted_at', s.inserted_at,
            'shown', coalesce(s.id = any(v_shown), false))
        from gendurable.signal s
        where s.instance_id = p_id
        order by s.id
    loop
        v_bytes := v_bytes + pg_column_size(v_one);
        -- one more than fits: the caller sees that it is too much
        v_signals := v_signals || v_one;
        exit when v_bytes > p_room;
    end loop;
    return to_jsonb(v_signals);
end $$;

comment on function gendurable._export_inbox(bigint, bigint) is
    'The inbox of an instance, as many bytes as there is room for and one signal more. shown: it does not count for an await again.';

create or replace function gendurable._export_seen(p_id bigint, p_room bigint) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(s.dedup_key order by s.dedup_key), '[]')
        from (
            -- each is four bytes at least in the document
            select x.dedup_key
            from gendurable.signal_seen x
            where x.instance_id = p_id
            order by x.dedup_key
            limit greatest(p_room, 0) / 4 + 1
        ) s);
end $$;

comment on function gendurable._export_seen(bigint, bigint) is
    'The dedup keys that an instance was signalled with, no more than there can be room for.';

create or replace function gendurable._export_journal(p_id bigint, p_room bigint) returns jsonb
language plpgsql stable as $$
declare
    v_entries jsonb[] := '{}'::jsonb[];
    v_one jsonb;
    v_bytes bigint := 0;
begin
    for v_one in select j.entry from gendurable.journal j where j.instance_id = p_id order by j.seq loop
        v_bytes := v_bytes + pg_column_size(v_one);
        -- one more than fits, as with the inbox
        v_entries := v_entries || v_one;
        exit when v_bytes > p_room;
    end loop;
    return to_jsonb(v_entries);
end $$;

comment on function gendurable._export_journal(bigint, bigint) is
    'The journal of an instance, as many bytes as there is room for and one entry more.';

create or replace function gendurable._export_past(p_id bigint, p_room bigint, out past jsonb, out bytes bigint)
language plpgsql stable as $$
declare
    v_errors jsonb[] := '{}'::jsonb[];
    v_entries jsonb[] := '{}'::jsonb[];
    v_row record;
    v_kept constant bigint := (select count(*) from gendurable.error e where e.instance_id = p_id);
    v_before bigint;
begin
    bytes := 0;
    for v_row in
        select jsonb_build_object('at', e.at, 'attempt', e.attempt, 'kind', e.kind, 'step', e.step, 'worker', e.worker,
            'error', e.error, 'traceback', e.traceback) as entry
        from gendurable.error e
        where e.instance_id = p_id
        order by e.no desc
    loop
        exit when bytes + pg_column_size(v_row.entry) > p_room;
        bytes := bytes + pg_column_size(v_row.entry);
        v_errors := v_errors || v_row.entry;
    end loop;
    v_before := coalesce((
        select h.no from gendurable.history h where h.instance_id = p_id order by h.no desc limit 1), 0);
    for v_row in
        select h.no, jsonb_build_object('no', h.no, 'at', h.at, 'seconds', h.seconds, 'attempt', h.attempt, 'kind', h.kind,
            'step', h.step, 'next_step', h.next_step, 'worker', h.worker, 'state', h.state, 'detail', h.detail) as entry
        from gendurable.history h
        where h.instance_id = p_id
        order by h.no desc
        limit 1000
    loop
        exit when bytes + pg_column_size(v_row.entry) > p_room;
        bytes := bytes + pg_column_size(v_row.entry);
        v_entries := v_entries || v_row.entry;
        -- numbered without gaps: so many are older
        v_before := v_row.no - 1;
    end loop;
    past := jsonb_build_object(
        'errors', to_jsonb(array(select u.x from unnest(v_errors) with ordinality u (x, ord) order by u.ord desc)),
        'history', to_jsonb(array(select u.x from unnest(v_entries) with ordinality u (x, ord) order by u.ord desc)),
        'left_out', jsonb_build_object('errors', v_kept - cardinality(v_errors), 'history', v_before));
end $$;

comment on function gendurable._export_past(bigint, bigint) is
    'What was kept of the past of an instance: the newest for which there is room, oldest first, and how many are left out.';
