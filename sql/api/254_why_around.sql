-- What lies outside of an instance: the locks of other transactions, the functions of steps in SQL, workers, and the rows before it.
-- Which transaction has locked a row is read off the row (xmax); a lock that only a foreign key's check needs looks the same there, and
-- stops nobody.
-- Next: 256_line.

create or replace function gendurable._is_running(p_xid bigint) returns boolean
language plpgsql stable as $$
declare
    v_next constant bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    -- a row knows 32 bits of a number that has 64
    v_behind bigint := v_next % 4294967296 - p_xid;
begin
    v_behind := case
        when v_behind < -2147483648 then v_behind + 4294967296
        when v_behind > 2147483647 then v_behind - 4294967296
        else v_behind
    end;
    return v_next > v_behind and coalesce(pg_xact_status((v_next - v_behind)::text::xid8) = 'in progress', false);
exception when invalid_parameter_value then
    return false;                                    -- no transaction has had this number yet
end $$;

comment on function gendurable._is_running(bigint) is 'Whether a transaction, or a part of one, has not ended.';

create or replace function gendurable._find_row_lockers(p_id bigint) returns xid[]
language plpgsql stable as $$
declare
    v_xmax constant xid := (select i.xmax from gendurable.instance i where i.id = p_id);
begin
    if v_xmax = '0'::xid then
        return '{}'::xid[];
    end if;
    if gendurable._is_running(v_xmax::text::bigint) then
        return array[v_xmax];
    end if;
    -- several may have locked it: their list has a number of its own
    return array(
        select m.xid
        from pg_get_multixact_members(v_xmax) m
        where m.mode <> 'keysh' and gendurable._is_running(m.xid::text::bigint));
exception when internal_error or invalid_parameter_value then
    return '{}'::xid[];                              -- there is no such list
end $$;

comment on function gendurable._find_row_lockers(bigint) is 'Transactions that have locked or written a row and have not ended.';

