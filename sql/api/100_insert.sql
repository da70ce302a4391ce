-- Putting work in, registering machines, and finding an instance by its unique key: where its life begins.
-- How rows are checked and stored stands in kernel/070_new_instance. Next: 110_claim.

create or replace function gd_insert(
    p_fsm text, p_state jsonb = '{}', p_step text = null, p_version int = null, p_queue text = null,
    p_priority int = null, p_partition_key text = null, p_unique_key text = null, p_unique_scope text[] = null,
    p_eligible_at timestamptz = null, p_delay interval = null, p_rate_limit text = null,
    p_weight double precision = 1, p_max_attempts int = null, p_meta jsonb = '{}',
    p_expires_at timestamptz = null, p_attributes jsonb = '{}', p_on_conflict text = 'nothing'
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- a plan for each call would cost three times the insert
set plan_cache_mode = force_generic_plan set jit = off as $$
begin
    -- two ifs, and no variable: what has no key is to pay nothing for it
    if p_unique_key is not null then
        if p_on_conflict <> 'nothing' then
            return gendurable._insert_or_meet(array[gendurable._new_instance(
                    p_ord => 0, p_fsm => p_fsm, p_version => p_version, p_step => p_step, p_state => nullif(p_state, 'null'),
                    p_queue => p_queue, p_priority => p_priority, p_partition_key => p_partition_key, p_unique_key => p_unique_key,
                    p_unique_scope => p_unique_scope, p_eligible_at => p_eligible_at, p_delay => p_delay,
                    p_rate_limit => p_rate_limit, p_weight => nullif(p_weight, 1), p_max_attempts => p_max_attempts,
                    p_meta => nullif(p_meta, 'null'), p_expires_at => p_expires_at,
                    p_attributes => nullif(p_attributes, '{}')
                )], p_on_conflict);
        end if;
    end if;
    return gendurable._insert_instance(gendurable._new_instance(
            p_ord => 0, p_fsm => p_fsm, p_version => p_version, p_step => p_step, p_state => nullif(p_state, 'null'),
            p_queue => p_queue, p_priority => p_priority, p_partition_key => p_partition_key, p_unique_key => p_unique_key,
            p_unique_scope => p_unique_scope, p_eligible_at => p_eligible_at, p_delay => p_delay,
            p_rate_limit => p_rate_limit, p_weight => nullif(p_weight, 1), p_max_attempts => p_max_attempts,
            p_meta => nullif(nullif(p_meta, 'null'), '{}'), p_expires_at => p_expires_at,
            p_attributes => nullif(p_attributes, '{}')
        ), null, null, '{}', null);
end $$;

comment on function gd_insert(
    text, jsonb, text, int, text, int, text, text, text[], timestamptz, interval, text, double precision, int, jsonb,
    timestamptz, jsonb, text
) is
'Inserts one instance and returns its id, or null when another instance holds p_unique_key.

  p_fsm: the machine''s name
  p_state: a JSON object
  p_step, p_version, p_queue: where it starts. Default: what gd_register recorded for the machine (its highest
    version or its default_version, or the version given), else step "start", version 1, queue "default"
  p_priority: lower runs earlier; default 0
  p_partition_key: at most one instance of a key executes at a time
  p_unique_key, p_unique_scope: the key, and an array of the statuses in which it is held; default: all that are not
    terminal. An empty array: none, and the key is no address
  p_eligible_at, p_delay: when it is due: at a time, or after a delay; not both. A delay is added in UTC: a day is 24
    hours, whatever the session''s time zone. At most 285,000 years. A past time is kept and counts for the order;
    such a row is found within about a second. Default: now
  p_rate_limit: what its starts need tokens of, see gd_set_rate_limit; GD502 where no limit fits it. Default: none
  p_weight: how many tokens each start takes; GD501 above the burst of the limit. Default: 1
  p_max_attempts: how often a step that raises is run in all; default: the machine''s, else 20
  p_meta: a JSON object that is carried along unchanged and shown to every step
  p_expires_at: its deadline. If it has not ended by then it ends as "failed", with "expired at ..." as last_error,
    wherever it stands; the outcome of a step that runs is "stale". Default: none
  p_attributes: a JSON object that it is searched by, see gd_list: at most 100 values and 4,000 bytes. Keys with null are
    left out; outcomes change it
  p_on_conflict: what becomes of the instance that holds p_unique_key. "nothing": null is answered. "id": its id is
    answered. "reschedule": if it is of the same machine and no worker has ever had it, it becomes due when this one
    would have, and its id is answered. "replace": it gets the step, the version and the state of this one, too. Where
    it has begun, or somebody has it locked at that moment, nothing is changed and the answer is null. Not looked at
    where there is no p_unique_key

Nobody is waited for but who has just inserted the same key, or is ending its holder, and has not committed.
"reschedule" and "replace" need READ COMMITTED (GD504). Raises GD501 for an argument that is not valid, and GD502.';

create or replace function gd_insert_many(p_instances jsonb) returns table (ord int, id bigint, created boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off as $$
#variable_conflict use_column
declare
    v_new constant gendurable.new_instance[] := gendurable._parse_instances(p_instances);
    v_ids constant bigint[] := gendurable._insert_instances(v_new, null, null, '{}');
begin
    if array_position(v_ids, null) is null then
        return query select n.at::int - 1, n.id, true from unnest(v_ids) with ordinality n (id, at);
        return;
    end if;
    -- a statement of its own: it sees the holders that this very call inserted
    return query
        select
            n.at::int - 1,
            case when n.id is null then gendurable._find_holder(n.unique_key) else n.id end,
            n.id is not null
        from unnest(v_ids, array(select f.unique_key from unnest(v_new) f order by f.ord))
            with ordinality n (id, unique_key, at)
        order by n.at;
end $$;

comment on function gd_insert_many(jsonb) is
'Inserts an array of objects in one statement: [{fsm, state, step, version, queue, priority, partition_key,
unique_key, unique_scope, eligible_at, delay_ms, rate_limit, weight, max_attempts, meta, attributes, expires_at,
expires_ms}].
Only "fsm" is needed; an unknown key is a mistake. eligible_at and expires_at are ISO 8601 with a zone, such as
"2031-05-06T07:08:09Z"; any other text is refused, since what it means depends on the session. expires_ms is a
deadline that many milliseconds from now, in place of expires_at. One row for each object:

  ord: its place in the input, from 0
  id: the new instance, or the one that holds the unique key; null in the rare case that the holder let the key go at
    that very moment
  created: false where the unique key is held; of two with the same key in one call the first in the input wins

