"""OpenTelemetry: a span for each step, in the trace that inserted its instance, and metrics of the engines.

    from gendurable_py import otel

    otel.instrument()       # once, in every process that inserts or runs an engine; before or after they start

Needs the extra `otel`: pip install 'gendurable_py[otel]'. Nothing is exported unless the program sets up the SDK.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType

from pydantic import JsonValue

from .. import _trace
from .._contract import TRACE_KEYS, Seconds
from .._log import logger
from ..machine.claim import ClaimRow
from ..machine.codec import loads
from ..machine.encode import read_kind
from .events import Event
from .instrument import Running, read_looks, use

try:
    from opentelemetry import context, trace
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from .metrics import Meters
except ImportError as error:
    raise ImportError("OpenTelemetry is not installed: pip install 'gendurable_py[otel]'") from error

# Not the program's own choice of propagators: these are the keys that the server hands from parents to children.
_PROPAGATOR = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    links: bool = False,
    depth_interval: Seconds | None = 15,
) -> None:
    """Switch it on for this process; called again, the new providers take the place of the old ones.

    Args:
        tracer_provider, meter_provider: None: the global ones.
        links: let each run of a step begin a trace of its own that links to the insert, instead of joining its trace:
            for instances that live longer than a trace may.
        depth_interval: how often the engines of all processes, one at a time, look at the depth of the queues (1 second
            to 1 day); None: not this process.

    Raises:
        InvalidArgument: an interval that is none.
    """
    looks = read_looks(depth_interval)
    use(_Instrument(trace.get_tracer("gendurable", tracer_provider=tracer_provider), meter_provider, links), looks)
    _trace.use(_carrier)


def uninstrument() -> None:
    """Switch it off. Steps that run keep their spans."""
    use(None)
    _trace.use(None)


def _carrier() -> Mapping[str, str]:
    """The keys of ``meta`` by which an instance that is inserted now remembers its trace."""
    keys: dict[str, str] = {}
    # Baggage alone, without a trace, is not for others to see.
    if trace.get_current_span().get_span_context().is_valid:
        _PROPAGATOR.inject(keys)
    return keys


class _Instrument:
    def __init__(self, tracer: Tracer, meter_provider: MeterProvider | None, links: bool) -> None:
        self.tracer = tracer
        self.links = links
        self.meters = Meters(meter_provider)

    def step(self, work: Running) -> _Run:
        return _Run(self, work)

    def begin(self, row: ClaimRow, since: int | None = None) -> tuple[Span, Context]:
        """The span of a run, and the context in which it stands."""
        # An empty context: what is current here is the span in which the engine was started, if any.
        origin = _PROPAGATOR.extract(_trace_keys(row.meta), Context())
        parent, linked = origin, []
        if self.links:
            found = trace.get_current_span(origin).get_span_context()
            linked = [Link(found)] if found.is_valid else []
            parent = trace.set_span_in_context(trace.INVALID_SPAN, origin)
        name = f"{row.fsm} {row.step}"
        span = self.tracer.start_span(name, parent, SpanKind.CONSUMER, _attributes(row), linked, start_time=since)
        return span, parent

    def ran(self, row: ClaimRow, seconds: float, outcome: str, error: Exception | None) -> None:
        try:
            span, _ = self.begin(row, time.time_ns() - int(seconds * 1e9))
            _finish(span, outcome, error)
        except Exception:  # noqa: BLE001 - telemetry that fails stops nothing
            logger.exception("the span of step %s of %s %s is lost", row.step, row.fsm, row.id)

    def event(self, event: Event) -> None:
        self.meters.event(event)


class _Run:
    """One run of a step. Whatever goes wrong here, the step runs: with this span, or without."""

    __slots__ = ("_instrument", "_span", "_token", "_work")

    def __init__(self, instrument: _Instrument, work: Running) -> None:
        self._instrument = instrument
        self._work = work
        self._span: Span | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        row = self._work.row
        try:
            self._instrument.meters.running.add(1, {"gendurable.queue": row.queue})
            span, parent = self._instrument.begin(row)
            self._token = context.attach(trace.set_span_in_context(span, parent))
            self._span = span
        except Exception:  # noqa: BLE001 - telemetry that fails stops nothing
            logger.exception("no span for step %s of %s %s", row.step, row.fsm, row.id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        work, span = self._work, self._span
        try:
            self._instrument.meters.running.add(-1, {"gendurable.queue": work.row.queue})
            if span is None or self._token is None:
                return
            context.detach(self._token)
            _finish(span, "cancelled" if error else read_kind(work.outcome) or "cancelled", work.error)
        except Exception:  # noqa: BLE001 - telemetry that fails stops nothing
            logger.exception("the span of step %s of %s %s is lost", work.row.step, work.row.fsm, work.row.id)


def _finish(span: Span, outcome: str, error: BaseException | None) -> None:
    span.set_attribute("gendurable.outcome", outcome)
    if error is not None:
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
    span.end()


def _attributes(row: ClaimRow) -> dict[str, str | int]:
    return {
        "gendurable.fsm": row.fsm,
        "gendurable.version": row.version,
        "gendurable.step": row.step,
        "gendurable.id": row.id,
        "gendurable.attempt": row.attempt,
        "gendurable.queue": row.queue,
        **({} if row.parent_id is None else {"gendurable.parent_id": row.parent_id}),
    }


def _trace_keys(text: str) -> dict[str, str]:
    """The trace keys of a meta. Any client may have written it, so only strings count."""
    if "traceparent" not in text:
        return {}
    meta: JsonValue = loads(text)
    if not isinstance(meta, dict):
        return {}
    return {key: value for key in TRACE_KEYS if isinstance(value := meta.get(key), str)}
