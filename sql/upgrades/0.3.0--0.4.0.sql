-- From 0.3.0 to 0.4.0: what changed in the tables. The functions are made anew after this.

alter type gendurable.candidate add attribute at tid;

-- Seeing: what is searched by, what failed, what is paused

alter table gendurable.instance add column attributes jsonb, add column failed_at timestamptz, add column paused_at timestamptz,
add column aside_at timestamptz, add column paused_by text, add column aside_step text;

do $$
declare
    v_path constant text := pg_catalog.current_setting('search_path');
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    update gendurable.instance i set failed_at = i.finished_at where i.status > 'done';
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;

-- Checks: one function for all but that of the documents

create or replace function gendurable._is_whole(
    p_status gendurable.status, p_attempt int, p_crashes int, p_woken smallint, p_eligible_at timestamptz, p_lane_at timestamptz,
    p_bucket_at timestamptz, p_aside_at timestamptz, p_deadline_at timestamptz, p_lease_expires_at timestamptz, p_worker text,
    p_awaits text[], p_children_pending int, p_partition_key text, p_slot_no int, p_rate_limit text, p_unique_key text,
    p_unique_held text, p_unique_scope gendurable.status[], p_finished_at timestamptz, p_failed_at timestamptz, p_keep_until timestamptz,
    p_step text, p_aside_step text
) returns boolean
language plpgsql immutable parallel safe as $$
begin
    return (
        -- numbers and times
        (p_attempt >= 0 and p_crashes >= 0 and p_children_pending >= 0 and p_woken in (0, 1)) is not false
        and (pg_catalog.isfinite(p_eligible_at) and pg_catalog.isfinite(p_lane_at)) is not false
        -- what a status needs
        and case p_status
            when 'runnable' then coalesce(p_eligible_at, p_lane_at, p_bucket_at, p_aside_at) is not null
            when 'executing' then p_eligible_at is not null
            when 'awaiting_signal' then coalesce(pg_catalog.cardinality(p_awaits) > 0, false)
            when 'awaiting_children' then coalesce(p_children_pending > 0, false)
            else true
        end
        and (p_finished_at is not null) = (p_status >= 'done')
        and (p_failed_at is not null) = (p_status > 'done')
        and (p_keep_until is null or p_status >= 'done')
        -- a claim
        and (p_status = 'executing') = (p_worker is not null)
        and (p_worker is null) = (p_lease_expires_at is null)
        -- what has no turn to come has no place in its key, and is due only to carry the key's baton
        and (
            p_status < 'awaiting_children'
            or (p_lane_at is null and (p_eligible_at is null or p_partition_key is not null))
        )
        -- a key
        and case
            when p_partition_key is null then p_slot_no is null and p_lane_at is null
            else
                (p_worker is null) = (p_slot_no is null)
                and (
                    coalesce(p_lane_at, p_aside_at) is not null
                    or not (p_status = 'runnable' or (p_status = 'awaiting_signal' and p_deadline_at is not null))
                )
        end
        -- who is aside is found by the step at which it stands
        and (p_aside_at is null or coalesce(p_aside_step = p_step, false))
        -- who stands in a line is found by its bell alone
        and (p_bucket_at is null or (p_status = 'runnable' and p_eligible_at is null and p_rate_limit is not null))
        -- who holds a unique key
        and (
            p_unique_held is null
            or (coalesce(p_unique_held = p_unique_key, false) and (p_unique_scope is not null or p_status < 'done'))
        )
    );
end $$;

comment on function gendurable._is_whole(
    gendurable.status, int, int, smallint, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, text, text[],
    int, text, int, text, text, text, gendurable.status[], timestamptz, timestamptz, timestamptz, text, text
) is
    'Whether the columns of an instance fit together. In the check of gendurable.instance.';

alter table gendurable.instance
drop constraint instance_times_are_finite,
drop constraint instance_counts,
drop constraint instance_status,
drop constraint instance_claim,
drop constraint instance_baton,
drop constraint instance_key,
drop constraint instance_line,
drop constraint instance_woken,
drop constraint instance_unique,
add constraint instance_is_whole check (
    gendurable._is_whole(
        status, attempt, crashes, woken, eligible_at, lane_at, bucket_at, aside_at, deadline_at, lease_expires_at, worker, awaits,
        children_pending, partition_key, slot_no, rate_limit, unique_key, unique_held, unique_scope, finished_at, failed_at,
        keep_until, step, aside_step
    )
);

