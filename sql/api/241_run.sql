-- Running steps that are functions of this database, from a client that does nothing else: what gd_run promises. It claims,
-- commits, runs, commits, and so on. What happens between two commits is one call of _step_call, whose state is a JSON object,
-- so that nothing is looked up in the search_path of the caller, which a procedure that commits cannot pin.
-- Next: 241_run_undone.

create or replace procedure gd_run(
    p_queue text = 'default', p_limit int = 1000, p_for interval = '0', p_options jsonb = '{}', inout p_result jsonb = null
)
language plpgsql as $$
declare
    v_call record;
begin
    -- in a transaction block or a function this fails, and nothing has happened
    commit;
    -- the very next statement, or it is too late
    set transaction isolation level read committed;
    v_call := gendurable._open_call(p_queue, p_limit, p_for, p_options);
    loop
        commit;
        set transaction isolation level read committed;
        exit when v_call.over;
        v_call := gendurable._step_call(pg_catalog.current_setting('search_path'), v_call.run);
    end loop;
    p_result := v_call.result;
    if v_call.cancelled is not null then
        raise query_canceled using message = v_call.cancelled;
    end if;
end $$;

comment on procedure gd_run (text, int, interval, jsonb, jsonb) is
'Runs due steps of a queue whose functions the role may run (gd_define_step), until p_limit claims were made or nothing
is due. It commits: what it claims first, then what each function has written together with the transition that it
returned. So it must be called alone, by a client or by pg_cron: in a transaction block or in a function it fails with
2D000, and nothing has happened; there, use gd_run_claims.

  p_for: look again until so long has passed
  batch, lease_ms: how many it claims at once (default 200), and the lease (60000)
  budget_ms, lock_ms, chain: as in gd_run_claims

p_result tells how many were claimed, and how they ended:

  claimed, ok, error, stale, busy, no_handler: as the results of gd_run_claims, a chain of steps being one; what was busy
    or had no handler is given back
  refused: steps that the role cannot run: [{fsm, step, problem}]

A lost run raises "crashes" and not "attempt". Of a statement_timeout it uses half, then it ends by itself. When it is
cancelled, what is complete stays committed and the rest is given back; a function that was cancelled after more than
40 % of statement_timeout is answered with "error". Raises GD501; GD507 where a step calls it.';

create or replace function gendurable._open_call(
    p_queue text, p_limit int, p_for interval, p_options jsonb,
    out run jsonb, out over boolean, out result jsonb, out cancelled text
)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_now constant bigint := gendurable._epoch_us(clock_timestamp());
    v_options constant jsonb := coalesce(nullif(p_options, 'null'), '{}');
    v_batch int;
begin
    perform gendurable._need_text(coalesce(p_queue, 'default'), 'p_queue');
    perform gendurable._need_limit(p_limit);
    perform gendurable._need_run_options(v_options, '{batch,lease_ms,budget_ms,lock_ms,chain}');
    perform gendurable._need_no_run();
    if coalesce(p_for, '0') < interval '0' or not isfinite(p_for) then
        perform gendurable._invalid('p_for must be finite and not negative', 'got ' || p_for, 'Use 0 to end when nothing is due.');
    end if;
    v_batch := least(coalesce((v_options ->> 'batch')::numeric::int, 200), 1000);
    run := jsonb_build_object(
        'queue', coalesce(p_queue, 'default'),
        -- a lost run of such a worker is no attempt: kernel/080_transitions
        'worker', format('gd_run:%s:%s', pg_backend_pid(), v_now),
        -- once: it costs as much as a look at all sessions
        'login', gendurable._login_role(),
        'limit', coalesce(p_limit, 1000), 'batch', v_batch, 'size', least(v_batch, 50),
        'lease', coalesce(v_options -> 'lease_ms', '60000'),
        'options', jsonb_strip_nulls(v_options) - '{batch,lease_ms}'::text[],
        'until', v_now + (extract(epoch from coalesce(p_for, '0')) * 1000000)::bigint, 'began', v_now,
        'phase', 'claim', 'todo', '[]'::jsonb, 'busy', '[]'::jsonb, 'back', '[]'::jsonb, 'ends', false,
        'counts', jsonb '{"claimed": 0, "ok": 0, "error": 0, "stale": 0, "busy": 0, "no_handler": 0}');
    over := false;
    result := null;
    cancelled := null;
