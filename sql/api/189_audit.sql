-- Who did what by hand (kernel/085_audit), for people: page by page, newest first, through the numbers or those of one instance.
-- Next: 190_inspect.

create or replace function gd_audit(p_filter jsonb = '{}', p_after bigint = null, p_limit int = 100, p_look int = 20000)
returns table (
    no bigint, at timestamptz, call text, session_role text, set_role text, actor text, application text, id bigint, what jsonb,
    count bigint
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
-- the filter as constants: a plan for any filter would not take the index of the one instance
set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    v_f record;
    v_limit constant int := coalesce(p_limit, 100);
    v_look constant int := coalesce(p_look, 20000);
    v_before constant bigint := coalesce(p_after, 9223372036854775807);
    v_last bigint;
    v_count int;
begin
    perform gendurable._need_limit(p_limit);
    perform gendurable._need_look(v_look, 'calls');
    v_f := gendurable._read_audit_filter(p_filter);
    -- where this call ends, whatever it finds; null: there are no more
    v_last := (
        select x.no
        from gendurable.audit x
        where (v_f.id is null or x.about_id = v_f.id) and x.no < v_before
        order by x.no desc
        offset v_look - 1
        limit 1);
    return query
        select a.no, a.at, a.call, a.session_role, a.set_role, a.actor, a.application, a.about_id, a.what, a.count
        from gendurable.audit a
        where (v_f.id is null or a.about_id = v_f.id) and a.no < v_before and a.no >= coalesce(v_last, 0)
            and gendurable._fits_audit(a, v_f.texts, v_f.before, v_f.after)
        order by a.no desc
        limit v_limit;
    get diagnostics v_count = row_count;
    if v_last is not null and v_count < v_limit then
        -- it has stopped early
        no := v_last;
        return next;
    end if;
end $$;

comment on function gd_audit(jsonb, bigint, int, int) is
'Who did what by hand, newest first: up to p_limit calls, behind the number p_after; null: from the newest on.

  no: its number; pass that of the last row as p_after for the next page
  call: the function, at: when
  session_role, set_role: the role that has logged in, and the one that it has become by SET ROLE, if any
  actor: what the session says of itself, the setting gendurable.actor
  application: its application_name
  id: the one instance that it concerns, which may be gone since
  what: its other arguments, in short; of many ids the first 20, and how many were given; as "filter" what the session
    says of how they were found, the setting gendurable.filter
  count: on how many instances (or schedules, settings) it had an effect

A call that had no effect is not in it, nor is what programs say as they run: inserts, claims and commits, gd_register,
gd_announce_schedules; gd_signal and gd_close_rate_limit where gendurable.actor does not say for whom. Calls that concern
one instance are kept for 7 days, all others for 90.

Keys of p_filter: id, call, session_role, set_role, actor, application, and the times before and after. One instance
is found through an index. All else is looked at from the newest on, p_look calls at most: if it finds fewer
than p_limit and there are more to look at, a last row in which all is null but no says where to go on. Raises GD501.';

create or replace function gendurable._audit_problem(p_key text, p_value jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when p_value = 'null' then p_key || ' must not be null'
        when p_key = 'id' then gendurable._id_problem(p_value, p_key)
        when p_key in ('before', 'after') then gendurable._time_problem(p_value, p_key)
        else gendurable._text_problem(p_value, p_key, true)
    end
$$;

comment on function gendurable._audit_problem(text, jsonb) is 'What is wrong with a value of a filter of gd_audit, or null.';

create or replace function gendurable._read_audit_filter(
    p_filter jsonb, out texts jsonb, out id bigint, out before timestamptz, out after timestamptz
)
language plpgsql stable as $$
declare
    v_wrong record;
begin
    perform gendurable._need_options(p_filter, '{id,call,session_role,set_role,actor,application,before,after}');
    texts := coalesce(nullif(p_filter, 'null'), '{}');
    select f.key, f.value, gendurable._audit_problem(f.key, f.value) as problem into v_wrong
    from jsonb_each(texts) f
    where gendurable._audit_problem(f.key, f.value) is not null
    limit 1;
    if found then
        perform gendurable._invalid(v_wrong.problem, left(v_wrong.value::text, 200), 'See gd_audit in the SQL reference.');
    end if;
    id := (texts ->> 'id')::numeric::bigint;
    before := (texts ->> 'before')::timestamptz;
    after := (texts ->> 'after')::timestamptz;
    texts := texts - '{id,before,after}'::text[];
end $$;

comment on function gendurable._read_audit_filter(jsonb) is
    'What gd_audit is asked for: texts that have to be equal, the id of an instance, and between which times. Raises GD501.';

create or replace function gendurable._fits_audit(
    p_row gendurable.audit, p_texts jsonb, p_before timestamptz, p_after timestamptz
) returns boolean
language sql stable parallel safe as $$
    -- Asked with the filter as constants (force_custom_plan): what it does not ask is gone before the first row is read.
    select (p_before is null or p_row.at < p_before) and (p_after is null or p_row.at >= p_after)
        and ((p_texts ->> 'call') is null or p_row.call = (p_texts ->> 'call'))
        and ((p_texts ->> 'session_role') is null or p_row.session_role = (p_texts ->> 'session_role'))
        and ((p_texts ->> 'set_role') is null or p_row.set_role = (p_texts ->> 'set_role'))
        and ((p_texts ->> 'actor') is null or p_row.actor = (p_texts ->> 'actor'))
        and ((p_texts ->> 'application') is null or p_row.application = (p_texts ->> 'application'))
$$;

comment on function gendurable._fits_audit(gendurable.audit, jsonb, timestamptz, timestamptz) is
    'Whether a call is one of those that gd_audit is asked for.';
