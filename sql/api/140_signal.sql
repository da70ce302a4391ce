-- Signals from clients, delivered into the inbox (kernel/082_deliver), and the inbox page by page. Outcomes use signals up
-- (136_apply), and send some (137_outbox). Next: 150_children.

create or replace function gd_signal(
    p_id bigint, p_name text, p_payload jsonb = 'null', p_dedup_key text = null
) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
    v_result text;
begin
    perform gendurable._need_signal(p_name, p_dedup_key);
    if p_id is null then
        perform gendurable._invalid('p_id must not be null', null, 'Pass the id of an instance, or its unique key.');
    end if;
    v_result := gendurable._deliver_signal(p_id, p_name, p_payload, p_dedup_key, null);
    if v_result = 'delivered' and nullif(current_setting('gendurable.actor', true), '') is not null then
        -- Programs signal as they run. Who says for whom does it by hand.
        perform gendurable._note_signal(p_id, p_name, p_dedup_key);
    end if;
    return v_result;
end $$;

comment on function gd_signal(bigint, text, jsonb, text) is
'Sends a signal to an instance.

  delivered: it is in the inbox, until an outcome uses it up or the instance ends
  duplicate: the instance has had this p_dedup_key before
  no_target: there is no such instance (any more), or it has ended

It never waits for a running step, only for another transaction that is writing this instance''s row. Where the setting
gendurable.actor says for whom it is sent, gd_audit has what was delivered. Raises GD501.';

create or replace function gd_signal(
    p_unique_key text, p_name text, p_payload jsonb = 'null', p_dedup_key text = null
) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
    v_delivered record;
begin
    perform gendurable._need_signal(p_name, p_dedup_key);
    perform gendurable._need_text(p_unique_key, 'p_unique_key');
    v_delivered := gendurable._deliver_to_holder(p_unique_key, p_name, p_payload, p_dedup_key);
    if v_delivered.result = 'delivered' and nullif(current_setting('gendurable.actor', true), '') is not null then
        perform gendurable._note_signal(v_delivered.id, p_name, p_dedup_key);
    end if;
    -- An id in quotes, or sent by a driver without its type, comes here: no_target would say that the instance has ended.
    if v_delivered.id is null and gendurable._is_live_id(p_unique_key) then
        perform gendurable._invalid('nobody holds this unique key, but it is the id of an instance',
            'got ' || quote_literal(p_unique_key), 'An id is a number: cast it, as in gd_signal(' || p_unique_key
            || '::bigint, ...). Keys that are digits only are better given a prefix.');
    end if;
    return v_delivered.result;
end $$;

comment on function gd_signal(text, text, jsonb, text) is
'gd_signal to the instance that holds the unique key; "no_target" where nobody does. An id that is quoted, or that a
driver sends without a type, ends up here, too: a key that nobody holds and that is the id of an instance which has
not ended raises GD501. So do invalid arguments. Keys that are digits only are better given a prefix.';

create or replace function gendurable._need_signal(p_name text, p_dedup_key text) returns void
language plpgsql as $$
begin
    -- what nearly all are, by one expression: each perform is a query
    if octet_length(p_name) between 1 and gendurable._longest_name() and p_dedup_key is null then
        return;
    end if;
    perform gendurable._need_text(p_name, 'p_name');
    if p_dedup_key is not null then
        perform gendurable._need_text(p_dedup_key, 'p_dedup_key');
    end if;
end $$;

comment on function gendurable._need_signal(text, text) is 'Raises GD501 unless a signal can have this name and key.';

create or replace function gendurable._note_signal(p_id bigint, p_name text, p_dedup_key text) returns void
language plpgsql as $$
begin
    perform gendurable._note_by_hand('gd_signal', p_id, jsonb_build_object('name', p_name, 'dedup_key', p_dedup_key), 1);
end $$;

comment on function gendurable._note_signal(bigint, text, text) is 'Writes down a signal that somebody has sent by hand.';

create or replace function gendurable._is_live_id(p_text text) returns boolean
language plpgsql stable as $$
begin
    if p_text !~ '^[1-9][0-9]{0,18}$' or p_text::numeric > 9223372036854775807 then
        return false;
    end if;
    return exists (
        select from gendurable.instance i
        where i.id = p_text::bigint and not gendurable._is_terminal(i.status));
end $$;

comment on function gendurable._is_live_id(text) is
    'Whether a text is, digit by digit, the id of an instance that has not ended.';

create or replace function gd_signals(p_id bigint, p_after bigint = 0, p_limit int = 1000)
returns table (id bigint, name text, payload jsonb, inserted_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform gendurable._need_limit(p_limit);
    return query
        select s.id, s.name, s.payload, s.inserted_at
        from gendurable.signal s
        where s.instance_id = p_id and s.id > coalesce(p_after, 0)
        order by s.id
        limit coalesce(p_limit, 1000);
end $$;

comment on function gd_signals(bigint, bigint, int) is
'The inbox of an instance by id, up to p_limit of those behind p_after: a page at a time, for inboxes with more than a
claim hands out (1,000 signals, 16 MB of payloads). A signal can be used up without having been read. No rows: it has
none. Raises GD501.';
