\ir helpers/tap.psql
select no_plan();

create function t.words(p_id bigint) returns text
language sql as $$
    select coalesce(string_agg(a.word, ' ' order by a.word), '') from gendurable.attribute a where a.instance_id = p_id
$$;
create function t.attributes(p_id bigint) returns jsonb
language sql as $$
    select i.attributes from gendurable.instance i where i.id = p_id
$$;
create function t.found(p_attributes jsonb) returns text
language sql as $$
    select coalesce(string_agg(l.step, ' ' order by l.id), '') from gd_list(jsonb_build_object('attributes', p_attributes)) l
$$;

-- at the insert

select gd_insert('m', p_queue => 'at', p_attributes => '{"tenant": "a", "sum": 2.50, "paid": false, "tags": ["x", "y", 3, null, ["z"]],
    "deep": {"x": 1}, "none": null}') as id \gset
select is(t.attributes(:id), '{"tenant": "a", "sum": 2.50, "paid": false, "tags": ["x", "y", 3, null, ["z"]], "deep": {"x": 1}}',
    'they are stored as they are, without what is null');
select is(t.words(:id), 'paid=false sum=2.5 tags=3 tags=x tags=y tenant=a', 'and lead to it by what stands at their top');
select is((select v.attributes ->> 'tenant' from gd_instances v where v.id = :id), 'a', 'in the view');
select is(gd_get(:id) #>> '{attributes,tenant}', 'a', 'in gd_get');
select gd_insert('m', p_queue => 'at') as plain \gset
select ok(t.attributes(:plain) is null and t.words(:plain) = '', 'without any there is nothing to write');
select is((select v.attributes from gd_instances v where v.id = :plain), '{}', 'and it is shown as an empty object');
select gd_insert('m', p_queue => 'none', p_attributes => '{"a": null}') as id2 \gset
select ok(t.attributes(:id2) is null and t.words(:id2) = '', 'nor where all are null');
select is((select count(*) from gd_insert_many('[{"fsm": "m", "queue": "many", "attributes": {"n": 1}}, {"fsm": "m", "queue": "many"},
    {"fsm": "m", "queue": "many", "attributes": null}, {"fsm": "m", "queue": "many", "attributes": {"n": 2}}]')), 4::bigint, 'many');
select is((select string_agg(t.words(i.id), ',' order by i.id) from gendurable.instance i where i.queue = 'many'), 'n=1,,,n=2', 'each has its own');
select is((select string_agg(l.queue, ' ') from gd_list('{"attributes": {"n": 2}}') l), 'many', 'and is found by it');

-- a claim hands them out, outcomes merge into them

select is((select c.attributes -> 'tenant' from t.take('at') c), '"a"', 'a claim hands them out');
select is((select c.attributes from t.take('at') c), '{}', 'and an empty object for one without');
select is(
    t.answer(:id, '{"kind": "next", "step": "two", "keep": true, "attributes": {"tenant": "b", "tags": null, "new": true}}') #> '{detail,attributes}',
    '{"tenant": "b", "sum": 2.50, "paid": false, "deep": {"x": 1}, "new": true}', 'the next claim has what the outcome has made of them');
select is(t.words(:id), 'new=true paid=false sum=2.5 tenant=b', 'the words follow');
select is(t.found('{"tenant": "a"}'), '', 'it is not found by what it had');
select is(t.found('{"tenant": "b"}'), 'two', 'and by what it has');
select t.put(:id, '{"kind": "next", "step": "three"}');
select is(t.words(:id), 'new=true paid=false sum=2.5 tenant=b', 'an outcome without leaves them');
select t.take('at');
select t.put(:id, '{"kind": "next", "step": "three", "attributes": {}}');
select is(t.words(:id), 'new=true paid=false sum=2.5 tenant=b', 'so does an empty object');
select t.take('at');
select t.put(:id, '{"kind": "next", "step": "three", "attributes": null}');
select is(t.words(:id), 'new=true paid=false sum=2.5 tenant=b', 'and null');
select t.take('at');
select t.put(:id, '{"kind": "next", "step": "three", "attributes": {"tenant": null, "sum": null, "paid": null, "deep": null, "new": null}}');
select ok(t.attributes(:id) is null and t.words(:id) = '', 'all may be taken away');
select t.put(:plain, '{"kind": "done", "attributes": {"end": 1}}');
select is(t.words(:plain), 'end=1', 'the last outcome may give some');

select is(t.words(o.id), 'k=' || o.kind, o.kind || ' takes them')
from (
    select o.kind, t.run('kinds:' || o.kind, o.outcome || jsonb_build_object('kind', o.kind, 'attributes', jsonb_build_object('k', o.kind))) as id
    from (
        select u.*, gd_insert('m', p_queue => 'kinds:' || u.kind) as inserted
        from (values
            ('next', '{"step": "s"}'::jsonb), ('replay', '{}'), ('await', '{"signals": "x"}'), ('done', '{}'), ('stop', '{"reason": "r"}'),
            ('schedule_childs', '{"step": "s", "childs": [{"fsm": "c", "queue": "kids", "attributes": {"kid": 1}}]}'),
            ('error', '{"error": "e"}')) u (kind, outcome)
        offset 0
    ) o
    offset 0
) o;
select is((select t.words(i.id) from gendurable.instance i where i.queue = 'kids'), 'kid=1', 'a child has its own, and none of its parent''s');
select is((select t.words(i.id) from gendurable.instance i where i.queue = 'kinds:error'), 'k=error', 'one that is tried again keeps what its error said');

-- an outbox, a commit of one, and a batch

select gd_insert('m', p_queue => 'out', p_attributes => '{"mine": 1}') as id \gset
select t.run('out', '{"kind": "done", "insert": [{"fsm": "m", "queue": "out2", "attributes": {"from": "outbox"}}]}');
select is((select t.words(i.id) from gendurable.instance i where i.queue = 'out2'), 'from=outbox', 'what an outcome inserts has its own');
select id, claim_no from t.take('out2') \gset
select gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', :claim_no, 'kind', 'done', 'attributes', '{"one": 1}'::jsonb));
select is(t.words(:id), 'from=outbox one=1', 'gd_commit_one merges, too');
select count(gd_insert('m', p_queue => 'batch', p_step => 'n' || g, p_attributes => jsonb_build_object('g', g))) from generate_series(1, 6) g;
select count(*) from gd_commit('w', (
    select jsonb_agg(jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'next', 'step', c.step)
        || case when c.step < 'n4' then jsonb_build_object('attributes', jsonb_build_object('g', null, 'h', c.step)) else '{}' end)
    from t.take('batch', 10) c));
select is((select string_agg(t.words(i.id), ' ' order by i.id) from gendurable.instance i where i.queue = 'batch'), 'h=n1 h=n2 h=n3 g=4 g=5 g=6',
    'in a batch each has what its own outcome says');

-- they go with the instance

select gd_cancel(i.id) from gendurable.instance i where i.queue = 'batch';
select gd_gc('0', 1000);
select is_empty($$select * from gendurable.attribute a where not exists (select from gendurable.instance i where i.id = a.instance_id)$$,
    'the collector takes them');
select gd_register('fleet', 1, 's', 'fleet', '{"retain": {"done": 0}}');
select gd_insert('fleet', p_attributes => '{"fleet": 1}');
select t.run('fleet', '{"kind": "done"}');
select gd_insert('fleet');
select t.run('fleet', '{"kind": "done", "attributes": {"fleet": 1}}');
select is_empty($$select * from gendurable.attribute a where a.word = 'fleet=1'$$, 'and who is not kept leaves none');

-- how they are found

truncate gendurable.instance, gendurable.attribute;
select count(gd_insert('f', p_step => x.step, p_queue => 'f', p_attributes => x.attributes)) from (values
    ('a', '{"s": "1", "tags": ["x", "y"]}'::jsonb), ('b', '{"s": 1, "tags": ["x"]}'), ('c', '{"s": 1.0, "o": {"p": {"q": 1}}}'),
    ('d', '{"s": true}'), ('e', '{"s": "true", "o": {"p": {"q": 2}}}'), ('f', '{"o": {}}'), ('g', null), ('h', '{"a=b": "c"}'),
    ('i', '{"a": "b=c"}'), ('j', '{"": ""}'), ('k', '{"s": [1]}')) x (step, attributes);
select is(t.found('{"s": "1"}'), 'a', 'a text is no number');
select is(t.found('{"s": 1}'), 'b c', '1 is 1.0');
select is(t.found('{"s": 1.000}'), 'b c', 'however it is written');
select is(t.found('{"s": true}'), 'd', 'nor a truth');
select is(t.found('{"s": "true"}'), 'e', '(the other)');
select is(t.found('{"tags": ["x"]}'), 'a b', 'an element of an array');
select is(t.found('{"tags": ["y", "x"]}'), 'a', 'several, in any order');
select is(t.found('{"tags": "x"}'), '', 'an array is no text');
select is(t.found('{"s": [1]}'), 'k', 'an array of one');
select is(t.found('{"o": {"p": {"q": 1}}}'), 'c', 'what is deep');
select is(t.found('{"o": {}}'), 'c e f', 'an empty object is in each object');
select is(t.found('{"a=b": "c"}'), 'h', 'words that are the same');
select is(t.found('{"a": "b=c"}'), 'i', 'are told apart');
select is(t.found('{"": ""}'), 'j', 'an empty key');
select is(t.found('{}'), 'a b c d e f g h i j k', 'no attributes: all have these');
select is(t.found('{"s": "1", "tags": ["x", "z"]}'), '', 'all must fit');
select is(t.found('{"nobody": 1}'), '', 'a key that nobody has');
select gd_insert('f', p_step => 'long', p_attributes => jsonb_build_object('l', repeat('x', 3000))) as long \gset
select gd_insert('f', p_step => 'longer', p_attributes => jsonb_build_object('l', repeat('x', 3001))) as longer \gset
select is(t.found(jsonb_build_object('l', repeat('x', 3001))), 'longer', 'long ones are told apart');
select is(length(t.words(:long)), 200, 'though their words are cut');

-- bounds

select gd_insert('m', p_queue => 'bad') as id \gset
select t.take('bad');
select t.raises(format('select gd_insert(''m'', p_attributes => %L)', x.bad), 'GD501', 'refused: ' || left(x.bad, 40))
from (
    values ('[]'), ('"x"'), ('1'), (jsonb_build_object('x', repeat('y', 4000))::text),
        ((select jsonb_object_agg('k' || g, 1)::text from generate_series(1, 101) g)),
        ((select jsonb_build_object('x', jsonb_agg(g))::text from generate_series(1, 101) g)),
        ((select jsonb_build_object('x', jsonb_agg(g), 'y', 1)::text from generate_series(1, 100) g)), ('{"x": 1e100000}')
) x (bad);
select t.raises($$select gd_insert_many('[{"fsm": "m"}, {"fsm": "m", "attributes": []}]')$$, 'GD501', 'one of many');
select t.rejects(:id, jsonb_build_object('kind', 'done', 'attributes', x.bad), 'GD501', 'rejected: ' || left(x.bad::text, 40))
from (values ('[]'::jsonb), ('1'), (jsonb_build_object('x', repeat('y', 4000)))) x (bad);
select t.rejects(:id, '{"kind": "schedule_childs", "step": "s", "childs": [{"fsm": "m", "attributes": 1}]}', 'GD501', 'of a child');
select gd_insert('m', p_queue => 'full', p_attributes => (select jsonb_object_agg('k' || g, 1) from generate_series(1, 100) g)) as id \gset
select is((select count(*) from gendurable.attribute a where a.instance_id = :id), 100::bigint, 'a hundred are taken');
select t.take('full');
select t.rejects(:id, '{"kind": "done", "attributes": {"more": 1}}', 'GD501', 'and none besides');
select t.put(:id, '{"kind": "done", "attributes": {"more": 1, "k1": null}}');
select is((select count(*) from gendurable.attribute a where a.instance_id = :id), 100::bigint, 'one in place of another');
select gd_insert('m', p_queue => 'pair', p_step => 'n' || g, p_attributes => jsonb_build_object('x', repeat('y', 2500))) from generate_series(1, 3) g;
select is(
    (select string_agg(c.result, ' ' order by c.ord) from gd_commit('w', (
        select jsonb_agg(jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'done',
            'attributes', jsonb_build_object('z', case when c.step = 'n2' then repeat('z', 2000) else 'z' end)) order by c.id)
        from t.take('pair', 3) c)) c),
    'ok rejected ok', 'what is too much costs nobody else');
select t.raises(format('select gd_match(%L)', x.bad), 'GD501', 'refused: ' || x.bad)
from (values ('{"attributes": []}'), ('{"attributes": "x"}'), ('{"attributes": null}'), ('{"attributes": {"x": null}}')) x (bad);

select * from finish();
