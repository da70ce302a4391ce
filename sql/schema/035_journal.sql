-- What a flow has come through: its checkpoints, numbered from 1 without a gap, each written once. A worker that takes the flow over
-- reads them and goes on behind the last. Goes with its instance (_remove_instances).
create table gendurable.journal (
    instance_id bigint not null,
    seq int not null,
    entry jsonb not null,
    primary key (instance_id, seq)
)
-- cutting the end of the file takes a lock that stops commits
with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

comment on table gendurable.journal is 'The journals of flows: an entry for each checkpoint.';
