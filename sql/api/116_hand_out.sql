-- What a worker gets: the claim is written, and the rows are put together with their inboxes and children. A claim
-- carries a bounded number of bytes, and a row that cannot be handed out costs nobody else anything.
-- Next: 117_close.

create or replace function gendurable._load_round(
    p_ids bigint[], p_slots int[], p_heavy boolean[], p_bytes bigint, p_now timestamptz,
    out ids bigint[], out slots int[], out mail boolean[], out parts jsonb, out bytes bigint, out last_id bigint
)
language plpgsql as $$
declare
    v_heavy boolean[] := p_heavy;
begin
    ids := p_ids;
    slots := p_slots;
    bytes := p_bytes;
    -- Asked after the rows were locked: a signal that came before is here, and none comes now. A limit and not exists, which
    -- could become one hash of the whole table.
    mail := array(
        select (select true from gendurable.signal s where s.instance_id = m.id limit 1)
        from unnest(p_ids) with ordinality m (id, ord)
        order by m.ord);
    if true = any(mail) then
        v_heavy := array(
            select u.heavy or (u.mail and gendurable._has_large_inbox(u.id))
            from unnest(p_ids, p_heavy, mail) with ordinality u (id, heavy, mail, ord)
            order by u.ord);
    end if;
    if true = any(v_heavy) or not gendurable._carries_all() then
        select p.ids, p.slots, p.mail, p.parts, p.bytes, p.last_id into ids, slots, mail, parts, bytes, last_id
        from gendurable._take_portion(p_ids, p_slots, v_heavy, mail, p_bytes, p_now) p;
    end if;
end $$;

comment on function gendurable._load_round(bigint[], int[], boolean[], bigint, timestamptz) is
    'As many of locked rows as fit into p_bytes. mail: whether a row has signals; parts and last_id as of _portion.';

create or replace function gendurable._take_portion(
    p_ids bigint[], p_slots int[], p_heavy boolean[], p_mail boolean[], p_bytes bigint, p_now timestamptz,
    out ids bigint[], out slots int[], out mail boolean[], out parts jsonb, out bytes bigint, out last_id bigint
)
language plpgsql as $$
declare
    v_carries constant boolean := gendurable._carries_all();
    v_sizes bigint[];
    v_behind int := 0;                             -- how many rows stand before those that v_sizes tells of
    v_sized int := 0;                              -- and up to which one it tells
    v_bytes bigint;
    v_problem text;
    v_inbox jsonb;
    v_childs jsonb;
begin
    ids := '{}';
    slots := '{}';
    mail := '{}';
    parts := '{}';
    bytes := p_bytes;
    for v_at in 1 .. cardinality(p_ids) loop
        v_bytes := 0;
        v_problem := null;
        v_inbox := null;
        v_childs := null;
        if v_carries and v_at > v_sized then
            v_behind := v_at - 1;
            v_sizes := gendurable._weigh_plain(p_ids[v_at:]);
            v_sized := v_behind + coalesce(cardinality(v_sizes), 1);
        end if;
        if p_mail[v_at] is not true and v_sizes[v_at - v_behind] < 256000000 then
            v_bytes := v_sizes[v_at - v_behind];
        elsif p_heavy[v_at] or not v_carries then
            select w.bytes, w.problem, w.inbox, w.childs into v_bytes, v_problem, v_inbox, v_childs
            from gendurable._weigh_row(p_ids[v_at], v_carries) w;
        end if;
        if v_problem <> '' then
            if gendurable._end_failed(array[p_ids[v_at]], v_problem, false, p_now) = 0 then
                -- its parent is locked: to find out as much in each claim until then would be dear
                update gendurable.instance i set eligible_at = p_now + interval '5 seconds' where i.id = p_ids[v_at];
            end if;
        end if;
        continue when v_problem is not null;
        if v_bytes > bytes and ids <> '{}' then
            bytes := 0;                            -- it is the first one of another claim
        else
            bytes := bytes - v_bytes;
            ids := ids || p_ids[v_at];
            slots := slots || p_slots[v_at];
            mail := mail || p_mail[v_at];
            if v_inbox is not null then
                -- flat: each level that stands around many children is written once more
                parts := parts || jsonb_build_object(p_ids[v_at], v_inbox, -p_ids[v_at], v_childs);
            end if;
        end if;
        if bytes <= 0 then
            last_id := ids[cardinality(ids)];
            return;
        end if;
    end loop;
end $$;

comment on function gendurable._take_portion(bigint[], int[], boolean[], boolean[], bigint, timestamptz) is
    'The first of the rows that fit into one claim, and {id: inbox, -id: children} of those that are not small; ends those that
cannot be handed out to anybody. last_id: where it had enough, null at the end.';

