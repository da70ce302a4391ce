-- Who did what by hand. Each call that an operator makes, and that has an effect, adds a row, in its own transaction: it waits for
-- nobody, and is gone with the call if that is rolled back. Calls that programs make as they run leave none.
-- Next: 085_memory, what a session remembers of where it looked for rows.

create or replace function gendurable._most_told() returns int
language sql immutable parallel safe as $$
    select 2000
$$;

comment on function gendurable._most_told() is 'Bytes of arguments that the audit keeps of a call as they are; longer ones are cut.';

create or replace function gendurable._tell_short(p_what jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    if octet_length(p_what::text) <= gendurable._most_told() then
        return p_what;
    end if;
    return (
        select jsonb_object_agg(left(w.key, 50), case
            when octet_length(w.value::text) <= 100 then w.value
            else to_jsonb(left(w.value::text, 100) || ' [cut]') end)
        from (select x.key, x.value from jsonb_each(p_what) x limit 20) w);
end $$;

comment on function gendurable._tell_short(jsonb) is
    'Arguments of a call, each cut where they are long: for people, and of bounded length whatever somebody has sent.';

create or replace function gendurable._tell_ids(p_ids bigint[]) returns jsonb
language sql immutable parallel safe as $$
    select jsonb_build_object('ids', to_jsonb(p_ids[:20]), 'given', cardinality(p_ids))
$$;

comment on function gendurable._tell_ids(bigint[]) is 'The ids that a call was given, in short: the first 20, and how many.';

create or replace function gendurable._said_filter() returns jsonb
language plpgsql stable as $$
declare
    v_said constant text := left(nullif(current_setting('gendurable.filter', true), ''), 100000);
begin
    return jsonb_build_object('filter', case
        when jsonb_typeof(v_said::jsonb) = 'object' then gendurable._tell_short(v_said::jsonb)
        else to_jsonb(left(v_said, 200)) end);
exception when data_exception or program_limit_exceeded then
    -- any client may set it to anything
    return jsonb_build_object('filter', left(v_said, 200));
end $$;

comment on function gendurable._said_filter() is
    'By which filter the session says that it has found what it acts on, in short. Only where the setting gendurable.filter says one.';

create or replace function gendurable._note_by_hand(p_call text, p_id bigint, p_what jsonb, p_count bigint) returns void
language plpgsql as $$
begin
    -- any client may set actor, application and filter to anything
    insert into gendurable.audit (call, session_role, set_role, actor, application, about_id, what, count)
    values (
        p_call, session_user, nullif(current_setting('role'), 'none'),
        left(nullif(current_setting('gendurable.actor', true), ''), 200),
        left(nullif(current_setting('application_name'), ''), 200), p_id, gendurable._tell_short(jsonb_strip_nulls(p_what)) || case
            when nullif(current_setting('gendurable.filter', true), '') is null then '{}'
            else gendurable._said_filter() end, p_count);
end $$;

comment on function gendurable._note_by_hand(text, bigint, jsonb, bigint) is
    'Writes down what somebody does by hand: the name of the public function, the one instance that it concerns (null: several, or
none), its arguments without nulls ("{}": none) and on how many it had an effect. Not for a call without any. For whatever steers;
states and payloads of instances do not belong there.';

create or replace function gendurable._can_note() returns boolean
language plpgsql as $$
begin
    lock table gendurable.audit in row exclusive mode;
    return true;
exception when lock_not_available then
    return false;
end $$;

comment on function gendurable._can_note() is
    'Whether it can be written down what is done; false: somebody has locked the table. Waits for lock_timeout.';

create or replace function gendurable._note_edit(p_id bigint, p_step text, p_changed text[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_by constant text := gendurable._actor();
    v_no bigint;
begin
    v_no := coalesce((select x.no from gendurable.error x where x.instance_id = p_id order by x.no desc limit 1), 0) + 1;
    insert into gendurable.error (instance_id, no, at, attempt, kind, step, worker, error)
    select p_id, v_no, p_now, i.attempt, 'edited', i.step, v_by, 'changed by hand: ' || array_to_string(p_changed, ', ')
    from gendurable.instance i
    where i.id = p_id;
    delete from gendurable.error e where e.instance_id = p_id and e.no = v_no - gendurable._most_errors();
    perform gendurable._note_event(
        array[p_id], 'edited', p_step, jsonb_build_object('by', v_by, 'changed', to_jsonb(p_changed)), p_now);
end $$;

comment on function gendurable._note_edit(bigint, text, text[], timestamptz) is
    'Keeps, with its errors and in its history, that somebody changes an instance by hand. Before its row is written.';

create or replace function gendurable._audit_kept(p_id bigint) returns interval
language sql immutable parallel safe as $$
    -- the first as instances are by default: a program may cancel some every second
    select case when p_id is not null then interval '7 days' else interval '90 days' end
$$;

comment on function gendurable._audit_kept(bigint) is 'How long it is kept what was done by hand: to one instance, and all else.';

create or replace function gendurable._forget_audit(p_now timestamptz) returns void
language plpgsql as $$
declare
    v_some constant int := 2000;
    v_seen record;
begin
    -- From where the last call stopped to the first one that nobody may remove yet.
    with seen as materialized (
        select a.no, a.at, a.about_id
        from gendurable.audit a
        where a.no > coalesce((gendurable._recall_place('audit') ->> 0)::bigint, 0)
        order by a.no
        limit v_some
    ), gone as (
        delete from gendurable.audit d
        where d.no = any(array(
            select a.no
            from gendurable.audit a
            where a.no = any(array(select s.no from seen s where s.at < p_now - gendurable._audit_kept(s.about_id)))
            for update skip locked))
    )
    select count(*)::int as count, max(s.no) as last, max(s.at) as at into v_seen from seen s;
    perform gendurable._keep_place('audit', case
        when v_seen.count = v_some and v_seen.at < p_now - gendurable._audit_kept(0) then jsonb_build_array(v_seen.last) end);
end $$;

comment on function gendurable._forget_audit(timestamptz) is
    'Removes what was done by hand long ago, a stretch a call. What somebody has locked is met again when the walk has come round.';
