-- Children as clients see them. They are put in by an outcome (136_apply), and counted out at their end (kernel/090_end).
-- Next: 160_limits.

create or replace function gd_childs(p_id bigint, p_after bigint = 0, p_limit int = 1000)
returns table (id bigint, fsm text, status text, state jsonb, result jsonb, last_error text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform gendurable._need_limit(p_limit);
    return query
        select i.id, i.fsm, i.status::text, i.state, i.result, i.last_error
        from gendurable.instance i
        where i.parent_id = p_id and i.id > coalesce(p_after, 0)
        order by i.id
        limit coalesce(p_limit, 1000);
end $$;

comment on function gd_childs(bigint, bigint, int) is
'The children of an instance by id, up to p_limit of those behind p_after: a page at a time, for parents with more
than a claim hands out. No rows: it has none. Raises GD501.';
