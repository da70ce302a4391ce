"""The scene in which others share the database: all that `intruders.py` does at once, and workers that come and go."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack

import psycopg
from psycopg import sql
from support.clock import Clock, SteppingCluster
from support.clock import Unavailable as NoClock

from gendurable_py.embedded.cluster import Cluster
from gendurable_py.install import extension_files

from . import TESTS
from .aside import Aside
from .checker import Violation
from .intruders import ROLE, Intruders
from .scene import SETTINGS, Report, Scene, installation

# An open transaction lasts so long at most, in seconds: a part of the whole, and never longer than this.
LONGEST_OPEN = 60.0
# Between two workers that are killed or replaced.
ROUND = 8.0
AROUND = SETTINGS | {"max_prepared_transactions": "20", "wal_level": "logical"}
ENDS = "select status, count(*) from gendurable.instance where fsm = 'around.hostile' group by status"
LEFT = """
select format('%s: %s is still %s, step %s, attempt %s: %s', id, left(fsm, 30), status, left(step, 20), attempt,
    left(last_error, 80))
from gendurable.instance
where finished_at is null and id > 0 and fsm not like 'chaos.%'
order by id
limit 20
"""
UNSAID = """
select count(*) from gendurable.instance
where fsm = 'around.hostile' and status = 'failed' and coalesce(last_error, '') = ''
"""


def play_around(seed: int, minutes: float, *, steady: bool = False) -> Report:
    """`steady`: the clock does not step, so that times are judged as well."""
    with ExitStack() as stack:
        server, clock, remarks = _start(stack, steady)
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute("create extension gendurable")
            role = sql.Identifier(ROLE)
            conn.execute(sql.SQL("create role {} login").format(role))
            for profile in ("worker", "operator"):
                conn.execute("select gd_grant(%s::text::regrole, %s)", (ROLE, profile))
        scene = stack.enter_context(Scene(seed, server=server, user=ROLE, more="+around"))
        scene.stepped = clock is not None
        beside = Aside(scene.dsn)
        engine = _engine_aside(scene)
        stack.callback(engine.wait)
        stack.callback(engine.kill)
        intruders = Intruders(scene.dsn, seed, clock, min(LONGEST_OPEN, minutes * 60 / 3))
        scene.go_on()
        beside.start()
        intruders.start()
        _last(scene, beside, minutes)
        beside.stop()
        intruders.stop()
        for who in (beside, intruders):
            if who.failure is not None:
                scene.violations.append(Violation("client", f"was refused: {who.failure!r}"))
        if clock is None:
            # What is asleep when the clock is put back sleeps on by as much.
            scene.violations += [Violation("stood still", text) for text in beside.stood_still()]
        if engine.poll() is not None:
            scene.violations.append(Violation("worker", f"the engine aside ended by itself: {engine.returncode}"))
        scene.calm()
        report = scene.judge()
        with psycopg.connect(scene.dsn) as conn:
            if (row := conn.execute(UNSAID.encode()).fetchone()) and row[0]:
                report.violations.append(Violation("payload", f"{row[0]} have failed without a word"))
            ended = Counter(dict(conn.execute(ENDS.encode()).fetchall()))
            report.violations += [Violation("stuck", text) for (text,) in conn.execute(LEFT.encode()).fetchall()]
        report.faults += intruders.done
        report.remarks = [
            *remarks,
            f"hostile ones that are kept: {', '.join(f'{n} {status}' for status, n in sorted(ended.items()))}",
            f"aside: {beside.ends.moved} times work ended, {beside.ends.longest():.2f} s between at most; "
            f"operators' calls {beside.calls.longest():.2f} s; the control {beside.control.longest():.2f} s",
        ]
        return report


def _start(stack: ExitStack, steady: bool) -> tuple[Cluster, Clock | None, list[str]]:
    more = {"extension_files": extension_files(), "settings": AROUND}
    try:
        clock = None if steady else Clock(prompt=False)
    except NoClock as error:
        return Cluster(installation(), **more), None, [f"the clock did not step: {error}"]
    if clock is None:
        return Cluster(installation(), **more), None, []
    stack.callback(clock.close)
    return SteppingCluster(clock, installation(), **more), clock, []


def _engine_aside(scene: Scene) -> subprocess.Popen[bytes]:
    with (scene.folder / "aside.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "chaos.aside", scene.dsn],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
            stdout=log,
            stderr=log,
        )


def _last(scene: Scene, beside: Aside, minutes: float) -> None:
    chance = random.Random(scene.seed)
    until = time.monotonic() + minutes * 60
    while (left := until - time.monotonic()) > 0:
        beside.finish.wait(min(left, ROUND))
        if left > ROUND:
            kind = chance.choice(("worker killed", "worker restarted", "server killed"))
            began = time.monotonic()
            scene.faults.inject(kind)
            if kind.startswith("server"):
                beside.excuse(began)
        scene.go_on()