create index instance_failed on gendurable.instance (fsm, failed_at, id)
where failed_at is not null;

create index instance_failed_any on gendurable.instance (failed_at, id)
where failed_at is not null;

create index instance_key on gendurable.instance (partition_key, id)
where partition_key is not null and lane_at is null;

create index instance_unique_past on gendurable.instance (unique_key, id)
where unique_key is not null and unique_held is null;

create index instance_finished_apart on gendurable.instance (finished_at, id)
where finished_at is not null and (keep_until is not null or barrier_no is not null);

create or replace view gd_instances as
select
    x.id, x.fsm, x.fsm_version, x.step, x.status::text as status, x.queue, x.priority, x.eligible_at, x.attempt,
    x.crashes, x.worker, x.lease_expires_at, x.awaits, x.partition_key, x.unique_key, x.parent_id,
    coalesce(x.children_pending, 0) as children_pending, x.state, x.result, x.last_error, x.meta, x.inserted_at,
    x.updated_at, x.finished_at, x.rate_limit, x.expires_at, x.timeout_at, x.keep_until,
    coalesce(x.attributes, '{}'::jsonb) as attributes, x.paused_at
from gendurable.instance x
cross join (select 1 as one) nothing
where x.id > 0;                          -- not the bells

comment on column gd_instances.rate_limit is 'the bucket out of which it starts next';
comment on column gd_instances.expires_at is 'its deadline, while it has not ended';
comment on column gd_instances.timeout_at is 'when its claim ends, whatever its worker does: the timeout of its step';
comment on column gd_instances.keep_until is
'until when it is kept after its end; null: as long as those whose machine says nothing';
comment on column gd_instances.attributes is 'what it is searched by';
comment on column gd_instances.paused_at is 'since when gd_pause has stopped it';

-- Steering: who did what by hand

create table gendurable.audit (
    no bigint generated by default as identity primary key,
    at timestamptz not null default clock_timestamp(),
    call text not null,
    session_role text not null,           -- who has logged in
    set_role text,                        -- whom it has become by SET ROLE
    actor text,                           -- what the session says of itself: gendurable.actor
    application text,
    about_id bigint,                      -- the one instance that it concerns, which may be gone; null: several, or none
    what jsonb not null,                  -- its arguments, in short
    count bigint not null                 -- on how many it had an effect
);

comment on table gendurable.audit is 'What was done by hand, and by whom.';

-- gd_audit: what was done to one instance
create index audit_about on gendurable.audit (about_id, no)
where about_id is not null;

-- Attributes: what instances are searched by

create table gendurable.attribute (
    instance_id bigint not null,
    word text collate "C" not null,
    primary key (instance_id, word)
);

comment on table gendurable.attribute is 'The words by which instances with attributes are found: "key=value".';

create index attribute_word on gendurable.attribute (word, instance_id);

alter type gendurable.claimed add attribute attributes jsonb;

alter type gendurable.filter add attribute attributes jsonb;

-- on the way from an older release it is not there
drop function if exists gd_insert(
    text, jsonb, text, int, text, int, text, text, text[], timestamptz, interval, text, double precision, int, jsonb,
    timestamptz
);

-- they answer the attributes, too
drop function if exists gd_claim(text, text, int, interval, jsonb);

drop function if exists gd_claim_many(text, jsonb, interval, jsonb);
-- Views whose order is that of an index, and counts of queues that are cut at 10,000

create or replace view gd_schedules as
select
    x.name, x.cron, x.timezone, x.fsm, x.queue, x.priority, x.options, x.next_at, x.last_tick_at, x.last_at, x.last_id,
    x.last_error, x.paused_at, x.seen_at
from gendurable.schedule x
cross join (select 1 as one) nothing;

create or replace view gd_holds as
select x.reason, x.held_by, x.held_at
from gendurable.hold x
cross join (select 1 as one) nothing;

-- What is kept: errors, and the history of machines that ask for it

alter table gendurable.machine add column history text check (history in ('steps', 'states'));

create index machine_history on gendurable.machine (fsm, version)
where history is not null;

