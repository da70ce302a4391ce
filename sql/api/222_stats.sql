-- What workers have counted and reported with their hellos: how many steps ended, by minute.
-- Next: 224_control.

create or replace function gd_stats(p_minutes int = 60)
returns table (minute timestamptz, fsm text, step text, outcome text, count bigint, seconds double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_minutes constant int := coalesce(p_minutes, 60);
    v_from constant timestamptz := date_trunc('minute', clock_timestamp()) - make_interval(mins => v_minutes);
begin
    if v_minutes not between 1 and 1440 then
        perform gendurable._invalid('p_minutes is out of range', 'got ' || v_minutes, 'Pass 1 to 1440: a day is kept.');
    end if;
    return query
        select c.at, c.fsm, c.step, c.outcome, sum(c.count)::bigint, sum(c.seconds)
        from (
            select x.at, x.fsm, x.step, x.outcome, x.count, x.seconds
            from gendurable.minute_count x
            where x.at > v_from
            order by x.at desc
            limit gendurable._most_counts()
        ) c
        group by c.at, c.fsm, c.step, c.outcome
        order by c.at desc, c.fsm, c.step, c.outcome;
end $$;

comment on function gd_stats(int) is
'How many steps have ended in the last minutes, as workers report it with gd_hello: a row for each minute, machine, step
and outcome, the newest minute first.

  minute: when it was reported; the steps ended up to an interval of hello before
  outcome: its kind as in SQL; "ok" and "error" of steps in SQL; "none" of a step that was cancelled
  seconds: that these steps took, together

Steps of workers that say no hello are not in it, and what a worker counted before it was killed is lost with it. The newest
20,000 counts are looked at. Raises GD501.';

create or replace function gd_transitions(p_fsm text, p_minutes int = 60)
returns table (step text, outcome text, next_step text, count bigint, seconds double precision, since timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_minutes constant int := coalesce(p_minutes, 60);
    v_from constant timestamptz := date_trunc('minute', clock_timestamp()) - make_interval(mins => v_minutes);
    v_since timestamptz;
begin
    if v_minutes not between 1 and 1440 then
        perform gendurable._invalid('p_minutes is out of range', 'got ' || v_minutes, 'Pass 1 to 1440: a day is kept.');
    end if;
    v_since := coalesce(
        (
            select x.at from gendurable.minute_count x
            where x.at > v_from
            order by x.at desc
            offset gendurable._most_counts() limit 1
        ),
        v_from + interval '1 minute');
    return query
        select c.step, c.outcome, c.next_step, sum(c.count)::bigint, sum(c.seconds), v_since
        from (
            select x.fsm, x.step, x.outcome, x.next_step, x.count, x.seconds
            from gendurable.minute_count x
            where x.at > v_from
            order by x.at desc
            limit gendurable._most_counts()
        ) c
        where c.fsm = p_fsm
        group by c.step, c.outcome, c.next_step
        order by 4 desc, 1, 2, 3
        limit 1000;
end $$;

comment on function gd_transitions(text, int) is
'How the steps of a machine have ended in the last minutes, and where they went on, as workers report it with gd_hello:
a row for each step, outcome and next step, the most frequent first, up to 1,000.

  outcome: as in gd_stats
  next_step: the step that an outcome has named; null: it named none ("await" stays where it is then), or it is one of a
    step in SQL
  seconds: that these steps took, together
  since: from when on they are counted: the newest 20,000 counts of all machines are looked at

What gd_stats leaves out is left out here, too. No rows: no worker has reported a step of this machine. Raises GD501.';

create or replace function gendurable._most_counts() returns int
language sql immutable parallel safe as $$
    select 20000
$$;

comment on function gendurable._most_counts() is 'How many counts one look adds up: some 20 ms.';
