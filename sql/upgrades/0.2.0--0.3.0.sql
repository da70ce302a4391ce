-- From 0.2.0 to 0.3.0: what changed in the tables. The functions are made anew after this.

-- What the coming releases need of the private types, all at once

alter type gendurable.new_instance add attribute attributes jsonb, add attribute expires_at timestamptz;

alter type gendurable.outcome
add attribute inserts jsonb, add attribute signals jsonb, add attribute from_step text, add attribute from_state jsonb,
add attribute journal jsonb, add attribute traceback text, add attribute attributes jsonb, add attribute close_ms bigint;

alter type gendurable.candidate
add attribute rate_limit text, add attribute weight double precision, add attribute place timestamptz,
add attribute lined boolean;

-- What the columns of the views mean

comment on view gd_instances is 'Every instance.';

comment on column gd_instances.id is 'how all functions call it';
comment on column gd_instances.fsm is 'the machine''s name';
comment on column gd_instances.fsm_version is 'the machine''s version, that of the insert';
comment on column gd_instances.step is 'the step that runs now or next, or where it ended';
comment on column gd_instances.status is
'"runnable", "executing", "awaiting_signal", "awaiting_children", "done", "failed" or "cancelled"';
comment on column gd_instances.queue is 'where workers look for it';
comment on column gd_instances.priority is 'lower runs earlier';
comment on column gd_instances.eligible_at is
'when a worker looks at it next; null while it is parked, waits in its key, or has ended';
comment on column gd_instances.attempt is '0 in the step''s first run';
comment on column gd_instances.crashes is 'how often in a row its claim was lost; at 20 it ends as "failed"';
comment on column gd_instances.worker is 'who holds its claim, null: nobody';
comment on column gd_instances.lease_expires_at is 'when that claim is taken back, unless it is renewed or committed';
comment on column gd_instances.awaits is 'the names of the signals that it awaits, or awaited when its step was woken';
comment on column gd_instances.partition_key is
'at most one instance of a key executes at a time, or as many as gd_set_key_limit says';
comment on column gd_instances.unique_key is 'as given at the insert, whether it is held now or not';
comment on column gd_instances.parent_id is 'whose child it is';
comment on column gd_instances.children_pending is 'how many children its barrier still waits for';
comment on column gd_instances.state is 'what the next step gets';
comment on column gd_instances.result is 'of one that is "done"';
comment on column gd_instances.last_error is 'why it failed or was cancelled, or why its step was run again';
comment on column gd_instances.meta is 'as given at the insert';
comment on column gd_instances.inserted_at is 'when it was inserted';
comment on column gd_instances.updated_at is 'when its row was written last';
comment on column gd_instances.finished_at is 'when it ended';

comment on view gd_queues is
'Every queue that has or had instances, or is paused. Counted through the indexes; each count is exact up to 100,000
and cut there. A queue with due rows, nothing executing and an old oldest_due_at is one that nobody serves, and it
holds up the keys of its rows.';

comment on column gd_queues.queue is 'its name';
comment on column gd_queues.due is 'a worker may take it now';
comment on column gd_queues.delayed is 'due later: a delay, a back-off, a deadline';
comment on column gd_queues.executing is 'under a claim';
comment on column gd_queues.parked is 'waits for a signal, for children or in its key';
comment on column gd_queues.oldest_due_at is 'since when the first of the due ones waits';
comment on column gd_queues.paused is 'gd_pause_queue has stopped it';

comment on view gd_workers is 'Who holds claims now. It reads the 100,000 oldest due rows of each queue and priority.';

comment on column gd_workers.worker is 'the label that the claims were made with';
comment on column gd_workers.executing is 'how many claims it holds';
comment on column gd_workers.oldest_claim_at is
'since when it holds the oldest of them (a claim''s number is its time)';
