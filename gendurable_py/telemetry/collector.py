"""The metrics of `gendurable_py.prometheus`: counted from the events of the engines, and read when somebody scrapes.

What is about engines (what runs, whether they are ready) is asked of them then; what is about the database comes with
`Looked`, from one process at a time. Names that users choose are capped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as Base

from .._log import logger
from . import events
from .events import Event
from .looked import Latest, Looked, QueueDepth, most_first
from .tally import BUCKETS, Names, Tally

_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_LATE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STEP = ("fsm", "step")
_MOST_QUEUES = 100
"""Of those whose depth is told."""


class QueueState(Protocol):
    """A queue of an engine (see `dispatch.health`)."""

    @property
    def concurrency(self) -> int: ...

    @property
    def running(self) -> int: ...


class State(Protocol):
    """How an engine is doing (see `dispatch.health`)."""

    @property
    def live(self) -> bool: ...

    @property
    def ready(self) -> bool: ...

    @property
    def state(self) -> str: ...

    @property
    def worker(self) -> str | None: ...

    @property
    def reasons(self) -> tuple[str, ...]: ...

    @property
    def claims(self) -> int: ...

    @property
    def held(self) -> bool: ...

    @property
    def queues(self) -> Mapping[str, QueueState]: ...


class Probed(Protocol):
    """An engine, as far as it is asked how it is doing: from any thread, and it asks no server."""

    def health(self) -> State: ...


class Collector(Base):
    """A collector for a registry, and a meter for `telemetry.instrument`."""

    def __init__(self, engines: Iterable[Probed] = (), most: int = 200) -> None:
        self.engines: list[Probed] = list(engines)
        self._names = Names(most)
        self._queues = Names(most)
        self._tally = Tally(self._names)
        self.teller, self.settle = self._tally.teller, self._tally.settle
        self._latest = Latest()
        self._overdue: float | None = None
        self._maintained_at: float | None = None

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"gendurable_{name}", what, labels, registry=None)

        def seconds(name: str, what: str, buckets: Iterable[float] = BUCKETS) -> Histogram:
            return Histogram(f"gendurable_{name}_seconds", what, buckets=tuple(buckets), registry=None)

        self._claims = counter("claims", "Instances claimed", "queue")
        self._claim_seconds = seconds("claim", "Seconds of a claim that found something, and of the start of that")
        self._commit_seconds = seconds("commit", "Seconds of the round trip of a commit")
        self._commit_size = Histogram(
            "gendurable_commit_outcomes", "Outcomes in a commit", buckets=_ROWS, registry=None
        )
        self._outcomes = counter("outcomes", "Outcomes by the answer of the server, each try counted", "result")
        for result in ("ok", "stale", "busy", "rejected"):
            self._outcomes.labels(result)  # from 0 on: of a series that begins at 1 nobody sees an increase
        self._stuck = counter("stuck_outcomes", "Tries of outcomes that cannot be committed, by no fault of theirs")
        self._timeouts = counter("step_timeouts", "Steps that were not over within their timeout", *_STEP)
        self._lost = counter("lost_claims", "Claims lost while their step ran", *_STEP)
        self._released = counter("released_claims", "Claims given back, by the reason", "reason")
        self._crashes = counter("crashes", "Claims whose worker was lost, as far as this process found them")
        self._saturated = counter("saturations", "Times that nothing more was claimed: slots taken, commits behind")
        self._beat_seconds = seconds("heartbeat", "Seconds of the round trip of a renewal of leases")
        self._late = seconds("wake_lateness", "Seconds from when a row was due, or told of, to its claim", _LATE)
        self._blocked = counter(
            "loop_blocked_seconds", "Seconds in which the event loop stood still, by the cause", "cause"
        )
        self._failures = counter("connection_failures", "Calls that failed, by the connection", "link")
        self._upkeep = counter("upkeep", "Instances on which maintenance acted, by what it did", "what")
        self._upkeep_errors = counter("upkeep_errors", "Parts of maintenance that failed")
        self._own = [value for value in vars(self).values() if isinstance(value, (Counter, Histogram))]

    # Counting

    def event(self, event: Event) -> None:
        """Called on the loops of engines. What has come to `teller` is not counted again."""
        match event:
            case events.Claimed():
                self._claim_seconds.observe(event.seconds)
                for queue, rows in event.queues.items():
                    self._claims.labels(*self._queues.call(queue)).inc(rows)
            case events.Committed():
                self._commit_seconds.observe(event.seconds)
                self._commit_size.observe(event.rows)
                self._outcomes.labels("ok").inc(event.ok)
            case events.Stale() | events.Busy() | events.Rejected():
                # Not from the commit's own numbers: what was committed before its answer was lost is stale there.
                self._outcomes.labels(event.name).inc()
            case events.Stuck():
                self._stuck.inc()
            case events.StepTimedOut():
                self._timeouts.labels(*self._names.call(event.fsm, event.step)).inc()
            case events.Lost():
                self._lost.labels(*self._names.call(event.fsm, event.step)).inc()
            case events.Released():
                self._released.labels(event.reason).inc(event.rows)
                if event.reason == "crashed":
                    self._crashes.inc(event.rows)
            case events.Saturated():
                self._saturated.inc()
            case events.Heartbeat():
                self._beat_seconds.observe(event.seconds)
            case events.Awake():
                if event.late is not None:
                    self._late.observe(event.late)
            case events.Blocked():
                self._blocked.labels(event.cause).inc(event.seconds)
            case events.Reconnecting():
                self._failures.labels(event.link).inc()
            case events.Maintained():
                self._maintained(event)
            case events.Collected():
                self._upkeep.labels("removed").inc(event.removed)
            case Looked():
                self._latest.hear(event)
            case _:
                pass

    def _maintained(self, event: events.Maintained) -> None:
        for what, count in event.counts.items():
            self._upkeep.labels(what).inc(max(0, count))
        self._crashes.inc(max(0, event.counts.get("reaped", 0)))
        failed, overdue = event.said.get("errors"), event.said.get("overdue")
        if failed:
            self._upkeep_errors.inc(len(failed) if isinstance(failed, (dict, list)) else 1)
        if event.said.get("ran") is True:
            self._maintained_at = time.time()
            if isinstance(overdue, (int, float)):
                self._overdue = float(overdue)

    # Reading

    def describe(self) -> Iterable[Metric]:
        return list(self.collect())

    def collect(self) -> Iterator[Metric]:
        yield from self._steps()
        for metric in self._own:
            for family in metric.collect():
                # When a series began is a series more for each.
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                yield family
        yield from self._engines()
        yield from self._depth()

    def _steps(self) -> Iterator[Metric]:
        counted = CounterMetricFamily(
            "gendurable_steps", "Runs of steps that have ended, by the outcome", labels=(*_STEP, "outcome")
        )
        took = HistogramMetricFamily("gendurable_step_seconds", "Seconds that a step ran", labels=_STEP)
        sums: dict[tuple[str, str], tuple[list[int], float]] = {}
        for fsm, step, outcome, buckets, seconds in self._tally.sums():
            counted.add_metric((fsm, step, "cancelled" if outcome == "none" else outcome), sum(buckets))
            before, so_far = sums.get((fsm, step), ([0] * len(buckets), 0.0))
            sums[fsm, step] = [a + b for a, b in zip(before, buckets, strict=True)], so_far + seconds
        for about, (buckets, seconds) in sums.items():
            took.add_metric(about, _cumulate(buckets), seconds)
        yield counted
        yield took

    def _engines(self) -> Iterator[Metric]:
        states = [state for engine in list(self.engines) if (state := _feel(engine)) is not None]
        running: dict[str, int] = {}
        slots: dict[str, int] = {}
        for state in states:
            for name, queue in state.queues.items():
                [called] = self._queues.call(name)
                running[called] = running.get(called, 0) + queue.running
                slots[called] = slots.get(called, 0) + queue.concurrency
        up = len(states) > 0
        yield _gauge("live", "1: the engines of this process live, else 0", int(all(s.live for s in states)), up)
        yield _gauge(
            "ready", "1: they claim, commit, listen and renew leases, else 0", int(all(s.ready for s in states)), up
        )
        yield _gauge("held", "1: everything is held (gd_hold_all), else 0", int(any(s.held for s in states)), up)
        yield _gauge("claims_now", "Claims that this process holds now", sum(s.claims for s in states), up)
        yield _by("running_steps", "Steps that run now in this process", "queue", running)
        yield _by("slots", "Steps that this process runs at once at most", "queue", slots)
        late = self._overdue
        yield _gauge(
            "retention_overdue_seconds",
            "Seconds by which removal was behind at the last maintenance",
            late or 0.0,
            late is not None,
        )
        at = self._maintained_at
        yield _gauge(
            "maintenance_time_seconds",
            "Seconds of the epoch: the last maintenance of this process",
            at or 0.0,
            at is not None,
        )

    def _depth(self) -> Iterator[Metric]:
        latest = self._latest.get()
        seen = None if latest is None else latest[1]
        queues = {} if seen is None else most_first(seen.queues, _MOST_QUEUES)

        def of(read: Callable[[QueueDepth], float | None]) -> dict[str, float]:
            found = {name: read(depth) for name, depth in queues.items()}
            return {name: float(value) for name, value in found.items() if value is not None}

        yield _by("queue_due", "Instances that are due, 10,000 at most", "queue", of(lambda q: q.due))
        oldest = of(lambda q: max(0.0, q.oldest_due or 0.0))
        yield _by("queue_oldest_due_seconds", "Seconds that the first due instance has waited", "queue", oldest)
        yield _by("queue_delayed", "Instances that are due later, 10,000 at most", "queue", of(lambda q: q.delayed))
        yield _by("queue_executing", "Instances under a claim, 10,000 at most", "queue", of(lambda q: q.executing))
        yield _by(
            "queue_parked",
            "Instances that wait for a signal, children, key or limit, 10,000 at most",
            "queue",
            of(lambda q: q.parked),
        )
        yield _by(
            "queue_limited",
            "Instances that wait for a rate limit, some of the parked ones",
            "queue",
            of(lambda q: q.limited),
        )
        yield _by("queue_paused", "1: the queue is paused, else 0", "queue", of(lambda q: q.paused))
        yield _by("queue_workers", "Workers that are known to serve the queue", "queue", of(lambda q: q.workers))
        yield _by(
            "queue_slots", "Steps that the workers of the queue run at once at most", "queue", of(lambda q: q.slots)
        )
        tables = {} if seen is None else seen.tables
        yield _by(
            "table_dead_rows",
            "Rows of a table that are dead, by the statistics of the server",
            "table",
            {name: t.dead for name, t in tables.items()},
        )
        yield _by(
            "table_live_rows",
            "Rows of a table that are live, by the statistics of the server",
            "table",
            {name: t.live for name, t in tables.items()},
        )
        findings = GaugeMetricFamily(
            "gendurable_doctor", "1: this check of the doctor is not well", labels=("check", "level")
        )
        for check, level in ({} if seen is None else seen.findings).items():
            findings.add_metric((check, level), 1)
        yield findings
        known = seen is not None
        yield _gauge(
            "failed_instances",
            "Instances that have failed and are kept, 10,000 at most",
            0 if seen is None else seen.failed,
            known,
        )
        yield _gauge(
            "depth_seconds",
            "Seconds that the last look at the queues took",
            0.0 if seen is None else seen.seconds,
            known,
        )
        yield _gauge(
            "depth_time_seconds",
            "Seconds of the epoch: the last look at the queues",
            0.0 if latest is None else latest[0],
            known,
        )


def _feel(engine: Probed) -> State | None:
    try:
        return engine.health()
    except Exception:  # noqa: BLE001 - the other metrics are worth as much
        logger.exception("the health of an engine is not known")
        return None


def _gauge(name: str, what: str, value: float, known: bool) -> Metric:
    return GaugeMetricFamily(f"gendurable_{name}", what, value=value if known else None)


def _by(name: str, what: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"gendurable_{name}", what, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _cumulate(counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip((*BUCKETS, float("inf")), counts, strict=True):
        total += count
        found.append((str(float(bound)) if bound < float("inf") else "+Inf", total))
    return found