create or replace function gendurable._weigh_plain(p_ids bigint[]) returns bigint[]
language plpgsql stable as $$
begin
    -- One after the other is three times as dear for many small ones. By the stored size, which is known without a look:
    -- the first megabyte, since there is room for some more only, and compressed ones are far longer than that.
    return array(
        select case when x.children_pending is null then octet_length(x.state::text) + octet_length(x.meta::text) end
        from (
            select u.ord, i.state, i.meta, i.children_pending,
                sum(pg_column_size(i.state) + pg_column_size(i.meta)) over (order by u.ord) as stored
            from unnest(p_ids[:1000]) with ordinality u (id, ord)
            join gendurable.instance i on i.id = any(array[u.id])
        ) x
        where x.ord = 1 or x.stored <= 1000000
        order by x.ord);
exception when program_limit_exceeded then
    return null;
end $$;

comment on function gendurable._weigh_plain(bigint[]) is
    'The bytes of state and meta as text of the first of these rows, as many as it is worth to ask at once: null for a row with
children. Null where one of them has no text, being too long.';

create or replace function gendurable._weigh_row(
    p_id bigint, p_carries boolean, out bytes bigint, out problem text, out inbox jsonb, out childs jsonb
)
language plpgsql stable as $$
declare
    v_row record;
begin
    select i.state, i.meta, i.attributes, i.awaits, i.children_pending, i.fsm, i.step, i.queue, i.partition_key, i.unique_key
    into v_row
    from gendurable.instance i
    where i.id = p_id;
    bytes := gendurable._text_bytes(v_row.state) + gendurable._text_bytes(v_row.meta);
    if bytes is null or bytes > 256000000 then
        problem := 'state and meta are too large to be handed out' || coalesce(format(': %s bytes', bytes), '');
        return;
    end if;
    inbox := gendurable._present_inbox(p_id, v_row.awaits);
    childs := case when v_row.children_pending is not null then gendurable._present_children(p_id) else '[]' end;
    bytes := bytes + gendurable._text_bytes(inbox) + gendurable._text_bytes(childs);
    if bytes is null then
        problem := 'inbox and children are too large to be handed out';
        return;
    end if;
    if not p_carries and not (
        gendurable._can_carry(v_row.state::text) and gendurable._can_carry(v_row.meta::text)
        and gendurable._can_carry(inbox::text) and gendurable._can_carry(childs::text)
        and gendurable._can_carry(concat(v_row.fsm, v_row.step, v_row.queue, v_row.partition_key, v_row.unique_key,
            v_row.awaits::text, v_row.attributes::text))
    ) then
        problem := case
            when pg_client_encoding() = 'UTF8' then 'it holds text that is not valid in UTF8, and cannot be handed out'
            else ''
        end;
    end if;
end $$;

comment on function gendurable._weigh_row(bigint, boolean) is
    'The inbox and the children of a row that is to be handed out, the bytes of all, and why it cannot be handed out: empty where
only this session cannot take it.';

create or replace function gendurable._hand_out(
    p_worker text, p_ids bigint[], p_started bigint[], p_mail boolean[], p_parts jsonb, p_now timestamptz, p_lease interval
) returns setof gendurable.claimed
language plpgsql as $$
#variable_conflict use_column
begin
    if p_started is null then
        perform gendurable._to_executing(p_worker, p_ids, null, p_now, p_lease);
    elsif cardinality(p_started) < cardinality(p_ids) then
        perform gendurable._to_executing(
            p_worker, array(select u.id from unnest(p_ids) u (id) where u.id <> all(p_started)), null, p_now, p_lease);
    end if;
    return query
        select c.*
        from unnest(p_ids, p_mail) with ordinality w (id, mail, ord)
        join gendurable.instance m on m.id = any(array[w.id])
        cross join lateral gendurable._claimed(
            p_id => m.id, p_claim_no => m.claim_no, p_fsm => m.fsm, p_fsm_version => m.fsm_version, p_step => m.step,
            p_state => m.state, p_attempt => m.attempt, p_queue => m.queue, p_partition_key => m.partition_key,
            p_unique_key => m.unique_key, p_parent_id => m.parent_id, p_awaits => m.awaits,
            p_timed_out => m.deadline_at is not null and m.deadline_at <= p_now,
            p_signals => case
                when w.mail then coalesce(p_parts -> m.id::text, gendurable._present_inbox(m.id, m.awaits))
                else '[]'
            end,
            p_childs => case when m.children_pending is null then '[]' else p_parts -> (-m.id)::text end,
            p_meta => m.meta, p_attributes => m.attributes) c
        order by w.ord;
end $$;

comment on function gendurable._hand_out(text, bigint[], bigint[], boolean[], jsonb, timestamptz, interval) is
    'Begins the claims that have not begun (p_started: those that have), and hands all of them out, in the order of p_ids.';
