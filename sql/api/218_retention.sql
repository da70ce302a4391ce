-- Retention: removing what ended long ago. Walks along the two indexes of the finished rows (those that their machine keeps for a
-- time of its own, and all others), a bounded stretch a call; what cannot be removed now is passed over and met again when the walk
-- has come round. The children of barriers come into these indexes when their parent has ended.
-- Next: 219_bounds.

create or replace function gendurable._remove_old(
    p_retention interval, p_limit int, p_until timestamptz,
    out count int, out more boolean, out kept int, out state text, out message text
)
language plpgsql as $$
declare
    v_before constant timestamptz := gendurable._retention_end(p_retention);
    v_now constant timestamptz := clock_timestamp();
    v_look constant int := greatest(gendurable._most_looks(), p_limit);
    v_own record;
    v_all record;
    v_rest record;
begin
    count := 0;
    kept := 0;
    more := false;
    if p_limit = 0 then
        return;
    end if;
    perform gendurable._remove_left(v_now + (p_until - v_now) / 4);
    perform gendurable._free_children(v_look, v_now + (p_until - v_now) / 2);
    -- neither walk holds up the other: the first has half of the call, and what the second has left
    select w.* into v_own from gendurable._walk_old('kept', v_now, (p_limit + 1) / 2, v_look / 2, p_until) w;
    select w.* into v_all
    from gendurable._walk_old('gc', v_before, p_limit - v_own.count, v_look - v_own.looked, p_until) w;
    count := v_own.count + v_all.count;
    more := v_own.more or v_all.more;
    kept := v_own.kept + v_all.kept;
    state := coalesce(v_own.state, v_all.state);
    message := coalesce(v_own.message, v_all.message);
    if v_own.more and count < p_limit then
        select w.* into v_rest
        from gendurable._walk_old('kept', v_now, p_limit - count, v_look - v_own.looked - v_all.looked, p_until) w;
        count := count + v_rest.count;
        more := v_rest.more or v_all.more;
        kept := kept + v_rest.kept;
        state := coalesce(state, v_rest.state);
        message := coalesce(message, v_rest.message);
    end if;
end $$;

comment on function gendurable._remove_old(interval, int, timestamptz) is
    'Removes up to p_limit old finished instances: how many, whether there is more to do at once, and how many could not
be removed, with the first error.';

create or replace function gendurable._walk_old(
    p_walk text, p_before timestamptz, p_limit int, p_look int, p_until timestamptz,
    out count int, out looked int, out more boolean, out kept int, out state text, out message text
)
language plpgsql as $$
declare
    v_place jsonb := gendurable._recall_place(p_walk);
    v_behind boolean := v_place is not null;         -- rows before the place were not looked at in this call
    v_found record;
    v_one record;
begin
    count := 0;
    looked := 0;
    kept := 0;
    more := false;
    if p_before = '-infinity' then
        return;
    end if;
    while count < p_limit and looked < p_look and kept < 500 and clock_timestamp() < p_until loop
        select f.ids, f.ended, f.looked, f.place into v_found
        from gendurable._find_old(p_walk, p_before, v_place, least(p_limit - count, 500)) f;
        looked := looked + v_found.looked;
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
    perform gendurable._keep_place(p_walk, v_place);
end $$;

comment on function gendurable._walk_old(text, timestamptz, int, int, timestamptz) is
    'One walk: "kept" by what the machines say, "gc" by the time of the end.';

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
    p_walk text, p_before timestamptz, p_place jsonb, p_limit int,
    out ids bigint[], out ended timestamptz[], out looked int, out place jsonb
)
language plpgsql as $$
declare
    v_after constant timestamptz := case
        when p_place is null then '-infinity'
        else timestamptz 'epoch' + (p_place ->> 0)::bigint * interval '1 microsecond'
    end;
    v_after_id constant bigint := coalesce((p_place ->> 1)::bigint, 0);
    v_found bigint[];
    v_all bigint[];
    v_ends timestamptz[];