create or replace function gendurable._why_locked(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_xids constant xid[] := gendurable._find_row_lockers(p_id);
    v_lock record;
    v_who record;
begin
    select k.key_lock, hashtext(i.rate_limit)::bigint & 4294967295 as bucket, hashtext(i.queue)::bigint & 4294967295 as queue,
        i.partition_key, i.rate_limit, i.queue as queue_name
    into v_row
    from gendurable.instance i
    left join lateral (select gendurable._key_lock(i.partition_key) as key_lock) k on i.partition_key is not null
    where i.id = p_id;
    select x.what, x.pid, x.xid into v_lock
    from (
        select l.pid, l.transactionid as xid, case
                when l.locktype = 'transactionid' and l.transactionid = any(v_xids) then 'row'
                when l.locktype = 'relation' and l.relation = 'gendurable.instance'::regclass
                    and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') then 'table'
                when l.locktype <> 'advisory' then null
                when l.objsubid = 1 and (l.classid::bigint << 32) | l.objid::bigint = v_row.key_lock then 'key'
                when l.objsubid = 2 and l.classid = gendurable._lock_of_buckets() and l.objid = v_row.bucket then 'limit'
                when l.objsubid = 2 and l.classid = gendurable._lock_of_queues() and l.objid = v_row.queue then 'queue'
            end as what
        from pg_locks l
        where l.granted and l.pid is distinct from pg_backend_pid()
            and (l.locktype = 'transactionid' or l.database = (
                select d.oid from pg_database d where d.datname = current_database()))
    ) x
    where x.what is not null
    order by array_position('{row,table,key,limit,queue}'::text[], x.what), x.pid
    limit 1;
    if v_lock.what is distinct from 'row' and v_xids <> '{}' then
        if v_xids = array[(pg_current_xact_id_if_assigned()::text::bigint % 4294967296)::text::xid] then
            return null;                             -- that is who asks
        end if;
        -- A part of a transaction that has ended in it has no lock under its number: that of the whole one is an older one, and
        -- has the table open. Another session's rows are not told from it, so only one is named.
        select 'row' as what, case when count(*) = 1 then min(p.pid) end as pid, v_xids[1] as xid into v_lock
        from (
            select t.pid
            from pg_locks t
            join pg_locks r on r.pid = t.pid and r.locktype = 'relation' and r.relation = 'gendurable.instance'::regclass
                and r.mode in ('RowShareLock', 'RowExclusiveLock')
            where t.locktype = 'transactionid' and t.granted and age(t.transactionid) >= age(v_xids[1])
            group by t.pid
        ) p;
        if v_lock.pid = pg_backend_pid() then
            return null;
        end if;
    end if;
    if v_lock.what is null then
        return null;
    end if;
    v_who := gendurable._describe_session(v_lock.pid, v_lock.xid, p_now);
    return gendurable._cause('locked', v_who.since, null,
        case v_lock.what
            when 'row' then 'is locked by '
            when 'table' then 'stands in the table of all instances, which is locked by '
            when 'key' then format('is of the key %s, which is locked by ', gendurable._name(v_row.partition_key))
            when 'limit' then format('is of the rate limit %s, which is locked by ', gendurable._name(v_row.rate_limit))
            else format('is of the queue %s, out of which one claim at a time starts, and locked by ',
                gendurable._name(v_row.queue_name))
        end || v_who.says,
        jsonb_build_object('lock', v_lock.what) || v_who.detail);
end $$;

comment on function gendurable._why_locked(bigint, timestamptz) is
    'The cause "locked": who has locked the row, the table, its key, its rate limit or its queue with a limit.';

create or replace function gendurable._describe_session(
    p_pid int, p_xid xid, p_now timestamptz, out since timestamptz, out says text, out detail jsonb
)
language plpgsql stable as $$
declare
    v_role constant oid := gendurable._acting_role();
    v_one record;
    v_gid text;
begin
    select a.pid, a.usename, a.application_name, a.state, a.xact_start, a.query_start, a.state_change, left(a.query, 500) as query,
        pg_has_role(v_role, a.usesysid, 'usage') or pg_has_role(v_role, 'pg_read_all_stats', 'usage') as seen
    into v_one
    from pg_stat_activity a
    where a.pid = p_pid;
    if v_one.pid is null then
        v_gid := (select p.gid from pg_prepared_xacts p where p.transaction = p_xid);
        since := (select p.prepared from pg_prepared_xacts p where p.transaction = p_xid);
        says := case
            when v_gid is not null
                then format('the prepared transaction %s, which has waited for %s for somebody to commit it or to roll it back',
                    gendurable._name(v_gid), gendurable._span(since, p_now))
            else format('transaction %s, whose session cannot be told from here', p_xid)
        end;
        detail := jsonb_strip_nulls(jsonb_build_object('transaction', p_xid::text, 'prepared', v_gid));
        return;
    end if;
    since := case when v_one.seen then v_one.xact_start end;
    says := format('process %s (%srole %s)', v_one.pid,
        coalesce(gendurable._name(nullif(v_one.application_name, '')) || ', ', ''), gendurable._name(v_one.usename))
        || case
            when not coalesce(v_one.seen, false) then ''
            when starts_with(v_one.state, 'idle in') then format(', %s for %s after: %s', v_one.state,
                gendurable._span(v_one.state_change, p_now), gendurable._excerpt(v_one.query))
            else format(', whose query runs for %s: %s', gendurable._span(v_one.query_start, p_now),
                gendurable._excerpt(v_one.query))
        end;
    detail := jsonb_build_object('pid', v_one.pid, 'role', v_one.usename, 'application', v_one.application_name)
        || case
            when v_one.seen then jsonb_build_object('state', v_one.state, 'transaction_since', v_one.xact_start,
                'query', v_one.query, 'query_since', v_one.query_start)
            else '{}'
        end;
end $$;

comment on function gendurable._describe_session(int, xid, timestamptz) is
    'Who a process is, or who has prepared a transaction. What it runs only where the role of the session may see that.';

create or replace function gendurable._why_step(p_id bigint) returns jsonb
language plpgsql stable as $$
begin
    -- What a role may run is that role's matter (gd_steps): here what nobody can, in the words of _step_problem.
    return (
        select gendurable._cause('step refused', null, null,
            format('is at the step %s, which is the function %s, and nobody can run it: %s', gendurable._name(i.step),
                gendurable._name(s.handler), s.problem),
            jsonb_build_object('fsm', i.fsm, 'version', i.fsm_version, 'step', i.step, 'handler', s.handler, 'problem', s.problem))
        from gendurable.instance i
        cross join lateral (
            select f.handler, case
                    when p.oid is null then 'there is no such function'
                    when p.prokind <> 'f' or p.prorettype <> 'jsonb'::regtype then 'the function does not return jsonb'
                    when o.oid is distinct from p.proowner then 'the function has another owner than when it was defined'
                    when exists (
                        select from pg_proc q
                        where q.proname = p.proname and q.pronamespace = p.pronamespace and q.pronargs > 1
                            and q.pronargs - q.pronargdefaults <= 1 and q.proargtypes[0] = 'jsonb'::regtype
                    ) then 'another function of this name takes a jsonb, and defaults'
                end as problem
            from gendurable._find_step(i.fsm, i.fsm_version, i.step) f
            left join pg_proc p on p.oid = gendurable._find_handler(f.handler)
            left join pg_roles o on o.rolname = f.owner
            where f.handler is not null
        ) s
        where i.id = p_id and s.problem is not null);
end $$;

comment on function gendurable._why_step(bigint) is 'The cause "step refused".';

create or replace function gendurable._why_unknown(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
begin
    return (
        select gendurable._cause('machine unknown', null, null,
            case u.unknown
                when 'version' then format('is of version %s of the machine %s, which is not registered; registered are %s',
                    i.fsm_version, gendurable._name(i.fsm), (
                        select string_agg(m.version::text, ', ' order by m.version)
                        from (
                            select x.version from gendurable.machine x where x.fsm = i.fsm order by x.version desc limit 10
                        ) m))
                when 'step' then format('is at the step %s, which version %s of the machine %s does not have',
                    gendurable._name(i.step), i.fsm_version, gendurable._name(i.fsm))
                else format('is at the step %s of version %s of the machine %s, which no worker has that serves its queue %s; %s',
                    gendurable._name(i.step), i.fsm_version, gendurable._name(i.fsm), gendurable._name(i.queue), coalesce(
                        'of the machine they have ' || array_to_string(nullif(gendurable._find_served(i.queue, i.fsm, p_now), '{}'), ', '),
                        'they do not have this machine'))
            end,
            jsonb_build_object('fsm', i.fsm, 'version', i.fsm_version, 'step', i.step, 'unknown', u.unknown, 'steps', (
                select to_jsonb(m.steps[:100]) from gendurable.machine m where m.fsm = i.fsm and m.version = i.fsm_version)))
        from gendurable.instance i
        cross join lateral (
            select coalesce(
                gendurable._unknown_step(i.fsm, i.fsm_version, i.step),
                gendurable._unknown_to_servers(i.queue, i.fsm, i.fsm_version, i.step, p_now)) as unknown
        ) u
        where i.id = p_id and u.unknown is not null);
end $$;

comment on function gendurable._why_unknown(bigint, timestamptz) is 'The cause "machine unknown".';

create or replace function gendurable._why_unserved(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_due timestamptz;
    v_workers record;
begin
    select i.queue, i.updated_at, coalesce(i.eligible_at, i.updated_at) as due_at into v_row
    from gendurable.instance i
    where i.id = p_id;
    v_due := greatest(v_row.due_at, v_row.updated_at);
    -- Nobody sleeps for longer. A standby does not see who sleeps.
    if v_due > p_now - gendurable._longest_poll() or pg_is_in_recovery()
        or exists (
            select from pg_locks l
            where l.locktype = 'advisory' and l.classid = gendurable._lock_of_sleep() and l.objsubid = 2 and l.granted
                and l.objid = hashtext(v_row.queue)::bigint & 4294967295
                and l.database = (select d.oid from pg_database d where d.datname = current_database()))
        or exists (
            select from gendurable._find_before(v_row.queue, null, null, p_now) b
            where b.status = 'executing' and b.lease_expires_at > p_now)
    then
        return null;
    end if;
    -- those of an older package do not say that they live
    v_workers := gendurable._count_servers(v_row.queue, p_now);
    if v_workers.serving > 0 then
        return null;
    end if;
    return gendurable._cause('queue not served', v_due, null,
        format('stands in the queue %s, which nobody seems to serve: for %s no worker has taken it, and none sleeps on the queue or'
            ' executes in it now', gendurable._name(v_row.queue), gendurable._span(v_due, p_now))
        || case
            when v_workers.draining > 0 then format('; the known workers that serve it drain (%s)', v_workers.draining)
            when v_workers.known > 0 then format('; none of the known workers (%s) serves it', v_workers.known)
            else ''
        end,
        jsonb_build_object('queue', v_row.queue, 'workers', v_workers.known, 'draining', v_workers.draining));
end $$;

comment on function gendurable._why_unserved(bigint, timestamptz) is 'The cause "queue not served".';

create or replace function gendurable._find_before(p_queue text, p_priority int, p_at timestamptz, p_now timestamptz)
returns table (id bigint, status gendurable.status, lease_expires_at timestamptz)
language plpgsql stable as $$
#variable_conflict use_column
begin
    -- from priority to priority through the index, whatever a queue once had; each range of one is read in its order
    return query
        select d.id, d.status, d.lease_expires_at
        from (
            with recursive p as (
                (select i.priority from gendurable.instance i
                    where i.queue = p_queue and i.eligible_at is not null
                    order by i.queue, i.priority limit 1)
                union all
                select (select i.priority from gendurable.instance i
                    where i.queue = p_queue and i.eligible_at is not null and i.priority > p.priority
                    order by i.queue, i.priority limit 1)
                from p
                where p.priority is not null
            )

            select p.priority from p where p.priority <= coalesce(p_priority, 2147483647) limit 100
        ) y
        cross join (values (0::smallint), (1::smallint)) w (woken)
        cross join lateral (
            select i.id, i.status, i.lease_expires_at
            from gendurable.instance i
            where i.queue = p_queue and i.priority = y.priority and i.woken = w.woken
                and i.eligible_at <= case when y.priority = p_priority then p_at else p_now end
            order by i.eligible_at, i.id
            limit gendurable._most_before()
        ) d
        limit gendurable._most_before();
end $$;

comment on function gendurable._find_before(text, int, timestamptz, timestamptz) is
    'Due and executing rows of a queue that stand before a place; nulls: all of them. 10,000 at most, of 100 priorities.';

create or replace function gendurable._why_due(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_before record;
begin
    select i.queue, i.priority, i.eligible_at into v_row
    from gendurable.instance i
    where i.id = p_id and i.eligible_at <= p_now;
    if not found then
        return (
            select gendurable._cause('due', i.aside_at, null,
                'was set aside by a pause that is over, and is brought back by the next claims', '{}')
            from gendurable.instance i
            where i.id = p_id and i.aside_at is not null and gendurable._find_paused(array[i.id]) = '{}');
    end if;
    select count(*) filter (where b.status <> 'executing' and b.id > 0 and b.id <> p_id) as count,
        count(*) >= gendurable._most_before() as more
    into v_before
    from gendurable._find_before(v_row.queue, v_row.priority, v_row.eligible_at, p_now) b;
    return gendurable._cause('due', v_row.eligible_at, null,
        format('is due for %s in the queue %s, ', gendurable._span(v_row.eligible_at, p_now), gendurable._name(v_row.queue))
        || case
            when v_before.count = 0 and not v_before.more then 'with nothing before it'
            else format('with %s%s before it', case when v_before.more then 'at least ' else '' end, v_before.count)
        end,
        jsonb_build_object('queue', v_row.queue, 'priority', v_row.priority, 'before', v_before.count)
        || gendurable._more(v_before.more));
end $$;

comment on function gendurable._why_due(bigint, timestamptz) is 'The cause "due".';
