-- Steps in SQL: what gd_define_step promises. Whose function it is decides who may define it, and in whose place.
-- Next: 241_run.

create or replace function gd_define_step(
    p_fsm text, p_step text, p_handler regprocedure = null, p_options jsonb = '{}'
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
    v_options constant jsonb := case when jsonb_typeof(p_options) = 'object' then p_options else '{}' end;
    v_problem constant text := coalesce(
        gendurable._int_problem(v_options -> 'version', 'version', null),
        gendurable._flag_problem(v_options -> 'chain', 'chain'),
        gendurable._flag_problem(v_options -> 'alone', 'alone'),
        gendurable._text_problem(v_options -> 'queue', 'queue', false),
        gendurable._flag_problem(v_options -> 'ensure', 'ensure'));
    v_version constant int := case when v_problem is null then (v_options ->> 'version')::numeric::int end;
    v_handler record;
begin
    perform gendurable._need_no_run();
    perform gendurable._need_text(p_fsm, 'p_fsm');
    perform gendurable._need_text(p_step, 'p_step');
    perform gendurable._need_options(p_options, '{version,queue,chain,alone,ensure}');
    if v_problem is not null then
        perform gendurable._invalid(v_problem, left(v_options::text, 200),
            'Pass for example {"version": 2, "queue": "gpu", "chain": false, "alone": true}.');
    end if;
    v_handler := gendurable._read_handler(p_handler);
    -- one definition after the other: whose step it is decides what is written
    lock table gendurable.step in share row exclusive mode;
    if v_options -> 'ensure' = 'true' and exists (
        select from gendurable.step s
        where s.fsm = p_fsm and s.step = p_step and (s.version = v_version or s.version is null)
    ) then
        return;
    end if;
    perform gendurable._need_step_of_mine(p_fsm, p_step);
    insert into gendurable.step as s (fsm, step, version, handler, owner, queue, chain, alone)
    values (
        p_fsm, p_step, v_version, v_handler.name, v_handler.owner, v_options ->> 'queue',
        coalesce((v_options ->> 'chain')::boolean, true), coalesce((v_options ->> 'alone')::boolean, false))
    on conflict (fsm, step, version) do update
    set handler = excluded.handler, owner = excluded.owner, queue = excluded.queue, chain = excluded.chain,
        alone = excluded.alone;
    perform gendurable._move_bells(p_fsm);
    perform gendurable._note_by_hand('gd_define_step', null, jsonb_build_object(
        'fsm', p_fsm, 'step', p_step, 'handler', v_handler.name, 'options', p_options), 1);
end $$;

comment on function gd_define_step(text, text, regprocedure, jsonb) is
'Says which function runs a step of a machine. gd_run and gd_run_claims call it, and commit what it writes together with
what it returns. It has one argument of the type jsonb. One that returns jsonb gets what a claim shows of an instance, and
returns its outcome; one that returns setof jsonb gets an array of many, and returns an outcome for each, with its "id".

A null p_handler says that the step is in another language. A definition takes the place of the one before. Options:

  version: for this version of the machine alone; null: for all that have no definition of their own
  chain: whether it may follow another step, and another one may follow it, in the same run (default true): see gd_run
  alone: each instance in a transaction of its own (default false)
  queue: the step always runs there, whatever the queue of the instance; steps without one run in that. An instance is
    put there when it comes to the step, and back when it leaves it; a definition moves none that stands somewhere
  ensure: only where no definition counts for the step yet, for the version or for all; else nothing happens

The function must belong to the role of the session, or to one that it could become or has the rights of; so must those of
all definitions of the step that are there. Its name is stored: "create or replace" counts at once, and a function that was
dropped and made again by the same owner does, too. A handler runs with the rights of who runs it, and only if its owner
could become that role; others must be security definer. See gd_steps. Another definition in an open transaction is waited
for, and met with 55P03 after a second. Raises GD501; GD507: the step or the function is somebody else''s, or a step calls it.';

create or replace function gd_drop_step(p_fsm text, p_step text, p_version int = null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
    v_count int;
begin
    perform gendurable._need_no_run();
    perform gendurable._need_text(p_fsm, 'p_fsm');
    perform gendurable._need_text(p_step, 'p_step');
    lock table gendurable.step in share row exclusive mode;
    perform gendurable._need_step_of_mine(p_fsm, p_step);
    delete from gendurable.step s
    where s.fsm = p_fsm and s.step = p_step and s.version is not distinct from p_version;
    get diagnostics v_count = row_count;
    perform gendurable._move_bells(p_fsm);
    if v_count = 0 then
        return false;
    end if;
    perform gendurable._note_by_hand(
        'gd_drop_step', null, jsonb_build_object('fsm', p_fsm, 'step', p_step, 'version', p_version), 1);
    return true;
end $$;

comment on function gd_drop_step(text, text, int) is
'Removes a definition of gd_define_step: that for p_version, null: that for all versions. False: there is none. Instances
stay where they are until their next transition. As there, it must be the role''s own (GD507), and is met with 55P03. Raises
GD501; GD507 where a step calls it.';

create or replace function gendurable._read_handler(p_handler regprocedure, out name text, out owner text)
language plpgsql as $$
declare
    v_role constant oid := gendurable._acting_role();
    v_proc record;
begin
    if p_handler is null then
        owner := pg_get_userbyid(v_role);
        return;
    end if;
    select n.nspname, p.proname, p.proowner, p.prokind, p.prorettype, p.pronargs, p.proargtypes[0] as takes, p.provariadic
    into v_proc
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    where p.oid = p_handler;
    if v_proc.prokind is distinct from 'f' or v_proc.pronargs <> 1 or v_proc.takes <> 'jsonb'::regtype
        or v_proc.prorettype <> 'jsonb'::regtype or v_proc.provariadic <> 0
        or v_proc.nspname = 'gendurable' or v_proc.nspname ~ '^pg_'
    then
        perform gendurable._invalid('p_handler cannot be a handler', coalesce(p_handler::text, 'null'),
            'Pass a function that takes one jsonb and returns jsonb or setof jsonb, in a schema of yours.');
    end if;
    if not coalesce(gendurable._owns(v_role, v_proc.proowner), false) then
        perform gendurable._refuse_run('the function is somebody else''s', p_handler::text,
            'Its owner, or a member of it, defines the step.');
    end if;
    name := format('%I.%I', v_proc.nspname, v_proc.proname);
    owner := pg_get_userbyid(v_proc.proowner);
end $$;

comment on function gendurable._read_handler(regprocedure) is
    'The name of a function that is to run a step, and its owner; raises GD501, and GD507 where it is not the role''s own.';

create or replace function gendurable._need_step_of_mine(p_fsm text, p_step text) returns void
language plpgsql as $$
declare
    v_role constant oid := gendurable._acting_role();
    v_owner constant text := (
        -- of all versions: a definition for one of them takes the place of that for all
        select min(s.owner)
        from gendurable.step s
        left join pg_roles r on r.rolname = s.owner
        where s.fsm = p_fsm and s.step = p_step and not coalesce(
            -- of a role that is gone it is the owner of gendurable who decides
            gendurable._owns(v_role, coalesce(r.oid, (
                select n.nspowner from pg_namespace n where n.nspname = 'gendurable'))), false));
begin
    if v_owner is not null then
        perform gendurable._refuse_run('the step is somebody else''s',
            format('%s, %s: of %s', quote_literal(p_fsm), quote_literal(p_step), v_owner),
            'The owner of its function, or a member of that role, defines and drops it.');
    end if;
end $$;

comment on function gendurable._need_step_of_mine(text, text) is
    'Raises GD507 where a step is defined with the function of somebody whom the role is no member of.';
