-- Handing out due rows: what gd_claim promises. A claim walks the priorities of each queue in order, or has a short way where it
-- met nothing but plain rows the last time; which rows may start and what a worker gets stands in later files.
-- Invariant 2: at most one live claim an instance. Next: 111_claim_this, 111_priorities.

create or replace function gd_claim(
    p_worker text, p_queue text = 'default', p_limit int = 1, p_lease interval = '60 seconds', p_options jsonb = '{}'
) returns table (
    id bigint, claim_no bigint, fsm text, fsm_version int, step text, state jsonb, attempt int, queue text,
    partition_key text, unique_key text, parent_id bigint, awaits text[], timed_out boolean,
    signals jsonb, childs jsonb, meta jsonb, attributes jsonb
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_memory constant jsonb := gendurable._recall_memory();
    v_priority int;
    v_bare boolean;
    v_got record;
    v_steps jsonb;
    v_ahead jsonb;
begin
    if not (gendurable._is_ready(p_worker, coalesce(p_lease, '60 seconds')) and coalesce(p_options = '{}', true)
        and octet_length(coalesce(p_queue, 'default')) between 1 and gendurable._longest_name() and coalesce(p_limit >= 0, true))
    then
        perform gendurable._need_claim(p_worker, coalesce(p_lease, '60 seconds'), p_options);
        v_steps := gendurable._wanted_steps(p_options);
        v_ahead := p_options -> 'ahead';
        perform gendurable._need_text(coalesce(p_queue, 'default'), 'p_queue');
        perform gendurable._need_limit(p_limit);
    end if;
    -- where the last claim met nothing else, a short way for plain rows
    v_priority := (v_memory #>> array[coalesce(p_queue, 'default'), '', '4'])::int;
    if v_priority is not null and v_steps is null then
        v_got := gendurable._pick_plain(
            coalesce(p_queue, 'default'), v_priority,
            coalesce(p_limit, 1)::bigint + coalesce((v_ahead -> coalesce(p_queue, 'default'))::bigint, 0), v_memory);
        v_bare := v_got.ids is not null;
    end if;
    if v_bare is not true then
        v_got := gendurable._claim_queues(
            p_worker, array[coalesce(p_queue, 'default')], jsonb_build_object(coalesce(p_queue, 'default'), coalesce(p_limit, 1)),
            coalesce(p_lease, '60 seconds'), v_steps, v_ahead, v_memory);
        v_bare := false = all(v_got.mail);
    end if;
    if v_bare then
        return query select * from gendurable._to_executing_bare(
            p_worker, v_got.ids, v_got.places, v_got.now, coalesce(p_lease, '60 seconds'));
    elsif v_got.ids <> '{}' then
        return query select * from gendurable._hand_out(
            p_worker, v_got.ids, v_got.started, v_got.mail, v_got.parts, v_got.now, coalesce(p_lease, '60 seconds'));
    end if;
    if v_got.timed and v_got.ids <> '{}' then
        perform gendurable._time_claims(v_got.ids, v_got.now);
    end if;
end $$;

comment on function gd_claim(text, text, int, interval, jsonb) is
'Starts up to p_limit due instances of a queue for p_worker, under a lease: commit, renew or release each before it
ends, or it is due again and is handed out with attempt + 1. Order: priority, then the time of becoming due. No rows:
nothing is due, or the queue is paused.

  claim_no: the proof of ownership: an outcome names id and claim_no
  attempt: 0 in the step''s first run
  awaits: the names that the instance awaited, or null
  timed_out: the deadline of the await has passed, and no awaited signal that counts has come
  signals: the inbox, oldest first: [{id, name, payload, inserted_at}]; [] when empty. Past 1,000 signals: the
    awaited names first, 1,000 in all. Payloads beyond 16 MB are null, with the key "cut": true; gd_signals pages
    them
  childs: the children by id: [{id, fsm, status, state, result, last_error}], the first 10,000; [] when there are
    none. States and results beyond 16 MB are null, with the key "cut": true; gd_childs pages them. A last_error of
    more than 8,000 bytes is cut to 2,000 characters and " ..."
  meta: as given at the insert
  attributes: as given at the insert and merged by outcomes since

Where the step has a timeout (gd_register), the claim ends that long after it began, whatever is renewed. Where the
instance has a deadline, no lease goes beyond it.

A claim ends early when it holds 16 MB of JSON of a queue; what it leaves is due as before. A row that is larger is
handed out alone. One that cannot be handed out at all ends as "failed", with the reason in last_error: a state and
meta of more than 256 MB as text, or, in a database of SQL_ASCII, text that is not valid in the client''s UTF8. Text
that this session''s client_encoding cannot carry is left to sessions that can.

p_options "steps": "sql" takes only rows whose step the role of the session can run here (see gd_steps), "other" only
all others. What others want stays due and is passed over, which takes time where it is much: see gd_run.

p_options "ahead": {"default": 50} takes up to so many more of a queue, for a worker that has no room for them yet: as
long as it meets nothing but small rows that have neither key nor rate limit, in steps without a timeout and a queue
without a limit, so that what waits with the worker holds up nobody else. Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_claim_many(
    p_worker text, p_queues jsonb, p_lease interval = '60 seconds', p_options jsonb = '{}'
) returns table (
    id bigint, claim_no bigint, fsm text, fsm_version int, step text, state jsonb, attempt int, queue text,
    partition_key text, unique_key text, parent_id bigint, awaits text[], timed_out boolean,
    signals jsonb, childs jsonb, meta jsonb, attributes jsonb
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_memory constant jsonb := gendurable._recall_memory();
    v_priority int;
    v_bare boolean;
    v_got record;
    v_steps jsonb;
    v_ahead jsonb;
    v_queues text[];
begin
    if not (gendurable._is_ready(p_worker, coalesce(p_lease, '60 seconds')) and coalesce(p_options = '{}', true)) then
        perform gendurable._need_claim(p_worker, coalesce(p_lease, '60 seconds'), p_options);
        v_steps := gendurable._wanted_steps(p_options);
        v_ahead := p_options -> 'ahead';
    end if;
    if jsonb_typeof(p_queues) is distinct from 'object' then
        perform gendurable._invalid('p_queues must be a JSON object', 'got ' || coalesce(jsonb_typeof(p_queues), 'null'),
            'Pass {"queue": limit, ...}.');
    end if;
    if p_queues ? '' or octet_length(p_queues::text) > gendurable._longest_name() or jsonb_path_exists(
        p_queues, 'strict $.* ? (@.type() != "number" || @ < 0 || @ > 2147483647 || @.floor() != @)')
    then
        perform gendurable._need_limits(p_queues);
    end if;
    -- of one queue, as mostly, by expressions
    v_queues := array[jsonb_path_query_first(p_queues, '$.keyvalue().key') #>> '{}'];
    if v_queues[1] is null or p_queues - v_queues <> '{}' then
        v_queues := array(select jsonb_object_keys(p_queues));
    end if;
    -- where the last claim met nothing else, a short way for plain rows
    v_priority := (v_memory #>> array[v_queues[1], '', '4'])::int;
    if v_priority is not null and v_queues[2] is null and v_steps is null then
        v_got := gendurable._pick_plain(
            v_queues[1], v_priority, (p_queues -> v_queues[1])::bigint + coalesce((v_ahead -> v_queues[1])::bigint, 0), v_memory);
        v_bare := v_got.ids is not null;
    end if;
    if v_bare is not true then
        v_got := gendurable._claim_queues(
            p_worker, v_queues, p_queues, coalesce(p_lease, '60 seconds'), v_steps, v_ahead, v_memory);
        v_bare := false = all(v_got.mail);
    end if;
    if v_bare then
        return query select * from gendurable._to_executing_bare(
            p_worker, v_got.ids, v_got.places, v_got.now, coalesce(p_lease, '60 seconds'));
    elsif v_got.ids <> '{}' then
        return query select * from gendurable._hand_out(
            p_worker, v_got.ids, v_got.started, v_got.mail, v_got.parts, v_got.now, coalesce(p_lease, '60 seconds'));
    end if;
    if v_got.timed and v_got.ids <> '{}' then
        perform gendurable._time_claims(v_got.ids, v_got.now);
    end if;
end $$;

comment on function gd_claim_many(text, jsonb, interval, jsonb) is
'gd_claim for several queues in one round trip: {"default": 10, "checkout": 5} is at most so many rows of each. Needs
READ COMMITTED (GD504); raises GD501.';

create or replace function gendurable._claim_queues(
    p_worker text, p_queues text[], p_limits jsonb, p_lease interval, p_steps jsonb, p_ahead jsonb, p_memory jsonb,
    out ids bigint[], out started bigint[], out mail boolean[], out parts jsonb, out now timestamptz, out timed boolean,
    out places tid[]
)
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_memory jsonb := p_memory;
    -- after a clock was set back: the time that this session has seen already
    v_before constant timestamptz := gendurable._seen(v_memory, v_now);
    v_bytes bigint := 4 * gendurable._most_bytes();
    v_count constant int := coalesce(cardinality(p_queues), 0);
    -- where large rows of some queues may use up what one claim hands out, the queues take turns
    v_from constant int := case when v_count > 4 then floor(random() * v_count) else 0 end;
    v_queue text;
    v_doubts boolean;
    v_pauses boolean;
    v_held boolean;
    v_limits boolean;
    v_stops boolean;
    v_resumed boolean;
    v_paused text[];
    v_limited text[];
    v_tries int := 3;
    v_room int;
    v_limit int;
    v_ahead int;
    v_got record;
    v_text text;
    -- a scan that passes rows over has floors of its own
    v_lane text := '';
begin
    now := v_now;
    if p_steps is not null then
        v_lane := E'\u0001' || hashtextextended(p_steps::text, 0);
    end if;
    timed := false;
    -- one table in place of eight
    if exists (select from gendurable.special) then
        select exists (select from gendurable.doubtful_key), exists (select from gendurable.paused_queue),
            exists (select from gendurable.machine m where m.timeouts is not null), exists (select from gendurable.hold),
            exists (select from gendurable.queue_setting),
            gendurable._has_pauses(),
            exists (select from gendurable.resumed r where r.again_at <= v_now)
        into v_doubts, v_pauses, timed, v_held, v_limits, v_stops, v_resumed;
    end if;
    if v_held then
        return;
    end if;
    if v_doubts then
        perform gendurable._settle_doubts(v_now);
    end if;
    if v_resumed then
        perform gendurable._bring_back_some(null, 500, v_now);
    end if;
    if v_pauses then
        v_paused := array(select q.queue from gendurable.paused_queue q where q.queue = any(p_queues));
    end if;
    if v_limits then
        v_limited := gendurable._find_limited(p_queues);
    end if;
    for v_turn in 1 .. v_count loop
        exit when v_bytes <= 0;
        v_queue := p_queues[1 + (v_from + v_turn - 1) % v_count];
        -- what is ahead of its slots is plain, so a queue with a limit has none
        v_ahead := case
            when p_ahead -> v_queue <> '0' and v_queue = any(v_limited) is not true then (p_ahead -> v_queue)::int
        end;
        continue when (p_limits -> v_queue = '0' and v_ahead is null) or coalesce(v_queue = any(v_paused), false);
        v_room := null;
        v_limit := (p_limits -> v_queue)::int;
        if v_queue = any(v_limited) then
            v_room := gendurable._open_queue(v_queue, v_limit, v_tries, v_now);
            -- the first one that is busy is waited for, no other
            v_tries := case when v_room is null then 1 else v_tries end;
            continue when coalesce(v_room, 0) = 0;
        end if;
        v_got := gendurable._claim_queue(
            p_worker, v_queue, least(v_limit, v_room), v_ahead, gendurable._most_bytes(), p_lease, v_now, v_before,
            v_memory -> (v_queue || v_lane), p_steps, v_stops);
        if v_room is not null and v_got.ids is not null then
            perform gendurable._fill_slots(
                v_queue, v_got.ids, v_room > cardinality(v_got.ids) and (
                    cardinality(v_got.ids) >= v_limit or v_got.bytes <= 0));
            -- they were written, and stand elsewhere
            v_got.places := array(
                select x.ctid
                from unnest(v_got.ids) with ordinality u (id, ord)
                cross join lateral (select i.ctid from gendurable.instance i where i.id = u.id) x
                order by u.ord);
        end if;
        if v_got.ids is not null then
            ids := ids || v_got.ids;
            started := started || v_got.started;
            mail := mail || v_got.mail;
            places := places || v_got.places;
            if v_got.parts is not null then
                parts := coalesce(parts, '{}') || v_got.parts;
            end if;
        end if;
        v_bytes := v_bytes - gendurable._most_bytes() + v_got.bytes;
        v_memory := v_memory || jsonb_build_object(v_queue || v_lane, v_got.known);
    end loop;
    v_text := (v_memory || jsonb_build_object('', jsonb_build_array(gendurable._epoch_us(coalesce(v_before, v_now)))))::text;
    if octet_length(v_text) > gendurable._most_memory() then
        v_text := gendurable._cut_memory(v_text::jsonb, array(select q.queue || v_lane from unnest(p_queues) q (queue)));
    end if;
    -- an assignment is evaluated as an expression, where perform would run a query
    v_text := set_config('gendurable.floor', gendurable._sealed(v_text), false);
end $$;

comment on function gendurable._claim_queues(text, text[], jsonb, interval, jsonb, jsonb, jsonb) is
    'Due rows of each queue, up to its limit and p_ahead more, as of _claim_queue; now: when they were claimed; timed: some machine has
steps with a timeout.';

-- The door through which gd_run claims (241_run): only numbers, since it reads the rows when it runs them.
create or replace function gendurable._claim_run(
    p_worker text, p_queue text, p_limit int, p_lease interval, p_role oid, p_login oid,
    out ids bigint[], out claim_nos bigint[]
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_got record;
begin
    perform gendurable._need_claim(p_worker, p_lease, null);
    perform gendurable._need_text(p_queue, 'p_queue');
    perform gendurable._need_limit(p_limit);
    v_got := gendurable._claim_queues(
        p_worker, array[p_queue], jsonb_build_object(p_queue, p_limit), p_lease,
        gendurable._runnable_steps('sql', p_role, p_login), null, gendurable._recall_memory());
    ids := coalesce(v_got.ids, '{}');
    claim_nos := '{}';
    if ids = '{}' then
        return;
    end if;
    if v_got.started is null or cardinality(v_got.started) < cardinality(ids) then
        perform gendurable._to_executing(
            p_worker, array(select u.id from unnest(ids) u (id) where u.id <> all(coalesce(v_got.started, '{}'))), null,
            v_got.now, p_lease);
    end if;
    if v_got.timed then
        perform gendurable._time_claims(ids, v_got.now);
    end if;
    claim_nos := array(
        select i.claim_no
        from unnest(ids) with ordinality u (id, ord)
        join gendurable.instance i on i.id = any(array[u.id])
        order by u.ord);
end $$;

comment on function gendurable._claim_run(text, text, int, interval, oid, oid) is
    'Starts due instances of a queue whose steps the role can run here: their ids, and the numbers of the claims.';
