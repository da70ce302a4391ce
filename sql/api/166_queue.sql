-- What is set of a queue: how many of it execute at once, in all and at each worker, and whether it is paused. It is a row that claims
-- read; who executes beyond a limit ends first.
-- Next: 168_hold.

create or replace function gd_set_queue(p_queue text, p_options jsonb) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
declare
    v_options constant jsonb := case when jsonb_typeof(p_options) = 'object' then p_options else '{}' end;
    v_paused constant jsonb := v_options -> 'paused';
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_queue, 'p_queue');
    perform gendurable._need_options(p_options, '{limit,concurrency,paused}');
    perform gendurable._need_count(v_options -> 'limit', 'limit', 'Pass how many may execute at once, 0 for none, or null for any number.');
    perform gendurable._need_count(v_options -> 'concurrency', 'concurrency',
        'Pass how many each worker is to execute at once, 0 for none, or null for as many as it was started with.');
    if jsonb_typeof(v_paused) not in ('boolean', 'null') then
        perform gendurable._invalid('paused must be true or false', left(v_paused::text, 200), 'Pass true, false, or null for false.');
    end if;
    if v_options ? 'limit' then
        -- What executes counts. Claims that are under way do not know of a first limit: those that follow wait for them
        -- to be seen, and not this call.
        insert into gendurable.queue_setting as s (queue, max_executing)
        select p_queue, (v_options ->> 'limit')::numeric::int
        where v_options ->> 'limit' is not null or exists (select from gendurable.queue_setting x where x.queue = p_queue)
        on conflict (queue) do update
        set max_executing = excluded.max_executing,
            changed_in = case when s.max_executing is null then excluded.changed_in else s.changed_in end,
            known_in = case when s.max_executing is not null then s.known_in end;
    end if;
    if v_options ? 'concurrency' then
        insert into gendurable.queue_setting as s (queue, concurrency, changed_in)
        select p_queue, (v_options ->> 'concurrency')::numeric::int, null
        where v_options ->> 'concurrency' is not null or exists (select from gendurable.queue_setting x where x.queue = p_queue)
        on conflict (queue) do update set concurrency = excluded.concurrency;
    end if;
    delete from gendurable.queue_setting s where s.queue = p_queue and s.max_executing is null and s.concurrency is null;
    if v_options ?| '{limit,concurrency}'::text[] then
        perform gendurable._wake_sleepers(array[p_queue]);
    end if;
    case v_paused
        when 'true' then perform gendurable._pause_queue(p_queue);
        when 'false', 'null' then perform gendurable._resume_queue(p_queue);
        else null;
    end case;
    if v_options <> '{}' then
        perform gendurable._note_by_hand(
            'gd_set_queue', null, jsonb_build_object('queue', p_queue, 'options', p_options), 1);
    end if;
end $$;

comment on function gd_set_queue(text, jsonb) is
'Sets options of a queue. An option that is not named stays as it was, null resets it:

  limit: at most so many instances of the queue execute at once, over all workers and partition keys; 0: none; null:
    any number
  concurrency: so many of it each worker is to execute at once, whatever it was started with; 0: none; null: as many as
    it was started with. Workers are told of it; the server does not hold them to it
  paused: true is gd_pause_queue, false and null are gd_resume_queue

A limit holds for claims that begin after its commit. What executes by then counts: nothing starts until there is
room, and claims that are kept ("keep") above a lowered limit are given back. What a lost worker held counts until
its lease has ended. Claims of a queue with a limit go one after the other: a claim in a transaction that stays open
holds up its queue. Another call that sets this very queue is met with 55P03 after a second. Raises GD501, GD504.';

create or replace function gendurable._need_count(p_value jsonb, p_name text, p_hint text) returns void
language plpgsql as $$
declare
    v_problem constant text := gendurable._int_problem(p_value, p_name, 0);
begin
    if v_problem is not null then
        perform gendurable._invalid(v_problem, left(p_value::text, 200), p_hint);
    end if;
end $$;

comment on function gendurable._need_count(jsonb, text, text) is 'Raises GD501 unless a value is a count, null or missing.';
