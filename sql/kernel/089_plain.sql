-- Plain outcomes: a next or a done with nothing special, of an instance with nothing special. Nearly all are, and they are read and
-- written by statements of their own, with less in them than those for any outcome have (080_transitions): what a statement has is
-- set up each time, and worked out for each row. Whatever a row may have that these do not look after stands in their conditions; such
-- an outcome goes the long way. What both ways write is compared in tests_sql/131_commit_one.sql and tests_sql/133_short.sql.
-- They wait for nobody: behind a lock the times that they have compared would be old ones. Next: 090_end.

create or replace function gendurable._is_plain_outcome(p_outcome jsonb) returns boolean
language sql immutable parallel safe as $$
    select case p_outcome ->> 'kind'
        when 'next' then p_outcome - '{id,claim_no,kind,step,state,keep,journal}'::text[] = '{}'
            and jsonb_typeof(p_outcome -> 'step') = 'string' and p_outcome -> 'step' <> '""'
            and octet_length(p_outcome ->> 'step') <= gendurable._longest_name()
            and coalesce(jsonb_typeof(p_outcome -> 'state') = 'object', true)
            and coalesce(jsonb_typeof(p_outcome -> 'keep') = 'boolean', true)
        when 'done' then p_outcome - '{id,claim_no,kind,result,journal}'::text[] = '{}'
        else false
    end
    and jsonb_typeof(p_outcome -> 'id') = 'number' and jsonb_typeof(p_outcome -> 'claim_no') = 'number'
    and case when p_outcome ? 'journal' then gendurable._is_plain_journal(p_outcome -> 'journal') else true end
$$;

comment on function gendurable._is_plain_outcome(jsonb) is
    'Whether an outcome is valid and has nothing but what _plain_outcome reads.';

-- As _write_outcomes does, for one outcome of which most is known to be nothing: with every column of that, the statement costs as
-- much to set up as six rows to write. Whatever a row may have that this does not look after stands in the conditions. It
-- waits for nobody: behind a lock the times that it has compared would be old ones.
create or replace function gendurable._write_plain_outcome(
    p_id bigint, p_claim_no bigint, p_ends boolean, p_step text, p_state jsonb, p_result jsonb
) returns text
language plpgsql as $$
declare
    v_queue text;
begin
    if p_ends then
        update gendurable.instance i
        set status = 'done', result = p_result, finished_at = clock_timestamp(), updated_at = clock_timestamp(),
            eligible_at = null, woken = 1, worker = null, lease_expires_at = null, timeout_at = null, expires_at = null,
            crashes = 0, deadline_at = null, awaits = null, shown = null, last_error = null, unique_held = null
        where i.id = (
            select x.id
            from gendurable.instance x
            where x.id = p_id and x.claim_no = p_claim_no and x.status = 'executing' and x.partition_key is null
                and x.unique_scope is null and x.queue_slot is null and x.barrier_no is null and x.children_pending is null
                and not gendurable._is_over(x.expires_at, x.timeout_at, clock_timestamp())
            for no key update skip locked)
        returning i.queue into v_queue;
    else
        update gendurable.instance i
        set status = 'runnable', step = p_step, state = coalesce(p_state, i.state), eligible_at = clock_timestamp(),
            updated_at = clock_timestamp(), woken = 1, worker = null, lease_expires_at = null, timeout_at = null,
            attempt = 0, crashes = 0, deadline_at = null, awaits = null, shown = null, last_error = null,
            rate_limit = null, weight = null, result = null
        where i.id = (
            select x.id
            from gendurable.instance x
            where x.id = p_id and x.claim_no = p_claim_no and x.status = 'executing' and x.partition_key is null
                and x.unique_scope is null and x.queue_slot is null and x.home is null
                and not gendurable._is_over(x.expires_at, x.timeout_at, clock_timestamp())
                and not exists (
                    select from gendurable.step s where s.fsm = x.fsm and s.step = p_step and s.queue is not null)
            for no key update skip locked)
        returning i.queue into v_queue;
    end if;
    return v_queue;
end $$;

comment on function gendurable._write_plain_outcome(bigint, bigint, boolean, text, jsonb, jsonb) is
    'Writes a plain next or done whose claim holds, of an instance without key, scope of a unique key, slot of its queue, and, where it
