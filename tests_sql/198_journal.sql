-- Journals of flows: what outcomes append, how it is read, and what becomes of it (sql/kernel/085_journal, sql/api/198_journal).
\ir helpers/tap.psql
select no_plan();

create function t.entries(p_id bigint) returns text
language sql as $$
    select string_agg(j.seq || ':' || (j.entry ->> 'k') || coalesce('=' || (j.entry ->> 'name'), ''), ' ' order by j.seq)
    from gendurable.journal j where j.instance_id = p_id
$$;

-- Appending

select gd_insert('flow', '{"n": 1}', p_queue => 'a') as id \gset
select id from t.take('a') \gset
select is(t.answer(:id, '{"kind": "next", "step": "one", "keep": true, "journal": {"at": 0, "add": [
        {"k": "start", "at": 1700000000.5, "seed": "s"}, {"k": "step", "name": "one", "n": 0, "at": 1700000001, "v": "{\"b\":1,\"a\":1e22}"}]}}')
    #>> '{detail,step}', 'one', 'a kept outcome appends to the journal');
select is(t.entries(:id), '1:start 2:step=one', 'from 1 on');
select is((select string_agg(k.key, ',' order by k.key)
    from jsonb_object_keys(t.answer(:id, '{"kind": "next", "step": "two", "keep": true, "journal": {"at": 2, "add": [
        {"k": "step", "name": "two", "n": 0, "at": 1700000002, "v": "2"}]}}') -> 'detail') k (key)),
    'attempt,attributes,awaits,claim_no,fsm,fsm_version,id,parent_id,partition_key,queue,signals,step,timed_out,unique_key',
    'the answer is without state, children and meta');
select is(t.entries(:id), '1:start 2:step=one 3:step=two', 'one after the other');
select is((select i.state from gendurable.instance i where i.id = :id), '{"n": 1}', 'the state stays');

select t.rejects(:id, '{"kind": "next", "step": "x", "keep": true, "journal": {"at": 2, "add": [{"k": "step"}]}}', 'GD501',
    'an overlap is rejected');
select t.rejects(:id, '{"kind": "done", "journal": {"at": 4, "add": [{"k": "step"}]}}', 'GD501', 'and so is a gap');
select is(t.answer(:id, '{"kind": "replay", "journal": {"at": 2, "add": [{"k": "step"}]}}') #>> '{detail,message}',
    'the journal has 3 entries, the outcome appends behind 2', 'with a clear text');

select is((select string_agg(r.seq || ' ' || r.kind || ' ' || coalesce(r.name, '-') || ' ' || coalesce(r.n::text, '-') || ' '
        || extract(epoch from r.at) || ' ' || coalesce(r.value::text, '-'), '; ' order by r.seq) from gd_journal(:id) r),
    '1 start - - 1700000000.500000 -; 2 step one 0 1700000001.000000 {"a": 10000000000000000000000, "b": 1}; '
    || '3 step two 0 1700000002.000000 2', 'it is read entry by entry');
select is((select entries ->> 1 from gd_journals(array[:id])),
    '{"k": "step", "n": 0, "v": "{\"b\":1,\"a\":1e22}", "at": 1700000001, "name": "one"}', 'values stay the text that they were');

-- forget
select t.put(:id, '{"kind": "next", "step": "two", "keep": true, "journal": {"at": 1, "forget": true, "add": [{"k": "step", "name": "other"}]}}');
select is(t.entries(:id), '1:start 2:step=other', 'what stands behind is forgotten first');
select t.rejects(:id, '{"kind": "next", "step": "two", "journal": {"at": 3, "forget": true, "add": [{"k": "step"}]}}', 'GD501',
    'not behind what is there');
select is(t.entries(:id), '1:start 2:step=other', 'nothing was forgotten by what was rejected');
select t.put(:id, '{"kind": "replay", "journal": {"at": 0, "forget": true, "add": [{"k": "start"}]}}');
select is(t.entries(:id), '1:start', 'all of it');

