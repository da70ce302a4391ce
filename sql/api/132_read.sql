-- Reading outcomes: what is wrong with the JSON of one, and its values.
-- Next: 134_lock.

create or replace function gendurable._is_bigint(p_value jsonb) returns boolean
language sql immutable parallel safe as $$
    select case when jsonb_typeof(p_value) = 'number'
        then (p_value #>> '{}'::text[])::numeric % 1 = 0
            and (p_value #>> '{}'::text[])::numeric between -9223372036854775808 and 9223372036854775807
        else false end
$$;

comment on function gendurable._is_bigint(jsonb) is 'Whether a JSON value is a number that an id can be.';

create or replace function gendurable._names_problem(p_names jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    -- as gd_signal takes them: a name that cannot be sent would be awaited for ever
    return case
        when jsonb_typeof(p_names) = 'string' then gendurable._text_problem(p_names, 'signals', true)
        when jsonb_typeof(p_names) is distinct from 'array' or p_names = '[]' then 'signals must be a name or an array of names'
        when jsonb_array_length(p_names) > 1000 then 'signals has more than 1,000 names'
        when exists (
            select from jsonb_array_elements(p_names) n (name)
            where n.name = 'null' or gendurable._text_problem(n.name, 'signals', true) is not null
        ) then 'signals must be a name or an array of names, of 2,000 bytes each at most'
    end;
end $$;

comment on function gendurable._names_problem(jsonb) is 'What is wrong with the names of an await, or null.';

create or replace function gendurable._send_problem(p_send jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_send) is distinct from 'object' then 'a signal must be a JSON object'
        when p_send - '{id,unique_key,name,payload,dedup_key}'::text[] <> '{}' then 'unknown key in a signal'
        when (coalesce(p_send -> 'id', 'null') = 'null') = (coalesce(p_send -> 'unique_key', 'null') = 'null')
            then 'a signal needs either an id or a unique_key'
        when coalesce(p_send -> 'id', 'null') <> 'null' and not gendurable._is_bigint(p_send -> 'id')
            then 'the id of a signal must be a whole number in its range'
        else coalesce(
            gendurable._text_problem(p_send -> 'unique_key', 'the unique_key of a signal', false),
            gendurable._text_problem(p_send -> 'name', 'the name of a signal', true),
            gendurable._text_problem(p_send -> 'dedup_key', 'the dedup_key of a signal', false))
    end
$$;

comment on function gendurable._send_problem(jsonb) is 'What is wrong with the JSON of a signal that an outcome sends, or null.';

create or replace function gendurable._outbox_problem(p_outcome jsonb) returns text
language plpgsql immutable parallel safe as $$
declare
    v_at constant jsonb := p_outcome -> 'at';
begin
    return case
        when jsonb_typeof(v_at) not in ('object', 'null') then 'at must be a JSON object'
        when jsonb_typeof(v_at) = 'object' and v_at - '{step,state}'::text[] <> '{}' then 'unknown key in at'
        when jsonb_typeof(p_outcome -> 'insert') not in ('array', 'null') then 'insert must be an array of instances'
        when jsonb_typeof(p_outcome -> 'signal') not in ('array', 'null') then 'signal must be an array of signals'
        else coalesce(
            case
                when jsonb_typeof(v_at) = 'object' then coalesce(
                    gendurable._text_problem(v_at -> 'step', 'the step of at', true),
                    gendurable._object_problem(v_at -> 'state', 'the state of at'))
            end,
            case
                when jsonb_typeof(p_outcome -> 'signal') = 'array' then (
                    select gendurable._send_problem(s.send)
                    from jsonb_array_elements(p_outcome -> 'signal') s (send)
                    where gendurable._send_problem(s.send) is not null
                    limit 1)
            end)
    end;
end $$;

comment on function gendurable._outbox_problem(jsonb) is
    'What is wrong with insert, signal and at of an outcome, or null. What the instances are is looked at where they are inserted.';

create or replace function gendurable._parse_sends(p_sends jsonb) returns gendurable.send[]
language plpgsql stable as $$
begin
    -- to values, since a number that is out of its range must be an error of its outcome, and of no other
    return (
        select array_agg(gendurable._send(
            p_id => (s.send ->> 'id')::numeric::bigint,
            p_unique_key => s.send ->> 'unique_key',
            p_name => s.send ->> 'name',
            p_payload => s.send -> 'payload',
            p_dedup_key => s.send ->> 'dedup_key'
        ) order by s.ord)
        from jsonb_array_elements(p_sends) with ordinality s (send, ord));
end $$;

comment on function gendurable._parse_sends(jsonb) is 'Reads the signals that an outcome sends; null where there are none.';

create or replace function gendurable._traceback_problem(p_outcome jsonb) returns text
language sql immutable parallel safe as $$
    select case when jsonb_typeof(p_outcome -> 'traceback') not in ('string', 'null') then 'traceback must be a string' end
$$;

comment on function gendurable._traceback_problem(jsonb) is 'What is wrong with the traceback of an outcome, or null.';

create or replace function gendurable._outcome_problem(p_outcome jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_outcome) is distinct from 'object' then 'an outcome must be a JSON object'
        when jsonb_typeof(p_outcome -> 'id') is distinct from 'number' then 'id is missing or not a number'
        when jsonb_typeof(p_outcome -> 'claim_no') is distinct from 'number' then 'claim_no is missing or not a number'
        when not gendurable._is_bigint(p_outcome -> 'id') then 'id must be a whole number in its range'
        when not gendurable._is_bigint(p_outcome -> 'claim_no') then 'claim_no must be a whole number in its range'
        when p_outcome ? 'consume' and (
            jsonb_typeof(p_outcome -> 'consume') not in ('array', 'null')
            or jsonb_path_exists(
                p_outcome, 'strict $.consume[*] ? (@.type() != "number" || @ != @.floor() || @ < 0 || @ > 9223372036854775807)',
                '{}', true)
            or case when jsonb_typeof(p_outcome -> 'consume') = 'array'
                then jsonb_array_length(p_outcome -> 'consume') > 10000 end)
            then 'consume must be an array of signal ids, 10,000 at most'
        when p_outcome ?| '{insert,signal,at}'::text[] and gendurable._outbox_problem(p_outcome) is not null
            then gendurable._outbox_problem(p_outcome)
        when p_outcome ? 'attributes' and gendurable._attributes_problem(p_outcome -> 'attributes') is not null
            then gendurable._attributes_problem(p_outcome -> 'attributes')
        when p_outcome ? 'journal' and gendurable._journal_problem(p_outcome -> 'journal') is not null
            then gendurable._journal_problem(p_outcome -> 'journal')
        else case p_outcome ->> 'kind'
            when 'next' then case
                when p_outcome - '{id,claim_no,kind,consume,attributes,journal,insert,signal,at,step,state,delay_ms,partition_key,rate_limit,weight,priority,queue,keep,close_ms}'::text[] <> '{}'
                    then 'unknown key in an outcome next'
                else coalesce(
                    gendurable._text_problem(p_outcome -> 'step', 'step', true),
                    gendurable._object_problem(p_outcome -> 'state', 'state'),
                    gendurable._ms_problem(p_outcome -> 'delay_ms', 'delay_ms'),
                    gendurable._text_problem(p_outcome -> 'partition_key', 'partition_key', false),
                    gendurable._text_problem(p_outcome -> 'rate_limit', 'rate_limit', false),
                    gendurable._text_problem(p_outcome -> 'queue', 'queue', false),
                    gendurable._int_problem(p_outcome -> 'priority', 'priority', null),
                    gendurable._weight_problem(p_outcome -> 'weight'),
                    gendurable._ms_problem(p_outcome -> 'close_ms', 'close_ms'),
                    case when jsonb_typeof(p_outcome -> 'keep') not in ('boolean', 'null')
                        then 'keep must be true or false' end)
            end
            when 'replay' then case
                when p_outcome - '{id,claim_no,kind,consume,attributes,journal,insert,signal,at,state,delay_ms,error,traceback,close_ms}'::text[] <> '{}'
                    then 'unknown key in an outcome replay'
                else coalesce(
                    gendurable._object_problem(p_outcome -> 'state', 'state'),
                    gendurable._ms_problem(p_outcome -> 'delay_ms', 'delay_ms'),
                    gendurable._ms_problem(p_outcome -> 'close_ms', 'close_ms'),
                    case when jsonb_typeof(p_outcome -> 'error') not in ('string', 'null')
                        then 'error must be a string' end,
                    gendurable._traceback_problem(p_outcome))
            end
            when 'await' then case
                when p_outcome - '{id,claim_no,kind,consume,attributes,journal,insert,signal,at,signals,step,state,timeout_ms}'::text[] <> '{}'
                    then 'unknown key in an outcome await'
                else coalesce(
                    gendurable._names_problem(p_outcome -> 'signals'),
                    gendurable._text_problem(p_outcome -> 'step', 'step', false),
                    gendurable._object_problem(p_outcome -> 'state', 'state'),
                    gendurable._ms_problem(p_outcome -> 'timeout_ms', 'timeout_ms'))
            end
            when 'schedule_childs' then case
                when p_outcome - '{id,claim_no,kind,consume,attributes,journal,insert,signal,at,step,childs,state}'::text[] <> '{}'
                    then 'unknown key in an outcome schedule_childs'
                when jsonb_typeof(p_outcome -> 'childs') is distinct from 'array' then 'childs must be an array'
                else coalesce(
                    gendurable._text_problem(p_outcome -> 'step', 'step', true),
                    gendurable._object_problem(p_outcome -> 'state', 'state'))
            end
            when 'done' then case
                when p_outcome - '{id,claim_no,kind,consume,attributes,journal,insert,signal,at,result}'::text[] <> '{}'
                    then 'unknown key in an outcome done'
            end
            when 'stop' then case
                when p_outcome - '{id,claim_no,kind,consume,attributes,journal,insert,signal,at,reason,traceback}'::text[] <> '{}'
                    then 'unknown key in an outcome stop'
                when jsonb_typeof(p_outcome -> 'reason') is distinct from 'string' then 'reason must be a string'
                else gendurable._traceback_problem(p_outcome)
            end
            when 'error' then case
                when p_outcome - '{id,claim_no,kind,consume,attributes,journal,error,traceback,delay_ms,close_ms}'::text[] <> '{}'
                    then 'unknown key in an outcome error'
                when jsonb_typeof(p_outcome -> 'error') is distinct from 'string' then 'error must be a string'
                else coalesce(
                    gendurable._ms_problem(p_outcome -> 'delay_ms', 'delay_ms'),
                    gendurable._ms_problem(p_outcome -> 'close_ms', 'close_ms'),
                    gendurable._traceback_problem(p_outcome))
            end
            else 'kind must be next, replay, await, schedule_childs, done, stop or error'
        end
    end
$$;

comment on function gendurable._outcome_problem(jsonb) is 'What is wrong with the JSON of an outcome, or null.';

create or replace function gendurable._parse_outcome(p_ord int, p_outcome jsonb, p_now timestamptz)
returns gendurable.outcome
language sql stable as $$
    select gendurable._outcome(
        p_ord => p_ord,
        -- by numeric, since 1.0 is a whole number, too
        p_id => (p_outcome ->> 'id')::numeric::bigint,
        p_claim_no => (p_outcome ->> 'claim_no')::numeric::bigint,
        p_kind => p_outcome ->> 'kind',
        p_status => case p_outcome ->> 'kind'
            when 'next' then 'runnable' when 'replay' then 'runnable' when 'error' then 'runnable'
            when 'done' then 'done' when 'stop' then 'failed'
            when 'await' then 'awaiting_signal' else 'awaiting_children'
        end::gendurable.status,
        p_ends => p_outcome ->> 'kind' in ('done', 'stop'),
        p_step => p_outcome ->> 'step',
        p_state => nullif(p_outcome -> 'state', 'null'),
        -- due: now, after the delay, at the deadline; the end and children in progress are never due
        p_eligible_at => case
            when p_outcome ->> 'kind' in ('next', 'replay', 'error')
                then p_now + coalesce(gendurable._ms(nullif(p_outcome -> 'delay_ms', 'null')), '0')
            when p_outcome ->> 'kind' = 'await' then p_now + gendurable._ms(nullif(p_outcome -> 'timeout_ms', 'null'))
        end,
        p_awaits => case jsonb_typeof(p_outcome -> 'signals')
            when 'string' then array[p_outcome ->> 'signals']
            when 'array' then gendurable._texts(p_outcome -> 'signals')
        end,
        p_childs => p_outcome -> 'childs',
        p_result => p_outcome -> 'result',
        p_error => left(coalesce(p_outcome ->> 'reason', p_outcome ->> 'error'), 100000),
        p_consume => case
            when jsonb_typeof(p_outcome -> 'consume') = 'array'
                then gendurable._texts(p_outcome -> 'consume')::numeric[]::bigint[]
        end,
        p_rekey => p_outcome ? 'partition_key',
        p_partition_key => p_outcome ->> 'partition_key',
        p_queue => p_outcome ->> 'queue',
        p_priority => (p_outcome ->> 'priority')::numeric::int,
        p_rate_limit => p_outcome ->> 'rate_limit',
        p_weight => (p_outcome ->> 'weight')::double precision,
        -- next: later than now; error: given at all, since 0 too replaces the back-off
        p_delayed => coalesce(p_outcome -> 'delay_ms', 'null') <> 'null'
            and (p_outcome ->> 'kind' = 'error' or p_outcome -> 'delay_ms' <> '0'),
        p_keep => coalesce(p_outcome -> 'keep' = 'true', false),
        p_close_ms => ceil((p_outcome ->> 'close_ms')::numeric)::bigint,
        p_inserts => nullif(nullif(p_outcome -> 'insert', 'null'), '[]'),
        p_sends => case
            when jsonb_typeof(p_outcome -> 'signal') = 'array' then gendurable._parse_sends(p_outcome -> 'signal')
        end,
        p_from_step => p_outcome -> 'at' ->> 'step',
        p_from_state => nullif(p_outcome -> 'at' -> 'state', 'null'),
        p_traceback => p_outcome ->> 'traceback',
        p_attributes => nullif(nullif(p_outcome -> 'attributes', 'null'), '{}'),
        p_journal => nullif(p_outcome -> 'journal', 'null')
    )
$$;

comment on function gendurable._parse_outcome(int, jsonb, timestamptz) is 'Reads a valid outcome.';

create or replace function gendurable._rejected(p_ord int, p_outcome jsonb, p_sqlstate text, p_message text)
returns gendurable.outcome
language sql immutable parallel safe as $$
    select gendurable._outcome(
        p_ord => p_ord,
        p_id => case when gendurable._is_bigint(p_outcome -> 'id') then (p_outcome ->> 'id')::numeric::bigint end,
        p_claim_no => case
            when gendurable._is_bigint(p_outcome -> 'claim_no') then (p_outcome ->> 'claim_no')::numeric::bigint
        end,
        p_kind => 'rejected',
        p_step => p_sqlstate,
        p_error => p_message
    )
$$;

comment on function gendurable._rejected(int, jsonb, text, text) is
    'Stands for an outcome that cannot be read: kind rejected, the SQLSTATE in step, the reason in error.';

create or replace function gendurable._read_outcome(p_ord int, p_outcome jsonb, p_now timestamptz)
returns gendurable.outcome
language plpgsql as $$
begin
    return case
        when gendurable._outcome_problem(p_outcome) is null then gendurable._parse_outcome(p_ord, p_outcome, p_now)
        else gendurable._rejected(p_ord, p_outcome, 'GD501', gendurable._outcome_problem(p_outcome))
    end;
end $$;

comment on function gendurable._read_outcome(int, jsonb, timestamptz) is
    'Reads any outcome; one that is not valid becomes a rejected one. Raises what a number out of its range raises.';

create or replace function gendurable._has_plain_claim(p_outcome jsonb) returns boolean
language sql immutable parallel safe as $$
    -- whole numbers far from the end of their range: as text of a JSON number these are digits and nothing else
    select octet_length(p_outcome ->> 'id') <= 18 and position('.' in p_outcome ->> 'id') = 0
        and octet_length(p_outcome ->> 'claim_no') <= 18 and position('.' in p_outcome ->> 'claim_no') = 0
$$;

comment on function gendurable._has_plain_claim(jsonb) is 'Whether id and claim_no of an outcome can be read without further looks.';

create or replace function gendurable._is_short_outcome(p_outcome jsonb) returns boolean
language sql immutable parallel safe as $$
    -- a case: "and" goes on behind what is null
    select case
        when p_outcome ?| '{keep,journal}'::text[] then false
        when gendurable._is_plain_outcome(p_outcome) then gendurable._has_plain_claim(p_outcome)
        else false
    end
$$;

comment on function gendurable._is_short_outcome(jsonb) is 'Whether an outcome that is alone may have the short way (_commit_plain).';

create or replace function gendurable._plain_outcome(p_ord int, p_outcome jsonb, p_now timestamptz)
returns gendurable.outcome
language sql stable as $$
    select gendurable._outcome(
        p_ord => p_ord,
        p_id => (p_outcome ->> 'id')::bigint,
        p_claim_no => (p_outcome ->> 'claim_no')::bigint,
        p_kind => p_outcome ->> 'kind',
        p_status => case p_outcome ->> 'kind' when 'next' then 'runnable' else 'done' end::gendurable.status,
        p_ends => p_outcome ->> 'kind' = 'done',
        p_step => p_outcome ->> 'step',
        p_state => p_outcome -> 'state',
        p_eligible_at => case p_outcome ->> 'kind' when 'next' then p_now end,
        p_result => p_outcome -> 'result',
        p_keep => coalesce(p_outcome -> 'keep' = 'true', false),
        p_journal => nullif(p_outcome -> 'journal', 'null')
    )
$$;

comment on function gendurable._plain_outcome(int, jsonb, timestamptz) is 'Reads a plain outcome, as _parse_outcome would.';

create or replace function gendurable._parse_outcomes(p_outcomes jsonb, p_now timestamptz) returns gendurable.outcome[]
language plpgsql as $$
declare
    v_all gendurable.outcome[];
    v_one record;
begin
    begin
        select array_agg(case
            when gendurable._is_plain_outcome(e.o) then gendurable._plain_outcome(e.ord::int - 1, e.o, p_now)
            else gendurable._read_outcome(e.ord::int - 1, e.o, p_now)
        end)
        into v_all
        from jsonb_array_elements(p_outcomes) with ordinality e (o, ord);
    exception when data_exception then
        -- a number out of its column's range: read one by one, so that only that outcome is rejected
        for v_one in select e.o, e.ord::int - 1 as ord from jsonb_array_elements(p_outcomes) with ordinality e (o, ord) loop
            begin
                v_all := v_all || gendurable._read_outcome(v_one.ord, v_one.o, p_now);
            exception when data_exception then
                v_all := v_all || gendurable._rejected(v_one.ord, v_one.o, sqlstate, sqlerrm);
            end;
        end loop;
    end;
    return coalesce(v_all, '{}');
end $$;

comment on function gendurable._parse_outcomes(jsonb, timestamptz) is
    'Reads a batch of outcomes; what cannot be read becomes a rejected one.';
