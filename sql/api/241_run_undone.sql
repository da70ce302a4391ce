-- Running steps and undoing it: what gd_rehearse promises. Claims, handlers and commits are those of a gd_run, in a
-- sub-transaction that always ends in an exception, which takes all locks, notifications and what the session remembers of its
-- claims with it. Invoker code, as a run is (242_run_claims); what it looks at are doors.
-- Next: 242_run_claims.

create or replace function gd_rehearse(p_queue text = 'default', p_id bigint = null, p_limit int = 100)
returns table (ord int, id bigint, fsm text, step text, result text, after jsonb, writes jsonb)
language plpgsql as $$
begin
    -- nothing here is looked up in the caller's search_path but handlers
    return query
        select r.ord, r.id, r.fsm, r.step, r.result, r.after, r.writes
        from gendurable._rehearse(pg_catalog.current_setting('search_path'), p_queue, p_id, p_limit) r;
end $$;

comment on function gd_rehearse(text, bigint, int) is
'Runs what gd_run would run in a queue now, one step after the other, up to p_limit steps, and undoes all of it. With p_id it is
this instance alone, whatever its queue: until it awaits something, has ended, is not due at once, or its next step cannot be
run here. Each step is answered in the order in which it ran:

  result: as in gd_run_claims: "ok", "error", "busy", "no_handler"; "waits": nothing was run
  after: the instance behind the step: kind (of the outcome), status, step, state, queue, attempt, and where they are not null
    priority, partition_key, eligible_at, deadline_at, awaits, children_pending, result, last_error; "removed" where its
    machine keeps nothing. Of the outcome also insert, signal and childs. Behind an error or a lock: sqlstate, message; behind
    "no_handler": problem; behind "waits": why
  writes: {"schema.table": {"inserted", "updated", "deleted"}}, of all tables but those of gendurable; null where the step
    raised or was not run, and where the server does not count (track_counts)

"waits" is the one answer where the queue of p_queue or p_id is paused, everything is held, or the instance is not due. No rows:
nothing is due that the role can run. It ends early when it holds 16 MB.

Afterwards nobody finds anything locked, also where the transaction stays open. While it runs, claims pass these instances over,
and who signals or cancels one waits. A step waits for a lock for half a second, or as long as lock_timeout if that is shorter;
behind one that was "busy", for 20 ms. What is not undone is what no rollback undoes: numbers that sequences gave, advisory locks
of the session, and what functions do outside of this transaction. All steps run in one transaction: what a function may do once
in a transaction meets what it did before. Needs READ COMMITTED (GD504); raises GD501; GD503 for an unknown p_id; GD507 where a
step calls it.';

create or replace function gendurable._rehearse(p_path text, p_queue text, p_id bigint, p_limit int)
returns table (ord int, id bigint, fsm text, step text, result text, after jsonb, writes jsonb)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    v_role constant oid := (select r.oid from pg_roles r where r.rolname = current_user);
    v_worker constant text := format('gd_rehearse:%s:%s', pg_backend_pid(), clock_timestamp());
    v_run record;
    v_rows jsonb[] := '{}'::jsonb[];
    v_bytes bigint := 0;
    v_timeout constant int := gendurable._setting_ms(current_setting('lock_timeout'))::int;
    v_claim record;
    v_id bigint;
    v_no bigint;
    v_ctx jsonb;
    v_got record;
    v_result text;
    v_detail jsonb;
    v_before jsonb;
    v_counts jsonb;
    v_one jsonb;
    v_over boolean := false;
