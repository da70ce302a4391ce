-- Cron expressions: what stands in one, as sorted arrays. The rules are those of Vixie's cron: which days are meant where both
-- fields of days are restricted, and whether an expression goes by the clock or by elapsed time, depend on the first character
-- of a field. When the next tick of an expression is stands in the next file.
-- Next: 028_tick.

create or replace function gendurable._refuse_cron(p_cron text, p_what text, p_hint text = null) returns void
language plpgsql as $$
begin
    perform gendurable._invalid('p_cron: ' || p_what, 'got ' || quote_literal(left(p_cron, 200)), coalesce(p_hint,
        'Pass five fields (minute, hour, day of the month, month, day of the week) such as ''30 6 * * mon-fri'', or @hourly, '
        || '@daily, @midnight, @weekly, @monthly, @yearly, @annually, or @every with an interval.'));
end $$;

comment on function gendurable._refuse_cron(text, text, text) is 'Raises GD501 for an expression.';

create or replace function gendurable._read_cron_value(p_text text, p_low int, p_names text[]) returns int
language sql immutable parallel safe as $$
    select case
        when p_text ~ '^[0-9]{1,4}$' then p_text::int
        else array_position(p_names, p_text) - 1 + p_low
    end
$$;

comment on function gendurable._read_cron_value(text, int, text[]) is 'A number or a name of a field; null: it is neither.';

create or replace function gendurable._read_cron_field(
    p_cron text, p_field text, p_called text, p_low int, p_high int, p_last int, p_names text[]
) returns int[]
language plpgsql as $$
declare
    v_found int[] := array[]::int[];
    v_item text;
    v_part text[];
    v_from int;
    v_to int;
    v_step int;
begin
    foreach v_item in array string_to_array(lower(p_field), ',') loop
        v_part := regexp_match(v_item, '^([*]|[a-z0-9]+)(-([a-z0-9]+))?(/([0-9]{1,4}))?$');
        if v_part is null or (v_part[1] = '*' and v_part[2] is not null) then
            perform gendurable._refuse_cron(p_cron, format('%s cannot be %s', p_called, quote_literal(left(v_item, 50))),
                'A field is a list of *, numbers, names and ranges a-b, each with a step /n if wanted; L, W, # and ? are not known.');
        end if;
        v_step := coalesce(v_part[5]::int, 1);
        if v_part[1] = '*' then
            v_from := p_low;
            v_to := p_high;
        else
            v_from := gendurable._read_cron_value(v_part[1], p_low, p_names);
            v_to := case
                when v_part[3] is not null then gendurable._read_cron_value(v_part[3], p_low, p_names)
                when v_part[5] is not null then greatest(v_from, p_last)
                else v_from
            end;
        end if;
        if v_from is null or v_to is null or v_from < p_low or v_from > p_high or v_to > p_high then
            perform gendurable._refuse_cron(p_cron, format('%s cannot be %s', p_called, quote_literal(left(v_item, 50))),
                format('It is a number from %s to %s%s.', p_low, p_high,
                    case when p_names is not null then ', or a name of three letters' else '' end));
        end if;
        if v_to < v_from then
            perform gendurable._refuse_cron(p_cron, format('the range %s of %s runs backwards', quote_literal(v_item), p_called),
                'Write it as two ranges.');
        end if;
        if v_step not between 1 and p_high then
            perform gendurable._refuse_cron(p_cron, format('the step %s of %s is out of range', quote_literal(v_item), p_called),
                format('A step is from 1 to %s here.', p_high));
        end if;
        v_found := v_found || array(select generate_series(v_from, v_to, v_step));
    end loop;
    if v_found = '{}' then
        perform gendurable._refuse_cron(p_cron, p_called || ' is empty');
    end if;
    return array(select distinct f from unnest(v_found) f order by f);
end $$;

comment on function gendurable._read_cron_field(text, text, text, int, int, int, text[]) is
    'The values that one field of an expression names, in order; a/n goes from a to p_last. Raises GD501.';

create or replace function gendurable._read_every(p_cron text) returns interval
language plpgsql as $$
declare
    v_every interval;
begin
    begin
        v_every := substr(p_cron, 7)::interval;
    exception when data_exception then
        perform gendurable._refuse_cron(p_cron, 'behind @every stands no interval', 'Write @every 90 seconds, or @every 1 hour.');
    end;
    if not isfinite(v_every) or extract(year from v_every) <> 0 or extract(month from v_every) <> 0 then
        perform gendurable._refuse_cron(p_cron, 'the interval of @every has no fixed length',
            'Write days, hours, minutes or seconds; a day is 24 hours. For months there are @monthly and five fields.');
    end if;
    v_every := make_interval(secs => extract(epoch from v_every)::double precision);
    if v_every < interval '1 second' or v_every > interval '525960 hours' then
        perform gendurable._refuse_cron(p_cron, 'the interval of @every must be from a second to 60 years',
            'Write @every 90 seconds, or @every 1 hour.');
    end if;
    return v_every;
end $$;

comment on function gendurable._read_every(text) is 'The interval of an @every expression, as hours and seconds; raises GD501.';

create or replace function gendurable._parse_cron(p_cron text) returns gendurable.cron
language plpgsql as $$
declare
    v_text text := btrim(p_cron, E' \t\r\n');
    v_fields text[];
begin
    if lower(v_text) ~ '^@every[[:space:]]' then
        return gendurable._cron(
            p_minutes => null, p_hours => null, p_days => null, p_months => null, p_weekdays => null,
            p_either => false, p_elapsed => true, p_every => gendurable._read_every(v_text));
    end if;
    if v_text like '@%' then
        v_text := case lower(v_text)
            when '@hourly' then '0 * * * *'
            when '@daily' then '0 0 * * *'
            when '@midnight' then '0 0 * * *'
            when '@weekly' then '0 0 * * 0'
            when '@monthly' then '0 0 1 * *'
            when '@yearly' then '0 0 1 1 *'
            when '@annually' then '0 0 1 1 *'
        end;
        if v_text is null then
            perform gendurable._refuse_cron(p_cron, 'unknown name');
        end if;
    end if;
    v_fields := regexp_split_to_array(v_text, '[[:space:]]+');
    if cardinality(v_fields) <> 5 then
        perform gendurable._refuse_cron(p_cron, format('there must be five fields, and not %s', cardinality(v_fields)), case
            when cardinality(v_fields) in (6, 7) then 'There are no seconds and years here: for seconds, write @every 10 seconds.'
        end);
    end if;
    return gendurable._cron(
        p_minutes => gendurable._read_cron_field(p_cron, v_fields[1], 'the minute', 0, 59, 59, null),
        p_hours => gendurable._read_cron_field(p_cron, v_fields[2], 'the hour', 0, 23, 23, null),
        p_days => gendurable._read_cron_field(p_cron, v_fields[3], 'the day of the month', 1, 31, 31, null),
        p_months => gendurable._read_cron_field(p_cron, v_fields[4], 'the month', 1, 12, 12,
            '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}'::text[]),
        -- 0 and 7 are both Sunday
        p_weekdays => array(
            select distinct f % 7
            from unnest(gendurable._read_cron_field(p_cron, v_fields[5], 'the day of the week', 0, 7, 6,
                '{sun,mon,tue,wed,thu,fri,sat}'::text[])) f
            order by 1),
        p_either => not (v_fields[3] like '*%' or v_fields[5] like '*%'),
        p_elapsed => v_fields[1] like '*%' or v_fields[2] like '*%',
        p_every => null);
end $$;

comment on function gendurable._parse_cron(text) is 'Reads an expression; raises GD501 for one that is not valid.';
