-- Limits: how many of a partition key may execute at once, and how much may start of what names a rate limit. Setting one is a
-- decision, as of kernel/055_doubt. What claims make of rate limits stands in 115_limits.
-- Next: 164_pause.

create or replace function gd_set_key_limit(p_prefix text, p_limit int) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_prefix, 'p_prefix');
    if p_limit < 1 then
        perform gendurable._invalid('p_limit must be at least 1', 'got ' || p_limit,
            'Pass how many may execute at once, or null to go back to one.');
    end if;
    perform gendurable._announce_decision();
    if p_limit is null then
        delete from gendurable.key_limit l where l.prefix = p_prefix;
    else
        insert into gendurable.key_limit (prefix, max_executing) values (p_prefix, p_limit)
        on conflict (prefix) do update set max_executing = excluded.max_executing;
    end if;
    perform gendurable._outwait_key_holders();
    perform gendurable._carry_out_decision(array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.lane_at is not null and i.slot_no is null
            and (i.partition_key = p_prefix or starts_with(i.partition_key, p_prefix || ':'))
    ), clock_timestamp());
    perform gendurable._note_by_hand('gd_set_key_limit', null, jsonb_build_object('prefix', p_prefix, 'limit', p_limit), 1);
end $$;

comment on function gd_set_key_limit(text, int) is
'How many instances may execute at once for each partition key "prefix" or "prefix:..."; the longest prefix that fits
decides. Null: one again; 2147483647: no limit. Works at once for what waits; what executes above a lowered limit
finishes. Waits as gd_pause_queue does; another that sets this very limit is met with 55P03 after a second. Raises
GD501, GD504.';

