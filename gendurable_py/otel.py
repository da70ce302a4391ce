"""OpenTelemetry: a span for each step, and metrics: ``otel.instrument()``. See `telemetry.otel`."""

from .telemetry.otel import instrument, uninstrument

__all__ = [
    "instrument",
    "uninstrument",
]
