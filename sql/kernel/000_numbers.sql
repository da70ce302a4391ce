-- The numbers that the engine holds itself to, each with its reason, the classes of its advisory locks, and whose fault an
-- error is: what stands here stands nowhere else.
-- Next: 005_shapes, the private types.

create or replace function gendurable._longest_name() returns int
language sql immutable parallel safe as $$
    select 2000
$$;

comment on function gendurable._longest_name() is
    'Bytes of a name or a key: what an index entry holds, however badly it compresses.';

create or replace function gendurable._longest_poll() returns interval
language sql immutable parallel safe as $$
    select interval '60 seconds'
$$;

comment on function gendurable._longest_poll() is
    'No dispatcher sleeps longer than this: a row that is due later needs no wake-up.';

create or replace function gendurable._most_bytes() returns bigint
language sql immutable parallel safe as $$
    select 16000000::bigint
$$;

comment on function gendurable._most_bytes() is
    'Bytes of JSON that one claim of a queue carries, and that an inbox or the children of one row have in it.';

create or replace function gendurable._most_memory() returns int
language sql immutable parallel safe as $$
    select 100000
$$;

comment on function gendurable._most_memory() is
    'Bytes that a session remembers at most: they are read and written as a whole in each claim.';

create or replace function gendurable._most_waits() returns int
language sql immutable parallel safe as $$
    select 40
$$;

comment on function gendurable._most_waits() is
    'How often one commit waits for what cannot be skipped: all but the first for a few milliseconds at most, then one.';

create or replace function gendurable._most_keys() returns int
language sql immutable parallel safe as $$
    select 500
$$;

comment on function gendurable._most_keys() is
    'How many keys a transaction locks at most: the server has room for some 64 locks a connection.';

create or replace function gendurable._most_signals() returns int
language sql immutable parallel safe as $$
    select 1000
$$;

comment on function gendurable._most_signals() is
    'Signals of an inbox that a claim presents, and that an await may ignore later.';

create or replace function gendurable._most_children() returns int
language sql immutable parallel safe as $$
    select 10000
$$;

comment on function gendurable._most_children() is 'Children that a claim presents.';

create or replace function gendurable._most_ticks() returns int
language sql immutable parallel safe as $$
    select 100
$$;

comment on function gendurable._most_ticks() is 'Missed ticks of one schedule that a claim inserts instances for.';

create or replace function gendurable._most_looks() returns int
language sql immutable parallel safe as $$
    select 20000
$$;

comment on function gendurable._most_looks() is 'Rows that a part of the upkeep looks at in one call: some 50 ms.';

create or replace function gendurable._most_entries() returns int
language sql immutable parallel safe as $$
    select 20000
$$;

comment on function gendurable._most_entries() is
    'Entries of a journal. Workers end a flow at half of it: this is what a cut, a mark and a replay have room in.';

create or replace function gendurable._default_attempts() returns int
language sql immutable parallel safe as $$
    select 20
$$;

comment on function gendurable._default_attempts() is
    'How often a step is tried where neither the instance nor its machine says.';

create or replace function gendurable._crash_cap() returns int
language sql immutable parallel safe as $$
    select 20
$$;

comment on function gendurable._crash_cap() is 'How many claims in a row may be lost before an instance has failed.';

create or replace function gendurable._dear() returns bigint
language sql immutable parallel safe as $$
    select 1000::bigint
$$;

comment on function gendurable._dear() is
    'Index entries from which on a scan is expensive: worth to remember where it stood.';

create or replace function gendurable._floor_margin_us() returns bigint
language sql immutable parallel safe as $$
    select 50000::bigint
$$;

comment on function gendurable._floor_margin_us() is
    'Microseconds that a floor stays behind what was examined: a row that commits a little late is above it.';

create or replace function gendurable._scan_pause_us() returns bigint
language sql immutable parallel safe as $$
    select 1000000::bigint
$$;

comment on function gendurable._scan_pause_us() is
    'Microseconds between two full scans of a session: how late a row that lies below a floor may be found.';

create or replace function gendurable._baton_pause() returns interval
language sql immutable parallel safe as $$
    select interval '100 ms'
$$;

comment on function gendurable._baton_pause() is
    'How long a row carries a baton that it cannot hand on, until it is looked at again.';

create or replace function gendurable._decision_pause() returns interval
language sql immutable parallel safe as $$
    select interval '2 seconds'
$$;

comment on function gendurable._decision_pause() is
    'How long a row waits that must not be parked, since it is being decided who waits for what.';

create or replace function gendurable._ring_quantum() returns interval
language sql immutable parallel safe as $$
    select interval '50 ms'
$$;

comment on function gendurable._ring_quantum() is
    'How much a line before a rate limit waits for at once, where half the burst holds it: 20 bells a second. Twice as much would cost
half as much.';

create or replace function gendurable._longest_ring() returns interval
language sql immutable parallel safe as $$
    select interval '1 hour'
$$;

comment on function gendurable._longest_ring() is
    'The bell of a line rings at the latest after this, also where nothing may start.';

create or replace function gendurable._turn_length() returns interval
language sql immutable parallel safe as $$
    select interval '1 second'
$$;

comment on function gendurable._turn_length() is
    'How long a line that nobody serves has its turn: others of the bucket wait for it no longer.';

create or replace function gendurable._trace_keys() returns text[]
language sql immutable parallel safe as $$
    select '{traceparent,tracestate,baggage}'::text[]
