\ir helpers/tap.psql
select no_plan();

-- Each row is valid; each change makes it a state that must not be committed.

create function t.violates(p_change text, p_name text) returns text
language plpgsql as $$
declare
    v_state text;
    v_message text;
begin
    begin
        execute p_change;
        get diagnostics v_message = row_count;
        v_message := v_message || ' rows changed';
    exception when others then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
    end;
    return public.ok(v_state in ('23514', '23505', '23503', '23502'), p_name)
        || case when v_state is null or v_state not like '235%' then E'\n# got ' || coalesce(v_state, 'no error') || ': ' || v_message else '' end;
end $$;

create function t.change(p_id bigint, p_set text, p_name text) returns text
language sql as $$
    select t.violates(format('update gendurable.instance set %s where id = %s', p_set, p_id), p_name)
$$;

select gd_insert('m', p_queue => 'run') as run \gset
select gd_insert('m', p_queue => 'key', p_partition_key => 'k') as key \gset
select gd_insert('m', p_queue => 'lane', p_partition_key => 'k2') as holder \gset
select gd_insert('m', p_queue => 'lane', p_partition_key => 'k2') as lane \gset
select count(*) from t.take('lane', 5);
select gd_insert('m', p_queue => 'exe', p_unique_key => 'u1') as exe \gset
select count(*) from t.take('exe');
select gd_insert('m', p_queue => 'aws', p_unique_key => 'u2') as aws \gset
select t.run('aws', '{"kind": "await", "signals": "x"}');
select gd_insert('m', p_queue => 'awk', p_partition_key => 'k4') as awk \gset
select t.run('awk', '{"kind": "await", "signals": "x", "timeout_ms": 60000}');
select gd_insert('m', p_queue => 'awc') as awc \gset
select t.run('awc', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "c"}]}');
select gd_insert('m', p_queue => 'end', p_unique_key => 'u3') as ended \gset
select t.run('end', '{"kind": "done"}');
select gd_insert('m', p_queue => 'endk', p_partition_key => 'k3') as endk \gset
select t.run('endk', '{"kind": "done"}');

-- what it is

select t.change(:run, 'fsm = null', 'no machine');
select t.change(:run, 'step = null', 'no step');
select t.change(:run, 'queue = null', 'no queue');
select t.change(:run, $$state = '[]'$$, 'a state that is an array');
select t.change(:run, $$state = 'null'$$, 'a state that is null');
select t.change(:run, $$meta = '1'$$, 'a meta that is a number');
select t.change(:run, 'attempt = -1', 'a negative attempt');
select t.change(:run, 'crashes = -1', 'negative crashes');
select t.change(:awc, 'children_pending = -1', 'negative children');
select t.change(:run, 'woken = 2', 'an index range that no claim reads');

-- Nobody is stuck: runnable is due or in a lane, executing is under a lease, awaiting knows for what.

select t.change(:run, 'eligible_at = null', 'runnable, but never due');
select t.change(:run, $$eligible_at = 'infinity'$$, 'due at the end of time');
select t.change(:run, $$eligible_at = '-infinity'$$, 'due before all time');
select t.change(:key, $$lane_at = 'infinity'$$, 'in a lane for ever');
select t.change(:key, 'lane_at = null', 'a due row of a key without a place in it');
select t.change(:lane, 'lane_at = null', 'parked, and not in its lane');
select t.change(:run, 'finished_at = now()', 'runnable and finished');
select t.change(:run, $$worker = 'w'$$, 'runnable with a worker');
select t.change(:run, $$lease_expires_at = now() + interval '1 year'$$, 'runnable under a lease');
select t.change(:run, 'lane_at = now()', 'in a lane without a key');
select t.change(:exe, 'worker = null', 'executing without a worker');
select t.change(:exe, 'lease_expires_at = null', 'executing without a lease');
select t.change(:exe, 'eligible_at = null', 'executing where no claim would find it');
select t.change(:exe, 'finished_at = now()', 'executing and finished');
select t.change(:exe, 'slot_no = 0', 'a slot without a key');
select t.change(:aws, 'awaits = null', 'awaiting nothing');
select t.change(:aws, $$awaits = '{}'$$, 'awaiting none of no names');
select t.change(:aws, 'finished_at = now()', 'awaiting and finished');
select t.change(:aws, $$worker = 'w'$$, 'awaiting with a worker');
select t.change(:awk, 'lane_at = null', 'a deadline of a row with a key, without its place');
select t.change(:awc, 'children_pending = 0', 'awaiting no children');
select t.change(:awc, 'children_pending = null', 'awaiting an unknown number of children');
select t.change(:awc, 'finished_at = now()', 'awaiting children and finished');
select t.change(:awc, 'eligible_at = now()', 'awaiting children and due');
select t.change(:ended, 'finished_at = null', 'done, but not finished');
select t.change(:ended, 'eligible_at = now()', 'done and due');
select t.change(:ended, $$status = 'runnable'$$, 'runnable, but finished');
select t.change(:endk, 'lane_at = now()', 'done and in a lane');
select t.change(:endk, 'slot_no = 0', 'done with a slot');
select t.change(:ended, $$worker = 'w'$$, 'done with a worker');

-- slots

select t.change(:key, 'slot_no = 0', 'a slot without executing');
select t.change(:holder, 'slot_no = null', 'executing without its slot');
select t.change(
    :lane, $$status = 'executing', worker = 'w', lease_expires_at = now(), eligible_at = now(), slot_no = 0$$,
    'two rows in one slot: over-admission cannot be committed');
select lives_ok(
    format($$update gendurable.instance set status = 'executing', worker = 'w', lease_expires_at = now(), eligible_at = now(), slot_no = 1
        where id = %s$$, :lane), 'another slot can be');

-- keys

select t.change(:exe, $$unique_held = 'other'$$, 'holding another key than its own');
select t.change(:run, $$unique_held = 'u9'$$, 'holding a key without having one');
select t.change(:aws, $$unique_key = 'u1', unique_held = 'u1'$$, 'two holders of one unique key');
select t.change(:ended, $$unique_held = 'u3'$$, 'ended, and still holding a key of the default scope');

-- the other tables

select t.violates(format($$insert into gendurable.signal (instance_id, name, payload) values (%s, 's', null)$$, :run), 'a signal without a payload');
select t.violates(format($$insert into gendurable.signal_seen values (%1$s, 'k'), (%1$s, 'k')$$, :run), 'a dedup key twice');
select t.violates($$insert into gendurable.key_limit values ('p', 0)$$, 'a limit of 0');
select t.violates($$insert into gendurable.key_limit values ('p', 1), ('p', 2)$$, 'two limits of one prefix');
select t.violates($$insert into gendurable.machine values ('m', 1, 's', 'q'), ('m', 1, 't', 'q')$$, 'two records of one version');
select t.violates($$insert into gendurable.meta values ('9.9.9', 'public')$$, 'two installed versions');

-- An id of the caller's choice is possible, and the sequence may start anywhere.
select lives_ok($$insert into gendurable.instance (id, fsm, step, queue, eligible_at) values (-5, 'm', 's', 'q', now())$$, 'ids may be given');
select lives_ok($$select setval('gendurable.instance_id_seq', 1::bigint << 50)$$, 'ids may start at an offset');
select cmp_ok(gd_insert('m'), '>', 1::bigint << 50, 'and go on from there');

select * from finish();
