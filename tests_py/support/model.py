"""A reference model of the engine: what each call means, on plain dicts, with no database and no locks.

Times are microseconds on a clock that never stops; a time that the model cannot know exactly is a span (from, to),
and the comparison with the database narrows it to the real value. Parking and lifting in a key's lane do not exist
here: a waiting row is a waiting row, and the order of a key is the order of its waiting rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from support.model_row import Row, Span, nearest

CRASH_CAP = 20
SECOND = 1_000_000
BURST = 2.0
"""Of every rate limit that binds."""
TIMEOUTS = {"start": 45}
"""Seconds, by step."""


class Model:
    """All instances that are committed, what is paused, whether all is held, and the limits of keys and rates.

    A rate limit is open (it never binds), tight (it gives `BURST` and as good as nothing after that) or shut. Lines do
    not exist here, as lanes do not. `tokens`: the most that may be left of a bucket of a tight limit.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.paused: set[str] = set()
        self.stops: set[tuple[int | None, str | None]] = set()
        self.limits: dict[str, int] = {}
        self.routes: dict[str, str] = {}
        self.held = False
        self.rates: dict[str, str] = {}
        self.tokens: dict[str, float] = {}
        # whether that is exactly what is left: not behind a limit that was another one
        self.exact = True
        self.changed = 0

    def rate(self, row: Row) -> str:
        return "open" if row.rate_limit is None else self.rates[row.rate_limit.partition(":")[0]]

    def left(self, bucket: str) -> float:
        return self.tokens.get(bucket, BURST)

    def set_rate(self, name: str, rate: str) -> None:
        self.rates[name] = rate
        self.tokens = {b: left for b, left in self.tokens.items() if b.partition(":")[0] != name}
        self.exact = False
        self.changed += 1

    def starves(self, row: Row) -> bool:
        """Whether it may lack tokens: unless those that wait for its bucket can have all that they want."""
        if row.rate_limit is None or self.rate(row) == "open":
            return False
        wanted = sum(r.weight for r in self.rows.values() if r.rate_limit == row.rate_limit and not r.ended)
        return self.rate(row) == "shut" or not self.exact or wanted > self.left(row.rate_limit)

    def place(self, row: Row) -> None:
        """It stands in the queue of its step, or else in its own."""
        own = row.home or row.queue
        row.queue = self.routes.get(row.step, own)
        row.home = None if row.queue == own else own

    def limit(self, key: str) -> int:
        fitting = [p for p in self.limits if key == p or key.startswith(p + ":")]
        return self.limits[max(fitting, key=len)] if fitting else 1

    def executing(self, key: str) -> list[Row]:
        return [r for r in self.rows.values() if r.key == key and r.status == "executing"]

    def stopped(self, row: Row, step: str | None = None) -> bool:
        """Whether a pause of its own or of its machine holds it, at its step or at another one."""
        at = step or row.step
        return row.paused or any(v in (None, 1) and s in (None, at) for v, s in self.stops)

    def waiting(self, key: str, now: int, paused: bool = False) -> list[Row]:
        """Who surely waits for a slot of the key at that time, first come first. `paused`: with those who do not."""
        rows = [
            r
            for r in self.rows.values()
            if r.key == key
            and r.waits
            and r.queue not in self.paused
            and r.at is not None
            and r.at[1] <= now
            and (paused or not self.stopped(r))
        ]
        return sorted(rows, key=lambda r: (r.priority, r.at, r.id))

    def children(self, parent: int) -> list[Row]:
        return sorted((r for r in self.rows.values() if r.parent == parent), key=lambda r: r.id)

    def tree(self, root: int) -> list[int]:
        found = [root]
        for number in found:
            found.extend(r.id for r in self.children(number))
        return found


