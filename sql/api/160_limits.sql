-- How many of a partition key may execute at once: a decision, as of kernel/055_doubt.
-- Next: 170_sleep.

create or replace function gd_set_key_limit(p_prefix text, p_limit int) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_prefix, 'p_prefix');
    if p_limit < 1 then
        perform gendurable._invalid('p_limit must be at least 1', 'got ' || p_limit,
            'Pass how many may execute at once, or null to go back to one.');
    end if;
    perform gendurable._announce_decision();
    if p_limit is null then
        delete from gendurable.key_limit l where l.prefix = p_prefix;
    else
        insert into gendurable.key_limit (prefix, max_executing) values (p_prefix, p_limit)
        on conflict (prefix) do update set max_executing = excluded.max_executing;
    end if;
    perform gendurable._outwait_key_holders();
    perform gendurable._carry_out_decision(array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.lane_at is not null and i.slot_no is null
            and (i.partition_key = p_prefix or starts_with(i.partition_key, p_prefix || ':'))
    ), clock_timestamp());
end $$;

comment on function gd_set_key_limit(text, int) is
'How many instances may execute at once for each partition key "prefix" or "prefix:..."; the longest prefix that fits
decides. Null: one again; 2147483647: no limit. Works at once for what waits; what executes above a lowered limit
finishes. Waits as gd_pause_queue does; another that sets this very limit is met with 55P03 after a second. Raises
GD501, GD504.';
