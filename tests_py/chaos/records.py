"""What is written down while it goes on: by a trigger in the transactions themselves, by steps and clients outside."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import class_row

# The trigger sees every change in the order in which the row's lock (and its key's) allowed it, and a change that a
# crash of the server takes back takes its line back too.
LOG = """
create schema chaos;
create table chaos.ledger (id bigint not null, n int not null, claim bigint not null);
create table chaos.log (
    seq bigint generated always as identity, at timestamptz not null default clock_timestamp(),
    began timestamptz not null default now(), xid text not null default pg_current_xact_id()::text,
    id bigint, fsm text, queue text, old_status text, status text, old_step text, step text, old_n int, n int,
    old_claim bigint, claim bigint, lease_live boolean, key text, slot int, old_attempt int, attempt int, crashes int,
    priority int, lane_at timestamptz, eligible_at timestamptz,
    old_priority int, old_lane_at timestamptz, old_eligible_at timestamptz, held text, parent bigint, barrier bigint,
    bucket text, weight double precision, old_bucket_at timestamptz,
    expired boolean, queue_slot int, schedule text, tick timestamptz
);
create table chaos.gone (
    at timestamptz not null default clock_timestamp(), id bigint, fsm text, status text, parent bigint, state jsonb,
    result jsonb, last_error text, finished_at timestamptz, carried boolean, parent_alive boolean
);
create function chaos.note() returns trigger language plpgsql as $$
begin
    insert into chaos.log (
        id, fsm, queue, old_status, status, old_step, step, old_n, n, old_claim, claim, lease_live, key, slot,
        old_attempt, attempt, crashes, priority, lane_at, eligible_at, old_priority, old_lane_at, old_eligible_at,
        held, parent, barrier, bucket, weight, old_bucket_at, expired,
        queue_slot, schedule, tick)
    values (
        new.id, new.fsm, new.queue, old.status, new.status, old.step, new.step, (old.state ->> 'n')::int,
        (new.state ->> 'n')::int, old.claim_no, new.claim_no, old.lease_expires_at > clock_timestamp(),
        new.partition_key, new.slot_no, old.attempt, new.attempt, new.crashes, new.priority, new.lane_at,
        new.eligible_at, old.priority, old.lane_at, old.eligible_at, new.unique_held, new.parent_id, new.barrier_no,
        new.rate_limit, new.weight, old.bucket_at,
        new.status = 'failed' and new.last_error like 'expired at %',
        new.queue_slot, new.meta ->> 'schedule', (new.meta ->> 'tick')::timestamptz);
    return null;
end $$;
create function chaos.note_removal() returns trigger language plpgsql as $$
begin
    insert into chaos.log (id, fsm, queue, old_status, status, old_n, n, old_claim, claim, priority, parent)
    values (
        old.id, old.fsm, old.queue, old.status, 'gone', (old.state ->> 'n')::int, (old.state ->> 'n')::int,
        old.claim_no, old.claim_no, old.priority, old.parent_id);
    insert into chaos.gone (id, fsm, status, parent, state, result, last_error, finished_at, carried, parent_alive)
    values (
        old.id, old.fsm, old.status, old.parent_id, old.state, old.result, old.last_error, old.finished_at,
        old.eligible_at is not null,
        exists (select from gendurable.instance p where p.id = old.parent_id and p.finished_at is null));
    return null;
end $$;
create trigger chaos_insert after insert on gendurable.instance for each row
when (new.fsm like 'chaos.%') execute function chaos.note();
create trigger chaos_update after update on gendurable.instance for each row
when (
    new.fsm like 'chaos.%' and (
        old.status, old.claim_no, old.slot_no, old.lane_at, old.eligible_at, old.priority, old.unique_held, old.attempt,
        old.queue, old.partition_key, old.state -> 'n', old.queue_slot)
    is distinct from
    (new.status, new.claim_no, new.slot_no, new.lane_at, new.eligible_at, new.priority, new.unique_held, new.attempt,
        new.queue, new.partition_key, new.state -> 'n', new.queue_slot))
