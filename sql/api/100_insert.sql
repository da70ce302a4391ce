-- Putting work in, registering machines, and finding an instance by its unique key: where its life begins.
-- How rows are checked and stored stands in kernel/070_new_instance. Next: 110_claim.

create or replace function gd_insert(
    p_fsm text, p_state jsonb = '{}', p_step text = null, p_version int = null, p_queue text = null,
    p_priority int = null, p_partition_key text = null, p_unique_key text = null, p_unique_scope text[] = null,
    p_eligible_at timestamptz = null, p_delay interval = null, p_rate_limit text = null,
    p_weight double precision = 1, p_max_attempts int = null, p_meta jsonb = '{}',
    p_expires_at timestamptz = null
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- a plan for each call would cost three times the insert
set plan_cache_mode = force_generic_plan set jit = off as $$
begin
    return (gendurable._insert_instances(array[gendurable._new_instance(
        p_ord => 0, p_fsm => p_fsm, p_version => p_version, p_step => p_step, p_state => nullif(p_state, 'null'),
        p_queue => p_queue, p_priority => p_priority, p_partition_key => p_partition_key, p_unique_key => p_unique_key,
        p_unique_scope => p_unique_scope, p_eligible_at => p_eligible_at, p_delay => p_delay,
        p_rate_limit => p_rate_limit, p_weight => p_weight, p_max_attempts => p_max_attempts,
        p_meta => nullif(p_meta, 'null'), p_expires_at => p_expires_at
    )], null, null, '{}'))[1];
end $$;

comment on function gd_insert(
    text, jsonb, text, int, text, int, text, text, text[], timestamptz, interval, text, double precision, int, jsonb,
    timestamptz
) is
'Inserts one instance and returns its id, or null when another instance holds p_unique_key.

  p_fsm: the machine''s name
  p_state: a JSON object
  p_step, p_version, p_queue: where it starts. Default: what gd_register recorded for the machine (its highest
    version, or the version given), else step "start", version 1, queue "default"
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

Raises GD501 for an argument that is not valid, and GD502.';

create or replace function gd_insert_many(p_instances jsonb) returns table (ord int, id bigint, created boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off as $$
#variable_conflict use_column
declare
    v_new constant gendurable.new_instance[] := gendurable._parse_instances(p_instances);
    v_ids constant bigint[] := gendurable._insert_instances(v_new, null, null, '{}');
begin
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
unique_key, unique_scope, eligible_at, delay_ms, rate_limit, weight, max_attempts, meta, expires_at, expires_ms}].
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
    v_max_attempts int;
    v_timeouts constant jsonb := nullif(p_options -> 'timeouts', 'null');
begin
    perform gendurable._need_text(p_fsm, 'p_fsm');
    perform gendurable._need_text(p_initial_step, 'p_initial_step');
    perform gendurable._need_text(coalesce(p_queue, 'default'), 'p_queue');
    if p_version is null or p_version < 1 then
        perform gendurable._invalid('p_version must be at least 1', 'got ' || coalesce(p_version::text, 'null'),
            'Number the versions of a machine 1, 2, 3, ...');
    end if;
    perform gendurable._need_options(p_options, '{max_attempts,timeouts}');
    if gendurable._int_problem(p_options -> 'max_attempts', 'max_attempts', 1) is not null then
        perform gendurable._invalid(gendurable._int_problem(p_options -> 'max_attempts', 'max_attempts', 1),
            'got ' || (p_options ->> 'max_attempts'), 'Pass {"max_attempts": n} with n at least 1.');
    end if;
    v_max_attempts := (p_options ->> 'max_attempts')::numeric::int;

    -- Every dispatcher registers at start: an unchanged machine takes no lock and writes nothing.
    if exists (
        select from gendurable.machine m
        where m.fsm = p_fsm and m.version = p_version and m.initial_step = p_initial_step
            and m.queue = coalesce(p_queue, 'default') and m.max_attempts is not distinct from v_max_attempts
            and m.timeouts is not distinct from v_timeouts
    ) then
        return;
    end if;
    insert into gendurable.machine (fsm, version, initial_step, queue, max_attempts, timeouts)
    values (p_fsm, p_version, p_initial_step, coalesce(p_queue, 'default'), v_max_attempts, v_timeouts)
    on conflict (fsm, version) do update
        set initial_step = excluded.initial_step, queue = excluded.queue, max_attempts = excluded.max_attempts,
            timeouts = excluded.timeouts;
    perform gendurable._move_bells(p_fsm);
end $$;

comment on function gd_register(text, int, text, text, jsonb) is
'Records the defaults of a machine''s version: its first step, its queue, and in the options {"max_attempts": n,
"timeouts": {step: ms}}: a claim of a step ends that many milliseconds after it began, whatever is renewed. The
engine does it at start for its machines; from then on gd_insert(''checkout'', ...) is enough from anywhere. Called
again it replaces the record; unchanged, it writes nothing. Raises GD501.';

create or replace function gd_find(p_unique_key text) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return gendurable._find_holder(p_unique_key);
end $$;

comment on function gd_find(text) is 'The id of the instance that holds the unique key now, or null.';