ends, children and barrier, where it goes on, a queue that the step has or the instance goes back to: its queue. null: nothing
was written, or somebody has the row locked.';

create or replace function gendurable._write_plain_outcomes(
    p_outcomes jsonb, p_retained boolean, p_now timestamptz,
    out ords int[], out ids bigint[], out claims bigint[], out ended bigint[], out queues text[],
    out journaled bigint[], out journals jsonb[], out lacks boolean
)
language plpgsql as $$
declare
    v_asks constant boolean := gendurable._steps_asked();
begin
    with written as (
        update gendurable.instance i
        set status = case when o.ends then 'done' else 'runnable' end::gendurable.status,
            step = coalesce(o.step, i.step), state = coalesce(o.state, i.state), result = o.result,
            eligible_at = case when not o.ends then p_now end,
            finished_at = case when o.ends then p_now end,
            expires_at = case when not o.ends then i.expires_at end,
            unique_held = case when not o.ends then i.unique_held end,
            -- kept at the end for gd_retry
            attempt = case when o.ends then i.attempt else 0 end,
            rate_limit = case when o.ends then i.rate_limit end, weight = case when o.ends then i.weight end,
            woken = 1, worker = null, lease_expires_at = null, timeout_at = null, crashes = 0, deadline_at = null, awaits = null,
            shown = null, last_error = null, updated_at = p_now
        from (
            select e.ord::int - 1 as ord, (e.o ->> 'id')::bigint as id, (e.o ->> 'claim_no')::bigint as claim_no,
                e.o ->> 'kind' = 'done' as ends, e.o ->> 'step' as step, e.o -> 'state' as state, e.o -> 'result' as result,
                nullif(e.o -> 'journal', 'null') as journal
            from jsonb_array_elements(p_outcomes) with ordinality e (o, ord)
            where gendurable._is_plain_outcome(e.o) and coalesce(e.o -> 'keep' <> 'true', true)
            offset 0
        ) o
        cross join lateral (
            select x.ctid as place
            from gendurable.instance x
            -- backwards, as in _lock_outcomes
            where x.id >= o.id and x.id <= o.id and x.claim_no = o.claim_no and x.status = 'executing'
                and x.partition_key is null and x.unique_scope is null and x.queue_slot is null and x.home is null
                and x.barrier_no is null and x.children_pending is null
                and not gendurable._is_over(x.expires_at, x.timeout_at, p_now)
                and case
                    when p_retained and o.ends then not exists (
                        select from gendurable.machine m
                        where m.fsm = x.fsm and m.version = x.fsm_version and m.retain is not null)
                    else true
                end
            order by x.id desc
            limit 1
            for no key update skip locked
        ) l
        where i.ctid = l.place and (i.id = o.id) is true
        returning o.ord, i.id, o.claim_no, o.ends, i.queue, case when v_asks then i.fsm end as fsm, i.fsm_version, o.step, o.journal
    )
    select coalesce(array_agg(w.ord), '{}'), array_agg(w.id), array_agg(w.claim_no), array_agg(w.id) filter (where w.ends),
        array_agg(w.queue) filter (where not w.ends),
        array_agg(w.id) filter (where w.journal is not null), array_agg(w.journal) filter (where w.journal is not null),
        -- one look at each machine and step, and not at each row: "offset" keeps the question behind the "distinct"
        case when v_asks then (
            select bool_or(gendurable._lacks_step(k.fsm, k.fsm_version, k.step))
            from (select distinct s.fsm, s.fsm_version, s.step from written s where not s.ends offset 0) k) end
    into ords, ids, claims, ended, queues, journaled, journals, lacks
    from written w;
    if cardinality(queues) > 1 then
        queues := array(select distinct q from unnest(queues) q);
    end if;
end $$;

comment on function gendurable._write_plain_outcomes(jsonb, boolean, timestamptz) is
    'Writes the plain outcomes without keep of a batch whose claims hold and whose instances have nothing special, and no other: which
these are (ords, ids, claims, in one order), which have ended, the queues of the others, and what is to go into journals. p_retained: a
machine says how long its instances are kept. lacks: one leads to a step that its machine does not have, and nothing may stand.';