create or replace function gd_set_rate_limit(
    p_name text, p_allowed double precision, p_period interval = null, p_burst double precision = null
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_new_limit(p_name, p_allowed, p_period, p_burst);
    perform gendurable._announce_decision();
    if p_allowed is null then
        delete from gendurable.rate_limit l where l.name = p_name;
    else
        insert into gendurable.rate_limit as l (name, allowed, period, burst, us_per_token)
        select p_name, r.allowed, r.period, r.burst, r.us from gendurable._read_limit(p_allowed, p_period, p_burst) r
        on conflict (name) do update
            set allowed = excluded.allowed, period = excluded.period, burst = excluded.burst,
                us_per_token = excluded.us_per_token;
    end if;
    -- Claims that put rows into lines and do not know of it; the bells of a long one are looked at by the upkeep.
    perform gendurable._outwait_holders(gendurable._lock_of_lines());
    perform gendurable._ring_lines(p_name);
    perform gendurable._note_by_hand('gd_set_rate_limit', null,
        jsonb_build_object('name', p_name, 'allowed', p_allowed, 'period', p_period, 'burst', p_burst), 1);
end $$;

comment on function gd_set_rate_limit(text, double precision, interval, double precision) is
'Sets how much may start of the instances whose rate_limit is "name" or "name:...": p_allowed in each p_period, and up to
p_burst at once (default: p_allowed, at least 1). Each distinct text is a bucket of its own, and the longest name that
was set and fits decides. A start is a claim: first run, retry, replay, and the claim after a crash or a release, and it
takes as many tokens as its weight. Never more than p_burst + p_allowed / p_period * T start in any time T, over all
workers. p_allowed 0: nothing starts; null: the limit is gone, what waits for it starts, and new inserts that name it
raise GD502. A change works at once; a bucket goes on from what is in it. Waits a fifth of a second at most for claims
that are under way; another that sets this very limit is met with 55P03 after a second. Raises GD501 for numbers that
are negative or infinite, for no period, and where a bucket would take more than 1,000 years to fill; GD504.';

create or replace function gd_ensure_rate_limit(
    p_name text, p_allowed double precision, p_period interval = null, p_burst double precision = null
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
    v_limit record;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_new_limit(p_name, p_allowed, p_period, p_burst);
    if p_allowed is null then
        perform gendurable._invalid('p_allowed must not be null', null, 'Remove a limit with gd_set_rate_limit.');
    end if;
    insert into gendurable.rate_limit as l (name, allowed, period, burst, us_per_token)
    select p_name, r.allowed, r.period, r.burst, r.us from gendurable._read_limit(p_allowed, p_period, p_burst) r
    where not exists (select from gendurable.rate_limit x where x.name = p_name)
    on conflict (name) do nothing;
    if found then
        -- what waits before a limit with a shorter name, and none of those that claims are just putting there: see gd_maintain
        perform gendurable._ring_lines(p_name);
        perform gendurable._note_by_hand('gd_ensure_rate_limit', null,
            jsonb_build_object('name', p_name, 'allowed', p_allowed, 'period', p_period, 'burst', p_burst), 1);
        return 'created';
    end if;
    select r.burst, r.us into v_limit from gendurable._read_limit(p_allowed, p_period, p_burst) r;
    return case
        when exists (
            select from gendurable.rate_limit l
            where l.name = p_name and l.burst = v_limit.burst and l.us_per_token = v_limit.us) then 'same'
        else 'different'
    end;
end $$;

comment on function gd_ensure_rate_limit(text, double precision, interval, double precision) is
'Sets a rate limit if there is none of that name, as of gd_set_rate_limit: what programs do at start with the limits that
stand in their code.

  created: there was none
  same: there is this very one
  different: there is another one, which stays: somebody has changed it, here or there

Raises GD501, GD504.';

create or replace function gd_close_rate_limit(p_bucket text, p_until timestamptz) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_bucket, 'p_bucket');
    if p_until is not null then
        perform gendurable._need_rate_limit(p_bucket, 0);
    end if;
    if not isfinite(p_until) then
        perform gendurable._invalid('p_until must be finite', 'got ' || p_until,
            'Pass until when nothing is to start; null opens the bucket.');
    end if;
    if p_until is null then
        delete from gendurable.bucket_closed c
        where c.ctid = any(array(
            select x.ctid from gendurable.bucket_closed x where x.bucket = p_bucket for update skip locked));
        perform gendurable._ring_lines(p_bucket);
    else
        insert into gendurable.bucket_closed (bucket, until) values (p_bucket, p_until);
    end if;
    if nullif(current_setting('gendurable.actor', true), '') is not null then
        -- Workers close buckets as they run. Who says for whom does it by hand.
        perform gendurable._note_by_hand('gd_close_rate_limit', null, jsonb_build_object('bucket', p_bucket, 'until', p_until), 1);
    end if;
end $$;

comment on function gd_close_rate_limit(text, timestamptz) is
'Closes a bucket ("mail", or one of its parts, "mail:eu"): nothing of it starts before p_until, by claims that begin when
this has committed, whatever tokens it has. For "429 Too Many Requests, Retry-After". Of several times the latest
counts; null opens the bucket. An outcome does the same with close_ms. Waits for nobody. Raises GD502 where no limit
fits the bucket, GD501, GD504.';

create or replace function gendurable._need_new_limit(
    p_name text, p_allowed double precision, p_period interval, p_burst double precision
) returns void
language plpgsql as $$
declare
    v_longest constant double precision := 1000 * 365.25 * 86400 * 1e6;
    v_new record;
begin
    perform gendurable._need_text(p_name, 'p_name');
    if length(p_name) - length(replace(p_name, ':', '')) > gendurable._most_colons() then
        perform gendurable._invalid('p_name has too many colons', 'got ' || quote_literal(left(p_name, 200)),
            format('Up to %s, so that a bucket''s limit is found quickly.', gendurable._most_colons()));
    end if;
    if p_allowed is null then
        return;
    end if;
    if not (p_allowed = 0 or p_allowed between 1e-100 and 1e200) then
        perform gendurable._invalid('p_allowed must be 0, or a number between 1e-100 and 1e200', 'got ' || p_allowed,
            'Pass how much may start in each period; null removes the limit.');
    end if;
    if p_allowed > 0 and (p_period is null or not isfinite(p_period) or not extract(epoch from p_period) > 0) then
        perform gendurable._invalid('p_period must be positive', 'got ' || coalesce(p_period::text, 'null'),
            'Pass in what time p_allowed may start, for example ''1 second''.');
    end if;
    if not coalesce(p_burst, 1) between 1e-100 and 1e200 then
        perform gendurable._invalid('p_burst must be a number between 1e-100 and 1e200', 'got ' || p_burst,
            'Pass how much may start at once; default: p_allowed.');
    end if;
    select r.burst, r.us into v_new from gendurable._read_limit(p_allowed, p_period, p_burst) r;
    if p_allowed > 0 and not (v_new.us > 0 and v_new.us <= v_longest / v_new.burst) then
        perform gendurable._invalid('the bucket would take more than 1,000 years to fill',
            format('allowed %s in %s, burst %s', p_allowed, p_period, v_new.burst), 'Allow more, or a smaller burst.');
    end if;
end $$;

comment on function gendurable._need_new_limit(text, double precision, interval, double precision) is
    'Raises GD501 unless a rate limit can be set to this.';

create or replace function gendurable._read_limit(
    p_allowed double precision, p_period interval, p_burst double precision,
    out allowed double precision, out period interval, out burst double precision, out us double precision
)
language sql immutable parallel safe as $$
    select p_allowed, case when p_allowed > 0 then p_period end, coalesce(p_burst, greatest(p_allowed, 1)),
        case
            when p_allowed = 0 then double precision 'infinity'
            else greatest(extract(epoch from p_period)::double precision * 1000000 / greatest(p_allowed, 1e-300), 1e-300)
        end
$$;

comment on function gendurable._read_limit(double precision, interval, double precision) is
    'A rate limit as it is stored: us, the microseconds that a token takes.';

create or replace function gendurable._ring_lines(p_name text) returns void
language plpgsql as $$
begin
    perform gendurable._put_bell(l.queue, l.priority, clock_timestamp(), b.bucket, null)
    from (
        -- its own bucket, and those of its partitions
        select x.bucket, x.lines
        from gendurable.bucket x
        where x.lines <> '{}' and (x.bucket = p_name or starts_with(x.bucket, p_name || ':'))
        limit 10000
    ) b
    cross join lateral unnest(b.lines) l;
end $$;

comment on function gendurable._ring_lines(text) is
    'Rings the lines before a limit, of 10,000 buckets at most: the bells of others ring when they would have, or are set by the upkeep.';
