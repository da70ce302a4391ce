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
    'attempt,attributes,claim_no,id,signals,step', 'the answer is what is new of the claim');
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
select t.rejects(
    :id, jsonb_build_object('kind', k.kind, 'step', 's', 'journal', j.journal) - case when k.kind = 'done' then 'step' else '-' end,
    'GD501', j.journal::text)
from (values ('next'), ('done')) k (kind)
cross join (values ('[]'::jsonb), ('1'), ('{}'), ('{"at": 0}'), ('{"add": [{"k": "a"}]}'), ('{"at": null, "add": [{"k": "a"}]}'),
    ('{"at": 0, "add": []}'), ('{"at": 0, "add": {}}'), ('{"at": 0, "add": null}'), ('{"at": 0, "add": [1]}'), ('{"at": 0, "add": [null]}'),
    ('{"at": 0, "add": [[]]}'), ('{"at": 0, "add": [[{"k": "a"}]]}'), ('{"at": 0, "add": [{}]}'), ('{"at": 0, "add": [{"k": 1}]}'),
    ('{"at": 0, "add": [{"k": null}]}'), ('{"at": 0, "add": [{"k": ["a"]}]}'), ('{"at": 0, "add": [{"k": ""}]}'),
    ('{"at": 0, "add": [{"k": "a"}, {"k": ""}]}'), (jsonb_build_object('at', 0, 'add', jsonb_build_array(jsonb_build_object('k', repeat('x', 65))))),
    ('{"at": -1, "add": [{"k": "a"}]}'), ('{"at": 0.5, "add": [{"k": "a"}]}'), ('{"at": "0", "add": [{"k": "a"}]}'),
    ('{"at": 1e100, "add": [{"k": "a"}]}'), ('{"at": 20000, "add": [{"k": "a"}]}'), ('{"at": 0, "add": [{"k": "a"}], "forget": 1}'),
    ('{"at": 0, "add": [{"k": "a"}], "runs": 1}'),
    ('{"at": 0, "add": [{"k": "a"}], "more": 1}'),
    (jsonb_build_object('at', 0, 'add', to_jsonb(array_fill('{"k": "a"}'::jsonb, array[10001]))))) j (journal);
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

-- What stays with the key, and what ends a claim

select gd_insert('flow', p_queue => 'k', p_partition_key => 'one') as id, gd_insert('flow', p_queue => 'k', p_partition_key => 'one') as next \gset
select count(*) from t.take('k', 2) \gset
select is(t.answer(:id, '{"kind": "next", "step": "s", "keep": true}') -> 'detail', 'null', 'a machine gives way to who waits in its key');
select id from t.take('k') \gset
select isnt(t.answer(:id, '{"kind": "next", "step": "s", "keep": true, "journal": {"at": 0, "add": [{"k": "start"}]}}') -> 'detail', 'null',
    'a flow holds it');
select is((select array_agg(i.status::text order by i.id) from gendurable.instance i where i.queue = 'k' and i.id <> :id), '{runnable}', 'the other waits');
select gd_pause_queue('k');
select is(t.answer(:id, '{"kind": "next", "step": "s", "keep": true, "journal": {"at": 1, "add": [{"k": "a"}]}}') -> 'detail', 'null',
    'not while its queue is paused');
select gd_resume_queue('k');
select is(t.entries(:id), '1:start 2:a', 'what it has done is kept all the same');
select gd_insert('flow', p_queue => 'kids') as id \gset
select t.run('kids', '{"kind": "schedule_childs", "step": "(childs)", "childs": [{"fsm": "c", "queue": "kid"}],
    "journal": {"at": 0, "add": [{"k": "start"}]}}');
select t.run('kid', '{"kind": "done"}');
select id from t.take('kids') \gset
select ok(t.answer(:id, '{"kind": "next", "step": "s", "keep": true, "journal": {"at": 1, "add": [{"k": "childs", "name": "childs"}]}}')
    -> 'detail' ? 'claim_no', 'it has its children, and goes on');
