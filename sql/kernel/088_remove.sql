-- How long an instance is kept after its end, and its removal: one function removes an instance and all that it owns. What may
-- be removed, and when, is decided in api/138_keep (at once, in the commit that ends it) and api/218_retention.
-- A child of a barrier is no matter of the retention while its parent lives: it stands in none of the indexes. Whoever ends a
-- parent puts it down in ended_parent, and so does a child that ends when its parent does not wait for it any more. Neither
-- asks how the other one stands: whichever commits last has left a note that finds both.
-- Next: 090_end.

create or replace function gendurable._told_pause() returns interval
language sql immutable parallel safe as $$
    select interval '1 minute'
$$;

comment on function gendurable._told_pause() is
    'How long a watched instance is kept at least, if its machine says less: whoever waits for it looks at it when he is told.';

create or replace function gendurable._retains() returns boolean
language plpgsql as $$
begin
    if not exists (select from gendurable.special) then
        return false;
    end if;
    return (select true from gendurable.machine m where m.retain is not null limit 1);
end $$;

comment on function gendurable._retains() is 'Whether any machine says how long its instances are kept; else false or null.';

create or replace function gendurable._keep_end(p_retain jsonb, p_status text, p_watched boolean, p_now timestamptz)
returns timestamptz
language sql stable parallel safe as $$
    select greatest(
        p_now + gendurable._ms(p_retain -> p_status),
        case when p_watched and p_retain ? p_status then p_now + gendurable._told_pause() end)
$$;

comment on function gendurable._keep_end(jsonb, text, boolean, timestamptz) is
    'Until when an instance that ends now is kept, by its machine''s retain; null: as long as those of which no machine says it.';

create or replace function gendurable._keep_ended(p_ids bigint[], p_now timestamptz) returns void
language plpgsql as $$
begin
    if gendurable._retains() then
        update gendurable.instance i
        set keep_until = gendurable._keep_end(m.retain, i.status::text,
            (select true from gendurable.watch w where w.instance_id = i.id limit 1), p_now)
        from gendurable.machine m
        where i.id = any(p_ids) and m.fsm = i.fsm and m.version = i.fsm_version and m.retain ? i.status::text;
    end if;
    perform gendurable._note_ended_parents(array(
        select i.id from gendurable.instance i where i.id = any(p_ids) and i.children_pending is not null));
end $$;

comment on function gendurable._keep_ended(bigint[], timestamptz) is
    'What the retention has to know of instances that were ended from outside of a step. Before their watchers are told.';

create or replace function gendurable._note_ended_parents(p_parents bigint[]) returns void
language plpgsql as $$
begin
    if p_parents <> '{}' then
        insert into gendurable.ended_parent (parent_id) select distinct p.id from unnest(p_parents) p (id);
    end if;
end $$;

comment on function gendurable._note_ended_parents(bigint[]) is
    'Puts parents down whose ended children have to come into the indexes of the retention.';

create or replace function gendurable._has_deferred() returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from pg_trigger t where t.tgrelid = 'gendurable.instance'::regclass and t.tginitdeferred);
end $$;

comment on function gendurable._has_deferred() is
    'Whether somebody''s foreign key or trigger on the instances is checked at the commit only.';

create or replace function gendurable._remove_past(p_ids bigint[]) returns boolean
language plpgsql as $$
declare
    v_some constant int := gendurable._most_looks();
    v_entries int;
    v_steps int;
    v_places tid[];
begin
    delete from gendurable.history h
    where h.ctid = any(array(select x.ctid from gendurable.history x where x.instance_id = any(p_ids) limit v_some));
    get diagnostics v_steps = row_count;
    -- what is beside the table is removed with its entry, piece by piece: bounded in bytes as well
    select count(*), array_agg(j.place) filter (where j.before < 4 * gendurable._most_bytes()) into v_entries, v_places
    from (
        select x.ctid as place, sum(x.bytes) over (rows unbounded preceding) - x.bytes as before
        from (
            select k.ctid, pg_column_size(k.entry) as bytes
            from gendurable.journal k
            where k.instance_id = any(p_ids)
            limit v_some
        ) x
    ) j;
    if v_entries > 0 then
        delete from gendurable.journal j where j.ctid = any(v_places);
    end if;
    return v_steps = v_some or v_entries = v_some or v_entries > coalesce(cardinality(v_places), 0);
end $$;

comment on function gendurable._remove_past(bigint[]) is
    'Removes histories and journals of instances that are gone, 20,000 rows of each and 64 MB of entries at most: whether some may be