begin
    v_run := gendurable._open_rehearsal(p_queue, p_id, p_limit);
    begin
        v_counts := gendurable._count_writes();
        -- What this session remembers of its claims makes it see some rows late.
        perform set_config('gendurable.floor', '', true);
        -- Here the rows of the instances are locked before the handlers run. Who has a row of theirs and then signals must not be
        -- the victim of a deadlock.
        perform set_config('lock_timeout', case when v_timeout between 1 and 500 then v_timeout else 500 end || 'ms', true);
        if v_run.why is not null then
            v_rows := array[jsonb_build_object('result', 'waits', 'after', jsonb_build_object('why', v_run.why))];
        end if;
        while v_run.why is null and cardinality(v_rows) < v_run.most and v_bytes < v_run.bytes loop
            if p_id is not null then
                v_claim := gendurable._claim_this(v_worker, p_id, interval '1 day');
                v_id := p_id;
                v_no := v_claim.claim_no;
                if v_no is null and v_rows = '{}' then
                    v_rows := array[jsonb_build_object(
                        'id', p_id, 'fsm', v_claim.fsm, 'step', v_claim.step, 'result', 'waits',
                        'after', jsonb_build_object('why', v_claim.why))];
                end if;
            else
                for v_try in 1 .. 2 loop
                    v_claim := gendurable._claim_run(v_worker, v_run.queue, 1, interval '1 day', v_role, v_run.login);
                    exit when v_claim.ids <> '{}';
                    perform set_config('gendurable.floor', '', true);
                end loop;
                v_id := v_claim.ids[1];
                v_no := v_claim.claim_nos[1];
            end if;
            exit when v_no is null;
            v_ctx := (gendurable._read_run(array[v_id], array[v_no]))[1];
            perform set_config('gendurable.rehearsed', '', true);
            v_got := gendurable._run_claims(p_path, v_worker, array[v_id], array[v_no], '{"chain": 1}', false, v_run.login, null);
            v_result := v_got.results[1];
            v_detail := v_got.details[1];
            v_before := v_counts;
            v_counts := gendurable._count_writes();
            v_one := jsonb_build_object(
                'id', v_id, 'fsm', v_ctx -> 'fsm', 'step', v_ctx -> 'step', 'result', v_result,
                'after', case when v_result in ('ok', 'error') then gendurable._show_rehearsed(v_id, v_no) else '{}' end
                    || coalesce(v_detail, '{}'),
                -- an outcome "error" that was returned keeps what the step has written
                'writes', case
                    when v_result = 'ok' or (v_result = 'error' and v_detail is null)
                        then gendurable._diff_writes(v_before, v_counts)
                end);
            v_rows := v_rows || v_one;
            v_bytes := v_bytes + octet_length(v_one::text);
            exit when p_id is not null and v_result not in ('ok', 'error');
            if v_result = 'busy' then
                perform set_config('lock_timeout', case when v_timeout between 1 and 20 then v_timeout else 20 end || 'ms', true);
            end if;
        end loop;
        v_over := true;
        raise exception using errcode = 'GD507', message = 'the rehearsal is over', hint = 'This is not seen.';
    exception when sqlstate 'GD507' then
        if not v_over then
            raise;
        end if;
    end;
    return query
        select r.o::int - 1, (r.one ->> 'id')::bigint, r.one ->> 'fsm', r.one ->> 'step', r.one ->> 'result', r.one -> 'after',
            nullif(r.one -> 'writes', 'null')
        from unnest(v_rows) with ordinality r (one, o)
        order by r.o;
end $$;

comment on function gendurable._rehearse(text, text, bigint, int) is
    'gd_rehearse. p_path: the search_path of the caller, which is that of the handlers.';

create or replace function gendurable._open_rehearsal(
    p_queue text, p_id bigint, p_limit int, out queue text, out most int, out bytes bigint, out login oid, out why text
)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform gendurable._need_read_committed();
    queue := coalesce(p_queue, 'default');
    perform gendurable._need_text(queue, 'p_queue');
    perform gendurable._need_limit(p_limit);
    perform gendurable._need_no_run();
    most := coalesce(p_limit, 100);
    bytes := gendurable._most_bytes();
    login := gendurable._login_role();
    if p_id is not null then
        perform gendurable._need_instance(p_id);
    else
        why := gendurable._stop_reason(queue);
    end if;
