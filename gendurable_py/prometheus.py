"""Metrics for Prometheus, with probes: ``prometheus.serve(engine)``. See `telemetry.prometheus`."""

from .telemetry.prometheus import instrument, serve, uninstrument, wsgi

__all__ = [
    "instrument",
    "serve",
    "uninstrument",
    "wsgi",
]
