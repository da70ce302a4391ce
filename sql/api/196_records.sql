-- What was kept of one instance (kernel/084_records), for people: its errors with their tracebacks, and its history.
-- Next: 198_journal.

create or replace function gd_errors(p_id bigint, p_limit int = 100)
returns table (at timestamptz, step text, attempt int, kind text, worker text, error text, traceback text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    perform gendurable._need_limit(p_limit);
    return query
        select e.at, e.step, e.attempt, e.kind, e.worker, e.error, e.traceback
        from gendurable.error e
        where e.instance_id = p_id
        order by e.no desc
        limit coalesce(p_limit, 100);
end $$;

comment on function gd_errors(bigint, int) is
'The errors of an instance, newest first: the last 20 are kept, as long as the instance is, whatever became of it. kind is

  error, replay, stop: of the outcome that a step has given
  timeout: the time of the step was up
  crash: its worker was lost, or gave it back as crashed; at the crash cap the instance has failed with it
  expired: its deadline had passed
  unfit: it could not be handed out to a worker
  cancel: somebody has ended it; error is the reason
  edited: somebody has changed it (gd_edit); error says what

attempt is the one that failed, 0 for the first. worker had it then; of "cancel" and "edited" it is who did it: the setting
gendurable.actor, else the role. error and traceback are cut in the middle, at 32 kB each; a traceback is what a worker
has sent. No rows: there were none, or there is no such instance (any more). Raises GD501.';

create or replace function gd_history(p_id bigint, p_after bigint = 0, p_limit int = 1000)
returns table (
    no bigint, at timestamptz, kind text, step text, next_step text, attempt int, worker text, seconds double precision,
    state jsonb, detail jsonb
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    perform gendurable._need_limit(p_limit);
    return query
        select h.no, h.at, h.kind, h.step, h.next_step, h.attempt, h.worker, h.seconds, h.state, h.detail
        from gendurable.history h
        where h.instance_id = p_id and h.no > coalesce(p_after, 0)
            and (select true from gendurable.instance i where i.id = p_id)
        order by h.no
        limit coalesce(p_limit, 1000);
end $$;

comment on function gd_history(bigint, bigint, int) is
'What happened to an instance, oldest first, from behind the entry p_after on, if its machine keeps a history ("history" of
gd_register): each outcome, with the step that gave it, next_step, where it went on, the attempt, the worker, and the
seconds since its claim; and what came from outside of a step: "timeout", "crash", "expired", "unfit", "cancel",
"retry", "reschedule", "edited". state is the one that the step was given, where the machine keeps "states". detail says more:

  error: what went wrong, its first 1,000 characters; all of it is in gd_errors
  until: when it is due again, or until when it awaits a signal
  awaits, children: for which signals, for how many children it waits
  used: the signals that the step used up: [{name, inserted_at}], the first 100
  queue, priority, rate_limit, partition_key: what a "next" has set; the last is empty where it let go of its key
  changed: what of it was edited
  by: who did it by hand: the setting gendurable.actor, else the role

Not in it: its insert, give-backs, signals that came, and what was before its machine kept one. It is kept as long as the
instance. Raises GD501.';

create or replace function gendurable._list_errors(p_id bigint) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(
            jsonb_build_object('at', e.at, 'step', e.step, 'attempt', e.attempt, 'kind', e.kind, 'worker', e.worker,
                'error', e.error) order by e.no desc), '[]')
        from (
            select x.no, x.at, x.step, x.attempt, x.kind, x.worker, x.error
            from gendurable.error x
            where x.instance_id = p_id
            order by x.no desc
            limit 10
        ) e);
end $$;

comment on function gendurable._list_errors(bigint) is 'The last errors of an instance, newest first, without their tracebacks.';
