-- Steps in SQL: which function runs the step of an instance, and whether a role may run it here. A handler runs with the rights
-- of who runs it, so a function of somebody who could not act as that role is not run: else its owner would get these rights.
-- Roles are passed as oids: a name has the collation "C", which would become that of all texts beside it.
-- Next: 080_transitions.

create or replace function gendurable._acting_role() returns oid
language plpgsql stable as $$
begin
    -- Whom a definer's function works for: current_user is its owner there.
    return (
        select r.oid
        from pg_roles r
        where r.rolname = coalesce(nullif(current_setting('role'), 'none'), session_user));
end $$;

comment on function gendurable._acting_role() is 'The role of the session: that of SET ROLE, else the one that logged in.';

create or replace function gendurable._login_role() returns oid
language plpgsql stable as $$
begin
    -- Behind SET SESSION AUTHORIZATION this is not session_user, and RESET leads back to it.
    return coalesce(
        (select a.usesysid from pg_stat_get_activity(pg_backend_pid()) a),
        (select r.oid from pg_roles r where r.rolname = session_user));
end $$;

comment on function gendurable._login_role() is 'The role that logged in, whatever the session has become since.';

create or replace function gendurable._could_act(p_who oid, p_as oid) returns boolean
language sql stable as $$
    -- Since version 16 a membership may be without SET ROLE: the grants of a role are then inherited, its attributes are not.
    select pg_has_role(p_who, p_as, case when current_setting('server_version_num')::int < 160000 then 'member' else 'set' end)
$$;

comment on function gendurable._could_act(oid, oid) is 'Whether a role could become another one, by SET ROLE.';

create or replace function gendurable._owns(p_who oid, p_owner oid) returns boolean
language sql stable as $$
    select gendurable._could_act(p_who, p_owner) or pg_has_role(p_who, p_owner, 'usage')
$$;

comment on function gendurable._owns(oid, oid) is
    'Whether a role may do what an owner may: it could become that one, or has its rights anyway.';

create or replace function gendurable._find_handler(p_handler text) returns oid
language plpgsql stable as $$
begin
    -- not to_regprocedure, which raises where the schema is closed to the owner of gendurable
    return (
        select p.oid
        from (select parse_ident(p_handler) as part) h
        join pg_namespace n on n.nspname = h.part[1]
        join pg_proc p on p.proname = h.part[2] and p.pronamespace = n.oid
        where p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype);
end $$;

comment on function gendurable._find_handler(text) is 'The function of this name that takes a jsonb; null: there is none now.';

create or replace function gendurable._step_problem(p_handler text, p_owner text, p_role oid, p_login oid = null) returns text
language plpgsql stable as $$
declare
    v_session oid;
    v_login oid;
    v_proc record;
begin
    if p_handler is null then
        return 'it is in another language';
    end if;
    -- as _find_handler finds it
    select p.oid, p.proname, p.pronamespace, p.prokind, p.prorettype, p.proowner, p.prosecdef into v_proc
    from (select parse_ident(p_handler) as part) h
    join pg_namespace n on n.nspname = h.part[1]
    join pg_proc p on p.proname = h.part[2] and p.pronamespace = n.oid
    where p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype;
    if v_proc.prosecdef is false then
        v_session := to_regrole(quote_ident(session_user));
        v_login := coalesce(p_login, gendurable._login_role());
    end if;
    return case
        when v_proc.oid is null then 'there is no such function'
        when v_proc.prokind <> 'f' or v_proc.prorettype <> 'jsonb'::regtype then 'the function does not return jsonb'
        when v_proc.proowner is distinct from to_regrole(quote_ident(p_owner))::oid
            then 'the function has another owner than when it was defined'
        when exists (
            -- the server would not choose between them
            select from pg_proc q
            where q.proname = v_proc.proname and q.pronamespace = v_proc.pronamespace and q.pronargs > 1
                and q.pronargs - q.pronargdefaults <= 1 and q.proargtypes[0] = 'jsonb'::regtype
        ) then 'another function of this name takes a jsonb, and defaults'
        when not (
            has_schema_privilege(p_role, v_proc.pronamespace, 'usage') and has_function_privilege(p_role, v_proc.oid, 'execute')
        ) then 'the role may not execute the function'
        when not v_proc.prosecdef and not (
            gendurable._could_act(v_proc.proowner, p_role) and gendurable._could_act(v_proc.proowner, v_session)
            and gendurable._could_act(v_proc.proowner, v_login)
        ) then 'the owner of the function could not act as the role'
    end;
