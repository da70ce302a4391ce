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
    id bigint, fsm text, old_status text, status text, old_step text, old_n int, n int,
    old_claim bigint, claim bigint, lease_live boolean, key text, slot int, priority int, lane_at timestamptz,
    old_priority int, old_lane_at timestamptz, held text, parent bigint
);
create function chaos.note() returns trigger language plpgsql as $$
begin
    insert into chaos.log (
        id, fsm, old_status, status, old_step, old_n, n, old_claim, claim, lease_live, key, slot, priority, lane_at,
        old_priority, old_lane_at, held, parent)
    values (
        new.id, new.fsm, old.status, new.status, old.step, (old.state ->> 'n')::int, (new.state ->> 'n')::int,
        old.claim_no, new.claim_no, old.lease_expires_at > clock_timestamp(), new.partition_key, new.slot_no,
        new.priority, new.lane_at, old.priority, old.lane_at, new.unique_held, new.parent_id);
    return null;
end $$;
create trigger chaos_insert after insert on gendurable.instance for each row execute function chaos.note();
create trigger chaos_update after update on gendurable.instance for each row
when (
    (old.status, old.claim_no, old.slot_no, old.lane_at, old.priority, old.unique_held, old.state -> 'n')
    is distinct from
    (new.status, new.claim_no, new.slot_no, new.lane_at, new.priority, new.unique_held, new.state -> 'n'))
execute function chaos.note();
"""


@dataclass
class Event:
    """One change of one row; `old_status` None: it was inserted."""

    seq: int
    id: int
    fsm: str
    old_status: str | None
    status: str
    old_step: str | None
    old_n: int | None
    n: int
    old_claim: int | None
    claim: int
    lease_live: bool | None
    key: str | None
    slot: int | None
    # The place in the key: priority, time in microseconds.
    priority: int
    lane_at: int | None
    old_priority: int | None
    old_lane_at: int | None
    at: int
    held: str | None
    parent: int | None

    @property
    def claimed(self) -> bool:
        """A claim, and not a commit that keeps the claim."""
        return self.old_claim is not None and self.claim != self.old_claim and self.n == self.old_n

    @property
    def committed(self) -> bool:
        """A step's outcome that progressed; a cancellation is not a step's."""
        ended = self.status in ("done", "failed") and self.old_status == "executing"
        return self.old_status is not None and (self.n != self.old_n or ended)


@dataclass
class Row:
    """How an instance stands at the end."""

    id: int
    fsm: str
    status: str
    parent: int | None
    state: dict[str, Any]
    result: Any


@dataclass
class Record:
    events: list[Event] = field(default_factory=list)
    rows: dict[int, Row] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    # What clients were told: {"what": insert | signal | cancel, "id", "key"?, "answer"}
    told: list[dict[str, Any]] = field(default_factory=list)
    # (id, n) of what the SQL workers wrote in the transactions of their commits
    ledger: list[tuple[int, int]] = field(default_factory=list)
    repaired: int = 0
    signals_left: int = 0


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def gather(conn: psycopg.Connection[Any], folder: Path, told: list[dict[str, Any]]) -> Record:
    written = lines(folder)

    def micros(column: str) -> str:
        return f"(extract(epoch from {column}) * 1000000)::bigint as {column}"

    times = ("at", "lane_at", "old_lane_at")
    columns = [micros(f.name) if f.name in times else f.name for f in fields(Event)]
    with conn.cursor(row_factory=class_row(Event)) as cursor:
        events = cursor.execute(f"select {', '.join(columns)} from chaos.log order by seq".encode()).fetchall()
    with conn.cursor(row_factory=class_row(Row)) as cursor:
        rows = cursor.execute(
            "select id, fsm, status, parent_id as parent, state, result from gd_instances order by id"
        ).fetchall()
    left = conn.execute("select count(*) from gendurable.signal").fetchone()
    return Record(
        events=events,
        rows={row.id: row for row in rows},
        runs=[line for line in written if line["what"] == "run"],
        told=told,
        ledger=[(id, n) for id, n in conn.execute("select id, n from chaos.ledger")],
        repaired=sum(line["repaired"] or 0 for line in written if line["what"] == "maintain"),
        signals_left=left[0] if left else 0,
    )
