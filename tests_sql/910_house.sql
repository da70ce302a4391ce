\ir helpers/tap.psql
select no_plan();

-- The rules of the house over the catalog: each query lists the offenders.

create view t.public_function as
select p.* from pg_proc p
where p.pronamespace = (select m.api_schema from gendurable.meta m)::regnamespace and p.proname like 'gd\_%';
create view t.helper as
select p.* from pg_proc p where p.pronamespace = 'gendurable'::regnamespace;
create view t.our_function as
select * from t.public_function
union all
select * from t.helper;
create view t.relation as
select c.* from pg_class c
where c.relkind in ('r', 'v', 'S') and (
    c.relnamespace = 'gendurable'::regnamespace
    or (c.relnamespace = (select m.api_schema from gendurable.meta m)::regnamespace and c.relname like 'gd\_%'));

select cmp_ok((select count(*) from t.public_function), '>', 20::bigint, 'there is a public API');
select cmp_ok((select count(*) from t.helper), '>', 30::bigint, 'and there are helpers');

-- What runs handlers is invoker code, in the search_path of the caller for as long as a handler runs. What it calls is open to
-- workers: the doors are security definer as what is public, and the rest has no rights but theirs.
create view t.runner as
select f.* from t.our_function f where f.proname in (
    'gd_run', 'gd_run_claims', 'gd_rehearse', '_answer_claims', '_run_claims', '_step_call', '_rehearse', 'gd_migrate', '_migrate',
    '_migrate_group');
create view t.door as
select f.* from t.helper f
where f.proname in (
    '_open_call', '_open_run', '_plan_run', '_read_run', '_holds_run', '_resolves_run', '_pin_handler', '_is_pinned', '_suspect_run',
    '_open_migration', '_prepare_state', '_write_migration', '_refused_steps', '_claim_run', '_commit_run', '_release_run', '_next_links',
    '_claim_this', '_open_rehearsal', '_show_rehearsed');
select is_empty(
    $$select oid::regprocedure from t.public_function
      where not prosecdef and proname not in ('gd_signal_on', 'gd_signal_off') except select oid from t.runner$$,
    'public functions are security definer, but for those that make what belongs to their caller, or run it');
select is_empty(
    $$select oid::regprocedure from t.runner where prosecdef$$, 'but those that run handlers');
select is_empty(
    $$select oid::regprocedure, proconfig from (select * from t.public_function union all select * from t.door) f
      where 'search_path=pg_catalog, pg_temp' <> all(coalesce(proconfig, '{}')) and f.proname not in ('gd_run', 'gd_run_claims', 'gd_rehearse', 'gd_migrate')$$,
    'with a pinned search_path');
select is_empty(
    $$select oid::regprocedure from t.door where not prosecdef$$, 'so are the doors of what runs handlers');
select bag_eq(
    $$select proname::text from t.helper
      where proname = any((gendurable._describe_profile('worker')).functions || (gendurable._describe_profile('operator')).functions)$$,
    $$select proname::text from t.door
      union all select proname::text from t.runner where proname like '\_%'
      union all values ('_run_group'), ('_match_outcomes'), ('_deferred_constraints'), ('_end_badly'), ('_blames_lock'),
          ('_is_nobodys_fault'), ('_tally_call'), ('_call_text'), ('_setting_ms'), ('_sign_outcomes'), ('_carry'), ('_count_writes'),
          ('_diff_writes')$$,
    'no other helper is open to workers, or to operators');
select is_empty(
    $$select oid::regprocedure from t.our_function where has_function_privilege('public', oid, 'execute')$$,
    'nothing can be executed by PUBLIC');
select is_empty(
    $$select oid::regprocedure from t.helper where prosecdef or (proconfig is not null and prorettype <> 'trigger'::regtype)
      except select oid from t.door except select oid from t.runner$$,
    'helpers are invoker and carry no SET');
select is_empty(
    $$select oid::regprocedure, proconfig from t.helper
      where prorettype = 'trigger'::regtype and 'search_path=pg_catalog, pg_temp' <> all(coalesce(proconfig, '{}'))$$,
    'but a trigger, which runs when the caller is back in his own search_path');