select gd_signal(:id, 'hello', '7') is not null;
select is(t.answer(:id, '{"kind": "next", "step": "s", "keep": true, "journal": {"at": 2, "add": [{"k": "a"}]}}')
    #>> '{detail,signals,0,payload}', '7', 'signals that have come are shown');
select is(t.answer(:id, '{"kind": "next", "step": "s", "keep": true, "delay_ms": 0, "partition_key": "other", "journal": {"at": 3, "add": [{"k": "a"}]}}')
    -> 'detail', 'null', 'a claim that cannot go on ends as ever');

-- whose steps run goes on, and is told that nothing else may
create function t.running(p_id bigint, p_more jsonb = '{}') returns text
language sql as $$
    select coalesce(d.detail ->> 'halted', case when d.detail <> 'null' then 'kept' else 'given back' end)
        || ' ' || coalesce(jsonb_array_length(d.detail -> 'signals'), 0) || ' ' || coalesce((d.detail ? 'state')::text, '-')
    from (select t.answer(p_id, jsonb_build_object('kind', 'next', 'step', 's', 'keep', true, 'journal', jsonb_build_object('runs', true,
        'at', (select count(*) from gendurable.journal j where j.instance_id = p_id), 'add', '[{"k": "a"}]'::jsonb)) || p_more) -> 'detail') d (detail)
$$;
select gd_insert('flow', p_queue => 'r', p_partition_key => 'r') as id, gd_insert('flow', p_queue => 'r', p_partition_key => 'r') as next \gset
select id from t.take('r') \gset
select gd_signal(:id, 'hello', '7') is not null;
select is(t.running(:id), 'kept 1 false', 'nothing halts it');
select gd_pause_queue('r');
select is(t.running(:id), 'true 0 false', 'while its queue is paused: kept, halted, and without an inbox');
select is(t.running(:id), 'true 0 false', 'each time');
select is((select array[i.status::text, i.queue_slot::text] from gendurable.instance i where i.id = :id), '{executing,null}', 'it executes');
select gd_resume_queue('r');
select is(t.running(:id), 'kept 1 false', 'and goes on afterwards');
select gd_pause(:id);
select is(t.running(:id), 'true 0 false', 'while it is paused itself');
select gd_resume(:id);
select gd_pause_machine('flow');
select is(t.running(:id), 'true 0 false', 'while its machine is paused');
select gd_resume_machine('flow');
select gd_hold_all('a look');
select is(t.running(:id), 'true 0 false', 'while everything is held');
select gd_release_hold();
select gd_signal(:id, 'large', to_jsonb(repeat('x', 20000))) is not null;
select is(t.running(:id), 'true 0 false', 'with a large inbox: a claim hands it out');
select is(t.running(:id, '{"delay_ms": 1000}'), 'given back 0 false', 'what changes its place gives it back as ever');
select id, claim_no from t.take('r') \gset
select gd_pause_queue('r');
select is(gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', :claim_no, 'kind', 'next', 'step', 's', 'keep', true,
    'journal', '{"at": 0, "add": [{"k": "start"}], "runs": true}'::jsonb)) -> 'halted', 'true', 'alone, too');
select gd_resume_queue('r');

-- gd_commit_one
select gd_insert('flow', '{"n": 1}', p_queue => 'one') as id \gset
select id, claim_no from t.take('one') \gset
select is(gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', :claim_no, 'kind', 'next', 'step', 's',
    'journal', '{"at": 0, "add": [{"k": "start"}]}'::jsonb)), null, 'alone');
select id, claim_no from t.take('one') \gset
select is((select string_agg(k.key, ',' order by k.key) from jsonb_object_keys(gd_commit_one('w', jsonb_build_object(
    'id', :id, 'claim_no', :claim_no, 'kind', 'next', 'step', 's', 'keep', true, 'journal', '{"at": 1, "add": [{"k": "a"}]}'::jsonb))) k (key)),
    'attempt,attributes,awaits,childs,claim_no,fsm,fsm_version,id,meta,parent_id,partition_key,queue,signals,state,step,timed_out,unique_key',
    'alone, and kept');
select claim_no from gendurable.instance where id = :id \gset
select t.raises(format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "done", "journal": {"at": 1, "add": [{"k": "a"}]}}')$$,
    :id, :claim_no), 'GD501', 'an overlap');
select t.raises(format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "done", "journal": {"at": 2, "add": []}}')$$,
    :id, :claim_no), 'GD501', 'nothing to add');
select is(gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', :claim_no, 'kind', 'done', 'journal', '{"at": 2, "add": [{"k": "end"}]}'::jsonb)),
    null, 'done');
select is(t.entries(:id), '1:start 2:a 3:end', 'it is all there');

-- a claim that is lost writes nothing
select gd_insert('flow', p_queue => 'lost') as id \gset
select id, claim_no from t.take('lost') \gset
select gd_release('w', jsonb_build_array(jsonb_build_array(:id, :claim_no)));
select is((select c.result from gd_commit('w', jsonb_build_array(jsonb_build_object('id', :id, 'claim_no', :claim_no, 'kind', 'done',
    'journal', '{"at": 0, "add": [{"k": "start"}]}'::jsonb))) c), 'stale', 'the claim is lost');
select is(t.entries(:id), null, 'and its entries');

