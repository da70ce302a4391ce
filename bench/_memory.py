"""Memory of an engine in a process of its own, while jobs run through it and parked instances are signalled."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import _engine
from ._measure import Bench, beside
from ._steady import Feeder

_WARM = 60.0
_CHUNK = 1000


class Sample(NamedTuple):
    """Seconds since the start, and the memory that is resident (Linux: /proc/PID/status)."""

    seconds: float
    megabytes: float


class Sampler:
    """Looks every second, from a thread of its own."""

    def __init__(self, pid: int) -> None:
        self.began = time.monotonic()
        self.samples: list[Sample] = []
        self._file = Path(f"/proc/{pid}/status")

    def look(self) -> Sample:
        [line] = [line for line in self._file.read_text().splitlines() if line.startswith("VmRSS:")]
        self.samples.append(Sample(time.monotonic() - self.began, int(line.split()[1]) / 1024))
        return self.samples[-1]

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        def go_on(over: threading.Event) -> None:
            while not over.wait(1):
                self.look()

        with beside(go_on):
            yield

    def most(self, since: float = 0.0) -> float:
        return max(one.megabytes for one in self.samples if one.seconds >= since)


class Counts(NamedTuple):
    """What the interpreter of the engine counts, behind a collection."""

    blocks: int
    objects: int


def counts(engine: subprocess.Popen[str]) -> Counts:
    assert engine.stdin is not None and engine.stdout is not None
    engine.stdin.write("count\n")
    engine.stdin.flush()
    return Counts(**json.loads(engine.stdout.readline()))


def park_and_signal(bench: Bench, count: int) -> None:
    """So many instances wait for a signal, all of them get it, and all of them end."""
    text = json.dumps([{"fsm": "bench_resume"}] * _CHUNK)
    for _ in range(count // _CHUNK):
        bench.conn.execute("select count(*) from gd_insert_many(%s)", [text])
    parked = "select id from gendurable.instance where fsm = 'bench_resume' and status = 'awaiting_signal' order by id"
    while bench.value(f"select count(*) from ({parked}) p") < count:
        time.sleep(0.2)
    ids = [id for (id,) in bench.conn.execute(parked.encode())]
    for first in range(0, count, _CHUNK):
        bench.conn.execute("select count(*) from gd_signal_many(%s, 'go')", [ids[first : first + _CHUNK]])
    while bench.value("select count(*) from gendurable.instance where fsm = 'bench_resume' and finished_at is null"):
        time.sleep(0.2)


def memory(bench: Bench) -> float:
    """100 x scale jobs, and beside them 10 x scale parked instances, a tenth at a time: the most that was resident."""
    jobs, parked = 100 * bench.scale, bench.scale
    with _engine.dispatcher(bench.server.dsn, 10, retention=60) as engine:
        sampler = Sampler(engine.pid)
        told = [(sampler.look(), 0, counts(engine))]
        with sampler.looking():
            feeder = Feeder(bench.server.dsn)
            try:
                for part in range(1, 11):
                    park_and_signal(bench, parked)
                    while feeder.inserted < part * jobs // 10:
                        time.sleep(0.1)
                    told.append((sampler.look(), feeder.inserted, counts(engine)))
                    print(f"  {tell(*told[-1])}", file=sys.stderr, flush=True)
            finally:
                feeder.stop()
            _engine.finish(bench.conn)
        told.append((sampler.look(), feeder.inserted, counts(engine)))
    bench.notes += [f"memory: {tell(*one)}" for one in told]
    bench.notes.append(
        f"memory: the most that was resident {sampler.most():.1f} MB, in the first minute "
        f"{max(one.megabytes for one in sampler.samples if one.seconds < _WARM):.1f}"
    )
    return sampler.most()


def tell(sample: Sample, jobs: int, counted: Counts) -> str:
    return (
        f"{sample.seconds:.0f} s, {jobs:,} jobs: {sample.megabytes:.1f} MB, {counted.blocks:,} blocks, "
        f"{counted.objects:,} objects"
    )
