-- Steps that are functions of this database: gd_define_step. A handler is a name and not a regprocedure, which would stop
-- pg_upgrade, and a dump of the tables alone; it is looked up whenever it is run.
create table gendurable.step (
    fsm text not null,
    step text not null,
    version int,                          -- null: all that have no definition of their own
    handler text,                         -- "schema.name", as quote_ident writes it; null: it is in another language
    owner text not null,                  -- of the handler, when it was defined; else who defined it
    queue text,                           -- not used yet
    chain boolean not null default true,
    alone boolean not null default false,

    constraint step_name unique nulls not distinct (fsm, step, version)
);

alter table gendurable.step replica identity full;

comment on table gendurable.step is 'Steps in SQL: the function that runs each, and how.';
