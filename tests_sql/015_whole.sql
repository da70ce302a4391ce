\ir helpers/tap.psql
select no_plan();

-- What the check of an instance says is what these rules say, one by one, each of them not broken by null.

create function t.rules(i gendurable.instance) returns boolean[]
language sql immutable as $$
    select array[
        i.attempt >= 0, i.crashes >= 0, i.children_pending >= 0, i.woken in (0, 1),
        isfinite(i.eligible_at), isfinite(i.lane_at),
        -- terminal: all times that say so, and no other
        (i.finished_at is not null) = (i.status in ('done', 'failed', 'cancelled')),
        (i.failed_at is not null) = (i.status in ('failed', 'cancelled')),
        i.keep_until is null or i.status in ('done', 'failed', 'cancelled'),
        -- nobody is forgotten
        i.status <> 'runnable' or num_nonnulls(i.eligible_at, i.lane_at, i.bucket_at, i.aside_at) > 0,
        i.status <> 'executing' or i.eligible_at is not null,
        i.status <> 'awaiting_signal' or (i.awaits is not null and i.awaits <> '{}'),
        i.status <> 'awaiting_children' or (i.children_pending is not null and i.children_pending > 0),
        -- a claim
        (i.status = 'executing') = (i.worker is not null),
        (i.worker is null) = (i.lease_expires_at is null),
        -- a key
        i.status in ('runnable', 'executing', 'awaiting_signal') or i.lane_at is null,
        i.status in ('runnable', 'executing', 'awaiting_signal') or i.eligible_at is null or i.partition_key is not null,
        i.partition_key is not null or (i.slot_no is null and i.lane_at is null),
        i.partition_key is null or (i.worker is null) = (i.slot_no is null),
        i.partition_key is null or i.status <> 'runnable' or num_nonnulls(i.lane_at, i.aside_at) > 0,
        i.partition_key is null or i.status <> 'awaiting_signal' or i.deadline_at is null
            or num_nonnulls(i.lane_at, i.aside_at) > 0,
        -- aside
        i.aside_at is null or (i.aside_step is not null and i.step is not null and i.aside_step = i.step),
        -- a line
        i.bucket_at is null or (i.status = 'runnable' and i.eligible_at is null and i.rate_limit is not null),
        -- a unique key
        i.unique_held is null or (i.unique_key is not null and i.unique_held = i.unique_key),
        i.unique_held is null or i.unique_scope is not null or i.status not in ('done', 'failed', 'cancelled')
    ]
$$;

-- All values of a column that some rule tells from another.
create table t.value (name text, value jsonb);
insert into t.value
select x.name, e.value
from (
    values
        ('status', '["runnable", "executing", "awaiting_signal", "awaiting_children", "done", "failed", "cancelled"]'),
        ('attempt', '[0, -1]'), ('crashes', '[0, -1]'), ('woken', '[0, 1, 2]'), ('children_pending', '[null, 0, 2, -1]'),
        ('eligible_at', '[null, "2026-01-01", "infinity"]'), ('lane_at', '[null, "2026-01-01", "-infinity"]'),
        ('bucket_at', '[null, "2026-01-01"]'), ('aside_at', '[null, "2026-01-01"]'), ('deadline_at', '[null, "2026-01-01"]'),
        ('lease_expires_at', '[null, "2026-01-01"]'), ('worker', '[null, "w"]'), ('awaits', '[null, [], ["x"]]'),
        ('partition_key', '[null, "k"]'), ('slot_no', '[null, 1]'), ('rate_limit', '[null, "r"]'), ('aside_step', '[null, "s", "t"]'),
        ('unique_key', '[null, "u"]'), ('unique_held', '[null, "u", "v"]'), ('unique_scope', '[null, ["done"]]'),
        ('finished_at', '[null, "2026-01-01"]'), ('failed_at', '[null, "2026-01-01"]'), ('keep_until', '[null, "2026-01-01"]')
) x (name, values)
cross join lateral jsonb_array_elements(x.values::jsonb) e (value);

