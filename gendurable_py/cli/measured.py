"""One endpoint for several processes: the parent asks its children for what they count, and serves it all on one port.

Each child has one end of a socket pair. A request is a line, and its answer a line of JSON under the same number, so
that an answer which comes too late is passed over. The series of a child have its number as the label ``process``: when
one is started anew only its own begin again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..engine import Engine

logger = logging.getLogger("gendurable.cli")

_PATIENCE = 3.0
_BEGINS = 120.0
"""So many seconds a child may take for its imports, before one that has never answered counts as one that hangs."""
_MOST_BYTES = 32_000_000
_LABEL = "process"


# The child


def answer_parent(channel: socket.socket, engine: Engine) -> None:
    """Count, and answer on this socket from now on, in threads of its own, until it is closed."""
    from prometheus_client import REGISTRY

    from .. import prometheus
    from ..telemetry.endpoint import probe

    prometheus.instrument(engine)

    def answer(what: str) -> Any:
        if what == "metrics":
            return [
                [
                    family.name,
                    family.type,
                    family.documentation,
                    [[s.name, s.labels, float(s.value)] for s in family.samples],
                ]
                for family in REGISTRY.collect()
            ]
        return probe([engine])[2]

    sending = threading.Lock()
    waiting: queue.Queue[str | None] = queue.Queue(1)

    def reply(number: str, what: str) -> None:
        try:
            said = json.dumps([int(number), answer(what) if what else None])
        except Exception:  # the parent is told, and asks again
            logger.exception("the metrics of this process are not known")
            said = json.dumps([int(number), None])
        with sending:
            channel.sendall(said.encode() + b"\n")

    def count() -> None:
        with contextlib.suppress(OSError, ValueError):
            while (number := waiting.get()) is not None:
                reply(number, "metrics")

    def serve() -> None:
        with contextlib.suppress(OSError, ValueError), channel, channel.makefile("r") as asked:
            for line in asked:
                number, _, what = line.strip().partition(" ")
                if what != "metrics":
                    reply(number, what)
                    continue
                # A collector of the program may take long, and that says nothing of its health.
                try:
                    waiting.put_nowait(number)
                except queue.Full:
                    reply(number, "")
        with contextlib.suppress(queue.Full):
            waiting.put_nowait(None)

    threading.Thread(target=count, name="gendurable metrics", daemon=True).start()
    threading.Thread(target=serve, name="gendurable health", daemon=True).start()


# The parent


class Channel:
    """The parent's end of one child. From any thread; one request at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._lock = threading.Lock()
        self._read = b""
        self._number = 0
        self._began = time.monotonic()
        self._has_answered = False
        self.gone = False
        """Whether the child has closed its end, or is about to: it has ended."""

    @property
    def starts(self) -> bool:
        """Whether it may still be at its imports."""
        return not self._has_answered and time.monotonic() - self._began < _BEGINS

    def ask(self, what: str) -> Any:
        """The answer; None: it is not there within 3 seconds, or at all."""
        until = time.monotonic() + _PATIENCE
        if not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            self._number += 1
            self._socket.settimeout(_PATIENCE)
            self._socket.sendall(f"{self._number} {what}\n".encode())
            while True:
                line = self._line(until)
                if line is None:
                    return None
                number, said = json.loads(line)
                self._has_answered = True
                if number == self._number:
                    return said
        except (TimeoutError, ValueError):
            return None
        except OSError:
            self.gone = True
            return None
        finally:
            self._lock.release()

    def _line(self, until: float) -> bytes | None:
        while b"\n" not in self._read:
            left = until - time.monotonic()
            if len(self._read) > _MOST_BYTES:
                self._read = b""  # what comes of it yet is no answer
                return None
            if left <= 0:
                return None
            self._socket.settimeout(left)
            part = self._socket.recv(1 << 20)
            if not part:
                raise ConnectionError("it is closed")
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Family:
    """The children as a supervisor has them: by number, those that live; how many there should be, and have died."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.deaths = 0
        self._channels: dict[int, Channel] = {}
        self._lock = threading.Lock()

    def begin(self, number: int) -> socket.socket:
        """For a child that is about to start: its end."""
        ours, theirs = socket.socketpair()
        with self._lock:
            self._channels[number] = Channel(ours)
        return theirs

    def end(self, number: int, died: bool) -> None:
        """It has ended."""
        with self._lock:
            channel = self._channels.pop(number, None)
            self.deaths += died
        if channel is not None:
            channel.close()

    def starts(self, number: int) -> bool:
        """Whether this one is there, and may still be at its imports."""
        with self._lock:
            channel = self._channels.get(number)
        return channel is not None and channel.starts

    def ask(self, what: str) -> dict[int, Any]:
        """The answers of all that are there, asked at once; None: one does not answer."""
        with self._lock:
            channels = dict(self._channels)
        found: dict[int, Any] = {}

        def one(number: int, channel: Channel) -> None:
            found[number] = channel.ask(what)

        threads = [threading.Thread(target=one, args=item, daemon=True) for item in channels.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * _PATIENCE)
        return {number: found.get(number) for number, channel in channels.items() if not channel.gone}


def report(family: Family) -> tuple[bool, bool, dict[str, Any]]:
    """How all of them are doing: live, ready, and why not.

    A child that is not there, or starts, is the supervisor's affair: then this is not ready, but lives. One that does
    not answer, or says itself that it does not live, has to be ended, and nobody here does that.
    """
    answers = family.ask("health")
    reasons: list[str] = []
    live, ready = True, True
    for number in range(1, family.wanted + 1):
        about = answers.get(number)
        if about is None:
            ready = False
            starts = number in answers and family.starts(number)
            live = live and (starts or number not in answers)
            said = "starts" if starts else f"does not {'answer' if number in answers else 'run'}"
            reasons.append(f"process {number} {said}")
            continue
        starts = any(engine["state"] in ("stopped", "starting") for engine in about["engines"])
        live = live and (about["live"] or starts)
        ready = ready and about["ready"]
        reasons += [f"process {number}: {reason}" for reason in about["reasons"]]
    processes = {str(number): about for number, about in sorted(answers.items())}
    return live, ready, {"live": live, "ready": ready, "reasons": reasons, "processes": processes}


def collect(answers: Mapping[int, Any]) -> Iterator[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]]:
    """The families of all processes as one list: name, type, documentation, samples."""
    merged: dict[str, tuple[str, str, str, list[tuple[str, dict[str, str], float]]]] = {}
    for number, families in sorted(answers.items()):
        for name, kind, documentation, samples in families or ():
            _, known, _, all_samples = merged.setdefault(name, (name, kind, documentation, []))
            if known != kind:
                continue
            for sample, labels, value in samples:
                given = {f"exported_{key}" if key == _LABEL else key: each for key, each in labels.items()}
                all_samples.append((sample, {**given, _LABEL: str(number)}, value))
    yield from merged.values()


@contextlib.contextmanager
def serving(family: Family, host: str, port: int) -> Iterator[None]:
    """The endpoint of the parent. The number 0 is that of the parent itself."""
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    from ..telemetry.endpoint import Endpoint, make_app

    class Children(Collector):
        def describe(self) -> Iterable[Metric]:
            return ()

        def collect(self) -> Iterator[Metric]:
            own = [
                [each.name, each.type, each.documentation, [[s.name, s.labels, s.value] for s in each.samples]]
                for each in REGISTRY.collect()
            ]
            answers = family.ask("metrics")
            for name, kind, documentation, samples in collect({0: own, **answers}):
                made = Metric(name, documentation, kind)
                for sample, labels, value in samples:
                    made.add_sample(sample, labels, value)
                yield made
            there = sum(1 for answer in answers.values() if answer is not None)
            yield GaugeMetricFamily("gendurable_processes", "Processes of this worker that answer", value=there)
            yield CounterMetricFamily(
                "gendurable_process_deaths",
                "Processes of this worker that have died and were started again",
                value=family.deaths,
            )

    registry = CollectorRegistry()
    registry.register(Children())
    with Endpoint(make_app(registry, lambda: report(family)), host, port):
        yield
