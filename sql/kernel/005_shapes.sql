-- The constructors of the private types and of the answers, one each: whoever fills a shape names what it fills, so that an
-- attribute more is a matter of one place. Each is a single expression that the planner inlines, and costs nothing. The JSON
-- shapes that clients see stand in docs/wire.md.
-- Next: 010_errors, what every call asks first.

create or replace function gendurable._new_instance(
    p_ord int, p_fsm text, p_version int, p_step text, p_state jsonb, p_queue text, p_priority int, p_partition_key text,
    p_unique_key text, p_unique_scope text[], p_eligible_at timestamptz, p_delay interval, p_rate_limit text,
    p_weight double precision, p_max_attempts int, p_meta jsonb, p_expires_at timestamptz, p_attributes jsonb
) returns gendurable.new_instance
language sql immutable parallel safe as $$
    select row(
        p_ord, p_fsm, p_version, p_step, p_state, p_queue, p_priority, p_partition_key,
        p_unique_key, p_unique_scope, p_eligible_at, p_delay, p_rate_limit,
        p_weight, p_max_attempts, p_meta, p_attributes, p_expires_at
    )::gendurable.new_instance
$$;

comment on function gendurable._new_instance(
    int, text, int, text, jsonb, text, int, text, text, text[], timestamptz, interval, text, double precision, int, jsonb,
    timestamptz, jsonb
) is
    'An instance that is to be inserted. ord: its position in the call, from 0. null: what its machine says, else the default.';

create or replace function gendurable._send(
    p_id bigint, p_unique_key text, p_name text, p_payload jsonb, p_dedup_key text
) returns gendurable.send
language sql immutable parallel safe as $$
    select row(p_id, p_unique_key, p_name, p_payload, p_dedup_key)::gendurable.send
$$;

comment on function gendurable._send(bigint, text, text, jsonb, text) is
    'A signal that an outcome sends. unique_key: where id is null, to whoever holds it when the signal is delivered.';

create or replace function gendurable._outcome(
    p_ord int, p_id bigint, p_claim_no bigint, p_kind text, p_status gendurable.status = null, p_ends boolean = false,
    p_step text = null, p_state jsonb = null, p_eligible_at timestamptz = null, p_awaits text[] = null,
    p_childs jsonb = null, p_result jsonb = null, p_error text = null, p_consume bigint[] = null, p_rekey boolean = false,
    p_partition_key text = null, p_queue text = null, p_priority int = null, p_rate_limit text = null,
    p_weight double precision = null, p_delayed boolean = false, p_keep boolean = false,
    p_close_ms bigint = null, p_inserts jsonb = null, p_sends gendurable.send[] = null, p_from_step text = null,
    p_from_state jsonb = null, p_traceback text = null, p_attributes jsonb = null, p_journal jsonb = null
) returns gendurable.outcome
language sql immutable parallel safe as $$
    select row(
        p_ord, p_id, p_claim_no, p_kind,
        p_status, p_ends, p_step, p_state,
        p_eligible_at, null, null,
        p_awaits, p_childs, null, p_result, p_error, p_consume,
        p_rekey, p_partition_key, p_queue, p_priority, p_rate_limit, p_weight,
        p_delayed, p_keep,
        p_inserts, p_sends, p_from_step, p_from_state, p_journal, p_traceback, p_attributes,
        p_close_ms, null, null
    )::gendurable.outcome
$$;

comment on function gendurable._outcome(
    int, bigint, bigint, text, gendurable.status, boolean, text, jsonb, timestamptz, text[], jsonb, jsonb, text, bigint[],
    boolean, text, text, int, text, double precision, boolean, boolean, bigint, jsonb, gendurable.send[], text, jsonb, text, jsonb,
    jsonb
) is
    'An outcome, as far as it tells by itself. ord: its position in the batch, from 0; status: where it leads unless the instance
decides otherwise (136_apply); ends: that is an end; eligible_at: when it is due next, of an await its deadline; rekey:
partition_key is the new one, null too; delayed: it is not due at once; keep: the claim is to go on; inserts, sends: what goes out
with it; from_step, from_state: where it was made, if steps were made since the claim; traceback: where its error was raised; attributes: what it
changes of these; journal: what it appends to the journal.';

