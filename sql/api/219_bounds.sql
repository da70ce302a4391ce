-- What bounds a call of the upkeep: where it goes on, how long it takes, and that others need not do it as well.
-- Next: 900_access.

create or replace function gendurable._upkeep_end() returns timestamptz
language plpgsql stable as $$
begin
    -- a timeout would take all of the call back: half of it is time enough to stop
    return clock_timestamp() + least(
        nullif(current_setting('statement_timeout')::interval, '0') / 2, interval '5 seconds');
end $$;

comment on function gendurable._upkeep_end() is 'When a call of the upkeep stops, whatever is left to do.';

create or replace function gendurable._is_alone(p_work int) returns boolean
language plpgsql as $$
begin
    -- A lock of the current minute: a transaction that was forgotten after its call holds nobody off for longer. That
    -- two work at once does no harm: whatever they touch is locked row by row.
    return pg_try_advisory_xact_lock(gendurable._lock_of_upkeep(), p_work * (extract(epoch from clock_timestamp()) / 60)::int);
end $$;

comment on function gendurable._is_alone(int) is
    'Whether no other session does this part of the upkeep now; 1: all of it, -1: the collector.';

create or replace function gendurable._recall_place(p_name text) returns jsonb
language plpgsql stable as $$
begin
    return (
        select nullif(u.place, 'null') from gendurable.upkeep u where u.name = p_name order by u.id desc limit 1);
end $$;

comment on function gendurable._recall_place(text) is 'Where a part of the upkeep goes on; null: at the beginning.';

create or replace function gendurable._keep_place(p_name text, p_place jsonb) returns void
language plpgsql as $$
declare
    v_id bigint;
begin
    if p_place is not distinct from gendurable._recall_place(p_name) then
        return;
    end if;
    insert into gendurable.upkeep (name, place) values (p_name, coalesce(p_place, 'null')) returning id into v_id;
    -- by the rows: an open transaction that removes one of them is not waited for
    delete from gendurable.upkeep u
    where u.id in (
        select x.id from gendurable.upkeep x where x.name = p_name and x.id < v_id for update skip locked);
end $$;

comment on function gendurable._keep_place(text, jsonb) is 'Remembers where a part of the upkeep goes on.';