end $$;

comment on function gendurable._step_problem(text, text, oid, oid) is
    'Why a role cannot run a handler in this session, or null. As the view gd_steps says it. p_login: as of _login_role, if that is
known.';

create or replace function gendurable._is_exposed(p_handler text, p_role oid, p_login oid) returns boolean
language plpgsql stable as $$
declare
    v_session constant oid := to_regrole(quote_ident(session_user));
begin
    return exists (
        select
        from (select parse_ident(p_handler) as part) h
        join pg_namespace n on n.nspname = h.part[1]
        cross join lateral (
            select p.proowner as who from pg_proc p
            where p.proname = h.part[2] and p.pronamespace = n.oid and p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype
            union all
            select case when n.nspowner <> 'pg_database_owner'::regrole then n.nspowner else (
                select d.datdba from pg_database d where d.datname = current_database()) end
            union all
            select a.grantee from aclexplode(n.nspacl) a where a.privilege_type = 'CREATE' and a.grantee <> n.nspowner
        ) x
        where not coalesce(
            gendurable._could_act(x.who, p_role) and gendurable._could_act(x.who, v_session)
            and gendurable._could_act(x.who, p_login), false));
end $$;

comment on function gendurable._is_exposed(text, oid, oid) is
    'Whether somebody who could not act as the role owns a handler, or could put another one in its place at any time.';

create or replace function gendurable._find_step(
    p_fsm text, p_version int, p_step text,
    out handler text, out owner text, out queue text, out chain boolean, out alone boolean
)
language plpgsql stable as $$
begin
    select s.handler, s.owner, s.queue, s.chain, s.alone into handler, owner, queue, chain, alone
    from gendurable.step s
    where s.fsm = p_fsm and s.step = p_step and (s.version = p_version or s.version is null)
    order by s.version nulls last
    limit 1;
end $$;

comment on function gendurable._find_step(text, int, text) is
    'How a step runs in SQL: the definition for its version, else the one for all; nulls where there is none.';

create or replace function gendurable._runnable_steps(p_kind text, p_role oid, p_login oid = null) returns jsonb
language plpgsql stable as $$
declare
    v_login constant oid := coalesce(p_login, gendurable._login_role());
begin
    return (
        select coalesce(jsonb_object_agg(f.fsm, f.steps), '{}')
        from (
            select x.fsm, jsonb_object_agg(x.step, x.versions) as steps
            from (
                select s.fsm, s.step, jsonb_object_agg(coalesce(s.version::text, ''),
                    (gendurable._step_problem(s.handler, s.owner, p_role, v_login) is null) = (p_kind = 'sql')) as versions
                from gendurable.step s
                group by s.fsm, s.step
            ) x
            group by x.fsm
        ) f
    ) || jsonb_build_object('', p_kind <> 'sql');
end $$;

comment on function gendurable._runnable_steps(text, oid, oid) is
    'Which rows a claim wants: "sql", those whose step the role can run here; "other", all others. {"": otherwise, machine: {step:
{version: wanted, "": in all other versions}}}';

create or replace function gendurable._is_wanted(p_steps jsonb, p_fsm text, p_version int, p_step text) returns boolean
language sql immutable parallel safe as $$
    select coalesce(p_steps #> array[p_fsm, p_step, p_version::text], p_steps #> array[p_fsm, p_step, ''], p_steps -> '') = 'true'
$$;

comment on function gendurable._is_wanted(jsonb, text, int, text) is 'Whether a claim with this choice of steps takes such a row.';

create or replace function gendurable._wanted_steps(p_options jsonb) returns jsonb
language plpgsql stable as $$
begin
    return case
        when p_options ->> 'steps' is not null
            then gendurable._runnable_steps(p_options ->> 'steps', gendurable._acting_role())
    end;
end $$;

comment on function gendurable._wanted_steps(jsonb) is 'Which steps a claim with these options takes; null: all.';
