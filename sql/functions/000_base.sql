-- What every stage uses: errors, the isolation guard, small readings of JSON and time.
-- A helper in LANGUAGE sql is a single expression that the planner inlines; what reads a table is plpgsql, whose
-- plans are kept, while a sql function that is not inlined is planned anew in every call.

create or replace function gendurable._invalid(p_message text, p_detail text, p_hint text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'GD501', message = p_message, detail = coalesce(p_detail, ''), hint = p_hint;
end $$;

comment on function gendurable._invalid(text, text, text) is 'Raises GD501: an argument is not valid.';

create or replace function gendurable._longest_name() returns int
language sql immutable parallel safe as $$
    select 2000
$$;

comment on function gendurable._longest_name() is
    'Bytes of a name or a key: what an index entry holds, however badly it compresses.';

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
    if p_id is null or not exists (select from gendurable.instance i where i.id = p_id) then
        raise exception using errcode = 'GD503',
            message = 'no such instance', detail = 'id ' || coalesce(p_id::text, 'null'),
            hint = 'Ids come from gd_insert; finished instances are removed after their retention.';
    end if;
end $$;

comment on function gendurable._need_instance(bigint) is 'Raises GD503 unless the instance exists.';

create or replace function gendurable._ms(p_value jsonb) returns interval
language sql immutable parallel safe as $$
    -- through numeric: no 32-bit limit, and an absurd number is a class 22 error and not a wrapped one
    select make_interval(secs => ((p_value #>> '{}'::text[])::numeric / 1000)::double precision)
$$;

comment on function gendurable._ms(jsonb) is 'A JSON number of milliseconds as an interval.';

create or replace function gendurable._epoch_us(p_at timestamptz) returns bigint
language sql stable parallel safe as $$
    -- stable as extract is: marked stricter than its body, it would not be inlined
    select (extract(epoch from p_at) * 1000000)::bigint
$$;

comment on function gendurable._epoch_us(timestamptz) is 'Microseconds since 1970: the floor''s and the claim number''s clock.';

create or replace function gendurable._texts(p_array jsonb) returns text[]
language plpgsql immutable parallel safe as $$
begin
    return array(select jsonb_array_elements_text(p_array));
end $$;

comment on function gendurable._texts(jsonb) is 'A JSON array of strings as an array.';

create or replace function gendurable._trace_of(p_meta jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    -- https://www.w3.org/TR/trace-context/ and https://www.w3.org/TR/baggage/
    return coalesce((
        select jsonb_object_agg(t.key, t.value)
        from jsonb_each(p_meta) t
        where t.key in ('traceparent', 'tracestate', 'baggage')), '{}');
end $$;

comment on function gendurable._trace_of(jsonb) is 'The keys of meta that children inherit: W3C trace context and baggage.';

create or replace function gendurable._ms_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    select case
        when p_value is null or p_value = 'null' then null
        when jsonb_typeof(p_value) <> 'number' then p_name || ' must be a number of milliseconds'
        when (p_value #>> '{}'::text[])::numeric < 0 then p_name || ' must not be negative'
        when (p_value #>> '{}'::text[])::numeric > 9e15 then p_name || ' is longer than 285,000 years'
    end
$$;

comment on function gendurable._ms_problem(jsonb, text) is 'What is wrong with a duration in milliseconds, or null.';

create or replace function gendurable._text_problem(p_value jsonb, p_name text, p_needed boolean) returns text
language sql immutable parallel safe as $$
    select case
        when p_value is null or p_value = 'null' then case when p_needed then p_name || ' is missing' end
        when jsonb_typeof(p_value) <> 'string' then p_name || ' must be a string'
        when p_value = '""' then p_name || ' must not be empty'
        when octet_length(p_value #>> '{}'::text[]) > gendurable._longest_name() then p_name || ' is too long'
    end
$$;

comment on function gendurable._text_problem(jsonb, text, boolean) is 'What is wrong with a name in JSON, or null.';

create or replace function gendurable._object_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    select case when jsonb_typeof(p_value) not in ('object', 'null') then p_name || ' must be a JSON object' end
$$;

comment on function gendurable._object_problem(jsonb, text) is 'What is wrong with a value that is to be an object, or null.';

create or replace function gendurable._int_problem(p_value jsonb, p_name text, p_least int) returns text
language sql immutable parallel safe as $$
    select case
        when p_value is null or p_value = 'null' then null
        when jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}'::text[])::numeric % 1 <> 0
            then p_name || ' must be a whole number'
        when (p_value #>> '{}'::text[])::numeric not between coalesce(p_least, -2147483648) and 2147483647
            then p_name || ' is out of range'
    end
$$;

comment on function gendurable._int_problem(jsonb, text, int) is 'What is wrong with an integer in JSON, or null.';

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

create or replace function gendurable._longest_poll() returns interval
language sql immutable parallel safe as $$
    select interval '60 seconds'
$$;

comment on function gendurable._longest_poll() is
    'No dispatcher sleeps longer than this: a row that is due later needs no wake-up.';

create or replace function gendurable._need_lease(p_lease interval) returns void
language plpgsql as $$
begin
    if p_lease is null or not p_lease > interval '0' or p_lease > interval '1000 years' then
        perform gendurable._invalid('p_lease must be positive', 'got ' || coalesce(p_lease::text, 'null'),
            'A lease is how long a worker may stay silent, for example ''60 seconds''.');
    end if;
end $$;

comment on function gendurable._need_lease(interval) is 'Raises GD501 unless the lease is positive.';

create or replace function gendurable._may_notify() returns boolean
language sql stable parallel safe as $$
    -- A transaction that has notified cannot be prepared. Whoever says off costs others a poll, and nothing else.
    select lower(coalesce(current_setting('gendurable.notify', true), '')) not in ('off', 'false', 'no', '0')
$$;

comment on function gendurable._may_notify() is 'Whether this session notifies: not with gendurable.notify = off.';

create or replace function gendurable._notify(p_queue text) returns void
language plpgsql as $$
begin
    if gendurable._may_notify() then
        -- a payload ends at 7,999 bytes; the empty one wakes everybody
        perform pg_notify('gendurable', case when octet_length(p_queue) < 8000 then p_queue else '' end);
    end if;
end $$;

comment on function gendurable._notify(text) is 'Notifies whoever listens that something is due in a queue, at commit.';

create or replace function gendurable._wake(p_queues text[]) returns void
language plpgsql as $$
declare
    v_queue text;
    v_awake boolean;
begin
    -- NOTIFY takes a lock of the whole server until the commit: only for a queue on which somebody sleeps. A sleeper keeps
    -- its lock; another writer that looks at the same moment has let it go by the second or third try, unless it was
    -- taken off its processor meanwhile: the list of all locks, dearer to read, tells the two apart.
    foreach v_queue in array coalesce(p_queues, '{}') loop
        for v_try in 1 .. 3 loop
            -- one expression: a `perform` of its own would be one more statement on every insert
            v_awake := case
                when pg_try_advisory_lock(7302, hashtext(v_queue)) then pg_advisory_unlock(7302, hashtext(v_queue))
                else false
            end;
            exit when v_awake;
        end loop;
        if not v_awake and exists (
            select from pg_locks l
            where l.locktype = 'advisory' and l.classid = 7302 and l.objsubid = 2
                and l.objid::bigint::bit(32)::int = hashtext(v_queue) and l.mode = 'ShareLock' and l.granted
        ) then
            perform gendurable._notify(v_queue);
        end if;
    end loop;
end $$;

comment on function gendurable._wake(text[]) is 'Notifies the dispatchers that sleep on these queues, at commit.';

create or replace function gendurable._next_lane(p_queue text, p_priority int, out queue text, out priority int)
language plpgsql stable as $$
begin
    -- A skip scan: one probe of the claims' index a lane, whatever is in it and whatever priorities were ever used.
    select i.queue, i.priority into queue, priority
    from gendurable.instance i
    where i.eligible_at is not null and (i.queue, i.priority) > (p_queue, p_priority)
    order by i.queue, i.priority
    limit 1;
end $$;

comment on function gendurable._next_lane(text, int) is
    'The next queue and priority that have rows which somebody is to look at, now or later; null behind the last.';

create or replace function gendurable._is_renewed(p_id bigint, p_claim_no bigint, p_now timestamptz) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from gendurable.renewal r where r.instance_id = p_id and r.claim_no = p_claim_no and r.until > p_now);
end $$;

comment on function gendurable._is_renewed(bigint, bigint, timestamptz) is
    'Whether a claim whose lease has ended was renewed beside its row, which somebody had locked.';

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