-- what is not kept at all leaves nothing behind
select gd_register('brief', 1, 'start', 'brief', '{"retain": {"done": 0}}');
select gd_insert('brief') as id \gset
select t.run('brief', '{"kind": "done", "journal": {"at": 0, "add": [{"k": "start"}, {"k": "end"}]}}');
select is_empty(format('select from gendurable.journal where instance_id = %s', :id), 'of an instance that is gone');

-- Reading

create function t.flow(p_queue text, p_entries jsonb) returns bigint
language plpgsql as $$
declare
    v_id bigint := gd_insert('flow', '{"args": 1}', p_queue => p_queue);
begin
    perform t.run(p_queue, jsonb_build_object('kind', 'await', 'signals', 'never', 'journal', jsonb_build_object('at', 0, 'add', p_entries)));
    return v_id;
end $$;
select t.flow('r', jsonb_agg(jsonb_build_object('k', 'step', 'name', 's' || g, 'n', g, 'v', g::text) order by g)) as id
from generate_series(1, 30) g \gset
select is((select array_agg(r.seq) from gd_journal(:id, 10, 3) r), '{11,12,13}', 'a page');
select is((select array_agg(r.seq) from gd_journal(:id, -2) r), '{29,30}', 'the last ones');
select is((select array_agg(r.seq) from gd_journal(:id, -2, 1) r), '{29}', 'of these the first');
select is((select count(*) from gd_journal(:id, -100)), 30::bigint, 'more than there are');
select is((select count(*) from gd_journal(:id, null, null, null)), 30::bigint, 'null: the defaults');
select is_empty(format('select from gd_journal(%s, 30)', :id), 'nothing behind the last');
select is_empty(format('select from gd_journal(%s, 0, 0)', :id), 'no rows');
select is_empty(format('select from gd_journal(%s, 2147483647)', :id), 'far behind');
select is((select count(*) from gd_journal(:id, -2147483648)), 30::bigint, 'far before');
select is_empty('select from gd_journal(0)', 'no such instance');
select is_empty('select from gd_journal(null)', 'nor this one');
select t.raises(format('select from gd_journal(%s, 0, -1)', :id), 'GD501', 'fewer than none');
select is((select array_agg(r.value) from gd_journal(:id, 28) r), array['29', '30']::jsonb[], 'with values');
select is((select array_agg(r.value) from gd_journal(:id, 28, p_values => false) r), array[null, null]::jsonb[], 'without');

select t.flow('r', '[{"k": "x"}, {"k": "x", "name": 7, "n": "one", "at": "noon", "v": "{", "e": 1, "error": {"a": 1}},
    {"k": "x", "n": 1e10, "at": 1e300, "v": "\"\\u0000\"", "e": {"message": null}, "error": "two"},
    {"k": "x", "n": 1.5, "at": "2026-01-01T00:00:00Z", "v": 7, "e": {"message": "one"}, "error": "two"},
    {"k": "x", "n": -1, "at": [], "v": null}, {"k": "x", "at": "2026-01-01T00:00:00.25+01:00", "v": "1e100000000"}]') as id \gset
select results_eq(format('select seq, name, n, extract(epoch from at), value, error from gd_journal(%s)', :id),
    $$values (1, null::text, null::int, null::numeric, null::jsonb, null::text), (2, '7', null, null, null, '{"a": 1}'),
        (3, null, null, null, null, 'two'), (4, null, 2, 1767225600.000000, '7', 'one'), (5, null, null, null, null, null),
        (6, null, null, 1767222000.250000, null, null)$$,
    'what cannot be read is null');

-- large ones: by the stored size, or as text where that says nothing
select t.flow('r', (select jsonb_agg(jsonb_build_object('k', 'step', 'v', repeat('a', 100000)) order by g) from generate_series(1, 10) g)) as large \gset
select is((select array_agg(j.id || ' ' || coalesce(jsonb_array_length(j.entries)::text, '-')) from gd_journals(array[:id, :large, 0, :id], 1000000) j),
    array[:id || ' 6', :large || ' -', :id || ' 6'], 'in the order given; null: too long; no row: no such instance');
select gd_insert('flow', p_queue => 'none') as none \gset
select is((select j.entries from gd_journals(array[:none]) j), '[]', 'nothing yet');
select results_eq(format('select entries::text, next from gd_journal_entries(%s)', :none), $$values ('[]', null::int)$$, 'by page, too');
select is((select jsonb_array_length(j.entries) from gd_journals(array[:large], 2000000) j), 10, 'it is not too long for more bytes');
select is((select array_agg(coalesce(jsonb_array_length(j.entries), -1)) from gd_journals(array_fill(:large::bigint, array[20]), 2000000) j),
    array_fill(10, array[15]) || array_fill(-1, array[5]), 'an answer has 16 MB at most');
