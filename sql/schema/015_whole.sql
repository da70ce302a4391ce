-- The checks of an instance, as one function: each statement that writes a row reads the text of all check constraints anew,
-- as the catalog keeps it, and sets them up. Of a call of one row that was a third, when they stood in the table one by one
-- (docs/performance.md, "The checks as one function"). A constraint is not broken by null, so neither is one of these.
-- The order of the statuses is used: from done on they are terminal.
create or replace function gendurable._is_whole(
    p_status gendurable.status, p_attempt int, p_crashes int, p_woken smallint, p_eligible_at timestamptz, p_lane_at timestamptz,
    p_bucket_at timestamptz, p_aside_at timestamptz, p_deadline_at timestamptz, p_lease_expires_at timestamptz, p_worker text,
    p_awaits text[], p_children_pending int, p_partition_key text, p_slot_no int, p_rate_limit text, p_unique_key text,
    p_unique_held text, p_unique_scope gendurable.status[], p_finished_at timestamptz, p_failed_at timestamptz, p_keep_until timestamptz,
    p_step text, p_aside_step text
) returns boolean
language plpgsql immutable parallel safe as $$
begin
    return (
        -- numbers and times
        (p_attempt >= 0 and p_crashes >= 0 and p_children_pending >= 0 and p_woken in (0, 1)) is not false
        and (pg_catalog.isfinite(p_eligible_at) and pg_catalog.isfinite(p_lane_at)) is not false
        -- what a status needs
        and case p_status
            when 'runnable' then coalesce(p_eligible_at, p_lane_at, p_bucket_at, p_aside_at) is not null
            when 'executing' then p_eligible_at is not null
            when 'awaiting_signal' then coalesce(pg_catalog.cardinality(p_awaits) > 0, false)
            when 'awaiting_children' then coalesce(p_children_pending > 0, false)
            else true
        end
        and (p_finished_at is not null) = (p_status >= 'done')
        and (p_failed_at is not null) = (p_status > 'done')
        and (p_keep_until is null or p_status >= 'done')
        -- a claim
        and (p_status = 'executing') = (p_worker is not null)
        and (p_worker is null) = (p_lease_expires_at is null)
        -- what has no turn to come has no place in its key, and is due only to carry the key's baton
        and (
            p_status < 'awaiting_children'
            or (p_lane_at is null and (p_eligible_at is null or p_partition_key is not null))
        )
        -- a key
        and case
            when p_partition_key is null then p_slot_no is null and p_lane_at is null
            else
                (p_worker is null) = (p_slot_no is null)
                and (
                    coalesce(p_lane_at, p_aside_at) is not null
                    or not (p_status = 'runnable' or (p_status = 'awaiting_signal' and p_deadline_at is not null))
                )
        end
        -- who is aside is found by the step at which it stands
        and (p_aside_at is null or coalesce(p_aside_step = p_step, false))
        -- who stands in a line is found by its bell alone
        and (p_bucket_at is null or (p_status = 'runnable' and p_eligible_at is null and p_rate_limit is not null))
        -- who holds a unique key
        and (
            p_unique_held is null
            or (coalesce(p_unique_held = p_unique_key, false) and (p_unique_scope is not null or p_status < 'done'))
        )
    );
end $$;

comment on function gendurable._is_whole(
    gendurable.status, int, int, smallint, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, text, text[],
    int, text, int, text, text, text, gendurable.status[], timestamptz, timestamptz, timestamptz, text, text
) is
    'Whether the columns of an instance fit together. In the check of gendurable.instance.';