-- every kind takes it
select t.run('a', '{"kind": "error", "error": "e", "delay_ms": 0, "journal": {"at": 1, "add": [{"k": "e"}]}}');
select t.run('a', '{"kind": "schedule_childs", "step": "(childs)", "childs": [], "journal": {"at": 2, "add": [{"k": "f"}]}}');
select gd_signal(:id, 's') is not null;
select t.run('a', '{"kind": "await", "signals": "s", "step": "(signal)", "journal": {"at": 3, "add": [{"k": "g"}]}}');
select t.run('a', '{"kind": "next", "step": "(sleep)", "delay_ms": 0, "journal": null}');
select t.run('a', '{"kind": "replay", "journal": {"at": 4, "add": [{"k": "h"}, {"k": "i"}], "forget": null}}');
select t.run('a', '{"kind": "stop", "reason": "r", "journal": {"at": 6, "add": [{"k": "end", "failed": null}]}}');
select is(t.entries(:id), '1:start 2:e 3:f 4:g 5:h 6:i 7:end', 'each kind of outcome');
select gd_insert('flow', p_queue => 'a') as id \gset
select t.run('a', '{"kind": "done", "result": 1, "journal": {"at": 0, "add": [{"k": "start"}, {"k": "end"}]}}');
select is(t.entries(:id), '1:start 2:end', 'also what ends at once');
select is((select i.result from gendurable.instance i where i.id = :id), '1', '(with its result)');

-- shapes
select gd_insert('flow', p_queue => 'b') as id \gset
select id from t.take('b') \gset
select t.rejects(:id, jsonb_build_object('kind', k.kind, 'step', 's', 'journal', j.journal) - case when k.kind = 'done' then 'step' else '-' end, 'GD501', j.journal::text)
from (values ('next'), ('done')) k (kind)
cross join (values ('[]'::jsonb), ('1'), ('{}'), ('{"at": 0}'), ('{"add": [{"k": "a"}]}'), ('{"at": null, "add": [{"k": "a"}]}'),
    ('{"at": 0, "add": []}'), ('{"at": 0, "add": {}}'), ('{"at": 0, "add": null}'), ('{"at": 0, "add": [1]}'), ('{"at": 0, "add": [null]}'),
    ('{"at": 0, "add": [[]]}'), ('{"at": 0, "add": [[{"k": "a"}]]}'), ('{"at": 0, "add": [{}]}'), ('{"at": 0, "add": [{"k": 1}]}'),
    ('{"at": 0, "add": [{"k": null}]}'), ('{"at": 0, "add": [{"k": ["a"]}]}'), ('{"at": 0, "add": [{"k": ""}]}'),
    ('{"at": 0, "add": [{"k": "a"}, {"k": ""}]}'), (jsonb_build_object('at', 0, 'add', jsonb_build_array(jsonb_build_object('k', repeat('x', 65))))),
    ('{"at": -1, "add": [{"k": "a"}]}'), ('{"at": 0.5, "add": [{"k": "a"}]}'), ('{"at": "0", "add": [{"k": "a"}]}'),
    ('{"at": 1e100, "add": [{"k": "a"}]}'), ('{"at": 20000, "add": [{"k": "a"}]}'), ('{"at": 0, "add": [{"k": "a"}], "forget": 1}'),
    ('{"at": 0, "add": [{"k": "a"}], "more": 1}'),
    (jsonb_build_object('at', 0, 'add', (select jsonb_agg('{"k": "a"}'::jsonb) from generate_series(1, 10001))))) j (journal);
select is(t.entries(:id), null, 'nothing was written');
select t.put(:id, jsonb_build_object('kind', 'next', 'step', 's', 'keep', true, 'journal', jsonb_build_object('at', 0, 'add',
    (select jsonb_agg(jsonb_build_object('k', repeat(E'\u00e9', 64), 'n', g)) from generate_series(1, 10000) g))));
select t.put(:id, jsonb_build_object('kind', 'next', 'step', 's', 'keep', true, 'journal', jsonb_build_object('at', 1e4, 'add',
    (select jsonb_agg(jsonb_build_object('k', 'a', 'n', g)) from generate_series(1, 10000) g))));
select is((select array[count(*), min(j.seq), max(j.seq)] from gendurable.journal j where j.instance_id = :id),
    array[20000, 1, 20000]::bigint[], 'as much as fits');

-- one that cannot be appended does not disturb its neighbours
select gd_insert('flow', p_queue => 'c') from generate_series(1, 20);
select set_config('t.outcomes', (select jsonb_agg(jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'next', 'step', 's',
    'journal', jsonb_build_object('at', case when c.o in (3, 17) then 1 else 0 end, 'add', '[{"k": "a"}]'::jsonb)) order by c.o)::text
    from t.take('c', 20) with ordinality c (id, claim_no, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, o)), false) is not null;
select is((select string_agg(c.ord || c.result || coalesce(c.detail ->> 'sqlstate', ''), ' ' order by c.ord)
    from gd_commit('w', current_setting('t.outcomes')::jsonb) c where c.result <> 'ok'),
    '2rejectedGD501 16rejectedGD501', 'two of twenty');
select is((select count(*) from gendurable.journal j join gendurable.instance i on i.id = j.instance_id where i.queue = 'c'), 18::bigint,
    'the others have theirs');

select finish();