-- Flows: their journals

create table gendurable.journal (
    instance_id bigint not null,
    seq int not null,
    entry jsonb not null,
    primary key (instance_id, seq)
)
-- cutting the end of the file takes a lock that stops commits
with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

comment on table gendurable.journal is 'The journals of flows: an entry for each checkpoint.';

-- Deploys: the steps of a version, and which version an insert gets

alter table gendurable.machine add column steps text[], add column pinned boolean not null default false;

create index machine_chosen on gendurable.machine (fsm, pinned, version);

-- Called once where a machine says its steps: each insert and each commit looks at it.
create sequence gendurable.steps_asked_seq;


create table gendurable.error (
    instance_id bigint not null,
    no bigint not null,
    at timestamptz not null,
    attempt int not null,
    kind text not null,
    step text not null,
    worker text,                          -- of an end by hand: who did it
    error text,
    traceback text,
    primary key (instance_id, no)
);

comment on table gendurable.error is 'The last 20 errors of each instance.';

-- gd_crashes, gd_doctor: what has lost its worker
create index error_crash on gendurable.error (at, instance_id, no)
where kind operator (pg_catalog.=) 'crash';

create table gendurable.history (
    instance_id bigint not null,
    no bigint not null,
    at timestamptz not null,
    seconds double precision,             -- since the claim; null: it was not executing
    attempt int not null,
    kind text not null,
    step text not null,
    next_step text,
    worker text,
    state jsonb,                          -- before it; null: the machine keeps only its steps
    detail jsonb,
    primary key (instance_id, no)
);

comment on table gendurable.history is 'What happened to the instances of machines that keep a history.';

-- Instances that are gone, and had so long a history or journal that a part of it is left to gd_gc.
create table gendurable.history_left (
    gone_id bigint not null
);

-- without a key, a publication would refuse deletes and updates
alter table gendurable.history_left replica identity full;

comment on table gendurable.history_left is
    'Removed instances of whose history or journal a part is still to be removed; almost always empty.';

-- the next one to be worked off, and "is it put down already"
create index history_left_gone on gendurable.history_left (gone_id);

-- Called once where a machine asks for a history: each commit looks at it.
create sequence gendurable.history_asked_seq;

-- Pauses

alter table gendurable.paused_queue add column paused_by text;

alter table gendurable.queue_setting add column concurrency int check (concurrency >= 0);

comment on table gendurable.queue_setting is
    'What gd_set_queue has said of a queue: how many of it may execute at once, in all and at each worker.';

create index instance_paused on gendurable.instance (paused_at, fsm, aside_step, fsm_version, id)
where finished_at is null and coalesce(paused_at, aside_at) is not null;

create table gendurable.paused_machine (
    fsm text not null,
    version int not null,                 -- 0: all of them
    step text not null,                   -- '': all of them
    paused_at timestamptz not null default clock_timestamp(),
    paused_by text not null,
    primary key (fsm, version, step)
);

comment on table gendurable.paused_machine is 'Machines, versions and steps of which nothing is handed out for now.';

-- Almost always empty. No unique key: who resumes a machine waits for nobody. A copy of the database has none: its upkeep finds
-- what there is to bring back.
create table gendurable.resumed (
    id bigint generated by default as identity primary key,
    fsm text not null,
    at_step text not null default '',     -- up to where it was looked at
    at_version int not null default 0,
    at_id bigint not null default 0,
    rounds int not null default 0,
    again_at timestamptz not null default clock_timestamp(),
    changed_in xid8 not null default pg_current_xact_id(),   -- claims that began before its end may not know of it
    known_in xid8                                            -- all that begin from this transaction on do
);

comment on table gendurable.resumed is 'Machines that were paused, and of which rows may still be set aside.';


create view gd_pauses as
with p as not materialized (
    select
        'queue'::text as kind, x.queue, null::text as fsm, null::int as version, null::text as step, null::bigint as id,
        x.paused_at, x.paused_by
    from gendurable.paused_queue x
    union all
    select
        case when x.step <> '' then 'step' when x.version > 0 then 'version' else 'machine' end as kind, null as queue, x.fsm,
        nullif(x.version, 0) as version, nullif(x.step, '') as step, null as id, x.paused_at, x.paused_by
    from gendurable.paused_machine x
    union all
    select 'instance' as kind, x.queue, x.fsm, x.fsm_version, x.step, x.id, x.paused_at, x.paused_by
    from (
        select i.queue, i.fsm, i.fsm_version, i.step, i.id, i.paused_at, i.paused_by
        from gendurable.instance i
        where i.paused_at is not null and i.finished_at is null and coalesce(i.paused_at, i.aside_at) is not null
        order by i.paused_at desc
        limit 10000
    ) x
)

