-- When an expression ticks. First on a clock that never changes, as local times; then as instants of a time zone, by the rules
-- of Vixie's cron for the hours that clocks skip and repeat. An expression whose minute or hour begins with * goes by elapsed
-- time: it does not tick in a skipped hour, and in both passes of a repeated one. Any other goes by the clock: what stands in a
-- skipped hour ticks once, right after it, and of a repeated hour only the first pass counts.
-- A tick is a whole minute of the local clock, but for @every, which counts from an instant.
-- Next: 030_wake, telling those who sleep.

create or replace function gendurable._next_local(p_cron gendurable.cron, p_after timestamp) returns timestamp
language plpgsql stable as $$
declare
    v_from constant timestamp := date_trunc('minute', p_after) + interval '1 minute';
    -- some days come once in 28 years, and the leap day is left out in most full centuries
    v_last constant date := (v_from + interval '60 years')::date;
    v_day date := v_from::date;
    v_first int := extract(hour from v_from)::int * 60 + extract(minute from v_from)::int;
    v_month int;
    v_hour int;
    v_minute int;
begin
    while v_day <= v_last loop
        v_month := extract(month from v_day);
        if v_month <> all(p_cron.months) then
            v_day := (date_trunc('month', v_day::timestamp) + interval '1 month')::date;
            v_first := 0;
            continue;
        end if;
        if (
            case
                when p_cron.either then extract(day from v_day)::int = any(p_cron.days)
                    or (v_day - date '2000-01-02') % 7 = any(p_cron.weekdays)
                else extract(day from v_day)::int = any(p_cron.days)
                    and (v_day - date '2000-01-02') % 7 = any(p_cron.weekdays)
            end
        ) then
            foreach v_hour in array p_cron.hours loop
                continue when v_hour < v_first / 60;
                foreach v_minute in array p_cron.minutes loop
                    if v_hour * 60 + v_minute >= v_first then
                        return v_day + make_time(v_hour, v_minute, 0);
                    end if;
                end loop;
            end loop;
        end if;
        v_day := v_day + 1;
        v_first := 0;
    end loop;
    return null;
end $$;

comment on function gendurable._next_local(gendurable.cron, timestamp) is
    'The first local time behind another that an expression names; null: there is none within 60 years.';

create or replace function gendurable._offset(p_at timestamptz, p_zone text) returns interval
language sql immutable parallel safe as $$
    select (p_at at time zone p_zone) - (p_at at time zone 'UTC')
$$;

comment on function gendurable._offset(timestamptz, text) is 'How far the clock of a zone is ahead of UTC.';

create or replace function gendurable._find_change(p_from timestamptz, p_to timestamptz, p_zone text) returns timestamptz
language plpgsql stable as $$
declare
    v_before timestamptz := p_from;
    v_after timestamptz := p_to;
    v_middle timestamptz;
begin
    -- the last instant that has the offset of p_from and the first that has not, a second apart
    while v_after - v_before > interval '1 second' loop
        v_middle := date_trunc('second', v_before + (v_after - v_before) / 2);
        exit when v_middle <= v_before or v_middle >= v_after;
        if gendurable._offset(v_middle, p_zone) = gendurable._offset(p_from, p_zone) then
            v_before := v_middle;
        else
            v_after := v_middle;
        end if;
    end loop;
    return date_trunc('second', v_after);
end $$;

comment on function gendurable._find_change(timestamptz, timestamptz, text) is
    'When the clock of a zone changes between two instants that have different offsets.';

create or replace function gendurable._next_by_clock(
    p_cron gendurable.cron, p_zone text, p_after timestamptz
) returns timestamptz
language plpgsql stable as $$
declare
    v_local timestamp := p_after at time zone p_zone;
    v_at timestamptz;
    v_first timestamptz;
begin
    -- in the second pass of a repeated hour its times lie behind
    while v_at is null or v_at <= p_after loop
        v_local := gendurable._next_local(p_cron, v_local);
        if v_local is null then
            return null;
        end if;
        v_at := v_local at time zone p_zone;
        if v_at at time zone p_zone <> v_local then
            -- skipped: right after it
            v_at := gendurable._find_change(v_at - interval '24 hours', v_at, p_zone);
        else
            -- of a time that exists twice this was the second
            v_first := (v_local - gendurable._offset(v_at - interval '24 hours', p_zone)) at time zone 'UTC';
            if v_first < v_at and v_first at time zone p_zone = v_local then
                v_at := v_first;
            end if;
        end if;
    end loop;
    return v_at;
end $$;

comment on function gendurable._next_by_clock(gendurable.cron, text, timestamptz) is
    'The first tick behind an instant of an expression that goes by the clock; null: it names no day that there is.';

