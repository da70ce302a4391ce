-- Many instances at once: finding them, a bounded stretch a call, and doing to each what gd_cancel, gd_retry, gd_reschedule,
-- gd_delete and gd_signal do to one. These wait for nobody: what is locked elsewhere is answered, and asked for again.
-- Next: 183_bulk_locks.

create or replace function gd_match(
    p_filter jsonb = '{}', p_after bigint = 0, p_limit int = 1000, p_look int = 20000
) returns table (ids bigint[], next bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
-- the filter as constants: a plan for any filter would ask all of it of each row
set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_filter gendurable.filter;
    v_after constant bigint := greatest(coalesce(p_after, 0), 0);
    v_limit constant int := coalesce(p_limit, 1000);
    v_look constant int := coalesce(p_look, 20000);
    v_last bigint;
    v_some bigint[];
    v_ids bigint[];
begin
    perform gendurable._need_limit(p_limit);
    perform gendurable._need_look(v_look, 'instances');
    v_filter := gendurable._parse_filter(p_filter, v_now);
    if v_filter.attributes is not null then
        v_some := gendurable._find_oldest_with(v_filter.attributes, v_after, gendurable._look_by_word(v_look));
    end if;
    -- where this call ends, whatever it finds; null: there are no more
    if v_some is null then
        v_last := (select i.id from gendurable.instance i where i.id > v_after order by i.id offset v_look - 1 limit 1);
        v_ids := array(
            select i.id
            from gendurable.instance i
            where i.id > v_after and i.id <= coalesce(v_last, 9223372036854775807) and gendurable._fits(i, v_filter, v_now)
            order by i.id
            limit v_limit);
    else
        v_last := v_some[gendurable._look_by_word(v_look)];
        v_ids := array(
            select u.id
            from (select x.id, x.ord from unnest(v_some) with ordinality x (id, ord) order by x.ord) u
            join gendurable.instance i on i.id = any(array[u.id])
            where gendurable._fits(i, v_filter, v_now)
            order by u.ord
            limit v_limit);
    end if;
    return query select v_ids, case
        when cardinality(v_ids) < v_limit then v_last
        else coalesce(v_ids[v_limit], v_after)
    end;
end $$;

comment on function gd_match(jsonb, bigint, int, int) is
'Which instances fit a filter, by id, from behind p_after on: up to p_limit ids. A call looks at p_look instances at
most, whatever it finds, and next says where to go on: pass it as p_after. Next null: that was all. Each page sees
what is there when it is asked for. An empty filter fits all; attributes are found through an index. For gd_cancel_many and its like, and before them, to
see what they would concern. Raises GD501, also for a key that it does not know and for null as a value.';

create or replace function gd_cancel_many(p_ids bigint[], p_reason text = null) returns table (id bigint, result text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
-- what cannot be skipped (a unique key in somebody's open transaction, a table lock) is waited for this long
set lock_timeout = '10ms' as $$
#variable_conflict use_column
begin
    return query select o.id, o.result from gendurable._operate_many('cancel', p_ids, gendurable._cut_reason(p_reason), null, null) o;
end $$;

comment on function gd_cancel_many(bigint[], text) is
'gd_cancel for many instances, without their descendants, in one transaction; it waits for nobody. One row for each
id, also where it is given twice, with a result:

  done: it has ended as "cancelled"
  no: it had ended already, or it cannot be written (a warning says why)
  busy: somebody has its row, its key or its parent locked; send it again
  none: there is no such instance

500 to 1,000 ids a call are best, 10,000 are the most. What SQL finds is a filter too:
gd_cancel_many(array(select id from gd_instances where ...)). Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_retry_many(p_ids bigint[]) returns table (id bigint, result text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
-- what cannot be skipped (a unique key in somebody's open transaction, a table lock) is waited for this long
set lock_timeout = '10ms' as $$
#variable_conflict use_column
begin
    return query select o.id, o.result from gendurable._operate_many('retry', p_ids, null, null, null) o;
end $$;

comment on function gd_retry_many(bigint[]) is
'gd_retry for many instances, where they ended and with their own state, flows as it says; it waits for nobody. One row for each id, as
of gd_cancel_many: "no" where it is neither failed nor cancelled, or its unique key is taken, also by another one of
the same call. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_reschedule_many(p_ids bigint[], p_eligible_at timestamptz) returns table (id bigint, result text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
-- what cannot be skipped (a unique key in somebody's open transaction, a table lock) is waited for this long
set lock_timeout = '10ms' as $$
#variable_conflict use_column
begin
    perform gendurable._need_time(p_eligible_at);
    return query select o.id, o.result from gendurable._operate_many('reschedule', p_ids, null, p_eligible_at, null) o;
end $$;

comment on function gd_reschedule_many(bigint[], timestamptz) is
'gd_reschedule for many instances, all to one time; it waits for nobody. One row for each id, as of gd_cancel_many:
"no" where it is neither runnable nor awaits a signal. Instances of more than 500 partition keys are "busy" beyond
these: send them again. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_delete_many(p_ids bigint[]) returns table (id bigint, result text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
-- what cannot be skipped (a table lock, rows of other tables that refer to instances) is waited for this long
set lock_timeout = '10ms' as $$
#variable_conflict use_column
begin
    return query select o.id, o.result from gendurable._operate_many('delete', p_ids, null, null, null) o;
end $$;

comment on function gd_delete_many(bigint[]) is
'gd_delete for many instances, in one transaction; it waits for nobody. One row for each id, also where it is given twice,
with a result:

  done: it is gone
  no: it has not ended, or its parent has not, or a foreign key or a trigger of yours keeps it (a warning says why)
  busy: somebody has it or its parent locked, or its partition key is being passed on by it; send it again
  none: there is no such instance

500 to 1,000 ids a call are best, 10,000 are the most. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_signal_many(
    p_ids bigint[], p_name text, p_payload jsonb = 'null', p_dedup_key text = null
) returns table (id bigint, result text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
-- what cannot be skipped (a unique key in somebody's open transaction, a table lock) is waited for this long
set lock_timeout = '10ms' as $$
#variable_conflict use_column
declare
    v_most constant bigint := 100000000;
begin
    perform gendurable._need_text(p_name, 'p_name');
    if p_dedup_key is not null then
        perform gendurable._need_text(p_dedup_key, 'p_dedup_key');
    end if;
    if octet_length(p_payload::text)::bigint * cardinality(p_ids) > v_most then
        perform gendurable._invalid('this payload is too long for so many instances',
            format('%s bytes for each of %s', octet_length(p_payload::text), cardinality(p_ids)),
            format('One call sends %s bytes at most: send it to fewer at a time.', v_most));
    end if;
    return query select o.id, o.result from gendurable._operate_many('signal', p_ids, null, null, jsonb_build_object(
        'name', p_name, 'payload', coalesce(p_payload, 'null'), 'dedup_key', p_dedup_key)) o;
end $$;

comment on function gd_signal_many(bigint[], text, jsonb, text) is
'gd_signal for many instances, the same signal to each, in one transaction; it waits for nobody. One row for each id, also
where it is given twice, with a result:

  done: it is in the inbox
  no: the instance has ended, or has had this p_dedup_key before, or it cannot be written (a warning says why)
  busy: somebody has its row locked; send it again, best with a p_dedup_key
  none: there is no such instance

500 to 1,000 ids a call are best, 10,000 and 100 MB of payloads are the most. Needs READ COMMITTED (GD504); raises GD501.';
