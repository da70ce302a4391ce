-- The delivery of a signal into an inbox: for gd_signal, and for outcomes that send some (api/137_outbox).
-- Invariant 3: what was accepted is presented until a step that saw it has progressed. Next: 084_records,
-- what is kept of what happened.

create or replace function gendurable._deliver_signal(p_id bigint, p_name text, p_payload jsonb, p_dedup_key text, p_key text)
returns text
language plpgsql as $$
declare
    v_row record;
    v_now timestamptz;
begin
    -- The lock comes before the insert: an await looks into the inbox after it has locked the row, so whoever is
    -- second sees the other. Only an end or another signal is waited for here, never a running step.
    select i.status, i.awaits, i.queue, i.eligible_at, i.unique_held, i.unique_scope into v_row
    from gendurable.instance i
    where i.id = p_id and i.id > 0
    for no key update;
    if not found or gendurable._is_terminal(v_row.status)
        or (p_key is not null and v_row.unique_held is distinct from p_key)
    then
        return 'no_target';
    end if;
    if p_dedup_key is not null then
        insert into gendurable.signal_seen (instance_id, dedup_key) values (p_id, p_dedup_key)
        on conflict do nothing;
        if not found then
            return 'duplicate';
        end if;
    end if;

    v_now := clock_timestamp();
    insert into gendurable.signal (instance_id, name, payload, inserted_at)
    values (p_id, p_name, coalesce(p_payload, 'null'), v_now);

    if v_row.status = 'awaiting_signal' and p_name = any(v_row.awaits) then
        if v_row.unique_scope is null then
            perform gendurable._resume(p_id, v_now);
        else
            perform gendurable._to_runnable(array[p_id], v_now, false, v_now);
        end if;
    elsif v_row.status <> 'executing' and v_row.eligible_at <= v_now then
        -- also for a row that was due already: a claim may have passed over it while it was locked here
        perform gendurable._wake_sleepers(array[v_row.queue]);
    end if;
    return 'delivered';
end $$;

comment on function gendurable._deliver_signal(bigint, text, jsonb, text, text) is
    'Puts a signal into an inbox and wakes the instance if it awaits that name.';

create or replace function gendurable._deliver_to_holder(
    p_unique_key text, p_name text, p_payload jsonb, p_dedup_key text, out id bigint, out result text
)
language plpgsql as $$
begin
    result := 'no_target';
    -- between the look-up and the lock the key can pass to another instance: that one is the address then
    for v_try in 1 .. 10 loop
        id := gendurable._find_holder(p_unique_key);
        exit when id is null;
        result := gendurable._deliver_signal(id, p_name, p_payload, p_dedup_key, p_unique_key);
        exit when result <> 'no_target';
    end loop;
end $$;

comment on function gendurable._deliver_to_holder(text, text, jsonb, text) is
    '_deliver_signal to the instance that holds a unique key: which one, null where nobody does, and what came of it.';
