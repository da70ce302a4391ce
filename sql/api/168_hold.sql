-- Holding everything: nothing is handed out, whatever is due. For a restored copy, and for emergencies.
-- Next: 170_sleep.

create or replace function gd_hold_all(p_reason text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_actor constant text := nullif(left(current_setting('gendurable.actor', true), 200), '');
    v_by constant text := coalesce(v_actor || ' as ', '') || session_user;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_reason, 'p_reason');
    insert into gendurable.hold (reason, held_by)
    select p_reason, v_by
    where not exists (select from gendurable.hold h where h.reason = p_reason and h.held_by = v_by);
    if found then
        perform gendurable._note_by_hand('gd_hold_all', null, jsonb_build_object('reason', p_reason), 1);
    end if;
end $$;

comment on function gd_hold_all(text) is
'Stops everything: claims that begin after the commit of this answer nothing, in all queues, and no schedule fires.
Claims that are kept ("keep") are given back. Running steps commit, heartbeats, inserts, signals and gd_maintain go
on. The view gd_holds says why, by whom and since when. Each reason is a row of its own, and gd_release_hold removes
them all. Waits for nobody. Raises GD501, GD504.';

create or replace function gd_release_hold() returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
declare
    v_count bigint;
begin
    perform gendurable._need_read_committed();
    -- whoever lets a copy go has decided what is to become of it
    perform gendurable._confirm_home();
    delete from gendurable.hold;
    get diagnostics v_count = row_count;
    if v_count = 0 then
        return false;
    end if;
    perform gendurable._note_by_hand('gd_release_hold', null, '{}', v_count);
    -- whatever queues they sleep on
    perform gendurable._notify_listeners('');
    return true;
end $$;

comment on function gd_release_hold() is
'Ends what gd_hold_all began, whoever did; workers are woken. False: nothing was held. Another transaction that does
the same is met with 55P03 after a second. It also confirms that the database is where it is meant to be, of which
gd_doctor speaks in a copy. Raises GD504.';