select p.* from p;

comment on view gd_pauses is
'What is paused: queues, machines with their versions and steps, and of the instances that gd_pause has stopped the latest 10,000.
Everything may be held besides: see gd_holds.';

comment on column gd_pauses.kind is '"queue", "machine", "version", "step" or "instance"';
comment on column gd_pauses.queue is 'the queue, or that of the instance';
comment on column gd_pauses.fsm is 'the machine, or that of the instance';
comment on column gd_pauses.version is 'the version, or that of the instance; null: all';
comment on column gd_pauses.step is 'the step, or that of the instance; null: all';
comment on column gd_pauses.id is 'the instance';
comment on column gd_pauses.paused_at is 'since when';
comment on column gd_pauses.paused_by is
'who: the setting gendurable.actor, else the role of the session; null: by a call of an older version';

-- Steering: workers that are known, and what they have counted

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

-- Counted range by range of the claims' index, so that a look never reads the whole table: each count is cut at 10,000, and where more
-- than three queues have more than 200 rows, at their share of 30,000.
create or replace view gd_queues as
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
),

b as (
    (select i.queue from gendurable.instance i
        where i.eligible_at is null and i.finished_at is null
        order by i.queue limit 1)
    union all
    select (select i.queue from gendurable.instance i
        where i.eligible_at is null and i.finished_at is null and i.queue > b.queue
        order by i.queue limit 1)
    from b
    where b.queue is not null
),

-- how many queues have more than 200 rows in the index of the claims, and in that of what is parked
c as materialized (
    select greatest(30000 / greatest(d.count, k.count, 3), 200) as most
    from (
        select count(*) as count
        from (select l.queue from l where l.queue is not null limit 10000) l
        cross join lateral (
            select true as is_full from gendurable.instance i
            where i.queue = l.queue and i.eligible_at is not null
            order by i.queue, i.priority, i.woken, i.eligible_at, i.id
            limit 1 offset 200
        ) x
    ) d
    cross join (
        select count(*) as count
        from (select b.queue from b where b.queue is not null limit 10000) b
        cross join lateral (
            select true as is_full from gendurable.instance i
            where i.queue between b.queue and b.queue and i.eligible_at is null and i.finished_at is null
            order by i.queue
            limit 1 offset 200
        ) x
    ) k
)

select q.queue, d.due, d.delayed, d.executing, k.parked, d.oldest_due_at, q.paused, coalesce(t.limited, 0) as limited, s.max_executing,
    s.concurrency, coalesce(h.workers, 0::bigint) as workers, coalesce(h.slots, 0::bigint) as slots, c.most as counted_to
