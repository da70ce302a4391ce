-- What stands first in the index that serves the claims: several checks of the doctor look there.
-- Next: 900_access.

create or replace function gendurable._look_at_queues(p_now timestamptz)
returns table (queue text, due_at timestamptz, held int, lost_at timestamptz, lost bigint[], ahead bigint[])
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_queues text[];
    v_priorities int[];
    v_each int;
begin
    select array_agg(l.queue), array_agg(l.priority) into v_queues, v_priorities
    from (
        with recursive l as (
            (select i.queue, i.priority from gendurable.instance i
                where i.eligible_at is not null
                order by i.queue, i.priority limit 1)
            union all
            select n.queue, n.priority
            from l
            cross join lateral (
                select i.queue, i.priority from gendurable.instance i
                where i.eligible_at is not null and (i.queue, i.priority) > (l.queue, l.priority)
                order by i.queue, i.priority limit 1
            ) n
        )

        select l.queue, l.priority from l limit 500
    ) l;
    -- 5,000 rows in all
    v_each := greatest(2, least(200, 2500 / greatest(coalesce(cardinality(v_queues), 1), 1)));
    return query
        select h.queue,
            min(h.eligible_at) filter (where h.status <> 'executing'),
            (count(*) filter (where h.status = 'executing' and h.lives))::int,
            min(h.lease_expires_at) filter (where h.status = 'executing' and not h.lives),
            coalesce(array_agg(h.id) filter (where h.status = 'executing' and not h.lives), '{}'),
            coalesce(array_agg(h.id) filter (where gendurable._is_ahead(h.updated_at, p_now)), '{}')
        from (
            select x.queue, x.eligible_at, x.status, x.id, x.updated_at, x.lease_expires_at,
                x.lease_expires_at > p_now - interval '1 minute' or gendurable._is_renewed(x.id, x.claim_no, p_now) as lives
            from unnest(v_queues, v_priorities) l (queue, priority)
            cross join (values (0::smallint), (1::smallint)) w (woken)
            cross join lateral (
                select i.queue, i.eligible_at, i.status, i.id, i.updated_at, i.lease_expires_at, i.claim_no
                from gendurable.instance i
                where i.queue = l.queue and i.priority = l.priority and i.woken = w.woken and i.eligible_at <= p_now
                order by i.eligible_at, i.id
                limit v_each
            ) x
        ) h
        group by h.queue;
end $$;

comment on function gendurable._look_at_queues(timestamptz) is
    'The first due rows of each queue, 5,000 in all: since when one waits that nobody holds, how many claims live, which were lost for
a minute and more, and which rows were written in the future.';
