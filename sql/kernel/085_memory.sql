-- What a session remembers of its claims, from one to the next: hints, lost with the session. They stand in one setting, {"":
-- [epoch us of its latest claim], queue: {priority: floors, "": [epoch us of the last look for priorities, what it walked, where
-- to go on, "{known priorities}", the first of these where the next claim may try the short way]}}; floors are [[epoch us, id] of
-- range 0, of range 1: up to where it was examined, epoch us of the last full scan, what it walked, which range is first].
-- Next: 086_pauses.

create or replace function gendurable._sealed(p_memory text) returns text
language sql immutable parallel safe as $$
    -- Whoever sets the setting to something else has none: what bears its own hash was written here, and is read without a
    -- look at its shape.
    select hashtextextended(p_memory, gendurable._lock_of_scans())::text || ':' || p_memory
$$;

comment on function gendurable._sealed(text) is 'The memory as it stands in the setting gendurable.floor.';

create or replace function gendurable._opened(p_sealed text) returns jsonb
language sql immutable parallel safe as $$
    select case
        when p_sealed = gendurable._sealed(substr(p_sealed, position(':' in p_sealed) + 1))
            then substr(p_sealed, position(':' in p_sealed) + 1)
        else '{}'
    end::jsonb
$$;

comment on function gendurable._opened(text) is 'What was sealed; what nobody here wrote is nothing.';

create or replace function gendurable._recall_memory() returns jsonb
language sql stable parallel restricted as $$
    select gendurable._opened(current_setting('gendurable.floor', true))
$$;

comment on function gendurable._recall_memory() is 'What this session remembers of its scans.';

create or replace function gendurable._cut_memory(p_memory jsonb, p_queues text[]) returns text
language plpgsql immutable as $$
declare
    v_text constant text := (
        select jsonb_object_agg(m.key, m.value) from jsonb_each(p_memory) m where m.key = any(p_queues || ''::text));
begin
    return case when octet_length(v_text) > gendurable._most_memory() then '{}' else v_text end;
end $$;

comment on function gendurable._cut_memory(jsonb, text[]) is
    'What is kept of too large a memory: that of the queues which are asked for now, and if that is too much, nothing.';

create or replace function gendurable._past(p_us text, p_now_us bigint) returns bigint
language sql immutable parallel safe as $$
    select case when p_us::bigint between 0 and p_now_us then p_us::bigint else 0 end
$$;

comment on function gendurable._past(text, bigint) is
    'A remembered time; 0 for none, and for one in the future: the clock was set back, and a floor there is no floor.';

create or replace function gendurable._seen(p_memory jsonb, p_now timestamptz) returns timestamptz
language sql stable parallel safe as $$
    select case
        when (p_memory #>> '{"",0}')::bigint > gendurable._epoch_us(p_now) + 1000000
            then timestamptz 'epoch' + (p_memory #>> '{"",0}')::bigint * interval '1 microsecond'
    end
$$;

comment on function gendurable._seen(jsonb, timestamptz) is
    'The time of the latest claim of this session, where that lies in the future: the clock was set back. Else null.';

create or replace function gendurable._walked() returns bigint
language sql volatile parallel restricted as $$
    -- volatile, as what it asks is: else it could not be inlined, and would be planned anew in each transaction
    select pg_stat_get_xact_tuples_returned('gendurable.instance_due'::regclass)
$$;

comment on function gendurable._walked() is
    'Entries of the claims'' index that this session has walked over, dead ones too: what a scan cost, however busy the machine is.';

create or replace function gendurable._ration(p_walked bigint) returns bigint
language sql immutable parallel safe as $$
    -- half a microsecond an entry
    select least(p_walked * 25 / 2, 2000000)
$$;

comment on function gendurable._ration(bigint) is
    'Microseconds until something may be done again that walks so many index entries: 4 % of the time, and never later than two
seconds.';

create or replace function gendurable._is_full_due(p_since_us bigint, p_walked bigint, p_times int) returns boolean
language sql immutable parallel safe as $$
    select p_since_us >= p_times * greatest(gendurable._scan_pause_us(), gendurable._ration(p_walked))
$$;

comment on function gendurable._is_full_due(bigint, bigint, int) is
    'Whether the last full scan, which walked so many entries, is longer ago than p_times the pause that belongs to that.';

create or replace function gendurable._next_floor(
    p_at_us bigint, p_at_id bigint, p_floor_us bigint, p_floor_id bigint, p_now_us bigint
) returns jsonb
language sql stable parallel safe as $$
    select case
        when p_at_us < p_floor_us then jsonb_build_array(p_floor_us, p_floor_id)
        when p_at_us > p_now_us - gendurable._floor_margin_us()
            then jsonb_build_array(greatest(p_now_us - gendurable._floor_margin_us(), 0), 0)
        else jsonb_build_array(greatest(p_at_us, 0), p_at_id)
    end
$$;

comment on function gendurable._next_floor(bigint, bigint, bigint, bigint, bigint) is
    'The floor of a range behind a scan that examined it up to p_at: never lower, and never nearer to now than its margin.';

create or replace function gendurable._may_look(p_known jsonb, p_now_us bigint) returns boolean
language sql immutable parallel safe as $$
    -- where dead entries are held in the index, the look for priorities is rationed as a full scan is
    select coalesce((p_known #>> '{"",1}')::bigint, 0) <= 20 * gendurable._dear()
        or p_now_us - gendurable._past(p_known #>> '{"",0}', p_now_us) >= gendurable._ration((p_known #>> '{"",1}')::bigint)
$$;

comment on function gendurable._may_look(jsonb, bigint) is 'Whether a claim may look for priorities that the session does not know.';

create or replace function gendurable._find_next_priority(p_queue text, p_behind bigint, p_known int) returns int
language plpgsql as $$
begin
    return (
        select i.priority
        from gendurable.instance i
        where i.queue = p_queue and i.eligible_at is not null
            and i.priority > p_behind and i.priority < coalesce(p_known::bigint, 2147483648)
        order by i.queue, i.priority
        limit 1);
end $$;

comment on function gendurable._find_next_priority(text, bigint, int) is
    'The first priority of a queue behind another that has rows for a claim, before p_known, the next one that is known and has
its own place to begin at.';

create or replace function gendurable._skip_to_next_priority(p_queue text, p_priority int, out queue text, out priority int)
language plpgsql stable as $$
begin
    -- A skip scan: one probe of the claims' index a priority, whatever is in it and whatever priorities were ever used.
    select i.queue, i.priority into queue, priority
    from gendurable.instance i
    where i.eligible_at is not null and (i.queue, i.priority) > (p_queue, p_priority)
    order by i.queue, i.priority
    limit 1;
end $$;

comment on function gendurable._skip_to_next_priority(text, int) is
    'The next queue and priority that have rows which somebody is to look at, now or later; null behind the last.';
