-- The doctor: what is wrong with an installation, its database or its work, as far as it can be seen from inside. Each check is a
-- function of its own that answers what it found, and nothing where all is well. A check reads a bounded number of rows and names
-- a bounded number of things, takes no lock that anybody waits for, writes nothing, and stops no other where it fails: it works on
-- a standby, too. What is as it was made is compared with what the assembler has written down (_parts).
-- Next: 262_parts.

create or replace function gd_doctor() returns table ("check" text, level text, message text, hint text, detail jsonb)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan
-- nothing here waits: whoever has locked a table stops the checks that read it, and no other
set lock_timeout = '10ms' as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_check record;
    v_state text;
    v_message text;
begin
    for v_check in select c.name, c.fine from gendurable._list_checks() c loop
        begin
            return query
                select v_check.name, f.level, f.message, f.hint, f.detail from gendurable._run_check(v_check.name, v_now) f;
            if not found then
                return query select v_check.name, 'ok', v_check.fine, null::text, '{}'::jsonb;
            end if;
        exception
            when others or assert_failure then
                get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
                if not gendurable._blames_part(v_state) then
                    raise;
                end if;
                return query select v_check.name, 'warning', 'this check could not be made: ' || left(v_message, 500),
                    case v_state
                        when '55P03' then 'Somebody has locked what it reads: see pg_locks, and call again.'
                        when '42501' then 'The owner of gendurable lacks a right: grant it, or look by yourself.'
                        else 'All other checks were made.'
                    end, jsonb_build_object('sqlstate', v_state);
        end;
    end loop;
end $$;

comment on function gd_doctor() is
'What is wrong here: the installation, the database around it, and the work in it. A row for each check with the level
"ok", or one or more that are worse:

  check: what was looked at; the guide has a table of all of them
  level: "ok", "warning" (somebody should look at it) or "problem" (work stands still, or may be lost)
  message: what was found
  hint: what to do about it
  detail: numbers and names, 20 of a kind at most

Nothing is changed, locked or waited for; it runs in READ ONLY transactions and on a standby. Each check looks at a
bounded number of rows. One that cannot be made (the owner may not see it, somebody has locked a table for long) says
so in its row. Other sessions are seen as far as the owner of gendurable may see them. Raises nothing of its own, so
no GD501 either.';

create or replace function gendurable._list_checks() returns table (name text, fine text)
language sql immutable parallel safe as $$
    values
    ('version', 'functions and tables are of one release'),
    ('functions', 'every function is as it was made'),
    ('privileges', 'rights are those that gd_grant gave'),
    ('home', 'the database is where it was'),
    ('tables', 'tables are stored as they were made, and autovacuum is on'),
    ('indexes', 'every index is there, and valid'),
    ('constraints', 'every constraint is there, and was validated'),
    ('triggers', 'every trigger is there, and enabled'),
    ('replication', 'every table that is published can be replicated'),
    ('bloat', 'no table has many dead rows, or rows that are too old'),
    ('sequences', 'no sequence is near its end'),
    ('horizon', 'nothing that can be seen keeps vacuum from its work'),
    ('settings', 'no setting hurts'),
    ('connections', 'there is room for more connections'),
    ('locks', 'the lock table is large enough'),
    ('clock', 'nothing was written by a clock that is ahead, and those of known workers agree'),
    ('upkeep', 'the upkeep runs'),
    ('retention', 'what is to be removed is removed'),
    ('hold', 'nothing is held'),
    ('queues', 'every queue with due rows is served'),
    ('pauses', 'no pause has lasted for a day'),
    ('stuck', 'no lease or deadline has passed for long'),
    ('crashes', 'nothing loses its worker again and again'),
    ('machines', 'every instance that was looked at stands at a step that its version has'),
    ('keys', 'no slot of a key or queue is held by a lost claim'),
    ('doubts', 'few keys are in doubt'),
    ('limits', 'every limit can be met'),
    ('schedules', 'every schedule fires')
$$;

comment on function gendurable._list_checks() is 'The checks of gd_doctor, and what each says where all is well.';

create or replace function gendurable._run_check(p_check text, p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
begin
    case p_check
        when 'version' then return query select * from gendurable._check_version();
        when 'functions' then return query select * from gendurable._check_functions();
        when 'privileges' then return query select * from gendurable._check_privileges();
        when 'home' then return query select * from gendurable._check_home(p_now);
        when 'tables' then return query select * from gendurable._check_tables();
        when 'indexes' then return query select * from gendurable._check_indexes();
        when 'constraints' then return query select * from gendurable._check_constraints();
        when 'triggers' then return query select * from gendurable._check_triggers();
        when 'replication' then return query select * from gendurable._check_replication();
        when 'bloat' then return query select * from gendurable._check_bloat();
        when 'sequences' then return query select * from gendurable._check_sequences();
        when 'horizon' then return query select * from gendurable._check_horizon(p_now);
        when 'settings' then return query select * from gendurable._check_settings();
        when 'connections' then return query select * from gendurable._check_connections();
        when 'locks' then return query select * from gendurable._check_locks();
        when 'clock' then return query select * from gendurable._check_clock(p_now);
        when 'upkeep' then return query select * from gendurable._check_upkeep(p_now);
        when 'retention' then return query select * from gendurable._check_retention();
        when 'hold' then return query select * from gendurable._check_hold();
        when 'queues' then return query select * from gendurable._check_queues(p_now);
        when 'pauses' then return query select * from gendurable._check_pauses(p_now);
        when 'stuck' then return query select * from gendurable._check_stuck(p_now);
        when 'crashes' then return query select * from gendurable._check_crashes(p_now);
        when 'machines' then return query select * from gendurable._check_machines();
        when 'keys' then return query select * from gendurable._check_keys(p_now);
        when 'doubts' then return query select * from gendurable._check_doubts();
        when 'limits' then return query select * from gendurable._check_limits(p_now);
        else return query select * from gendurable._check_schedules(p_now);
    end case;
end $$;

comment on function gendurable._run_check(text, timestamptz) is 'What one check of gd_doctor has found; no rows: all is well.';
