-- Retention: removing what ended long ago. A walk along the index of the finished rows, a bounded stretch a call; what
-- cannot be removed now is passed over and met again when the walk has come round.
-- Next: 219_bounds.

create or replace function gendurable._remove_old(
    p_retention interval, p_limit int, p_until timestamptz,
    out count int, out more boolean, out kept int, out state text, out message text
)
language plpgsql as $$
declare
    v_before constant timestamptz := gendurable._retention_end(p_retention);
    v_look constant int := greatest(gendurable._most_looks(), p_limit);
    v_place jsonb := gendurable._recall_place('gc');
    v_behind boolean := v_place is not null;         -- rows before the place were not looked at in this call
    v_looked int := 0;
    v_found record;
    v_one record;
begin
    count := 0;
    kept := 0;
    more := false;
    if p_limit = 0 or v_before = '-infinity' then
        return;
    end if;
    while count < p_limit and v_looked < v_look and kept < 500 and clock_timestamp() < p_until loop
        select f.ids, f.ended, f.looked, f.place into v_found
        from gendurable._find_old(v_before, v_place, least(p_limit - count, 500)) f;
        v_looked := v_looked + v_found.looked;
        v_place := v_found.place;
        select r.* into v_one from gendurable._remove_isolated(v_found.ids, p_until) r;
        count := count + v_one.count;
        kept := kept + v_one.kept;
        state := coalesce(state, v_one.state);
        message := coalesce(message, v_one.message);
        if v_one.tried < cardinality(v_found.ids) then
            -- the time is up: the next call goes on with the first that was not tried
            v_place := case when v_one.tried > 0 then
                gendurable._end_place(v_found.ended[v_one.tried], v_found.ids[v_one.tried]) end;
            exit;
        end if;
        exit when v_place is null and not v_behind;
        v_behind := v_behind and v_place is not null;
    end loop;
    more := v_place is not null and count > 0;
    perform gendurable._keep_place('gc', v_place);
end $$;

comment on function gendurable._remove_old(interval, int, timestamptz) is
    'Removes up to p_limit old finished instances: how many, whether there is more to do at once, and how many could not
be removed, with the first error.';

create or replace function gendurable._retention_end(p_retention interval) returns timestamptz
language plpgsql stable as $$
begin
    return clock_timestamp() - p_retention;
exception when data_exception then
    return timestamptz '-infinity';                              -- longer than there are timestamps: all is kept
end $$;

comment on function gendurable._retention_end(interval) is 'What ended before this is to be removed.';

create or replace function gendurable._end_place(p_finished_at timestamptz, p_id bigint) returns jsonb
language sql stable parallel safe as $$
    select jsonb_build_array(gendurable._epoch_us(p_finished_at), p_id)
$$;

comment on function gendurable._end_place(timestamptz, bigint) is 'A place in the index of the finished rows.';

create or replace function gendurable._find_old(
    p_before timestamptz, p_place jsonb, p_limit int,
    out ids bigint[], out ended timestamptz[], out looked int, out place jsonb
)
language plpgsql as $$
declare
    v_after constant timestamptz := case
        when p_place is null then '-infinity'
        else timestamptz 'epoch' + (p_place ->> 0)::bigint * interval '1 microsecond'
    end;
    v_all bigint[];
    v_ends timestamptz[];
begin
    select coalesce(array_agg(o.id order by o.finished_at, o.id), '{}'),
        array_agg(o.finished_at order by o.finished_at, o.id),
        coalesce(array_agg(o.id order by o.finished_at, o.id) filter (where o.fits), '{}'),
        array_agg(o.finished_at order by o.finished_at, o.id) filter (where o.fits)
    into v_all, v_ends, ids, ended
    from (
        select i.id, i.finished_at,
            i.eligible_at is null                    -- else it carries the baton of its key
            and (
                i.parent_id is null
                or not exists (
                    select from gendurable.instance p where p.id = i.parent_id and p.finished_at is null)) as fits
        from (
            select x.id, x.finished_at, x.eligible_at, x.parent_id
            from gendurable.instance x
            where x.finished_at < p_before
                and (x.finished_at, x.id) > (v_after, coalesce((p_place ->> 1)::bigint, 0))
            order by x.finished_at, x.id
            limit p_limit
        ) i
    ) o;
    looked := cardinality(v_all);
    if looked = p_limit then
        place := gendurable._end_place(v_ends[looked], v_all[looked]);
    end if;
end $$;

comment on function gendurable._find_old(timestamptz, jsonb, int) is
    'The next p_limit finished rows from a place on: the ids of those that may be removed, how many were looked at, and the
place behind them, null at the end.';

create or replace function gendurable._remove_isolated(
    p_ids bigint[], p_until timestamptz,
    out count int, out kept int, out tried int, out state text, out message text
)
language plpgsql as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
    v_low record;
    v_high record;
begin
    count := 0;
    kept := 0;
    tried := 0;
    if p_ids = '{}' or clock_timestamp() > p_until then
        return;
    end if;
    begin
        count := gendurable._remove_instances(p_ids);
        tried := cardinality(p_ids);
        return;
    exception
        -- a foreign key or a trigger of the application, or a row that it has locked
        when others or assert_failure then
            get stacked diagnostics state = returned_sqlstate, message = message_text;
            message := left(message, 500);
            if not gendurable._blames_row(state) then
                raise;
            end if;
    end;
    if v_half = 0 then
        kept := 1;
        tried := 1;
        return;
    end if;
    select r.* into v_low from gendurable._remove_isolated(p_ids[:v_half], p_until) r;
    count := v_low.count;
    kept := v_low.kept;
    tried := v_low.tried;
    if tried = v_half then
        select r.* into v_high from gendurable._remove_isolated(p_ids[v_half + 1:], p_until) r;
        count := count + v_high.count;
        kept := kept + v_high.kept;
        tried := tried + v_high.tried;
    end if;
end $$;

comment on function gendurable._remove_isolated(bigint[], timestamptz) is
    '_remove, in halves where it fails, down to the row: how many were removed, how many could not be, with the first error,
and how many of the ids were tried before the time was up.';

create or replace function gendurable._remove_instances(p_ids bigint[]) returns int
language plpgsql as $$
declare
    v_old bigint[];
    v_parents bigint[];
    v_count int;
begin
    v_old := array(
        select i.id
        from gendurable.instance i
        where i.id = any(p_ids) and i.finished_at is not null and i.eligible_at is null
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
    if exists (
        select from pg_constraint c
        where c.confrelid = 'gendurable.instance'::regclass and c.contype = 'f' and c.condeferred
    ) then
        -- somebody's foreign key that is checked at the commit would take all of the call back then
        set constraints all immediate;
    end if;
    return v_count;
end $$;

comment on function gendurable._remove_instances(bigint[]) is
    'Removes those of the instances that have ended and are not locked, with all that they own; how many.';
