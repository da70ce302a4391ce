"""Compares what was written down with the invariants; answers what does not fit.

Each judge reads the record and yields what contradicts it. They are named after what they look at and numbered after
the invariants: 1 transitions and ticks, 2 claims, keys and limits, 3 signals, 4 barriers, 5 unique keys, 6 nothing is
stuck, 7 crashes lose nothing, 8 no open transaction stops others. Where the server's clock stepped, times do not
count. Every judge looks across crashes of server and workers; what clients were told before one ("told") and what a
step wrote in its transaction ("ledger") are all that 7 adds. For 8 the scene itself watches the work that goes on
beside a client's open transaction.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .checker_keys import NEVER, keys, order, overlap, pauses
from .checker_limits import limits, queues, schedules
from .checker_talk import barriers, joins, signals, times, uniques
from .machines import ATTEMPTS, RETENTION, ROUGH, STEPS, TERMINAL, pause_after
from .records import Event, Record

MOST_CRASHES = 20
REVIVABLE = ("failed", "cancelled")


class Violation(NamedTuple):
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}{f' (invariant {INVARIANTS[self.kind]})' if self.kind in INVARIANTS else ''}: {self.text}"


class Judge(NamedTuple):
    invariant: int
    find: Callable[[Record], Iterator[str]]


def check(record: Record) -> list[Violation]:
    return [Violation(kind, text) for kind, judge in JUDGES.items() for text in judge.find(record)]


def transitions(record: Record) -> Iterator[str]:
    """Each committed transition once, none skipped, none undone, nothing after the end but what an operator asks."""
    now: dict[int, Event] = {}
    ended: dict[int, str] = {}
    revived: Counter[int] = Counter()
    for event in record.events:
        before = now.get(event.id)
        now[event.id] = event
        if before is None:
            if event.old_status is not None or event.status == "gone":
                yield f"{event.id}: changed before it was inserted (seq {event.seq})"
            continue
        if before.status == "gone":
            yield f"{event.id}: {event.status} after it was removed (seq {event.seq})"
        if event.status == "gone":
            ended[event.id] = before.status
            continue
        if event.old_status is None:
            yield f"{event.id}: inserted twice (seq {event.seq})"
        elif (event.old_status, event.old_claim, event.old_n) != (before.status, before.claim, before.n):
            yield f"{event.id}: a change was lost between seq {before.seq} and {event.seq}"
        if event.n not in (before.n, before.n + 1):
            yield f"{event.id}: n went from {before.n} to {event.n} (seq {event.seq})"
        if before.status in TERMINAL and event.status != before.status:
            if before.status in REVIVABLE and event.status == "runnable":
                revived[event.id] += 1
            else:
                yield f"{event.id}: {event.status} after {before.status} (seq {event.seq})"
    yield from retries(record, revived)
    for row in record.rows.values():
        last = now.get(row.id)
        status = None if last is None else ended.get(row.id, last.status)
        if status != row.status:
            yield f"{row.id}: is {row.status}, the log says {status}"
        if row.status == "done":
            wanted = row.state["wants"] if row.fsm == "chaos.waiter" else len((STEPS | ROUGH)[row.fsm])
            if row.result.get("late") and not record.stepped:
                yield f"{row.id}: ended by a run that took longer than it may"
            if row.result["n"] != wanted:
                yield f"{row.id}: {row.fsm} ended with n = {row.result['n']} instead of {wanted}"


def retries(record: Record, revived: Counter[int]) -> Iterator[str]:
    asked, granted = Counter[int](), Counter[int]()
    for line in record.told:
        if line["what"] == "retry":
            asked[line["id"]] += line["tries"]
            granted[line["id"]] += line["answer"] is True
    for id in revived.keys() | granted.keys():
        # A call whose answer was lost may have been granted too.
        if not granted[id] <= revived[id] <= asked[id]:
            yield f"{id}: {revived[id]} lives again, {granted[id]} granted of {asked[id]} asked for"


def runs(record: Record) -> Iterator[str]:
    """A transition was committed only under a claim whose step did run to its end, and one claim ran one step once."""
    ran = Counter((run["id"], run["claim"]) for run in record.runs)
    steps = {(run["id"], run["claim"]): run for run in record.runs}
    for (id, claim), count in ran.items():
        if count > 1:
            yield f"{id}: claim {claim} ran {count} times"
    committed: dict[int, set[str | None]] = defaultdict(set)
    for event in record.events:
        if event.committed:
            committed[event.id].add(event.old_step)
            run = steps.get((event.id, event.old_claim or 0), {})
            if run.get("step") != event.old_step:
                yield f"{event.id}: {event.old_step} committed under claim {event.old_claim}, which did not run it"
            elif run["ended"] is None or (run["ended"] > event.at and not record.stepped):
                yield f"{event.id}: {event.old_step} committed under claim {event.old_claim}, which still ran it"
    for row in record.rows.values():
        if row.status == "done" and (missing := set((STEPS | ROUGH).get(row.fsm, ())) - committed[row.id]):
            yield f"{row.id}: done without {sorted(missing)}"


def claims(record: Record) -> Iterator[str]:
    """Numbers of claims only grow, and nobody takes what is under a live lease, parked for children, or ended."""
    for event in record.events:
        if event.old_claim is None:
            continue
        if event.claim < event.old_claim:
            yield f"{event.id}: claim {event.claim} after {event.old_claim}"
        if event.claimed and event.old_status == "executing" and event.lease_live and not record.stepped:
            yield f"{event.id}: claimed under a live lease (seq {event.seq})"
        if event.claimed and event.old_status not in ("runnable", "executing", "awaiting_signal"):
            yield f"{event.id}: claimed though it was {event.old_status} (seq {event.seq})"


def attempts(record: Record) -> Iterator[str]:
    """A step's attempt is the number of its runs that failed or were lost, and the steps are told so."""
    said = {(run["id"], run["claim"]): run for run in record.runs}
    for event in record.events:
        if event.status == "gone":
            continue
        if event.attempt not in _possible_attempts(event):
            yield f"{event.id}: attempt {event.attempt} after {event.old_attempt} (seq {event.seq})"
        run = said.get((event.id, event.claim)) if event.claimed or event.kept else None
        if run is not None and run["attempt"] != event.attempt:
            yield f"{event.id}: ran as attempt {run['attempt']} instead of {event.attempt} (seq {event.seq})"
        if event.fsm in ATTEMPTS and event.old_status == "executing" and not event.claimed:
            yield from _failures(event, said.get((event.id, event.old_claim)), record.stepped)