create or replace function gendurable._next_elapsed(
    p_cron gendurable.cron, p_zone text, p_after timestamptz
) returns timestamptz
language plpgsql stable as $$
declare
    v_from constant timestamp := p_after at time zone p_zone;
    v_day constant timestamptz := p_after + interval '24 hours';
    v_local timestamp := gendurable._next_local(p_cron, v_from);
    v_at timestamptz;
    v_first timestamptz;
    v_change timestamptz;
begin
    if v_local is null then
        return null;
    end if;
    -- Only a change at hand can bring back local times up to the one from which it goes on.
    if gendurable._offset(v_day, p_zone) < gendurable._offset(p_after, p_zone) then
        v_change := gendurable._find_change(p_after, v_day, p_zone);
        v_at := p_after + (v_local - v_from);
        if v_at < v_change then
            return v_at;
        end if;
        v_local := gendurable._next_local(p_cron, (v_change at time zone p_zone) - interval '1 minute');
        if v_local is null then
            return null;
        end if;
        v_at := v_change + (v_local - (v_change at time zone p_zone));
        if v_at <= v_day then
            return v_at;
        end if;
    end if;
    loop
        v_at := v_local at time zone p_zone;
        exit when v_at at time zone p_zone = v_local;
        -- skipped
        v_change := gendurable._find_change(v_at - interval '24 hours', v_at, p_zone);
        v_local := gendurable._next_local(p_cron, (v_change at time zone p_zone) - interval '1 minute');
        if v_local is null then
            return null;
        end if;
    end loop;
    v_first := (v_local - gendurable._offset(v_at - interval '24 hours', p_zone)) at time zone 'UTC';
    if v_first < v_at and v_first > p_after and v_first at time zone p_zone = v_local then
        return v_first;
    end if;
    return v_at;
end $$;

comment on function gendurable._next_elapsed(gendurable.cron, text, timestamptz) is
    'The first tick behind an instant of an expression that goes by elapsed time; null: it names no day that there is.';

create or replace function gendurable._next_tick(
    p_cron gendurable.cron, p_zone text, p_since timestamptz, p_after timestamptz
) returns timestamptz
language plpgsql stable as $$
declare
    v_every_us bigint;
begin
    if p_cron.every is not null then
        v_every_us := (extract(epoch from p_cron.every) * 1000000)::bigint;
        return p_since + (floor(
            (gendurable._epoch_us(p_after) - gendurable._epoch_us(p_since))::numeric / v_every_us) + 1)
            * v_every_us * interval '1 microsecond';
    elsif p_cron.elapsed then
        return gendurable._next_elapsed(p_cron, p_zone, p_after);
    else
        return gendurable._next_by_clock(p_cron, p_zone, p_after);
    end if;
end $$;

comment on function gendurable._next_tick(gendurable.cron, text, timestamptz, timestamptz) is
    'The first tick behind an instant; of @every, counted from p_since. Null: the expression names no day that there is.';

create or replace function gendurable._last_tick(
    p_cron gendurable.cron, p_zone text, p_since timestamptz, p_from timestamptz, p_to timestamptz
) returns timestamptz
language plpgsql stable as $$
declare
    v_tick timestamptz := p_from;
    v_behind timestamptz := p_to;                -- after it there is none
    v_back interval := interval '1 minute';
    v_next timestamptz := gendurable._next_tick(p_cron, p_zone, p_since, p_from);
begin
    if v_next is null or v_next > p_to then
        return p_from;
    end if;
    if p_cron.every is not null then
        return gendurable._next_tick(p_cron, p_zone, p_since, p_to) - p_cron.every;
    end if;
    -- looking back 1, 2, 4, ... minutes until one is there: what ticks often has one near, and the others have few
    loop
        v_next := gendurable._next_tick(p_cron, p_zone, p_since, greatest(p_to - v_back, p_from));
        exit when v_next <= p_to;
        v_behind := p_to - v_back;
        v_back := 2 * v_back;
    end loop;
    -- and the last one is not far behind that
    while v_next <= p_to loop
        v_tick := v_next;
        while v_behind - v_tick > interval '1 minute' loop
            v_next := gendurable._next_tick(p_cron, p_zone, p_since, v_tick + (v_behind - v_tick) / 2);
            if v_next <= p_to then
                v_tick := v_next;
            else
                v_behind := v_tick + (v_behind - v_tick) / 2;
            end if;
        end loop;
        v_next := gendurable._next_tick(p_cron, p_zone, p_since, v_tick);
    end loop;
    return v_tick;
end $$;

comment on function gendurable._last_tick(gendurable.cron, text, timestamptz, timestamptz, timestamptz) is
    'The last tick up to an instant, where p_from is one.';