left.';

create or replace function gendurable._remove_instances(p_ids bigint[]) returns bigint[]
language plpgsql as $$
declare
    v_gone bigint[];
    v_attributed boolean;
begin
    with gone as (
        delete from gendurable.instance i where i.id = any(p_ids) returning i.id, i.attributes is not null as attributed
    )
    -- not what a trigger of the application has kept
    select coalesce(array_agg(g.id), '{}'), bool_or(g.attributed) into v_gone, v_attributed from gone g;
    delete from gendurable.signal s where s.instance_id = any(v_gone);
    delete from gendurable.signal_seen s where s.instance_id = any(v_gone);
    delete from gendurable.watch w where w.instance_id = any(v_gone);
    delete from gendurable.renewal r where r.instance_id = any(v_gone);
    delete from gendurable.error e where e.instance_id = any(v_gone);
    if v_attributed then
        delete from gendurable.attribute a where a.instance_id = any(v_gone);
    end if;
    -- a machine that goes round for years has as long a history, and a journal may be large
    if gendurable._remove_past(v_gone) then
        insert into gendurable.history_left (gone_id)
        select g.id from unnest(v_gone) g (id)
        where (select true from gendurable.history h where h.instance_id = g.id limit 1)
            or (select true from gendurable.journal j where j.instance_id = g.id limit 1);
    end if;
    return v_gone;
end $$;

comment on function gendurable._remove_instances(bigint[]) is
    'Removes instances and all that they own; the ids of those that are gone. Under their locks for update: nobody delivers a signal
or watches meanwhile. Of very long histories and journals a part is left.';

create or replace function gendurable._lock_ended(p_ids bigint[]) returns bigint[]
language plpgsql as $$
declare
    v_old record;
    v_parents bigint[];
begin
    with old as materialized (
        select i.id, i.parent_id
        from gendurable.instance i
        where i.id = any(p_ids) and i.finished_at is not null and i.eligible_at is null
        for update skip locked
    )
    select coalesce(array_agg(o.id), '{}') as ids, array_agg(o.parent_id) as parents, count(o.parent_id) > 0 as family into v_old
    from old o;
    if v_old.family then
        -- A parent that gd_retry makes live again at this moment keeps its children: locked, or no longer ended.
        v_parents := array(
            select p.id
            from (select distinct x.id from unnest(v_old.parents) x (id) where x.id is not null) x
            cross join lateral (
                select i.id from gendurable.instance i
                where i.id = any(array[x.id]) and i.finished_at is not null
                for share skip locked
            ) p
            union all
            select distinct x.id
            from unnest(v_old.parents) x (id)
            where x.id is not null and (select true from gendurable.instance p where p.id = any(array[x.id])) is null);
        v_old.ids := array(
            select o.id
            from unnest(v_old.ids, v_old.parents) o (id, parent_id)
            -- a subquery, which is hashed; the array would be walked for each row
            where o.parent_id is null or o.parent_id in (select p.id from unnest(v_parents) p (id)));
    end if;
    return v_old.ids;
end $$;

comment on function gendurable._lock_ended(bigint[]) is
    'Locks those of the instances that may be removed now: they have ended, carry no baton, their parents have ended as well, and
nobody has any of these locked.';

create or replace function gendurable._remove_locked(p_ids bigint[]) returns bigint[]
language plpgsql as $$
declare
    v_gone bigint[];
begin
    v_gone := gendurable._remove_instances(p_ids);
    if gendurable._has_deferred() then
        -- somebody's foreign key that is checked at the commit would take all of the call back then
        set constraints all immediate;
    end if;
    return v_gone;
end $$;

comment on function gendurable._remove_locked(bigint[]) is
    'As _remove_instances, and what others check at the commit is checked at once.';

create or replace function gendurable._remove_left(p_until timestamptz) returns void
language plpgsql as $$
declare
    v_id bigint;
begin
    while clock_timestamp() < p_until loop
        select l.gone_id into v_id
        from gendurable.history_left l
        order by l.gone_id
        limit 1
        for update skip locked;
        exit when not found;
        if not gendurable._remove_past(array[v_id]) then
            delete from gendurable.history_left l
            where l.ctid = any(array(
                select x.ctid from gendurable.history_left x where x.gone_id = v_id for update skip locked));
        end if;
    end loop;
end $$;

comment on function gendurable._remove_left(timestamptz) is
    'Removes what is left of the histories and journals of instances that are gone, until the time is up.';
