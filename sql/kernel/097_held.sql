-- Finding claims that are held: a held row stays in the index that serves the claims, where its lease is looked at.
-- Next: 098_filter.

create or replace function gendurable._find_held(
    p_worker text, p_place jsonb, p_now timestamptz, p_look int, p_limit int,
    out ids bigint[], out claim_nos bigint[], out place jsonb, out looked int
)
language plpgsql as $$
declare
    v_level record;
    v_row record;
    v_range smallint := coalesce((p_place ->> 2)::smallint, 0::smallint);
    v_after timestamptz := timestamptz '-infinity';
    v_after_id bigint := coalesce((p_place ->> 4)::bigint, 0);
    v_unheld int;
begin
    ids := '{}';
    claim_nos := '{}';
    looked := 0;
    if p_place is null then
        select n.queue, n.priority into v_level from gendurable._skip_to_next_priority('', 0) n;
    else
        select p_place ->> 0 as queue, (p_place ->> 1)::int as priority into v_level;
        v_after := timestamptz 'epoch' + (p_place ->> 3)::bigint * interval '1 microsecond';
    end if;
    while v_level.queue is not null loop
        while v_range <= 1 loop
            -- Held rows became due before what waits behind them: after many rows that nobody holds there are no more.
            v_unheld := 0;
            looked := looked + 1;
            for v_row in
                -- one range of the claims' index, in its order: it is left early
                select i.id, i.eligible_at, i.status, i.worker, i.lease_expires_at, i.claim_no, i.updated_at
                from gendurable.instance i
                where i.queue = v_level.queue and i.priority = v_level.priority and i.woken = v_range
                    and i.eligible_at <= p_now and (i.eligible_at, i.id) > (v_after, v_after_id)
                order by i.eligible_at, i.id
            loop
                looked := looked + 1;
                if v_row.status <> 'executing' then
                    v_unheld := v_unheld + 1;
                    exit when v_unheld >= 1000;
                else
                    v_unheld := 0;
                    if v_row.worker = p_worker or (p_worker is null and (
                        v_row.lease_expires_at <= p_now or gendurable._is_ahead(v_row.updated_at, p_now)))
                    then
                        ids := ids || v_row.id;
                        claim_nos := claim_nos || v_row.claim_no;
                    end if;
                end if;
                if looked >= p_look or cardinality(ids) >= p_limit then
                    place := jsonb_build_array(
                        v_level.queue, v_level.priority, v_range, gendurable._epoch_us(v_row.eligible_at), v_row.id);
                    return;
                end if;
            end loop;
            v_range := v_range + 1::smallint;
            v_after := timestamptz '-infinity';
            v_after_id := 0;
        end loop;
        if looked >= p_look then
            place := jsonb_build_array(v_level.queue, v_level.priority, v_range, 0, 0);
            return;
        end if;
        v_range := 0;
        select n.queue, n.priority into v_level from gendurable._skip_to_next_priority(v_level.queue, v_level.priority) n;
    end loop;
end $$;

comment on function gendurable._find_held(text, jsonb, timestamptz, int, int) is
    'Claims of a worker; for null those that are over, or were made by a clock that was ahead. Up to p_limit of them and of
p_look rows looked at, from p_place on; place: where to go on, null at the end.';
