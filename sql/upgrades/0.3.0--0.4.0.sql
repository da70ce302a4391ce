-- From 0.3.0 to 0.4.0: what changed in the tables. The functions are made anew after this.

-- Seeing: what is searched by, what failed, what is paused

alter table gendurable.instance add column attributes jsonb, add column failed_at timestamptz, add column paused_at timestamptz;

do $$
declare
    v_path constant text := pg_catalog.current_setting('search_path');
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    update gendurable.instance i set failed_at = i.finished_at where i.status > 'done';
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;

alter table gendurable.instance
drop constraint instance_status,
add constraint instance_status check (
    (finished_at is not null) = (status >= 'done') and (keep_until is null or status >= 'done')
    and (failed_at is not null) = (status > 'done')
    and case status
        when 'runnable' then eligible_at is not null or lane_at is not null or bucket_at is not null
        when 'executing' then eligible_at is not null
        when 'awaiting_signal' then coalesce(pg_catalog.cardinality(awaits) > 0, false)
        when 'awaiting_children' then coalesce(children_pending > 0, false)
        else true
    end
);

create index instance_failed on gendurable.instance (fsm, failed_at, id)
where failed_at is not null;

create index instance_failed_any on gendurable.instance (failed_at, id)
where failed_at is not null;

create index instance_key on gendurable.instance (partition_key, id)
where partition_key is not null and lane_at is null;

create index instance_unique_past on gendurable.instance (unique_key, id)
where unique_key is not null and unique_held is null;

create or replace view gd_instances as
with i as not materialized (
    select
        x.id, x.fsm, x.fsm_version, x.step, x.status::text as status, x.queue, x.priority, x.eligible_at, x.attempt,
        x.crashes, x.worker, x.lease_expires_at, x.awaits, x.partition_key, x.unique_key, x.parent_id,
        coalesce(x.children_pending, 0) as children_pending, x.state, x.result, x.last_error, x.meta, x.inserted_at,
        x.updated_at, x.finished_at, x.rate_limit, x.expires_at, x.timeout_at, x.keep_until,
        coalesce(x.attributes, '{}'::jsonb) as attributes, x.paused_at
    from gendurable.instance x
    where x.id > 0                       -- not the bells
)

select i.* from i;

comment on column gd_instances.rate_limit is 'the bucket out of which it starts next';
comment on column gd_instances.expires_at is 'its deadline, while it has not ended';
comment on column gd_instances.timeout_at is 'when its claim ends, whatever its worker does: the timeout of its step';
comment on column gd_instances.keep_until is
'until when it is kept after its end; null: as long as those whose machine says nothing';
comment on column gd_instances.attributes is 'what it is searched by';
comment on column gd_instances.paused_at is 'since when gd_pause has stopped it';

-- What is kept: errors, and the history of machines that ask for it

alter table gendurable.machine add column history text check (history in ('steps', 'states'));

create index machine_history on gendurable.machine (fsm, version)
where history is not null;

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

-- Instances that are gone, and had so long a history that a part of it is left to gd_gc.
create table gendurable.history_left (
    gone_id bigint not null
);

-- without a key, a publication would refuse deletes and updates
alter table gendurable.history_left replica identity full;

comment on table gendurable.history_left is 'Removed instances of whose history a part is still to be removed; almost always empty.';

-- the next one to be worked off, and "is it put down already"
create index history_left_gone on gendurable.history_left (gone_id);

-- Called once where a machine asks for a history: each commit looks at it.
create sequence gendurable.history_asked_seq;
