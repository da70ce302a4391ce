-- What becomes of journals (sql/kernel/085_journal): gd_retry, forks, documents, removal.
\ir helpers/tap.psql
select no_plan();

create function t.entries(p_id bigint) returns text
language sql as $$
    select string_agg(j.seq || ':' || (j.entry ->> 'k') || coalesce('=' || (j.entry ->> 'name'), ''), ' ' order by j.seq)
    from gendurable.journal j where j.instance_id = p_id
$$;

-- One that has ended, with so many entries of so many bytes, which are stored as they are.
create function t.flow_of(p_count int, p_bytes int) returns bigint
language plpgsql as $$
declare
    v_id bigint := gd_insert('flow', p_queue => 'of');
begin
    perform t.run('of', '{"kind": "done"}');
    alter table gendurable.journal alter entry set storage external;
    insert into gendurable.journal (instance_id, seq, entry)
    select v_id, g, jsonb_build_object('k', 'step', 'name', 's', 'v', repeat('x', p_bytes)) from generate_series(1, p_count) g;
    alter table gendurable.journal alter entry set storage extended;
    return v_id;
end $$;

-- The short look at what is appended

create temp table appended as
select j.journal, gendurable._is_plain_journal(j.journal) as plain, gendurable._journal_problem(j.journal) is null as sound
from (
    select jsonb_build_object('at', a.at, 'add', e.entries) || o.other as journal
    from jsonb_array_elements('[0, 1, 1.0, 9999, 10000, 19998, 19999, 20000, 1.5, -1, 1e400, null, true, "0", [], {}, "x"]') a (at)
    cross join unnest(array['[{"k": "step"}]', '[{"k": "start", "seed": "s"}, {"k": "step", "v": "5"}]', '[]', '{}', 'null', '"k"', '5', '["k"]', '[5]',
        '[{"k": 5}]', '[{"k": ""}]', '[{"k": null}]', '[{}]', '[{"k": "step"}, {"n": 1}]', '[[{"k": "step"}]]', '[null]',
        jsonb_build_array(jsonb_build_object('k', repeat('x', 64))), jsonb_build_array(jsonb_build_object('k', repeat('x', 65))),
        jsonb_build_array(jsonb_build_object('k', repeat('ä', 64)))]::jsonb[]) e (entries)
    cross join jsonb_array_elements('[{}, {"forget": true}, {"forget": 1}, {"runs": true}, {"runs": 1}, {"odd": 1},
        {"brief": true}, {"brief": false}, {"brief": 1}, {"brief": "true"}, {"brief": true, "runs": true}]') o (other)
    union all
    select j.journal from jsonb_array_elements('[5, "x", [], [{"at": 0}], {}, {"at": 0}, {"add": [{"k": "step"}]}, null]') j (journal)
    union all
    select null
) j;
select ok(bool_and(not a.plain or a.sound), 'finds nothing sound that is not') from appended a;
select ok(bool_and(a.plain is not null), 'and always has an answer') from appended a where a.journal is not null;
select is(count(*)::int, 30, 'what flows mostly send is plain') from appended a
where a.plain and a.journal ->> 'at' = any('{0,1,19998}'::text[])
    and a.journal -> 'add' = any(array['[{"k": "step"}]', '[{"k": "start", "seed": "s"}, {"k": "step", "v": "5"}]']::jsonb[]);
select ok(gendurable._is_plain_journal(jsonb_build_object('at', 10000, 'add', (select jsonb_agg('{"k": "step"}'::jsonb) from generate_series(1, 10000)))),
    'of the most that one may append');
select ok(not gendurable._is_plain_journal(jsonb_build_object('at', 0, 'add', (select jsonb_agg('{"k": "step"}'::jsonb) from generate_series(1, 10001)))),
    'and of no more');

-- Again

create function t.fails(p_queue text, p_entries jsonb, p_step text = null) returns bigint
language plpgsql as $$
declare
    v_id bigint := gd_insert('flow', '{"args": 1}', p_queue => p_queue);
begin
    perform t.run(p_queue, jsonb_build_object('kind', 'next', 'step', coalesce(p_step, 's'), 'journal', jsonb_build_object('at', 0, 'add', p_entries)));
    perform t.run(p_queue, '{"kind": "stop", "reason": "no"}');
    -- elsewhere, so that it is not claimed in place of the next one
    update gendurable.instance set queue = p_queue || ' ' || v_id where id = v_id;
    return v_id;
