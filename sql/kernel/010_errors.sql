-- What every call asks first: whether its arguments can be taken, and whether its transaction is one in which it can work.
-- A helper in LANGUAGE sql is a single expression that the planner inlines; what reads a table is plpgsql, whose plans are kept,
-- while a sql function that is not inlined is planned anew in every call.
-- Next: 020_json, how the values in JSON are read.

create or replace function gendurable._invalid(p_message text, p_detail text, p_hint text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'GD501', message = p_message, detail = coalesce(p_detail, ''), hint = p_hint;
end $$;

comment on function gendurable._invalid(text, text, text) is 'Raises GD501: an argument is not valid.';

create or replace function gendurable._need_text(p_value text, p_argument text) returns void
language plpgsql as $$
begin
    if p_value is null or p_value = '' then
        perform gendurable._invalid(p_argument || ' must not be empty', 'got ' || coalesce(quote_literal(p_value), 'null'),
            'Pass a non-empty text as ' || p_argument || '.');
    end if;
    if octet_length(p_value) > gendurable._longest_name() then
        perform gendurable._invalid(p_argument || ' is too long', octet_length(p_value) || ' bytes',
            'Names and keys have at most ' || gendurable._longest_name() || ' bytes.');
    end if;
end $$;

comment on function gendurable._need_text(text, text) is 'Raises GD501 unless the argument is a non-empty text of bearable length.';

create or replace function gendurable._need_object(p_value jsonb, p_argument text, p_hint text) returns void
language plpgsql as $$
begin
    if jsonb_typeof(p_value) not in ('object', 'null') then
        perform gendurable._invalid(p_argument || ' must be a JSON object', 'got ' || jsonb_typeof(p_value), p_hint);
    end if;
end $$;

comment on function gendurable._need_object(jsonb, text, text) is 'Raises GD501 unless an argument is a JSON object, or null.';

create or replace function gendurable._need_look(p_look int, p_what text) returns void
language plpgsql as $$
begin
    if p_look < 1 then
        perform gendurable._invalid('p_look must be at least 1', 'got ' || p_look, format('Pass how many %s one call looks at.', p_what));
    end if;
end $$;

comment on function gendurable._need_look(int, text) is 'Raises GD501 for a look at nothing.';

create or replace function gendurable._need_limit(p_limit int) returns void
language plpgsql as $$
begin
    if p_limit < 0 then
        perform gendurable._invalid('p_limit must not be negative', 'got ' || p_limit, 'Ask for 0 or more rows.');
    end if;
end $$;

comment on function gendurable._need_limit(int) is 'Raises GD501 for a negative limit.';

create or replace function gendurable._need_read_committed() returns void
language plpgsql as $$
begin
    -- Under a fixed snapshot an await parks for ever beside its signal and a lane loses its wake-up:
    -- the later statement that must see what a lock waited for would not see it.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception using errcode = 'GD504',
            message = 'this function needs a READ COMMITTED transaction',
            detail = 'the transaction is ' || upper(current_setting('transaction_isolation')),
            hint = 'Call it in a transaction of its own: begin isolation level read committed.';
    end if;
end $$;

comment on function gendurable._need_read_committed() is
    'Raises GD504 unless each statement of the transaction takes a new snapshot.';

create or replace function gendurable._need_instance(p_id bigint) returns void
language plpgsql as $$
begin
    if p_id is null or p_id <= 0 or not exists (select from gendurable.instance i where i.id = p_id) then
        raise exception using errcode = 'GD503',
            message = 'no such instance', detail = 'id ' || coalesce(p_id::text, 'null'),
            hint = 'Ids come from gd_insert; finished instances are removed after their retention.';
    end if;
end $$;

comment on function gendurable._need_instance(bigint) is 'Raises GD503 unless the instance exists.';

create or replace function gendurable._need_options(p_options jsonb, p_known text[]) returns void
language plpgsql as $$
begin
    if p_options is null or p_options = 'null' then
        return;
    end if;
    if jsonb_typeof(p_options) <> 'object' then
        perform gendurable._invalid('p_options must be a JSON object', 'got ' || jsonb_typeof(p_options), 'Pass {} for none.');
    end if;
    if p_options - p_known <> '{}' then
        perform gendurable._invalid('unknown option', (p_options - p_known)::text,
            case when p_known = '{}' then 'This function takes no options yet.'
                else 'Known options: ' || array_to_string(p_known, ', ') || '.' end);
    end if;
end $$;

comment on function gendurable._need_options(jsonb, text[]) is
    'Raises GD501 unless the options are an object with known keys only.';

create or replace function gendurable._need_lease(p_lease interval) returns void
language plpgsql as $$
begin
    if p_lease is null or not p_lease > interval '0' or p_lease > interval '1000 years' then
        perform gendurable._invalid('p_lease must be positive', 'got ' || coalesce(p_lease::text, 'null'),
            'A lease is how long a worker may stay silent, for example ''60 seconds''.');
    end if;
end $$;

comment on function gendurable._need_lease(interval) is 'Raises GD501 unless the lease is positive.';

create or replace function gendurable._is_ready(p_worker text, p_lease interval) returns boolean
language sql stable parallel safe as $$
    -- one expression in place of a call for each: half of what these cost is to set them up anew in each transaction
    select coalesce(
        current_setting('transaction_isolation') = 'read committed'
        and octet_length(p_worker) between 1 and gendurable._longest_name()
        and p_lease > interval '0' and p_lease <= interval '1000 years', false)
$$;

comment on function gendurable._is_ready(text, interval) is
    'Whether a worker may claim and commit with these arguments; if not, the _need functions say why.';

create or replace function gendurable._can_write() returns boolean
language plpgsql as $$
begin
    -- a table lock (vacuum full, DDL) cannot be skipped row by row
    lock table gendurable.instance in row exclusive mode;
    return true;
exception when lock_not_available then
    return false;
end $$;

comment on function gendurable._can_write() is
    'Whether the instances can be written at all; false: somebody has locked the table. Waits for lock_timeout.';
