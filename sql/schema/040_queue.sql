-- The names of queues that have or had rows, for the views: claims find theirs in the index. Deliberately without a unique
-- key: with one, the first user of a new queue in an open transaction would block every other; a duplicate is harmless.
create table gendurable.queue_name (
    queue text not null
);

-- without a key, a publication would refuse deletes and updates
alter table gendurable.queue_name replica identity full;

comment on table gendurable.queue_name is 'Queues that have or had instances; those that are long empty are forgotten beyond 10,000.';

-- "is it known" on every insert
create index queue_name_queue on gendurable.queue_name (queue);

create table gendurable.paused_queue (
    queue text primary key,
    paused_at timestamptz not null default clock_timestamp(),
    paused_by text
);

comment on table gendurable.paused_queue is 'Queues that hand out nothing for now.';

create table gendurable.key_limit (
    prefix text primary key,
    max_executing int not null check (max_executing > 0)
);

comment on table gendurable.key_limit is
    'How many instances may execute at once for each partition key "prefix" or "prefix:..."; without a row: one.';

-- Almost always empty, see _decide. No unique key: who puts a key down waits for nobody.
create table gendurable.doubtful_key (
    partition_key text not null
);

comment on table gendurable.doubtful_key is 'Partition keys whose first rows must be lifted when nobody holds their locks.';

create index doubtful_key_name on gendurable.doubtful_key (partition_key);

alter table gendurable.doubtful_key replica identity full;

-- What a dispatcher said of its machines: the defaults of gd_insert.
create table gendurable.machine (
    fsm text not null,
    version int not null,
    initial_step text not null,
    queue text not null,
    max_attempts int,
    primary key (fsm, version),
    timeouts jsonb,                       -- {step: ms}
    retain jsonb,                         -- {status: ms}
    history text check (history in ('steps', 'states')),
    steps text[],                         -- null: nobody has said which there are
    pinned boolean not null default false -- what is inserted without a version gets this one
);

comment on table gendurable.machine is 'Registered machines: where a new instance starts, and in which queue.';

-- each claim asks whether any machine has timed steps; almost always empty
create index machine_timed on gendurable.machine (fsm, version)
where timeouts is not null;
-- "does any machine say how long it is kept", once in a call that ends something; almost always empty
create index machine_retain on gendurable.machine (fsm, version)
where retain is not null;
-- "does any machine keep a history", where one has ever asked for it
create index machine_history on gendurable.machine (fsm, version)
where history is not null;

-- which version an insert gets: the pinned one, else the highest
create index machine_chosen on gendurable.machine (fsm, pinned, version);

-- One row: what is installed, and in which schema its API is. Every assembled script writes it at its end.
create table gendurable.meta (
    version text not null,
    api_schema text not null
);

alter table gendurable.meta replica identity full;

comment on table gendurable.meta is 'The installed version and the schema of the gd_* functions.';

-- one row at most
create unique index meta_one_row on gendurable.meta ((true));

-- Each of these tables adds a row here when it gets one (900_access has the triggers), with whatever else is in its transaction;
-- the upkeep empties it when they are empty. Deliberately without a unique key: a restore loads its rows, and the triggers add theirs.
create table gendurable.special (
    marked_at timestamptz not null default clock_timestamp()
);

alter table gendurable.special replica identity full;

create index special_marked on gendurable.special (marked_at);

comment on table gendurable.special is
    'While it is empty no queue is paused or has a limit, no key is in doubt, no machine says a timeout or a retention, and nothing is
held: claims and commits ask this one table.';
