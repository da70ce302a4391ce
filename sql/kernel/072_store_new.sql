-- Storing new instances: one, many that have only what is common, or any, each by a statement of its own, since a statement pays for
-- all that stands in it. All three store the same. Next: 075_schedules, who inserts by the clock.

create or replace function gendurable._is_short_new(p_new gendurable.new_instance) returns boolean
language sql immutable parallel safe as $$
    select num_nonnulls(p_new.unique_key, p_new.unique_scope, p_new.rate_limit, p_new.weight, p_new.attributes) = 0
$$;

comment on function gendurable._is_short_new(gendurable.new_instance) is
    'Whether a new instance has nothing that _insert_instance does not store itself.';

create or replace function gendurable._insert_instance(
    p_new gendurable.new_instance, p_parent_id bigint, p_barrier_no bigint, p_trace jsonb, p_expires_at timestamptz
) returns bigint
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_due timestamptz;
    v_machine gendurable.machine;
    v_put record;
begin
    -- A statement sets up anew all that stands in it, and for one row that is nearly everything: so this one has little in it,
    -- and what most rows do not have goes the long way.
    if not gendurable._is_short_new(p_new) then
        return (gendurable._insert_instances(array[p_new], p_parent_id, p_barrier_no, p_trace, p_expires_at))[1];
    end if;
    -- one after the other: what is not asked is not set up
    if gendurable._steps_asked() then
        if gendurable._lack_steps(array[p_new]) then
            perform gendurable._refuse_new_instances(array[p_new]);
            perform gendurable._refuse_steps(array[p_new]);
        end if;
    end if;
    if not gendurable._is_plain_new(p_new) then
        if gendurable._examine_new_instance(p_new) is not null then
            perform gendurable._refuse_new_instances(array[p_new]);
        end if;
    end if;
    if p_new.version is null or p_new.step is null or p_new.queue is null then
        select m.* into v_machine
        from gendurable.machine m
        where m.fsm = p_new.fsm and (p_new.version is null or m.version = p_new.version)
        order by m.pinned desc, m.version desc
        limit 1;
    end if;
    v_due := gendurable._due_at(p_new.eligible_at, p_new.delay, v_now);

    insert into gendurable.instance as i (
        id, inserted_at, updated_at, parent_id, barrier_no, max_attempts, fsm_version, priority, eligible_at,
        lane_at, fsm, step, queue, partition_key, meta, state, expires_at)
    values (
        nextval('gendurable.instance_id_seq'), v_now, v_now, p_parent_id, p_barrier_no, p_new.max_attempts,
        coalesce(p_new.version, v_machine.version, 1), coalesce(p_new.priority, 0), v_due,
        case when p_new.partition_key is not null then v_due end,
        p_new.fsm, coalesce(p_new.step, v_machine.initial_step, 'start'),
        coalesce(p_new.queue, v_machine.queue, 'default'), p_new.partition_key,
        p_trace || coalesce(p_new.meta, '{}'), coalesce(p_new.state, '{}'), least(p_new.expires_at, p_expires_at))
    returning
        i.id, i.queue,
        exists (select from gendurable.queue_name q where q.queue = i.queue) as known,
        -- in order: by the index, also where a plan was made while hardly a step was defined
        (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1) as routed
    into v_put;

    if not v_put.known then
        perform gendurable._note_queues(array[v_put.queue]);
    end if;
    if v_put.routed then
        perform gendurable._place_rows(array[v_put.id], null, v_now);
    end if;
    if v_due <= v_now + gendurable._longest_poll() then
        if not gendurable._is_awake(v_put.queue) then
            perform gendurable._wake_sleepers(array[v_put.queue]);
        end if;
    end if;
    return v_put.id;
end $$;

comment on function gendurable._insert_instance(gendurable.new_instance, bigint, bigint, jsonb, timestamptz) is
    '_insert_instances for one row: its id, or null where its unique key is taken.';

create or replace function gendurable._insert_short(
    p_new gendurable.new_instance[], p_parent_id bigint, p_barrier_no bigint, p_trace jsonb, p_expires_at timestamptz,
    p_now timestamptz
) returns bigint[]
language plpgsql as $$
declare
    v_ids constant bigint[] := array(
        select nextval('gendurable.instance_id_seq') from generate_series(1, cardinality(p_new)));
    v_first constant gendurable.new_instance := p_new[1];
    v_machine gendurable.machine;
    v_put record;
