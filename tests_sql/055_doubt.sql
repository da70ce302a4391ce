\ir helpers/tap.psql
select no_plan();

-- What claims and commits ask first: one table, which has a row while anything is decided that concerns them.

create function t.special() returns bigint language sql as $$ select count(*) from gendurable.special $$;

select gd_maintain();
select is(t.special(), 0::bigint, 'at first nothing is special');
select gd_register('m', 1, 'start', 'default', '{"max_attempts": 3}');
select is(t.special(), 0::bigint, 'a machine is not');

create table t.mark (call text, undo text);
insert into t.mark values
    ('select gd_pause_queue(''q'')', 'select gd_resume_queue(''q'')'),
    ('select gd_hold_all(''h'')', 'select gd_release_hold()'),
    ('select gd_set_queue(''q'', ''{"limit": 1}'')', 'select gd_set_queue(''q'', ''{"limit": null}'')'),
    ('select gd_register(''m'', 1, ''start'', ''default'', ''{"timeouts": {"start": 1000}}'')',
        'select gd_register(''m'', 1, ''start'', ''default'', ''{"timeouts": null}'')'),
    ('select gd_register(''m'', 1, ''start'', ''default'', ''{"retain": {"done": 1000}}'')',
        'select gd_register(''m'', 1, ''start'', ''default'', ''{"retain": null}'')'),
    ('select gendurable._note_doubt(''{k}'')', 'delete from gendurable.doubtful_key');
create function t.marks(p_call text, p_undo text) returns bigint[] language plpgsql as $$
declare
    v_seen bigint[];
begin
    execute p_call;
    v_seen := array[t.special()];
    execute p_call;
    perform gd_maintain();
    v_seen := v_seen || t.special();
    execute p_undo;
    perform gd_maintain();
    return v_seen || t.special();
end $$;
-- what is in doubt is settled by the upkeep itself
select is(
    case when m.call ~ 'doubt' then array[x.seen[1], 1, x.seen[3]] else array[least(x.seen[1], 1), x.seen[2], x.seen[3]] end,
    '{1,1,0}'::bigint[], m.call || ' is, until it is undone')
from t.mark m
cross join lateral t.marks(m.call, m.undo) x (seen);

-- One that is added while the upkeep looks is not lost: it is another row
insert into gendurable.special default values;
insert into gendurable.special default values;
select gd_hold_all('again');
select gd_maintain();
select is(t.special(), 1::bigint, 'of many one is kept');
select gd_insert('m') is not null;
select is((select count(*) from t.take('default', 1)), 0::bigint, 'and claims see to it');
select gd_release_hold();
select gd_maintain();
select is(t.special(), 0::bigint, 'then there is nothing any more');
select is((select count(*) from t.take('default', 1)), 1::bigint, 'and they go on');

select * from finish();
