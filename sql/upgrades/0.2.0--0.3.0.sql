-- From 0.2.0 to 0.3.0: what changed in the tables. The functions are made anew after this.

-- What the coming releases need of the private types, all at once

alter type gendurable.new_instance add attribute attributes jsonb, add attribute expires_at timestamptz;

alter type gendurable.outcome
add attribute inserts jsonb, add attribute signals jsonb, add attribute from_step text, add attribute from_state jsonb,
add attribute journal jsonb, add attribute traceback text, add attribute attributes jsonb, add attribute close_ms bigint;

alter type gendurable.candidate
add attribute rate_limit text, add attribute weight double precision, add attribute place timestamptz,
add attribute lined boolean, add attribute priority int, add attribute scoped boolean,
add attribute over boolean;

-- Limits, schedules, deadlines, retention

create type gendurable.line as (
    queue text, ring_at timestamptz, turn_at timestamptz, weight double precision, priority int, at timestamptz, id bigint,
    bell_id bigint
);

-- A bucket that a claim has locked, with the line of the claim's queue: from 115_limits, where what is filled in means something.
create type gendurable.opened as (
    bucket text, no bigint, full_at timestamptz, lines gendurable.line[], clock timestamptz, us double precision,
    burst double precision, closed_until timestamptz, level double precision, reserved double precision,
    line gendurable.line, bells bigint[], settled boolean, bound_priority int, bound_at timestamptz, bound_id bigint,
    ends boolean, last_priority int, last_at timestamptz, last_id bigint
);

-- What a filter asks for (kernel/098_filter); null: it does not ask.
create type gendurable.filter as (
    ids bigint[], fsm text, version int, step text, statuses gendurable.status[], queue text, partition_key text,
    partition_prefix text, unique_key text, unique_prefix text, rate_limit text, parent_id bigint, worker text, error text,
    meta jsonb, inserted_before timestamptz, inserted_after timestamptz, finished_before timestamptz,
    finished_after timestamptz, due_before timestamptz, stuck_since timestamptz
);

alter table gendurable.instance
add column bucket_at timestamptz, add column queue_slot int, add column expires_at timestamptz,
add column timeout_at timestamptz, add column keep_until timestamptz,
drop constraint instance_status,
add constraint instance_status check (
    (finished_at is not null) = (status >= 'done')
    and case status
        when 'runnable' then eligible_at is not null or lane_at is not null or bucket_at is not null
        when 'executing' then eligible_at is not null
        when 'awaiting_signal' then coalesce(pg_catalog.cardinality(awaits) > 0, false)
        when 'awaiting_children' then coalesce(children_pending > 0, false)
        else true
    end
),
add constraint instance_line check (
    bucket_at is null or (status = 'runnable' and eligible_at is null and rate_limit is not null)
);

create index instance_line on gendurable.instance (rate_limit, queue, priority, bucket_at, id)
where bucket_at is not null;

create unique index instance_queue_slot on gendurable.instance (queue, queue_slot)
where queue_slot is not null;

create index instance_expires on gendurable.instance (expires_at, id)
where expires_at is not null;

create sequence gendurable.bell_id_seq increment -1 maxvalue -1 start -1 cache 1;

alter table gendurable.machine add column timeouts jsonb, add column retain jsonb;

create index machine_timed on gendurable.machine (fsm, version)
where timeouts is not null;

drop function gd_insert(
    text, jsonb, text, int, text, int, text, text, text[], timestamptz, interval, text, double precision, int, jsonb
);

create table gendurable.rate_limit (
    name text primary key,
    allowed double precision not null check (allowed >= 0),
    period interval,                      -- null where nothing is allowed
    burst double precision not null check (burst > 0),
    us_per_token double precision not null
);

comment on table gendurable.rate_limit is
    'How much may start: allowed tokens in each period, burst of them at once; for rate_limit "name" and "name:...".';

-- A bucket that is full and has no line needs no row. Changes insert a row and delete the one before: one that was updated in
-- place would be found behind all its dead versions while somebody holds a snapshot.
create table gendurable.bucket (
    bucket text not null,
    no bigint not null,
    full_at timestamptz not null,
    lines gendurable.line[] not null,
    primary key (bucket, no)
)
with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

