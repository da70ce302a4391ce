-- The database and the server around the tables: what vacuum does and what keeps it from it, settings, room for connections and locks.
-- What the owner of gendurable may not see of other sessions is counted and said. Next: 266_work.

create or replace function gendurable._check_replication() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_tables text[];
begin
    v_tables := array(
        select c.relname::text
        from pg_class c
        where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'p')
            and case c.relreplident
                when 'n' then true
                when 'd' then not exists (select from pg_index x where x.indrelid = c.oid and x.indisprimary)
                when 'i' then not exists (select from pg_index x where x.indrelid = c.oid and x.indisreplident)
                else false
            end
            and exists (
                select from pg_publication p
                where (p.pubupdate or p.pubdelete) and (
                    p.puballtables
                    or exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid)
                    or exists (select from pg_publication_namespace n where n.pnpubid = p.oid and n.pnnspid = c.relnamespace)))
        order by 1);
    if v_tables <> '{}' then
        return query select 'problem',
            'a publication has tables without a replica identity, so they refuse changes: ' || gendurable._name_few(v_tables),
            'ALTER TABLE ... REPLICA IDENTITY DEFAULT, or FULL where there is no primary key.', to_jsonb(v_tables[:20]);
    end if;
end $$;

comment on function gendurable._check_replication() is 'Published tables that have lost their replica identity.';

create or replace function gendurable._check_bloat() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_forced constant bigint := current_setting('autovacuum_freeze_max_age')::bigint;
    v_dead record;
    v_old record;
begin
    select array_agg(d.name order by d.dead desc) as names, bool_or(d.dead > d.live and d.dead > 1000000) as grave,
        jsonb_agg(jsonb_build_object('table', d.name, 'dead', d.dead, 'live', d.live, 'last_vacuum', d.vacuumed) order by d.dead desc) as detail
    into v_dead
    from (
        select c.relname::text as name, pg_stat_get_dead_tuples(c.oid) as dead, pg_stat_get_live_tuples(c.oid) as live,
            greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)) as vacuumed
        from pg_class c
        where c.relnamespace = 'gendurable'::regnamespace and c.relkind = 'r'
        offset 0
    ) d
    where d.dead > 100000 and d.dead > 0.3 * d.live;
    if v_dead.names is not null then
        return query select case when v_dead.grave then 'problem' else 'warning' end,
            'many dead rows in ' || gendurable._name_few(v_dead.names),
            'See the checks "horizon" and "tables" for what keeps autovacuum from them, and run VACUUM by hand.', v_dead.detail;
    end if;
    select array_agg(o.name order by o.age desc) as names, max(o.age) as age,
        jsonb_agg(jsonb_build_object('table', o.name, 'age', o.age) order by o.age desc) as detail
    into v_old
    from (
        select coalesce(m.relname, c.relname)::text as name,
            greatest(age(c.relfrozenxid), mxid_age(c.relminmxid))::bigint as age
        from pg_class c
        left join pg_class m on m.reltoastrelid = c.oid and c.relkind = 't'
        where c.relkind in ('r', 't') and 'gendurable'::regnamespace in (c.relnamespace, m.relnamespace)
    ) o
    where o.age > least(v_forced * 5 / 4, 1000000000);
    if v_old.names is not null then
        return query select case when v_old.age > 1500000000 then 'problem' else 'warning' end,
            format('the oldest rows are %s transactions old in %s', v_old.age, gendurable._name_few(v_old.names)),
            'VACUUM FREEZE these tables: the server stops writing at two billions. See the check "horizon" for what keeps autovacuum.',
            v_old.detail;
    end if;
end $$;

comment on function gendurable._check_bloat() is 'Tables with many dead rows, and such that autovacuum has not frozen for too long.';

create or replace function gendurable._check_sequences() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_found record;
begin
    select array_agg(u.name order by u.used desc) as names, max(u.used) as used, jsonb_object_agg(u.name, u.last) as detail into v_found
    from (
        select c.relname::text as name, v.last,
            case when s.seqincrement > 0 then v.last::numeric / s.seqmax else v.last::numeric / s.seqmin end as used
        from pg_class c
        join pg_sequence s on s.seqrelid = c.oid
        cross join lateral (
            select case when c.relkind = 'S' then pg_sequence_last_value(c.oid) end as last
        ) v
        where c.relnamespace = 'gendurable'::regnamespace
    ) u
    where u.used > 0.8;
    if v_found.names is not null then
        return query select case when v_found.used > 0.95 then 'problem' else 'warning' end,
            format('%s percent of the numbers are used up of %s', floor(v_found.used * 100), gendurable._name_few(v_found.names)),
            'Somebody has moved it: set it back with setval, to a number above those in the table.', v_found.detail;
    end if;
end $$;

comment on function gendurable._check_sequences() is 'Sequences that have used most of their numbers.';

