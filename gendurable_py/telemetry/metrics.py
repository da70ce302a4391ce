"""The metrics of `gendurable_py.otel`, counted from the events of the engines."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider

# The SDK's own buckets are for milliseconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


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
        self._lost = meter.create_counter("gendurable.lost", "{instance}", "Claims lost while their step ran")
        self._released = meter.create_counter("gendurable.released", "{instance}", "Claims given back")
        self._reconnects = meter.create_counter("gendurable.reconnects", "{failure}", "Failures of a connection")
        self._blocked = meter.create_counter("gendurable.blocked", "s", "Seconds in which a step blocked the loop")
        self._maintained = meter.create_counter("gendurable.maintained", "{instance}", "What maintenance did")

    def event(self, name: str, measurements: Mapping[str, float], metadata: Mapping[str, object]) -> None:
        match name:
            case "step":
                about = _about(metadata, "fsm", "step", "queue")
                self._steps.add(1, {**about, "gendurable.outcome": str(metadata["outcome"] or "cancelled")})
                self._step_duration.record(measurements["seconds"], about)
            case "claim":
                self._claim_duration.record(measurements["seconds"])
                queues = metadata["queues"]
                assert isinstance(queues, dict)
                for queue, rows in queues.items():
                    self._claims.add(rows, {"gendurable.queue": queue})
            case "commit":
                self._commits.add(1)
                self._commit_size.record(measurements["rows"])
                self._commit_duration.record(measurements["seconds"])
                self._outcomes.add(measurements["ok"], {"gendurable.result": "ok"})
            case "stale" | "busy" | "rejected":
                # Not from the commit's own numbers: what was committed before its answer was lost is stale there.
                self._outcomes.add(1, {"gendurable.result": name})
            case "lost":
                self._lost.add(1, _about(metadata, "fsm", "step"))
            case "release":
                self._released.add(measurements["rows"], _about(metadata, "reason"))
            case "reconnect":
                self._reconnects.add(1, _about(metadata, "link"))
            case "blocked":
                self._blocked.add(measurements["seconds"])
            case "maintain":
                for what, count in measurements.items():
                    if what != "seconds":
                        self._maintained.add(count, {"gendurable.what": what})


def _about(metadata: Mapping[str, object], *keys: str) -> dict[str, str]:
    return {f"gendurable.{key}": str(metadata[key]) for key in keys}
