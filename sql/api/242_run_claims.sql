-- Running steps that are functions of this database: what gd_run_claims promises, the doors through which it reads, and the order
-- in which the claims of one transaction are run. A handler runs with the rights and the settings of who calls, so what runs it
-- is no definer's code: it calls what it needs of gendurable by full names, through functions that the profile "worker" may call.
-- Next: 244_group, handlers and their commit in one sub-transaction.

create or replace function gd_run_claims(p_worker text, p_claims jsonb, p_options jsonb = '{}')
returns table (ord int, id bigint, claim_no bigint, result text, detail jsonb)
language plpgsql as $$
begin
    -- nothing here is looked up in the caller's search_path but handlers
    return query
        select r.ord, r.id, r.claim_no, r.result, r.detail
        from gendurable._answer_claims(pg_catalog.current_setting('search_path'), p_worker, p_claims, p_options) r;
end $$;

comment on function gd_run_claims(text, jsonb, jsonb) is
'Runs the steps of claims [[id, claim_no], ...] by their functions (gd_define_step) in the caller''s transaction, and
commits what they return in the same one. Each claim is answered by its place ord, with a result:

  ok: what the function wrote and the transition are committed together
  error: it raised, or returned no outcome, or one of kind "error": what it wrote is undone if it raised, and an outcome
    "error" is committed. detail: message, sqlstate
  stale: the claim is not this one any more; nothing was written
  busy: another transaction holds what is needed; nothing was written, call again
  left: not reached: call again. detail "again": "first" or "last" says that its turn is before or behind all others,
    in a transaction of its own
  no_handler: no function runs this step, or the role may not run it (detail: problem); give it back

Options: budget_ms, after so long of running no other step is begun (default 100); lock_ms, how long the first one waits
for locks where lock_timeout is 0 (default 500), all others wait for 20 ms; chain, how many steps of an instance follow
each other at once (default 10, 1: each is claimed). A step follows if the outcome before it is a "next" without delay,
queue, priority, key and rate limit; it has a function for single instances, no other queue and no timeout; neither
of the two says "chain": false; its queue is not paused and nobody waits in its key. Only the outcome of the last one is
written; where one fails, it is claimed by itself, and those before it are committed.

An error counts only where nothing ran before it in the transaction. What a function raises as a lock would (55P03,
class 40) without having waited for one is an error when it was tried five times. Other settings that a function changes stay changed. Needs READ COMMITTED (GD504); raises
GD501; GD507 where a step calls it.';

create or replace function gendurable._answer_claims(p_path text, p_worker text, p_claims jsonb, p_options jsonb)
returns table (ord int, id bigint, claim_no bigint, result text, detail jsonb)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    v_claims record;
    v_got record;
begin
    v_claims := gendurable._open_run(p_worker, p_claims, p_options);
    v_got := gendurable._run_claims(
        p_path, p_worker, v_claims.ids, v_claims.claim_nos, coalesce(nullif(p_options, 'null'), '{}'), false,
        v_claims.login, null);
    return query
        select u.o::int - 1, u.id, u.claim_no, u.result, u.detail
        from unnest(v_claims.ids, v_claims.claim_nos, v_got.results, v_got.details)
            with ordinality u (id, claim_no, result, detail, o)
        order by u.o;
end $$;

comment on function gendurable._answer_claims(text, text, jsonb, jsonb) is
    'gd_run_claims. p_path: the search_path of the caller, which is that of the handlers.';

create or replace function gendurable._run_claims(
    p_path text, p_worker text, p_ids bigint[], p_nos bigint[], p_options jsonb, p_catch boolean, p_login oid,
    p_pace double precision,
    out results text[], out details jsonb[], out cancelled text, out pace double precision
)
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
    v_timeout constant text := current_setting('lock_timeout');
    v_wait constant text := case when v_timeout = '0' then coalesce(p_options ->> 'lock_ms', '500') || 'ms' else v_timeout end;
    v_budget constant double precision := coalesce(p_options ->> 'budget_ms', '100')::double precision;
    -- in a transaction of its own also those that a handler has set to deferred
    v_deferred constant text[] := gendurable._deferred_constraints(p_catch);
    v_role constant oid := (select r.oid from pg_roles r where r.rolname = current_user);
    v_wait_ms constant double precision := gendurable._setting_ms(v_wait);
    v_statement_timeout constant double precision := gendurable._setting_ms(current_setting('statement_timeout'));
    v_links constant int := coalesce((p_options ->> 'chain')::numeric::int, 10);
    v_plan record;
    v_todo int[];
    v_first int;
    v_group int[];
    v_singly boolean;
    v_most int;                                    -- of a set-based handler: fewer after a failure
    v_size int := case when p_pace is null then 32 else 200 end;
    v_cap int;                                     -- how many links this group may run
    v_rounds int;
    v_tries int;                                  -- of a handler that raises what a lock would
    v_got record;
    v_one record;
    v_spent double precision := 0;
    v_ran int := 0;                                -- handlers whose effects are in the transaction
    v_put_off int := 0;
    v_again int := 0;                              -- of which row the handler was called once more
    v_ends boolean := false;
    v_calm boolean := true;
