-- Bells. A bell is a due row that is no instance: its id is below 0. It stands in the index of the claims, so that the scan, its
-- floors, what gd_sleep tells of the next due time, pauses and wake-ups serve it without one more query; who uses neither
-- limits nor schedules pays nothing for it. A bell rings once, in the claim that picks it, and another one is put in its place:
-- one that was moved would leave a trail of dead entries under one id. Nobody is told of bells: calls and views leave them out.
-- A line's bell (rate_limit is its bucket) rings when a row of the line may start; a schedule's (unique_key is its name) at its
-- next tick.
-- Next: 060_baton.

create or replace function gendurable._put_bell(
    p_queue text, p_priority int, p_at timestamptz, p_bucket text, p_schedule text, p_since timestamptz = null,
    p_tries int = 0
) returns bigint
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_id bigint;
begin
    -- In the range of lifted rows: it rings also before a backlog of older ones.
    insert into gendurable.instance as i (
        id, fsm, step, queue, priority, woken, eligible_at, rate_limit, unique_key, deadline_at, crashes,
        inserted_at, updated_at)
    values (
        nextval('gendurable.bell_id_seq'), '', '', p_queue, p_priority, 0, p_at, p_bucket, p_schedule, p_since, p_tries,
        v_now, v_now)
    returning i.id into v_id;
    if p_at <= v_now + gendurable._longest_poll() then
        perform gendurable._wake_sleepers(array[p_queue]);
    end if;
    return v_id;
end $$;

comment on function gendurable._put_bell(text, int, timestamptz, text, text, timestamptz, int) is
    'Puts a bell that rings at a time in a queue and priority: its id. p_since: rows came to the line without the lock of its bucket,
from this place on; p_tries: how often it was put off.';
