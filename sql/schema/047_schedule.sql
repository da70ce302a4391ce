-- What is inserted at the ticks of a cron expression: gd_schedule. The clock of each is its bell (kernel/058_bells).
create table gendurable.schedule (
    name text primary key,
    cron text not null,
    timezone text not null,
    fsm text not null,
    options jsonb not null,
    queue text not null,                  -- where its bell stands, as gd_schedule found it, or the last tick
    priority int not null,
    since timestamptz not null,           -- from when on @every counts
    next_at timestamptz,                  -- the tick that its bell stands for; null while it is paused
    bell_id bigint,                       -- any other bell with its name is deleted when it rings
    last_tick_at timestamptz,             -- the last tick that inserted, found its place taken, or failed
    last_at timestamptz,                  -- when a tick inserted last, and what
    last_id bigint,
    last_error text,
    paused_at timestamptz,
    seen_at timestamptz not null,
    declared boolean not null default false,   -- it was announced by the code of an engine

    constraint schedule_options check (jsonb_typeof(options) = 'object'),
    constraint schedule_bell check ((next_at is null) = (bell_id is null) and (next_at is null) = (paused_at is not null))
)
-- a row a tick, each of them written in place
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

comment on table gendurable.schedule is 'Schedules, with where each of them is.';