create or replace function gendurable._write_plain_kept(
    p_worker text, p_outcomes jsonb, p_lease interval, p_timed boolean, p_now timestamptz,
    out ords int[], out ids bigint[], out claims bigint[], out details jsonb[],
    out journaled bigint[], out journals jsonb[], out lacks boolean
)
language plpgsql as $$
declare
    v_asks constant boolean := gendurable._steps_asked();
    v_claim_no constant bigint := gendurable._epoch_us(p_now);
    v_brief constant jsonb := to_jsonb(v_claim_no);
begin
    with written as (
        update gendurable.instance i
        set step = o.step, state = coalesce(o.state, i.state), claim_no = greatest(i.claim_no + 1, v_claim_no), worker = p_worker,
            lease_expires_at = least(p_now + p_lease, i.expires_at), timeout_at = null, attempt = 0, crashes = 0,
            deadline_at = null, awaits = null, shown = null, rate_limit = null, weight = null, last_error = null, result = null,
            updated_at = p_now
        from (
            select e.ord::int - 1 as ord, (e.o ->> 'id')::bigint as id, (e.o ->> 'claim_no')::bigint as claim_no,
                e.o ->> 'step' as step, e.o -> 'state' as state, nullif(e.o -> 'journal', 'null') as journal
            from jsonb_array_elements(p_outcomes) with ordinality e (o, ord)
            where gendurable._is_plain_outcome(e.o) and e.o -> 'keep' = 'true'
            offset 0
        ) o
        cross join lateral (
            select x.ctid as place
            from gendurable.instance x
            where x.id >= o.id and x.id <= o.id and x.claim_no = o.claim_no and x.status = 'executing'
                and x.partition_key is null and x.unique_scope is null and x.queue_slot is null and x.home is null
                and x.barrier_no is null and x.children_pending is null and x.timeout_at is null
                and not gendurable._is_over(x.expires_at, null, p_now)
                -- the time of a step counts from its claim
                and case
                    when p_timed then not exists (
                        select from gendurable.machine m
                        where m.fsm = x.fsm and m.version = x.fsm_version and m.timeouts ? o.step)
                    else true
                end
            order by x.id desc
            limit 1
            for no key update skip locked
        ) l
        where i.ctid = l.place and (i.id = o.id) is true
        returning o.ord, o.claim_no as claimed, o.journal, i.id, i.claim_no, i.fsm, i.fsm_version, i.step, i.state, i.queue,
            i.unique_key, i.parent_id, i.meta, i.attributes
    )
    select coalesce(array_agg(w.ord), '{}'), array_agg(w.id), array_agg(w.claimed),
        array_agg(case
            when w.journal -> 'brief' = 'true' then case when w.claim_no = v_claim_no then v_brief else to_jsonb(w.claim_no) end
            when w.journal is not null then gendurable._renewed(c.id, c.claim_no, c.step, c.attempt, c.signals, c.attributes)
            else to_jsonb(c)
        end),
        array_agg(w.id) filter (where w.journal is not null), array_agg(w.journal) filter (where w.journal is not null),
        case when v_asks then (
            select bool_or(gendurable._lacks_step(k.fsm, k.fsm_version, k.step))
            from (select distinct s.fsm, s.fsm_version, s.step from written s offset 0) k) end
    into ords, ids, claims, details, journaled, journals, lacks
    from written w
    cross join lateral gendurable._claimed(
        p_id => w.id, p_claim_no => w.claim_no, p_fsm => w.fsm, p_fsm_version => w.fsm_version, p_step => w.step,
        p_state => w.state, p_attempt => 0, p_queue => w.queue, p_partition_key => null, p_unique_key => w.unique_key,
        p_parent_id => w.parent_id, p_awaits => null, p_timed_out => false, p_signals => '[]', p_childs => '[]',
        p_meta => w.meta, p_attributes => w.attributes) c;
end $$;

comment on function gendurable._write_plain_kept(text, jsonb, interval, boolean, timestamptz) is
    'As _write_plain_outcomes, those with keep: their claims go on, and details are these claims, without what an inbox may have. It
changes no indexed column. p_timed: a machine has timeouts. Where a journal is appended to, the worker has the instance in memory, and
the detail is what is new of it, or its number alone, where that is asked for.';
