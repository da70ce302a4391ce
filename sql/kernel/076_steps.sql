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

create or replace function gendurable._find_handler(p_handler text) returns oid
language plpgsql stable as $$
begin
    return to_regprocedure(p_handler || '(pg_catalog.jsonb)');
end $$;

comment on function gendurable._find_handler(text) is 'The function of this name that takes a jsonb; null: there is none now.';

create or replace function gendurable._step_problem(p_handler text, p_owner text, p_role oid) returns text
language plpgsql stable as $$
declare
    v_oid constant oid := gendurable._find_handler(p_handler);
    v_session constant oid := (select r.oid from pg_roles r where r.rolname = session_user);
    v_proc record;
begin
    if p_handler is null then
        return 'it is in another language';
    end if;
    select p.pronamespace, p.prokind, p.prorettype, p.proowner, p.prosecdef into v_proc from pg_proc p where p.oid = v_oid;
    return case
        when v_proc.prokind is null then 'there is no such function'
        when v_proc.prokind <> 'f' or v_proc.prorettype <> 'jsonb'::regtype then 'the function does not return jsonb'
        when v_proc.proowner is distinct from (select r.oid from pg_roles r where r.rolname = p_owner)
            then 'the function has another owner than when it was defined'
        when not (
            has_schema_privilege(p_role, v_proc.pronamespace, 'usage') and has_function_privilege(p_role, v_oid, 'execute')
        ) then 'the role may not execute the function'
        when not v_proc.prosecdef and not (
            pg_has_role(v_proc.proowner, p_role, 'member') and pg_has_role(v_proc.proowner, v_session, 'member')
        ) then 'the owner of the function could not act as the role'
    end;
end $$;

comment on function gendurable._step_problem(text, text, oid) is
    'Why a role cannot run a handler in this session, or null. As the view gd_steps says it.';

create or replace function gendurable._find_step(
    p_fsm text, p_version int, p_step text, out handler text, out owner text, out chain boolean, out alone boolean
)
language plpgsql stable as $$
begin
    select s.handler, s.owner, s.chain, s.alone into handler, owner, chain, alone
    from gendurable.step s
    where s.fsm = p_fsm and s.step = p_step and (s.version = p_version or s.version is null)
    order by s.version nulls last
    limit 1;
end $$;

comment on function gendurable._find_step(text, int, text) is
    'How a step runs in SQL: the definition for its version, else the one for all; nulls where there is none.';

create or replace function gendurable._runnable_steps(p_kind text, p_role oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_object_agg(f.fsm, f.steps), '{}')
        from (
            select x.fsm, jsonb_object_agg(x.step, x.versions) as steps
            from (
                select s.fsm, s.step, jsonb_object_agg(coalesce(s.version::text, ''),
                    (gendurable._step_problem(s.handler, s.owner, p_role) is null) = (p_kind = 'sql')) as versions
                from gendurable.step s
                group by s.fsm, s.step
            ) x
            group by x.fsm
        ) f
    ) || jsonb_build_object('', p_kind <> 'sql');
end $$;

comment on function gendurable._runnable_steps(text, oid) is
    'Which rows a claim wants: "sql", those whose step the role can run here; "other", all others. {"": otherwise, machine: {step:
{version: wanted, "": in all other versions}}}';

create or replace function gendurable._is_wanted(p_steps jsonb, p_fsm text, p_version int, p_step text) returns boolean
language sql immutable parallel safe as $$
    select coalesce(p_steps #> array[p_fsm, p_step, p_version::text], p_steps #> array[p_fsm, p_step, ''], p_steps -> '') = 'true'
$$;

comment on function gendurable._is_wanted(jsonb, text, int, text) is 'Whether a claim with this choice of steps takes such a row.';
