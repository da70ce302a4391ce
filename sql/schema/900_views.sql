-- What people and dashboards look at. Views run with their owner's rights: the tables stay out of reach.
-- With one row of nothing beside the table it cannot be written, whatever was granted. That row is gone before anything is planned;
-- with a query in front (WITH), "order by id desc limit 100" sorted the whole table.
create view gd_instances as
select
    x.id, x.fsm, x.fsm_version, x.step, x.status::text as status, x.queue, x.priority, x.eligible_at, x.attempt,
    x.crashes, x.worker, x.lease_expires_at, x.awaits, x.partition_key, x.unique_key, x.parent_id,
    coalesce(x.children_pending, 0) as children_pending, x.state, x.result, x.last_error, x.meta, x.inserted_at,
    x.updated_at, x.finished_at, x.rate_limit, x.expires_at, x.timeout_at, x.keep_until,
    coalesce(x.attributes, '{}'::jsonb) as attributes, x.paused_at
from gendurable.instance x
cross join (select 1 as one) nothing
where x.id > 0;                          -- not the bells

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
comment on column gd_instances.rate_limit is 'the bucket out of which it starts next';
comment on column gd_instances.expires_at is 'its deadline, while it has not ended';
comment on column gd_instances.timeout_at is 'when its claim ends, whatever its worker does: the timeout of its step';
comment on column gd_instances.keep_until is
'until when it is kept after its end; null: as long as those whose machine says nothing';
comment on column gd_instances.attributes is 'what it is searched by';
comment on column gd_instances.paused_at is 'since when gd_pause has stopped it';

-- Counted range by range of the claims' index, so that a look never reads the whole table: each count is cut at 10,000, and where more
-- than three queues have more than 200 rows, at their share of 30,000. Each "order by" is the order of an index, and "queue between" two
-- equal names in place of "=" keeps that of what is parked: without an order to keep, a look for a tenth of the rows of a queue would be
-- planned as one at the whole table.
create view gd_queues as
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

create view gd_workers as
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
