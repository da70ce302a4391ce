-- What gd_define_step has said of steps: which are functions of this database, and which have a queue of their own. A handler
-- is a name and not a regprocedure, which would stop pg_upgrade, and a dump of the tables alone; it is looked up whenever it is
-- run.
create table gendurable.step (
    fsm text not null,
    step text not null,
    version int,                          -- null: all that have no definition of their own
    handler text,                         -- "schema.name", as quote_ident writes it; null: it is in another language
    owner text not null,                  -- of the handler, when it was defined; else who defined it
    queue text,                           -- where it always runs; null: in the queue of the instance
    chain boolean not null default true,
    alone boolean not null default false,

    constraint step_name unique nulls not distinct (fsm, step, version)
);

alter table gendurable.step replica identity full;

-- "has any step a queue", once in a call that puts rows before steps; almost always empty
create index step_routed on gendurable.step (fsm, step)
where queue is not null;

comment on table gendurable.step is 'Steps in SQL, and steps with a queue of their own: the function that runs each, and how.';
