-- Endings, from a step or from outside of one: inbox, watchers, the parent's barrier, the key.
-- A barrier has a number, the parent's claim_no at its fan-out. A child counts in it while it has not ended; claim
-- numbers only grow, so a parent that has left a barrier is never in it again and no child can count twice.
-- Invariant 4. Next: 092_time_up, what ends by the clock.

create or replace function gendurable._finish_ended(
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
    perform gendurable._count_out_of_barriers(p_parents, p_barriers, p_now);
end $$;

comment on function gendurable._finish_ended(bigint[], bigint[], bigint[], bigint[], timestamptz) is
    'Drops the inboxes of instances that are done, tells who watches those that ended, and counts them out of their parents''
barriers.';

create or replace function gendurable._count_out_of_barriers(
    p_parents bigint[], p_barriers bigint[], p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_ready bigint[];
    v_left bigint[];
begin
    if p_parents is null then
        return;
    end if;
    with ended as (
        -- siblings of a batch are one update of their parent
        select e.parent_id, e.barrier_no, count(*)::int as count
        from unnest(p_parents, p_barriers) e (parent_id, barrier_no)
        where e.parent_id is not null and e.barrier_no is not null
        group by e.parent_id, e.barrier_no
    ), waiting as (
        update gendurable.instance i
        set children_pending = i.children_pending - e.count, updated_at = p_now
        from ended e
        where i.id = any(array[e.parent_id]) and i.claim_no = e.barrier_no and i.status = 'awaiting_children'
            and i.children_pending > e.count
    )
    select array_agg(i.id) filter (where i.children_pending <= e.count), array_agg(e.parent_id) filter (where i.id is null)
    into v_ready, v_left
    from ended e
    left join gendurable.instance i
        on i.id = any(array[e.parent_id]) and i.claim_no = e.barrier_no and i.status = 'awaiting_children';
    if v_left is not null then
        -- their parent does not wait for them any more: it may have ended, and been put down, before they did
        perform gendurable._note_ended_parents(v_left);
    end if;
    if v_ready is not null then
        perform gendurable._to_runnable(v_ready, p_now, false, p_now);
    end if;
end $$;

comment on function gendurable._count_out_of_barriers(bigint[], bigint[], timestamptz) is
    'Counts ended children out of the barriers that their parents wait in. Under the parents'' row locks.';

create or replace function gendurable._end_outside(
    p_ids bigint[], p_status gendurable.status, p_error text, p_crashed boolean, p_now timestamptz
) returns int
language plpgsql as $$
declare
    v_ended record;
begin
    select * into v_ended from gendurable._write_end(p_ids, p_status, p_error, p_crashed, p_now);
    perform gendurable._keep_batons(v_ended.keys, v_ended.ids, p_now);
    return coalesce(cardinality(v_ended.ids), 0);
end $$;

comment on function gendurable._end_outside(bigint[], gendurable.status, text, boolean, timestamptz) is
    'Ends instances from outside of a step. Under the locks of the rows, their parents and their keys.';

create or replace function gendurable._write_end(
    p_ids bigint[], p_status gendurable.status, p_error text, p_crashed boolean, p_now timestamptz,
    out ids bigint[], out keys text[]
)
language plpgsql as $$
declare
    v_ended record;
    v_kind constant text := case
        when p_crashed then 'crash' when p_status = 'cancelled' then 'cancel' when p_error is null then 'expired' else 'unfit'
    end;
    v_by constant text := case when p_status = 'cancelled' then gendurable._actor() end;
begin
    perform gendurable._note_trouble(p_ids, v_kind, p_error, v_by, p_now);
    if gendurable._keeps_history() then
        perform gendurable._note_event(
            array(select i.id from gendurable.instance i where i.id = any(p_ids) and i.finished_at is null), v_kind, null,
            nullif(jsonb_strip_nulls(jsonb_build_object('error', left(p_error, 1000), 'by', v_by)), '{}'), p_now);
    end if;
    v_ended := gendurable._to_ended(p_ids, p_status, p_error, p_crashed, p_now);
    ids := v_ended.ids;
    keys := v_ended.keys;
    if ids is not null then
        perform gendurable._keep_ended(ids, p_now);
    end if;
    perform gendurable._finish_ended(ids, null, v_ended.parents, v_ended.barriers, p_now);
end $$;

comment on function gendurable._write_end(bigint[], gendurable.status, text, boolean, timestamptz) is
    'Ends instances, and tells their watchers and parents; the ids, and the keys whose batons are to be kept.';

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
    perform gendurable._wake_sleepers(v_queues);
end $$;

comment on function gendurable._end_and_carry(bigint[], gendurable.status, text, timestamptz) is
    'Ends instances without the locks of their keys, and leaves each key a carrier of its baton. Under the locks of the
rows and their parents.';

create or replace function gendurable._prepare_ends(p_ids bigint[]) returns bigint[]
language plpgsql as $$
declare
    v_parents bigint[];
begin
    if current_setting('synchronous_commit') = 'off' then
        -- a claim may be lost in a crash of the server, but not an end of which others are told
        perform set_config('synchronous_commit', 'on', true);
    end if;
    v_parents := array(
        select p.id
        from (
            select distinct i.parent_id from gendurable.instance i where i.id = any(p_ids) and i.parent_id is not null
        ) x
        cross join lateral (
            select i.id from gendurable.instance i where i.id = any(array[x.parent_id]) for no key update skip locked
        ) p);
    return array(
        select i.id
        from gendurable.instance i
        where i.id = any(p_ids) and (
            i.parent_id is null or i.parent_id = any(v_parents)
            or not exists (select from gendurable.instance p where p.id = i.parent_id)));
end $$;

comment on function gendurable._prepare_ends(bigint[]) is
    'Locks the parents of instances that are to end, and lets what is written be durable; those whose parent nobody else has locked.';

create or replace function gendurable._end_failed(p_ids bigint[], p_error text, p_crashed boolean, p_now timestamptz) returns int
language plpgsql as $$
begin
    return gendurable._end_outside(gendurable._prepare_ends(p_ids), 'failed', p_error, p_crashed, p_now);
end $$;

comment on function gendurable._end_failed(bigint[], text, boolean, timestamptz) is
    'Ends instances that no worker can have (p_error null: their deadline has passed), but those whose parent is locked: the next
claim does these. Under the locks of the rows and their keys.';

create or replace function gendurable._end_crashed(p_ids bigint[], p_now timestamptz) returns int
language plpgsql as $$
begin
    return gendurable._end_failed(p_ids, format('the worker was lost %s times in a row in this step (crash cap)',
        gendurable._crash_cap()), true, p_now);
end $$;

comment on function gendurable._end_crashed(bigint[], timestamptz) is 'Ends instances at the crash cap, as _fail.';
