-- What may start, and how much of it: rate limits with their buckets, limits of queues, and the hold on everything.

create table gendurable.rate_limit (
    name text primary key,
    allowed double precision not null check (allowed >= 0::double precision),
    period interval,                      -- null where nothing is allowed
    burst double precision not null check (burst > 0::double precision),
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
    known_in xid8,                                   -- all that begin from this transaction on do
    concurrency int check (concurrency >= 0)         -- of each worker; null: its own
);

comment on table gendurable.queue_setting is
    'What gd_set_queue has said of a queue: how many of it may execute at once, in all and at each worker.';

-- Almost always empty. No unique key: who holds waits for nobody.
create table gendurable.hold (
    reason text not null,
    held_by text not null,
    held_at timestamptz not null default clock_timestamp()
);

alter table gendurable.hold replica identity full;

comment on table gendurable.hold is 'While there is a row, nothing is handed out.';
