\ir helpers/tap.psql
select no_plan();

-- What is wrong with a document is said, and nothing of it is there. Each row changes one thing of a document that is in order.

select gd_set_rate_limit('lim', 100, '1 s', 100);
select gd_insert('root', p_queue => 'q') as root \gset
select t.run('q', '{"kind": "schedule_childs", "step": "after",
    "childs": [{"fsm": "a", "queue": "q2", "unique_key": "ua"}, {"fsm": "b", "queue": "q2", "unique_key": "ub", "rate_limit": "lim"}]}');
select t.run('q2', '{"kind": "error", "error": "no", "delay_ms": 0}');
select gd_signal((select c.id from gd_childs(:root) c limit 1), 's', '1', 'd');
create temp table document as select jsonb_set(gd_export(:root), '{instances,1,history}',
    '[{"no": 3, "at": "2026-01-01T00:00:00Z", "seconds": 0.5, "attempt": 0, "kind": "next", "step": "s", "next_step": "t",
        "worker": "w", "state": {}, "detail": null}]') as d;
-- the originals let go of their keys
select gd_cancel(:root, p_cascade => true);

create temp table wrong (path text[], value jsonb, name text);
insert into wrong values
    ('{format}', '3', 'a newer format'), ('{format}', '0', 'no format'), ('{format}', '1e400', 'a format out of the world'),
    ('{format}', '"1"', 'a text as the format'), ('{more}', '1', 'an unknown key'), ('{instances}', '{}', 'instances are no array'),
    ('{instances}', '[]', 'none'), ('{instances}', 'null', 'null'), ('{instances,0}', '7', 'an instance is none'),
    ('{instances,0}', 'null', 'or null'), ('{instances,1}', '[]', 'or an array'),
    ('{instances,0,more}', '1', 'an unknown key in one'),
    ('{instances,0,journal}', '{}', 'a journal that is none'), ('{instances,0,journal}', '[1]', 'an entry that is none'),
    ('{instances,0,journal}', '[{"k": "a"}, {}]', 'one without a kind'),
    ('{instances,1,journal}', (select jsonb_agg('{"k": "a"}'::jsonb) from generate_series(1, 20001)), 'too many entries'),
    ('{instances,0,id}', 'null', 'no id'), ('{instances,0,id}', '-1', 'an id below'), ('{instances,0,id}', '1.5', 'a broken id'),
    ('{instances,0,id}', '1e30', 'an id above'), ('{instances,0,id}', '"1"', 'an id as a text'),
    ('{instances,1,parent_id}', '12345678', 'a parent who is not there'), ('{instances,1,parent_id}', 'null', 'no parent'),
    ('{instances,0,parent_id}', '1', 'the first one has a parent'), ('{instances,1,parent_id}', '1e400', 'a parent out of the world'),
    ('{instances,1,awaited}', '"yes"', 'awaited is no truth'),
    ('{instances,0,status}', '"lost"', 'no such status'), ('{instances,0,status}', '7', 'a number as status'),
    ('{instances,0,status}', 'null', 'no status'), ('{instances,0,status}', '"done"', 'done without an end'),
    ('{instances,0,status}', '"runnable"', 'awaited children of one that awaits none, which has no time'),
    ('{instances,0,status}', '"executing"', 'awaited children of one that executes'),
    ('{instances,0,status}', '"awaiting_signal"', 'it awaits no signal'),
    ('{instances,1,finished_at}', '"2026-01-01T00:00:00Z"', 'an end of what has not ended'),
    ('{instances,1,fsm}', 'null', 'no machine'), ('{instances,1,fsm}', '""', 'a machine without a name'),
    ('{instances,1,step}', 'null', 'no step'), ('{instances,1,step}', to_jsonb(repeat('x', 2001)), 'a long step'),
    ('{instances,1,queue}', 'null', 'no queue'), ('{instances,1,queue}', '[]', 'a queue that is none'),
    ('{instances,1,partition_key}', '""', 'an empty key'), ('{instances,1,unique_key}', '5', 'a number as a key'),
    ('{instances,1,unique_key}', 'null', 'it holds a key and has none'), ('{instances,1,unique_key}', '"ub"', 'two hold one key'),
    ('{instances,1,unique_held}', '1', 'held is no truth'), ('{instances,1,unique_scope}', '["lost"]', 'a scope of no status'),
    ('{instances,1,unique_scope}', '{}', 'a scope that is none'), ('{instances,1,unique_scope}', '["done"]', 'held outside of the scope'),
    ('{instances,1,unique_scope}', '[null]', 'a scope of null'),
    ('{instances,1,unique_scope}', '["runnable", "done", "failed", "runnable", "runnable", "runnable", "runnable", "runnable"]', 'a scope of many'),
    ('{instances,0,unique_scope}', '["runnable"]', 'a scope of no key'),
    ('{instances,1,version}', '0', 'no version'), ('{instances,1,version}', 'null', 'none'), ('{instances,1,version}', '2147483648', 'a version above'),
    ('{instances,1,priority}', '1e10', 'a priority above'), ('{instances,1,priority}', '0.5', 'half a priority'),
    ('{instances,1,attempt}', '-1', 'attempts below'), ('{instances,1,attempt}', '2147483647', 'attempts that cannot be counted on'),
    ('{instances,1,crashes}', '2147483647', 'crashes that cannot'), ('{instances,1,max_attempts}', '0', 'no attempts'),
    ('{instances,2,weight}', '-1', 'a weight below'), ('{instances,2,weight}', '1e400', 'a weight out of the world'),
    ('{instances,2,weight}', '101', 'a weight above the burst'), ('{instances,2,weight}', '"1"', 'a text as a weight'),
    ('{instances,1,state}', '[]', 'a state that is none'), ('{instances,1,meta}', '5', 'meta that is none'),
    ('{instances,1,attributes}', '"x"', 'attributes that are none'), ('{instances,1,last_error}', '{}', 'an error that is none'),
    ('{instances,1,worker}', '5', 'a worker that is none'),
    ('{instances,1,inserted_at}', 'null', 'no time'), ('{instances,1,inserted_at}', '"infinity"', 'no finite time'),
    ('{instances,1,inserted_at}', '"2026-13-01T00:00:00Z"', 'a month above'), ('{instances,1,eligible_at}', 'null', 'not due'),
    ('{instances,1,inserted_at}', '"999999-01-01T00:00:00Z"', 'a year out of the world'),
    ('{instances,1,eligible_at}', '"now"', 'due now'), ('{instances,1,lane_at}', '5', 'a number as a time'),
    ('{instances,1,deadline_at}', '"tomorrow"', 'a deadline tomorrow'), ('{instances,1,expires_at}', '"2026-01-01"', 'a day'),
    ('{instances,1,keep_until}', '"infinity"', 'kept for ever'), ('{instances,1,paused_at}', '[]', 'paused at no time'),
    ('{instances,1,awaits}', '[]', 'it awaits none'), ('{instances,1,awaits}', '"s"', 'awaits is no array'),
    ('{instances,1,awaits}', '[""]', 'it awaits nothing'),
    ('{instances,1,awaits}', '[null]', 'it awaits null'),
    ('{instances,1,awaits}', (select jsonb_agg(g::text) from generate_series(1, 1001) g), 'it awaits too many'),
    ('{instances,1,signals}', 'null', 'no inbox'), ('{instances,1,signals}', '{}', 'an inbox that is none'),
    ('{instances,1,signals}', '[7]', 'a signal that is none'),
    ('{instances,1,signals,0,name}', 'null', 'without a name'), ('{instances,1,signals,0,inserted_at}', 'null', 'without a time'),
    ('{instances,1,signals,0,shown}', '7', 'shown is no truth'), ('{instances,1,signals,0,more}', '7', 'an unknown key in a signal'),
    ('{instances,1,signals}', '[{"name": "s", "inserted_at": "2026-01-01T00:00:00Z"}]', 'without a payload'),
    ('{instances,1,seen}', '[""]', 'an empty dedup key'), ('{instances,1,seen}', '[null]', 'none'), ('{instances,1,seen}', '7', 'none at all'),
    ('{instances,1,errors}', '[7]', 'an error is none'), ('{instances,1,errors,0,more}', '1', 'an unknown key in an error'),
    ('{instances,1,errors,0,at}', 'null', 'an error at no time'), ('{instances,1,errors,0,attempt}', 'null', 'an error of no attempt'),
    ('{instances,1,errors,0,attempt}', '-1', 'of one below'), ('{instances,1,errors,0,kind}', 'null', 'of no kind'),
    ('{instances,1,errors,0,step}', 'null', 'of no step'), ('{instances,1,errors,0,worker}', '5', 'of a number'),
    ('{instances,1,errors,0,error}', '5', 'which is a number'), ('{instances,1,errors,0,traceback}', '[]', 'with a traceback that is none'),
    ('{instances,1,errors}', (select jsonb_agg(d #> '{instances,1,errors,0}') from document, generate_series(1, 21)), 'too many of them'),
    ('{instances,1,history}', 'null', 'no history'), ('{instances,1,history,0}', '[]', 'an entry that is none'),
    ('{instances,1,history,0,more}', '1', 'an unknown key in an entry'), ('{instances,1,history,0,no}', 'null', 'an entry without a number'),
    ('{instances,1,history,0,no}', '9223372036854775807', 'a number that cannot be counted on'),
    ('{instances,1,history,0,at}', 'null', 'an entry without a time'),
    ('{instances,1,history,0,seconds}', '"1"', 'seconds that are none'), ('{instances,1,history,0,seconds}', '1e400', 'seconds out of the world'),
    ('{instances,1,history,0,attempt}', 'null', 'an entry of no attempt'), ('{instances,1,history,0,kind}', '""', 'an entry of no kind'),
    ('{instances,1,history,0,step}', 'null', 'an entry of no step'), ('{instances,1,history,0,next_step}', '""', 'to no step'),
    ('{instances,1,history,0,worker}', '[]', 'of no worker'), ('{instances,1,history,0,state}', '[]', 'with no state'),
    ('{instances,1,history,0,detail}', '7', 'with no detail');
select is((select count(*) from wrong w, document x where jsonb_set(x.d, w.path, w.value) = x.d), 0::bigint, 'each says something else');
select t.raises(format('select gd_import(%L)', jsonb_set(x.d, w.path, w.value)), 'GD501', w.name)
from wrong w, document x;
select t.raises('select gd_import(null)', 'GD501', 'no document');
select t.raises(format('select gd_import(%L)', d), 'GD501', 'no document: ' || d)
from unnest(array['null', '{}', '[]', '7', '"x"', '{"format": 1}']) d;
select t.raises(format('select gd_import(%L)', x.d #- p.p::text[]), 'GD501', 'without ' || array_to_string(p.p::text[], ' '))
from document x
cross join unnest(array['{format}', '{instances}', '{instances,0,id}', '{instances,1,parent_id}', '{instances,1,fsm}', '{instances,1,step}',
    '{instances,1,queue}', '{instances,1,status}', '{instances,1,version}', '{instances,1,inserted_at}', '{instances,1,signals}',
    '{instances,1,seen}', '{instances,1,errors}', '{instances,1,history}']::text[]) p (p);
select t.raises(format('select gd_import(%L)', jsonb_set(d, '{instances,2,id}', d #> '{instances,1,id}')), 'GD501', 'an id twice') from document;
select t.raises(format('select gd_import(%L)', jsonb_set(d, '{instances,1,parent_id}', d #> '{instances,1,id}')), 'GD501', 'its own parent') from document;
select t.raises(format('select gd_import(%L)', jsonb_set(d, '{instances,1,parent_id}', d #> '{instances,2,id}')), 'GD501', 'a parent behind it') from document;
select t.raises(format('select gd_import(%L)', jsonb_set(d, '{instances}',
    d -> 'instances' || jsonb_build_array((d #> '{instances,0}') || jsonb_build_object('id', 10001)))), 'GD501', 'two roots') from document;
select t.raises(format('select gd_import(%L)', jsonb_set(d, '{instances,1,history}',
    jsonb_build_array(d #> '{instances,1,history,0}', d #> '{instances,1,history,0}'))), 'GD501', 'an entry twice') from document;
select t.raises(format('select gd_import(%L)', jsonb_set(d, '{instances,2,rate_limit}', '"nosuch"')), 'GD502', 'no such rate limit') from document;
select t.raises(format('select gd_import(%L)', jsonb_set(d, '{instances}', (
        select jsonb_agg(case g when 0 then d #> '{instances,0}'
            else (d #> '{instances,1}') || jsonb_build_object('id', 100000 + g, 'unique_key', null, 'unique_held', false) end)
        from generate_series(0, 10000) g))), 'GD501', 'more than 10,000') from document;
select t.raises(format('select gd_import(%L)', jsonb_set(d, '{instances,1,state}', jsonb_build_object('s', repeat('x', 64000000)))), 'GD501', 'more than 64 MB')
from document;
select is((select count(*) from gendurable.instance), 3::bigint, 'nothing was imported');
select is((select count(*) from gendurable.signal),
    (select count(*) from gendurable.signal s join gendurable.instance i on i.id = s.instance_id), 'nor an inbox');
select is((select count(*) from gendurable.error), (select count(*) from gendurable.error s join gendurable.instance i on i.id = s.instance_id), 'nor errors');

-- the document itself is in order, and so is this
select gd_import(d) as copy from document \gset
select is((select string_agg(t.fsm || ' ' || t.status, ', ') from gd_tree(:copy) t), 'root awaiting_children, a runnable, b runnable', 'it is imported');
select is((select x.unique_key from gd_instances x where x.id = gd_find('ua')), 'ua', 'with its keys');
select gd_import(d) is null as nothing from document \gset
select ok(:'nothing', 'once');
select gd_cancel(:copy, p_cascade => true);

-- numbers as others write them; years before the first and far ahead; what may be left out is
select gd_import('{"format": 1.0, "instances": [{"id": 7.0, "fsm": "m", "version": 2e0, "step": "s", "status": "runnable", "queue": "q",
    "inserted_at": "0044-03-15T12:00:00+00:00 BC", "eligible_at": "20000-01-01T00:00:00+01:30", "signals": [], "seen": ["a", "a"], "errors": [],
    "history": []}]}') as copy \gset
select is((select i.inserted_at from gendurable.instance i where i.id = :copy), '0044-03-15 12:00:00Z BC', 'the Ides of March');
select is((select i.eligible_at from gendurable.instance i where i.id = :copy), '20000-01-01T00:00:00+01:30', 'and far ahead');
select is(gd_export(:copy) #>> '{instances,0,inserted_at}', '0044-03-15T12:00:00+00:00 BC', '(as it is exported)');
select is(gd_get(:copy) ->> 'state', '{}', 'no state');
select is(gd_signal(:copy, 's', 'null', 'a'), 'duplicate', 'a dedup key');

-- counts as high as they may be are still counted on
select gd_import(jsonb_set(jsonb_set(jsonb_set(jsonb_set((d #- '{instances,2}') #- '{instances,0}', '{instances,0,parent_id}', 'null'),
    '{instances,0,awaited}', 'false'), '{instances,0,attempt}', '1000000000'), '{instances,0,history,0,no}', '1000000000000000')) as copy from document \gset
select gd_register('a', 1, 's', 'q', '{"history": "steps", "max_attempts": 2147483647}');
select x.id from t.take('q2', 9) x;
select is(t.commit(:copy, '{"kind": "error", "error": "again"}'), 'ok', 'it goes on');
select is((select array_agg(h.no) from gd_history(:copy) h), '{1000000000000000,1000000000000001}', 'and so does its history');
select gd_import(jsonb_set(jsonb_set(jsonb_set((d #- '{instances,2}') #- '{instances,0}', '{instances,0,parent_id}', 'null'), '{instances,0,awaited}', 'false'),
    '{instances,0,crashes}', '1000000000') #- '{instances,0,unique_key}' #- '{instances,0,unique_held}') as copy from document \gset
select t.take('q2', 9);
select is(t.status(:copy), 'executing', 'crashes are counted where a worker is lost');
select t.expire(:copy);
select t.take('q2', 9);
select is(t.status(:copy), 'failed', '(there are too many)');

select * from finish();
