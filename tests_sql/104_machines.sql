\ir helpers/tap.psql
select no_plan();

-- What the answer of a call that fails says.
create function t.says(p_sql text) returns text
language plpgsql as $$
begin
    execute p_sql;
    return null;
exception when others then
    return sqlerrm;
end $$;

-- steps

select gd_register('old', 1, 'start', 'old');
select isnt(gd_insert('old', p_step => 'anything'), null, 'where nobody has said which steps there are, each is one');
select is((select t.steps from gendurable.machine t), null, '(nothing is kept)');
select is(gendurable._steps_asked(), false, '(nor asked)');
select gd_register('m', 1, 'start', 'ms', '{"steps": ["b", "a", "b"]}');
select is((select x.steps from gd_machines x where x.fsm = 'm'), '{a,b,start}', 'each once, and the first step');
select is(gendurable._steps_asked(), true, '(from now on it is asked)');
select gd_register('m', 1, 'start', 'ms', '{"steps": ["c"]}');
select gd_register('m', 1, 'start', 'ms', '{"max_attempts": 3}');
select is((select x.steps from gd_machines x where x.fsm = 'm'), '{a,b,c,start}', 'a second registration adds, and takes none away');
select gd_register('m', 1, 'begin', 'ms');
select is((select x.steps from gd_machines x where x.fsm = 'm'), '{a,b,c,start,begin}', 'another first step is one as well');
select is((select xmin from gendurable.machine where fsm = 'm'), (select xmin from gendurable.machine where fsm = 'm'
    and gd_register('m', 1, 'begin', 'ms', '{"steps": ["a", "begin"]}') is not null), 'known ones write nothing');
select gd_register('none', 1, 'start', 'ms', '{"steps": []}');
select is((select x.steps from gd_machines x where x.fsm = 'none'), '{start}', 'the first step alone');
select gd_register('none', 1, 'start', 'ms', '{"steps": null}');
select is((select x.steps from gd_machines x where x.fsm = 'none'), null, 'null: nobody says it any more');

select t.raises(format('select gd_register(''m'', 1, ''start'', ''ms'', %L)', jsonb_build_object('steps', x.value)), 'GD501',
    'steps: ' || left(x.value::text, 20))
from jsonb_array_elements('["a", {}, 1, true, [1], [null], [""], [["a"]], [{"a": 1}]]' || jsonb_build_array(
    jsonb_build_array(repeat('x', 10000)), (select jsonb_agg(g) from generate_series(1, 1001) g))) x;

-- an insert

select is(t.says($$select gd_insert('m', p_step => 'zz')$$),
    'version 1 of the machine ''m'' has no step ''zz'': its steps are ''a'', ''b'', ''begin'', ''c'', ''start''', 'an insert is told which there are');
