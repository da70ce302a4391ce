"""Transactional steps of Python: each updates one random row of those that the yardstick updates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from . import _engine
from ._measure import Bench, processor_time

CONCURRENCY = 20
"""Slots of a process: as many as it has connections by default."""

OPTIONS = {"prefetch": 100, "min_demand": 50}
"""One claim for some fifty steps: with none of these each step that ends is followed by a claim of one or two."""


def steps(machine: str, processes: int) -> Callable[[Bench], float]:
    """Steps a second of so many dispatcher processes, from a backlog that is there."""

    def run(bench: Bench) -> float:
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(_engine.dispatcher(bench.server.dsn, CONCURRENCY, **OPTIONS))
                for _ in range(processes)
            ]
            _engine.drain(bench.conn, machine, bench.scale // 10)  # connections, threads and plans
            before = sum(processor_time(process.pid) for process in running)
            rate = _engine.drain(bench.conn, machine, bench.scale).rate
            spent = sum(processor_time(process.pid) for process in running) - before
        bench.notes.append(
            f"{machine}, {processes} processes: {1e6 * spent / bench.scale:,.0f} us of their processor time a step"
        )
        return rate

    return run