from (
    select n.queue, bool_or(n.paused) as paused
    from (
        select x.queue, false as paused from gendurable.queue_name x
        union all
        -- names may be forgotten beside an insert that is under way
        select l.queue, false as paused
        from (
            select l.queue from l where l.queue is not null limit 10000
        ) l
        union all
        select x.queue, true as paused from gendurable.paused_queue x
        union all
        select x.queue, false as paused from gendurable.queue_setting x
        union all
        select e.key as queue, false as paused
        from gendurable.worker x
        cross join lateral jsonb_each_text(x.queues) e
        where x.until > statement_timestamp()
    ) n
    group by n.queue
) q
cross join c
cross join lateral (
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
    ),

    y as (
        select p.priority, w.woken
        from (select x.priority from p x where x.priority is not null limit 1000) p
        cross join (values (0::smallint), (1::smallint)) w (woken)
    )

    select n.due, n.executing, l.delayed, o.oldest_due_at
    from (
        select
            count(*) filter (where x.status in ('runnable', 'awaiting_signal')) as due,
            count(*) filter (where x.status = 'executing') as executing
        from (
            select r.status
            from y
            cross join lateral (
                select i.status
                from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = y.woken
                    and i.eligible_at <= statement_timestamp() and i.id > 0
                order by i.eligible_at, i.id
                limit c.most
            ) r
            limit c.most
        ) x
    ) n
    cross join (
        select count(*) as delayed
        from (
            select r.id
            from y
            cross join lateral (
                select i.id
                from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = y.woken
                    and i.eligible_at > statement_timestamp() and i.id > 0
                order by i.eligible_at, i.id
                limit c.most
            ) r
            limit c.most
        ) x
    ) l
    cross join (
        select min(r.eligible_at) as oldest_due_at
        from y
        cross join lateral (
            select x.eligible_at
            from (
                select i.status, i.eligible_at
                from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = y.woken
                    and i.eligible_at <= statement_timestamp() and i.id > 0
                order by i.eligible_at, i.id
                limit 10000
            ) x
            where x.status in ('runnable', 'awaiting_signal')
            limit 1
        ) r
    ) o
) d
cross join lateral (
    select count(*) as parked
    from (
        select i.queue from gendurable.instance i
        where i.queue between q.queue and q.queue and i.eligible_at is null and i.finished_at is null
        order by i.queue
        limit c.most
    ) x
) k
left join (
    select g.queue, v.limited
    from (
        -- from line to line
        with recursive l as (
            (select i.rate_limit, i.queue from gendurable.instance i
                where i.bucket_at is not null
                order by i.rate_limit, i.queue limit 1)
            union all
            select n.rate_limit, n.queue
            from l
            cross join lateral (
                select i.rate_limit, i.queue from gendurable.instance i
                where i.bucket_at is not null and (i.rate_limit, i.queue) > (l.rate_limit, l.queue)
                order by i.rate_limit, i.queue limit 1
            ) n
        )

        select l.queue, z.most, array_agg(l.rate_limit) as names
        from (select x.rate_limit, x.queue from l x limit 10000) l
        cross join c z
        group by l.queue, z.most
    ) g
    cross join lateral (
        -- of all lines of a queue together
        select count(*) as limited
        from (
            select r.id
            from unnest(g.names) y (rate_limit)
            cross join lateral (
                select i.id from gendurable.instance i
                where i.rate_limit = y.rate_limit and i.queue = g.queue and i.bucket_at is not null
                order by i.priority, i.bucket_at, i.id
                limit g.most
            ) r
            limit g.most
        ) x
    ) v
) t on q.queue = t.queue
left join gendurable.queue_setting s on q.queue = s.queue
left join (
    select e.key as queue, count(*) as workers, sum(e.value::int) as slots
    from gendurable.worker w
    cross join lateral jsonb_each_text(w.queues) e
    where w.until > statement_timestamp() and w.state = 'running'::text and e.value::int > 0
        and not exists (select from gendurable.draining x where x.worker = w.worker)
    group by e.key
) h on q.queue = h.queue;

comment on view gd_queues is
'Every queue that has or had instances, is paused, has a limit or is served. Counted through the indexes; each count is cut at
10,000, due and executing together: the most urgent ones are looked at. Where more than three queues have more than 200 rows,
it is cut at their share of 30,000, and at 200 at least. A queue with due rows, nothing executing and an
old oldest_due_at is one that nobody serves, and it holds up the keys of its rows. workers and slots tell of workers that
say hello: those of an older package do not.';

comment on column gd_queues.queue is 'its name';

comment on column gd_queues.due is 'a worker may take it now';

comment on column gd_queues.delayed is 'due later: a delay, a back-off, a deadline';

comment on column gd_queues.executing is 'under a claim';

comment on column gd_queues.parked is
'waits for a signal, for children, in its key or for its rate limit, or a pause has set it aside';

comment on column gd_queues.oldest_due_at is 'since when the first of the due ones waits';

comment on column gd_queues.paused is 'gd_pause_queue has stopped it';

comment on column gd_queues.limited is 'of the parked ones those that wait for their rate limit';

comment on column gd_queues.max_executing is 'how many may execute at once, as gd_set_queue says; null: any number';

comment on column gd_queues.concurrency is
'how many each worker is to execute at once, as gd_set_queue says; null: as many as it was started with';

comment on column gd_queues.workers is 'how many known workers serve it, and do not drain';

