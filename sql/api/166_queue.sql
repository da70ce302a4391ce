-- What is set of a queue: how many of it execute at once. It is a row that claims read; who executes beyond it ends first.
-- Next: 168_hold.

create or replace function gd_set_queue(p_queue text, p_options jsonb) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
declare
    v_limit constant jsonb := case when jsonb_typeof(p_options) = 'object' then p_options -> 'limit' end;
    v_problem constant text := gendurable._int_problem(v_limit, 'limit', 0);
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_queue, 'p_queue');
    perform gendurable._need_options(p_options, '{limit}');
    if v_problem is not null then
        perform gendurable._invalid(v_problem, left(v_limit::text, 200),
            'Pass how many may execute at once, 0 for none, or null for any number.');
    end if;
    if v_limit is null then
        return;
    end if;
    if v_limit = 'null' then
        delete from gendurable.queue_setting s where s.queue = p_queue;
    else
        -- What executes counts. Claims that are under way do not know of a first limit: those that follow wait for them
        -- to be seen, and not this call.
        insert into gendurable.queue_setting as s (queue, max_executing) values (p_queue, (v_limit #>> '{}'::text[])::numeric::int)
        on conflict (queue) do update set max_executing = excluded.max_executing;
    end if;
    perform gendurable._wake_sleepers(array[p_queue]);
    perform gendurable._note_by_hand('gd_set_queue', null, jsonb_build_object('queue', p_queue, 'options', p_options), 1);
end $$;

comment on function gd_set_queue(text, jsonb) is
'Sets options of a queue. An option that is not named stays as it was, null resets it:

  limit: at most so many instances of the queue execute at once, over all workers and partition keys; 0: none; null:
    any number

A limit holds for claims that begin after its commit. What executes by then counts: nothing starts until there is
room, and claims that are kept ("keep") above a lowered limit are given back. What a lost worker held counts until
its lease has ended. Claims of a queue with a limit go one after the other: a claim in a transaction that stays open
holds up its queue. Another call that sets this very queue is met with 55P03 after a second. Raises GD501, GD504.';
