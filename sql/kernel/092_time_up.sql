-- Time that is up. A step may have a timeout: its claim ends then, whatever its worker does, and that counts as an error of the
-- step. An instance may have a deadline: past it the instance has failed, wherever it stands. Both are *over* from that moment on:
-- a commit is stale. What follows is done by the next claim that meets the row, by reaping, and of deadlines by gd_maintain.
-- Next: 095_present, what a worker sees of inbox and children.

create or replace function gendurable._time_claims(p_ids bigint[], p_now timestamptz) returns void
language plpgsql as $$
begin
    update gendurable.instance i
    set timeout_at = p_now + t.after, lease_expires_at = least(i.lease_expires_at, p_now + t.after)
    from (
        select x.id, gendurable._ms(m.timeouts -> x.step) as after
        from unnest(p_ids) u (id)
        join gendurable.instance x on x.id = any(array[u.id])
        cross join lateral (
            select m.timeouts from gendurable.machine m
            where m.fsm = x.fsm and m.version = x.fsm_version and jsonb_typeof(m.timeouts -> x.step) = 'number'
            limit 1
        ) m
    ) t
    where i.id = any(array[t.id]);
end $$;

comment on function gendurable._time_claims(bigint[], timestamptz) is
    'Ends claims that have just begun at the timeouts of their steps, if they have any.';

create or replace function gendurable._have_timeouts(p_ids bigint[]) returns boolean
language plpgsql stable as $$
begin
    if not exists (select from gendurable.machine m where m.timeouts is not null) then
        return false;
    end if;
    return exists (
        select from unnest(p_ids) u (id)
        join gendurable.instance x on x.id = any(array[u.id])
        cross join lateral (
            select from gendurable.machine m
            where m.fsm = x.fsm and m.version = x.fsm_version and jsonb_typeof(m.timeouts -> x.step) = 'number'
            limit 1
        ) m);
end $$;

comment on function gendurable._have_timeouts(bigint[]) is 'Whether one of these is in a step with a timeout.';

create or replace function gendurable._decide_error(p_outcome gendurable.outcome, p_now timestamptz)
returns gendurable.outcome
language plpgsql as $$
declare
    v_one gendurable.outcome := p_outcome;
    v_row record;
begin
    select i.attempt, coalesce(i.max_attempts, (
            select m.max_attempts from gendurable.machine m where m.fsm = i.fsm and m.version = i.fsm_version
        ), gendurable._default_attempts()) as max_attempts
    into v_row
    from gendurable.instance i
    where i.id = v_one.id;
    if v_row.attempt + 1 >= v_row.max_attempts then
        v_one.kind := 'stop';
        v_one.status := 'failed';
        v_one.ends := true;
        v_one.eligible_at := null;
        return v_one;
    end if;
    v_one.kind := 'replay';
    if not v_one.delayed then
        -- a fifth up or down: instances that failed together do not come back together
        v_one.eligible_at := p_now + (0.8 + 0.4 * random())
            * least(interval '1 second' * power(2, least(v_row.attempt, 20)), interval '5 minutes');
    end if;
    return v_one;
end $$;

comment on function gendurable._decide_error(gendurable.outcome, timestamptz) is
    'An error becomes a replay after a back-off (1 s, doubled each time, 5 minutes at most), or the end after the last attempt.';

create or replace function gendurable._timeout_error(p_after interval, p_step text) returns text
language sql stable parallel safe as $$
    select format('timed out after %s s in step ''%s''', trim_scale(round(extract(epoch from p_after)::numeric, 3)), p_step)
$$;

comment on function gendurable._timeout_error(interval, text) is 'The last error of a step that was not over in time.';

create or replace function gendurable._time_out(p_ids bigint[], p_now timestamptz) returns int
language plpgsql as $$
declare
    v_ids constant bigint[] := gendurable._prepare_ends(p_ids);
    v_outcomes gendurable.outcome[];
    v_keys text[];
    v_queues constant text[] := array(
        select distinct i.queue from gendurable.instance i where i.id = any(p_ids) and i.queue_slot is not null);
    v_written record;
