"""The metrics of `gendurable_py.otel`, counted from the events of the engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from . import events
from .events import Event
from .looked import Latest, Looked, QueueDepth, most_first

# The SDK's own buckets are for milliseconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_MOST_QUEUES = 100


class Meters:
    """One set of instruments for all engines of the process."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = metrics.get_meter("gendurable", meter_provider=provider)

        def seconds(name: str, what: str) -> metrics.Histogram:
            return meter.create_histogram(name, "s", what, explicit_bucket_boundaries_advisory=_SECONDS)

        self.running = meter.create_up_down_counter("gendurable.steps.running", "{step}", "Steps that run now")
        self._steps = meter.create_counter("gendurable.steps", "{step}", "Runs of steps that have ended")
        self._step_duration = seconds("gendurable.step.duration", "How long a step ran")
        self._claims = meter.create_counter("gendurable.claims", "{instance}", "Instances claimed")
        self._claim_duration = seconds("gendurable.claim.duration", "The round trip of a claim that found something")
        self._commits = meter.create_counter("gendurable.commits", "{commit}", "Batches committed")
        self._commit_size = meter.create_histogram(
            "gendurable.commit.size", "{outcome}", "Outcomes in a batch", explicit_bucket_boundaries_advisory=_ROWS
        )
        self._commit_duration = seconds("gendurable.commit.duration", "The round trip of a commit")
        self._outcomes = meter.create_counter("gendurable.outcomes", "{outcome}", "Outcomes by the server's answer")
        self._timeouts = meter.create_counter("gendurable.timeouts", "{step}", "Steps that were not over in time")
        self._lost = meter.create_counter("gendurable.lost", "{instance}", "Claims lost while their step ran")
        self._released = meter.create_counter("gendurable.released", "{instance}", "Claims given back")
        self._reconnects = meter.create_counter("gendurable.reconnects", "{failure}", "Failures of a connection")
        self._blocked = meter.create_counter("gendurable.blocked", "s", "Seconds in which a step blocked the loop")
        self._maintained = meter.create_counter(
            "gendurable.maintained", "{instance}", "Instances on which maintenance acted"
        )
        self._late = seconds("gendurable.wake.lateness", "From when a row was due, or told of, until it was claimed")
        self._saturations = meter.create_counter("gendurable.saturations", "{time}", "How often no more was claimed")
        self._latest = Latest()
        self._gauge_depth(meter)

    def _gauge_depth(self, meter: metrics.Meter) -> None:
        """What one engine at a time sees of the database. Where another one looks, these tell of nothing."""

        def gauge(name: str, unit: str, what: str, observe: Callable[[Looked], Iterable[Observation]]) -> None:
            def observed(options: CallbackOptions) -> Iterable[Observation]:
                latest = self._latest.get()
                return () if latest is None else list(observe(latest[1]))

            meter.create_observable_gauge(f"gendurable.{name}", [observed], unit, what)

        def queue(name: str, unit: str, what: str, read: Callable[[QueueDepth], float]) -> None:
            def observe(looked: Looked) -> Iterable[Observation]:
                for called, depth in most_first(looked.queues, _MOST_QUEUES).items():
                    yield Observation(read(depth), {"gendurable.queue": called})

            gauge(f"queue.{name}", unit, what, observe)

        queue("due", "{instance}", "Instances that are due, 10,000 at most", lambda q: q.due)
        queue("oldest_due", "s", "How long the first due instance has waited", lambda q: max(0.0, q.oldest_due or 0.0))
        queue("delayed", "{instance}", "Instances that are due later, 10,000 at most", lambda q: q.delayed)
        queue("executing", "{instance}", "Instances under a claim, 10,000 at most", lambda q: q.executing)
        queue(
            "parked",
            "{instance}",
            "Instances that wait for a signal, children, key or limit, 10,000 at most",
            lambda q: q.parked,
        )
        queue(
            "limited",
            "{instance}",
            "Instances that wait for a rate limit, some of the parked ones",
            lambda q: q.limited,
        )
        queue("paused", "1", "1: the queue is paused, else 0", lambda q: int(q.paused))
        queue("workers", "{worker}", "Workers that are known to serve the queue", lambda q: q.workers)
        queue("slots", "{step}", "Steps that the workers of the queue run at once at most", lambda q: q.slots)
        gauge(
            "failed",
            "{instance}",
            "Instances that have failed and are kept, 10,000 at most",
            lambda seen: [Observation(seen.failed)],
        )
        gauge(
            "table.dead_rows",
            "{row}",
            "Rows of a table that are dead, by the statistics of the server",
            lambda seen: [Observation(rows.dead, {"gendurable.table": name}) for name, rows in seen.tables.items()],
        )
        gauge(
            "doctor",
            "1",
            "1: this check of the doctor is not well",
            lambda seen: [
                Observation(1, {"gendurable.check": check, "gendurable.level": level})
                for check, level in seen.findings.items()
            ],
        )

    def event(self, event: Event) -> None:
        match event:
            case events.StepEnded():
                about = {**_about(event.fsm, event.step), "gendurable.queue": event.queue}
                self._steps.add(1, {**about, "gendurable.outcome": event.outcome or "cancelled"})
                self._step_duration.record(event.seconds, about)
            case events.Claimed():
                self._claim_duration.record(event.seconds)
                for queue, rows in event.queues.items():
                    self._claims.add(rows, {"gendurable.queue": queue})
            case events.Committed():
                self._commits.add(1)
                self._commit_size.record(event.rows)
                self._commit_duration.record(event.seconds)
                self._outcomes.add(event.ok, {"gendurable.result": "ok"})
            case events.Stale() | events.Busy() | events.Rejected():
                # Not from the commit's own numbers: what was committed before its answer was lost is stale there.
                self._outcomes.add(1, {"gendurable.result": event.name})
            case events.StepTimedOut():
                self._timeouts.add(1, _about(event.fsm, event.step))
            case events.Lost():
                self._lost.add(1, _about(event.fsm, event.step))
            case events.Released():
                self._released.add(event.rows, {"gendurable.reason": event.reason})
            case events.Reconnecting():
                self._reconnects.add(1, {"gendurable.link": event.link})
            case events.Blocked():
                self._blocked.add(event.seconds)
            case events.Maintained():
                for what, count in event.counts.items():
                    self._maintained.add(count, {"gendurable.what": what})
            case events.Awake():
                if event.late is not None:
                    self._late.record(event.late)
            case events.Saturated():
                self._saturations.add(1)
            case Looked():
                self._latest.hear(event)
            case events.Collected():
                self._maintained.add(event.removed, {"gendurable.what": "removed"})


def _about(fsm: str, step: str) -> dict[str, str]:
    return {"gendurable.fsm": fsm, "gendurable.step": step}
