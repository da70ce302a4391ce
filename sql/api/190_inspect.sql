-- Looking at instances: results, watchers, versions. Lists stand in the views (schema/900_views and 902_views_of_rules).
-- Next: 191_queues.

create or replace function gd_result(p_id bigint) returns table (status text, result jsonb, last_error text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    return query select i.status::text, i.result, i.last_error from gendurable.instance i
        where i.id = p_id and i.id > 0;
end $$;

comment on function gd_result(bigint) is
'How an instance stands: its status, the result (of "done") and the last error. No row: there is no such instance (any
more).';

create or replace function gd_watch(p_id bigint) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_status gendurable.status;
    v_queue text;
    v_due boolean;
begin
    -- The share lock waits for an end that is being committed and holds back the next one until this is visible:
    -- either the status below is terminal, or the end finds the watcher.
    perform from gendurable.instance i where i.id = p_id and i.id > 0 for share;
    select i.status, i.queue, i.eligible_at <= clock_timestamp() into v_status, v_queue, v_due
    from gendurable.instance i
    where i.id = p_id and i.id > 0;
    if not gendurable._is_terminal(v_status) then
        insert into gendurable.watch (instance_id)
        select p_id where not exists (select from gendurable.watch w where w.instance_id = p_id);
        if v_due then
            -- a claim may have passed over the row while it was locked here, and sleep since
            perform gendurable._wake_sleepers(array[v_queue]);
        end if;
    end if;
    return v_status::text;
end $$;

comment on function gd_watch(bigint) is
'The status now; null: no such instance (any more). Unless it is terminal, a notification "gendurable_done" with the id
as payload is sent when the instance ends, and it is kept for a minute then, also where its machine keeps it for less.
"LISTEN gendurable_done" first, call this in a transaction of its own, then wait.';

create or replace function gd_version() returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- a dump without data has no row
    return coalesce((select m.version from gendurable.meta m), gendurable._version());
end $$;

comment on function gd_version() is 'The installed version.';
