-- Expired leases: claims are taken away from workers that do not renew them, a bounded stretch of the due rows a call.
-- Instances past their deadline are ended, wherever they stand. Next: 214_repair.

create or replace function gendurable._reap_expired(p_limit int, p_until timestamptz, out count int, out more boolean)
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_look constant int := gendurable._most_looks();
    v_place jsonb := gendurable._recall_place('reap');
    v_behind boolean := v_place is not null;         -- rows before the place were not looked at in this call
    v_looked int := 0;
    v_keyed int := 0;
    v_found record;
    v_some record;
begin
    count := 0;
    while count < p_limit and v_looked < v_look and v_keyed < gendurable._most_keys() and clock_timestamp() < p_until loop
        select h.ids, h.claim_nos, h.place, h.looked into v_found
        from gendurable._find_held(null, v_place, v_now, v_look - v_looked, least(p_limit - count, 100)) h;
        v_place := v_found.place;
        v_looked := v_looked + v_found.looked;
        if v_found.ids <> '{}' then
            select r.count, r.keyed into v_some from gendurable._reap_some(v_found.ids, v_found.claim_nos, v_now) r;
            count := count + v_some.count;
            v_keyed := v_keyed + v_some.keyed;
        end if;
        exit when v_place is null and not v_behind;
        v_behind := v_behind and v_place is not null;
    end loop;
    more := v_place is not null and count > 0;
    if p_limit > 0 then
        perform gendurable._keep_place('reap', v_place);
    end if;
end $$;

comment on function gendurable._reap_expired(int, timestamptz) is
    'Takes back up to p_limit expired claims: how many, and whether there is more to do at once.';

create or replace function gendurable._reap_some(
    p_ids bigint[], p_nos bigint[], p_now timestamptz, out count int, out keyed int
)
language plpgsql as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
begin
    count := 0;
    keyed := (select count(distinct i.partition_key) from gendurable.instance i where i.id = any(p_ids));
    begin
        for v_at in 1 .. cardinality(p_ids) loop
            count := count + gendurable._reap_one(p_ids[v_at], p_nos[v_at], p_now);
        end loop;
        return;
    exception
        when others or assert_failure then
            if not gendurable._blames_row(sqlstate) then
                raise;
            end if;
            count := 0;
    end;
    if v_half > 0 then
        select a.count + b.count into count
        from gendurable._reap_some(p_ids[:v_half], p_nos[:v_half], p_now) a
        cross join gendurable._reap_some(p_ids[v_half + 1:], p_nos[v_half + 1:], p_now) b;
    end if;
end $$;

comment on function gendurable._reap_some(bigint[], bigint[], timestamptz) is
    'Takes expired claims back, in halves where it fails, so that one that cannot be given back costs no other: how many,
and how many keys they have.';

create or replace function gendurable._reap_one(p_id bigint, p_claim_no bigint, p_now timestamptz) returns int
language plpgsql as $$
begin
    perform from gendurable.instance i
    where i.id = p_id and i.claim_no = p_claim_no and i.status = 'executing' and gendurable._is_ahead(i.updated_at, p_now)
    for no key update skip locked;
    if found then
        perform gendurable._turn_rows_back(array[p_id], p_now);
        return 0;
    end if;
    return gendurable._take_back(p_id, p_claim_no, p_now);
end $$;

comment on function gendurable._reap_one(bigint, bigint, timestamptz) is
    'Takes one expired claim back if nothing that it needs is locked; 1 if it did.';

create or replace function gendurable._end_expired(p_limit int, p_until timestamptz, out count int, out more boolean)
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_look constant int := gendurable._most_looks();
    v_place jsonb := gendurable._recall_place('expired');
    v_behind boolean := v_place is not null;         -- rows before the place were not looked at in this call
    v_looked int := 0;
    v_keyed int := 0;
    v_found record;
    v_some record;
begin
    count := 0;
    while count < p_limit and v_looked < v_look and v_keyed < gendurable._most_keys() and clock_timestamp() < p_until loop
        select f.ids, f.looked, f.place into v_found
        from gendurable._find_expired(v_place, v_now, least(p_limit - count, 100)) f;
        v_place := v_found.place;
        v_looked := v_looked + v_found.looked;
        if v_found.ids <> '{}' then
            v_some := gendurable._end_over_isolated(v_found.ids);
            count := count + v_some.count;
            v_keyed := v_keyed + v_some.keyed;
        end if;
        exit when v_place is null and not v_behind;
        v_behind := v_behind and v_place is not null;
    end loop;
    more := v_place is not null and count > 0;
    perform gendurable._keep_place('expired', v_place);
end $$;

comment on function gendurable._end_expired(int, timestamptz) is
    'Ends up to p_limit instances past their deadline: how many, and whether there is more to do at once.';

create or replace function gendurable._find_expired(
    p_place jsonb, p_now timestamptz, p_limit int, out ids bigint[], out looked int, out place jsonb
)
language plpgsql as $$
declare
    v_after constant timestamptz := case
        when p_place is null then '-infinity'
        else timestamptz 'epoch' + (p_place ->> 0)::bigint * interval '1 microsecond'
    end;
    v_all bigint[];
    v_times timestamptz[];
begin
    select coalesce(array_agg(x.id order by x.expires_at, x.id), '{}'), array_agg(x.expires_at order by x.expires_at, x.id)
    into v_all, v_times
    from (
        select i.id, i.expires_at
        from gendurable.instance i
        where i.expires_at <= p_now and (i.expires_at, i.id) > (v_after, coalesce((p_place ->> 1)::bigint, 0))
        order by i.expires_at, i.id
        limit p_limit
    ) x;
    looked := cardinality(v_all);
    if looked = p_limit then
        place := jsonb_build_array(gendurable._epoch_us(v_times[looked]), v_all[looked]);
    end if;
    -- what somebody has locked is met again when the walk has come round
    ids := array(
        select i.id from gendurable.instance i where i.id = any(v_all) order by i.id for no key update skip locked);
end $$;

comment on function gendurable._find_expired(jsonb, timestamptz, int) is
    'Locks the next p_limit instances past their deadline, from a place on: the ids, how many were looked at, and the place behind
them, null at the end.';
