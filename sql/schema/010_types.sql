-- The private schema. The public API (gd_* functions and views) is created unqualified, in the schema
-- that is current when this script runs; all that is written "gendurable...." is private.
create schema gendurable;

comment on schema gendurable is
    'Private tables, types and helpers of gendurable. Use the gd_* functions and views.';

create type gendurable.status as enum (
    'runnable', 'executing', 'awaiting_signal', 'awaiting_children', 'done', 'failed', 'cancelled'
);

comment on type gendurable.status is
    'Where an instance stands; done, failed and cancelled are terminal.';

-- Each of the following shapes is filled by one function of the same name in sql/kernel/005_shapes.sql, by names: what an
-- attribute means stands there.

-- One instance on its way in, after its JSON or its arguments were read and before defaults are filled in.
create type gendurable.new_instance as (
    ord int, fsm text, version int, step text, state jsonb, queue text, priority int, partition_key text,
    unique_key text, unique_scope text[], eligible_at timestamptz, delay interval, rate_limit text,
    weight double precision, max_attempts int, meta jsonb, attributes jsonb, expires_at timestamptz
);

-- A signal that an outcome sends: to an id, or else to who holds a unique key.
create type gendurable.send as (
    id bigint, unique_key text, name text, payload jsonb, dedup_key text
);

-- One outcome on its way to the table. Reading the JSON fills it as far as the outcome itself tells;
-- later stages (error, await, children, key, keep) overwrite what the instance decides.
create type gendurable.outcome as (
    ord int, id bigint, claim_no bigint, kind text,
    status gendurable.status, ends boolean, step text, state jsonb,
    eligible_at timestamptz, lane_at timestamptz, deadline_at timestamptz,
    awaits text[], childs jsonb, children int, result jsonb, error text, consume bigint[],
    rekey boolean, partition_key text, queue text, priority int, rate_limit text, weight double precision,
    delayed boolean, keep boolean,
    inserts jsonb, sends gendurable.send[], from_step text, from_state jsonb, journal jsonb, traceback text, attributes jsonb,
    close_ms bigint, keep_until timestamptz, home text
);

-- A due row that a claim has locked and still has to sort: hand out, give a slot, park, or end.
create type gendurable.candidate as (
    id bigint, eligible_at timestamptz, status gendurable.status, crashes int, plain boolean,
    partition_key text, slot_no int, lane_at timestamptz, heavy boolean, bare boolean,
    rate_limit text, weight double precision, place timestamptz, lined boolean, priority int,
    scoped boolean, over boolean, at tid
);

-- What a claim hands to a worker: the result of gd_claim and gd_claim_many, and the detail of a kept claim.
create type gendurable.claimed as (
    id bigint, claim_no bigint, fsm text, fsm_version int, step text, state jsonb, attempt int, queue text,
    partition_key text, unique_key text, parent_id bigint, awaits text[], timed_out boolean,
    signals jsonb, childs jsonb, meta jsonb, attributes jsonb
);

-- What a bucket knows of the line of one queue before it: its bell and when that rings, since when it waits for its turn among the lines of
-- the bucket, and the weight and the place (priority, at, id) of the row that stands first.
create type gendurable.line as (
    queue text, ring_at timestamptz, turn_at timestamptz, weight double precision, priority int, at timestamptz, id bigint,
    bell_id bigint
);

-- A bucket that a claim has locked, with the line of the claim's queue: from 115_limits, where what is filled in means something.
create type gendurable.opened as (
    bucket text, no bigint, full_at timestamptz, lines gendurable.line[], clock timestamptz, us double precision,
    burst double precision, closed_until timestamptz, level double precision, reserved double precision,
    line gendurable.line, bells bigint[], settled boolean, bound_priority int, bound_at timestamptz, bound_id bigint,
    ends boolean, last_priority int, last_at timestamptz, last_id bigint, rows gendurable.candidate[]
);

-- A cron expression, as it was read.
create type gendurable.cron as (
    minutes int[], hours int[], days int[], months int[], weekdays int[], either boolean, elapsed boolean, every interval
);

-- What a filter asks for (kernel/098_filter); null: it does not ask.
create type gendurable.filter as (
    ids bigint[], fsm text, version int, step text, statuses gendurable.status[], queue text, partition_key text,
    partition_prefix text, unique_key text, unique_prefix text, rate_limit text, parent_id bigint, worker text, error text,
    meta jsonb, inserted_before timestamptz, inserted_after timestamptz, finished_before timestamptz,
    finished_after timestamptz, due_before timestamptz, stuck_since timestamptz, attributes jsonb
);
