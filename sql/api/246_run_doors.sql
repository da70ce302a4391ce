-- The doors through which what runs steps looks at claims: security definer, and open to workers, who are shown no more than a
-- claim of theirs would show them.
-- Next: 250_why.

create or replace function gendurable._open_run(
    p_worker text, p_claims jsonb, p_options jsonb, out ids bigint[], out claim_nos bigint[], out login oid
)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    perform gendurable._need_run_options(p_options, '{budget_ms,lock_ms,chain}');
    perform gendurable._need_no_run();
    login := gendurable._login_role();
    select coalesce(array_agg(c.id), '{}'), coalesce(array_agg(c.claim_no), '{}') into ids, claim_nos
    from gendurable._parse_claims(p_claims) c;
end $$;

comment on function gendurable._open_run(text, jsonb, jsonb) is 'Raises GD501, GD504 or GD507 unless these claims can be run here.';

create or replace function gendurable._need_no_run() returns void
language plpgsql as $$
declare
    v_stack text;
begin
    -- the setting is any handler's to change, what has called this is not
    get diagnostics v_stack = pg_context;
    if current_setting('gendurable.running', true) = 'on' or v_stack ~ '[ .]_run_group[(]' then
        perform gendurable._refuse_run('a step can neither run steps nor define them', null,
            'Insert instances, or send signals: they are run when this transaction is committed.');
    end if;
end $$;

comment on function gendurable._need_no_run() is 'Raises GD507 inside of a handler.';

