\ir helpers/tap.psql
select no_plan();

-- "ahead": rows for a worker that has no room for them yet

create function pg_temp.took(p_queues jsonb, p_ahead jsonb) returns text[] language sql as $$
    select coalesce(array_agg(c.step order by c.step), '{}')
    from gd_claim_many('w', p_queues, '60 seconds', jsonb_build_object('ahead', p_ahead)) c
$$;
create function pg_temp.put_in(p_queue text, p_steps text[], p_more jsonb = '{}') returns bigint language sql as $$
    select count(*) from gd_insert_many((
        select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', p_queue, 'step', s) || p_more order by s)
        from unnest(p_steps) s))
$$;

select pg_temp.put_in('plain', array(select lpad(n::text, 3, '0') from generate_series(1, 200) n));
select is(cardinality(pg_temp.took('{"plain": 3}', '{"plain": 7}')), 10, 'so many more');
select is(cardinality(pg_temp.took('{"plain": 0}', '{"plain": 7}')), 7, 'also where none is wanted at once');
select is(cardinality(pg_temp.took('{"plain": 2}', '{"other": 7}')), 2, 'of the queues that are named');
select is(cardinality(pg_temp.took('{"plain": 2}', '{"plain": 0}')), 2, 'none of 0');
select is(cardinality(pg_temp.took('{"plain": 2}', 'null')), 2, 'null is none');
select is(cardinality(pg_temp.took('{"plain": 0}', '{}')), 0, 'a limit of 0 gives no rows, as ever');
select is(
    (select count(*) from gd_claim('w', 'plain', 1, '60 seconds', '{"ahead": {"plain": 4}}')), 5::bigint,
    'gd_claim does so, too');
select is(
    cardinality(pg_temp.took('{"plain": 2147483647}', '{"plain": 2147483647}')), 172, 'as many as there may be at most');

-- what may hold up others is taken for free slots alone

select pg_temp.put_in('keyed', '{a1,a2,a3}');
select pg_temp.put_in('keyed', '{b1}', '{"partition_key": "k1"}');
select pg_temp.put_in('keyed', '{b2}', '{"partition_key": "k2"}');
select pg_temp.put_in('keyed', '{c1,c2}');
select is(pg_temp.took('{"keyed": 0}', '{"keyed": 2}'), '{a1,a2}', 'plain ones before a key');
select is(pg_temp.took('{"keyed": 0}', '{"keyed": 2}'), '{}', 'none of a round with a key in it');
select is(pg_temp.took('{"keyed": 0}', '{"keyed": 2}'), '{}', 'however often it is asked');
select is(pg_temp.took('{"keyed": 2}', '{"keyed": 50}'), '{a3,b1}', 'a free slot takes a row with a key');
select is(pg_temp.took('{"keyed": 0}', '{"keyed": 50}'), '{}', 'what is ahead does not');
select is(
    (select count(*) from gd_instances where queue = 'keyed' and status = 'executing' and partition_key is not null), 1::bigint,
    'so one key is held');
select is(pg_temp.took('{"keyed": 1}', '{"keyed": 50}'), '{b2}', 'and those behind it are next');
select is(pg_temp.took('{"keyed": 0}', '{"keyed": 50}'), '{c1,c2}', 'plain ones behind keys are ahead again');

select gd_set_rate_limit('api', 1000, '1 second');
select pg_temp.put_in('rated', '{r1,r2,r3}', '{"rate_limit": "api"}');
select is(pg_temp.took('{"rated": 0}', '{"rated": 50}'), '{}', 'no token is taken ahead');
select is(pg_temp.took('{"rated": 1}', '{"rated": 50}'), '{r1}', 'one for a free slot');
select is(pg_temp.took('{"rated": 5}', '{"rated": 50}'), '{r2,r3}', 'or more of them');

select pg_temp.put_in('full', '{l1,l2,l3}');
select gd_set_queue('full', '{"limit": 2}');
select is(pg_temp.took('{"full": 0}', '{"full": 50}'), '{}', 'nothing ahead in a queue with a limit');
select is(pg_temp.took('{"full": 1}', '{"full": 50}'), '{l1}', 'its slots are for those that run');
select gd_set_queue('full', '{"limit": null}');
select is(pg_temp.took('{"full": 0}', '{"full": 50}'), '{l2,l3}', 'without the limit they are');

select pg_temp.put_in('halt', '{h1}');
select gd_pause_queue('halt');
select is(pg_temp.took('{"halt": 0}', '{"halt": 50}'), '{}', 'nothing of a paused queue');
select gd_resume_queue('halt');

select pg_temp.put_in('large', '{s1}');
select gd_insert('m', jsonb_build_object('t', (
    select string_agg(md5(n::text), '') from generate_series(1, 40000) n)), 's2', p_queue => 'large');
select is(pg_temp.took('{"large": 0}', '{"large": 50}'), '{}', 'nor what would fill the memory of who waits');
select is(pg_temp.took('{"large": 2}', '{"large": 50}'), '{s1,s2}', 'which a free slot takes');

select gd_insert('m', p_queue => 'lost', p_step => 'lost') as id \gset
select count(*) from t.take('lost', 1, 'dead');
select t.expire(:id);
select is(pg_temp.took('{"lost": 0}', '{"lost": 50}'), '{}', 'nor what lost its worker: it may take others with it');
select is(pg_temp.took('{"lost": 1}', '{"lost": 50}'), '{lost}', 'which begins at once, or not');

select gd_register('timely', 1, 'start', 'timed', '{"timeouts": {"s": 1000}}');
select gd_insert('timely', '{}', p_queue => 'timed', p_step => s) from unnest('{s,s,other}'::text[]) s;
select is(pg_temp.took('{"timed": 0}', '{"timed": 50}'), '{}', 'nor what has a timeout, which runs from its claim');
select is(pg_temp.took('{"timed": 2}', '{"timed": 50}'), '{s,s}', 'that it begins with a free slot');
select is(pg_temp.took('{"timed": 0}', '{"timed": 50}'), '{other}', 'other steps of its machine are ahead');

-- priorities: those of a lower number first, whatever is ahead

select pg_temp.put_in('prio', '{n1,n2}', '{"priority": 1}');
select pg_temp.put_in('prio', '{m1}', '{"priority": 0, "partition_key": "k3"}');
select is(pg_temp.took('{"prio": 0}', '{"prio": 50}'), '{}', 'a key that is more urgent is not overtaken');
select is(pg_temp.took('{"prio": 1}', '{"prio": 50}'), '{m1}', 'it has the free slot');
select is(pg_temp.took('{"prio": 0}', '{"prio": 50}'), '{n1,n2}', 'then come the others');

-- bad calls

select t.raises($$select gd_claim('w', 'q', 1, '1 s', '{"ahead": 5}')$$, 'GD501', 'a number for all queues');
select t.raises($$select gd_claim('w', 'q', 1, '1 s', '{"ahead": {"q": -1}}')$$, 'GD501', 'fewer than none');
select t.raises($$select gd_claim('w', 'q', 1, '1 s', '{"ahead": {"q": 1.5}}')$$, 'GD501', 'half a row');
select t.raises($$select gd_claim('w', 'q', 1, '1 s', '{"ahead": {"q": null}}')$$, 'GD501', 'null of a queue');
select t.raises($$select gd_claim_many('w', '{"q": 1}', '1 s', '{"ahead": {"": 1}}')$$, 'GD501', 'many: an empty name');
select t.raises($$select gd_claim_many('w', '{"q": 1}', '1 s', '{"ahead": []}')$$, 'GD501', 'many: an array');

select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
