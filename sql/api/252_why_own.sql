-- What an instance waits for of itself: its end, its claim, a time, signals, children. Of a flow each says at which checkpoint it is.
-- Next: 253_why_shared.

create or replace function gendurable._at_checkpoint(p_id bigint, p_word text) returns text
language plpgsql stable as $$
declare
    v_name text;
begin
    if gendurable._count_entries(p_id) = 0 then
        return null;
    end if;
    v_name := gendurable._find_checkpoint(p_id);
    return case
        when v_name is null then 'before its first checkpoint'
        else format('%s checkpoint %s', p_word, gendurable._name(v_name))
    end;
end $$;

comment on function gendurable._at_checkpoint(bigint, text) is
    'Where in its function a flow is; null: the instance has no journal.';

create or replace function gendurable._tell_checkpoint(p_id bigint) returns jsonb
language plpgsql stable as $$
declare
    v_count constant int := gendurable._count_entries(p_id);
begin
    return case
        when v_count = 0 then '{}'
        else jsonb_build_object('checkpoint', gendurable._find_checkpoint(p_id), 'entries', v_count)
    end;
end $$;

comment on function gendurable._tell_checkpoint(bigint) is 'What the detail of a cause has of a flow besides.';

create or replace function gendurable._tell_retry(p_id bigint) returns text
language plpgsql stable as $$
begin
    return (
        select format('tries step %s again after attempt %s', gendurable._name(j.entry ->> 'name'), j.entry ->> 'attempts')
            || coalesce(', which ended with ' || gendurable._excerpt(j.entry ->> 'error'), '')
        from gendurable.journal j
        where j.instance_id = p_id and j.entry ->> 'k' = 'retry'
        order by j.seq desc
        limit 1);
end $$;

comment on function gendurable._tell_retry(bigint) is 'Which step of a flow has failed last, to be tried again; null: none.';

