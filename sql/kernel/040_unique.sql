-- Unique keys: who holds one, letting go of it and taking it again, as the status enters and leaves the key's scope.
-- Invariant 5: at most one holder, by the unique index on unique_held. Next: 045_buckets, rate limits.

create or replace function gendurable._find_holder(p_unique_key text) returns bigint
language plpgsql stable as $$
begin
    return (select i.id from gendurable.instance i where i.unique_held = p_unique_key);
end $$;

comment on function gendurable._find_holder(text) is 'The instance that holds a unique key, or null.';

create or replace function gendurable._unique_held(
    p_held text, p_scope gendurable.status[], p_status gendurable.status
) returns text
language sql immutable parallel safe as $$
    select case
        when p_held is null then null
        when p_scope is null then case when not gendurable._is_terminal(p_status) then p_held end
        when p_status = any(p_scope) then p_held
    end
$$;

comment on function gendurable._unique_held(text, gendurable.status[], gendurable.status) is
    'unique_held of a row that enters a status: a key is let go outside of its scope.';

create or replace function gendurable._take_unique_keys(p_ids bigint[], p_statuses gendurable.status[]) returns void
language plpgsql as $$
declare
    v_row record;
    v_waits int := 0;
    v_timeout constant text := current_setting('lock_timeout');
begin
    -- Only rows with a scope of their own can enter it again. One by one, since each may meet a holder whose
    -- transaction is still open: it is waited for a moment, and the row goes on without the key.
    for v_row in
        select i.id
        from unnest(p_ids, p_statuses) n (id, status)
        cross join lateral (select x.* from gendurable.instance x where x.id = n.id offset 0) i
        where i.unique_scope is not null and i.unique_held is null and n.status = any(i.unique_scope)
        order by i.unique_key
    loop
        begin
            -- 30 ms in all, however many rows meet open transactions: two long waits, ten short ones, then none
            perform set_config('lock_timeout', case when v_waits < 2 then '10ms' else '1ms' end, true);
            update gendurable.instance i
            set unique_held = i.unique_key
            where i.id = v_row.id and not exists (
                select from gendurable.instance h where h.unique_held = i.unique_key);
        exception
            when lock_not_available or deadlock_detected then
                v_waits := v_waits + 1;
                exit when v_waits = 12;
                continue;
            when unique_violation then
                continue;
        end;
        perform set_config('lock_timeout', v_timeout, true);
    end loop;
end $$;

comment on function gendurable._take_unique_keys(bigint[], gendurable.status[]) is
    'Takes the unique keys of rows that are about to enter their scope again, where nobody holds them; it waits for some
30 ms at most in all, and those behind go on without their key.';