comment on table gendurable.bucket is
    'When each bucket of a rate limit is full again, and the lines before it; the highest number of a bucket counts.';

-- No unique key: who closes a bucket waits for nobody.
create table gendurable.bucket_closed (
    bucket text not null,
    until timestamptz not null
);

alter table gendurable.bucket_closed replica identity full;

comment on table gendurable.bucket_closed is 'Buckets out of which nothing starts before a time: the latest counts.';

-- looked up for every bucket that a claim meets
create index bucket_closed_bucket on gendurable.bucket_closed (bucket, until);

create table gendurable.queue_setting (
    queue text primary key,
    max_executing int check (max_executing >= 0),
    changed_in xid8 default pg_current_xact_id(),    -- while claims are under way that may not know of the limit
    known_in xid8                                    -- all that begin from this transaction on do
);

comment on table gendurable.queue_setting is 'What gd_set_queue has said of a queue: how many of it may execute at once.';

-- Almost always empty. No unique key: who holds waits for nobody.
create table gendurable.hold (
    reason text not null,
    held_by text not null,
    held_at timestamptz not null default clock_timestamp()
);

alter table gendurable.hold replica identity full;

comment on table gendurable.hold is 'While there is a row, nothing is handed out.';

-- Schedules

create type gendurable.cron as (
    minutes int[], hours int[], days int[], months int[], weekdays int[], either boolean, elapsed boolean, every interval
);

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

create view gd_schedules as
select
    s.name, s.cron, s.timezone, s.fsm, s.queue, s.priority, s.options, s.next_at, s.last_tick_at, s.last_at, s.last_id,
    s.last_error, s.paused_at, s.seen_at
from gendurable.schedule s;

comment on view gd_schedules is
'Every schedule. A next_at that lies behind now means that nobody claims in its queue, or that the queue is paused.';

comment on column gd_schedules.name is 'how all functions call it';
comment on column gd_schedules.cron is 'the expression';
comment on column gd_schedules.timezone is 'the zone whose clock the expression is about';
comment on column gd_schedules.fsm is 'the machine of which each tick inserts an instance';
comment on column gd_schedules.queue is 'whose claims fire it';
comment on column gd_schedules.priority is 'that of what it inserts';
comment on column gd_schedules.options is 'what gd_schedule was told besides';
comment on column gd_schedules.next_at is 'the next tick, or the first one that was missed; null while it is paused';
comment on column gd_schedules.last_tick_at is
'the last tick that inserted, was held back by its overlap, or failed';
comment on column gd_schedules.last_at is 'when a tick inserted last';
comment on column gd_schedules.last_id is 'the instance that it inserted, which may have been removed since';
comment on column gd_schedules.last_error is 'why the last tick inserted nothing; null: it did, or its overlap held it back';
comment on column gd_schedules.paused_at is 'since when gd_pause_schedule has stopped it';
comment on column gd_schedules.seen_at is
'when somebody scheduled it last, or an engine had it in its code: to the hour';

-- What views show: not the bells

create or replace view gd_instances as
with i as not materialized (
    select
        x.id, x.fsm, x.fsm_version, x.step, x.status::text as status, x.queue, x.priority, x.eligible_at, x.attempt,
        x.crashes, x.worker, x.lease_expires_at, x.awaits, x.partition_key, x.unique_key, x.parent_id,
        coalesce(x.children_pending, 0) as children_pending, x.state, x.result, x.last_error, x.meta, x.inserted_at,
        x.updated_at, x.finished_at
    from gendurable.instance x
    where x.id > 0                       -- not the bells
)

select i.* from i;

