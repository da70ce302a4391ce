-- A group of claims: their handlers and the commit of what these return, in one sub-transaction, so that each instance has both
-- or neither. Invoker code, as what calls it. This is the only place where "when others" is right without asking whose fault it
-- is: whatever a handler raises is the handler's. What the commit raises goes up.
-- Next: 246_run_doors.

create or replace function gendurable._run_group(
    p_path text, p_worker text, p_ids bigint[], p_nos bigint[], p_handlers text[], p_set_based boolean, p_singly boolean,
    p_deferred text[], p_catch boolean, p_exposed boolean[], p_role oid, p_login oid,
    out kinds text[], out answers jsonb, out failed int, out state text, out message text, out took double precision
)
language plpgsql as $$
declare
    v_user constant text := current_user;
    v_session constant text := session_user;
    v_started constant timestamptz := clock_timestamp();
    v_ctxs jsonb[];
    v_outcomes jsonb[];
    v_some jsonb[];
    v_parts jsonb;
    v_at int[];
    v_pin text;
    v_sql text;
    v_after text;
    v_commits boolean := false;
begin
    v_ctxs := gendurable._read_run(p_ids, p_nos);
    if array_position(v_ctxs, null) is not null then
        state := 'answers';
        answers := (
            select jsonb_object_agg(c.o - 1, jsonb '{"result": "stale"}')
            from unnest(v_ctxs) with ordinality c (ctx, o) where c.ctx is null);
        took := 0;
        return;
    end if;
    v_outcomes := array_fill(null::jsonb, array[cardinality(p_ids)]);
    begin
        -- a statement for all that have the same handler: execute parses it each time
        v_parts := (
            select jsonb_agg(h.at order by h.at -> 0)
            from (
                select jsonb_agg(u.o order by u.o) as at
                from unnest(p_handlers) with ordinality u (handler, o)
                group by u.handler, case when p_singly then u.o end
            ) h);
        for v_part in 0 .. jsonb_array_length(v_parts) - 1 loop
            v_at := array(select a.at::int from jsonb_array_elements_text(v_parts -> v_part) a (at));
            failed := case when cardinality(v_at) = 1 then v_at[1] end;
            v_some := array(select v_ctxs[a.at] from unnest(v_at) with ordinality a (at, o) order by a.o);
            v_pin := case
                when p_exposed[v_at[1]] then gendurable._pin_handler(p_handlers[v_at[1]], p_set_based, p_role, p_login)
            end;
            v_sql := gendurable._call_text(p_handlers[v_at[1]], p_set_based, v_pin is not null);
            -- from here on names mean what they mean to the caller, until what is behind the execute
            perform set_config('search_path', p_path, true);
            execute v_sql into v_some using v_some, p_handlers[v_at[1]], v_pin;
            v_after := pg_catalog.current_setting('search_path');
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            if v_after <> p_path or current_user <> v_user or session_user <> v_session
                or current_setting('transaction_read_only') <> 'off'
            then
                raise exception using errcode = 'GD507',
                    message = 'the handler changed the role, the search_path or READ ONLY', detail = p_handlers[v_at[1]],
                    hint = 'Let the function set them for itself: create function ... set search_path = ...';
            end if;
            v_some := gendurable._match_outcomes(
                array(select p_ids[a.at] from unnest(v_at) with ordinality a (at, o) order by a.o),
                array(select p_nos[a.at] from unnest(v_at) with ordinality a (at, o) order by a.o), v_some, p_set_based);
            for v_each in 1 .. cardinality(v_at) loop
                v_outcomes[v_at[v_each]] := v_some[v_each];
            end loop;
            if p_deferred is not null then
                -- else the commit of the transaction would fail, each time
                execute 'set constraints ' || p_deferred[1] || ' immediate';
                if p_deferred[2] <> '' then
                    execute 'set constraints ' || p_deferred[2] || ' deferred';
                end if;
            end if;
        end loop;
        failed := null;
        v_commits := true;
        answers := gendurable._commit_run(p_worker, to_jsonb(v_outcomes));
        if answers <> '{}' then
            state := 'answers';
            raise exception using errcode = 'GD507', message = 'not all could be committed', hint = 'This is not seen.';
        end if;
        kinds := array(select o.one ->> 'kind' from unnest(v_outcomes) with ordinality o (one, ord) order by o.ord);
    exception
        when query_canceled then
            if not p_catch then
                raise;
            end if;
            state := sqlstate;
            message := sqlerrm;
        when others or assert_failure then
            if v_commits and state is null then
                raise;
            end if;
            state := coalesce(state, sqlstate);
            message := sqlerrm;
    end;
    took := extract(epoch from clock_timestamp() - v_started)::double precision * 1000;
    failed := case when cardinality(p_ids) = 1 then 1 else failed end;
end $$;

