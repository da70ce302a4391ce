-- What is kept of what happened. Errors: each adds a row, of whatever machine, and the oldest beyond 20 goes; a step that succeeds
-- writes none. History: where the machine asks for it (gd_register), a row for each outcome and for what is done from outside.
-- All of it is written before the row of the instance is, whose old values it keeps, under its lock and in the same transaction.
-- Next: 085_audit, who did what by hand.

create or replace function gendurable._most_errors() returns int
language sql immutable parallel safe as $$
    select 20
$$;

comment on function gendurable._most_errors() is 'How many errors of an instance are kept.';

create or replace function gendurable._longest_trace() returns int
language sql immutable parallel safe as $$
    select 32768
$$;

comment on function gendurable._longest_trace() is 'Bytes of an error, and of a traceback, as they are kept of each.';

create or replace function gendurable._cut_middle(p_text text) returns text
language plpgsql immutable parallel safe as $$
declare
    -- room for what stands between the halves
    v_half constant int := gendurable._longest_trace() / 2 - 50;
    v_head text;
    v_tail text;
begin
    if coalesce(octet_length(p_text), 0) <= gendurable._longest_trace() then
        return p_text;
    end if;
    -- By characters, in the encoding of the database: each time in proportion to what is too much of it.
    v_head := left(p_text, v_half);
    while octet_length(v_head) > v_half loop
        v_head := left(v_head, (length(v_head)::bigint * v_half / octet_length(v_head))::int);
    end loop;
    v_tail := right(p_text, v_half);
    while octet_length(v_tail) > v_half loop
        v_tail := right(v_tail, (length(v_tail)::bigint * v_half / octet_length(v_tail))::int);
    end loop;
    return v_head || format(E'\n... %s characters cut ...\n', length(p_text) - length(v_head) - length(v_tail)) || v_tail;
end $$;

comment on function gendurable._cut_middle(text) is 'A text of bearable length: what is too long loses its middle.';

create or replace function gendurable._actor() returns text
language sql stable parallel safe as $$
    -- any client may set it to anything: it is what somebody says of himself
    select left(coalesce(nullif(current_setting('gendurable.actor', true), ''), session_user), 200)
$$;

comment on function gendurable._actor() is 'Who does something by hand: the setting gendurable.actor, else the role that has logged in.';

create or replace function gendurable._history_asked() returns boolean
language sql volatile as $$
    -- A sequence as a flag: each commit asks, and an expression is cheaper than any query.
    select pg_sequence_last_value('gendurable.history_asked_seq'::regclass) is not null
$$;

comment on function gendurable._history_asked() is 'Whether a machine has ever asked for a history.';

create or replace function gendurable._keeps_history() returns boolean
language plpgsql as $$
begin
    if not gendurable._history_asked() then
        return false;
    end if;
    return (select true from gendurable.machine m where m.history is not null limit 1);
end $$;

comment on function gendurable._keeps_history() is 'Whether any machine keeps a history; else false or null.';

create or replace function gendurable._note_errors(p_outcomes gendurable.outcome[], p_kind text, p_now timestamptz) returns void
language plpgsql as $$
begin
    with added as (
        insert into gendurable.error (instance_id, no, at, attempt, kind, step, worker, error, traceback)
        select i.id, coalesce((select x.no from gendurable.error x where x.instance_id = i.id order by x.no desc limit 1), 0) + 1, p_now, i.attempt, coalesce(p_kind, o.kind), coalesce(o.from_step, i.step),
            i.worker, gendurable._cut_middle(o.error), gendurable._cut_middle(o.traceback)
        from unnest(p_outcomes) o
        join gendurable.instance i on i.id = any(array[o.id])
        where o.error is not null
        returning instance_id, no
    )
    -- one at a time: older ones than this went when others came
    delete from gendurable.error e
    using added a
    where e.instance_id = any(array[a.instance_id]) and e.no = any(array[a.no - gendurable._most_errors()]);
end $$;

comment on function gendurable._note_errors(gendurable.outcome[], text, timestamptz) is
    'Keeps the errors of outcomes, as of p_kind; null: of the kind of each. Before their rows are written.';

create or replace function gendurable._note_trouble(
    p_ids bigint[], p_kind text, p_error text, p_worker text, p_now timestamptz
) returns void
language plpgsql as $$
begin
    with added as (
        insert into gendurable.error (instance_id, no, at, attempt, kind, step, worker, error)
        select i.id, coalesce((select x.no from gendurable.error x where x.instance_id = i.id order by x.no desc limit 1), 0) + 1, p_now, i.attempt, p_kind, i.step, coalesce(p_worker, i.worker),
            gendurable._cut_middle(case when p_kind = 'expired' then gendurable._expiry_error(i.expires_at) else p_error end)
        from unnest(p_ids) u (id)
        join gendurable.instance i on i.id = any(array[u.id])
        where i.finished_at is null
        returning instance_id, no
    )
    delete from gendurable.error e
    using added a
    where e.instance_id = any(array[a.instance_id]) and e.no = any(array[a.no - gendurable._most_errors()]);
end $$;

comment on function gendurable._note_trouble(bigint[], text, text, text, timestamptz) is
    'Keeps an error of instances that have not ended, which no outcome tells of. p_worker: who did it by hand, null: their workers had
it. Before their rows are written.';