def _possible_attempts(event: Event) -> set[int]:
    was = event.old_attempt or 0
    if event.old_status is None:
        return {0}
    if event.claimed:
        return {was + (event.old_status == "executing")}
    if event.old_status != "executing":
        return {0} if event.old_status in TERMINAL and event.status not in TERMINAL else {was}
    if event.status in TERMINAL:
        return {was}
    if event.n != event.old_n or event.status.startswith("awaiting"):
        return {0}
    if event.status == "executing":
        return {was}
    # A replay or a lease that ran out, given back, or an await that was answered at once.
    return {was, was + 1, *([0] if event.fsm == "chaos.waiter" else [])}


def _failures(event: Event, run: dict[str, Any] | None, stepped: bool) -> Iterator[str]:
    """What follows from an attempt of the machines that fail so many times as they were told."""
    if run is None:
        return
    fails, attempt = run["attempt"] < run["fails"], run["attempt"]
    if event.status == "done" and fails:
        yield f"{event.id}: done by attempt {attempt}, which was to fail (seq {event.seq})"
    if event.status == "failed" and (event.crashes or 0) < MOST_CRASHES:
        last = run["how"] == "raise" and fails and attempt + 1 >= ATTEMPTS[event.fsm]
        if not last:
            yield f"{event.id}: failed with attempt {attempt} of {ATTEMPTS[event.fsm]} (seq {event.seq})"
    replayed = event.status == "runnable" and event.attempt == attempt + 1 and not event.crashes
    if replayed:
        least, most = pause_after(event.fsm, attempt, run["how"])
        if run["how"] == "raise" and attempt + 1 >= ATTEMPTS[event.fsm]:
            yield f"{event.id}: goes on after attempt {attempt} of {ATTEMPTS[event.fsm]} (seq {event.seq})"
        due = event.eligible_at or 0
        if not stepped and not event.began + least * 1_000_000 - 1000 <= due <= event.at + most * 1_000_000 + 1000:
            yield f"{event.id}: due {due - event.at} us after attempt {attempt} failed (seq {event.seq})"