create or replace view gd_queues as
select q.queue, d.due, d.delayed, d.executing, p.parked, d.oldest_due_at, q.paused, p.limited, s.max_executing
from (
    select n.queue, bool_or(n.paused) as paused
    from (
        select x.queue, false as paused from gendurable.queue_name x
        union all
        -- names may be forgotten beside an insert that is under way
        select l.queue, false as paused
        from (
            with recursive l as (
                (select i.queue from gendurable.instance i
                    where i.eligible_at is not null
                    order by i.queue limit 1)
                union all
                select (select i.queue from gendurable.instance i
                    where i.eligible_at is not null and i.queue > l.queue
                    order by i.queue limit 1)
                from l
                where l.queue is not null
            )

            select l.queue from l where l.queue is not null limit 10000
        ) l
        union all
        select x.queue, true as paused from gendurable.paused_queue x
        union all
        select x.queue, false as paused from gendurable.queue_setting x
    ) n
    group by n.queue
) q
cross join lateral (
    select
        least(coalesce(sum(c.due), 0), 100000)::bigint as due,
        least(coalesce(sum(c.delayed), 0), 100000)::bigint as delayed,
        least(coalesce(sum(c.executing), 0), 100000)::bigint as executing,
        min(c.oldest_due_at) as oldest_due_at
    from (
        -- from priority to priority through the index, whatever a queue once had
        with recursive p as (
            (select i.priority from gendurable.instance i
                where i.queue = q.queue and i.eligible_at is not null
                order by i.queue, i.priority limit 1)
            union all
            select (select i.priority from gendurable.instance i
                where i.queue = q.queue and i.eligible_at is not null and i.priority > p.priority
                order by i.queue, i.priority limit 1)
            from p
            where p.priority is not null
        )

        select p.priority from p where p.priority is not null limit 1000
    ) y
    cross join (values (0::smallint), (1::smallint)) w (woken)
    cross join lateral (
        select
            (select count(*) from (
                select i.id from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = w.woken
                    and i.eligible_at <= statement_timestamp() and i.status in ('runnable', 'awaiting_signal')
                    and i.id > 0
                limit 100000) x) as due,
            (select count(*) from (
                select i.id from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = w.woken
                    and i.eligible_at > statement_timestamp() and i.id > 0
                limit 100000) x) as delayed,
            (select count(*) from (
                select i.id from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = w.woken
                    and i.eligible_at <= statement_timestamp() and i.status = 'executing'
                limit 100000) x) as executing,
            (select i.eligible_at from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = w.woken
                    and i.eligible_at <= statement_timestamp() and i.status in ('runnable', 'awaiting_signal')
                    and i.id > 0
                order by i.eligible_at limit 1) as oldest_due_at
    ) c
) d
cross join lateral (
    select count(*) as parked, count(*) filter (where x.bucket_at is not null) as limited
    from (
        select i.bucket_at from gendurable.instance i
        where i.queue = q.queue and i.eligible_at is null and i.finished_at is null
        limit 100000
    ) x
) p
left join gendurable.queue_setting s on q.queue = s.queue;

-- What the columns of the views mean

comment on view gd_instances is 'Every instance.';

comment on column gd_instances.id is 'how all functions call it';
comment on column gd_instances.fsm is 'the machine''s name';
comment on column gd_instances.fsm_version is 'the machine''s version, that of the insert';
comment on column gd_instances.step is 'the step that runs now or next, or where it ended';
comment on column gd_instances.status is
'"runnable", "executing", "awaiting_signal", "awaiting_children", "done", "failed" or "cancelled"';
comment on column gd_instances.queue is 'where workers look for it';
comment on column gd_instances.priority is 'lower runs earlier';
comment on column gd_instances.eligible_at is
'when a worker looks at it next; null while it is parked, waits in its key, or has ended';
comment on column gd_instances.attempt is '0 in the step''s first run';
comment on column gd_instances.crashes is 'how often in a row its claim was lost; at 20 it ends as "failed"';
comment on column gd_instances.worker is 'who holds its claim, null: nobody';
comment on column gd_instances.lease_expires_at is 'when that claim is taken back, unless it is renewed or committed';
comment on column gd_instances.awaits is 'the names of the signals that it awaits, or awaited when its step was woken';
comment on column gd_instances.partition_key is
'at most one instance of a key executes at a time, or as many as gd_set_key_limit says';
comment on column gd_instances.unique_key is 'as given at the insert, whether it is held now or not';
comment on column gd_instances.parent_id is 'whose child it is';
comment on column gd_instances.children_pending is 'how many children its barrier still waits for';
comment on column gd_instances.state is 'what the next step gets';
comment on column gd_instances.result is 'of one that is "done"';
comment on column gd_instances.last_error is 'why it failed or was cancelled, or why its step was run again';
comment on column gd_instances.meta is 'as given at the insert';
comment on column gd_instances.inserted_at is 'when it was inserted';
comment on column gd_instances.updated_at is 'when its row was written last';
comment on column gd_instances.finished_at is 'when it ended';