-- Rows that are whole, one of each kind.
create table t.base (name text, changes jsonb);
insert into t.base values
    ('due', '{"status": "runnable", "eligible_at": "2026-01-01"}'),
    ('due in a key', '{"status": "runnable", "eligible_at": "2026-01-01", "lane_at": "2026-01-01", "partition_key": "k"}'),
    ('in a lane', '{"status": "runnable", "lane_at": "2026-01-01", "partition_key": "k"}'),
    ('in a line', '{"status": "runnable", "bucket_at": "2026-01-01", "rate_limit": "r"}'),
    ('aside', '{"status": "runnable", "aside_at": "2026-01-01", "aside_step": "s", "partition_key": "k"}'),
    ('unique', '{"status": "runnable", "eligible_at": "2026-01-01", "unique_key": "u", "unique_held": "u"}'),
    ('claimed', '{"status": "executing", "eligible_at": "2026-01-01", "worker": "w", "lease_expires_at": "2026-01-01"}'),
    ('claimed in a key', '{"status": "executing", "eligible_at": "2026-01-01", "worker": "w", "lease_expires_at": "2026-01-01",
        "partition_key": "k", "slot_no": 1}'),
    ('awaits', '{"status": "awaiting_signal", "awaits": ["x"]}'),
    ('awaits in a key, until', '{"status": "awaiting_signal", "awaits": ["x"], "deadline_at": "2026-01-01",
        "eligible_at": "2026-01-01", "lane_at": "2026-01-01", "partition_key": "k"}'),
    ('awaits children', '{"status": "awaiting_children", "children_pending": 2}'),
    ('done', '{"status": "done", "finished_at": "2026-01-01"}'),
    ('done, and carries the baton', '{"status": "done", "finished_at": "2026-01-01", "eligible_at": "2026-01-01",
        "partition_key": "k"}'),
    ('done, unique for good', '{"status": "done", "finished_at": "2026-01-01", "keep_until": "2026-01-01", "unique_key": "u",
        "unique_held": "u", "unique_scope": ["done"]}'),
    ('failed', '{"status": "failed", "finished_at": "2026-01-01", "failed_at": "2026-01-01"}'),
    ('cancelled', '{"status": "cancelled", "finished_at": "2026-01-01", "failed_at": "2026-01-01"}');

-- Any two columns of them changed to any values; and rows of values by chance.
create table t.chance as
select distinct on (g.n, v.name) g.n, v.name, v.value
from generate_series(1, 5000) g (n)
cross join t.value v
order by g.n, v.name, random();

create table t.sample as
with plain as (
    select '{"id": 1, "step": "s", "attempt": 0, "crashes": 0, "woken": 1, "state": {}, "meta": {}}'::jsonb as of
)

select p.of || b.changes || jsonb_build_object(v.name, v.value, w.name, w.value) as fields
from plain p
cross join t.base b
cross join t.value v
join t.value w on v.name <= w.name
union all
select p.of || jsonb_object_agg(c.name, c.value)
from plain p
cross join t.chance c
group by c.n, p.of;

-- As the table says it, whatever it calls.
create function t.judge() returns table (fields jsonb, said boolean, meant boolean)
language plpgsql as $$
begin
    return query execute (
        select format(
            'select c.fields, (%s) is not false, not (false = any(array_remove(t.rules(i), null)))
            from t.sample c
            cross join lateral jsonb_populate_record(null::gendurable.instance, c.fields) i',
            string_agg('(' || pg_get_expr(k.conbin, k.conrelid) || ') is not false', ' and '))
        from pg_constraint k
        where k.conrelid = 'gendurable.instance'::regclass and k.contype = 'c');
end $$;
create table t.judged as select * from t.judge();

select is_empty($$select j.fields, j.said, j.meant from t.judged j where j.said <> j.meant limit 5$$, 'the check says what the rules say');
select ok(count(*) filter (where j.meant) > 1000, 'of many rows that are whole') from t.judged j;
select ok(count(*) filter (where not j.meant) > 1000, 'and of many that are not') from t.judged j;
select is_empty($$
    select b.name
    from t.base b
    where not exists (select from t.judged j where j.meant and j.fields @> b.changes)
$$, 'each kind of row is whole');
-- a rule that no case breaks alone would not be tested
select is_empty($$
    select r.no
    from generate_series(1, 25) r (no)
    where not exists (
        select from t.sample c
        cross join lateral jsonb_populate_record(null::gendurable.instance, c.fields) i
        where array_positions(t.rules(i), false) = array[r.no])
$$, 'each rule is broken alone by some of them');
select is(cardinality(t.rules(null)), 25, 'and these are all rules');

select * from finish();
