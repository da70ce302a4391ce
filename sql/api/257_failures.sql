-- What fails: the latest failures, grouped by what they say.
-- Next: 258_why_words.

create or replace function gd_failures(
    p_fsm text = null, p_since timestamptz = null, p_look int = 10000, p_limit int = 100
) returns table (
    fsm text, step text, message text, count bigint, first_at timestamptz, last_at timestamptz, last_id bigint, exact boolean
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_since constant timestamptz := coalesce(p_since, '-infinity');
    v_look constant int := coalesce(p_look, 10000);
begin
    perform gendurable._need_limit(p_limit);
    perform gendurable._need_look(v_look, 'instances');
    return query
        with f as not materialized (
            (
                select i.id, i.fsm, i.step, i.status, i.last_error, i.failed_at
                from gendurable.instance i
                where p_fsm is not null and i.fsm = p_fsm and i.failed_at >= v_since
                order by i.failed_at desc, i.id desc
                limit v_look
            )
            union all
            (
                select i.id, i.fsm, i.step, i.status, i.last_error, i.failed_at
                from gendurable.instance i
                where p_fsm is null and i.failed_at >= v_since
                order by i.failed_at desc, i.id desc
                limit v_look
            )
        ), r as materialized (
            select o.fsm, o.step, o.status, case when o.status = 'failed' then gendurable._group_message(o.last_error) end
                collate "C" as message, count(*) as count, min(o.failed_at) as first_at, max(o.failed_at) as last_at,
                min(array[o.ord, o.id]) as last
            from (select x.*, row_number() over () as ord from f x) o
            group by 1, 2, 3, 4
        )

        select g.fsm, g.step, g.message, g.count, g.first_at, g.last_at, g.last[2], (select sum(x.count) from r x) < v_look
        from r g
        where g.status = 'failed'
        order by g.count desc, g.last_at desc, g.last
        limit coalesce(p_limit, 100);
end $$;

comment on function gd_failures(text, timestamptz, int, int) is
'What has failed, grouped by machine, step and message, the most frequent first: p_limit groups. p_fsm: of this machine
alone; p_since: what ended since then. It looks at the latest p_look instances that failed or were cancelled; exact is
false where there may be more. message is the first line of last_error, in which every word with a digit is "#", together
with what hangs on it by - or _, so that "order 17 of 1a2b-3c" and "order 4 of 9f0e-77" are one group; 200 characters of
that. Cancelled ones do not count. last_id is the latest of a group. Raises GD501.';

create or replace function gendurable._group_message(p_error text) returns text
language sql immutable parallel safe as $$
    -- cut behind that: numbers of several lengths must not make several ends of one message
    select left(regexp_replace(split_part(left(coalesce(p_error, ''), 400), E'\n', 1), '[A-Za-z]*[0-9][A-Za-z0-9_-]*', '#', 'g'), 200)
$$;

comment on function gendurable._group_message(text) is 'What an error says, without the ids and numbers in it.';