comment on function gendurable._run_group(
    text, text, bigint[], bigint[], text[], boolean, boolean, text[], boolean, boolean[], oid, oid
) is
    'Runs the handlers of claims and commits what they return, or nothing of it. kinds: of the outcomes. state: why nothing was
committed: the SQLSTATE that a handler raised (failed: which one, if that is known), or "answers": those of the commit. p_singly: each handler
by itself, so that a failure is known. p_exposed: somebody could replace the handler meanwhile by one that may not be run. took: ms.';

create or replace function gendurable._call_text(p_handler text, p_set_based boolean, p_pinned boolean) returns text
language plpgsql immutable as $$
declare
    -- Read before the call, as the same name; looked at when the call is prepared and before it is made. With an ordinality, and
    -- in a place of its own, what is called is called and not put in as text.
    v_called constant text := format('(select %L::pg_catalog.regprocedure::pg_catalog.oid as f) k, ', p_handler || '(pg_catalog.jsonb)');
    v_where constant text := ' where (select gendurable._is_pinned($2, $3, k.f))';
begin
    return case
        when p_set_based then format(
            'select pg_catalog.array_agg(r.one) from %s%s(pg_catalog.to_jsonb($1)) with ordinality r (one, o)%s',
            case when p_pinned then v_called end, p_handler, case when p_pinned then v_where end)
        else format(
            'select pg_catalog.array_agg(%s(u.c) order by u.o) from %spg_catalog.unnest($1) with ordinality u (c, o)%s',
            p_handler, case when p_pinned then v_called end, case when p_pinned then v_where end)
    end;
end $$;

comment on function gendurable._call_text(text, boolean, boolean) is
    'The statement that calls a handler for the contexts $1. p_pinned: only if it is the function $2 in the version $3.';

create or replace function gendurable._match_outcomes(
    p_ids bigint[], p_nos bigint[], p_outcomes jsonb[], p_set_based boolean
) returns jsonb[]
language plpgsql as $$
declare
    v_outcomes jsonb[] := p_outcomes;
begin
    if p_set_based then
        v_outcomes := array(
            select (
                select case when count(*) = 1 then (array_agg(o.one))[1] end
                from unnest(p_outcomes) o (one)
                where o.one -> 'id' = to_jsonb(i.id))
            from unnest(p_ids) with ordinality i (id, ord)
            order by i.ord);
        if coalesce(cardinality(p_outcomes), 0) <> cardinality(p_ids) then
            v_outcomes := null;
        end if;
    end if;
    if v_outcomes is null or exists (select from unnest(v_outcomes) o (one) where jsonb_typeof(o.one) is distinct from 'object') then
        raise exception using errcode = 'GD507', message = 'the handler returned no outcome',
            hint = 'A handler returns an object with a "kind"; one for many returns such an object for each "id".';
    end if;
    return array(
        select o.one - 'keep' || jsonb_build_object('id', p_ids[o.ord], 'claim_no', p_nos[o.ord])
        from unnest(v_outcomes) with ordinality o (one, ord)
        order by o.ord);
end $$;

comment on function gendurable._match_outcomes(bigint[], bigint[], jsonb[], boolean) is
    'The outcomes of handlers, one for each claim, as they are committed; raises GD507 where one is missing.';

create or replace function gendurable._deferred_constraints(p_all boolean) returns text[]
language plpgsql stable as $$
begin
    return (
        select array[
            string_agg(x.name, ', '), coalesce(string_agg(x.name, ', ') filter (where x.condeferred), '')]
        from (
            select distinct format('%I.%I', n.nspname, c.conname) as name, c.condeferred
            from pg_constraint c
            join pg_namespace n on n.oid = c.connamespace
            where (c.condeferred or (p_all and c.condeferrable)) and n.nspname <> 'gendurable' and n.nspname !~ '^pg_'
                and has_schema_privilege(n.oid, 'usage')
        ) x
        having count(*) > 0);
end $$;

comment on function gendurable._deferred_constraints(boolean) is
    'The constraints that are checked at the end of a transaction, p_all: or may be, as a list; and of these the ones that are so from its
beginning. Null: there are none.';

create or replace function gendurable._end_badly(
    p_worker text, p_id bigint, p_no bigint, p_state text, p_message text, out result text, out detail jsonb
)
language plpgsql as $$
declare
    v_answers constant jsonb := gendurable._commit_run(p_worker, jsonb_build_array(jsonb_build_object(
        'id', p_id, 'claim_no', p_no, 'kind', 'error', 'error', left(p_message, 10000) || ' (' || p_state || ')')));
begin
    result := coalesce(v_answers -> '0' ->> 'result', 'error');
    detail := jsonb_build_object('sqlstate', p_state, 'message', left(p_message, 10000));
end $$;

comment on function gendurable._end_badly(text, bigint, bigint, text, text) is
    'Commits an outcome "error" for a step that has raised: how its claim is answered.';
