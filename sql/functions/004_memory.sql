-- What a session remembers of its claims, from one to the next.

-- The memory of a session, {"": [epoch us of its latest claim], queue: {priority: lane, "": [epoch us, cost, where to go
-- on, "{known priorities}"]}}; what a lane is says _open_lane. A hint, as all of this: lost with the session, and unreadable means none.
create or replace function gendurable._recall(p_now timestamptz, out memory jsonb, out seen timestamptz)
language plpgsql stable as $$
begin
    memory := coalesce(nullif(current_setting('gendurable.floor', true), ''), '{}')::jsonb;
    if jsonb_typeof(memory) <> 'object' then
        memory := '{}';
    end if;
    if ((memory -> '') ->> 0)::numeric > gendurable._epoch_us(p_now) + 1000000 then
        seen := timestamptz 'epoch' + ((memory -> '') ->> 0)::bigint * interval '1 microsecond';
    end if;
exception when data_exception or program_limit_exceeded then
    memory := '{}';
    seen := null;
end $$;

comment on function gendurable._recall(timestamptz) is
    'What this session remembers of its scans. seen: the time of its latest claim, where that lies in the future: the clock was set
back. Else null.';

create or replace function gendurable._remember(p_memory jsonb, p_queues text[]) returns void
language plpgsql as $$
declare
    v_most constant int := 100000;
    v_text text := p_memory::text;
begin
    -- It is read and written as a whole in each claim: what was asked long ago, and then all, is not worth what that costs.
    if octet_length(v_text) > v_most then
        v_text := (select jsonb_object_agg(m.key, m.value) from jsonb_each(p_memory) m where m.key = any(p_queues || ''::text))::text;
    end if;
    perform set_config('gendurable.floor', case when octet_length(v_text) > v_most then '' else v_text end, false);
end $$;

comment on function gendurable._remember(jsonb, text[]) is 'Keeps the memory for the next claim of this session.';

create or replace function gendurable._open_queue(
    p_known jsonb, p_now_us bigint, out at bigint, out cost bigint, out behind bigint, out looks boolean, out known int[]
)
language plpgsql stable as $$
declare
    v_place constant jsonb := p_known -> '';
begin
    at := coalesce((v_place ->> 0)::bigint, 0);
    cost := coalesce((v_place ->> 1)::bigint, 0);
    behind := coalesce((v_place ->> 2)::bigint, -2147483649);
    if at > p_now_us or at < 0 or cost < 0 then
        at := 0;
        cost := 0;
    end if;
    -- Where dead entries are held in the index, the look for priorities may be rationed, as a full scan is.
    looks := cost <= 20 * gendurable._dear() or p_now_us - at >= gendurable._ration(cost);
    known := coalesce((v_place ->> 3)::int[], '{}');
exception when data_exception then
    at := 0;
    cost := 0;
    behind := -2147483649;
    looks := true;
    known := '{}';
end $$;

comment on function gendurable._open_queue(jsonb, bigint) is
    'When a queue''s priorities were last looked for and what that cost, behind which of them this claim begins, whether they may
be looked for now, and which are known.';

create or replace function gendurable._open_lane(
    p_lane jsonb, p_now_us bigint, out floor_us bigint[], out floor_id bigint[], out full_at bigint, out full_cost bigint,
    out turn int
)
language plpgsql stable as $$
begin
    -- [[epoch us, id] of range 0, of range 1: up to where it was examined, epoch us of the last full scan, what it walked,
    -- which range is first]
    floor_us := array[coalesce((p_lane #>> '{0,0}')::bigint, 0), coalesce((p_lane #>> '{1,0}')::bigint, 0)];
    floor_id := array[coalesce((p_lane #>> '{0,1}')::bigint, 0), coalesce((p_lane #>> '{1,1}')::bigint, 0)];
    full_at := coalesce((p_lane ->> 2)::bigint, 0);
    full_cost := coalesce((p_lane ->> 3)::bigint, 0);
    turn := coalesce((p_lane ->> 4)::int, (random() < 0.5)::int);
    -- a floor in the future (the clock was set back) is no floor
    for v_range in 1 .. 2 loop
        if floor_us[v_range] not between 0 and p_now_us then
            floor_us[v_range] := 0;
            floor_id[v_range] := 0;
        end if;
    end loop;
    if full_at not between 0 and p_now_us or full_cost < 0 then
        full_at := 0;
        full_cost := 0;
    end if;
exception when data_exception then
    floor_us := '{0,0}';
    floor_id := '{0,0}';
    full_at := 0;
    full_cost := 0;
    turn := 0;
end $$;

comment on function gendurable._open_lane(jsonb, bigint) is 'What is remembered of a lane, as far as it can be believed.';

create or replace function gendurable._walked() returns bigint
language sql stable parallel safe as $$
    select pg_stat_get_xact_tuples_returned('gendurable.instance_due'::regclass)
$$;

comment on function gendurable._walked() is
    'Entries of the claims'' index that this session has walked over, dead ones too: what a scan cost, however busy the machine is.';

create or replace function gendurable._dear() returns bigint
language sql immutable parallel safe as $$
    select 1000::bigint
$$;

comment on function gendurable._dear() is 'Index entries from which on a scan is expensive: worth to remember where it stood.';

create or replace function gendurable._ration(p_walked bigint) returns bigint
language sql immutable parallel safe as $$
    -- half a microsecond an entry
    select least(p_walked * 25 / 2, 2000000)
$$;

comment on function gendurable._ration(bigint) is
    'Microseconds until something may be done again that walks so many index entries: 4 % of the time, and never later than two
seconds.';

create or replace function gendurable._next_priority(
    p_queue text, p_behind bigint, p_known int, p_looks boolean, out priority int, out cost bigint
)
language plpgsql as $$
declare
    v_before bigint;
begin
    cost := 0;
    if p_looks then
        v_before := gendurable._walked();
        select i.priority into priority
        from gendurable.instance i
        where i.queue = p_queue and i.eligible_at is not null
            and i.priority > p_behind and i.priority < coalesce(p_known::bigint, 2147483648)
        order by i.queue, i.priority
        limit 1;
        cost := gendurable._walked() - v_before;
    end if;
    priority := coalesce(priority, p_known);
end $$;

comment on function gendurable._next_priority(text, bigint, int, boolean) is
    'The first priority of a queue behind another that has rows for a claim, or p_known, the next one that is known and has its
own place to begin at; what the look walked over.';