begin
    select m.* into v_machine
    from gendurable.machine m
    where m.fsm = v_first.fsm and (v_first.version is null or m.version = v_first.version)
    order by m.pinned desc, m.version desc
    limit 1;
    -- Nobody can be in the way of these rows, so they go in the order in which they are, and nothing is looked for row by row.
    with put as (
        insert into gendurable.instance as i (
            id, inserted_at, updated_at, parent_id, barrier_no, max_attempts, fsm_version, priority, eligible_at,
            lane_at, fsm, step, queue, partition_key, meta, state, expires_at)
        select
            v_ids[n.ord + 1], p_now, p_now, p_parent_id, p_barrier_no, n.max_attempts,
            coalesce(n.version, v_machine.version, 1), coalesce(n.priority, 0),
            gendurable._due_at(n.eligible_at, n.delay, p_now),
            case when n.partition_key is not null then gendurable._due_at(n.eligible_at, n.delay, p_now) end,
            n.fsm, coalesce(n.step, v_machine.initial_step, 'start'), coalesce(n.queue, v_machine.queue, 'default'),
            n.partition_key, case when n.meta is null then p_trace else p_trace || n.meta end, coalesce(n.state, '{}'),
            least(n.expires_at, p_expires_at)
        from unnest(p_new) n
        where case when gendurable._is_plain_new(n) then true else gendurable._examine_new_instance(n) is null end
        returning i.queue, i.eligible_at
    )
    select
        coalesce(sum(g.count), 0) as count,
        array_agg(g.queue) filter (where g.first_at <= p_now + gendurable._longest_poll()) as due,
        array_agg(g.queue) filter (where not exists (select from gendurable.queue_name q where q.queue = g.queue)) as unknown,
        -- in order: by the index, also where a plan was made while hardly a step was defined
        (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1) as routed
    into v_put
    from (
        select p.queue, count(*) as count, min(p.eligible_at) as first_at from put p group by p.queue
    ) g;

    if v_put.count < cardinality(p_new) then
        perform gendurable._refuse_new_instances(p_new);
    end if;
    if v_put.unknown is not null then
        perform gendurable._note_queues(v_put.unknown);
    end if;
    if v_put.routed then
        perform gendurable._place_rows(v_ids, null, p_now);
    end if;
    perform gendurable._wake_sleepers(v_put.due);
    return v_ids;
end $$;

comment on function gendurable._insert_short(
    gendurable.new_instance[], bigint, bigint, jsonb, timestamptz, timestamptz
) is
    '_insert_instances for rows of one machine and of one version or none, of which _is_short_new says so of each: their ids.';

create or replace function gendurable._insert_instances(
    p_new gendurable.new_instance[], p_parent_id bigint, p_barrier_no bigint, p_trace jsonb,
    p_expires_at timestamptz = null
) returns bigint[]
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_first gendurable.new_instance;
    v_ids bigint[];
    v_created bigint[];
    v_due text[];
    v_unknown boolean;
    v_short boolean := false;
    v_odd boolean;
    v_attributed boolean;
    v_routed boolean;