begin
    v_found := case p_walk
        when 'kept' then array(
            select x.id
            from gendurable.instance x
            where x.keep_until is not null and x.barrier_no is null
                and x.keep_until <= p_before and (x.keep_until, x.id) > (v_after, v_after_id)
            order by x.keep_until, x.id
            limit p_limit)
        else array(
            select x.id
            from gendurable.instance x
            where x.finished_at is not null and x.keep_until is null and x.barrier_no is null
                and x.finished_at < p_before and (x.finished_at, x.id) > (v_after, v_after_id)
            order by x.finished_at, x.id
            limit p_limit)
    end;
    select coalesce(array_agg(o.id order by o.ord), '{}'), array_agg(o.ended order by o.ord),
        coalesce(array_agg(o.id order by o.ord) filter (where o.fits), '{}'),
        array_agg(o.ended order by o.ord) filter (where o.fits)
    into v_all, v_ends, ids, ended
    from (
        select i.id, f.ord, coalesce(i.keep_until, i.finished_at) as ended,
            i.eligible_at is null                    -- else it carries the baton of its key
            and (
                i.parent_id is null
                or (
                    select true from gendurable.instance p
                    where p.id = any(array[i.parent_id]) and p.finished_at is null) is null) as fits
        from unnest(v_found) with ordinality f (id, ord)
        join gendurable.instance i on i.id = any(array[f.id])
    ) o;
    looked := cardinality(v_all);
    if looked = p_limit then
        place := gendurable._end_place(v_ends[looked], v_all[looked]);
    end if;
end $$;

comment on function gendurable._find_old(text, timestamptz, jsonb, int) is
    'The next p_limit finished rows of a walk from a place on: the ids of those that may be removed, how many were looked at, and
the place behind them, null at the end.';

create or replace function gendurable._find_overdue(p_retention interval) returns numeric
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_before constant timestamptz := gendurable._retention_end(p_retention);
    v_own record;
    v_all record;
begin
    -- where the walks go on: before that there is only what could not be removed
    select f.ended[1] as ended into v_own from gendurable._find_old('kept', v_now, gendurable._recall_place('kept'), 1) f;
    select f.ended[1] as ended into v_all from gendurable._find_old('gc', v_before, gendurable._recall_place('gc'), 1) f;
    return round(coalesce(extract(epoch from greatest(v_now - v_own.ended, v_before - v_all.ended)), 0), 3);
end $$;

comment on function gendurable._find_overdue(interval) is
    'For how many seconds the next instance that is to be removed has been waiting for it; 0: there is none.';

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
        count := gendurable._remove_ended(p_ids);
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
    '_remove_ended, in halves where it fails, down to the row: how many were removed, how many could not be, with the first error,
and how many of the ids were tried before the time was up.';

create or replace function gendurable._remove_ended(p_ids bigint[]) returns int
language plpgsql as $$
begin
    return cardinality(gendurable._remove_locked(gendurable._lock_ended(p_ids)));
end $$;

comment on function gendurable._remove_ended(bigint[]) is
    'Removes those of the instances that have ended and are not locked, with all that they own; how many.';

create or replace function gendurable._free_children(p_limit int, p_until timestamptz) returns void
language plpgsql as $$
declare
    v_note record;
    v_ids bigint[];
    v_left int := p_limit;
begin
    for v_note in
        select e.id, e.parent_id,
            (select true from gendurable.instance p where p.id = any(array[e.parent_id]) and p.finished_at is null) as lives
        from gendurable.ended_parent e
        order by e.id
        limit 1000
        for update of e skip locked
    loop
        exit when v_left <= 0 or clock_timestamp() >= p_until;
        -- one that lives, or does so again, is put down once more at its end
        if v_note.lives is null then
            v_ids := array(
                select c.id
                from gendurable.instance c
                where c.parent_id = v_note.parent_id and c.finished_at is not null and c.barrier_no is not null
                order by c.id
                limit v_left
                for no key update skip locked);
            perform gendurable._free_isolated(v_ids);
            v_left := v_left - cardinality(v_ids);
        end if;
        if v_note.lives or (
            select true from gendurable.instance c
            where c.parent_id = v_note.parent_id and c.finished_at is not null and c.barrier_no is not null
            limit 1) is null
        then
            delete from gendurable.ended_parent e where e.id = v_note.id;
        else
            -- the others come first, should somebody have locked the rest of its children
            update gendurable.ended_parent e set id = default where e.id = v_note.id;
        end if;
    end loop;
end $$;

comment on function gendurable._free_children(int, timestamptz) is
    'Lets the ended children of ended parents into the indexes of the retention, up to p_limit of them.';

create or replace function gendurable._free_isolated(p_ids bigint[]) returns void
language plpgsql as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
begin
    if p_ids = '{}' then
        return;
    end if;
    begin
        update gendurable.instance i set barrier_no = null where i.id = any(p_ids);
        return;
    exception
        -- a trigger of the application
        when others or assert_failure then
            if not gendurable._blames_row(sqlstate) then
                raise;
            end if;
            if v_half = 0 then
                return;
            end if;
    end;
    perform gendurable._free_isolated(p_ids[:v_half]);
    perform gendurable._free_isolated(p_ids[v_half + 1:]);
end $$;

comment on function gendurable._free_isolated(bigint[]) is
    'Takes the barriers of ended children away, in halves where it fails: what fails is tried again by a later call.';