create or replace function gendurable._candidate(
    p_id bigint, p_eligible_at timestamptz, p_status gendurable.status, p_crashes int, p_plain boolean,
    p_partition_key text, p_slot_no int, p_lane_at timestamptz, p_heavy boolean, p_bare boolean,
    p_rate_limit text, p_weight double precision, p_place timestamptz, p_lined boolean, p_priority int,
    p_scoped boolean, p_over boolean, p_at tid
) returns gendurable.candidate
language sql immutable parallel safe as $$
    select row(
        p_id, p_eligible_at, p_status, p_crashes, p_plain,
        p_partition_key, p_slot_no, p_lane_at, p_heavy, p_bare,
        p_rate_limit, p_weight, p_place, p_lined, p_priority, p_scoped, p_over, p_at
    )::gendurable.candidate
$$;

comment on function gendurable._candidate(
    bigint, timestamptz, gendurable.status, int, boolean, text, int, timestamptz, boolean, boolean, text, double precision,
    timestamptz, boolean, int, boolean, boolean, tid
) is
    'A row that a claim has locked. plain: it has no key, scope, limit or deadline, and has not crashed often, so that no gate
decides about it; heavy: it is worth to measure its text; bare: it has nothing that a start has to look after; place: when it
came to its rate limit; lined: it was taken out of the line there, and is not due; over: its deadline or the timeout of
its step has passed; at: where the row stands, as long as this transaction does not write it.';

-- A set of one row, since only so what stands behind FROM is inlined.
create or replace function gendurable._claimed(
    p_id bigint, p_claim_no bigint, p_fsm text, p_fsm_version int, p_step text, p_state jsonb, p_attempt int, p_queue text,
    p_partition_key text, p_unique_key text, p_parent_id bigint, p_awaits text[], p_timed_out boolean,
    p_signals jsonb, p_childs jsonb, p_meta jsonb, p_attributes jsonb
) returns setof gendurable.claimed
language sql stable parallel safe as $$
    select
        p_id, p_claim_no, p_fsm, p_fsm_version, p_step, p_state, p_attempt, p_queue,
        p_partition_key, p_unique_key, p_parent_id, p_awaits, p_timed_out,
        p_signals, p_childs, p_meta, coalesce(p_attributes, '{}')
$$;

comment on function gendurable._claimed(
    bigint, bigint, text, int, text, jsonb, int, text, text, text, bigint, text[], boolean, jsonb, jsonb, jsonb, jsonb
) is 'What a worker gets of a row that it has claimed, or whose claim it keeps.';

create or replace function gendurable._cron(
    p_minutes int[], p_hours int[], p_days int[], p_months int[], p_weekdays int[], p_either boolean, p_elapsed boolean,
    p_every interval
) returns gendurable.cron
language sql immutable parallel safe as $$
    select row(
        p_minutes, p_hours, p_days, p_months, p_weekdays, p_either, p_elapsed, p_every
    )::gendurable.cron
$$;

comment on function gendurable._cron(int[], int[], int[], int[], int[], boolean, boolean, interval) is
    'A cron expression that was read: sorted values, Sunday is 0. either: a day is meant by either of its fields, else by both;
elapsed: it goes by elapsed time where clocks change, else by the clock; every: all of @every, the rest is null then.';

create or replace function gendurable._answer(p_result text, p_sqlstate text = null, p_message text = null) returns jsonb
language sql stable parallel safe as $$
    select jsonb_build_object('result', p_result, 'detail', case
        when p_message is not null then jsonb_build_object('sqlstate', p_sqlstate, 'message', p_message) end)
$$;

comment on function gendurable._answer(text, text, text) is 'One answer of gd_commit, as it is collected.';

create or replace function gendurable._renewed(
    p_id bigint, p_claim_no bigint, p_step text, p_attempt int, p_signals jsonb, p_attributes jsonb
) returns jsonb
language sql immutable parallel safe as $$
    select jsonb_build_object(
        'id', p_id, 'claim_no', p_claim_no, 'step', p_step, 'attempt', p_attempt, 'signals', p_signals, 'attributes', p_attributes)
$$;

comment on function gendurable._renewed(bigint, bigint, text, int, jsonb, jsonb) is
    'What is new of a kept claim, for the worker of a flow, which has the rest in memory.';

create or replace function gendurable._kept_answer(p_mail boolean) returns jsonb
language sql immutable parallel safe as $$
    select case when p_mail then jsonb '{"kept": "mail"}' else jsonb '{"kept": true}' end
$$;

comment on function gendurable._kept_answer(boolean) is
    'The answer for a claim that goes on, as it is collected: "mail" where the inboxes must be looked at.';
