-- Reading journals of flows (kernel/085_journal): for people, entry by entry; for workers, which take flows over, as they were
-- written, bounded in bytes.
-- Next: 200_schedule.

create or replace function gd_journal(p_id bigint, p_after int = 0, p_limit int = 1000, p_values boolean = true)
returns table (seq int, kind text, name text, n int, at timestamptz, value jsonb, error text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_values constant boolean := coalesce(p_values, true);
    v_after int := coalesce(p_after, 0);
    v_last int;
begin
    perform gendurable._need_limit(p_limit);
    if not exists (select from gendurable.instance i where i.id = p_id) then
        return;
    end if;
    if v_after < 0 then
        v_after := greatest(gendurable._count_entries(p_id) + v_after, 0);
    end if;
    v_last := gendurable._find_page_end(p_id, v_after, coalesce(p_limit, 1000), gendurable._most_bytes());
    return query
        select j.seq, j.entry ->> 'k', j.entry ->> 'name', gendurable._read_count(j.entry -> 'n'),
            gendurable._read_moment(j.entry -> 'at'),
            case when v_values then gendurable._read_value(j.entry ->> 'v') end,
            coalesce(j.entry -> 'e' ->> 'message', j.entry ->> 'error')
        from gendurable.journal j
        where j.instance_id = p_id and j.seq > v_after and j.seq <= v_last
        order by j.seq;
end $$;

comment on function gd_journal(bigint, int, int, boolean) is
'What a flow has come through, oldest first, from behind the entry p_after on; p_after -20: the last 20 entries. A page has
up to p_limit entries and ends behind 16 MB of them: go on behind the last one until no row comes. With p_values false
the values are left out. name and n: which checkpoint it is, and the how manieth of that name; at: by the clock of
the worker. kind is

  start: it has begun; what chance it has is drawn from here
  step: a step has ended, with its value, or with the error that the function has seen
  retry: a step has failed and is tried again
  sleep, timer: a time was slept
  signal: a signal was taken, with its payload as the value; without a value: its time was up
  childs: children have ended, with their results
  patch: which way the function goes at a change of its code
  retried: gd_retry has let it go on
  end: it has ended

Workers may write other kinds, which have what is there of these columns. A value that is no JSON that this database
can hold is null. No rows: there is no entry there, or no such instance (any more). Raises GD501.';

create or replace function gd_journal_page(p_id bigint, p_before int = null, p_limit int = 30, p_chars int = 1000)
returns table (seq int, kind text, name text, n int, at timestamptz, value text, size bigint, error text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_before constant int := coalesce(p_before, 2147483647);
    v_limit constant int := coalesce(p_limit, 30);
    v_chars constant int := coalesce(p_chars, 1000);
    v_most constant bigint := gendurable._most_bytes() / 2;
    v_large constant bigint := v_most / 8;
begin
    perform gendurable._need_limit(v_limit);
    if v_limit > 1000 or v_chars not between 0 and 1000000 then
        perform gendurable._invalid('p_limit or p_chars is out of range', format('got %s and %s', v_limit, v_chars),
            'Ask for up to 1,000 entries, and 0 to 1,000,000 characters of each.');
    end if;
    if not exists (select from gendurable.instance i where i.id = p_id) then
        return;
    end if;
    return query
        select s.seq, e.k, left(e.name, 1000), gendurable._read_count(e.n), gendurable._read_moment(e.at), left(e.v, v_chars),
            s.stored, left(coalesce(e.e ->> 'message', e.error), 4000)
        from (
            select c.seq, c.stored, c.ord, c.ord = 1 or c.weight <= v_large as fits,
                -- what is large in itself hides none of the small ones behind it
                sum(case when c.ord = 1 or c.weight <= v_large then c.weight else 0 end) over (order by c.ord) as sum
            from (
                select x.seq, x.stored, x.weight, row_number() over (order by x.seq desc) as ord
                from (
                    select j.seq, pg_column_size(j.entry)::bigint as stored,
                        -- as text it may be so much longer than it is stored
                        pg_column_size(j.entry) * case when pg_column_compression(j.entry) is null then 1 else 4 end::bigint
                            as weight
                    from gendurable.journal j
                    where j.instance_id = p_id and j.seq < v_before
                    order by j.seq desc
                    limit v_limit
                ) x
            ) c
        ) s
        left join lateral (
            select r.k, r.name, r.n, r.at, r.v, r.e, r.error
            from gendurable.journal j
            cross join lateral jsonb_to_record(j.entry) r (k text, name text, n jsonb, at jsonb, v text, e jsonb, error text)
            where j.instance_id = p_id and j.seq = s.seq and s.fits and (s.sum <= v_most or s.ord = 1)
            offset 0
        ) e on true
        order by s.seq desc;
end $$;

comment on function gd_journal_page(bigint, int, int, int) is
'The journal of a flow from its end, for pages that show it: up to p_limit entries before the entry p_before, the newest
first; null: the newest ones. kind, name, n, at and error are those of gd_journal.

  value: the first p_chars characters of its JSON
  size: the bytes of the entry as it is stored

Of all entries together it reads 8 MB, the newest first, what is compressed counted four times, and none of more than
1 MB; but the first one always. Of those that it has not read there is seq and size alone: ask for one alone by
p_before, seq + 1, and p_limit 1. p_limit is at most 1,000. No rows: there is no entry there, or no such instance (any
more). Raises GD501.';

create or replace function gd_journals(p_ids bigint[], p_bytes int = 1000000) returns table (id bigint, entries jsonb)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_bytes constant int := coalesce(p_bytes, 1000000);
begin
    perform gendurable._need_bytes(v_bytes);
    return query
        select f.id, case
            when f.bytes = 0 then '[]'
            when f.bytes <= v_bytes and f.sum <= gendurable._most_bytes() then (
                select coalesce(jsonb_agg(e.entry), '[]')
                from (select j.entry from gendurable.journal j where j.instance_id = f.id order by j.seq) e)
            end
        from (
            select m.ord, m.id, m.bytes,
                sum(case when m.bytes <= v_bytes then m.bytes else 0 end) over (order by m.ord) as sum
            from (
                select u.ord, u.id, case
                    when s.stored > v_bytes then s.stored
                    -- what it is as text is only looked at where its stored size says nothing of that
                    when s.packed then gendurable._measure_journal(u.id, v_bytes)
                    else s.stored end as bytes
                from unnest(p_ids) with ordinality u (id, ord)
                -- what is gone may have left a part of its journal
                join gendurable.instance i on i.id = any(array[u.id])
                cross join lateral (
                    select coalesce(sum(pg_column_size(j.entry)), 0) as stored,
                        bool_or(pg_column_compression(j.entry) is not null) as packed
                    from gendurable.journal j
                    where j.instance_id = u.id
                ) s
            ) m
        ) f
        order by f.ord;
end $$;

comment on function gd_journals(bigint[], int) is
'The journals of several flows, as their workers have written them: one row for each id, in the order given, entries a JSON
array, [] where there is none; no row where there is no such instance (any more). entries is null where the journal is longer than p_bytes, or the answer would have more than
16 MB with it: read it by gd_journal_entries. What is compressed is measured as text, all else as it is stored. For
workers, which call it once behind each claim. Raises GD501.';

create or replace function gd_journal_entries(p_id bigint, p_after int = 0, p_bytes int = 1000000)
returns table (entries jsonb, next int)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_after constant int := greatest(coalesce(p_after, 0), 0);
    v_bytes constant int := coalesce(p_bytes, 1000000);
    v_last int;
begin
    perform gendurable._need_bytes(v_bytes);
    if not exists (select from gendurable.instance i where i.id = p_id) then
        return;
    end if;
    v_last := gendurable._find_page_end(p_id, v_after, gendurable._most_entries(), v_bytes);
    return query
        select coalesce((
            select jsonb_agg(e.entry)
            from (
                select j.entry from gendurable.journal j
                where j.instance_id = p_id and j.seq > v_after and j.seq <= v_last
                order by j.seq
            ) e), '[]'),
        (select j.seq - 1 from gendurable.journal j where j.instance_id = p_id and j.seq > v_last order by j.seq limit 1);
end $$;

comment on function gd_journal_entries(bigint, int, int) is
'A page of the journal of one flow, as its workers have written it: the entries behind the first p_after ones that fit into
p_bytes, at least one, as a JSON array. next: pass it as p_after for the next page; null: that was all. No row: there is no such instance (any more). For workers,
where gd_journals has left a journal out. Raises GD501.';

create or replace function gendurable._need_bytes(p_bytes int) returns void
language plpgsql as $$
begin
    if p_bytes < 0 then
        perform gendurable._invalid('p_bytes must not be negative', 'got ' || p_bytes, 'Ask for 0 or more bytes.');
    end if;
end $$;

comment on function gendurable._need_bytes(int) is 'Raises GD501 for a negative number of bytes.';

create or replace function gendurable._measure_journal(p_id bigint, p_bytes bigint) returns bigint
language plpgsql stable as $$
declare
    v_sum bigint := 0;
    v_one record;
begin
    for v_one in
        select gendurable._text_bytes(j.entry) as bytes
        from gendurable.journal j
        where j.instance_id = p_id
        order by j.seq
    loop
        v_sum := v_sum + coalesce(v_one.bytes, p_bytes + 1);
        exit when v_sum > p_bytes;
    end loop;
    return v_sum;
end $$;

comment on function gendurable._measure_journal(bigint, bigint) is
    'The length of a journal as text; beyond p_bytes it is not looked at further.';

create or replace function gendurable._find_page_end(p_id bigint, p_after int, p_limit int, p_bytes bigint) returns int
language plpgsql stable as $$
declare
    v_last constant int := least(p_after::bigint + p_limit, gendurable._most_entries());
    v_sum bigint := 0;
    v_end int;
    v_one record;
begin
    if coalesce((
        select sum(pg_column_size(j.entry)) <= p_bytes and bool_and(pg_column_compression(j.entry) is null)
        from gendurable.journal j
        where j.instance_id = p_id and j.seq > p_after and j.seq <= v_last), true)
    then
        return v_last;
    end if;
    for v_one in
        select j.seq, pg_column_size(j.entry) as stored
        from gendurable.journal j
        where j.instance_id = p_id and j.seq > p_after and j.seq <= v_last
        order by j.seq
    loop
        -- what is stored in so many bytes is not even read
        v_sum := v_sum + case
            when v_end is not null and v_sum + v_one.stored > p_bytes then v_one.stored
            else coalesce((
                select gendurable._text_bytes(j.entry) from gendurable.journal j
                where j.instance_id = p_id and j.seq = v_one.seq), p_bytes + 1)
        end;
        exit when v_sum > p_bytes and v_end is not null;
        v_end := v_one.seq;
    end loop;
    return v_end;
end $$;

comment on function gendurable._find_page_end(bigint, int, int, bigint) is
    'The last entry of a page behind p_after: as many as fit into p_bytes, at least one, and p_limit at most.';

create or replace function gendurable._read_value(p_text text) returns jsonb
language plpgsql stable as $$
begin
    return p_text::jsonb;
exception when data_exception or program_limit_exceeded then
    return null;
end $$;

comment on function gendurable._read_value(text) is 'A value of a journal, which is JSON as text; null: it is none that jsonb can hold.';

create or replace function gendurable._read_count(p_value jsonb) returns int
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}'::text[])::numeric between 0 and 2147483647
            then (p_value #>> '{}'::text[])::numeric::int
    end
$$;

comment on function gendurable._read_count(jsonb) is 'A count in a journal; null: it is none.';

create or replace function gendurable._read_moment(p_value jsonb) returns timestamptz
language plpgsql stable as $$
begin
    if p_value is null then
        return null;
    end if;
    if jsonb_typeof(p_value) = 'number' then
        return to_timestamp((p_value #>> '{}'::text[])::numeric::double precision);
    end if;
    return (p_value #>> '{}'::text[])::timestamptz;
exception when data_exception then
    return null;
end $$;

comment on function gendurable._read_moment(jsonb) is
    'A time in a journal, seconds since 1970 or as ISO 8601; null: it is none.';