create or replace function gendurable._why_ended(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
begin
    return (
        select gendurable._cause('ended', i.finished_at, i.keep_until,
            format('has ended as "%s" %s ago', i.status, gendurable._span(i.finished_at, p_now))
                || coalesce(case when i.status > 'done' then ', ' || gendurable._at_checkpoint(i.id, 'behind') end, '')
                || coalesce(': ' || gendurable._excerpt(case when i.status > 'done' then i.last_error end), ''),
            jsonb_build_object('status', i.status, 'step', i.step, 'error', gendurable._cut_error(i.last_error))
                || gendurable._tell_checkpoint(i.id))
        from gendurable.instance i
        where i.id = p_id);
end $$;

comment on function gendurable._why_ended(bigint, timestamptz) is 'The cause "ended".';

create or replace function gendurable._why_expired(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
begin
    return (
        select gendurable._cause('expired', i.expires_at, null,
            format('has passed its deadline %s ago, and ends as "failed" with the next claim or gd_maintain',
                gendurable._span(i.expires_at, p_now)),
            jsonb_build_object('expires_at', i.expires_at))
        from gendurable.instance i
        where i.id = p_id and i.expires_at <= p_now);
end $$;

comment on function gendurable._why_expired(bigint, timestamptz) is 'The cause "expired".';

create or replace function gendurable._why_executing(p_id bigint, p_reason text, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_until timestamptz;
begin
    select i.step, i.worker, i.attempt, i.claim_no, i.lease_expires_at, i.timeout_at, (
        select max(r.until) from gendurable.renewal r where r.instance_id = i.id and r.claim_no = i.claim_no) as renewed_until
    into v_row
    from gendurable.instance i
    where i.id = p_id;
    v_until := greatest(v_row.lease_expires_at, v_row.renewed_until);
    return gendurable._cause('executing',
        timestamptz 'epoch' + v_row.claim_no * interval '1 microsecond', v_until,
        format('executes %s at worker %s for %s',
            -- the step of a flow is the checkpoint that it has come to, or what it was parked for
            coalesce('what stands ' || gendurable._at_checkpoint(p_id, 'behind'), 'step ' || gendurable._name(v_row.step)),
            gendurable._name(v_row.worker),
            gendurable._span(timestamptz 'epoch' + v_row.claim_no * interval '1 microsecond', p_now))
        || case
            when v_until > p_now then format(', under a lease that ends in %s', gendurable._span(p_now, v_until))
                || coalesce(' and a timeout in ' || gendurable._span(p_now, v_row.timeout_at), '')
                || coalesce('; it ' || p_reason, '')
            else format('; the lease has ended %s ago, and nobody has claimed it again: ', gendurable._span(v_until, p_now))
                || coalesce('it ' || p_reason, 'the next claim of its queue, or gd_maintain, takes it back')
        end,
        jsonb_build_object('step', v_row.step, 'worker', v_row.worker, 'attempt', v_row.attempt, 'claim_no', v_row.claim_no,
            'timeout_at', v_row.timeout_at, 'lost', v_until <= p_now) || gendurable._tell_checkpoint(p_id));
end $$;

comment on function gendurable._why_executing(bigint, text, timestamptz) is
    'The cause "executing"; p_reason: what else holds it, null for nothing.';

create or replace function gendurable._why_crashing(p_id bigint) returns jsonb
language plpgsql stable as $$
begin
    return (
        select gendurable._cause('crashing', null, null,
            format('has lost its worker %s in a row, and fails at %s',
                case i.crashes when 1 then 'once' else i.crashes || ' times' end, gendurable._crash_cap()),
            jsonb_build_object('crashes', i.crashes, 'cap', gendurable._crash_cap()))
        from gendurable.instance i
        where i.id = p_id and i.crashes > 0);
end $$;

comment on function gendurable._why_crashing(bigint) is 'The cause "crashing".';

create or replace function gendurable._why_delayed(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_most int;
    v_kind text;
begin
    select i.attempt, i.max_attempts, i.fsm, i.fsm_version, i.updated_at, i.eligible_at, i.last_error, i.step,
        gendurable._at_checkpoint(i.id, 'behind') as place
    into v_row
    from gendurable.instance i
    where i.id = p_id;
    v_most := coalesce(v_row.max_attempts, (
        select m.max_attempts from gendurable.machine m where m.fsm = v_row.fsm and m.version = v_row.fsm_version),
        gendurable._default_attempts());
    v_kind := case
        when v_row.attempt > 0 then 'back-off'
        when v_row.place is not null and v_row.step = '(sleep)' then 'sleep'
        when v_row.place is not null and v_row.step = '(retry)' then 'retry'
        else 'scheduled'
    end;
    return gendurable._cause('delayed', v_row.updated_at, v_row.eligible_at,
        case
            when v_kind = 'sleep' then format('sleeps %s, and goes on in %s', v_row.place, gendurable._span(p_now, v_row.eligible_at))
            when v_kind = 'retry' then format('%s, in %s',
                coalesce(gendurable._tell_retry(p_id), 'tries a step again'), gendurable._span(p_now, v_row.eligible_at))
            when v_row.attempt = 0 then 'is scheduled, and due in ' || gendurable._span(p_now, v_row.eligible_at)
            else format('backs off after attempt %s of %s, and is due in %s', v_row.attempt, v_most,
                gendurable._span(p_now, v_row.eligible_at))
                || coalesce(', ' || v_row.place, '')
                || coalesce('; that attempt''s error: ' || gendurable._excerpt(v_row.last_error), '')
        end,
        jsonb_build_object('kind', v_kind, 'attempt', v_row.attempt,
            'max_attempts', v_most, 'error', case when v_row.attempt > 0 then gendurable._cut_error(v_row.last_error) end)
        || gendurable._tell_checkpoint(p_id));
end $$;

comment on function gendurable._why_delayed(bigint, timestamptz) is 'The cause "delayed".';

create or replace function gendurable._why_signal(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_inbox record;
begin
    select i.awaits, i.deadline_at, i.updated_at, i.step into v_row from gendurable.instance i where i.id = p_id;
    select coalesce(jsonb_object_agg(n.name, n.count) filter (where n.name <> all(v_row.awaits)), '{}') as others,
        coalesce(sum(n.count) filter (where n.name = any(v_row.awaits)), 0) as seen,
        string_agg(format('%s (%s)', gendurable._name(n.name), n.count), ', ' order by n.name)
            filter (where n.name <> all(v_row.awaits) and n.place <= 5) as names,
        coalesce(sum(n.count), 0) >= gendurable._most_signals() as more
    into v_inbox
    from (
        select s.name, count(*) as count, row_number() over (order by s.name) as place
        from (
            select x.name from gendurable.signal x where x.instance_id = p_id order by x.id limit gendurable._most_signals()
        ) s
        group by s.name
    ) n;
    return gendurable._cause('signal', v_row.updated_at, v_row.deadline_at,
        format('awaits the signal %s for %s',
            (select string_agg(gendurable._name(a.name), ' or ' order by a.ord)
                from unnest(v_row.awaits[:5]) with ordinality a (name, ord))
            || case when cardinality(v_row.awaits) > 5 then format(' or %s more', cardinality(v_row.awaits) - 5) else '' end,
            gendurable._span(v_row.updated_at, p_now))
        || coalesce(', ' || gendurable._at_checkpoint(p_id, 'at'), '')
        || coalesce(', and goes on without it in ' || gendurable._span(p_now, v_row.deadline_at), '')
        || coalesce('; in its inbox lies under other names: ' || v_inbox.names, '')
        || case
            when v_inbox.seen = 0 then ''
            else format('; %s of that name in its inbox %s shown to the step before it awaited', v_inbox.seen,
                case v_inbox.seen when 1 then 'was' else 'were' end)
        end,
        jsonb_build_object('awaits', v_row.awaits, 'step', v_row.step, 'inbox', v_inbox.others, 'shown', v_inbox.seen)
        || gendurable._more(v_inbox.more) || gendurable._tell_checkpoint(p_id));
end $$;

comment on function gendurable._why_signal(bigint, timestamptz) is 'The cause "signal".';

create or replace function gendurable._why_children(p_id bigint) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_first bigint;
begin
    select i.children_pending, i.claim_no, i.step into v_row from gendurable.instance i where i.id = p_id;
    v_first := (
        select c.id
        from (
            select i.id, i.barrier_no, i.finished_at
            from gendurable.instance i
            -- as a range: "=" would let the planner walk the primary key, which has the order, in search of children
            where i.parent_id between p_id and p_id
            order by i.parent_id, i.id
            limit gendurable._most_looks()
        ) c
        where c.barrier_no = v_row.claim_no and c.finished_at is null
        order by c.id
        limit 1);
    return gendurable._cause('children', timestamptz 'epoch' + v_row.claim_no * interval '1 microsecond', null,
        format('waits for %s that %s not ended',
            case v_row.children_pending when 1 then '1 child' else v_row.children_pending || ' children' end,
            case v_row.children_pending when 1 then 'has' else 'have' end)
        || coalesce(', ' || gendurable._at_checkpoint(p_id, 'at'), '')
        || coalesce(', first for instance ' || v_first, ''),
        jsonb_build_object('open', v_row.children_pending, 'step', v_row.step) || gendurable._tell_checkpoint(p_id),
        v_first);
end $$;

comment on function gendurable._why_children(bigint) is 'The cause "children".';
