-- Why nothing is handed out, in words: of a queue, and of an instance.
-- Next: 097_held.

create or replace function gendurable._stop_reason(p_queue text) returns text
language plpgsql stable as $$
begin
    return coalesce(
        (select 'everything is held: ' || h.reason from gendurable.hold h order by h.held_at limit 1),
        (select 'the queue is paused: ' || q.queue from gendurable.paused_queue q where q.queue = p_queue));
end $$;

comment on function gendurable._stop_reason(text) is 'Why nothing of a queue is handed out; null: it is.';

create or replace function gendurable._pause_reason(p_id bigint) returns text
language plpgsql stable as $$
begin
    return (
        select coalesce(
            'it is paused since ' || i.paused_at,
            (
                select case when p.step <> '' then 'its step is paused: ' || i.step else 'its machine is paused: ' || i.fsm end
                from gendurable._find_pause(i.fsm, i.fsm_version, i.step) p
                limit 1))
        from gendurable.instance i
        where i.id = p_id);
end $$;

comment on function gendurable._pause_reason(bigint) is 'Which pause of itself or of its machine holds an instance; null: none.';

create or replace function gendurable._wait_reason(p_id bigint, p_now timestamptz) returns text
language plpgsql stable as $$
begin
    return (
        select case
            when i.finished_at is not null then 'it has ended: ' || i.status
            when i.status = 'executing' and i.lease_expires_at > p_now then 'a worker has it: ' || i.worker
            when i.status = 'awaiting_children' then 'it awaits its children: ' || i.children_pending
            when i.status = 'awaiting_signal' and (i.eligible_at is null or i.eligible_at > p_now)
                then 'it awaits a signal: ' || array_to_string(i.awaits, ', ')
            when i.bucket_at is not null then 'it waits for its rate limit: ' || i.rate_limit
            when i.aside_at is not null and i.eligible_at is null then 'a pause had set it aside, and the next claims bring it back'
            when i.eligible_at is null then 'others come before it in its key: ' || i.partition_key
            when i.eligible_at > p_now then 'it is not due before ' || i.eligible_at
        end
        from gendurable.instance i
        where i.id = p_id);
end $$;

comment on function gendurable._wait_reason(bigint, timestamptz) is
    'Why a claim does not find an instance; null: it is due, or there is none.';