select t.raises($$select gd_insert('m', p_step => 'zz')$$, 'GD501', 'an insert');
select t.raises($$select gd_insert('m', p_step => 'zz', p_version => 1, p_queue => 'q')$$, 'GD501', 'an insert that says all');
select isnt(gd_insert('m', p_step => 'a', p_queue => 'd'), null, 'one that it has');
select isnt(gd_insert('m', p_queue => 'd'), null, 'the first one');
select isnt(gd_insert('m', p_step => 'zz', p_version => 2, p_queue => 'd'), null, 'a version of which nobody has said anything');
select is(t.says($$select * from gd_insert_many('[{"fsm": "m", "step": "a"}, {"fsm": "old", "step": "x"}, {"fsm": "m", "step": "y"},
    {"fsm": "m", "step": "z", "version": 1}]')$$),
    'version 1 of the machine ''m'' has no step ''y'': its steps are ''a'', ''b'', ''begin'', ''c'', ''start''', 'of many the first is told');
select t.raises($$select * from gd_insert_many('[{"fsm": "m", "step": "a"}, {"fsm": "m", "step": "y"}]')$$, 'GD501', 'and none is inserted');
select is(t.says($$select * from gd_insert_many('[{"fsm": "m", "step": "y"}, {"fsm": ""}]')$$), 'fsm must not be empty',
    'what cannot be stored at all is told first');
select is((select count(*) from gd_insert_many('[{"fsm": "m", "step": "a", "queue": "d"}, {"fsm": "m", "step": "b", "queue": "d"},
    {"fsm": "old", "step": "y", "queue": "d"}]')), 3::bigint, 'those that they have');
select gd_register('many', 1, 'start', 'ms', jsonb_build_object('steps', (select jsonb_agg('s' || g) from generate_series(1, 1000) g)));
select ok(length(t.says($$select gd_insert('many', p_step => 'zz')$$)) < 1000, 'of very many steps a few are named');

-- a step of gd_define_step counts

select gd_define_step('m', 'in_sql');
select isnt(gd_insert('m', p_step => 'in_sql', p_queue => 'd'), null, 'a step that is defined');
select gd_define_step('m', 'of_two', p_options => '{"version": 2}');
select t.raises($$select gd_insert('m', p_step => 'of_two')$$, 'GD501', 'but one of another version');
select ok(t.says($$select gd_insert('m', p_step => 'zz')$$) like '%''in_sql''%' and t.says($$select gd_insert('m', p_step => 'zz')$$) not like '%of_two%',
    'it is named, too');

-- outcomes

select gd_insert('m', p_queue => 'o') as id, gd_insert('m', p_queue => 'o') as other, gd_insert('old', p_queue => 'o') as free \gset
select count(*) from t.take('o', 10) \gset taken_
create temp table answers as
select c.* from gendurable.instance i, gd_commit('w', (select jsonb_agg(jsonb_build_object('id', x.id, 'claim_no', x.claim_no, 'kind', 'next',
    'step', case x.id when :id then 'zz' when :other then 'a' else 'zz' end) order by x.id)
    from gendurable.instance x where x.id in (:id, :other, :free))) c where i.id = :id;
select results_eq('select result, detail from answers order by ord',
    format($$values ('rejected', %L::jsonb), ('ok', null), ('ok', null)$$,
        '{"sqlstate": "GD501", "message": "version 1 of the machine ''m'' has no step ''zz'': '
        'its steps are ''a'', ''b'', ''begin'', ''c'', ''in_sql'', ''start''"}'),
    'an outcome is rejected alone');
select is((select i.status::text || i.step from gd_instances i where i.id = :id), 'executingbegin', 'and its claim stands');
select t.rejects(:id, '{"kind": "next", "step": "zz"}', 'GD501', 'one alone');
select t.rejects(:id, '{"kind": "await", "signals": ["s"], "step": "zz"}', 'GD501', 'an await that goes on there');
select t.rejects(:id, '{"kind": "schedule_childs", "childs": [], "step": "zz"}', 'GD501', 'so for children');
select t.rejects(:id, '{"kind": "schedule_childs", "childs": [{"fsm": "m", "step": "zz"}], "step": "a"}', 'GD501', 'a child');
select t.rejects(:id, '{"kind": "next", "step": "a", "insert": [{"fsm": "m", "step": "zz"}]}', 'GD501', 'what it inserts');
select t.rejects(:id, '{"kind": "replay", "at": {"step": "zz"}}', 'GD501', 'what was made at a step that there is not');
select throws_ok(format($$select gd_commit_one('w', jsonb_build_object('id', %s, 'claim_no', %s, 'kind', 'next', 'step', 'zz'))$$, :id,
    (select i.claim_no from gendurable.instance i where i.id = :id)), 'GD501', null, 'gd_commit_one raises');
select throws_ok(format($$select gd_commit_one('w', jsonb_build_object('id', %s, 'claim_no', %s, 'kind', 'await', 'signals', jsonb '["s"]', 'step', 'zz'))$$,
    :id, (select i.claim_no from gendurable.instance i where i.id = :id)), 'GD501', null, 'whatever it is');
select is(t.commit(:id, '{"kind": "next", "step": "in_sql"}'), 'ok', 'a step that is defined');

-- gd_retry

select gd_cancel(:id);
select t.raises(format('select gd_retry(%s, ''zz'')', :id), 'GD501', 'gd_retry at a step that there is not');
select is(gd_retry(:id, 'c'), true, 'at one that there is');
select is(t.says('select gd_retry(0, ''zz'')'), 'no such instance', 'of none');
select t.raises(format('select gd_edit(%s, ''zz'')', :id), 'GD501', 'nor does gd_edit lead there');
select is(gd_edit(:id, 'b'), true, '(but to one that there is)');
select gd_insert('later', p_queue => 'o', p_step => 'gone') as id \gset
select gd_cancel(:id);
select gd_register('later', 1, 'start', 'ms', '{"steps": []}');
select t.raises(format('select gd_retry(%s)', :id), 'GD501', 'nor where it ended, where that is none any more');
select is(gd_retry(:id, 'start'), true, '(elsewhere it may)');

-- which version

select gd_register('v', 1, 'one', 'v1', '{"steps": ["a"]}');
select gd_register('v', 2, 'two', 'v2', '{"steps": ["b"]}');
select gd_insert('v') as id \gset
select is((select i.fsm_version || i.step || i.queue from gd_instances i where i.id = :id), '2twov2', 'the highest one');
select gd_register('v', 2, 'two', 'v2', '{"default_version": 1}');
select gd_insert('v') as id \gset
select is((select i.fsm_version || i.step || i.queue from gd_instances i where i.id = :id), '1onev1', 'the pinned one');
select gd_register('v', 3, 'three', 'v3');
select gd_insert('v') as id \gset
select is((select i.fsm_version || i.step || i.queue from gd_instances i where i.id = :id), '1onev1', 'whatever is registered later');
select n.id from gd_insert_many('[{"fsm": "v", "step": "a"}, {"fsm": "v", "version": 3}]') n where n.ord = 0 \gset
select is((select i.fsm_version || i.step || i.queue from gd_instances i where i.id = :id), '1av1', 'of many, and its steps are asked for');
select is((select i.fsm_version || i.step || i.queue from gd_instances i where i.id = :id + 1), '3threev3', 'not where a version is named');
select t.raises($$select gd_insert('v', p_step => 'b')$$, 'GD501', 'the steps of the pinned one count');
select t.raises($$select gd_register('v', 3, 'three', 'v3', '{"default_version": 9}')$$, 'GD501', 'one that is not registered');
select t.raises(format($$select gd_register('v', 3, 'three', 'v3', %L)$$, jsonb_build_object('default_version', x.value)), 'GD501', 'nor ' || x.value::text)
from jsonb_array_elements('["1", 0, 1.5, [], 99999999999]') x;
select gd_register('v', 4, 'four', 'v4', '{"default_version": 4}');
select gd_insert('v') as id \gset
select is((select i.fsm_version || i.step || i.queue from gd_instances i where i.id = :id), '4fourv4', 'another one, also the very one that is registered');
select is((select count(*) from gd_machines v where v.fsm = 'v' and v.pinned), 1::bigint, '(one is)');
select is((select string_agg(m.xmin::text, ' ' order by m.version) from gendurable.machine m where m.fsm = 'v'),
    (select string_agg(m.xmin::text, ' ' order by m.version) from gendurable.machine m
    where m.fsm = 'v' and gd_register('v', 4, 'four', 'v4', '{"default_version": 4}') is not null), 'again it writes nothing');
select gd_register('v', 2, 'two', 'v2', '{"default_version": null}');
select gd_insert('v') as id \gset
select is((select i.fsm_version from gd_instances i where i.id = :id), 4, 'null: the highest again');
-- a schedule's bell follows it
select gd_schedule('s', '@every 1h', 'v');
select is((select s.queue from gendurable.schedule s where s.name = 's'), 'v4', 'a schedule');
select gd_register('v', 2, 'two', 'v2', '{"default_version": 2}');
select is((select s.queue from gendurable.schedule s where s.name = 's'), 'v2', 'its bell hangs where the pinned version is served');

-- gd_machines

select results_eq($$select version, initial_step, queue, steps, pinned, registered, runnable, unrunnable, exact from gd_machines where fsm = 'v' order by 1$$,
    $$values (1, 'one', 'v1', '{a,one}'::text[], false, true, 3::bigint, 0::bigint, true),
        (2, 'two', 'v2', '{b,two}', true, true, 1, 0, true), (3, 'three', 'v3', null, false, true, 1, 0, true),
        (4, 'four', 'v4', null, false, true, 2, 0, true)$$, 'what there is, and how many');
select is((select x.unrunnable from gd_machines x where x.fsm = 'm' and x.version = 2), 1::bigint, 'of a version that is not registered, while another one is');
select is((select row(x.registered, x.initial_step, x.runnable) from gd_machines x where x.fsm = 'm' and x.version = 2),
    row(false, null::text, 1::bigint), '(not registered)');
select gd_insert('nobody', p_queue => 'd', p_step => 'x') as id \gset
select is((select x.unrunnable from gd_machines x where x.fsm = 'nobody'), 0::bigint, 'of a machine that nobody has registered nothing is known');
select gd_insert('stray', p_queue => 'stray', p_step => 'x') as stray, gd_insert('stray', p_queue => 'stray', p_step => 'ok') as fine \gset
select gd_register('stray', 1, 'start', 'ms', '{"steps": ["ok"]}');
select results_eq($$select runnable, unrunnable from gd_machines where fsm = 'stray'$$, $$values (2::bigint, 1::bigint)$$, 'at a step that there is not');
select gd_insert('stray', p_queue => 'stray', p_step => 'ok') as id,
    gd_insert('stray', p_queue => 'stray', p_step => 'ok') as awaits, gd_insert('stray', p_queue => 'stray', p_step => 'ok') as parent \gset
select count(*) from t.take('stray', 10) \gset taken_
select t.put(:awaits, '{"kind": "await", "signals": ["s"]}');
select t.put(:parent, '{"kind": "schedule_childs", "step": "ok", "childs": [{"fsm": "child"}]}');
select t.put(:fine, '{"kind": "done"}');
select results_eq($$select runnable, executing, awaiting_signal, awaiting_children, unrunnable from gd_machines where fsm = 'stray'$$,
    $$values (0::bigint, 2::bigint, 1::bigint, 1::bigint, 1::bigint)$$, 'by status; what has ended does not count');
select is((select count(*) from gd_machines x where x.fsm = ''), 0::bigint, 'no bells');

-- why, and the doctor

select gd_release('w', jsonb_build_array(jsonb_build_array(i.id, i.claim_no))) from gendurable.instance i where i.id = :stray;
select is((select w.message from gd_why(:stray) w where w.cause = 'machine unknown'),
    'It is at the step "x", which version 1 of the machine "stray" does not have.', 'gd_why');
select is((select w.detail from gd_why(:stray) w where w.cause = 'machine unknown'),
    '{"fsm": "stray", "version": 1, "step": "x", "unknown": "step", "steps": ["ok", "start"]}', '(its detail)');
select is_empty(format('select from gd_why(%s) where cause = ''machine unknown''', :id), 'not of one that is known');
select is((select w.message from gd_instances i, gd_why(i.id) w where i.fsm = 'm' and i.fsm_version = 2 and w.cause = 'machine unknown'),
    'It is of version 2 of the machine "m", which is not registered; registered are 1.', 'a version');
select is((select d.level || ': ' || d.message from gd_doctor() d where d."check" = 'machines'),
    'problem: nobody can run 2 instances: m v2 at zz, stray v1 at x',
    'the doctor');
select is((select d.detail from gd_doctor() d where d."check" = 'machines'), jsonb_build_array(
    jsonb_build_object('fsm', 'm', 'version', 2, 'step', 'zz', 'unknown', 'version', 'count', 1,
        'id', (select i.id from gd_instances i where i.fsm = 'm' and i.fsm_version = 2)),
    jsonb_build_object('fsm', 'stray', 'version', 1, 'step', 'x', 'unknown', 'step', 'count', 1, 'id', :stray)), '(its detail)');
select gd_define_step('stray', 'x');
select gd_register('m', 2, 'start', 'ms');
select is((select d.level from gd_doctor() d where d."check" = 'machines'), 'ok', 'when all are known, it is silent');
select is_empty(format('select from gd_why(%s) where cause = ''machine unknown''', :stray), 'so is gd_why');

select * from finish();