select is_empty(
    $$select oid::regprocedure from t.helper where proname !~ '^_[a-z_]+$'$$, 'and their names begin with _');
select is_empty(
    $$select relname from t.relation c where relkind = 'r' and (relname !~ '^[a-z_]+$' or relnamespace <> 'gendurable'::regnamespace)$$,
    'all tables are private');
select is_empty(
    $$select * from gendurable._list_rights((select m.api_schema from gendurable.meta m))$$,
    'nor has PUBLIC or anybody but the owner any right on a function, table, sequence, view, type or the private schema');
select bag_eq(
    $$select oid from t.public_function union all select oid from t.relation where relkind = 'v'$$,
    $$select case a.kind when 'function' then a.signature::regprocedure::oid else a.signature::regclass::oid end from gendurable._api() a$$,
    'what is ours in the schema of the API is written down');

select is_empty(
    $$select oid::regprocedure from t.our_function where obj_description(oid, 'pg_proc') is null$$, 'every function has a comment');
select is_empty(
    $$select oid::regclass from t.relation where relkind <> 'S' and obj_description(oid, 'pg_class') is null$$, 'every table and view too');
select is_empty(
    $$select oid::regprocedure from t.public_function f where f.proname not in ('gd_find', 'gd_version', 'gd_result', 'gd_watch', 'gd_get', 'gd_why')
        and obj_description(oid, 'pg_proc') !~ 'GD50[1-7]'$$, 'the comment of a public function names what it raises');

select is_empty(
    $$select f.oid::regprocedure from t.our_function f
      join pg_type y on y.oid = f.prorettype join pg_class c on c.oid = y.typrelid and c.relkind in ('r', 'v')$$,
    'no function returns a table''s row type');
select is_empty(
    $$select f.oid::regprocedure, a.name
      from t.our_function f
      cross join lateral unnest(f.proargnames) with ordinality a (name, n)
      where coalesce(f.proargmodes[a.n], 'i') in ('i', 'b', 'v') and a.name !~ '^p_[a-z_]+$'$$, 'arguments are named p_...');
select is_empty(
    $$select oid::regprocedure from t.our_function where pronargs > 0 and proargnames is null$$, 'all of them have a name');
select is_empty(
    $$select oid::regprocedure from t.our_function
      where prolang not in (select l.oid from pg_language l where l.lanname in ('sql', 'plpgsql'))$$, 'SQL and PL/pgSQL only');

-- The bodies. Comments and strings are taken out before names are looked for.

create view t.body as
select f.oid, f.proname, f.prosrc,
    regexp_replace(regexp_replace(f.prosrc, '--[^\n]*', '', 'g'), '''([^'']|'''')*''', '''''', 'g') as code
from t.our_function f;

select is_empty(
    $$select b.oid::regprocedure from t.body b join t.public_function f on f.oid = b.oid
      where not f.prosecdef and b.code ~ '\mgendurable\.' and b.oid not in (select r.oid from t.runner r)$$,
    'what makes things for its caller uses nothing that is private');
select is_empty(
    $$select oid::regprocedure from t.body
      -- what a handler raises is the handler's fault, and what the commit raises goes up
      where proname not in ('_run_group', '_migrate_group') and regexp_count(code, '\mwhen\s+others\M', 1, 'i') > least(
          regexp_count(code, 'not gendurable\._blames_\w+\('), regexp_count(code, '\mraise;'))$$,
    '"when others" asks whose fault it is, and raises what is nobody''s here');
select is_empty(
    $$select b.oid::regprocedure, m[1]
      from t.body b
      cross join lateral regexp_matches(
          b.code, '::\s*gendurable\.(new_instance|outcome|candidate|claimed)\M(?!\[)', 'g') m
      where b.proname <> '_' || m[1]$$, 'each shape is filled by its constructor');
select is_empty(
    $$select oid::regprocedure from t.body where code ~ '\m730[0-9]\M' and proname not like '\_lock\_of\_%'$$,
    'classes of advisory locks have names');