begin
    -- what a worker would have committed: the error may be the last one, and that counts in the barrier of the parent
    v_outcomes := array(
        select gendurable._decide_error(gendurable._outcome(
            p_ord => row_number() over ()::int - 1, p_id => i.id, p_claim_no => i.claim_no, p_kind => 'error', p_status => 'runnable',
            p_error => gendurable._timeout_error(i.timeout_at - i.updated_at, i.step)), p_now)
        from gendurable.instance i
        where i.id = any(v_ids));
    if v_outcomes = '{}' then
        return 0;
    end if;
    v_outcomes := gendurable._route_outcomes(v_outcomes);
    v_keys := array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.id = any(v_ids) and i.partition_key is not null);
    perform gendurable._take_unique_keys(array_agg(o.id), array_agg(o.status)) from unnest(v_outcomes) o;
    perform gendurable._note_errors(v_outcomes, 'timeout', p_now);
    if gendurable._keeps_history() then
        perform gendurable._note_outcomes(v_outcomes, null, 'timeout', null, p_now);
    end if;
    v_written := gendurable._write_outcomes(
        null, v_outcomes, '{}'::bigint[], false, '{}'::text[], interval '0', p_now, null);
    if v_written.ended is not null then
        perform gendurable._keep_ended(v_written.ended, p_now);
        perform gendurable._finish_ended(v_written.ended, null, v_written.parents, v_written.barriers, p_now);
    end if;
    perform gendurable._keep_batons(v_keys, v_ids, p_now);
    -- whenever they are due again: others may have their slots
    perform gendurable._wake_sleepers(v_written.queues || v_queues);
    return cardinality(v_outcomes);
end $$;

comment on function gendurable._time_out(bigint[], timestamptz) is
    'Ends claims beyond the timeout of their step by an error, as if it had been committed, but those of instances whose parent is
locked; crashes are not counted. Under the locks of the rows and their keys.';

create or replace function gendurable._end_over(p_ids bigint[], out count int, out keyed int)
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_keys text[];
    v_expired bigint[];
    v_late bigint[];
begin
    count := 0;
    v_keys := array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.id = any(p_ids) and i.partition_key is not null
        order by 1
        limit gendurable._most_keys());
    keyed := cardinality(v_keys);
    if keyed > 0 then
        v_keys := gendurable._try_keys(v_keys, 1);
    end if;
    select coalesce(array_agg(i.id) filter (where i.expires_at <= v_now), '{}'),
        coalesce(array_agg(i.id) filter (where i.expires_at > v_now or i.expires_at is null), '{}')
    into v_expired, v_late
    from gendurable.instance i
    where i.id = any(p_ids) and i.finished_at is null
        and (i.expires_at <= v_now or (i.status = 'executing' and i.timeout_at <= v_now))
        and (i.partition_key is null or i.partition_key = any(v_keys));
    if v_expired <> '{}' then
        count := gendurable._end_failed(v_expired, null, false, v_now);
    end if;
    if v_late <> '{}' then
        count := count + gendurable._time_out(v_late, v_now);
    end if;
end $$;

comment on function gendurable._end_over(bigint[]) is
    'Ends instances past their deadline, and claims past the timeout of their step, as far as keys and parents are free: how many,
and how many keys they have. Under the locks of the rows.';

create or replace function gendurable._end_over_isolated(p_ids bigint[], out count int, out keyed int)
language plpgsql as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
begin
    begin
        select e.count, e.keyed into count, keyed from gendurable._end_over(p_ids) e;
        return;
    exception
        when others or assert_failure then
            if not gendurable._blames_row(sqlstate) then
                raise;
            end if;
            count := 0;
            keyed := 0;
    end;
    if v_half > 0 then
        select a.count + b.count, a.keyed + b.keyed into count, keyed
        from gendurable._end_over_isolated(p_ids[:v_half]) a
        cross join gendurable._end_over_isolated(p_ids[v_half + 1:]) b;
    end if;
end $$;

comment on function gendurable._end_over_isolated(bigint[]) is
    '_end_over, in halves where it fails, so that one that cannot be ended costs no other.';
