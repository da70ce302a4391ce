-- Times: as numbers, and those that a clock wrote which has been set back since (who moves these stands in api/216_clock).
-- Next: 027_cron, expressions that name times.

create or replace function gendurable._epoch_us(p_at timestamptz) returns bigint
language sql stable parallel safe as $$
    -- stable as extract is: marked stricter than its body, it would not be inlined
    select (extract(epoch from p_at) * 1000000)::bigint
$$;

comment on function gendurable._epoch_us(timestamptz) is 'Microseconds since 1970: the floor''s and the claim number''s clock.';

create or replace function gendurable._is_ahead(p_at timestamptz, p_now timestamptz) returns boolean
language sql stable parallel safe as $$
    select p_at > p_now + interval '2 seconds'
$$;

comment on function gendurable._is_ahead(timestamptz, timestamptz) is
    'Whether a time was written by a clock that has been set back since.';

create or replace function gendurable._is_over(p_expires_at timestamptz, p_timeout_at timestamptz, p_now timestamptz)
returns boolean
language sql immutable parallel safe as $$
    select coalesce(least(p_expires_at, p_timeout_at) <= p_now, false)
$$;

comment on function gendurable._is_over(timestamptz, timestamptz, timestamptz) is
    'Whether the deadline of an instance has passed, or the timeout of the step that its claim is for.';

create or replace function gendurable._is_renewed(p_id bigint, p_claim_no bigint, p_now timestamptz) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from gendurable.renewal r where r.instance_id = p_id and r.claim_no = p_claim_no and r.until > p_now);
end $$;

comment on function gendurable._is_renewed(bigint, bigint, timestamptz) is
    'Whether a claim whose lease has ended was renewed beside its row, which somebody had locked.';

create or replace function gendurable._due_at(p_eligible_at timestamptz, p_delay interval, p_now timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    -- in UTC, where a day has 24 hours: the zone of the session must not change what a delay is
    select coalesce(p_eligible_at, case when p_delay is null then p_now else (p_now at time zone 'UTC' + p_delay) at time zone 'UTC' end)
$$;

comment on function gendurable._due_at(timestamptz, interval, timestamptz) is
    'When a new instance is due: at a time, after a delay, or now.';

create or replace function gendurable._expiry_error(p_expires_at timestamptz) returns text
language sql stable parallel safe as $$
    select 'expired at ' || to_char(p_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

comment on function gendurable._expiry_error(timestamptz) is 'The last error of an instance whose deadline has passed.';