begin
    pace := coalesce(p_pace, 0);
    -- handlers have it: none of them runs steps
    perform set_config('gendurable.running', 'on', true);
    v_plan := gendurable._plan_run(v_role, p_ids, p_nos, p_login);
    results := v_plan.results;
    details := v_plan.details;
    v_todo := array(select u.o from unnest(results) with ordinality u (result, o) where u.result is null order by u.o);
    while v_todo <> '{}' and not v_ends and cancelled is null and (v_spent < v_budget or v_group is null) loop
        -- 1. Which run together: equal set-based ones, or the next row-wise ones, as many as are known to be quick
        v_first := v_todo[1];
        if v_plan.alone[v_first] and v_ran > 0 then
            exit;
        elsif v_plan.alone[v_first] or v_plan.crashed[v_first] or (
            p_pace is null and v_ran < 4 and not v_plan.set_based[v_first])
        then
            v_group := array[v_first];
        elsif v_plan.set_based[v_first] then
            v_group := array(
                select u.at
                from unnest(v_todo) with ordinality u (at, o)
                where v_plan.handlers[u.at] = v_plan.handlers[v_first] and not v_plan.alone[u.at] and not v_plan.crashed[u.at]
                order by u.o
                limit v_most);
        else
            v_group := array(
                select u.at
                from unnest(v_todo[:v_size]) with ordinality u (at, o)
                where not v_plan.set_based[u.at] and not v_plan.alone[u.at] and not v_plan.crashed[u.at]
                order by u.o
                limit least(greatest(v_budget / 4 / greatest(pace, 0.001), 1), v_size)::int);
        end if;
        v_ends := v_plan.alone[v_first];
        v_singly := cardinality(v_group) = 1;
        v_rounds := 0;
        v_cap := v_links;
        v_tries := 0;

        -- 2. Rounds: what fails is left out, and the others run again
        while v_group <> '{}' loop
            v_rounds := v_rounds + 1;
            if v_rounds > 5 then
                v_ends := true;
                exit;
            end if;
            -- one alone has nobody behind it who would wait, too
            perform set_config('lock_timeout', case
                when v_ran = 0 and (v_singly or v_plan.set_based[v_first]) then v_wait else '20ms' end, true);
            v_got := gendurable._run_group(
                p_path, p_worker,
                array(select p_ids[g.at] from unnest(v_group) with ordinality g (at, o) order by g.o),
                array(select p_nos[g.at] from unnest(v_group) with ordinality g (at, o) order by g.o),
                array(select v_plan.handlers[g.at] from unnest(v_group) with ordinality g (at, o) order by g.o),
                array(select v_plan.exposed[g.at] from unnest(v_group) with ordinality g (at, o) order by g.o),
                array(select v_plan.chains[g.at] from unnest(v_group) with ordinality g (at, o) order by g.o),
                v_cap, v_budget - v_spent, v_plan.set_based[v_group[1]], v_singly, v_deferred, p_catch, v_role, p_login);
            v_spent := v_spent + v_got.took;
            if v_got.state is null then
                for v_at in 1 .. cardinality(v_group) loop
                    results[v_group[v_at]] := case when v_got.kinds[v_at] = 'error' then 'error' else 'ok' end;
                end loop;
                v_ran := v_ran + cardinality(v_group);
                pace := v_spent / v_ran;
                exit;
            end if;
            v_calm := false;
            v_first := v_group[v_got.failed];      -- null: it is not known which
            if v_got.state = '57014' then
                cancelled := v_got.message;
                if v_singly and v_got.links = 1 and v_statement_timeout > 0 and v_got.took > 0.4 * v_statement_timeout then
                    -- the same each time: it would starve its queue
                    v_one := gendurable._end_badly(p_worker, p_ids[v_first], p_nos[v_first], v_got.state, v_got.message);
                    results[v_first] := v_one.result;
                    details[v_first] := v_one.detail;
                elsif not v_singly or v_got.links > 1 then
                    -- it is not known which one is slow: each claim and each link by itself the next time
                    perform gendurable._suspect_run(
                        array(select p_ids[g.at] from unnest(v_group) g (at)),
                        array(select p_nos[g.at] from unnest(v_group) g (at)));
                end if;
                exit;
            end if;
            if v_got.links > 1 and not (
                v_got.state = 'answers' and gendurable._is_nobodys_fault(v_got.answers) and not exists (
                    select from jsonb_each(v_got.answers) k
                    where k.value ->> 'result' = 'stale'
                        and gendurable._holds_run(p_ids[v_group[k.key::int + 1]], p_nos[v_group[k.key::int + 1]])))
            then
                -- the links before it are committed, and the one that fails is claimed by itself. What the commit refuses may be of
                -- any of them.
                v_cap := case when v_got.state = 'answers' then 1 else v_got.links - 1 end;
                v_ends := v_ends or gendurable._blames_lock(v_got.state);
                continue;
            elsif cardinality(v_group) > 1 and v_plan.set_based[v_group[1]]
                and not (v_got.state = 'answers' and gendurable._is_nobodys_fault(v_got.answers))
            then
                -- halves, and halves of halves: one alone at the end
                v_most := cardinality(v_group) / 2;
                v_group := v_group[:v_most];
                v_rounds := 0;
                continue;
            elsif v_got.state = 'answers' then
                -- the commit has refused some
                for v_one in
                    select v_group[k.key::int + 1] as at, k.value ->> 'result' as result, k.value -> 'detail' as detail,
                        gendurable._holds_run(p_ids[v_group[k.key::int + 1]], p_nos[v_group[k.key::int + 1]]) as holds
                    from jsonb_each(v_got.answers) k
                loop
                    if v_one.result = 'busy' or (v_one.result = 'stale' and not v_one.holds) then
                        results[v_one.at] := v_one.result;
                    elsif v_ran > 0 or cardinality(v_group) > 1 then
                        v_put_off := v_put_off + 1;
                        results[v_one.at] := 'left';
                        details[v_one.at] := '{"again": "first"}';
                    elsif v_one.result = 'stale' then
                        v_got.state := 'GD507';
                        v_got.message := 'the handler ended its own claim';
                        v_got.failed := 1;
                    else
                        v_got.state := v_one.detail ->> 'sqlstate';
                        v_got.message := v_one.detail ->> 'message';
                        v_got.failed := 1;
                    end if;
                end loop;
                if v_got.state = 'answers' then
                    v_group := array(
                        select g.at from unnest(v_group) with ordinality g (at, o) where results[g.at] is null order by g.o);
                    continue;
                end if;
                v_first := v_group[1];
            elsif cardinality(v_group) > 32 then
                v_size := 32;
                v_group := v_group[:32];
                continue;
            elsif not v_singly then
                v_singly := true;
                continue;
            end if;

            -- 3. A handler has raised
            if v_ran > 0 or cardinality(v_group) > 1 then
                -- in company it counts for nothing
                v_put_off := v_put_off + 1;
                results[v_first] := 'left';
                details[v_first] := jsonb_build_object(
                    'again', case when gendurable._blames_lock(v_got.state) then 'last' else 'first' end,
                    'sqlstate', v_got.state, 'message', v_got.message);
                v_ends := v_ends or gendurable._blames_lock(v_got.state);
            elsif gendurable._blames_lock(v_got.state) and v_tries < 4 and not (
                v_got.state = '55P03' and v_wait_ms > 0 and v_got.took >= v_wait_ms)
            then
                -- it has not waited for a lock: perhaps it says so whatever happens
                v_tries := v_tries + 1;
                v_rounds := 0;
                continue;
            elsif v_got.state = '55P03' and v_wait_ms > 0 and v_got.took >= v_wait_ms then
                results[v_first] := 'busy';
                details[v_first] := jsonb_build_object('sqlstate', v_got.state, 'message', v_got.message);
                v_ends := true;
            elsif v_got.state in ('42883', 'XX000') and v_again <> v_first then
                v_again := v_first;                -- it was replaced meanwhile
                continue;
            elsif v_got.state in ('42883', 'XX000') and not gendurable._resolves_run(v_plan.handlers[v_first], v_role, p_login) then
                results[v_first] := 'no_handler';
            else
                v_one := gendurable._end_badly(p_worker, p_ids[v_first], p_nos[v_first], v_got.state, v_got.message);
                results[v_first] := v_one.result;
                details[v_first] := v_one.detail;
            end if;
            v_group := array_remove(v_group, v_first);
        end loop;
        v_ends := v_ends or v_put_off >= 4;
        v_todo := array(select u.at from unnest(v_todo) with ordinality u (at, o) where results[u.at] is null order by u.o);
    end loop;
    pace := case when v_calm then pace end;
    results := array(select coalesce(u.result, 'left') from unnest(results) with ordinality u (result, o) order by u.o);
    perform set_config('lock_timeout', v_timeout, true);
    -- for the session: a handler may have set it for that
    perform set_config('gendurable.running', '', false);
end $$;

comment on function gendurable._run_claims(text, text, bigint[], bigint[], jsonb, boolean, oid, double precision) is
    'Runs claims in this transaction: results and details as gd_run_claims answers them. p_catch: a cancel ends the run, and does not
raise (cancelled: its message). p_pace, pace: ms a claim, where the transaction before this one had no failure: then groups are large,
and begin at once. Invoker code: handlers have the rights of who calls.';

create or replace function gendurable._setting_ms(p_value text) returns double precision
language sql immutable parallel safe as $$
    select extract(epoch from p_value::interval)::double precision * 1000
$$;

comment on function gendurable._setting_ms(text) is 'A setting that is a time, as current_setting shows it: milliseconds.';

create or replace function gendurable._is_nobodys_fault(p_answers jsonb) returns boolean
language plpgsql immutable as $$
begin
    return not exists (select from jsonb_each(p_answers) a where a.value ->> 'result' not in ('busy', 'stale'));
end $$;

comment on function gendurable._is_nobodys_fault(jsonb) is 'Whether a commit has refused only what others hold or have ended.';
