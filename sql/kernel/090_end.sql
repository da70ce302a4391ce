-- Endings, from a step or from outside of one: inbox, watchers, the parent's barrier, the key.
-- A barrier has a number, the parent's claim_no at its fan-out. A child counts in it while it has not ended; claim
-- numbers only grow, so a parent that has left a barrier is never in it again and no child can count twice.
-- Invariant 4. Next: 095_present, what a worker sees of inbox and children.

create or replace function gendurable._after_end(
    p_ids bigint[], p_done bigint[], p_parents bigint[], p_barriers bigint[], p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_watched bigint;
begin
    -- what failed or was cancelled keeps its inbox: gd_retry shows it to the step once more
    if p_done is not null then
        delete from gendurable.signal s where s.instance_id = any(p_done);
    end if;
    for v_watched in delete from gendurable.watch w where w.instance_id = any(p_ids) returning w.instance_id loop
        if gendurable._may_notify() then
            perform pg_notify('gendurable_done', v_watched::text);    -- the same one twice is sent once
        end if;
    end loop;
    perform gendurable._release_parents(p_parents, p_barriers, p_now);
end $$;

comment on function gendurable._after_end(bigint[], bigint[], bigint[], bigint[], timestamptz) is
    'Drops the inboxes of instances that are done, tells who watches those that ended, and counts them out of their parents''
barriers.';

create or replace function gendurable._release_parents(
    p_parents bigint[], p_barriers bigint[], p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_queues text[];
begin
    if p_parents is null then
        return;
    end if;
    perform gendurable._take_keys(array_agg(p.id), array_agg('runnable'::gendurable.status))
    from gendurable.instance p
    where p.id = any(p_parents) and p.unique_scope is not null and p.status = 'awaiting_children'
        and p.children_pending <= (
            select count(*) from unnest(p_parents, p_barriers) e (id, barrier_no)
            where e.id = p.id and e.barrier_no = p.claim_no);
    with ended as (
        select e.parent_id, e.barrier_no, count(*)::int as count
        from unnest(p_parents, p_barriers) e (parent_id, barrier_no)
        where e.parent_id is not null and e.barrier_no is not null
        group by e.parent_id, e.barrier_no
    ), parent as (
        -- siblings of a batch are one update of their parent
        update gendurable.instance i
        set children_pending = i.children_pending - e.count,
            status = case when i.children_pending > e.count then i.status else 'runnable' end,
            -- while it waits on, it may be due as the carrier of its key's baton
            eligible_at = case when i.children_pending > e.count then i.eligible_at else p_now end,
            lane_at = case when i.children_pending > e.count or i.partition_key is null then null else p_now end,
            woken = case when i.children_pending > e.count then i.woken else 1 end,
            updated_at = p_now,
            unique_held = case
                when i.children_pending > e.count then i.unique_held
                else gendurable._unique_held(i.unique_held, i.unique_scope, 'runnable')
            end
        from ended e
        where i.id = any(array[e.parent_id]) and i.claim_no = e.barrier_no and i.status = 'awaiting_children'
        returning i.queue, i.status
    )
    select array_agg(distinct p.queue) into v_queues from parent p where p.status = 'runnable';
    perform gendurable._wake(v_queues);
end $$;

comment on function gendurable._release_parents(bigint[], bigint[], timestamptz) is
    'Counts ended children out of the barriers that their parents wait in. Under the parents'' row locks.';

create or replace function gendurable._end(
    p_ids bigint[], p_status gendurable.status, p_error text, p_crashed boolean, p_now timestamptz
) returns int
language plpgsql as $$
declare
    v_ended record;
begin
    select * into v_ended from gendurable._write_end(p_ids, p_status, p_error, p_crashed, p_now);
    perform gendurable._keep_baton(v_ended.keys, v_ended.ids, p_now);
    return coalesce(cardinality(v_ended.ids), 0);
end $$;

comment on function gendurable._end(bigint[], gendurable.status, text, boolean, timestamptz) is
    'Ends instances from outside of a step. Under the locks of the rows, their parents and their keys.';

create or replace function gendurable._write_end(
    p_ids bigint[], p_status gendurable.status, p_error text, p_crashed boolean, p_now timestamptz,
    out ids bigint[], out keys text[]
)
language plpgsql as $$
declare
    v_parents bigint[];
    v_barriers bigint[];
begin
    perform gendurable._take_keys(p_ids, array_fill(p_status, array[cardinality(p_ids)]));
    with ended as (
        update gendurable.instance i
        set status = p_status, last_error = coalesce(p_error, i.last_error), finished_at = p_now, updated_at = p_now,
            eligible_at = null, lane_at = null, slot_no = null, worker = null, lease_expires_at = null,
            crashes = i.crashes + p_crashed::int,
            unique_held = gendurable._unique_held(i.unique_held, i.unique_scope, p_status)
        where i.id = any(p_ids) and i.finished_at is null
        returning i.id, i.parent_id, i.barrier_no, i.partition_key
    )
    select array_agg(e.id), array_agg(e.parent_id), array_agg(e.barrier_no),
        array_agg(distinct e.partition_key) filter (where e.partition_key is not null)
    into ids, v_parents, v_barriers, keys
    from ended e;
    perform gendurable._after_end(ids, null, v_parents, v_barriers, p_now);
end $$;

comment on function gendurable._write_end(bigint[], gendurable.status, text, boolean, timestamptz) is
    'Writes the end of instances that fail or are cancelled; the ids, and the keys whose batons are to be kept. Awaits,
deadline and inbox stay, for gd_retry.';

create or replace function gendurable._end_and_carry(
    p_ids bigint[], p_status gendurable.status, p_error text, p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_queues text[];
begin
    -- Without the locks of the keys, of which there are too many. A gate that works meanwhile sees the slots still in
    -- use, and may park rows behind them; so one ended row of each key stays due and carries its baton: whoever meets it
    -- takes the key's lock and lifts who is next. One in each queue: which of them is paused may change any time.
    perform from gendurable._write_end(p_ids, p_status, p_error, false, p_now);
    with carrier as (
        update gendurable.instance i
        set eligible_at = p_now, woken = 1
        from (
            select min(x.id) as id
            from gendurable.instance x
            where x.id = any(p_ids) and x.partition_key is not null
            group by x.partition_key, x.queue
        ) c
        where i.id = any(array[c.id])
        returning i.queue
    )
    select array_agg(distinct c.queue) into v_queues from carrier c;
    perform gendurable._wake(v_queues);
end $$;

comment on function gendurable._end_and_carry(bigint[], gendurable.status, text, timestamptz) is
    'Ends instances without the locks of their keys, and leaves each key a carrier of its baton. Under the locks of the
rows and their parents.';

create or replace function gendurable._fail(p_ids bigint[], p_error text, p_crashed boolean, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_parents bigint[];
    v_ids bigint[];
begin
    v_parents := array(
        select p.id
        from gendurable.instance p
        where p.id in (select i.parent_id from gendurable.instance i where i.id = any(p_ids))
        for no key update skip locked);
    v_ids := array(
        select i.id
        from gendurable.instance i
        where i.id = any(p_ids) and (
            i.parent_id is null or i.parent_id = any(v_parents)
            or not exists (select from gendurable.instance p where p.id = i.parent_id)));
    if current_setting('synchronous_commit') = 'off' then
        -- a claim may be lost in a crash of the server, but not an end of which others are told
        perform set_config('synchronous_commit', 'on', true);
    end if;
    return gendurable._end(v_ids, 'failed', p_error, p_crashed, p_now);
end $$;

comment on function gendurable._fail(bigint[], text, boolean, timestamptz) is
    'Ends instances that no worker can have, but those whose parent is locked: the next claim does these. Under the locks of
the rows and their keys.';

create or replace function gendurable._end_crashed(p_ids bigint[], p_now timestamptz) returns int
language plpgsql as $$
begin
    return gendurable._fail(p_ids, format('the worker was lost %s times in a row in this step (crash cap)',
        gendurable._crash_cap()), true, p_now);
end $$;

comment on function gendurable._end_crashed(bigint[], timestamptz) is 'Ends instances at the crash cap, as _fail.';
