-- A claim's way through one queue: its priorities in order, those that the session knows and those that are new.
-- Invariant 2. Next: 112_scan, one of them.

create or replace function gendurable._claim_queue(
    p_worker text, p_queue text, p_limit int, p_ahead int, p_bytes bigint, p_lease interval, p_now timestamptz, p_before timestamptz,
    p_known jsonb, p_steps jsonb, p_stops boolean, out ids bigint[], out started bigint[], out mail boolean[], out parts jsonb,
    out bytes bigint, out known jsonb, out places tid[]
)
language plpgsql as $$
declare
    v_now_us constant bigint := gendurable._epoch_us(p_now);
    v_limit int := least(p_limit + coalesce(p_ahead, 0)::bigint, 100000);
    -- of so many at most any row will do, of the others only plain ones; null: there are no others
    v_any constant int := case when p_ahead is not null then least(p_limit, 100000) end;
    v_looks constant boolean := gendurable._may_look(p_known, v_now_us);
    v_known constant int[] := coalesce((p_known #>> '{"",3}')::int[], '{}');
    v_behind bigint := coalesce((p_known #>> '{"",2}')::bigint, -2147483649);
    v_new int[] := v_known;
    v_at int := 1;
    v_walked bigint;
    v_cost bigint;
    v_levels int := 0;
    v_more boolean;
    v_jumps boolean;
    v_smooth boolean;
    v_priority int;
    v_got record;
begin
    bytes := p_bytes;
    known := coalesce(p_known, '{}');
    loop
        if v_levels >= 64 and v_levels >= (case when ids is null then 1000 else 64 end) then
            v_more := true;                        -- enough for one claim: the next one goes on from here
            exit;
        end if;
        while v_known[v_at] <= v_behind loop
            v_at := v_at + 1;
        end loop;
        v_priority := null;
        if v_looks then
            v_walked := gendurable._walked();
            v_priority := gendurable._find_next_priority(p_queue, v_behind, v_known[v_at]);
            v_cost := greatest(v_cost, gendurable._walked() - v_walked);
        end if;
        v_priority := coalesce(v_priority, v_known[v_at]);
        v_behind := v_priority;
        exit when v_priority is null;
        v_levels := v_levels + 1;
        v_got := gendurable._scan_priority(p_worker, p_queue, v_priority, v_limit - coalesce(cardinality(ids), 0),
            v_any - coalesce(cardinality(ids), 0), bytes, p_lease, p_now, p_before, p_known -> v_priority::text, p_steps, p_stops);
        if v_got.ids is not null then
            ids := ids || v_got.ids;
            started := started || v_got.started;
            mail := mail || v_got.mail;
            places := places || v_got.places;
            if v_got.parts is not null then
                parts := coalesce(parts, '{}') || v_got.parts;
            end if;
        end if;
        if v_got.memory is not null then
            known := known || jsonb_build_object(v_priority, v_got.memory);
            if v_known[v_at] is distinct from v_priority then
                v_new := v_new || v_priority;
            end if;
        elsif v_looks and v_known[v_at] = v_priority then
            known := known - v_priority::text;
            v_new := array_remove(v_new, v_priority);
        end if;
        bytes := v_got.bytes;
        v_more := v_more or v_got.more;
        v_jumps := v_jumps or v_got.jumps;
        v_smooth := v_levels = 1 and v_got.smooth and v_cost <= gendurable._dear();
        if v_got.mixed then
            v_limit := v_any;
        end if;
        exit when coalesce(cardinality(ids), 0) >= v_limit or bytes <= 0;
    end loop;
    if v_jumps and v_levels > 1 then
        -- a line that opened meanwhile gave rows of earlier priorities
        select array_agg(u.id order by i.priority, u.ord), array_agg(u.mail order by i.priority, u.ord) into ids, mail
        from unnest(ids, mail) with ordinality u (id, mail, ord)
        join gendurable.instance i on i.id = any(array[u.id]);
    end if;
    if v_new <> v_known then
        v_new := array(select n from unnest(v_new) n order by n);
    end if;
    known := known || jsonb_build_object('', jsonb_build_array(
        case when v_looks then v_now_us else (p_known #>> '{"",0}')::bigint end,
        case when v_looks then v_cost else (p_known #>> '{"",1}')::bigint end,
        case when v_levels >= 64 then v_behind end, v_new::text,
        -- the first priority, if the next claim may try the short way there
        case when v_smooth and v_new[1] = v_priority then v_priority end));
    if v_more and coalesce(cardinality(ids), 0) < v_limit then
        -- It looked at enough for one claim, and there is more. Not _wake: that does not see the caller's own lock, and
        -- who claims here is often the only one who sleeps.
        perform gendurable._notify_listeners(p_queue);
    end if;
end $$;

comment on function gendurable._claim_queue(
    text, text, int, int, bigint, interval, timestamptz, timestamptz, jsonb, jsonb, boolean
) is
    'Due rows of a queue by priority, as of _scan, up to p_limit rows and about p_bytes bytes (bytes: what is left of them). known:
what to remember of the queue.';