class Change:
    """One transaction: it sees the committed rows and its own, and is applied as a whole, or never."""

    def __init__(self, model: Model, span: Span) -> None:
        self.model = model
        self.now = span
        self.rows: dict[int, Row] = {}
        self.gone: set[int] = set()
        self.taken: list[tuple[str, float]] = []
        self._changed = model.changed

    def after(self, microseconds: int) -> Span:
        return self.now[0] + microseconds, self.now[1] + microseconds

    def row(self, number: int) -> Row:
        if number not in self.rows:
            self.rows[number] = copy.deepcopy(self.model.rows[number])
        return self.rows[number]

    def look(self, number: int) -> Row | None:
        return self.rows.get(number) or self.model.rows.get(number)

    def holder(self, key: str) -> int | None:
        for number in {*self.model.rows, *self.rows}:
            row = self.look(number)
            if row is not None and row.held == key:
                return number
        return None

    def apply(self) -> None:
        self.model.rows.update(self.rows)
        for number in self.gone:
            self.model.rows.pop(number, None)
        for bucket, weight in self.taken if self._changed == self.model.changed else ():
            self.model.tokens[bucket] = self.model.left(bucket) - weight

    # --- what calls do

    def insert(self, spec: dict[str, Any], number: int, parent: Row | None = None) -> Row:
        at = spec["at"] if "at" in spec else self.after(int(spec.get("delay_ms", 0)) * 1000)
        row = Row(
            id=number,
            step=spec.get("step", "start"),
            state=spec["state"],
            queue=spec.get("queue", "default"),
            priority=spec.get("priority", 0),
            key=spec.get("partition_key"),
            unique_key=spec.get("unique_key"),
            scope=spec.get("unique_scope"),
            max_attempts=spec.get("max_attempts"),
            at=at,
            expires=self.after(int(spec["expires_ms"]) * 1000) if "expires_ms" in spec else None,
            rate_limit=spec.get("rate_limit"),
            weight=spec.get("weight", 1),
        )
        if parent is not None:
            row.parent, row.barrier = parent.id, parent.claim_no
            row.expires = nearest(row.expires, parent.expires)
        if row.in_scope("runnable"):
            row.held = row.unique_key
        self.model.place(row)
        self.rows[number] = row
        return row

    def enter(self, row: Row, status: str) -> None:
        """Change the status, and with it whether the unique key is held."""
        row.status = status
        row.rests = None
        if not row.in_scope(status):
            row.held = None
        elif row.scope is not None and row.held is None and self.holder(str(row.unique_key)) is None:
            row.held = row.unique_key

    def claim(self, number: int, claim_no: int, worker: str, lease: int) -> Row:
        row = self.row(number)
        if row.status == "executing":
            row.attempt += 1
            row.crashes += 1
        if row.unseen():
            row.deadline = None
        row.shown = {n for n, (name, _) in row.inbox.items() if name in (row.awaits or [])}
        row.claim_no, row.worker = claim_no, worker
        if row.rate_limit is not None:
            if self.model.rate(row) != "open":
                self.taken.append((row.rate_limit, row.weight))
            if row.key is None and row.at is not None:
                row.at = row.at[0], self.now[1]  # out of a line it is due when it starts
        row.timeout = self.after(TIMEOUTS[row.step] * SECOND) if row.step in TIMEOUTS else None
        row.lease = nearest(self.after(lease), row.timeout, row.expires)
        self.enter(row, "executing")
        return row

    def give_back(self, number: int, delay: int, crashed: bool) -> None:
        row = self.row(number)
        row.worker = row.lease = row.timeout = None
        if row.key is None or row.at is None:
            row.at = self.after(delay)
        row.attempt += crashed
        row.crashes += crashed
        self.enter(row, "runnable")
        self.model.place(row)
        if row.key is not None and delay:
            row.rests = self.after(delay)

    def end(self, number: int, status: str, error: str | None) -> None:
        row = self.row(number)
        row.worker = row.lease = row.at = row.timeout = row.expires = None
        row.paused = False
        if status == "done":
            row.deadline = row.awaits = None
            row.shown, row.inbox = set(), {}
        row.error = error if error is not None else row.error
        row.finished = self.now
        self.enter(row, status)
        self.count_out(row)

    def end_crashed(self, number: int) -> None:
        self.row(number).crashes += 1
        self.end(number, "failed", None)

    def time_out(self, number: int) -> None:
        row = self.row(number)
        crashes = row.crashes
        self.commit({"id": number, "kind": "error", "error": "timed out"}, [], None, 0)
        row.crashes = crashes

    def count_out(self, child: Row) -> None:
        parent = self.look(child.parent) if child.parent is not None else None
        if child.barrier is None or parent is None:
            return
        if parent.status == "awaiting_children" and parent.claim_no == child.barrier:
            parent = self.row(parent.id)
            assert parent.pending is not None
            parent.pending -= 1
            if parent.pending == 0:
                parent.at = self.now
                self.enter(parent, "runnable")
                self.model.place(parent)

    def deliver(self, number: int, signal: int, name: str, payload: Any, dedup: str | None) -> None:
        row = self.row(number)
        if dedup is not None:
            row.seen.add(dedup)
        row.inbox[signal] = (name, payload)
        if row.status == "awaiting_signal" and name in (row.awaits or []):
            row.at, row.deadline = self.now, None
            self.enter(row, "runnable")
            self.model.place(row)

    def cancel(self, numbers: Iterable[int], reason: str | None) -> None:
        live = [n for n in numbers if not self.row(n).ended]
        for number in live:
            # all are cancelled before any is counted: none of their parents among them runs again
            self.row(number).status = "cancelled"
        for number in live:
            self.end(number, "cancelled", reason)

    def retry(self, number: int, step: str | None, state: dict[str, Any] | None) -> None:
        row = self.row(number)
        parent = self.look(row.parent) if row.parent is not None else None
        if parent is not None and parent.status == "awaiting_children" and parent.claim_no == row.barrier:
            parent = self.row(parent.id)
            assert parent.pending is not None
            parent.pending += 1
        else:
            row.barrier = None
        if step is not None:
            row.step = step
            row.awaits = row.deadline = None
            row.shown = set()
        if row.journal:
            self.begin_again(row, state is not None)
        row.state = state if state is not None else row.state
        row.attempt = row.crashes = 0
        row.finished = row.result = None
        row.at, row.rests = self.now, None
        row.status = "runnable"
        row.held = row.unique_key if row.in_scope("runnable") else None
        self.model.place(row)

    def begin_again(self, row: Row, whole: bool) -> None:
        """A flow goes on behind what holds of its journal, and asks again for what it waits for."""
        kind, failed = row.journal[-1]
        cut = len(row.journal) if kind != "end" else (failed or len(row.journal)) - 1
        row.journal = [] if whole else [*row.journal[:cut], ("retried", None)]
        row.step = next((name for kind, name in reversed(row.journal) if kind == "step"), "start")
        row.awaits = row.deadline = None
        row.shown = set()

    def reschedule(self, number: int, at: int) -> None:
        row = self.row(number)
        row.at, row.rests = (at, at), None
        if row.status == "awaiting_signal":
            row.deadline = row.at

    def commit(self, outcome: dict[str, Any], children: list[int | None], kept: int | None, lease: int) -> None:
        """An outcome that was answered ok, the ids of its children (None: not created), the claim_no if it was kept."""
        row = self.row(outcome["id"])
        kind = outcome["kind"]
        if "at" in outcome:  # made there: what belonged to the claimed step is over
            row.step, row.state = outcome["at"]["step"], outcome["at"].get("state", row.state)
            row.awaits = row.deadline = row.rate_limit = None
            row.attempt, row.shown, row.weight = 0, set(), 1
        for number in outcome.get("consume", []):
            row.inbox.pop(number, None)
        if "journal" in outcome:
            new = [(one["k"], one.get("name", one.get("failed"))) for one in outcome["journal"]["add"]]
            row.journal = [*row.journal[: outcome["journal"]["at"]], *new]
        delay: Span = self.after(int(outcome.get("delay_ms", 0)) * 1000)
        if kind == "error":
            if row.attempt + 1 >= (row.max_attempts or 20):
                kind, outcome = "stop", {**outcome, "reason": outcome["error"]}
            elif not outcome.get("delay_ms"):
                pause = min(SECOND << min(row.attempt, 20), 300 * SECOND)
                delay = self.now[0] + pause // 2, self.now[1] + 2 * pause
        row.crashes = 0
        if kind in ("done", "stop"):
            row.result = outcome.get("result")
            self.end(row.id, "done" if kind == "done" else "failed", outcome.get("reason"))
            return
        row.state = outcome.get("state", row.state)
        if kind in ("replay", "error"):
            row.attempt += 1
            row.error = outcome.get("error", row.error)
            self.leave(row, "runnable", delay)
            return
        row.attempt, row.error = 0, None
        row.rate_limit, row.weight = outcome.get("rate_limit"), outcome.get("weight", 1)
        row.step = outcome.get("step", row.step)
        if kind == "await":
            names = outcome["signals"]
            row.awaits = [names] if isinstance(names, str) else names
            answered = row.unseen()
            row.deadline = None
            if not answered and "timeout_ms" in outcome:
                row.deadline = self.after(int(outcome["timeout_ms"]) * 1000)
            self.leave(row, "runnable" if answered else "awaiting_signal", self.now if answered else row.deadline)
            return
        row.awaits = row.deadline = None
        row.shown = set()
        if kind == "schedule_childs":
            for spec, number in zip(outcome["childs"], children, strict=True):
                if number is not None:
                    self.insert(spec, number, row)
            row.pending = sum(number is not None for number in children)
            self.leave(row, "awaiting_children" if row.pending else "runnable", None if row.pending else self.now)
            return
        if "queue" in outcome:
            row.queue, row.home = outcome["queue"], None
        row.priority = outcome.get("priority", row.priority)
        row.key = outcome.get("partition_key", row.key)
        if kept is None:
            self.leave(row, "runnable", delay)
        else:
            self.model.place(row)
            row.claim_no, row.timeout = kept, None
            row.lease = nearest(self.after(lease), row.expires)
            self.enter(row, "executing")

    def leave(self, row: Row, status: str, at: Span | None) -> None:
        row.worker = row.lease = row.timeout = None
        row.at = at
        self.enter(row, status)
        self.model.place(row)