select is((select array_agg(j.entries is null) from gd_journals(array[:id], 10) j), '{t}', 'by the stored size');
select is_empty('select from gd_journals(null)', 'null');
select is_empty('select from gd_journals(array[]::bigint[])', 'nobody');
select t.raises('select from gd_journals(array[1], -1)', 'GD501', 'fewer bytes than none');
select results_eq(
    format('select jsonb_array_length(entries), next from gd_journal_entries(%s, %s, 350000)', :large, a.after),
    format('values (%s, %s)', a.got, a.next), a.after::text)
from (values (0, 3, '3'), (3, 3, '6'), (9, 1, 'null::int'), (10, 0, 'null::int'), (-5, 3, '3')) a (after, got, next);
select results_eq(format('select jsonb_array_length(entries), next from gd_journal_entries(%s, 0, 0)', :large), 'values (1, 1)', 'one at least');
select results_eq(format('select jsonb_array_length(entries), next from gd_journal_entries(%s)', :id), 'values (6, null::int)', 'a small one');
select is_empty('select from gd_journal_entries(0)', 'no such instance');
select t.raises('select from gd_journal_entries(1, 0, -1)', 'GD501', 'fewer bytes than none');
select is((select count(*) from gd_journal(:large)), 10::bigint, 'for people all that fits into 16 MB');
select t.flow('r', (select jsonb_agg(jsonb_build_object('k', 'step', 'v', repeat('a', 6000000)) order by g) from generate_series(1, 4) g)) as huge \gset
select is((select array_agg(r.seq) from gd_journal(:huge) r), '{1,2}', 'a page ends there');
select is((select array_agg(r.seq) from gd_journal(:huge, 2) r), '{3,4}', '(and goes on)');

-- from its end, for pages
select results_eq(
    format('select seq, kind, name, n, extract(epoch from at), value, error from gd_journal_page(%s)', :id),
    $$values (6, 'x', null::text, null::int, 1767222000.250000, '1e100000000', null::text), (5, 'x', null, null, null, null, null),
        (4, 'x', null, 2, 1767225600.000000, '7', 'one'), (3, 'x', null, null, null, '"\u0000"', 'two'),
        (2, 'x', '7', null, null, '{', '{"a": 1}'), (1, 'x', null, null, null, null, null)$$, 'the newest first, values as their text');
select is((select array_agg(p.seq) from gd_journal_page(:id, 5, 3) p), '{4,3,2}', 'from before an entry on');
select is((select array_agg(p.value) from gd_journal_page(:id, p_chars => 3) p), '{1e1,NULL,7,"\"\\u",\{,NULL}', 'so much of each');
select is((select array_agg(p.size) from gd_journal_page(:id) p),
    (select array_agg(pg_column_size(j.entry)::bigint order by j.seq desc) from gendurable.journal j where j.instance_id = :id), 'how large they are');
select is_empty(format('select from gd_journal_page(%s, %s)', j.id, j.before), j.before || ': none')
from (values (:id, 1), (:id, -7), (:none, 9), (0, 9)) j (id, before);
alter table gendurable.journal alter entry set storage external;
select t.flow('r', (
    select jsonb_agg(jsonb_build_object('k', 'step', 'name', g, 'v', repeat('a', case when g in (3, 30) then 2000000 else 500000 end)) order by g)
    from generate_series(1, 30) g)) as huge \gset
select is((select string_agg(p.seq || coalesce(p.name, '-'), ' ') from gd_journal_page(:huge) p),
    '3030 2929 2828 2727 2626 2525 2424 2323 2222 2121 2020 1919 18- 17- 16- 15- 14- 13- 12- 11- 10- 9- 8- 7- 6- 5- 4- 3- 2- 1-',
    'the first one always, and 8 MB in all');
select is((select string_agg(p.seq || coalesce(p.name, '-'), ' ') from gd_journal_page(:huge, 5, 4) p), '44 3- 22 11', 'none that is large in itself');
select is((select p.name || length(p.value) from gd_journal_page(:huge, 4, 1) p), '31000', 'but alone');
select ok(bool_and(p.size > 500000), 'how large it is stands there in any case') from gd_journal_page(:huge) p;
alter table gendurable.journal alter entry set storage extended;
select t.raises(format('select * from gd_journal_page(1, null, %s, %s)', a.rows, a.chars), 'GD501', format('%s entries, %s characters', a.rows, a.chars))
from (values (-1, 1), (1001, 1), (1, -1), (1, 1000001)) a (rows, chars);

select finish();
