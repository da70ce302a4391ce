-- What a claim does with due rows that are paused (kernel/086_pauses), whether its scan has found them or the gate in a line. Only
-- where something is paused it looks. Next: the worker runs the step, renews the claim (120_lease), and commits (130_commit).

create or replace function gendurable._set_paused_aside(
    p_picked gendurable.candidate[], p_queue text, p_now timestamptz, out candidates gendurable.candidate[], out keys int
)
language plpgsql as $$
declare
    v_paused bigint[];
    v_lost bigint[];
    v_keys text[];
    v_buckets text[];
    v_ids bigint[];
begin
    candidates := p_picked;
    keys := 0;
    -- whose time is up ends, and chores are done, paused or not
    v_paused := gendurable._find_paused(array(
        select c.id
        from unnest(p_picked) c
        where c.id > 0 and c.over is not true
            and not gendurable._is_chore(c.status, c.crashes, c.partition_key, c.lane_at, p_now)));
    if v_paused = '{}' then
        return;
    end if;
    select coalesce(array_agg(c.id) filter (where c.status = 'executing'), '{}'),
        coalesce(array_agg(distinct c.partition_key) filter (where c.partition_key is not null), '{}'),
        coalesce(array_agg(distinct c.rate_limit) filter (where c.lined), '{}')
    into v_lost, v_keys, v_buckets
    from unnest(p_picked) c
    where c.id = any(v_paused);
    candidates := array(select c from unnest(p_picked) c where c.id <> all(v_paused));
    if v_lost <> '{}' then
        -- their workers were lost: they are given back first
        perform gendurable._free_expired(v_lost, clock_timestamp());
    end if;
    if v_keys <> '{}' then
        v_keys := gendurable._try_keys(array(select k from unnest(v_keys) k order by k), 1);
        keys := cardinality(v_keys);
    end if;
    v_ids := array(
        select i.id
        from gendurable.instance i
        where i.id = any(v_paused) and i.status in ('runnable', 'awaiting_signal')
            and (i.partition_key is null or i.partition_key = any(v_keys)));
    if keys > 0 or v_buckets <> '{}' then
        -- those that stand behind them: else each would be lifted or rung for, and met, by itself
        v_ids := v_ids || gendurable._find_paused_behind(v_keys, v_buckets, p_queue);
    end if;
    perform gendurable._set_aside(v_ids, p_now);
end $$;

comment on function gendurable._set_paused_aside(gendurable.candidate[], text, timestamptz) is
    'Sets those of the picked rows aside that are paused, as far as their keys are free; the others. keys: how many keys it has locked.';