begin
    if cardinality(p_new) = 1 then
        if gendurable._is_short_new(p_new[1]) then
            return array[gendurable._insert_instance(p_new[1], p_parent_id, p_barrier_no, p_trace, p_expires_at)];
        end if;
        v_odd := p_new[1].rate_limit is not null or p_new[1].attributes is not null;
    else
        v_first := p_new[1];
        select
            bool_and(gendurable._is_short_new(n) and n.fsm = v_first.fsm and n.version is not distinct from v_first.version),
            bool_or(n.rate_limit is not null or n.attributes is not null)
        into v_short, v_odd
        from unnest(p_new) n;
    end if;
    if v_odd then
        -- the whole examination first: of several mistakes the first is told
        perform gendurable._refuse_new_instances(p_new);
        v_attributed := p_new[1].attributes is not null;
        if cardinality(p_new) > 1 then
            v_attributed := (select true from unnest(p_new) n where n.attributes is not null limit 1);
        end if;
        if v_attributed then
            p_new := gendurable._clean_new_instances(p_new);
        end if;
    end if;
    -- one after the other: what is not asked is not set up
    if gendurable._steps_asked() then
        if gendurable._lack_steps(p_new) then
            perform gendurable._refuse_new_instances(p_new);
            perform gendurable._refuse_steps(p_new);
        end if;
    end if;
    if v_short then
        return gendurable._insert_short(p_new, p_parent_id, p_barrier_no, p_trace, p_expires_at, v_now);
    end if;

    -- Numbered before they are stored: the answer keeps the order of the input, whatever order the rows go in.
    v_ids := array(select nextval('gendurable.instance_id_seq') from generate_series(1, cardinality(p_new)));
    with put as (
        insert into gendurable.instance as i (
            id, inserted_at, updated_at, parent_id, barrier_no, max_attempts, fsm_version, priority, eligible_at,
            lane_at, fsm, step, queue, partition_key, unique_key, unique_held, unique_scope, rate_limit, weight, meta,
            state, expires_at, attributes)
        select
            v_ids[n.ord + 1], v_now, v_now, p_parent_id, p_barrier_no, n.max_attempts,
            coalesce(n.version, m.version, 1), coalesce(n.priority, 0), d.due,
            case when n.partition_key is not null then d.due end,
            n.fsm, coalesce(n.step, m.initial_step, 'start'), coalesce(n.queue, m.queue, 'default'), n.partition_key,
            n.unique_key, case when 'runnable' = any(coalesce(n.unique_scope, '{runnable}')) then n.unique_key end,
            n.unique_scope::gendurable.status[], n.rate_limit,
            case when n.rate_limit is not null then coalesce(n.weight, 1) end,
            p_trace || coalesce(n.meta, '{}'), coalesce(n.state, '{}'), least(n.expires_at, p_expires_at),
            n.attributes
        from unnest(p_new) n
        cross join lateral (
            select gendurable._due_at(n.eligible_at, n.delay, v_now) as due
        ) d
        left join lateral (
            select m.version, m.initial_step, m.queue
            from gendurable.machine m
            -- not looked for where there is nothing to fill in
            where (n.version is null or n.step is null or n.queue is null)
                and m.fsm = n.fsm and (n.version is null or m.version = n.version)
            order by m.pinned desc, m.version desc
            limit 1
        ) m on true
        where case when gendurable._is_plain_new(n) then true else gendurable._examine_new_instance(n) is null end
        -- keys in sorted order: two calls with the same new keys wait for each other one way round only
        order by n.unique_key, n.ord
        on conflict (unique_held) where unique_held is not null do nothing
        returning i.id, i.queue, i.priority, i.eligible_at
    )
    select
        array_agg(p.id),
        array_agg(distinct p.queue) filter (where p.eligible_at <= v_now + gendurable._longest_poll()),
        bool_or(not exists (select from gendurable.queue_name q where q.queue = p.queue)),
        -- in order: by the index, also where a plan was made while hardly a step was defined
        (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1)
    into v_created, v_due, v_unknown, v_routed
    from put p;

    if v_unknown then
        perform gendurable._note_queues(array(
            select i.queue from unnest(v_created) c (id) join gendurable.instance i on i.id = any(array[c.id])));
    end if;
    if v_attributed then
        perform gendurable._add_words(v_created);
    end if;
    if v_routed then
        perform gendurable._place_rows(v_created, null, v_now);
    end if;
    -- expressions: mostly there is one queue on which nobody sleeps
    if v_due is not null and (cardinality(v_due) > 1 or not gendurable._is_awake(v_due[1])) then
        perform gendurable._wake_sleepers(v_due);
    end if;
    if cardinality(p_new) > coalesce(cardinality(v_created), 0) then
        perform gendurable._refuse_new_instances(p_new);
        return array(
            select (select i.id from gendurable.instance i where i.id = n.id)
            from unnest(v_ids) with ordinality n (id, at)
            order by n.at);
    end if;
    return v_ids;
end $$;

comment on function gendurable._insert_instances(gendurable.new_instance[], bigint, bigint, jsonb, timestamptz) is
    'Checks and stores new instances and wakes their queues; none has a later deadline than p_expires_at. The ids in the order of
the input, null where the unique key is taken.';