comment on column gd_queues.slots is 'how many steps of it these run at once, together';
comment on column gd_queues.counted_to is 'where its counts are cut: one that is as high, or due and executing together, may be more';


create or replace view gd_workers as
select
    coalesce(k.worker, c.worker) as worker, coalesce(c.executing, 0::bigint) as executing, c.oldest_claim_at,
    k.about ->> 'host'::text as host, (k.about ->> 'pid'::text)::int as pid, k.about ->> 'version'::text as version,
    k.queues, k.machines, k.about,
    case when d.drained_at is not null and k.state = 'running'::text then 'draining'::text else k.state end as state,
    k.running, k.started_at, k.first_seen_at, k.seen_at, d.drained_at as draining_since, d.drained_by, k.skew as clock_skew
from (
    select
        coalesce(m.worker, g.worker) as worker, sum(g.executing)::bigint as executing,
        to_timestamp(min(g.claim_no)::double precision / 1000000::double precision) as oldest_claim_at
    from (
        select h.worker, count(*) as executing, min(h.claim_no) as claim_no
        from (
            with recursive l as (
                (select i.queue, i.priority from gendurable.instance i
                    where i.eligible_at is not null
                    order by i.queue, i.priority limit 1)
                union all
                select n.queue, n.priority
                from l
                cross join lateral (
                    select i.queue, i.priority from gendurable.instance i
                    where i.eligible_at is not null and (i.queue, i.priority) > (l.queue, l.priority)
                    order by i.queue, i.priority limit 1
                ) n
            )

            select x.queue, x.priority, greatest(10000 / greatest(count(*) over (), 10), 20) as share
            from (select l.queue, l.priority from l limit 10000) x
        ) y
        cross join (values (0::smallint), (1::smallint)) w (woken)
        cross join lateral (
            select i.worker, i.claim_no, i.status
            from gendurable.instance i
            where i.queue = y.queue and i.priority = y.priority and i.woken = w.woken
                and i.eligible_at <= statement_timestamp()
            order by i.eligible_at, i.id
            limit y.share
        ) h
        where h.status = 'executing'
        group by h.worker
    ) g
    left join lateral (
        -- after a claim whose answer was lost, an engine goes on under its name with a number behind it
        select x.worker
        from gendurable.worker x
        where x.worker = any(array[g.worker, regexp_replace(g.worker, '#[0-9]+$'::text, ''::text)])
            and x.until > statement_timestamp()
        order by length(x.worker) desc
        limit 1
    ) m on true
    group by coalesce(m.worker, g.worker)
) c
full join (
    select
        x.worker, x.about, x.machines, x.queues, x.state, x.running, x.started_at, x.first_seen_at, x.seen_at, x.skew
    from gendurable.worker x
    where x.until > statement_timestamp()
) k on c.worker = k.worker
left join gendurable.draining d on k.worker = d.worker;

comment on view gd_workers is
'Every known worker that lives, and whoever else holds claims now. A worker is known while it says hello (gd_hello) in time;
one of an older package does not, and has null in all but the first three columns. For the claims it reads the 1,000
oldest due rows of each queue and priority; where these are more than 10, their share of 10,000, and 20 at least.';

comment on column gd_workers.worker is 'the label that the claims were made with, or the name under which it says hello';

comment on column gd_workers.executing is 'how many claims it holds';

comment on column gd_workers.oldest_claim_at is
'since when it holds the oldest of them (a claim''s number is its time)';

comment on column gd_workers.host is 'where it runs';

comment on column gd_workers.pid is 'its process there';

comment on column gd_workers.version is 'of its package';

comment on column gd_workers.queues is '{queue: how many steps of it it runs at once}, as it is now';

comment on column gd_workers.machines is '[[fsm, version, [step, ...]], ...]: what it can run; all of it unless about says "more"';

comment on column gd_workers.about is 'what else it says of itself, as gd_hello has it';

comment on column gd_workers.state is '"running", "draining", "drained" (nothing is left) or "stopping"';

comment on column gd_workers.running is 'how many steps it ran when it said hello last';

comment on column gd_workers.started_at is 'by its own clock';

comment on column gd_workers.first_seen_at is 'since when it is known';

comment on column gd_workers.seen_at is 'when it said hello last';