end $$;
create function t.place(p_id bigint) returns text
language sql as $$
    select i.status || ' ' || i.step || ' ' || i.attempt || ' ' || i.state || coalesce(' awaits ' || i.awaits::text, '') || coalesce(' ' || t.entries(i.id), '')
    from gendurable.instance i where i.id = p_id
$$;
select t.fails('f', '[{"k": "start"}, {"k": "step", "name": "a"}, {"k": "step", "name": "b", "e": {"message": "m"}}, {"k": "timer"},
    {"k": "end", "failed": 3}]') as id \gset
select gd_retry(:id);
select is(t.place(:id), 'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'from the failed checkpoint on');
select t.fails('f', '[{"k": "start"}, {"k": "step", "name": "a"}, {"k": "end", "failed": null}]') as id \gset
select gd_retry(:id);
select is(t.place(:id), 'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'behind the last one');
select t.run('f ' || :id, '{"kind": "stop", "reason": "no"}');
select gd_retry(:id);
select is(t.place(:id), 'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried 4:retried', 'whatever has ended it');
select gd_cancel(:id);
select gd_retry(:id, p_state => '{"args": 2}');
select is(t.place(:id), 'runnable start 0 {"args": 2}', 'with a new state from the start');
select gd_cancel(:id);
select gd_retry(:id, p_state => '{"args": 3}');
select is(t.place(:id), 'runnable start 0 {"args": 3}', 'also where there is nothing to drop');
create temp table odd as
select t.fails('o', jsonb_build_array('{"k": "start"}'::jsonb, '{"k": "step", "name": "a"}'::jsonb, jsonb_build_object('k', 'end', 'failed', e.failed))) as id
from (values ('0'::jsonb), ('-1'), ('1.5'), ('9'), ('"2"'), ('[2]'), ('1e30')) e (failed);
select gd_retry(o.id) from odd o;
select is((select string_agg(distinct t.place(o.id), '; ') from odd o),
    'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'a checkpoint that is none is passed over');
select t.fails('f2', '[{"k": "start"}, {"k": "end", "failed": 1}]') as id \gset
select gd_retry(:id);
select is(t.place(:id), 'runnable start 0 {"args": 1} 1:retried', 'from the very first');
select t.fails('f3', '[{"k": "start"}]') as id \gset
select t.raises(format('select gd_retry(%s, ''other'')', :id), 'GD501', 'a flow has no other step');
select is(t.entries(:id), '1:start', '(nothing happened)');
select gd_retry(:id);
select t.raises(format('select gd_edit(%s, ''other'')', :id), 'GD501', 'nor by an edit');
select is(gd_edit(:id, p_state => '{"args": 4}', p_priority => 3), true, 'its arguments can be changed');
select is(t.place(:id), 'runnable start 0 {"args": 4} 1:start 2:retried', 'what it has come through stays');

-- what it waited for it asks for anew
select t.fails('f4', '[{"k": "start"}, {"k": "step", "name": "a"}]', '(sleep)') as id \gset
select gd_retry(:id);
select is(t.place(:id), 'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'a sleep has not ended because it is tried again');
select gd_insert('flow', p_queue => 'f5') as id \gset
select t.run('f5', '{"kind": "await", "signals": "x", "step": "(signal)", "timeout_ms": 0,
    "journal": {"at": 0, "add": [{"k": "start"}, {"k": "step", "name": "(odd)"}]}}');
select gd_cancel(:id);
select gd_retry(:id);
select is(t.place(:id), 'runnable start 0 {} 1:start 2:step=(odd) 3:retried', 'nor has a deadline');
select is((select c.awaits is null and not c.timed_out from t.take('f5') c), true, '(neither is shown)');
select gd_insert('flow', p_queue => 'f6') as id \gset
select t.run('f6', '{"kind": "schedule_childs", "step": "(childs)", "childs": [{"fsm": "c", "queue": "kid6"}], "journal": {"at": 0, "add": [{"k": "start"}]}}');
select gd_cancel(:id);
select gd_retry(:id);
select is(t.place(:id), 'runnable start 0 {} 1:start 2:retried', 'nor have children');
select gd_insert('flow', p_queue => 'f7') as id \gset
select t.run('f7', '{"kind": "schedule_childs", "step": "(childs)", "childs": [{"fsm": "c", "queue": "kid7"}], "journal": {"at": 0, "add": [{"k": "start"}]}}');
select t.run('kid7', '{"kind": "done"}');
select gd_cancel(:id);
select gd_retry(:id);
select is(t.place(:id), 'runnable (childs) 0 {} 1:start 2:retried', 'but where they have, it is shown them');
select t.run('f7', '{"kind": "stop", "reason": "r", "journal": {"at": 2, "add": [{"k": "childs", "name": "childs"}, {"k": "end", "failed": null}]}}');
select gd_retry(:id);
select is(t.place(:id), 'runnable childs 0 {} 1:start 2:retried 3:childs=childs 4:retried', 'once');

-- many
select t.fails('m', '[{"k": "start"}, {"k": "step", "name": "a", "e": {}}, {"k": "end", "failed": 2}]') as one,
    t.fails('m', '[{"k": "start"}, {"k": "step", "name": "a"}, {"k": "end", "failed": null}]') as two, gd_insert('plain', p_queue => 'p') as three \gset
select gd_cancel(:three);
select is((select array_agg(r.result) from gd_retry_many(array[:one, :two, :three]) r), '{done,done,done}', 'many at once');
select is(t.place(:one), 'runnable start 0 {"args": 1} 1:start 2:retried', 'each');
select is(t.place(:two), 'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'by its end');
select is(t.place(:three), 'runnable start 0 {}', 'and what is no flow');

-- a full journal has no room for the mark
select t.fails('full', (select jsonb_agg('{"k": "step", "name": "a"}'::jsonb) from generate_series(1, 10000))) as id \gset
select gd_retry(:id);
select t.run('full ' || :id, '{"kind": "replay", "journal": {"at": 10000, "forget": true, "add": [{"k": "step", "name": "a"}]}}');
select t.run('full ' || :id, jsonb_build_object('kind', 'stop', 'reason', 'r', 'journal', jsonb_build_object('at', 10001, 'add',
    (select jsonb_agg('{"k": "step", "name": "a"}'::jsonb) from generate_series(1, 9999)))));
select gd_retry(:id);
select is(gendurable._count_entries(:id), 20000, 'it is none longer');

-- Forks

select t.fails('fork', '[{"k": "start", "seed": "s"}, {"k": "step", "name": "a", "v": "1"}, {"k": "step", "name": "b", "e": {}},
    {"k": "end", "failed": 3}]') as id \gset
select gd_fork(:id) as fork \gset
select is(t.place(:fork), 'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'a fork goes on as gd_retry would');
select is(t.place(:id), 'failed s 0 {"args": 1} 1:start 2:step=a 3:step=b 4:end', 'the other one is as it was');
select gd_fork(:id) as again \gset
select is((select count(distinct j.entry ->> 'seed') from gendurable.journal j where j.seq = 1 and j.instance_id = any(array[:id, :fork, :again])),
    3::bigint, 'each draws from a seed of its own');
select is((select j.entry - 'seed' from gendurable.journal j where j.seq = 1 and j.instance_id = :fork), '{"k": "start"}', '(of the rest nothing is changed)');
select is(t.place(gd_fork(:id, p_options => '{"journal": 3}')), 'runnable b 0 {"args": 1} 1:start 2:step=a 3:step=b 4:retried', 'so many entries');
select is(t.place(gd_fork(:id, p_options => '{"journal": 0}')), 'runnable start 0 {"args": 1}', 'none');
select is(t.place(gd_fork(:id, p_options => '{"journal": null}')), 'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'null: the default');
select is(t.place(gd_fork(:id, p_state => '{"args": 2}')), 'runnable start 0 {"args": 2}', 'with other arguments none');
select is(t.place(gd_fork(:id, p_state => '{"args": 2}', p_options => '{"journal": 2}')), 'runnable a 0 {"args": 2} 1:start 2:step=a 3:retried',
    'unless it is asked for');
select t.raises(format('select gd_fork(%s, p_options => %L)', :id, o.options), 'GD501', o.options)
from unnest(array['{"journal": 5}', '{"journal": -1}', '{"journal": 1.5}', '{"journal": "all"}', '{"journal": 1e30}']) o (options);
select t.raises(format('select gd_fork(%s, 1)', :id), 'GD501', 'not by its history');
select t.raises(format('select gd_fork(%s, p_step => ''a'')', :id), 'GD501', 'nor by a step');
select gd_insert('plain', p_queue => 'p') as id \gset
select t.raises(format('select gd_fork(%s, p_options => ''{"journal": 1}'')', :id), 'GD501', 'what has no journal');
select is(t.place(gd_fork(:id, p_options => '{"journal": 0}')), 'runnable start 0 {}', 'of that none');
select gd_insert('plain', p_queue => 'p', p_unique_key => 'u');
select t.fails('fork', '[{"k": "start"}]') as id \gset
select is(gd_fork(:id, p_options => '{"unique_key": "u"}'), null, 'its unique key is taken');

-- Documents

select t.fails('doc', '[{"k": "start", "seed": "s"}, {"k": "step", "name": "a", "v": "{\"b\": 1, \"a\": 2}"}, {"k": "end", "failed": null}]') as id \gset
select gd_import(gd_export(:id)) as copy \gset
select is((select j.entries from gd_journals(array[:copy]) j), (select j.entries from gd_journals(array[:id]) j), 'a journal goes with its instance');
select gd_retry(:copy);
select is(t.place(:copy), 'runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'and is one as any');
select gd_import(jsonb_set(gd_export(:id) #- '{instances,0,journal}', '{format}', '1')) as copy \gset
select is(t.entries(:copy), null, 'documents of the first format have none');
select t.flow_of(16, 1000000) as id \gset
select t.raises(format('select gd_export(%s)', :id), 'GD501', 'one that is too large');
select t.flow_of(1000, 10) as id \gset
select is(t.entries(gd_import(gd_export(:id))), t.entries(:id), 'one of many entries');

-- Migrating keeps it: what the other version makes of it is the other version's matter
select t.fails('mig', '[{"k": "start"}, {"k": "step", "name": "a"}]') as id \gset
select gd_retry(:id);
select gd_register('flow', 2, 'start');
select count(*) from gd_migrate('flow', 1, 2) \gset
select is((select i.fsm_version || ' ' || t.place(i.id) from gendurable.instance i where i.id = :id),
    '2 runnable a 0 {"args": 1} 1:start 2:step=a 3:retried', 'it comes with it');

-- Removal

select t.fails('old', '[{"k": "start"}]') as id \gset
select is(gd_delete(:id), true, 'by hand');
select is(t.entries(:id), null, 'its journal is gone');
select t.fails('old', '[{"k": "start"}]') as id \gset
select is((select r.result from gd_delete_many(array[:id]) r), 'done', 'many');
select is(t.entries(:id), null, 'theirs, too');
select t.fails('old', '[{"k": "start"}]') as id \gset
select gd_gc('0') > 0;
select is(t.entries(:id), null, 'by the retention');
select is_empty('select from gendurable.history_left', 'at once');

-- many entries, or large ones: what is left goes with the next calls, and nobody sees it
select t.flow_of(10000, 5) as one, t.flow_of(10000, 5) as two, t.flow_of(10000, 5) as three \gset
select gd_delete_many(array[:one, :two, :three]);
select is((select count(*) from gendurable.journal j where j.instance_id = any(array[:one, :two, :three])), 10000::bigint, '20,000 entries a call');
select is_empty(format('select from gd_journals(array[%s, %s, %s])', :one, :two, :three), 'of those that are gone there is nothing to see');
select is_empty(format('select gd_journal(j.id) from unnest(array[%s, %s, %s]) j (id)', :one, :two, :three), 'for people neither');
select is_empty(format('select from gd_journal_entries(%s)', :three), 'nor by page');
select isnt_empty('select from gendurable.history_left', 'it is put down');
select gd_gc('1000 years');
select is_empty(format('select from gendurable.journal j where j.instance_id = any(array[%s, %s, %s])', :one, :two, :three), 'the next call removes it');
select is_empty('select from gendurable.history_left', '(and the note)');
select t.flow_of(10, 15000000) as id \gset
select gd_delete(:id);
select is((select count(*) from gendurable.journal j where j.instance_id = :id), 5::bigint, 'as many bytes a call as fit');
select gd_gc('1000 years');
select is_empty('select from gendurable.history_left', 'in the end it is gone');
select is_empty('select from gendurable.journal j where not exists (select from gendurable.instance i where i.id = j.instance_id)', 'and nothing is left');

select finish();
