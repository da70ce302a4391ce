-- Steering workers that run: an operator says it, a notice tells them to ask, and their next hello brings it.
-- Next: 240_step.

create or replace function gd_drain_worker(p_worker text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_worker text;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    v_worker := gendurable._find_worker(p_worker, v_now);
    if v_worker is null then
        return false;
    end if;
    insert into gendurable.draining (worker, drained_at, drained_by) values (v_worker, v_now, gendurable._actor())
    on conflict do nothing;
    if found then
        perform gendurable._note_by_hand('gd_drain_worker', null, jsonb_build_object('worker', v_worker), 1);
    end if;
    perform gendurable._tell_worker(v_worker, 'hello', v_now);
    return true;
end $$;

comment on function gd_drain_worker(text) is
'Tells a worker to finish what it has and to claim nothing more: one that listens at once, any other when it says hello
next. It goes on living, and gd_workers shows when it has nothing left ("drained"), until its process is ended or
gd_resume_worker takes it back: a process that starts anew has another name, and is not concerned. p_worker is the name
in gd_workers, or the worker of an instance. False: no known worker that lives has this name. Another call about the
same worker in an open transaction is met with 55P03 after a second. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_resume_worker(p_worker text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_worker text;
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    v_worker := coalesce(gendurable._find_worker(p_worker, v_now), p_worker);
    delete from gendurable.draining d where d.worker = v_worker;
    if not found then
        return false;
    end if;
    perform gendurable._note_by_hand('gd_resume_worker', null, jsonb_build_object('worker', v_worker), 1);
    perform gendurable._tell_worker(v_worker, 'hello', v_now);
    return true;
end $$;

comment on function gd_resume_worker(text) is
'Takes gd_drain_worker back: the worker claims again. False: it was not told to drain. Waits as that does. Needs READ
COMMITTED (GD504); raises GD501.';