$$;

comment on function gendurable._trace_keys() is
    'The keys of meta that children inherit: https://www.w3.org/TR/trace-context/ and https://www.w3.org/TR/baggage/.';

create or replace function gendurable._terminal_statuses() returns gendurable.status[]
language sql immutable parallel safe as $$
    select '{done,failed,cancelled}'::gendurable.status[]
$$;

comment on function gendurable._terminal_statuses() is 'The statuses of an instance that has ended.';

create or replace function gendurable._lock_of_keys() returns int
language sql immutable parallel safe as $$
    select 7301
$$;

comment on function gendurable._lock_of_keys() is
    'Locks of partition keys: one bigint each, of which this is the seed. Held to the end of the transaction.';

create or replace function gendurable._lock_of_sleep() returns int
language sql immutable parallel safe as $$
    select 7302
$$;

comment on function gendurable._lock_of_sleep() is 'Sleeping dispatchers: shared, by session, a lock a queue.';

create or replace function gendurable._lock_of_scans() returns int
language sql immutable parallel safe as $$
    select 7303
$$;

comment on function gendurable._lock_of_scans() is 'Full scans: one session at a time for each queue and priority.';

create or replace function gendurable._lock_of_upkeep() returns int
language sql immutable parallel safe as $$
    select 7304
$$;

comment on function gendurable._lock_of_upkeep() is 'The upkeep: one session at a time, a lock a minute.';

create or replace function gendurable._lock_of_decisions() returns int
language sql immutable parallel safe as $$
    select 7305
$$;

comment on function gendurable._lock_of_decisions() is
    'Decisions (pause, resume, limits): four places, to the end of the transaction.';

create or replace function gendurable._lock_of_buckets() returns int
language sql immutable parallel safe as $$
    select 7306
$$;

comment on function gendurable._lock_of_buckets() is
    'Buckets of rate limits: by the hash of their names, only tried, to the end of the transaction.';

create or replace function gendurable._lock_of_lines() returns int
language sql immutable parallel safe as $$
    select 7307
$$;

comment on function gendurable._lock_of_lines() is
    'The lines before rate limits: shared by whoever puts rows there, to the end of the transaction; who sets a limit waits a little.';

create or replace function gendurable._lock_of_schedules() returns int
language sql immutable parallel safe as $$
    select 7308
$$;

comment on function gendurable._lock_of_schedules() is
    'Changes of a schedule: one session at a time for each name, to the end of the transaction.';

create or replace function gendurable._lock_of_queues() returns int
language sql immutable parallel safe as $$
    select 7309
$$;

comment on function gendurable._lock_of_queues() is
    'Queues with a limit: one claim at a time, a lock a queue. Held to the end of the transaction, and only tried.';

create or replace function gendurable._is_terminal(p_status gendurable.status) returns boolean
language sql immutable parallel safe as $$
    select p_status = any(gendurable._terminal_statuses())
$$;

comment on function gendurable._is_terminal(gendurable.status) is 'Whether an instance in this status has ended.';

create or replace function gendurable._is_run(p_worker text) returns boolean
language sql immutable parallel safe as $$
    select coalesce(starts_with(p_worker, 'gd_run:'), false)
$$;

comment on function gendurable._is_run(text) is
    'Whether a worker is a gd_run: what a lost run has done was rolled back, so it is a crash and no attempt.';

create or replace function gendurable._bad_outcome_classes() returns text[]
language sql immutable parallel safe as $$
    select '{22,23,54,P0,GD}'::text[]
$$;

comment on function gendurable._bad_outcome_classes() is
    'Classes of SQLSTATEs: data, constraints, program limits, what code raises, and our own.';

create or replace function gendurable._blames_outcome(p_sqlstate text) returns boolean
language sql immutable parallel safe as $$
    select substr(p_sqlstate, 1, 2) = any(gendurable._bad_outcome_classes())
$$;

comment on function gendurable._blames_outcome(text) is
    'Whether an error is the fault of the outcome that was being written: it is rejected.';

create or replace function gendurable._blames_lock(p_sqlstate text) returns boolean
language sql immutable parallel safe as $$
    -- Of class 55 only the lock. The others (a publication without replica identity) would be answered busy for ever.
    select p_sqlstate = '55P03' or substr(p_sqlstate, 1, 2) = '40'
$$;

comment on function gendurable._blames_lock(text) is
    'Whether an error is what another transaction is to blame for: the same succeeds when that has ended.';

create or replace function gendurable._blames_row(p_sqlstate text) returns boolean
language sql immutable parallel safe as $$
    -- besides these: triggers, foreign routines, access rules and syntax, a damaged row
    select gendurable._blames_outcome(p_sqlstate) or substr(p_sqlstate, 1, 2) = any('{09,27,38,39,40,42,55,XX}'::text[])
$$;

comment on function gendurable._blames_row(text) is
    'Whether an error that the upkeep meets concerns the row that it was at, with the locks, triggers and foreign keys of others
that are on it: the others are done. Not what concerns the server or the session.';

create or replace function gendurable._blames_part(p_sqlstate text) returns boolean
language sql immutable parallel safe as $$
    -- besides these: what is not supported, resources, the system
    select gendurable._blames_row(p_sqlstate) or substr(p_sqlstate, 1, 2) = any('{0A,53,58}'::text[])
$$;

comment on function gendurable._blames_part(text) is 'Whether an error ends one part of the upkeep only. Not a cancelled call.';