end $$;

comment on function gendurable._open_call(text, int, interval, jsonb) is
    'The state of a gd_run that begins; raises GD501. todo, busy, back: claims that are to be run, that were busy, and that are given
back at the end. ends: it claims nothing more.';

create or replace function gendurable._step_call(
    p_path text, p_run jsonb, out run jsonb, out over boolean, out result jsonb, out cancelled text
)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    v_role constant oid := (select r.oid from pg_roles r where r.rolname = current_user);
    v_login constant oid := (p_run ->> 'login')::oid;
    v_now constant bigint := extract(epoch from clock_timestamp()) * 1000000;
    v_timeout constant double precision := gendurable._setting_ms(current_setting('statement_timeout'));
    v_late constant boolean := v_timeout > 0 and v_now - (p_run ->> 'began')::bigint > 500 * v_timeout;
    v_ids bigint[];
    v_nos bigint[];
    v_limit int;
    v_got record;
begin
    run := p_run;
    over := false;
    cancelled := p_run ->> 'cancelled';
    if p_run ->> 'phase' = 'back' then
        select array_agg((c.one ->> 0)::bigint), array_agg((c.one ->> 1)::bigint)
        into v_ids, v_nos
        from jsonb_array_elements(p_run -> 'todo' || (p_run -> 'busy') || (p_run -> 'back')) c (one);
        if v_ids is not null then
            perform gendurable._release_run(v_ids, v_nos);
        end if;
        over := (p_run ->> 'ends')::boolean;
        run := run || '{"phase": "claim", "todo": [], "busy": [], "back": []}';
        if over then
            result := p_run -> 'counts' || jsonb_build_object(
                'busy', (p_run #>> '{counts,busy}')::int + jsonb_array_length(p_run -> 'busy'),
                'refused', gendurable._refused_steps(v_role, v_login));
        end if;
        return;
    end if;
    begin
        case p_run ->> 'phase'
            when 'claim' then
                v_limit := case
                    when v_late then 0
                    else least((p_run ->> 'size')::int, (p_run ->> 'limit')::int - (p_run #>> '{counts,claimed}')::int)
                end;
                if v_limit > 0 then
                    -- a claim that is lost with the server is none
                    perform set_config('synchronous_commit', 'off', true);
                    v_got := gendurable._claim_run(
                        p_run ->> 'worker', p_run ->> 'queue', v_limit,
                        make_interval(secs => (p_run ->> 'lease')::double precision / 1000), v_role, v_login);
                end if;
                if v_limit > 0 and v_got.ids <> '{}' then
                    run := run || jsonb_build_object(
                        'phase', 'run', 'since', v_now, 'got', cardinality(v_got.ids),
                        'todo', (
                            select jsonb_agg(jsonb_build_array(c.id, c.no) order by c.o)
                            from unnest(v_got.ids, v_got.claim_nos) with ordinality c (id, no, o)));
                    run := jsonb_set(run, '{counts,claimed}',
                        to_jsonb((p_run #>> '{counts,claimed}')::int + cardinality(v_got.ids)));
                elsif p_run -> 'busy' <> '[]' then
                    -- once more, each of the first ten: they wait for their locks
                    run := run || jsonb_build_object(
                        'phase', case when v_late then 'back' else 'run' end, 'ends', true, 'got', 0,
                        'todo', jsonb_path_query_array(p_run -> 'busy', '$[0 to 9]'),
                        'busy', '[]'::jsonb, 'back', p_run -> 'back' || jsonb_path_query_array(p_run -> 'busy', '$[10 to last]'));
                elsif p_run -> 'back' <> '[]' or v_limit <= 0 or v_now >= (p_run ->> 'until')::bigint then
                    run := run || '{"phase": "back", "ends": true}';
                else
                    run := run || '{"phase": "wait"}';
                end if;
            when 'wait' then
                perform pg_sleep(least(((p_run ->> 'until')::bigint - v_now) / 1000000.0, 0.1));
                run := run || '{"phase": "claim"}';
            when 'run' then
                select array_agg((c.one ->> 0)::bigint order by c.o), array_agg((c.one ->> 1)::bigint order by c.o)
                into v_ids, v_nos
                from jsonb_array_elements(p_run -> 'todo') with ordinality c (one, o);
                v_got := gendurable._run_claims(
                    p_path, p_run ->> 'worker', v_ids, v_nos, p_run -> 'options', true, v_login,
                    (p_run ->> 'pace')::double precision);
                run := run || gendurable._tally_call(p_run, v_ids, v_nos, v_got.results, v_got.details)
                    || jsonb_build_object('pace', v_got.pace);
                cancelled := v_got.cancelled;
                if cancelled is not null then
                    run := run || jsonb_build_object('phase', 'back', 'ends', true, 'cancelled', cancelled);
                elsif v_late then
                    run := run || '{"phase": "back", "ends": true}';
                elsif v_now - (p_run ->> 'since')::bigint > 500 * (p_run ->> 'lease')::bigint then
                    -- half of the lease is over: others may have what is left. What is busy would be claimed at once.
                    run := run || jsonb_build_object(
                        'phase', 'back', 'ends', (p_run ->> 'ends')::boolean or run -> 'busy' <> '[]', 'size', 1);
                elsif run -> 'todo' = '[]' then
                    run := run || jsonb_build_object(
                        'phase', case when (p_run ->> 'ends')::boolean then 'back' else 'claim' end,
                        -- as many as take some five seconds
                        'size', greatest(least(
                            (p_run ->> 'batch')::int,
                            (p_run ->> 'got')::int * 5000000 / greatest(v_now - (p_run ->> 'since')::bigint, 1)), 1));
                end if;
        end case;
    exception when query_canceled then
        -- what it has claimed goes back to others, and not only when its lease ends
        run := p_run || jsonb_build_object('phase', 'back', 'ends', true, 'cancelled', sqlerrm);
        cancelled := sqlerrm;
    end;
end $$;

comment on function gendurable._step_call(text, jsonb) is
    'What a gd_run does in one transaction: the state behind it, and at its end (over) the result. cancelled: why it is to raise.';

create or replace function gendurable._tally_call(
    p_run jsonb, p_ids bigint[], p_nos bigint[], p_results text[], p_details jsonb[]
) returns jsonb
language plpgsql immutable as $$
declare
    v_ends constant boolean := (p_run ->> 'ends')::boolean;
begin
    return (
        select jsonb_build_object(
            -- those that are to be alone first, and those that have met a lock last
            'todo', coalesce(jsonb_agg(u.one order by case u.detail ->> 'again' when 'first' then 0 when 'last' then 2 else 1 end, u.o)
                filter (where u.result = 'left'), '[]'),
            'busy', p_run -> 'busy' || coalesce(jsonb_agg(u.one order by u.o) filter (where u.result = 'busy' and not v_ends), '[]'),
            'back', p_run -> 'back' || coalesce(jsonb_agg(u.one order by u.o) filter (
                where u.result = 'no_handler' or (u.result = 'busy' and v_ends)), '[]'),
            'counts', (
                select jsonb_object_agg(c.key, c.value::int + (
                    select count(*) from unnest(p_results) r (result)
                    where r.result = c.key and (r.result <> 'busy' or v_ends)))
                from jsonb_each_text(p_run -> 'counts') c))
        from (
            select jsonb_build_array(x.id, x.no) as one, x.result, x.detail, x.o
            from unnest(p_ids, p_nos, p_results, p_details) with ordinality x (id, no, result, detail, o)
        ) u);
end $$;

comment on function gendurable._tally_call(jsonb, bigint[], bigint[], text[], jsonb[]) is
    'What a gd_run has left to do, and its counts, behind one transaction.';