create or replace function gendurable._note_event(
    p_ids bigint[], p_kind text, p_next_step text, p_detail jsonb, p_now timestamptz
) returns void
language plpgsql as $$
begin
    if not coalesce(gendurable._keeps_history(), false) then
        return;
    end if;
    insert into gendurable.history (instance_id, no, at, seconds, attempt, kind, step, next_step, worker, state, detail)
    select i.id, coalesce((select x.no from gendurable.history x where x.instance_id = i.id order by x.no desc limit 1), 0) + 1, p_now,
        case when i.status = 'executing' then greatest(extract(epoch from p_now - i.updated_at), 0) end,
        i.attempt, p_kind, i.step, p_next_step, i.worker, case when m.history = 'states' then i.state end, p_detail
    from unnest(p_ids) u (id)
    join gendurable.instance i on i.id = any(array[u.id])
    cross join lateral (
        select x.history from gendurable.machine x
        where x.fsm = i.fsm and x.version = i.fsm_version and x.history is not null
        limit 1
    ) m;
end $$;

comment on function gendurable._note_event(bigint[], text, text, jsonb, timestamptz) is
    'Writes into the history of instances whose machine keeps one what happens to them from outside of a step. Before their rows are
written.';

create or replace function gendurable._note_crashes(p_ids bigint[], p_now timestamptz) returns void
language plpgsql as $$
begin
    perform gendurable._note_trouble(p_ids, 'crash', 'the worker was lost in this step', null, p_now);
    perform gendurable._note_event(p_ids, 'crash', null, null, p_now);
end $$;

comment on function gendurable._note_crashes(bigint[], timestamptz) is
    'Keeps that instances have lost their workers. Before their rows are written.';

create or replace function gendurable._list_used(p_outcomes gendurable.outcome[]) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_object_agg(o.id, u.used)
        from unnest(p_outcomes) o
        cross join lateral (
            select jsonb_agg(jsonb_build_object('name', s.name, 'inserted_at', s.inserted_at) order by s.id) as used
            from (
                select x.id, x.name, x.inserted_at
                from unnest(o.consume[:100]) c (id)
                join gendurable.signal x on x.instance_id = o.id and x.id = any(array[c.id])
            ) s
        ) u
        where o.consume is not null and u.used is not null);
end $$;

comment on function gendurable._list_used(gendurable.outcome[]) is
    'The signals that outcomes use up, by instance, the first 100 of each: {id: [{name, inserted_at}]}. Before they are removed.';

create or replace function gendurable._outcome_detail(p_one gendurable.outcome, p_used jsonb, p_now timestamptz) returns jsonb
language plpgsql immutable as $$
begin
    return nullif(jsonb_strip_nulls(jsonb_build_object(
        'error', left(p_one.error, 1000),
        'until', case when not p_one.ends and p_one.eligible_at > p_now then p_one.eligible_at end,
        'awaits', to_jsonb(p_one.awaits),
        'children', p_one.children,
        'queue', p_one.queue, 'priority', p_one.priority, 'rate_limit', p_one.rate_limit,
        'partition_key', case when p_one.rekey then coalesce(p_one.partition_key, '') end,
        'used', p_used)), '{}');
end $$;

comment on function gendurable._outcome_detail(gendurable.outcome, jsonb, timestamptz) is
    'What else the history says of an outcome, null: nothing.';

create or replace function gendurable._note_outcomes(
    p_outcomes gendurable.outcome[], p_asked gendurable.outcome[], p_kind text, p_used jsonb, p_now timestamptz
) returns void
language plpgsql as $$
begin
    insert into gendurable.history (instance_id, no, at, seconds, attempt, kind, step, next_step, worker, state, detail)
    select i.id, coalesce((select x.no from gendurable.history x where x.instance_id = i.id order by x.no desc limit 1), 0) + 1, p_now, greatest(extract(epoch from p_now - i.updated_at), 0), i.attempt,
        coalesce(p_kind, case
            -- decided meanwhile: it is tried again, or was the last attempt
            when o.error is not null and o.ord in (select a.ord from unnest(p_asked) a where a.kind = 'error') then 'error'
            else o.kind
        end),
        coalesce(o.from_step, i.step), case when not o.ends then coalesce(o.step, o.from_step, i.step) end, i.worker,
        case when m.history = 'states' then coalesce(o.from_state, i.state) end,
        -- of most there is nothing to say
        case
            when o.kind in ('next', 'done') and not o.delayed and not o.rekey and o.consume is null
                and o.queue is null and o.priority is null and o.rate_limit is null then null
            else gendurable._outcome_detail(o, p_used -> o.id::text, p_now)
        end
    from unnest(p_outcomes) o
    join gendurable.instance i on i.id = any(array[o.id])
    cross join lateral (
        select x.history from gendurable.machine x
        where x.fsm = i.fsm and x.version = i.fsm_version and x.history is not null
        limit 1
    ) m;
end $$;

comment on function gendurable._note_outcomes(gendurable.outcome[], gendurable.outcome[], text, jsonb, timestamptz) is
    'Writes outcomes into the history of those instances whose machine keeps one. p_asked: as they were sent, before it was decided
what comes of an error; p_used: as of _list_used. Before their rows are written.';

create or replace function gendurable._find_crashed(p_since timestamptz, p_look int)
returns table (id bigint, lost bigint, first_at timestamptz, last_at timestamptz, last_no bigint, looked bigint)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select g.instance_id, g.lost, g.first_at, g.last_at, g.last_no, (sum(g.lost) over ())::bigint
        from (
            select e.instance_id, count(*) as lost, min(e.at) as first_at, max(e.at) as last_at, max(e.no) as last_no
            from (
                select x.instance_id, x.at, x.no
                from gendurable.error x
                where x.kind = 'crash' and x.at >= p_since
                order by x.at desc, x.instance_id desc, x.no desc
                limit p_look
            ) e
            group by e.instance_id
        ) g;
end $$;

comment on function gendurable._find_crashed(timestamptz, int) is
    'Which instances have lost a worker since a time, how often and when, by the latest p_look losses; looked: how many these were.';
