"""A worker is killed at every boundary of a flow that uses everything: it goes on elsewhere as if nothing had been."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support import flow_whole, flows
from support.engine import TERMINAL, ended
from support.flow_driver import Counting, Driver, run_killed
from support.flows import (
    changed_entries,
    expire,
    journal_of,
    read_lines,
    run_more_than_once,
    serving,
    told_different_things,
    watch_journals,
)
from support.wait import wait_until

import gendurable_py as gd

JOBS = {"whole.double": lambda args: int(args["x"]) * 2}
# How many processes are killed, and how many run at once.
PROCESSES = int(os.environ.get("GENDURABLE_FLOW_KILLS", "12"))
AT_ONCE = 3
# What is met in an engine.
KINDS = {
    *("claimed", "journal read", "before a sync step", "before an async step", "after its effect", "step ended"),
    *("before a commit", "after a commit", "kept", "handed out", "suspended"),
}
# What may run again for one kill: what ran, and what had its value but no commit yet.
AGAIN = 3


def begin(conn: psycopg.Connection[Any], queue: str) -> int:
    id = gd.insert(conn, flow_whole.whole, {"round": 0}, queue=queue)
    assert id is not None
    for number in range(4):
        gd.signal(conn, id, "go", number)
    return id


def check(conn: psycopg.Connection[Any], ids: list[int], lines: list[dict[str, Any]], kills: int) -> None:
    """What has to be true of flows that have ended, however often their workers were killed."""
    ran = {(line["id"], line["round"], line["name"]) for line in lines}
    firsts = {(line["id"], line["round"]): line["given"] for line in lines if line["name"] == "first"}
    again = run_more_than_once(lines)
    assert told_different_things(lines) == []
    assert changed_entries(conn) == []
    for id, result in zip(ids, ended(conn, *ids, timeout=120), strict=True):
        assert result.status == "done", result
        assert {(id, 0, "first"), *((id, 1, step) for step in flow_whole.STEPS)} - ran == set()
        # Two attempts of "flaky" are runs, too.
        assert again[id] <= 2 + kills * AGAIN, id
        made: Any = result.result
        draws, before = made.pop("draws"), made.pop("before")
        assert before == [*firsts[id, 0], 0]
        assert [draws] == firsts[id, 1]
        assert all(one != other for one, other in zip(draws, before[0], strict=True))
        # Which came first is what was recorded.
        came = [entry["name"] for entry in journal_of(conn, id) if entry.get("name") in ("one", "two")]
        assert made.pop("came") == came
        assert sorted(came) == ["one", "two"]
        assert made == {
            "left": ["left", ["first", draws]],
            "right": ["right", ["first", draws]],
            "race": "fast",
            "timeout": True,
            "signals": [1, 2],
            "none": None,
            "flaky": "at last",
            "broken": True,
            "kids": [0, 2, 4],
            "kid": 42,
            "saga": "refused",
        }
        childs = conn.execute("select count(*) from gd_instances where parent_id = %s", (id,)).fetchone()
        assert childs == (flow_whole.CHILDREN,)


@pytest.mark.timeout(300)
def test_a_worker_dies_at_every_boundary(conn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "effects", flows.Lines(tmp_path / "effects"))
    watch_journals(conn)
    first = begin(conn, "first")
    boundaries = Counting()
    asyncio.run(Driver(conn, "first", JOBS, boundaries).run(first))
    lines = read_lines(tmp_path / "effects")
    check(conn, [first], lines, 0)
    ran = Counter((line["round"], line["name"]) for line in lines)
    assert set(ran.items()) == {
        ((0, "first"), 1),
        *(((1, step), 1 + 2 * (step == "flaky")) for step in flow_whole.STEPS),
    }

    count = len(boundaries.met)
    print(f"{count} boundaries: {Counter(boundaries.met)}")
    ids, killed = [first], 0
    for kill_at in range(1, count + 1):
        # The next one is killed, too: anywhere.
        ids.append(begin(conn, f"q{kill_at}"))
        died = run_killed(conn, f"q{kill_at}", JOBS, ids[-1], [kill_at, 1 + 7 * kill_at % 40])
        assert died > 0 or kill_at > 0.9 * count  # chance has a part in what comes together
        killed += died
    print(f"{killed} kills")
    assert killed > 1.5 * count
    check(conn, ids, read_lines(tmp_path / "effects"), 2)
    again = run_more_than_once(read_lines(tmp_path / "effects"))
    assert again.total() > 2 * len(ids)  # the kills did hit something


# The same with engines in processes of their own, and SIGKILL


def has_ended(conn: psycopg.Connection[Any], id: int) -> bool:
    row = conn.execute("select status from gd_instances where id = %s", (id,)).fetchone()
    return row is not None and row[0] in TERMINAL


def run_until_killed(dsn: str, folder: Path, queue: str, id: int, kill_at: int) -> bool:
    """Whether it came to that boundary before its flow ended."""
    with psycopg.connect(dsn, autocommit=True) as conn, serving(dsn, folder, queue, kill_at) as worker:
        wait_until(lambda: worker.exitcode is not None or has_ended(conn, id), 60)
        if worker.exitcode is None:
            return False
        assert worker.exitcode == -signal.SIGKILL
        return True


@pytest.mark.timeout(60 + 20 * PROCESSES)
def test_engines_are_killed_at_boundaries(db: Any, conn: Any, tmp_path: Path) -> None:
    watch_journals(conn)
    first = begin(conn, "first")
    with serving(db.dsn, tmp_path, "first"):
        ended(conn, first, timeout=60)
    met = read_lines(tmp_path / "boundaries first")
    check(conn, [first], read_lines(tmp_path / "effects"), 0)
    assert {line["what"] for line in met} == KINDS

    places = sorted({1 + at * len(met) // PROCESSES for at in range(PROCESSES)})
    queues = [f"q{at}" for at in places]
    ids = [begin(conn, queue) for queue in queues]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        killed = list(pool.map(lambda *one: run_until_killed(db.dsn, tmp_path, *one), queues, ids, places))
    expire(conn)
    with serving(db.dsn, tmp_path, ",".join(queues)):
        ended(conn, *ids, timeout=120)
    print(f"{sum(killed)} kills, {len(met)} boundaries: {Counter(line['what'] for line in met)}")
    # Chance has a part in what comes together, so a flow may have a few boundaries less.
    assert sum(killed) > 0.7 * len(places)
    check(conn, [first, *ids], read_lines(tmp_path / "effects"), 1)
