-- How long those are kept that outcomes end: their machine may say it (gd_register). "Not at all" for what is done means that
-- the commit removes the row where it would have written it. Only asked where any machine says something.
-- Next: 140_signal.

create or replace function gendurable._keep_outcomes(
    p_outcomes gendurable.outcome[], p_now timestamptz, out outcomes gendurable.outcome[], out queues text[]
)
language plpgsql as $$
declare
    v_row record;
    v_fleeting bigint[] := '{}'::bigint[];
    v_parents bigint[] := '{}'::bigint[];
    v_gone bigint[];
begin
    outcomes := p_outcomes;
    for v_row in
        select o.ordinality as at, i.id, i.children_pending, i.queue_slot, i.queue, k.keep_until,
            k.keep_until <= p_now and o.kind = 'done'
            -- kept all the same: a child, which its parent may look at; who holds a unique key beyond its end
            and i.parent_id is null and i.unique_scope is null as fleeting
        from unnest(p_outcomes) with ordinality o
        join gendurable.instance i on i.id = any(array[o.id])
        join gendurable.machine m on m.fsm = i.fsm and m.version = i.fsm_version
        cross join lateral (
            select gendurable._keep_end(m.retain, o.status::text,
                (select true from gendurable.watch w where w.instance_id = i.id limit 1), p_now) as keep_until
        ) k
        where o.ends and k.keep_until is not null
    loop
        outcomes[v_row.at].keep_until := v_row.keep_until;
        if v_row.fleeting then
            v_fleeting := v_fleeting || v_row.id;
            if v_row.children_pending is not null then
                v_parents := v_parents || v_row.id;
            end if;
            if v_row.queue_slot is not null then
                queues := queues || v_row.queue;
            end if;
        end if;
    end loop;
    if v_fleeting <> '{}' then
        v_gone := gendurable._remove_at_once(v_fleeting);
        perform gendurable._note_ended_parents(array(select p.id from unnest(v_parents) p (id) where p.id = any(v_gone)));
        outcomes := case
            when cardinality(v_gone) = cardinality(outcomes) then '{}'
            -- a subquery, which is hashed; the array would be walked for each outcome
            else array(select o from unnest(outcomes) o where o.id not in (select g.id from unnest(v_gone) g (id)))
        end;
    end if;
end $$;

comment on function gendurable._keep_outcomes(gendurable.outcome[], timestamptz) is
    'The outcomes with the times until which those that end are kept, without those whose instances were removed at once; and the
queues of these in which a slot is free now. Under the locks of the rows.';

create or replace function gendurable._remove_at_once(p_ids bigint[]) returns bigint[]
language plpgsql as $$
declare
    v_state text;
begin
    -- What refers to a row is asked at the commit then: that might take all of it back.
    if gendurable._has_deferred() then
        return '{}'::bigint[];
    end if;
    -- An open transaction that has inserted a reference to a row holds it: nobody waits for that.
    return gendurable._remove_instances(array(
        select i.id from gendurable.instance i where i.id = any(p_ids) for update skip locked));
exception
    -- a foreign key or a trigger of the application: all are written as done, and left to the collector
    when others or assert_failure then
        get stacked diagnostics v_state = returned_sqlstate;
        if not gendurable._blames_row(v_state) then
            raise;
        end if;
        return '{}'::bigint[];
end $$;

comment on function gendurable._remove_at_once(bigint[]) is
    'Removes those of the instances that can be removed in this very commit; their ids.';