comment on column gd_workers.draining_since is 'when gd_drain_worker was called for it';

comment on column gd_workers.drained_by is 'who called it';

comment on column gd_workers.clock_skew is 'seconds by which its clock is ahead of the server, as far as a call tells';

create or replace view gd_rate_limits as
select
    r.name, r.allowed, r.period, r.burst, b.bucket,
    case
        when r.us_per_token = double precision 'infinity' then 0::double precision
        else least(greatest(
            r.burst - extract(epoch from b.full_at - statement_timestamp())::double precision * 1000000::double precision
            / r.us_per_token, 0::double precision),
            r.burst)
    end as level,
    l.queue, l.ring_at as next_at, c.until as closed_until
from gendurable.rate_limit r
left join (
    select o.bucket, coalesce(y.full_at, statement_timestamp()) as full_at, y.lines, o.name
    from (
        -- of each bucket its limit, as gendurable._find_rate_limit finds it: not of each limit its buckets, of all that there are
        select distinct on (x.bucket) x.bucket, z.name
        from (
            select k.bucket from gendurable.bucket k
            union
            select k.bucket from gendurable.bucket_closed k where k.until > statement_timestamp()
        ) x
        cross join lateral generate_series(1, pg_catalog.cardinality(string_to_array(x.bucket, ':'::text))) n
        inner join gendurable.rate_limit z
            on z.name = pg_catalog.array_to_string((string_to_array(x.bucket, ':'::text))[1:n], ':'::text)
        order by x.bucket, length(z.name) desc
    ) o
    left join gendurable.bucket y on o.bucket = y.bucket
) b on r.name = b.name
left join lateral unnest(b.lines) l on true
left join lateral (
    select max(k.until) as until
    from gendurable.bucket_closed k
    where k.bucket = b.bucket and k.until > statement_timestamp()
) c on true;

-- What open instances there are, by machine, read at the heads of the indexes of the claims and of the parked rows: up to 100 queues,
-- and 5,000 rows of each index in all. Pure SQL: a function in a view runs with the rights of who asks.
create view gd_machines as
with recursive head as (
    (
        select i.queue from gendurable.instance i
        where i.eligible_at is not null
        order by i.queue limit 1)
    union all
    select (
        select i.queue from gendurable.instance i
        where i.eligible_at is not null and i.queue > h.queue
        order by i.queue limit 1)
    from head h
    where h.queue is not null
),

back as (
    (
        select i.queue from gendurable.instance i
        where i.eligible_at is null and i.finished_at is null
        order by i.queue limit 1)
    union all
    select (
        select i.queue from gendurable.instance i
        where i.eligible_at is null and i.finished_at is null and i.queue > b.queue
        order by i.queue limit 1)
    from back b
    where b.queue is not null
),

due as materialized (
    select q.queue, greatest(5000 / count(*) over (), 1) as share
    from (select h.queue from head h where h.queue is not null limit 100) q
),

parked as materialized (
    select q.queue, greatest(5000 / count(*) over (), 1) as share
    from (select b.queue from back b where b.queue is not null limit 100) q
),

looked as materialized (
    -- grouped queue by queue, so few at a time that it is not done by sorting them
    select d.queue, d.share, i.fsm, i.fsm_version, i.step, i.status, i.bell, i.count
    from due d
    cross join lateral (
        select y.fsm, y.fsm_version, y.step, y.status, y.id < 0 as bell, count(*) as count
        from (
            select x.id, x.fsm, x.fsm_version, x.step, x.status
            from gendurable.instance x
            where x.queue = d.queue and x.eligible_at is not null
            order by x.queue, x.priority, x.woken, x.eligible_at, x.id
            limit d.share
        ) y
        group by y.fsm, y.fsm_version, y.step, y.status, y.id < 0
    ) i
    union all
    select p.queue, p.share, i.fsm, i.fsm_version, i.step, i.status, null::boolean as bell, i.count
    from parked p
    cross join lateral (
        select y.fsm, y.fsm_version, y.step, y.status, count(*) as count
        from (
            select x.fsm, x.fsm_version, x.step, x.status
            from gendurable.instance x
            -- as a range, so that it is read in the order of the index and left early, and not all of it gathered first
            where x.queue >= p.queue and x.queue <= p.queue and x.eligible_at is null and x.finished_at is null
            order by x.queue
            limit p.share
        ) y
        group by y.fsm, y.fsm_version, y.step, y.status
    ) i
),

