"""The machines, and one of them: its versions, its steps, how they end, and what fails."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ... import calls
from ...calls import Counts, Transition, viewing
from ..diagram import Diagram, draw, in_order
from ..look import Look, Page
from ..query import count_of, needed, only
from ..refusals import Missing
from .overview import part, throughput

_DAY = 1440
_PAGE = 100
_ROWS = 20
_STEPS = 200
# Where no worker has said where steps went on, the diagram is of what these last instances did, if a history is kept:
# of each so many entries.
_SAMPLE = 100
_ENTRIES = 100
# How many instances are looked at for them, and how many failures are grouped.
_LOOK = 5000
_FAILURES = 500


@dataclass
class Step:
    """How a step has ended, and how long it took: in seconds, together."""

    name: str
    good: int = 0
    retried: int = 0
    bad: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def ended(self) -> int:
        return self.good + self.retried + self.bad

    @property
    def failing(self) -> float:
        """The part that went wrong, 0 to 1."""
        return self.bad / self.ended if self.ended else 0.0

    @property
    def mean(self) -> float:
        """Milliseconds."""
        return 1000 * self.seconds / self.ended if self.ended else 0.0


async def machines(look: Look) -> Page:
    """The versions of machines that are registered or have open instances, by name."""
    only(look.params, ("after", "version", "did"))
    after = look.params.get("after", ""), count_of(look.params, "version", 0, 2**31 - 1)
    rows = await calls.machines(look.conn, None, after, _PAGE + 1)
    return Page(
        "machines.html",
        "Machines",
        {
            "machines": rows[:_PAGE],
            "after": after[0],
            "next": {"after": rows[_PAGE - 1].fsm, "version": rows[_PAGE - 1].version} if len(rows) > _PAGE else None,
            "did": look.params.get("did"),
        },
    )


async def machine(look: Look) -> Page:
    """One machine: its steps and versions, its failures, who knows it."""
    only(look.params, ("name", "minutes", "did"))
    name = needed(look.params, "name")
    minutes = count_of(look.params, "minutes", 60, _DAY)
    conn, now = look.conn, datetime.now(UTC)
    versions = await calls.machines(conn, name, limit=_PAGE)
    counts = [one for one in await calls.stats(conn, minutes) if one.fsm == name]
    latest = await calls.list(conn, {"fsm": name}, None, _SAMPLE, _LOOK)
    known = [step for one in versions for step in one.steps or ()]
    failures = await calls.failures(conn, name, now - timedelta(days=1), _FAILURES, 20)
    if not (versions or counts or latest.instances or failures):
        raise Missing(f"There is no machine {name[:200]!r}.")
    workers = await viewing.knowing(conn, name, _ROWS)
    pauses = await viewing.stops(conn, name, _PAGE)
    steps = steps_of(counts, known)
    moves = await calls.transitions(conn, name, minutes)
    reported = moves_of(moves)
    drawn = reported if reported.moves else await _kept(look, [one.id for one in latest.instances])
    order = {name: place for place, name in enumerate(in_order([step.name for step in steps], drawn.moves))}
    return Page(
        "machine.html",
        f"Machine {name}",
        {
            "name": name,
            "versions": versions,
            "steps": sorted(steps, key=lambda step: order[step.name])[:_STEPS],
            "more_steps": max(0, len(steps) - _STEPS),
            "chart": throughput(counts, now, min(minutes, 60)),
            "minutes": minutes,
            "diagram": draw(
                drawn,
                {step.name: step.failing for step in steps},
                known,
            ),
            "since": moves[0].since if reported.moves else None,
            "ranges": ((60, "hour"), (_DAY, "day")),
            "failures": [(row, look.shown.text(row.fsm, row.message)) for row in failures],
            "latest": latest.instances[:_ROWS],
            "errors": {row.id: look.shown.text(row.fsm, row.last_error) for row in latest.instances[:_ROWS]},
            "workers": [(row, _known_by(row).get(name, [])) for row in workers],
            "pauses": pauses,
            "did": look.params.get("did"),
        },
    )


def steps_of(counts: list[Counts], known: list[str]) -> list[Step]:
    """How each step has ended, those that are known and nobody ran, too."""
    found = {name: Step(name) for name in dict.fromkeys(known)}
    for count in counts:
        step = found.setdefault(count.step, Step(count.step))
        setattr(step, kind := part(count.outcome), getattr(step, kind) + count.ended)
        step.outcomes[count.outcome] += count.ended
        step.seconds += count.seconds
    return list(found.values())


_ENDS = {"done": "(done)", "stop": "(failed)"}


def moves_of(counted: list[Transition]) -> Diagram:
    """The transitions that workers have reported."""
    made = Diagram()
    for one in counted:
        if one.next_step is not None or one.outcome == "await":
            made.add(one.step, one.next_step or one.step, one.ended)
        elif one.outcome in _ENDS:
            made.add(one.step, _ENDS[one.outcome], one.ended)
    return made


async def _kept(look: Look, ids: list[int]) -> Diagram:
    """The transitions of instances, as far as their histories have them."""
    made = Diagram()
    for step, follows, kind, count in await viewing.transitions(look.conn, ids, _ENTRIES):
        if kind in ("next", "await", "schedule_childs"):
            made.add(step, follows or step, count)
        elif kind in _ENDS:
            made.add(step, _ENDS[kind], count)
    return made


def _known_by(row: viewing.Row) -> dict[str, list[int]]:
    """The machines that a worker knows, with their versions."""
    found: dict[str, list[int]] = {}
    said = row["machines"]
    for one in said if isinstance(said, list) else []:
        if isinstance(one, list) and len(one) >= 2:
            found.setdefault(str(one[0]), []).append(int(str(one[1])))
    return found