end $$;

comment on function gendurable._open_rehearsal(text, bigint, int) is
    'Raises GD501, GD503, GD504 or GD507 unless this can be rehearsed here: how much of it. why: nothing of the queue can be.';

create or replace function gendurable._show_rehearsed(p_id bigint, p_no bigint) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_outcome constant jsonb := nullif(current_setting('gendurable.rehearsed', true), '')::jsonb -> 0;
    v_after jsonb;
begin
    select jsonb_build_object(
        'status', i.status, 'step', i.step, 'state', i.state, 'queue', i.queue, 'attempt', i.attempt,
        'priority', nullif(i.priority, 0), 'partition_key', i.partition_key, 'eligible_at', i.eligible_at,
        'deadline_at', i.deadline_at, 'awaits', i.awaits, 'children_pending', nullif(i.children_pending, 0), 'result', i.result,
        'last_error', i.last_error)
    into v_after
    from gendurable.instance i
    where i.id = p_id and i.claim_no = p_no;
    v_after := coalesce(
        v_after, jsonb_build_object('status', 'done', 'removed', true, 'result', v_outcome -> 'result')
    ) || jsonb_build_object(
        'kind', v_outcome -> 'kind', 'insert', v_outcome -> 'insert', 'signal', v_outcome -> 'signal',
        'childs', v_outcome -> 'childs');
    return (select jsonb_object_agg(a.key, a.value) from jsonb_each(v_after) a where a.value <> 'null');
end $$;

comment on function gendurable._show_rehearsed(bigint, bigint) is
    'An instance behind the claim that a rehearsal has just committed, with what its outcome sends.';

create or replace function gendurable._count_writes() returns jsonb
language plpgsql as $$
begin
    if not current_setting('track_counts')::boolean then
        return null;
    end if;
    -- as pg_stat_xact_user_tables has it, without its joins
    return (
        select coalesce(jsonb_object_agg(c.oid, jsonb_build_array(n.ins, n.upd, n.del)), '{}')
        from pg_class c
        cross join lateral (
            select pg_stat_get_xact_tuples_inserted(c.oid) as ins, pg_stat_get_xact_tuples_updated(c.oid) as upd,
                pg_stat_get_xact_tuples_deleted(c.oid) as del
        ) n
        where c.oid >= 16384 and c.relkind in ('r', 'm') and c.relnamespace <> 'gendurable'::regnamespace
            and n.ins + n.upd + n.del > 0);
end $$;

comment on function gendurable._count_writes() is
    'How many rows this transaction has inserted, updated and deleted, {oid of the table: [...]}; null: the server does not count.';

create or replace function gendurable._diff_writes(p_before jsonb, p_after jsonb) returns jsonb
language plpgsql stable as $$
begin
    return case when p_after is not null then (
        select coalesce(jsonb_object_agg(d.name, d.counts), '{}')
        from (
            select case when n.nspname ~ '^pg_temp_' then format('pg_temp.%I', c.relname) else format('%I.%I', n.nspname, c.relname) end as name,
                jsonb_build_object(
                    'inserted', (a.value ->> 0)::bigint - coalesce((p_before #>> array[a.key, '0'])::bigint, 0),
                    'updated', (a.value ->> 1)::bigint - coalesce((p_before #>> array[a.key, '1'])::bigint, 0),
                    'deleted', (a.value ->> 2)::bigint - coalesce((p_before #>> array[a.key, '2'])::bigint, 0)) as counts
            from jsonb_each(p_after) a
            join pg_class c on c.oid = a.key::oid
            join pg_namespace n on n.oid = c.relnamespace
            where a.value is distinct from p_before -> a.key
        ) d) end;
end $$;

comment on function gendurable._diff_writes(jsonb, jsonb) is
    'What was written between two looks of _count_writes: {table: {inserted, updated, deleted}}.';