execute function chaos.note();
create trigger chaos_delete after delete on gendurable.instance for each row
when (old.fsm like 'chaos.%') execute function chaos.note_removal();
"""

# Columns that hold a time; in a record they are microseconds since 1970.
TIMES = (
    "at",
    "began",
    "lane_at",
    "eligible_at",
    "old_lane_at",
    "old_eligible_at",
    "finished_at",
    "old_bucket_at",
    "tick",
    "since",
    "last_tick_at",
)


@dataclass
class Event:
    """One change of one row; `old_status` None: it was inserted; `status` "gone": it was removed."""

    seq: int
    id: int
    fsm: str
    old_status: str | None
    status: str
    at: int
    # When its transaction began: what was committed before then, it saw.
    began: int
    xid: str
    queue: str = "default"
    old_step: str | None = None
    step: str | None = None
    old_n: int | None = None
    n: int = 0
    old_claim: int | None = None
    claim: int = 0
    lease_live: bool | None = None
    key: str | None = None
    slot: int | None = None
    old_attempt: int | None = None
    attempt: int | None = 0
    crashes: int | None = 0
    # The place in the key: priority and time.
    priority: int = 0
    lane_at: int | None = None
    eligible_at: int | None = None
    old_priority: int | None = None
    old_lane_at: int | None = None
    old_eligible_at: int | None = None
    held: str | None = None
    parent: int | None = None
    # The claim of the parent in whose barrier this child counts.
    barrier: int | None = None
    # The bucket of its rate limit, and the tokens that a start takes out of it.
    bucket: str | None = None
    weight: float | None = None
    # Its place in the line before it, out of which it was claimed.
    old_bucket_at: int | None = None
    # It failed since its deadline had passed.
    expired: bool | None = False
    # The slot of its queue that it holds, where the queue has a limit.
    queue_slot: int | None = None
    # By which schedule it was inserted, and for when.
    schedule: str | None = None
    tick: int | None = None

    @property
    def claimed(self) -> bool:
        """A claim, and not a commit that keeps the claim."""
        return self.old_claim is not None and self.claim != self.old_claim and self.n == self.old_n

    @property
    def kept(self) -> bool:
        """A commit that went on under a new claim at once."""
        return self.old_claim is not None and self.claim != self.old_claim and self.n != self.old_n

    @property
    def committed(self) -> bool:
        """A step's outcome that progressed; a cancellation is not a step's, and neither is an end by a deadline."""
        ended = self.status in ("done", "failed") and self.old_status == "executing" and not self.expired
        return self.old_status is not None and (self.n != self.old_n or ended)


@dataclass
class Row:
    """How an instance stands at the end, or stood when it was removed."""

    id: int
    fsm: str
    status: str
    parent: int | None
    state: dict[str, Any]
    result: Any
    last_error: str | None = None


@dataclass
class Removal:
    """The end of a row: that of its instance came long before."""

    id: int
    at: int
    finished_at: int | None
    carried: bool
    parent_alive: bool


@dataclass
class Schedule:
    """How a schedule stands at the end: from when it counts, and the last tick that it dealt with."""

    name: str
    since: int
    last_tick_at: int | None
    # Each missed tick is caught up with, and not only the latest.
    all: bool


@dataclass
class Record:
    events: list[Event] = field(default_factory=list)
    rows: dict[int, Row] = field(default_factory=dict)
    removals: list[Removal] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    # A line for each run of a step, with "ended" where it did.
    runs: list[dict[str, Any]] = field(default_factory=list)
    # What clients were told: {"what", "id", "answer", "sent", "answered", "tries", ...}
    told: list[dict[str, Any]] = field(default_factory=list)
    # (id, n) of what the SQL workers wrote in the transactions of their commits
    ledger: list[tuple[int, int]] = field(default_factory=list)
    # What dispatchers' calls of gd_maintain repaired, and how many there were.
    repaired: int = 0
    maintained: int = 0
    # Outcomes that came too late, since the claim was somebody else's.
    stale: int = 0
    signals_left: int = 0
    # What belongs to instances that are gone, and ended children that the retention will never look at.
    orphans: list[str] = field(default_factory=list)
    # The server's clock stepped: its times compare neither with each other nor with the clients'.
    stepped: bool = False


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


ORPHANS = """
select o.what || ' of ' || o.instance_id
from (
    select 'a signal' as what, s.instance_id from gendurable.signal s
    union all select 'a dedup key', s.instance_id from gendurable.signal_seen s
    union all select 'a watcher', w.instance_id from gendurable.watch w
) o
where not exists (select from gendurable.instance i where i.id = o.instance_id)
union all
select 'the child ' || c.id || ' of ' || c.parent_id
from gendurable.instance c
where c.finished_at is not null and c.barrier_no is not null
    and not exists (select from gendurable.instance p where p.id = c.parent_id and p.finished_at is null)
    and not exists (select from gendurable.ended_parent e where e.parent_id = c.parent_id)