select is_empty(
    $$select oid::regprocedure from t.body
      where proname <> '_terminal_statuses' and prosrc ~ '''?done''?,\s*''?failed''?,\s*''?cancelled' and prosrc !~ 'runnable''?,'$$,
    'which statuses are terminal is said once');
select is_empty(
    $$select oid::regprocedure from t.body
      where proname not in ('_grant_profile', '_run_group', '_migrate_group', 'gd_signal_on', 'gd_signal_off') and code ~* '\mexecute\M'$$,
    'static SQL only');
select is_empty(
    $$select oid::regprocedure, m[2]
      from t.body cross join lateral regexp_matches(code, '\m(from|join|into|update|using)\s+([a-z_]+)\M(?!\s*[.(])', 'gi') m
      where lower(m[2]) in (select relname from t.relation)$$, 'tables are qualified');
select is_empty(
    $$select oid::regprocedure, m[1]
      from t.body cross join lateral regexp_matches(code, '(?<![.a-z0-9_$])(_[a-z0-9_]+)\s*\(', 'gi') m$$, 'helpers are qualified');
select is_empty(
    $$select oid::regprocedure, m[1]
      from t.body cross join lateral regexp_matches(code, '(?<![.a-z0-9_$])(gd_[a-z0-9_]+)\s*\(', 'gi') m$$,
    'no function calls a public one: it cannot know its schema');
select is_empty(
    $$select oid::regprocedure from t.body
      where regexp_count(code, '\mraise\s+exception\M', 1, 'i') > regexp_count(code, '\mhint\s*=', 1, 'i')$$, 'every exception has a hint');
select is_empty(
    $$select oid::regprocedure from t.body
      where regexp_count(code, '\mraise\s+exception\M', 1, 'i') > regexp_count(code, '\merrcode\s*=', 1, 'i')$$, 'and its SQLSTATE');
select is_empty(
    $$select oid::regprocedure, m[1] from t.body cross join lateral regexp_matches(prosrc, 'errcode = ''([^'']+)''', 'g') m
      where m[1] !~ '^GD50[1-7]$' and m[1] not in ('lock_not_available', 'undefined_function')$$, 'out of the list of the contract');
select is_empty(
    $$select f.oid::regprocedure from t.our_function f join pg_language l on l.oid = f.prolang
      where l.lanname = 'plpgsql' and f.proretset and f.proargmodes is not null and f.prosrc !~ '#variable_conflict use_column'
        and exists (select from unnest(f.proargnames) with ordinality a (name, n), pg_attribute c
            where f.proargmodes[a.n] = 't' and c.attname = a.name and not c.attisdropped
                and c.attrelid in (select r.oid from t.relation r where r.relkind = 'r')
                and f.prosrc ~ '\mgendurable\.[a-z]')$$,
    'where a returned column is called as one of a table, a name in a query means the table''s');

-- What pg_dump must carry over

select case
    when exists (select from pg_extension e where e.extname = 'gendurable') then is_empty(
        $$select c.oid::regclass from pg_class c
          where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'p', 'S')
            and c.oid not in (select unnest(e.extconfig) from pg_extension e where e.extname = 'gendurable')$$,
        'every table and sequence is dumped with its rows')
    else skip('gendurable is not installed as an extension here: run make test-sql')
end;
select is_empty(
    $$select c.conrelid::regclass from pg_constraint c where c.connamespace = 'gendurable'::regnamespace and not c.convalidated$$,
    'no constraint is left unvalidated');
select is_empty(
    $$select c.oid::regclass from pg_class c
      where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'p') and c.relreplident <> 'f'
          and not exists (
              select from pg_index i
              where i.indrelid = c.oid and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end)$$,
    'every table has a primary key or a replica identity: a publication refuses its deletes otherwise');
select is_empty(
    $$select i.indexrelid::regclass from pg_index i join pg_class c on c.oid = i.indexrelid
      where c.relnamespace = 'gendurable'::regnamespace and exists (
          select from pg_attribute a where a.attrelid = i.indexrelid and a.attname = 'status')$$,
    'status stands in no index');
select is_empty(
    $$select i.indexrelid::regclass from pg_index i join pg_class c on c.oid = i.indexrelid
      where i.indrelid = 'gendurable.instance'::regclass
        and pg_get_indexdef(i.indexrelid) ~ '\m(status|worker|lease_expires_at|claim_no|attempt|crashes|updated_at)\M'$$,
    'nor does anything else that a claim changes');

select * from finish();