create or replace function gendurable._check_horizon(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_long record;
    v_prepared record;
    v_slots record;
    v_hidden int;
begin
    select count(*)::int as count, min(a.since) as since,
        jsonb_agg(jsonb_build_object('pid', a.pid, 'role', a.role, 'application', a.application, 'state', a.state, 'since', a.since)
            order by a.since) filter (where a.place <= 20) as detail
    into v_long
    from (
        select s.pid, s.usename::text as role, left(s.application_name, 100) as application, s.state, s.xact_start as since,
            row_number() over (order by s.xact_start) as place
        from pg_stat_activity s
        where s.datname = current_database() and s.pid <> pg_backend_pid() and s.xact_start < p_now - interval '10 minutes'
            and s.backend_type not like 'autovacuum%'
    ) a;
    select count(*)::int as count, min(t.prepared) as since,
        jsonb_agg(jsonb_build_object('gid', left(t.gid, 200), 'role', t.owner, 'since', t.prepared) order by t.prepared)
            filter (where t.place <= 20) as detail
    into v_prepared
    from (
        select p.gid, p.owner, p.prepared, row_number() over (order by p.prepared) as place
        from pg_prepared_xacts p
        where p.database = current_database() and p.prepared < p_now - interval '10 minutes'
    ) t;
    select array_agg(t.name) as names, jsonb_agg(t.detail) as detail into v_slots
    from (
        select s.slot_name::text as name, jsonb_build_object('slot', s.slot_name, 'active', s.active, 'age', age(s.xmin),
            'catalog_age', age(s.catalog_xmin), 'wal_status', s.wal_status, 'inactive_since', to_jsonb(s) -> 'inactive_since') as detail
        from pg_replication_slots s
        where not s.temporary and (
            greatest(age(s.xmin), age(s.catalog_xmin)) > 10000000
            or s.wal_status in ('unreserved', 'lost')
            -- since when is known from PostgreSQL 17 on
            or (not s.active and coalesce((to_jsonb(s) ->> 'inactive_since')::timestamptz < p_now - interval '10 minutes', true)))
        order by s.slot_name
        limit 20
    ) t;
    v_hidden := (
        select count(*) from pg_stat_activity s
        where s.datname = current_database() and s.query = '<insufficient privilege>');
    return query
        select f.level, f.message || case when v_hidden > 0 then format(' (%s sessions cannot be seen)', v_hidden) else '' end,
            f.hint, f.detail
        from (values
            (case when v_long.since < p_now - interval '2 hours' then 'problem' else 'warning' end,
                format('%s transactions are open for more than ten minutes, the oldest since %s', v_long.count,
                    date_trunc('second', v_long.since)),
                'They keep vacuum from dead rows, and may hold rows and keys: end them, with pg_terminate_backend if need be.',
                v_long.detail, v_long.count > 0),
            (case when v_prepared.since < p_now - interval '2 hours' then 'problem' else 'warning' end,
                format('%s prepared transactions are open for more than ten minutes, the oldest since %s', v_prepared.count,
                    date_trunc('second', v_prepared.since)),
                'COMMIT PREPARED or ROLLBACK PREPARED, as whoever prepared them says.', v_prepared.detail, v_prepared.count > 0),
            ('warning', 'replication slots hold back what is old: ' || gendurable._name_few(v_slots.names),
                'Let their standbys or subscribers connect, or drop them with pg_drop_replication_slot.', v_slots.detail,
                v_slots.names is not null),
            ('ok', 'nothing that can be seen keeps vacuum from its work',
                'Grant pg_read_all_stats to the owner of gendurable, and the doctor sees all sessions.',
                jsonb_build_object('hidden', v_hidden),
                v_hidden > 0 and v_long.count + v_prepared.count = 0 and v_slots.names is null)
        ) f (level, message, hint, detail, speaks)
        where f.speaks;
end $$;

comment on function gendurable._check_horizon(timestamptz) is
    'Long transactions, prepared ones, and replication slots, as far as the owner may see them.';

create or replace function gendurable._check_settings() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        with asked as (
            -- as a new session has it; what the session of the caller was told by its client says nothing
            select s.name, coalesce(case when s.source = 'client' then s.boot_val else s.reset_val end, '') as value, ''::text as where_set
            from pg_settings s
            where s.name = any('{fsync,full_page_writes,synchronous_commit,default_transaction_isolation,default_transaction_read_only,
                session_replication_role,server_encoding,statement_timeout,transaction_timeout,idle_in_transaction_session_timeout,
                idle_session_timeout}'::text[])
            union all
            select split_part(c.one, '=', 1), lower(substr(c.one, position('=' in c.one) + 1)),
                concat(' of role ' || r.rolname, case when x.setdatabase <> 0 then ' in this database' end)
            from pg_db_role_setting x
            left join pg_roles r on r.oid = x.setrole
            cross join lateral unnest(x.setconfig) c (one)
            where x.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
        ), read as (
            -- milliseconds, where a unit was left out
            select a.name, a.value, a.where_set, case
                when a.name not like '%timeout' or a.value ~ '^0[^0-9.]*$' then null
                when a.value ~ '^[0-9]{1,12}([.][0-9]+)?$' then a.value::double precision * interval '1 millisecond'
                when a.value ~ '^[0-9]{1,9}([.][0-9]+)? ?(us|ms|s|min|h|d)$' then replace(a.value, 'd', ' days')::interval
            end as time
            from asked a
        ), judged as (
            select r.name, r.value, r.where_set, j.level, j.effect
            from read r
            cross join lateral (values
                (r.name in ('fsync', 'full_page_writes') and r.value ~ '^(off?|f|fa|fal|fals|false|no?|0)$', 'problem',
                    'a crash of the server may destroy the tables'),
                (r.name = 'synchronous_commit' and r.value ~ '^(off?|f|fa|fal|fals|false|no?|0)$', 'warning',
                    'a crash of the server loses what was committed last: steps run again, and inserts that were answered are gone'),
                (r.name = 'default_transaction_isolation' and r.value <> 'read committed', 'warning',
                    'claims, commits and upkeep of clients that do not set it raise GD504'),
                (r.name = 'default_transaction_read_only' and r.value ~ '^(on|t|tr|tru|true|y|ye|yes|1)$', 'problem',
                    'clients that do not set it can write nothing'),
                (r.name = 'session_replication_role' and r.value <> 'origin', 'problem',
                    'triggers do not fire, and claims do not see pauses, limits and holds'),
                (r.name = 'server_encoding' and r.value = 'SQL_ASCII', 'warning', 'what is not ASCII is not checked, and may be cut in two'),
                (r.name = 'idle_session_timeout' and r.time < interval '2 minutes', 'warning',
                    'sessions that sleep between two claims are ended, where their engine cannot switch it off'),
                (r.name in ('statement_timeout', 'transaction_timeout') and r.time < interval '10 seconds', 'warning',
                    'upkeep and steps in SQL are cut short, where nobody switches it off'),
                (r.name = 'idle_in_transaction_session_timeout' and r.time < interval '10 seconds', 'warning',
                    'transactional steps that think for longer lose their session, where nobody switches it off')
            ) j (speaks, level, effect)
            where j.speaks
        )
        select j.level, format('%s is %s%s: %s', j.name, quote_literal(left(j.value, 100)), j.where_set, j.effect),
            case
                when j.name = 'server_encoding' then 'Move to a database with the encoding UTF8.'
                when j.where_set = '' then 'Change it in the configuration of the server, or with ALTER DATABASE or ALTER ROLE.'
                else 'ALTER ROLE or ALTER DATABASE ... RESET ' || j.name || ', unless these sessions have nothing to do with gendurable.'
            end, jsonb_build_object('setting', j.name, 'value', left(j.value, 100))
        from judged j
        order by j.level, j.name, j.where_set
        limit 20;
end $$;

comment on function gendurable._check_settings() is
    'Settings of the server, and of roles and databases, with which work is lost, refused or ended early.';

create or replace function gendurable._check_connections() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_found record;
begin
    select c.* into v_found
    from (
        select 'server' as place, sum(pg_stat_get_db_numbackends(d.oid))::int as used,
            current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                - coalesce(current_setting('reserved_connections', true), '0')::int as most
        from pg_database d
        union all
        select 'database', pg_stat_get_db_numbackends(d.oid), d.datconnlimit
        from pg_database d
        where d.datname = current_database() and d.datconnlimit > 0
    ) c
    order by c.used::float8 / c.most desc
    limit 1;
    if v_found.used >= 0.85 * v_found.most then
        return query select case when v_found.used >= 0.97 * v_found.most then 'problem' else 'warning' end,
            format('%s of the %s connections of the %s are in use', v_found.used, v_found.most, v_found.place),
            'Use a pooling proxy or fewer workers, or raise max_connections (or the limit of the database).',
            to_jsonb(v_found);
    end if;
end $$;

comment on function gendurable._check_connections() is 'Whether the server or the database is running out of connections.';

create or replace function gendurable._check_locks() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_room constant bigint := current_setting('max_locks_per_transaction')::bigint
        * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint);
    v_used constant bigint := (select count(*) from pg_locks l where not l.fastpath);
    v_detail constant jsonb := jsonb_build_object('room', v_room, 'used', v_used, 'one_call', gendurable._most_keys());
begin
    if v_room < 4 * gendurable._most_keys() then
        return query select 'warning',
            format('the lock table of the server has room for some %s locks; one call takes up to %s', v_room, gendurable._most_keys()),
            'Raise max_locks_per_transaction: four such calls at once should fit.', v_detail;
    end if;
    if v_used > 0.7 * v_room then
        return query select case when v_used > 0.9 * v_room then 'problem' else 'warning' end,
            format('%s of some %s places in the lock table of the server are taken', v_used, v_room),
            'See pg_locks for who holds so many, and raise max_locks_per_transaction.', v_detail;
    end if;
end $$;

comment on function gendurable._check_locks() is 'Whether the lock table has room for what some calls take at once.';
