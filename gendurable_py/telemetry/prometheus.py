"""Metrics for Prometheus, in the registry of the program, and an endpoint that serves them with two probes.

    from gendurable_py import prometheus

    with prometheus.serve(engine, port=9464):       # /metrics, /health, /ready
        engine.run()

    prometheus.instrument(engine)                   # where the program serves its own registry

Needs the extra `prometheus`: pip install 'gendurable_py[prometheus]'.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from .._contract import Seconds
from ..errors import InvalidArgument
from .instrument import count_with, read_looks

try:
    from prometheus_client import REGISTRY, CollectorRegistry

    from .collector import Collector, Probed
    from .endpoint import App, Endpoint, Report, make_app, probe
except ImportError as error:
    raise ImportError("prometheus_client is not installed: pip install 'gendurable_py[prometheus]'") from error

__all__ = ["App", "Endpoint", "Probed", "Report", "instrument", "serve", "uninstrument", "wsgi"]

LOOKS = 15.0
"""Seconds from one look at the depth of the queues to the next."""

_lock = threading.RLock()
_current: tuple[Collector, CollectorRegistry] | None = None
_is_asked_for = False
"""Whether the program has called `instrument`."""
_blocks = 0
"""How many blocks of `serve` there are now."""


def instrument(
    *engines: Probed,
    registry: CollectorRegistry = REGISTRY,
    depth_interval: Seconds | None = LOOKS,
    most_names: int = 200,
) -> None:
    """Count in this process from now on, and put the metrics into a registry; called again, the counting goes on.

    Args:
        engines: whose slots and health are told; the events of all engines count.
        registry: None of the program's own collectors in it may begin with ``gendurable_``.
        depth_interval: how often the engines of all processes, one at a time, look at the depth of the queues (1 second
            to 1 day); None: not this process.
        most_names: so many pairs of machine and step, and so many queues, have series of their own; those that come
            later are counted as ``other``.

    Raises:
        InvalidArgument: a number that is none.
        ValueError: the registry has metrics of these names already.
    """
    global _is_asked_for
    with _lock:
        _instrument(engines, registry, depth_interval, most_names)
        _is_asked_for = True


def _instrument(
    engines: tuple[Probed, ...], registry: CollectorRegistry, depth_interval: Seconds | None, most_names: int
) -> None:
    global _current
    looks = read_looks(depth_interval)
    if isinstance(most_names, bool) or not isinstance(most_names, int) or most_names < 1:
        raise InvalidArgument(f"most_names is {most_names!r}", hint="pass a number from 1")
    if _current is None:
        collector = Collector(most=most_names)
        registry.register(collector)
        _current = collector, registry
    elif _current[1] is not registry:
        registry.register(_current[0])
        _current[1].unregister(_current[0])
        _current = _current[0], registry
    collector = _current[0]
    collector.engines += [engine for engine in engines if engine not in collector.engines]
    count_with(collector, looks)


def uninstrument() -> None:
    """Count no more, and take the metrics out of their registry."""
    global _current, _is_asked_for
    with _lock:
        _is_asked_for = False
        count_with(None)
        if _current is not None:
            collector, registry = _current
            _current = None
            with contextlib.suppress(KeyError):
                registry.unregister(collector)


def wsgi(*engines: Probed, registry: CollectorRegistry = REGISTRY) -> App:
    """The endpoint as a WSGI application, for a server that the program has already: below any path, say
    ``/gendurable/metrics``, ``/gendurable/health`` and ``/gendurable/ready`` where it is mounted at ``/gendurable``."""
    return make_app(registry, lambda: probe(engines))


@contextlib.contextmanager
def serve(
    *engines: Probed,
    port: int = 9464,
    host: str = "127.0.0.1",
    registry: CollectorRegistry = REGISTRY,
    depth_interval: Seconds | None = LOOKS,
    most_names: int = 200,
) -> Iterator[Endpoint]:
    """`instrument`, and serve the registry and the probes of these engines, on threads of their own, until the block
    ends. Everything in the registry is served, what the steps count too.

    Args:
        port: 0: any that is free; see ``port`` and ``url`` of what the block gets.
        host: an address of this machine, or ``0.0.0.0`` or ``::`` for all. There is no password.

    Raises:
        OSError: the port cannot be had.
        InvalidArgument, ValueError: as `instrument`.
    """
    global _blocks
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise InvalidArgument(f"port is {port!r}", hint="pass a number from 0 to 65535")
    with Endpoint(wsgi(*engines, registry=registry), host, port) as endpoint:
        with _lock:
            _instrument(engines, registry, depth_interval, most_names)
            _blocks += 1
        try:
            yield endpoint
        finally:
            _leave(engines)


def _leave(engines: tuple[Probed, ...]) -> None:
    """End what a block began: if the program had said it, or another block is under way, the counting goes on."""
    global _blocks
    with _lock:
        _blocks -= 1
        if not _blocks and not _is_asked_for:
            uninstrument()
        elif _current is not None:
            _current[0].engines = [engine for engine in _current[0].engines if engine not in engines]
