"""Steps that fork: a child is a child, and neither the engine nor a second one of it."""

from __future__ import annotations

import os
import signal
from typing import Any

import psycopg
import pytest
from support.engine import ended
from support.wait import wait_until
from support.workers import gone, worker

import gendurable_py as gd

Conn = psycopg.Connection[Any]

FORKS = """
import asyncio, multiprocessing, os, signal, subprocess, threading, time
import gendurable_py as gd

def sleeps():
    while True:
        time.sleep(0.01)

def waited(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def started(method):
    child = multiprocessing.get_context(method).Process(target=sleeps)
    child.start()
    return child

def terminates():
    child = started("fork")
    child.terminate()
    child.join()
    return child.exitcode

def interrupts():
    # Python itself loses an interrupt that comes while it forks.
    began = multiprocessing.get_context("fork").Event()
    child = multiprocessing.get_context("fork").Process(target=lambda: (began.set(), sleeps()))
    child.start()
    began.wait()
    os.kill(child.pid, signal.SIGINT)
    child.join()
    return child.exitcode

def pool():
    with multiprocessing.get_context("fork").Pool(2) as children:
        return sum(children.map(abs, [-1, -2, -3]))

def exits(how):
    def fork():
        pid = os.fork()
        if pid:
            return waited(pid)
        return how()
    return fork

def fails():
    raise ValueError("in the child")

def preexec():
    child = subprocess.Popen(["sleep", "600"], preexec_fn=lambda: None)
    child.terminate()
    return child.wait()

def runs():
    return subprocess.run([sys.executable, "-c", "import os; os._exit(7)"]).returncode

def asks():
    # A connection of the child's own.
    import psycopg
    pid = os.fork()
    if pid:
        return waited(pid)
    with psycopg.connect(sys.argv[1]) as conn:
        os._exit(conn.execute("select 9").fetchone()[0])

def engine_of_its_own():
    pid = os.fork()
    if pid:
        return waited(pid)
    async def main():
        async with gd.Engine(sys.argv[1], queues={"nothing": 1}):
            pass
    threading.Thread(target=lambda: (asyncio.run(main()), os._exit(8))).start()
    time.sleep(600)

def collects():
    # What it inherited is dropped here, and must not say goodbye for the parent.
    pid = os.fork()
    if pid:
        return waited(pid)
    import gc
    for link in engine._database.links:
        link._conn = None
    gc.unfreeze()
    gc.collect()
    raise SystemExit(4)

WAYS = {
    "terminate": (terminates, -signal.SIGTERM),
    "interrupt": (interrupts, 1),
    "pool": (pool, 6),
    "return": (exits(lambda: 5), 0),
    "sys.exit": (exits(lambda: sys.exit(3)), 3),
    "sys.exit with a text": (exits(lambda: sys.exit("a text")), 1),
    "os._exit": (exits(lambda: os._exit(2)), 2),
    "exception": (exits(fails), 1),
    "preexec": (preexec, -signal.SIGTERM),
    "run": (runs, 7),
    "connect": (asks, 9),
    "engine": (engine_of_its_own, 8),
    "collect": (collects, 4),
}

class Forks(gd.FSM, name="forks"):
    @gd.step
    def start(self, ctx):
        way, wanted = WAYS[ctx.state["way"]]
        return gd.Done([way(), wanted])

    def handle(self, error, ctx):
        print("handled in", os.getpid())
        return gd.Stop(error)

class ForksOnTheLoop(gd.FSM, name="forks_on_the_loop"):
    @gd.step
    async def start(self, ctx):
        way, wanted = WAYS[ctx.state["way"]]
        return gd.Done([way(), wanted])

    @gd.step
    async def comes_back(self, ctx):
        pid = os.fork()
        await asyncio.sleep(0)
        if pid:
            # Only from a thread: the child is at an end when it has given the loop its turn.
            return gd.Done([await asyncio.to_thread(waited, pid), 1])
        print("the child goes on")

    @gd.step
    async def stays(self, ctx):
        child = started("fork")
        print("child", child.pid)
        await asyncio.Event().wait()

@gd.job(name="forks.after")
def after(args):
    return "works"

engine = gd.Engine(sys.argv[1], [Forks, ForksOnTheLoop, after], drain_timeout=20)
if __name__ == "__main__":
    engine.run()
    print("ended well")
"""

NAMES = ["terminate", "interrupt", "pool", "return", "sys.exit", "sys.exit with a text", "os._exit", "exception"]
NAMES += ["preexec", "run", "connect", "engine", "collect"]


def backends(conn: Conn) -> set[int]:
    rows = conn.execute("select pid from pg_stat_activity where application_name like 'gendurable %'").fetchall()
    return {row[0] for row in rows}


@pytest.mark.parametrize("machine", ["forks", "forks_on_the_loop"])
def test_an_engine_lives_on_whatever_a_step_forks_and_its_children_end(db: Any, conn: Conn, machine: str) -> None:
    with worker(FORKS, db.dsn) as process:
        process.says("serves")
        assert ended(conn, gd.insert(conn, "forks.after"))[0].result == "works"
        before = backends(conn)
        for name in NAMES:
            [result] = ended(conn, gd.insert(conn, machine, {"way": name}))
            assert result.status == "done", (name, result)
            assert isinstance(result.result, list)
            assert result.result[0] == result.result[1], name
            assert ended(conn, gd.insert(conn, "forks.after"))[0].result == "works"
        # No connection was broken, by a goodbye or by bytes of a child.
        assert backends(conn) >= before
        assert process.process.poll() is None
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert process.said[-1] == "ended well"
    assert [line for line in process.said if "failed" in line or "handled" in line] == []


def test_a_child_that_comes_back_to_the_loop_ends_there(db: Any, conn: Conn) -> None:
    with worker(FORKS, db.dsn) as process:
        process.says("serves")
        [result] = ended(conn, gd.insert(conn, "forks_on_the_loop", {}, step="comes_back"))
        assert result == gd.Result("done", [1, 1], None)
        assert ended(conn, gd.insert(conn, "forks.after"))[0].result == "works"
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert "the child goes on" not in process.said
    assert any("a forked child came back to the engine's loop" in line for line in process.said)


def test_a_child_does_not_keep_the_connections_of_a_worker_that_was_killed(db: Any, conn: Conn) -> None:
    gd.insert(conn, "forks_on_the_loop", {}, step="stays")
    with worker(FORKS, db.dsn) as process:
        child = int(process.says("child").split()[1])
        try:
            assert backends(conn)
            process.signal(signal.SIGKILL)
            process.process.wait(20)
            wait_until(lambda: not backends(conn))
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGTERM)
        gone(child)