"""

SCHEDULES = """
select s.name, s.since, s.last_tick_at, s.options ->> 'catch_up' = 'all' as "all" from gendurable.schedule s
"""


def _columns(of: type[Any]) -> str:
    return ", ".join(
        f"(extract(epoch from {f.name}) * 1000000)::bigint as {f.name}" if f.name in TIMES else f'"{f.name}"'
        for f in fields(of)
    )


def gather(conn: psycopg.Connection[Any], folder: Path, told: list[dict[str, Any]]) -> Record:
    """All of one moment: an engine that serves others may still be at its upkeep."""
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        return _gather(conn, folder, told)


def _gather(conn: psycopg.Connection[Any], folder: Path, told: list[dict[str, Any]]) -> Record:
    written = lines(folder)
    ended = {(line["id"], line["claim"]): line["at"] for line in written if line["what"] == "ended"}
    runs = [line | {"ended": ended.get((line["id"], line["claim"]))} for line in written if line["what"] == "run"]
    with conn.cursor(row_factory=class_row(Event)) as cursor:
        events = cursor.execute(f"select {_columns(Event)} from chaos.log order by seq".encode()).fetchall()
    with conn.cursor(row_factory=class_row(Removal)) as cursor:
        removals = cursor.execute(f"select {_columns(Removal)} from chaos.gone".encode()).fetchall()
    with conn.cursor(row_factory=class_row(Row)) as cursor:
        rows = cursor.execute(
            "select id, fsm, status, parent_id as parent, state, result, last_error from gd_instances "
            "where fsm like 'chaos.%' "
            "union all select id, fsm, status, parent, state, result, last_error from chaos.gone order by id"
        ).fetchall()
    with conn.cursor(row_factory=class_row(Schedule)) as cursor:
        schedules = cursor.execute(
            f"select {_columns(Schedule)} from ({SCHEDULES}) s order by name".encode()
        ).fetchall()
    # What has failed or was cancelled keeps its inbox for a retry.
    left = conn.execute(
        "select count(*) from gendurable.signal s left join gendurable.instance i on i.id = s.instance_id "
        "where i.id is null or i.status not in ('failed', 'cancelled')"
    ).fetchone()
    return Record(
        events=events,
        rows={row.id: row for row in rows},
        removals=removals,
        schedules=schedules,
        runs=runs,
        told=told,
        ledger=[(id, n) for id, n in conn.execute("select id, n from chaos.ledger")],
        repaired=sum(line["repaired"] for line in written if line["what"] == "maintain"),
        maintained=sum(line["what"] == "maintain" for line in written),
        stale=sum(line["what"] == "stale" for line in written),
        signals_left=left[0] if left else 0,
        orphans=[text for (text,) in conn.execute(ORPHANS)],
    )