comment on view gd_queues is
'Every queue that has or had instances, is paused or has a limit. Counted through the indexes; each count is exact up to 100,000
and cut there. A queue with due rows, nothing executing and an old oldest_due_at is one that nobody serves, and it
holds up the keys of its rows.';

comment on column gd_queues.queue is 'its name';
comment on column gd_queues.due is 'a worker may take it now';
comment on column gd_queues.delayed is 'due later: a delay, a back-off, a deadline';
comment on column gd_queues.executing is 'under a claim';
comment on column gd_queues.parked is 'waits for a signal, for children, in its key or for its rate limit';
comment on column gd_queues.oldest_due_at is 'since when the first of the due ones waits';
comment on column gd_queues.paused is 'gd_pause_queue has stopped it';
comment on column gd_queues.limited is 'of the parked ones those that wait for their rate limit';
comment on column gd_queues.max_executing is 'how many may execute at once, as gd_set_queue says; null: any number';

comment on view gd_workers is 'Who holds claims now. It reads the 100,000 oldest due rows of each queue and priority.';

comment on column gd_workers.worker is 'the label that the claims were made with';
comment on column gd_workers.executing is 'how many claims it holds';
comment on column gd_workers.oldest_claim_at is
'since when it holds the oldest of them (a claim''s number is its time)';

create view gd_rate_limits as
select
    r.name, r.allowed, r.period, r.burst, b.bucket,
    case
        when r.us_per_token = 'infinity' then 0
        else least(greatest(
            r.burst - extract(epoch from b.full_at - statement_timestamp())::double precision * 1000000 / r.us_per_token, 0),
            r.burst)
    end as level,
    l.queue, l.ring_at as next_at, c.until as closed_until
from gendurable.rate_limit r
left join lateral (
    select x.bucket, coalesce(y.full_at, statement_timestamp()) as full_at, y.lines
    from (
        select k.bucket from gendurable.bucket k
        union
        select k.bucket from gendurable.bucket_closed k where k.until > statement_timestamp()
    ) x
    left join gendurable.bucket y on y.bucket = x.bucket
    where (x.bucket = r.name or starts_with(x.bucket, r.name || ':')) and not exists (
        select from gendurable.rate_limit o
        where length(o.name) > length(r.name) and (x.bucket = o.name or starts_with(x.bucket, o.name || ':'))
    )
) b on true
left join lateral unnest(b.lines) l on true
left join lateral (
    select max(k.until) as until
    from gendurable.bucket_closed k
    where k.bucket = b.bucket and k.until > statement_timestamp()
) c on true;

comment on view gd_rate_limits is
'Every rate limit, with each of its buckets out of which something has started lately or that has a line, and each queue
that has a line there: rows that wait. A bucket that is not here is full.';

comment on column gd_rate_limits.name is 'it decides for rate_limit "name" and "name:...", unless a longer name fits';
comment on column gd_rate_limits.allowed is 'how many tokens a bucket gains in each period';
comment on column gd_rate_limits.period is 'null where nothing is allowed';
comment on column gd_rate_limits.burst is 'how many a bucket holds';
comment on column gd_rate_limits.bucket is 'the rate_limit of the rows; null: all buckets are full';
comment on column gd_rate_limits.level is 'how many tokens are in it now';
comment on column gd_rate_limits.queue is 'a queue of which rows wait for tokens; null: none does';
comment on column gd_rate_limits.next_at is 'when the first of them is tried next';
comment on column gd_rate_limits.closed_until is 'gd_close_rate_limit, or close_ms of an outcome: nothing starts before';

create view gd_holds as
with h as not materialized (
    select x.reason, x.held_by, x.held_at
    from gendurable.hold x
)

select h.* from h;

comment on view gd_holds is 'While there is a row, nothing is handed out: gd_hold_all has stopped it. gd_release_hold removes all rows.';

comment on column gd_holds.reason is 'why';
comment on column gd_holds.held_by is 'who: the role of the session, behind the name in the setting gendurable.actor if it has one';
comment on column gd_holds.held_at is 'since when';
