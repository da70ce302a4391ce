"""The demo: `make demo`, or `python -m examples.demo [file of orders]`. Exit code 0 only if everything held."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import psycopg

import gendurable_py as gd
from gendurable_py import embedded

from .board import Board, Row, make_board
from .machine import MACHINE, Checkout
from .orders import ORDERS, BadLine, Order, read
from .verify import Kill, problems

PATIENCE = 90.0
"""Seconds after which the demo gives up."""


class Crew:
    """The worker processes. They end with this one, however it ends: their stdin is a pipe from here."""

    def __init__(self, dsn: str, log: IO[bytes]) -> None:
        self._command = [sys.executable, "-m", "examples.demo.worker", dsn]
        self._log = log
        self._workers: list[subprocess.Popen[bytes]] = []

    def hire(self) -> int:
        worker = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log)
        self._workers.append(worker)
        return worker.pid

    def kill(self, pid: int) -> None:
        worker = next(worker for worker in self._workers if worker.pid == pid)
        worker.kill()
        worker.wait()

    def lost(self, but: set[int]) -> list[int]:
        """Those that ended and were not killed from here."""
        return [worker.pid for worker in self._workers if worker.poll() is not None and worker.pid not in but]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            assert worker.stdin is not None
            worker.stdin.close()


def insert_orders(conn: psycopg.Connection[Any], path: Path, board: Board) -> tuple[list[Order], int, int]:
    """Insert what can be inserted: the orders, and how many lines were malformed and how many orders known already."""
    orders: list[Order] = []
    malformed = duplicates = 0
    for number, line in read(path):
        if isinstance(line, BadLine):
            malformed += 1
            board.say(f"{path.name}, line {number} is skipped: {line.reason}")
        elif (
            gd.insert(
                conn,
                Checkout,
                line,
                unique_key=line.key,
                # held also when it is done: an order that was shipped is not shipped again
                unique_scope=["runnable", "executing", "awaiting_signal", "awaiting_children", "done"],
            )
            is None
        ):
            duplicates += 1
            board.say(f"{path.name}, line {number} is skipped: {line.key} is known already")
        else:
            orders.append(line)
    return orders, malformed, duplicates


def look(conn: psycopg.Connection[Any]) -> list[Row]:
    return [
        Row(*row)
        for row in conn.execute(
            """
            select i.unique_key, i.state ->> 'customer', i.step, i.status, i.attempt, i.crashes, i.last_error, r.pid
            from gd_instances i
            left join lateral (
                select r.pid from shop.step_run r where r.instance_id = i.id order by r.id desc limit 1
            ) r on true
            where i.fsm = %s
            order by i.id
            """,
            (MACHINE,),
        )
    ]


def held_by(conn: psycopg.Connection[Any], pid: int) -> list[tuple[int, bool]]:
    """The instances whose step this process runs now, and whether it has written their shipment."""
    return conn.execute(
        """
        select i.id, i.step = 'ship' and exists (
            select from shop.shipment s where s.order_no = (i.state ->> 'order')::int)
        from gd_instances i
        join lateral (
            select r.pid, r.step, r.attempt from shop.step_run r where r.instance_id = i.id order by r.id desc limit 1
        ) r on r.pid = %s and r.step = i.step and r.attempt = i.attempt
        where i.fsm = %s and i.status = 'executing'
        """,
        (pid, MACHINE),
    ).fetchall()


def in_shipment(conn: psycopg.Connection[Any], pid: int) -> bool:
    """Whether the process has written a shipment and not committed the step yet: the worst moment to die."""
    return any(shipped for _, shipped in held_by(conn, pid))


def kill(conn: psycopg.Connection[Any], crew: Crew, pid: int) -> list[tuple[int, bool]]:
    """SIGKILL, and what the process held: asked when the server has noticed, since a commit may be on its way."""
    crew.kill(pid)
    while conn.execute("select 1 from pg_stat_activity where application_name like %s", (f"%:{pid}:%",)).fetchone():
        time.sleep(0.01)
    return held_by(conn, pid)


def run(
    conn: psycopg.Connection[Any], crew: Crew, board: Board, orders: Sequence[Order], killed: set[int]
) -> list[Kill]:
    """Until all have ended; one worker is killed when a third is done and it is in the middle of a shipment."""
    kills: list[Kill] = []
    victim = crew.hire()
    board.say(f"two workers, processes {victim} and {crew.hire()}, for {len(orders)} orders")
    deadline = time.monotonic() + PATIENCE
    while True:
        rows = look(conn)
        board.show(rows)
        ended = [row for row in rows if row.status in ("done", "failed", "cancelled")]
        if len(ended) == len(orders):
            return kills
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(orders) - len(ended)} orders have not ended within {PATIENCE:g} s")
        if lost := crew.lost(killed):
            raise RuntimeError(f"worker {lost[0]} ended by itself")
        if not any(kill.held for kill in kills) and 3 * len(ended) >= len(orders) and in_shipment(conn, victim):
            killed.add(victim)
            held = kill(conn, crew, victim)
            kills.append(Kill(victim, tuple(id for id, _ in held)))
            board.say(
                f"SIGKILL for worker {victim} in the middle of {len(held)} steps; "
                f"shipments written, but not committed as steps: {sum(shipped for _, shipped in held)}"
            )
            victim = crew.hire()
            board.say(f"a new worker, process {victim}; what was held is run again once its lease of 2 s has expired")
        time.sleep(0.05)


def summary(conn: psycopg.Connection[Any], orders: Sequence[Order], kills: Sequence[Kill]) -> str:
    runs, again, shipments = conn.execute(
        """
        select count(*), count(*) filter (where attempt > 0), (select count(*) from shop.shipment)
        from shop.step_run
        """
    ).fetchone() or (0, 0, 0)
    held = sum(len(kill.held) for kill in kills)
    return (
        f"{len(orders)} orders done, {shipments} shipments; {runs} step runs, {again} of them repetitions "
        f"({held} after the kill, the others after an error)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=ORDERS, help="JSON lines, one order each")
    path = parser.parse_args().file
    if not path.is_file():
        parser.error(f"{path} is no file")
    killed: set[int] = set()
    with ExitStack() as stack:
        print("starting PostgreSQL 18 in a temporary directory")
        server = stack.enter_context(embedded.start())
        conn = stack.enter_context(psycopg.connect(server.dsn, autocommit=True))
        conn.execute(Path(__file__).with_name("shop.sql").read_text(encoding="utf-8"))
        log = stack.enter_context(tempfile.TemporaryFile())
        board = make_board(killed)
        try:
            with board:
                orders, malformed, duplicates = insert_orders(conn, path, board)
                with Crew(server.dsn, log) as crew:
                    kills = run(conn, crew, board, orders, killed)
        except (TimeoutError, RuntimeError) as error:
            log.seek(0)
            print(log.read().decode(errors="replace")[-4000:])
            print(f"FAILED: {error}")
            return 1
        found = problems(conn, orders, kills)
        print()
        print(f"{path.name}: {len(orders)} orders, skipped: {malformed} malformed, {duplicates} known already")
        print(summary(conn, orders, kills))
        for problem in found:
            print(f"FAILED: {problem}")
        if not found:
            print("every order has exactly one reservation, one payment and one shipment, and the stock agrees")
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