create or replace function gendurable._refuse_run(p_message text, p_detail text, p_hint text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'GD507', message = p_message, detail = coalesce(p_detail, ''), hint = p_hint;
end $$;

comment on function gendurable._refuse_run(text, text, text) is 'Raises GD507: a step in SQL breaks a rule, or would.';

create or replace function gendurable._need_run_options(p_options jsonb, p_known text[]) returns void
language plpgsql as $$
declare
    v_wrong text;
begin
    perform gendurable._need_options(p_options, p_known);
    if jsonb_typeof(p_options) = 'object' then
        v_wrong := (
            select min(gendurable._int_problem(o.value, o.key, (o.key = any('{batch,lease_ms}'))::int))
            from jsonb_each(p_options) o);
    end if;
    if v_wrong is not null then
        perform gendurable._invalid(v_wrong, left(p_options::text, 200), 'Pass whole numbers, or null for the default.');
    end if;
end $$;

comment on function gendurable._need_run_options(jsonb, text[]) is 'Raises GD501 unless all options are known, and counts.';

create or replace function gendurable._plan_run(
    p_role oid, p_ids bigint[], p_nos bigint[], p_login oid,
    out results text[], out details jsonb[], out handlers text[], out set_based boolean[], out alone boolean[],
    out crashed boolean[], out chains boolean[], out exposed boolean[]
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '10ms' as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_keyed boolean;
begin
    if not gendurable._can_write() then
        results := array_fill('busy'::text, array[cardinality(p_ids)]);
        details := array_fill(null::jsonb, array[cardinality(p_ids)]);
        return;
    end if;
    with held as materialized (
        select u.ord, i.fsm, i.fsm_version, i.step, i.crashed, i.timed, i.keyed,
            case
                when i.fsm is null or row_number() over (partition by u.id, u.claim_no order by u.ord) > 1 then null
                else dense_rank() over (order by i.fsm, i.fsm_version, i.step)
            end as kind
        from unnest(p_ids, p_nos) with ordinality u (id, claim_no, ord)
        left join lateral (
            select x.fsm, x.fsm_version, x.step, x.crashes > 0 as crashed, x.timeout_at is not null as timed,
                x.partition_key is not null as keyed
            from gendurable.instance x
            where x.id = any(array[u.id]) and x.claim_no = u.claim_no and x.status = 'executing'
                and not gendurable._is_over(x.expires_at, x.timeout_at, v_now)
        ) i on true
    ), kind as materialized (
        select k.kind, s.handler, s.alone, s.chain,
            gendurable._step_problem(s.handler, s.owner, p_role, p_login) as problem,
            coalesce((select p.proretset from pg_proc p where p.oid = gendurable._find_handler(s.handler)), false) as set_based,
            gendurable._is_exposed(s.handler, p_role, p_login) as exposed
        from (select distinct h.kind, h.fsm, h.fsm_version, h.step from held h where h.kind is not null) k
        cross join lateral gendurable._find_step(k.fsm, k.fsm_version, k.step) s
    )
    select
        coalesce(array_agg(case
            when h.kind is null then 'stale' when k.problem is not null then 'no_handler'
        end order by h.ord), '{}'),
        coalesce(array_agg(case
            when k.problem is not null then jsonb_build_object('problem', k.problem)
        end order by h.ord), '{}'),
        array_agg(k.handler order by h.ord), array_agg(k.set_based order by h.ord), array_agg(k.alone order by h.ord),
        array_agg(h.crashed order by h.ord),
        -- what was lost, or did not come to an end, is run step by step: then it is known which one it is
        array_agg(k.chain and not h.crashed and not h.timed order by h.ord), bool_or(h.keyed), array_agg(k.exposed order by h.ord)
    into results, details, handlers, set_based, alone, crashed, chains, v_keyed, exposed
    from held h
    -- by number: texts would be compared for each row and kind
    left join kind k on h.kind = k.kind;
    if v_keyed or exists (select from gendurable.special) then
        chains := gendurable._may_chain(p_ids, chains, v_now);
    end if;
end $$;

comment on function gendurable._plan_run(oid, bigint[], bigint[], oid) is
    'What is to be run: the handler of each claim, and how, and whether others may follow it; the results of those that cannot be run.';

create or replace function gendurable._may_chain(p_ids bigint[], p_chains boolean[], p_now timestamptz) returns boolean[]
language plpgsql as $$
declare
    v_crowded constant text[] := gendurable._find_crowded(array(
        select distinct i.partition_key
        from unnest(p_ids) u (id)
        join gendurable.instance i on i.id = any(array[u.id])
        where i.partition_key is not null), p_now);
begin
    if exists (select from gendurable.hold) then
        return array_fill(false, array[cardinality(p_ids)]);
    end if;
    -- as for a claim that is kept: see _choose_kept
    return array(
        select u.chains and coalesce(i.partition_key <> all(v_crowded), true)
            and not exists (select from gendurable._halts(i.queue, i.queue_slot, i.paused_at, i.fsm, i.fsm_version, ''))
        from unnest(p_ids, p_chains) with ordinality u (id, chains, o)
        left join gendurable.instance i on i.id = any(array[u.id])
        order by u.o);
end $$;

comment on function gendurable._may_chain(bigint[], boolean[], timestamptz) is
    'Of claims that would chain, those that may: nobody waits in their key, neither they nor their queue or machine are paused, nothing is
held. Steps are asked for one by one (_find_link).';

create or replace function gendurable._read_run(p_ids bigint[], p_nos bigint[]) returns jsonb[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    return array(
        select (
            select jsonb_build_object(
                'id', i.id, 'claim_no', i.claim_no, 'fsm', i.fsm, 'version', i.fsm_version, 'step', i.step, 'state', i.state,
                'attempt', i.attempt, 'queue', i.queue, 'partition_key', i.partition_key, 'unique_key', i.unique_key,
                'parent_id', i.parent_id, 'awaits', i.awaits,
                'timed_out', i.deadline_at is not null and i.deadline_at <= v_now,
                'signals', case
                    when (select true from gendurable.signal s where s.instance_id = i.id limit 1)
                        then gendurable._present_inbox(i.id, i.awaits)
                    else '[]'
                end,
                'childs', case when i.children_pending is null then '[]' else gendurable._present_children(i.id) end,
                'meta', i.meta)
            from gendurable.instance i
            where i.id = u.id and i.claim_no = u.claim_no and i.status = 'executing'
                and not gendurable._is_over(i.expires_at, i.timeout_at, v_now))
        from unnest(p_ids, p_nos) with ordinality u (id, claim_no, ord)
        order by u.ord);
end $$;

comment on function gendurable._read_run(bigint[], bigint[]) is
    'What the handlers of claims get, as a claim shows it; null for a claim that is lost.';

create or replace function gendurable._holds_run(p_id bigint, p_no bigint) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select from gendurable.instance i
        where i.id = p_id and i.claim_no = p_no and i.status = 'executing'
            and not gendurable._is_over(i.expires_at, i.timeout_at, clock_timestamp()));
end $$;

comment on function gendurable._holds_run(bigint, bigint) is 'Whether a claim stands.';

create or replace function gendurable._resolves_run(p_handler text, p_role oid, p_login oid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select from gendurable.step s
        where s.handler = p_handler and gendurable._step_problem(s.handler, s.owner, p_role, p_login) is null);
end $$;

comment on function gendurable._resolves_run(text, oid, oid) is 'Whether there is such a function now that the role may run.';

create or replace function gendurable._pin_handler(p_handler text, p_set_based boolean, p_role oid, p_login oid) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_oid constant oid := gendurable._find_handler(p_handler);
    v_pin text;
    v_definer boolean;
begin
    if gendurable._resolves_run(p_handler, p_role, p_login) then
        select p.oid || ':' || p.xmin || ':' || p.ctid, p.prosecdef into v_pin, v_definer
        from pg_proc p where p.oid = v_oid and p.proretset = p_set_based;
    end if;
    if v_pin is null or (v_definer and not gendurable._is_known_definer(v_oid, p_handler)) then
        perform gendurable._refuse_replaced(p_handler);
    end if;
    return v_pin;
end $$;

comment on function gendurable._pin_handler(text, boolean, oid, oid) is
    'Which version of a handler the role may run now, for _is_pinned; raises 42883 where there is none.';

create or replace function gendurable._is_known_definer(p_oid oid, p_handler text) returns boolean
language plpgsql stable as $$
declare
    -- Out of the caches of this session, which may be older than what a query sees: what is called is the one or the other.
    v_text constant text := pg_get_functiondef(p_oid);
    v_head constant text := format(E'CREATE OR REPLACE FUNCTION %s(%s)\n RETURNS %s\n',
        p_handler, pg_get_function_arguments(p_oid), pg_get_function_result(p_oid));
begin
    return starts_with(v_text, v_head) and substr(v_text, length(v_head) + 1) ~ E'^ LANGUAGE [a-z_0-9]+\n[^\n]* SECURITY DEFINER';
end $$;

comment on function gendurable._is_known_definer(oid, text) is
    'Whether this session would call a function with the rights of its owner.';

create or replace function gendurable._is_pinned(p_handler text, p_pin text, p_called oid) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_oid constant oid := gendurable._find_handler(p_handler);
begin
    if p_called is distinct from v_oid
        or p_pin is distinct from (select p.oid || ':' || p.xmin || ':' || p.ctid from pg_proc p where p.oid = v_oid)
    then
        perform gendurable._refuse_replaced(p_handler);
    end if;
    return true;
end $$;

comment on function gendurable._is_pinned(text, text, oid) is
    'True where a handler is the version that was pinned, and what a statement calls; else it raises 42883.';

create or replace function gendurable._refuse_replaced(p_handler text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'undefined_function', message = 'the function was replaced, and may not be run any more',
        detail = p_handler, hint = 'See gd_steps.';
end $$;

comment on function gendurable._refuse_replaced(text) is 'Raises 42883, as a function does that is gone.';

create or replace function gendurable._suspect_run(p_ids bigint[], p_nos bigint[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update gendurable.instance i
    set crashes = 1
    where i.crashes = 0 and i.id = any(array(
        select x.id
        from unnest(p_ids, p_nos) u (id, claim_no)
        join gendurable.instance x on x.id = any(array[u.id])
        where x.claim_no = u.claim_no and x.status = 'executing'
        for no key update of x skip locked));
end $$;

comment on function gendurable._suspect_run(bigint[], bigint[]) is
    'Notes that one of these handlers did not come to an end, so that each is run by itself the next time.';

create or replace function gendurable._refused_steps(p_role oid, p_login oid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return (
        select coalesce(jsonb_agg(distinct jsonb_build_object('fsm', r.fsm, 'step', r.step, 'problem', r.problem)), '[]')
        from (
            select s.fsm, s.step, gendurable._step_problem(s.handler, s.owner, p_role, p_login) as problem
            from gendurable.step s
            where s.handler is not null
        ) r
        where r.problem is not null);
end $$;

comment on function gendurable._refused_steps(oid, oid) is 'The steps that have handlers which a role cannot run: [{fsm, step, problem}].';
