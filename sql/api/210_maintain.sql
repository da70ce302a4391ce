-- Housekeeping: every part of it by itself, bounded, and in nobody's way.
-- The parts stand in the next files; what bounds a call of each, in the last of them.
-- Next: 212_reap.

create or replace function gd_maintain(p_retention interval = '7 days') returns jsonb
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '10ms' as $$
declare
    v_until constant timestamptz := gendurable._upkeep_end();
    v_retention constant interval := coalesce(p_retention, '7 days');
    v_answer jsonb := jsonb
        '{"ran": false, "reaped": 0, "expired": 0, "repaired": 0, "removed": 0, "shifted": 0, "overdue": 0.0, "more": false}';
    v_errors jsonb := '{}'::jsonb;
    v_part text;
    v_state text;
    v_message text;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_retention(p_retention);
    -- one caller at a time: the others have nothing to do
    if not gendurable._is_alone(1) then
        return v_answer || jsonb_build_object('errors', v_errors);
    end if;
    if not gendurable._can_write() then
        return v_answer || '{"errors": {"all": {"sqlstate": "55P03", "message": "the table of the instances is locked"}}}';
    end if;
    v_answer := v_answer || '{"ran": true}';
    foreach v_part in array '{reaped,expired,shifted,repaired,removed,renewals,names,noted}'::text[] loop
        begin
            v_answer := v_answer || case v_part
                when 'noted' then gendurable._note_run(v_answer, v_errors)
                else gendurable._maintain_part(v_part, v_retention, v_until)
            end;
        exception
            when others or assert_failure then
                get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
                if not gendurable._blames_part(v_state) then
                    raise;
                end if;
                v_errors := v_errors || jsonb_build_object(
                    v_part, jsonb_build_object('sqlstate', v_state, 'message', left(v_message, 500)));
        end;
    end loop;
    -- what a part tells of single rows
    return (v_answer - 'errors')
        || jsonb_build_object('errors', coalesce(v_answer -> 'errors', '{}') || v_errors);
end $$;

comment on function gd_maintain(interval) is
'All upkeep in one bounded call: takes expired claims back, ends instances past their deadline, removes instances that
ended longer ago than p_retention, repairs keys, and what a clock wrote that was set back since. Each part by itself:
one that fails is told in "errors", and the others are done. For every dispatcher and for pg_cron, as often as wanted.
It answers with an
object:

  ran: false where another session is at it, or has locked the table; nothing was done
  reaped, removed: claims that were taken back; instances that were removed
  expired: instances that were ended since their deadline has passed
  overdue: for how many seconds the next one that is to be removed has been waiting for it
  repaired: rows of keys and lines before rate limits that waited for nobody, schedules without a bell: anything but 0 is
    a defect worth a report
  shifted: rows with times in the future
  more: there is more to do now, call again
  errors: {part: {sqlstate, message}}, with "rows" besides for rows that could not be removed

Waits for nobody. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_reap(p_limit int = 1000) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '10ms' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_limit(p_limit);
    if not gendurable._can_write() then
        return 0;
    end if;
    return (select r.count from gendurable._reap_expired(coalesce(p_limit, 1000), gendurable._upkeep_end()) r);
end $$;

comment on function gd_reap(int) is
'Takes back up to p_limit claims whose lease has expired: due again now, attempt + 1, their key''s slot freed; after
20 lost claims in a row an instance ends as "failed". A claim past the timeout of its step counts as an error of the
step: due again after the back-off, or "failed" after the last attempt. Claims do the same by the way, so this is for keys whose holder
sits in a queue that is paused or not served; gd_maintain calls it. Returns how many. Locked rows, claims renewed
beside their row, and rows that cannot be given back now are left for a later call. A call looks at 20,000 rows and
takes the locks of 500 keys at most, and the next one goes on there; a priority''s walk ends after 1,000 rows in a
row that nobody holds. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_gc(p_retention interval = '7 days', p_limit int = 2000) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
-- what cannot be skipped (a table lock, rows of other tables that refer to instances) is waited for this long
set lock_timeout = '10ms' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_retention(p_retention);
    perform gendurable._need_limit(p_limit);
    if not gendurable._is_alone(-1) or not gendurable._can_write() then
        return 0;
    end if;
    return (
        select g.count
        from gendurable._remove_old(coalesce(p_retention, '7 days'), coalesce(p_limit, 2000), gendurable._upkeep_end()) g);
