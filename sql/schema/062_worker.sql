-- Workers that say hello, what operators have told them, and what they have counted. Nothing that a hello writes is indexed: each is
-- a HOT update of one row, which nobody else locks.
create table gendurable.worker (
    worker text primary key,
    about jsonb not null,                 -- what it says of itself that seldom changes
    machines jsonb not null,              -- [[fsm, version, [step, ...]], ...]
    queues jsonb not null,                -- {queue: how many steps of it at once}
    state text not null,
    running int not null,
    started_at timestamptz,               -- by its own clock
    skew double precision,                -- seconds by which its clock is ahead
    first_seen_at timestamptz not null,
    seen_at timestamptz not null,
    until timestamptz not null,           -- it is gone if it has not said hello by then
    counted bigint not null               -- the last of its reports of ended steps that was counted
)
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = off);

comment on table gendurable.worker is 'Workers that said hello and neither bye nor nothing for three intervals.';

-- Beside the worker's row: who drains a worker in an open transaction must not keep it from saying hello.
create table gendurable.draining (
    worker text primary key,
    drained_at timestamptz not null default clock_timestamp(),
    drained_by text not null
);

comment on table gendurable.draining is 'Workers that gd_drain_worker has told to claim no more.';

-- Only ever inserted into, so that no worker waits for another; the upkeep puts the rows of a minute together.
create table gendurable.minute_count (
    at timestamptz not null,              -- the minute in which it was reported
    fsm text not null,
    step text not null,
    outcome text not null,
    count bigint not null,
    seconds double precision not null,    -- that these steps took, together
    summed boolean not null default false,
    next_step text                        -- where they went on; null: nowhere else, or the worker did not say
);

alter table gendurable.minute_count replica identity full;

comment on table gendurable.minute_count is 'How many steps ended, by minute, as workers have reported it; of one day.';

-- gd_stats, and what is a day old
create index minute_count_at on gendurable.minute_count (at);
-- what is still to be put together
create index minute_count_new on gendurable.minute_count (at)
where not summed;
