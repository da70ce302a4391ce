-- The short way of gd_commit: what is plain in a batch is written before anything else is looked at, in one statement, or in two
-- where some keep their claims. It writes what the long way would, or nothing: whatever is not plain, is locked, has lost its claim or
-- met an error is left to that. Next: 134_lock.

create or replace function gendurable._commit_short(
    p_worker text, p_outcomes jsonb, p_lease interval, p_now timestamptz,
    out ords int[], out ids bigint[], out claims bigint[], out details jsonb[]
)
language plpgsql as $$
declare
    v_count constant int := jsonb_array_length(p_outcomes);
    v_skip constant text := current_setting('gendurable.short', true);
    v_state text;
begin
    if v_count = 0 or (v_count = 1 and not gendurable._is_plain_outcome(p_outcomes -> 0)) then
        null;  -- a look tells it: that is no sign of what comes in the next batch
    elsif v_skip <> '' then
        -- little was plain when this was tried last
        perform set_config('gendurable.short', substr(v_skip, 2, 15), false);
    else
        begin
            -- asked in here, too: somebody may have locked one of these tables
            if gendurable._keeps_history() is not true
                and (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1) is not true
            then
                select s.ords, s.ids, s.claims, s.details into ords, ids, claims, details
                from gendurable._write_short(p_worker, p_outcomes, p_lease, p_now) s;
            end if;
        exception
            when others or assert_failure then
                get stacked diagnostics v_state = returned_sqlstate;
                if not gendurable._blames_outcome(v_state) and not gendurable._blames_lock(v_state) then
                    raise;
                end if;
        end;
        if coalesce(2 * cardinality(ords) < v_count, true) then
            perform set_config('gendurable.short', repeat('.', 15), false);
        end if;
    end if;
    ords := coalesce(ords, '{}');
end $$;

comment on function gendurable._commit_short(text, jsonb, interval, timestamptz) is
    'Commits what is plain in a batch: which outcomes these were (ords, ids, claims, details, in one order), and the claims that go on.
All others are left as they were. Where less than half was plain, so many batches of the session are not tried.';

create or replace function gendurable._write_short(
    p_worker text, p_outcomes jsonb, p_lease interval, p_now timestamptz,
    out ords int[], out ids bigint[], out claims bigint[], out details jsonb[]
)
language plpgsql as $$
declare
    v_special constant boolean := exists (select from gendurable.special);
    v_kept record;
    v_others record;
begin
    ords := '{}';
    if p_outcomes @? '$[*].keep' and (not v_special or gendurable._keeps_freely()) and gendurable._carries_all() then
        v_kept := gendurable._write_plain_kept(
            p_worker, p_outcomes, p_lease,
            v_special and exists (select from gendurable.machine m where m.timeouts is not null), p_now);
        ords := v_kept.ords;
        ids := v_kept.ids;
        claims := v_kept.claims;
        details := v_kept.details;
        perform gendurable._need_short(v_kept.lacks);
        if v_kept.journals is not null then
            perform gendurable._record(v_kept.journaled, v_kept.journals);
        end if;
        -- in a statement behind the locks: whoever signals has the row locked
        if exists (select from gendurable.signal s where s.instance_id = any(ids)) then
            details := gendurable._add_inboxes(ids, details);
        end if;
    end if;
    if cardinality(ords) < jsonb_array_length(p_outcomes) then
        v_others := gendurable._write_plain_outcomes(p_outcomes, v_special and gendurable._retains(), p_now);
        ords := ords || v_others.ords;
        ids := ids || v_others.ids;
        claims := claims || v_others.claims;
        perform gendurable._need_short(v_others.lacks);
        if v_others.journals is not null then
            perform gendurable._record(v_others.journaled, v_others.journals);
        end if;
        if v_others.ended is not null then
            perform gendurable._finish_ended(v_others.ended, v_others.ended, null, null, p_now);
        end if;
        -- expressions: mostly there is one queue on which nobody sleeps
        if v_others.queues is not null and (cardinality(v_others.queues) > 1 or not gendurable._is_awake(v_others.queues[1])) then
            perform gendurable._wake_sleepers(v_others.queues);
        end if;
        if cardinality(ords) < jsonb_array_length(p_outcomes) then
            perform gendurable._need_short(gendurable._is_named_again(p_outcomes, ords, ids));
        end if;
    end if;
end $$;

comment on function gendurable._write_short(text, jsonb, interval, timestamptz) is
    'As _commit_short, whatever the session remembers. Raises where the long way is to have all.';

create or replace function gendurable._need_short(p_otherwise boolean) returns void
language plpgsql immutable as $$
begin
    if p_otherwise then
        perform gendurable._invalid('the short way is not for this', null, 'This is never seen.');
    end if;
end $$;

comment on function gendurable._need_short(boolean) is 'Raises GD501 where it is true, and not where it is null.';

create or replace function gendurable._keeps_freely() returns boolean
language plpgsql as $$
begin
    return not exists (select from gendurable.paused_queue) and not exists (select from gendurable.hold)
        and not exists (select from gendurable.queue_setting) and not gendurable._has_pauses()
        and not exists (select from gendurable.resumed);
end $$;

comment on function gendurable._keeps_freely() is 'Whether nothing is paused, held or limited, so that any claim may go on.';

create or replace function gendurable._add_inboxes(p_ids bigint[], p_details jsonb[]) returns jsonb[]
language plpgsql stable as $$
declare
    v_details jsonb[] := p_details;
    v_one record;
begin
    for v_one in
        select u.ord, u.id, gendurable._renewed(i.id, i.claim_no, i.step, i.attempt, '[]', coalesce(i.attributes, '{}')) as renewed
        from unnest(p_ids) with ordinality u (id, ord)
        inner join gendurable.instance i on i.id = u.id
        where exists (select from gendurable.signal s where s.instance_id = u.id)
    loop
        -- a large one is handed out by a claim
        perform gendurable._need_short(gendurable._has_large_inbox(v_one.id));
        v_details[v_one.ord] := case
            when jsonb_typeof(v_details[v_one.ord]) = 'number' then v_one.renewed
            else v_details[v_one.ord]
        end || jsonb_build_object('signals', gendurable._present_inbox(v_one.id, null));
    end loop;
    return v_details;
end $$;

comment on function gendurable._add_inboxes(bigint[], jsonb[]) is
    'The details of kept claims with their inboxes; raises where one is large.';

create or replace function gendurable._is_named_again(p_outcomes jsonb, p_ords int[], p_ids bigint[]) returns boolean
language plpgsql immutable as $$
begin
    return exists (
        select from jsonb_array_elements(p_outcomes) with ordinality e (o, ord)
        where e.ord - 1 not in (select u.ord from unnest(p_ords) u (ord))
            and case when jsonb_typeof(e.o -> 'id') = 'number' then
                (e.o ->> 'id')::numeric in (select u.id::numeric from unnest(p_ids) u (id))
            end);
end $$;

comment on function gendurable._is_named_again(jsonb, int[], bigint[]) is
    'Whether an instance of these ids has another outcome in the batch than that of these ords: which of them is the first matters then.';
