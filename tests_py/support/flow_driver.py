"""A worker for flows without an engine: one row after the other, and it can die wherever a flow passes on.

What dies leaves nothing behind but its claim, whose lease has ended: `Driver(conn, meet)` calls `meet(what)` at each
boundary, and that may raise `Killed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
from support.flows import expire

from gendurable_py.calls import dispatching, replaying
from gendurable_py.flow.define import FlowSpec
from gendurable_py.flow.moves import decide
from gendurable_py.flow.run import Run
from gendurable_py.flow.waiting import StepCall
from gendurable_py.machine.claim import ClaimRow
from gendurable_py.machine.codec import dumps, loads
from gendurable_py.machine.registry import lookup

LEASE = timedelta(hours=1)
Meet = Callable[[str], None]


class Killed(BaseException):
    """The worker is dead."""


class Driver:
    """``jobs``: functions of jobs by name, which run between flows."""

    def __init__(self, conn: psycopg.Connection[Any], queue: str, jobs: dict[str, Any], meet: Meet) -> None:
        self._conn = conn
        self._queue = queue
        self._jobs = jobs
        self._meet = meet
        self._worker = f"driver:{secrets.token_hex(4)}"

    async def run(self, id: int) -> None:
        """Until this instance has ended."""
        while True:
            rows = dispatching.claim_rows(self._conn, self._worker, {self._queue: 1}, LEASE)
            for row in rows:
                if row.fsm in self._jobs:
                    result = self._jobs[row.fsm](loads(row.state))
                    self._commit(b'{"id":%d,"claim_no":%d,"kind":"done","result":%b}' % ((*row[:2], dumps(result))))
                else:
                    await self._drive(row)
            if not rows:
                found = self._conn.execute("select finished_at from gd_instances where id = %s", (id,)).fetchone()
                if found is not None and found[0] is not None:
                    return
                await asyncio.sleep(0.002)

    def _commit(self, outcome: bytes) -> ClaimRow | int | None:
        answers = dispatching.commit_text(self._conn, self._worker, f"[{outcome.decode()}]", LEASE, True)
        assert [answer for answer in answers if answer.result != "ok"] == []
        return answers[0].kept if answers else None

    async def _drive(self, row: ClaimRow) -> None:
        self._meet("claimed")
        spec = lookup(row.fsm, row.version)
        assert isinstance(spec, FlowSpec)
        entries = replaying.journals(self._conn, [row.id])[row.id]
        assert entries is not None
        run = spec.begin(row, entries, f"seed {row.id}", contextvars.copy_context())
        tasks: dict[asyncio.Task[None], StepCall] = {}
        try:
            while await self._go_on(run, tasks):
                pass
        finally:
            run.close()  # of a dead process nothing is left; here the function would stand in memory
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _go_on(self, run: Run, tasks: dict[asyncio.Task[None], StepCall]) -> bool:
        run.settle_down()
        self._meet("at rest")
        move = decide(run, True)
        if move is not None:
            self._meet("before a commit")
            kept = self._commit(move.outcome)
            self._meet("after a commit")
            if kept is not None and move.keep:
                run.committed(run.row.renewed(kept, run.stands))
                self._meet("handed out")
                return True
            run.close()
            self._meet("suspended")
            return False
        for call in run.start_calls():
            tasks[asyncio.create_task(self._step(call))] = call
        nearest = run.nearest()
        left = None if nearest is None or nearest.deadline is None else max(0, nearest.deadline - time.time())
        done = (await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED))[0] if tasks else ()
        for task in sorted(done, key=lambda task: tasks[task].step.order):
            call = tasks.pop(task)
            task.result()
            self._meet("step ended")
            run.step_ended(call)
        if not tasks and not done:
            await asyncio.sleep(left or 0)
        return True

    async def _step(self, call: StepCall) -> None:
        self._meet("before a step")
        call.task = asyncio.current_task()
        with contextlib.suppress(asyncio.CancelledError):
            if call.is_async:
                await call.run_async()
            else:
                call.run()
        self._meet("after its effect")


class Counting:
    """Counts boundaries, and is killed at one."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.met: list[str] = []
        self._kill_at = kill_at

    def __call__(self, what: str) -> None:
        self.met.append(what)
        if len(self.met) == self._kill_at:
            raise Killed(what)


def run_killed(conn: psycopg.Connection[Any], queue: str, jobs: dict[str, Any], id: int, kills: list[int]) -> int:
    """Run an instance to its end, by a worker that is killed at the first of these boundaries, by the next one at the
    second, and so on; answers how many were."""
    killed = 0
    for kill_at in (*kills, None):
        try:
            asyncio.run(Driver(conn, queue, jobs, Counting(kill_at)).run(id))
            break
        except Killed:
            killed += 1
            expire(conn)
    return killed