whole as materialized (
    select
        coalesce(bool_and(r.count < r.share), true)
        and (select count(*) < 100 as few from due) and (select count(*) < 100 as few from parked) as whole
    from (
        select sum(l.count)::bigint as count, l.share
        from looked l
        group by l.queue, l.share, l.bell is null
    ) r
),

known as (
    select n.fsm, n.version, n.step, n.status, n.count,
        -- as gendurable._unknown_step says it
        case
            when exists (
                select from gendurable.step s
                where s.fsm = n.fsm and s.step = n.step and (s.version = n.version or s.version is null)
            ) then true
            when m.fsm is null then not exists (select from gendurable.machine o where o.fsm = n.fsm)
            else coalesce(n.step = any(m.steps), true)
        end as known
    from (
        select l.fsm, l.fsm_version as version, l.step, l.status, sum(l.count)::bigint as count
        from looked l
        where l.bell is not true
        group by l.fsm, l.fsm_version, l.step, l.status
    ) n
    left join gendurable.machine m on n.fsm = m.fsm and n.version = m.version
),

counted as materialized (
    select k.fsm, k.version,
        coalesce(sum(k.count) filter (where k.status = 'runnable'), 0)::bigint as runnable,
        coalesce(sum(k.count) filter (where k.status = 'executing'), 0)::bigint as executing,
        coalesce(sum(k.count) filter (where k.status = 'awaiting_signal'), 0)::bigint as awaiting_signal,
        coalesce(sum(k.count) filter (where k.status = 'awaiting_children'), 0)::bigint as awaiting_children,
        coalesce(sum(k.count) filter (where not k.known), 0)::bigint as unrunnable
    from known k
    group by k.fsm, k.version
)

select coalesce(m.fsm, c.fsm) as fsm, coalesce(m.version, c.version) as version, m.initial_step, m.queue, m.steps,
    coalesce(m.pinned, false) as pinned, m.fsm is not null as registered,
    coalesce(c.runnable, 0::bigint) as runnable, coalesce(c.executing, 0::bigint) as executing,
    coalesce(c.awaiting_signal, 0::bigint) as awaiting_signal,
    coalesce(c.awaiting_children, 0::bigint) as awaiting_children,
    coalesce(c.unrunnable, 0::bigint) as unrunnable, w.whole as exact,
    (
        select count(*) from gendurable.worker x
        where x.until > statement_timestamp()
            and x.machines @> pg_catalog.jsonb_build_array(
                pg_catalog.jsonb_build_array(coalesce(m.fsm, c.fsm), coalesce(m.version, c.version)))
    ) as workers
from gendurable.machine m
full join counted c on m.fsm = c.fsm and m.version = c.version
cross join whole w;

comment on view gd_machines is
'The versions of machines that are registered (gd_register) or that open instances have, and the open instances of each.
It looks at 5,000 instances that are due, delayed or executing and at 5,000 that are parked, an equal part of each of
up to 100 queues, those first that a claim would meet first.';

comment on column gd_machines.fsm is 'the machine';
comment on column gd_machines.version is 'its version';
comment on column gd_machines.initial_step is 'where an instance starts; null: it is not registered';
comment on column gd_machines.queue is 'in which queue; null: it is not registered';
comment on column gd_machines.steps is 'the steps that it has; null: nobody has said it';
comment on column gd_machines.pinned is 'it is the default_version: what is inserted without a version gets it';
comment on column gd_machines.registered is 'false: there are only instances of it';
comment on column gd_machines.runnable is 'open instances by status, as far as it looked';
comment on column gd_machines.executing is 'the same';
comment on column gd_machines.awaiting_signal is 'the same';
comment on column gd_machines.awaiting_children is 'the same';
comment on column gd_machines.unrunnable is
'how many of these nobody can run: their version is not registered while another one of the machine is, or has no such
step, nor does gd_define_step know it';
comment on column gd_machines.exact is 'it looked at all open instances: the counts are whole';
comment on column gd_machines.workers is 'how many known workers that live have it, as far as they have told all';

comment on column gd_steps.chain is 'the step may follow another one without being claimed anew';