end $$;

comment on function gd_gc(interval, int) is
'Removes up to p_limit instances that ended longer than p_retention ago, or longer than their machine keeps them
("retain" of gd_register), with their inboxes and remembered signal keys; never a child whose parent has not ended. A
retention beyond all timestamps keeps all whose machine says nothing. Returns how many: 0 where another session is at
it. A call looks at 20,000 rows or p_limit, and the next one goes on there: what cannot be removed (locked, or a
foreign key of yours refers to it) is passed over. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gendurable._need_retention(p_retention interval) returns void
language plpgsql as $$
begin
    if p_retention < interval '0' then
        perform gendurable._invalid('p_retention must not be negative', 'got ' || p_retention, 'Use 0 to keep nothing.');
    end if;
end $$;

comment on function gendurable._need_retention(interval) is 'Raises GD501 for a negative retention.';

create or replace function gendurable._maintain_part(p_part text, p_retention interval, p_until timestamptz) returns jsonb
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_done record;
begin
    case p_part
        when 'reaped' then
            select r.count, r.more into v_done from gendurable._reap_expired(2000, p_until) r;
            return jsonb_build_object('reaped', v_done.count) || case when v_done.more then '{"more": true}' else '{}' end::jsonb;
        when 'expired' then
            select e.count, e.more into v_done from gendurable._end_expired(2000, p_until) e;
            return jsonb_build_object('expired', v_done.count) || case when v_done.more then '{"more": true}' else '{}' end::jsonb;
        when 'shifted' then
            return jsonb_build_object('shifted', gendurable._turn_ahead_back(v_now, p_until));
        when 'repaired' then
            perform gendurable._relieve_stray_carriers(v_now);
            perform gendurable._settle_doubts(v_now);
            perform gendurable._bring_back_some(null, 1000, v_now);
            perform gendurable._bring_back_strays(v_now, p_until);
            return jsonb_build_object(
                'repaired', gendurable._repair_batons(v_now, p_until) + gendurable._repair_lines(p_until)
                + gendurable._repair_schedules(p_until));
        when 'removed' then
            if not gendurable._is_alone(-1) then
                return jsonb_build_object('overdue', gendurable._find_overdue(p_retention));
            end if;
            select g.* into v_done from gendurable._remove_old(p_retention, 2000, p_until) g;
            return jsonb_build_object('removed', v_done.count, 'overdue', gendurable._find_overdue(p_retention))
                || case when v_done.more then '{"more": true}' else '{}' end::jsonb
                || case
                    when v_done.state is null then '{}'
                    else jsonb_build_object('errors', jsonb_build_object('removed', jsonb_build_object(
                        'sqlstate', v_done.state, 'message', v_done.message, 'rows', v_done.kept)))
                end;
        when 'names' then
            perform gendurable._forget_names();
            perform gendurable._forget_buckets(v_now);
            perform gendurable._forget_special();
            perform gendurable._forget_audit(v_now);
            return '{}'::jsonb;
        else
            delete from gendurable.renewal r
            where (r.instance_id, r.claim_no) in (
                select x.instance_id, x.claim_no
                from gendurable.renewal x
                where x.until < v_now
                limit 10000
                for update skip locked);
            return '{}'::jsonb;
    end case;
end $$;

comment on function gendurable._maintain_part(text, interval, timestamptz) is 'One part of gd_maintain: what it adds to the answer.';

create or replace function gendurable._forget_names() returns void
language plpgsql as $$
declare
    v_most constant int := 10000;
begin
    -- A queue with rows is seen by the views all the same, so whoever inserts at this moment loses nothing.
    if (select count(*) from (select from gendurable.queue_name q limit v_most + 1) n) <= v_most then
        return;
    end if;
    delete from gendurable.queue_name d
    where d.ctid = any(array(
        select q.ctid
        from (select x.ctid, x.queue from gendurable.queue_name x limit v_most) q
        where not exists (select from gendurable.instance i where i.queue = q.queue and i.eligible_at is not null)
            and not exists (
                select from gendurable.instance i
                where i.queue = q.queue and i.eligible_at is null and i.finished_at is null)
        limit 2000));
end $$;

comment on function gendurable._forget_names() is 'Forgets names of queues that have no live rows, where very many are known.';
