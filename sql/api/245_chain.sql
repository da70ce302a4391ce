-- Chains: behind a plain "next" the function of the next step follows at once, in the transaction and under the claim of the
-- first one. What its links consume, insert and send adds up; only the outcome of the last link is written, as made from that
-- link's step and state ("at"). Which steps are one chain is nothing that an instance can tell from what is written.
-- Next: 246_run_doors.

create or replace function gendurable._next_links(
    p_role oid, p_login oid, p_ctxs jsonb[], p_outcomes jsonb[], p_carried jsonb[], p_chains boolean[],
    out places int[], out handlers text[], out exposed boolean[], out ctxs jsonb[], out carried jsonb[]
)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
begin
    with goes as materialized (
        select u.o, u.ctx, u.outcome, u.carried, gendurable._is_plain_link(u.outcome) as plain,
            -- what decides which function follows, as one value
            jsonb_build_array(
                u.ctx -> 'fsm', u.ctx -> 'version', u.ctx -> 'queue', u.ctx -> 'step', u.outcome -> 'step') as place
        from unnest(p_ctxs, p_outcomes, p_carried, p_chains) with ordinality u (ctx, outcome, carried, chains, o)
        where coalesce(u.chains, true) and u.outcome -> 'kind' = '"next"' and case
            when gendurable._is_plain_link(u.outcome) then true else gendurable._is_link(u.outcome) end
    ), link as materialized (
        select k.place, f.handler, gendurable._is_exposed(f.handler, p_role, p_login) as exposed
        from (select distinct g.place from goes g) k
        cross join lateral (
            select gendurable._find_link(
                k.place ->> 0, (k.place ->> 1)::int, k.place ->> 2, k.place ->> 3, k.place ->> 4, p_role, p_login) as handler
            offset 0
        ) f
        where f.handler is not null
    )
    select array_agg(g.o order by g.o), array_agg(l.handler order by g.o), array_agg(l.exposed order by g.o),
        array_agg(
            case when p_chains is null then g.ctx else g.ctx || '{"attempt": 0, "awaits": null, "timed_out": false}' end
            || case when g.plain then g.outcome - '{id,claim_no,kind,keep}'::text[] else gendurable._follow(g.ctx, g.outcome) end
            order by g.o),
        array_agg(case
            when g.carried is not null or not g.plain then gendurable._carry(g.carried, g.outcome)
        end order by g.o)
    into places, handlers, exposed, ctxs, carried
    from goes g
    join link l on l.place = g.place;
end $$;

comment on function gendurable._next_links(oid, oid, jsonb[], jsonb[], jsonb[], boolean[]) is
    'Which of these outcomes are followed by a link: their places, the function of each and what it gets, and what the links before it
have consumed, inserted and sent. null: none of them. p_chains: behind the first ones, which of them may be; null: all.';

create or replace function gendurable._is_plain_link(p_outcome jsonb) returns boolean
language sql immutable parallel safe as $$
    select p_outcome - '{id,claim_no,kind,step,state,keep}'::text[] = '{}'
        and jsonb_typeof(p_outcome -> 'step') = 'string' and p_outcome -> 'step' <> '""'
        and octet_length(p_outcome ->> 'step') <= gendurable._longest_name()
        and coalesce(jsonb_typeof(p_outcome -> 'state') = 'object', true)
$$;

comment on function gendurable._is_plain_link(jsonb) is 'Whether an outcome next has a step, perhaps a state, and nothing else.';

create or replace function gendurable._is_link(p_outcome jsonb) returns boolean
language plpgsql immutable as $$
begin
    return not p_outcome ?| '{delay_ms,partition_key,rate_limit,weight,priority,queue,close_ms,at,attributes,journal}'::text[]
        and gendurable._outcome_problem(p_outcome || '{"id": 1, "claim_no": 1}') is null;
end $$;

comment on function gendurable._is_link(jsonb) is
    'Whether an outcome next leads on at once, in the same queue and place, and is valid: else it is the last of its chain.';

create or replace function gendurable._find_link(
    p_fsm text, p_version int, p_queue text, p_from text, p_step text, p_role oid, p_login oid
) returns text
language plpgsql stable as $$
declare
    v_step record;
begin
    v_step := gendurable._find_step(p_fsm, p_version, p_step);
    if v_step.queue <> p_queue or (v_step.queue is null and exists (
        -- from a queue of its own it goes back to that of the instance
        select from gendurable.step s where s.fsm = p_fsm and s.step = p_from and s.queue is not null))
    then
        return null;
    end if;
    return case
        when v_step.chain and not v_step.alone and gendurable._step_problem(v_step.handler, v_step.owner, p_role, p_login) is null
            and not (select p.proretset from pg_proc p where p.oid = gendurable._find_handler(v_step.handler))
            -- the time of a step counts from its claim
            and not exists (
                select from gendurable.machine m where m.fsm = p_fsm and m.version = p_version and m.timeouts ? p_step)
            and not exists (select from gendurable._find_pause(p_fsm, p_version, p_step))
        then v_step.handler
    end;
end $$;

comment on function gendurable._find_link(text, int, text, text, text, oid, oid) is
    'The function of a step that may follow another one in the same run, in this queue; null: it has to be claimed.';

create or replace function gendurable._follow(p_ctx jsonb, p_outcome jsonb) returns jsonb
language plpgsql immutable as $$
begin
    return jsonb_build_object(
        'step', p_outcome -> 'step',
        'state', coalesce(nullif(p_outcome -> 'state', 'null'), p_ctx -> 'state'),
        'signals', (
            select coalesce(jsonb_agg(s.one order by s.ord), '[]')
            from jsonb_array_elements(p_ctx -> 'signals') with ordinality s (one, ord)
            where not coalesce(p_outcome -> 'consume', 'null') @> (s.one -> 'id')));
end $$;

comment on function gendurable._follow(jsonb, jsonb) is
    'What is new to the next link behind this outcome: the inbox is without the signals that were consumed.';

create or replace function gendurable._carry(p_carried jsonb, p_outcome jsonb) returns jsonb
language plpgsql immutable as $$
declare
    v_all jsonb := coalesce(p_carried, '{}');
    v_key text;
    v_value jsonb;
begin
    foreach v_key in array '{consume,insert,signal}'::text[] loop
        v_value := p_outcome -> v_key;
        if coalesce(v_value, 'null') <> 'null' then
            v_all := v_all || jsonb_build_object(v_key, case
                when jsonb_typeof(v_value) = 'array' then coalesce(v_all -> v_key, '[]') || v_value
                -- so that the commit rejects it
                else v_value
            end);
        end if;
    end loop;
    return v_all;
end $$;

comment on function gendurable._carry(jsonb, jsonb) is 'What links consume, insert and send, with what one more does.';
