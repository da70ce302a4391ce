-- What known workers have, beside what is registered; and what moves where pauses, attributes and versions meet.
\ir helpers/tap.psql
select no_plan();

create function t.unknown(p_id bigint) returns text
language sql as $$
    select w.message from gd_why(p_id) w where w.cause = 'machine unknown'
$$;

select gd_insert('m', p_version => 2, p_step => 'b', p_queue => 'q') as id \gset
select is(t.unknown(:id), null, 'where no worker is known, nobody lacks anything');
select gd_hello('w1', '{"queues": {"q": 1}, "machines": [["m", 1, ["a", "b"]], ["n", 2, ["b"]]]}');
select is(t.unknown(:id),
    'It is at the step "b" of version 2 of the machine "m", which no worker has that serves its queue "q"; of the machine they have 1.',
    'the only worker of the queue has another version');
select is((select w.detail ->> 'unknown' from gd_why(:id) w where w.cause = 'machine unknown'), 'workers', '(its detail)');
select gd_hello('w2', '{"queues": {"other": 1}, "machines": [["m", 2, ["b"]]]}');
select isnt(t.unknown(:id), null, 'one that has it serves another queue');
select is((select array_agg(x.workers order by x.version) from gd_machines x where x.fsm = 'm'), '{1}', 'gd_machines counts who has a version');

-- each of these could run it
select gd_hello('w3', '{"queues": {"q": 1}, "machines": [["m", 2, ["a"]]]}');
select isnt(t.unknown(:id), null, 'a worker that has its version, and not its step');
select gd_hello('w3', '{"queues": {"q": 1}, "machines": [["m", 2, ["a", "b"]]]}');
select is(t.unknown(:id), null, 'one that has its step');
select gd_drain_worker('w3');
select is(t.unknown(:id),
    'It is at the step "b" of version 2 of the machine "m", which no worker has that serves its queue "q"; of the machine they have 1.',
    'but not while it drains, and then it is not told of');
select gd_resume_worker('w3');
select gd_bye('w3');
select isnt(t.unknown(:id), null, 'nor when it is gone');
select gd_hello('w3', '{"queues": {"q": 0}, "machines": [["m", 2, ["b"]]]}');
select isnt(t.unknown(:id), null, 'nor with no slot for it');
select gd_hello('w3', '{"queues": {"q": 1}, "machines": [["x", 1, ["b"]]], "more": true}');
select is(t.unknown(:id), null, 'one that has not told all');
select gd_hello('w3', '{"queues": {"q": 1}}');
select is(t.unknown(:id), null, 'one that has told nothing');
select gd_bye('w3');
select gd_define_step('m', 'b');
select is(t.unknown(:id), null, 'and a step in SQL is run by whoever calls gd_run');
select gd_drop_step('m', 'b');

select gd_insert('app.mail:Mail', p_queue => 'q') as named \gset
select isnt(t.unknown(:named), null, 'a machine that nobody has');
select is(t.unknown(:named) ~ 'they do not have this machine', true, '(and none of its versions)');
select gd_hello('w3', '{"queues": {"q": 1}, "machines": [["x", 1, ["b"]]], "autoload": ["app"]}');
select is(t.unknown(:named), null, 'which a worker may import by its name');
select isnt(t.unknown(:id), null, '(a name that tells no module it cannot)');

-- a version that is paused is left
select gd_register('p', 1, 's', 'pq'), gd_register('p', 2, 's', 'pq');
select gd_insert('p', p_version => 1) as id, gd_insert('p', p_version => 1, p_partition_key => 'k') as keyed \gset
select gd_pause_machine('p', 1);
select is_empty($$select t.take('pq', 9)$$, 'what is paused is set aside');
select is((select count(*) from gendurable.instance i where i.aside_at is not null), 2::bigint, '(both)');
select is((select array_agg(r.result) from gd_migrate('p', 1, 2) r where r.result is not null), '{done,done}', 'it is moved');
select is((select array_agg(c.id order by c.id) from t.take('pq', 9) c), array[:id, :keyed]::bigint[], 'and the pause of what it has left holds it no more');

-- an import is found by its attributes
select gd_insert('att', p_queue => 'aq', p_attributes => '{"customer": "c7"}') as id \gset
select gd_import(gd_export(:id)) as copy \gset
select is((select array_agg(l.id order by l.id) from gd_list('{"attributes": {"customer": "c7"}}') l), array[:id, :copy]::bigint[],
    'as the one that it was made of');
select gd_fork(:id) as fork \gset
select is((select count(*) from gd_list('{"attributes": {"customer": "c7"}}') l where l.id = :fork), 1::bigint, 'so is a fork');
select throws_ok(format($$select gd_import(jsonb_set(gd_export(%s), '{instances,0,attributes}', jsonb_build_object('a', repeat('x', 5000))))$$, :id),
    'GD501', null, 'attributes have the same bounds in a document');
select throws_ok(format($$select gd_import(jsonb_set(gd_export(%s), '{instances,0,attributes}', '[]'))$$, :id),
    'GD501', null, 'and are an object');

select * from finish();