def told(record: Record) -> Iterator[str]:
    """What a client was told is so."""
    first: dict[tuple[int, str], int] = {}
    gone = {removal.id for removal in record.removals}
    for event in record.events:
        first.setdefault((event.id, event.status), event.at)
    for line in record.told:
        id, what, answer = line["id"], line["what"], line["answer"]
        if what in ("pause", "resume", "limit"):
            continue
        if id not in record.rows:
            yield f"{id}: {what} was acknowledged, there is no such instance"
        elif answer == "unknown" and id not in gone:
            yield f"{id}: {what} did not find it, and it was never removed"
        elif what == "cancel" and answer is True and (id, "cancelled") not in first:
            yield f"{id}: cancelled, and {record.rows[id].status}"
        elif record.stepped:
            continue
        elif answer == "no_target" and not any(first.get((id, end), NEVER) <= line["answered"] for end in TERMINAL):
            yield f"{id}: refused a signal before it had ended"


def ledger(record: Record) -> Iterator[str]:
    """What a step wrote in the transaction of its commit is there exactly if the commit is."""
    written = Counter(record.ledger)
    committed = Counter((e.id, e.old_n or 0) for e in record.events if e.fsm == "chaos.strict" and e.committed)
    for entry in sorted(written.keys() | committed.keys()):
        if (written[entry], committed[entry]) != (1, 1):
            yield f"{entry}: written {written[entry]} times, committed {committed[entry]} times"


def removals(record: Record) -> Iterator[str]:
    """Rows vanish only after their retention, and no child before its parent has ended."""
    status = {event.id: event for event in record.events if event.status == "gone"}
    for removal in record.removals:
        if removal.id not in status:
            yield f"{removal.id}: removed, and nothing of it in the log"
        if removal.finished_at is None or record.rows[removal.id].status not in TERMINAL:
            yield f"{removal.id}: removed before it had ended"
        elif removal.at - removal.finished_at < RETENTION * 1_000_000 and not record.stepped:
            yield f"{removal.id}: removed {removal.at - removal.finished_at} us after its end"
        if removal.parent_alive:
            yield f"{removal.id}: removed before its parent had ended"
        if removal.carried:
            yield f"{removal.id}: removed with the baton of its key"


def orphans(record: Record) -> Iterator[str]:
    """Nothing is left of what was removed, and nothing is overlooked for ever."""
    yield from record.orphans


def stuck(record: Record) -> Iterator[str]:
    """All has ended by itself."""
    for row in record.rows.values():
        if row.status not in TERMINAL:
            yield f"{row.id}: {row.fsm} is still {row.status}"
    if record.repaired:
        yield f"gd_maintain had to repair {record.repaired} keys"


JUDGES: dict[str, Judge] = {
    "transition": Judge(1, transitions),
    "run": Judge(1, runs),
    "attempt": Judge(1, attempts),
    "time": Judge(1, times),
    "schedule": Judge(1, schedules),
    "claim": Judge(2, claims),
    "key": Judge(2, keys),
    "overlap": Judge(2, overlap),
    "order": Judge(2, order),
    "pause": Judge(2, pauses),
    "limit": Judge(2, limits),
    "queue": Judge(2, queues),
    "signal": Judge(3, signals),
    "barrier": Judge(4, barriers),
    "join": Judge(4, joins),
    "unique": Judge(5, uniques),
    "stuck": Judge(6, stuck),
    "told": Judge(7, told),
    "ledger": Judge(7, ledger),
    "removal": Judge(7, removals),
    "orphan": Judge(7, orphans),
}

# What the scene itself sees: that work goes on beside an open transaction. (And that no dispatcher and no client gives
# up, which is no invariant of the engine's.)
INVARIANTS = {kind: judge.invariant for kind, judge in JUDGES.items()} | {"blocked": 8}
