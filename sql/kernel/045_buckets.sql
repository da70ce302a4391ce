-- Rate limits and their buckets. rate_limit names a bucket, "mail" or "mail:eu"; of the limits that were set the longest name that
-- fits decides. A bucket holds up to burst tokens and gains as many as are allowed. Its state is one time, when it will be full:
-- an idle bucket needs no row, and nothing is promised, so that nothing can be saved up. Tokens are taken by claims, under the
-- bucket's lock (api/115_limits).
-- Next: 050_lanes, the keys in which rows wait.

create or replace function gendurable._most_colons() returns int
language sql immutable parallel safe as $$
    select 20
$$;

comment on function gendurable._most_colons() is 'Colons in the name of a rate limit: each is one more name that may fit a bucket.';

create or replace function gendurable._token_slack() returns double precision
language sql immutable parallel safe as $$
    select 1 + 1e-9
$$;

comment on function gendurable._token_slack() is 'Sums of weights may be a billionth above a level: ten times 0.1 are one token.';

create or replace function gendurable._limit_names(p_bucket text) returns text[]
language plpgsql immutable as $$
declare
    v_parts constant text[] := string_to_array(p_bucket, ':');
begin
    return array(
        select array_to_string(v_parts[:n], ':')
        from generate_series(1, least(cardinality(v_parts), gendurable._most_colons() + 1)) n);
end $$;

comment on function gendurable._limit_names(text) is 'The names of rate limits that fit a bucket: of "a:b" these are "a" and "a:b".';

-- A set of one row at most, since only so what stands behind FROM is inlined.
create or replace function gendurable._find_rate_limit(p_bucket text) returns table (us double precision, burst double precision)
language sql stable parallel safe as $$
    select l.us_per_token, l.burst
    from gendurable.rate_limit l
    where l.name = any(case
        when position(':' in p_bucket) = 0 then array[p_bucket] else gendurable._limit_names(p_bucket)
    end)
    order by length(l.name) desc
    limit 1
$$;

comment on function gendurable._find_rate_limit(text) is
    'Which limit decides for a bucket: microseconds a token (infinite: nothing is allowed) and the burst. No row: there is none.';

create or replace function gendurable._need_rate_limit(p_bucket text, p_weight double precision) returns void
language plpgsql as $$
declare
    v_burst double precision;
begin
    perform gendurable._need_text(p_bucket, 'rate_limit');
    v_burst := (select l.burst from gendurable._find_rate_limit(p_bucket) l);
    if v_burst is null then
        raise exception using errcode = 'GD502', message = 'no such rate limit', detail = quote_literal(p_bucket),
            hint = 'Set it with gd_set_rate_limit; a limit "name" serves "name" and "name:...".';
    end if;
    if p_weight > v_burst then
        perform gendurable._invalid('weight is above the burst of its rate limit',
            format('weight %s of %s, whose bucket holds %s', p_weight, quote_literal(p_bucket), v_burst),
            'It would wait for ever: raise p_burst with gd_set_rate_limit, or give it less weight.');
    end if;
end $$;

comment on function gendurable._need_rate_limit(text, double precision) is
    'Raises GD502 where no limit fits a bucket, and GD501 for a weight that its burst never holds.';

create or replace function gendurable._need_rate_limits(p_new gendurable.new_instance[]) returns void
language plpgsql as $$
begin
    -- of a batch mostly all are alike
    perform gendurable._need_rate_limit(n.rate_limit, n.weight)
    from (
        select u.rate_limit, coalesce(u.weight, 1) as weight
        from unnest(p_new) u
        where u.rate_limit is not null
        group by 1, 2
        order by min(u.ord)
    ) n;
end $$;

comment on function gendurable._need_rate_limits(gendurable.new_instance[]) is
    '_need_rate_limit, for those of new instances that name one.';

create or replace function gendurable._try_bucket(p_bucket text) returns boolean
language sql volatile as $$
    select pg_try_advisory_xact_lock(gendurable._lock_of_buckets(), hashtext(p_bucket))
$$;

comment on function gendurable._try_bucket(text) is 'Locks a bucket, if nobody else has it, to the end of the transaction.';

create or replace function gendurable._level(
    p_full_at timestamptz, p_us double precision, p_burst double precision, p_now timestamptz
) returns double precision
language sql stable parallel safe as $$
    -- Never emptier than empty: after a clock was set back, or where the limit was another one.
    select case
        when p_us is null then double precision 'infinity'
        when p_us = 'infinity' then 0
        when p_full_at is null or p_full_at <= p_now then p_burst
        else greatest(p_burst - extract(epoch from p_full_at - p_now)::double precision * 1000000 / p_us, 0)
    end
$$;

comment on function gendurable._level(timestamptz, double precision, double precision, timestamptz) is
    'The tokens in a bucket that will be full at a time. Infinite where there is no limit.';

create or replace function gendurable._later(p_at timestamptz, p_us double precision) returns timestamptz
language sql stable parallel safe as $$
    -- whole microseconds, rounded up: never above the rate, and no drift
    select p_at + ceil(least(p_us, 1e17)) * interval '1 microsecond'
$$;

comment on function gendurable._later(timestamptz, double precision) is 'A time plus microseconds.';

create or replace function gendurable._full_at(
    p_full_at timestamptz, p_us double precision, p_burst double precision, p_taken double precision, p_now timestamptz
) returns timestamptz
language sql stable parallel safe as $$
    select case
        when p_us is null or p_us = 'infinity' then coalesce(p_full_at, p_now)
        else gendurable._later(
            least(greatest(coalesce(p_full_at, p_now), p_now), gendurable._later(p_now, p_burst * p_us)), p_taken * p_us)
    end
$$;

comment on function gendurable._full_at(timestamptz, double precision, double precision, double precision, timestamptz) is
    'When a bucket will be full out of which tokens are taken now.';

create or replace function gendurable._reserved(
    p_lines gendurable.line[], p_queue text, p_turn_at timestamptz, p_burst double precision, p_now timestamptz
) returns double precision
language plpgsql as $$
begin
    if cardinality(p_lines) < 2 and coalesce((p_lines[1]).queue = p_queue, true) then
        return 0;
    end if;
    return coalesce((
        select sum(least(l.weight, p_burst))
        from unnest(p_lines) l
        where l.queue <> p_queue and l.turn_at < p_turn_at and l.ring_at > p_now - gendurable._turn_length()
            and not exists (select from gendurable.paused_queue q where q.queue = l.queue)), 0);
end $$;

comment on function gendurable._reserved(gendurable.line[], text, timestamptz, double precision, timestamptz) is
    'The tokens that other lines of a bucket wait for whose turn comes before: not of those that nobody serves.';
