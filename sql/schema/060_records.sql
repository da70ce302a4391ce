-- What is kept of an instance beside its row: its last errors, and its history where its machine keeps one. Both are numbered from 1
-- in each instance, under the lock of its row, and go with it (_remove_instances).
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