Any mistake raises GD501, naming the place, or GD502, and nothing is inserted. Two calls with the same new keys in
different orders do not deadlock.';

create or replace function gd_register(
    p_fsm text, p_version int, p_initial_step text, p_queue text = 'default', p_options jsonb = '{}'
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_options constant jsonb := coalesce(nullif(p_options, 'null'), '{}');
    v_problem text;
begin
    perform gendurable._need_text(p_fsm, 'p_fsm');
    perform gendurable._need_text(p_initial_step, 'p_initial_step');
    perform gendurable._need_text(coalesce(p_queue, 'default'), 'p_queue');
    if p_version is null or p_version < 1 then
        perform gendurable._invalid('p_version must be at least 1', 'got ' || coalesce(p_version::text, 'null'),
            'Number the versions of a machine 1, 2, 3, ...');
    end if;
    perform gendurable._need_options(p_options, '{max_attempts,timeouts,retain,history,steps,default_version}');
    v_problem := coalesce(
        gendurable._int_problem(v_options -> 'max_attempts', 'max_attempts', 1),
        gendurable._timeouts_problem(v_options -> 'timeouts'),
        gendurable._retain_problem(v_options -> 'retain'),
        gendurable._history_problem(v_options -> 'history'),
        gendurable._steps_problem(v_options -> 'steps'),
        gendurable._int_problem(v_options -> 'default_version', 'default_version', 1));
    if v_problem is not null then
        perform gendurable._invalid(v_problem, 'got ' || left(p_options::text, 200),
            'Known options: {"max_attempts": n, "timeouts": {step: ms}, "retain": {"done": ms, "failed": ms, "cancelled": ms}, '
            || '"history": "none", "steps": [step, ...], "default_version": n}; leave out what is to stay, null resets.');
    end if;

    if coalesce(v_options ->> 'history', 'none') <> 'none' and not gendurable._history_asked() then
        -- also for one that stands there already: a copy may have come without its sequences
        perform nextval('gendurable.history_asked_seq');
    end if;
    if jsonb_typeof(v_options -> 'steps') = 'array' and not gendurable._steps_asked() then
        perform nextval('gendurable.steps_asked_seq');
    end if;
    -- Every dispatcher registers at start: an unchanged machine takes no lock and writes nothing.
    if exists (
        select from gendurable.machine m
        where m.fsm = p_fsm and m.version = p_version and m.initial_step = p_initial_step
            and m.queue = coalesce(p_queue, 'default')
            and m.max_attempts is not distinct from gendurable._next_attempts(m.max_attempts, v_options)
            and m.timeouts is not distinct from gendurable._next_timeouts(m.timeouts, v_options)
            and m.retain is not distinct from gendurable._next_retain(m.retain, v_options)
            and m.history is not distinct from gendurable._next_history(m.history, v_options)
            and m.steps is not distinct from gendurable._next_steps(m.steps, p_initial_step, v_options)
    ) then
        perform gendurable._pin_version(p_fsm, v_options);
        return;
    end if;
    insert into gendurable.machine as m (fsm, version, initial_step, queue, max_attempts, timeouts, retain, history, steps)
    values (
        p_fsm, p_version, p_initial_step, coalesce(p_queue, 'default'), gendurable._next_attempts(null, v_options),
        gendurable._next_timeouts(null, v_options), gendurable._next_retain(null, v_options),
        gendurable._next_history(null, v_options), gendurable._next_steps(null, p_initial_step, v_options))
    on conflict (fsm, version) do update
        set initial_step = excluded.initial_step, queue = excluded.queue,
            max_attempts = gendurable._next_attempts(m.max_attempts, v_options),
            timeouts = gendurable._next_timeouts(m.timeouts, v_options),
            retain = gendurable._next_retain(m.retain, v_options),
            history = gendurable._next_history(m.history, v_options),
            steps = gendurable._next_steps(m.steps, p_initial_step, v_options);
    perform gendurable._pin_version(p_fsm, v_options);
    perform gendurable._move_bells(p_fsm);
end $$;

comment on function gd_register(text, int, text, text, jsonb) is
'Records the defaults of a machine''s version: its first step, its queue, and in the options

  max_attempts: how often a step is tried
  timeouts: {step: ms}, how long a claim of the step lasts at most
  retain: {"done": ms, "failed": ms, "cancelled": ms}, how long an instance is kept after such an end, whatever the
    retention of gd_gc; "done": 0 is not at all: the commit removes it. What is not named is kept as long as gd_gc says
  history: what gd_history keeps of its instances: "none" (the default), "steps" (each outcome), "states" (and the state
    that its step was given)
  steps: [step, ...], which steps the version has. From then on nothing is inserted, retried, edited or committed before
    a step that it does not have (GD501). Steps are added to those that are there, and never removed; the first step and
    those of gd_define_step count as well
  default_version: which version is inserted where none is named, whatever is registered later; it must be registered.
    Without one it is the highest. null: that again

The engine does it at start for its machines; from then on gd_insert(''checkout'', ...) is enough from anywhere. Called
again it replaces step and queue; an option that is absent stays as it was, as does what retain does not name, and null
resets. "retain" is for those that end from then on. Unchanged, it writes nothing. Raises GD501.';

create or replace function gendurable._timeouts_problem(p_timeouts jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    if p_timeouts is null or p_timeouts = 'null' then
        return null;
    end if;
    if jsonb_typeof(p_timeouts) <> 'object' then
        return 'timeouts must be a JSON object';
    end if;
    if (select count(*) from (select from jsonb_object_keys(p_timeouts) limit 1001) k) > 1000 then
        return 'timeouts has more than 1,000 steps';
    end if;
    return (
        select case
            when t.step = '' then 'timeouts names a step without a name'
            when octet_length(t.step) > gendurable._longest_name() then 'timeouts names a step whose name is too long'
            when jsonb_typeof(t.ms) <> 'number' then 'timeouts must be numbers of milliseconds'
            when t.ms <= '0' then 'timeouts must be positive'
            else gendurable._ms_problem(t.ms, 'a timeout')
        end as problem
        from jsonb_each(p_timeouts) t (step, ms)
        order by problem
        limit 1);
end $$;

comment on function gendurable._timeouts_problem(jsonb) is 'What is wrong with the timeouts of steps, or null.';

create or replace function gendurable._retain_problem(p_retain jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    return case
        when jsonb_typeof(p_retain) not in ('object', 'null') then 'retain must be a JSON object'
        when jsonb_typeof(p_retain) = 'object' and p_retain - gendurable._terminal_statuses()::text[] <> '{}'
            then 'retain has the keys done, failed and cancelled'
        else coalesce(
            gendurable._ms_problem(p_retain -> 'done', 'retain of done'),
            gendurable._ms_problem(p_retain -> 'failed', 'retain of failed'),
            gendurable._ms_problem(p_retain -> 'cancelled', 'retain of cancelled'))
    end;
end $$;

comment on function gendurable._retain_problem(jsonb) is 'What is wrong with the times for which a machine keeps its instances, or null.';

create or replace function gendurable._history_problem(p_history jsonb) returns text
language sql immutable parallel safe as $$
    select case when p_history not in ('null', '"none"', '"steps"', '"states"') then 'history must be none, steps or states' end
$$;

comment on function gendurable._history_problem(jsonb) is 'What is wrong with how much history a machine keeps, or null.';

create or replace function gendurable._next_history(p_old text, p_options jsonb) returns text
language sql immutable parallel safe as $$
    select case when p_options ? 'history' then nullif(p_options ->> 'history', 'none') else p_old end
$$;

comment on function gendurable._next_history(text, jsonb) is 'history of a machine after a registration; null: none.';

create or replace function gendurable._next_attempts(p_old int, p_options jsonb) returns int
language sql immutable parallel safe as $$
    select case when p_options ? 'max_attempts' then (p_options ->> 'max_attempts')::numeric::int else p_old end
$$;

comment on function gendurable._next_attempts(int, jsonb) is 'max_attempts of a machine after a registration.';

create or replace function gendurable._next_timeouts(p_old jsonb, p_options jsonb) returns jsonb
language sql immutable parallel safe as $$
    select case when p_options ? 'timeouts' then nullif(nullif(p_options -> 'timeouts', 'null'), '{}') else p_old end
$$;

comment on function gendurable._next_timeouts(jsonb, jsonb) is 'timeouts of a machine after a registration.';

create or replace function gendurable._next_retain(p_old jsonb, p_options jsonb) returns jsonb
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_options -> 'retain') = 'object'
            then nullif(jsonb_strip_nulls(coalesce(p_old, '{}') || (p_options -> 'retain')), '{}')
        when not p_options ? 'retain' then p_old
    end
$$;

comment on function gendurable._next_retain(jsonb, jsonb) is 'retain of a machine after a registration.';

create or replace function gd_find(p_unique_key text) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return gendurable._find_holder(p_unique_key);
end $$;

comment on function gd_find(text) is 'The id of the instance that holds the unique key now, or null.';
