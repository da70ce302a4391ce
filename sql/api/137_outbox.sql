-- The outbox of an outcome: the instances that it inserts and the signals that it sends, in its own commit. Their JSON is read with
-- the outcome, the rows that signals go to are locked with the rows of the batch, and all of it is done when these are written:
-- a unique key that one of them has let go is free, and a signal finds what was inserted.
-- Invariant 1. Next: 138_keep.

create or replace function gendurable._find_targets(p_outcomes gendurable.outcome[]) returns bigint[]
language plpgsql stable as $$
begin
    return array(
        select distinct t.id
        from unnest(p_outcomes) o
        cross join lateral unnest(o.sends) s
        cross join lateral (
            select case when s.id is null then gendurable._find_holder(s.unique_key) else s.id end as id offset 0
        ) t
        where t.id > 0);
end $$;

comment on function gendurable._find_targets(gendurable.outcome[]) is
    'Where the signals of outcomes go: ids, of which there may be no instance, and the present holders of unique keys.';

create or replace function gendurable._find_senders(p_outcomes gendurable.outcome[], p_ids bigint[]) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_object_agg(o.ord, gendurable._answer('busy')), '{}')
        from unnest(p_outcomes) o
        where exists (
            select from unnest(gendurable._find_targets(array[o])) t (id)
            where t.id in (select l.id from unnest(p_ids) l (id))));
end $$;

comment on function gendurable._find_senders(gendurable.outcome[], bigint[]) is
    'Answers for the outcomes whose signals go to rows that somebody holds.';

create or replace function gendurable._read_inserts(p_outcomes gendurable.outcome[]) returns gendurable.new_instance[]
language plpgsql as $$
declare
    v_outcome record;
    v_one gendurable.new_instance;
    v_all gendurable.new_instance[] := '{}'::gendurable.new_instance[];
    v_count int := 0;
begin
    for v_outcome in
        select o.inserts, gendurable._trace_of(i.meta) as trace
        from unnest(p_outcomes) o
        join gendurable.instance i on i.id = any(array[o.id])
        where o.inserts is not null
        order by o.ord
    loop
        foreach v_one in array gendurable._parse_instances(v_outcome.inserts) loop
            -- one array of all, so that a batch is stored by one statement, and its unique keys are taken in sorted order
            v_one.ord := v_count;
            if v_outcome.trace <> '{}' then
                v_one.meta := v_outcome.trace || coalesce(v_one.meta, '{}');
            end if;
            v_count := v_count + 1;
            v_all[v_count] := v_one;
        end loop;
    end loop;
    return v_all;
end $$;

comment on function gendurable._read_inserts(gendurable.outcome[]) is
    'The instances that outcomes insert, with the trace keys of the instances that do; raises GD501 for the first that is not one.';

create or replace function gendurable._empty_outbox(p_outcomes gendurable.outcome[], p_new gendurable.new_instance[])
returns void
language plpgsql as $$
declare
    v_send record;
begin
    if p_new <> '{}' then
        perform gendurable._insert_instances(p_new, null, null, '{}');
    end if;
    for v_send in
        select s.id, s.unique_key, s.name, s.payload, s.dedup_key
        from unnest(p_outcomes) o
        cross join lateral unnest(o.sends) with ordinality s
        order by o.ord, s.ordinality
    loop
        if v_send.id is null then
            perform from gendurable._deliver_to_holder(v_send.unique_key, v_send.name, v_send.payload, v_send.dedup_key);
        else
            perform gendurable._deliver_signal(v_send.id, v_send.name, v_send.payload, v_send.dedup_key, null);
        end if;
    end loop;
end $$;

comment on function gendurable._empty_outbox(gendurable.outcome[], gendurable.new_instance[]) is
    'Inserts what outcomes insert, and delivers the signals that they send, in order; who is not there gets none. After their rows
were written, under the locks of all of these.';
