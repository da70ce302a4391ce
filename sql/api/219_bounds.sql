-- What bounds a call of the upkeep: where it goes on, how long it takes, and that others need not do it as well.
-- Next: 220_workers.

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

create or replace function gendurable._note_run(p_answer jsonb, p_errors jsonb) returns jsonb
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_at constant timestamptz := (gendurable._recall_place('ran') ->> 'at')::timestamptz;
begin
    -- one row a minute, however often it is called; one from the future is replaced
    if v_at > v_now - interval '1 minute' and v_at <= v_now then
        return '{}'::jsonb;
    end if;
    perform gendurable._keep_place('ran', jsonb_build_object(
        'at', v_now, 'overdue', p_answer -> 'overdue', 'errors', coalesce(p_answer -> 'errors', '{}') || p_errors));
    perform gendurable._note_home(v_now);
    return '{}'::jsonb;
end $$;

comment on function gendurable._note_run(jsonb, jsonb) is 'Remembers for gd_doctor that the upkeep ran, how, and where.';
