"""A worker is killed at every boundary of a flow that uses everything: it goes on elsewhere as if nothing had been."""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support import flow_whole
from support.engine import TERMINAL, ended
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

# How many workers run at once.
AT_ONCE = 4
# What may run again for one kill: what ran, and what had its value but no commit yet.
AGAIN = 3


def begin(conn: psycopg.Connection[Any], queue: str) -> int:
    id = gd.insert(conn, flow_whole.whole, {"round": 0}, queue=queue)
    assert id is not None
    for number in range(4):
        gd.signal(conn, id, "go", number)
    return id


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


def rounds_of(result: gd.Result) -> list[dict[str, Any]]:
    assert result.status == "done", result
    rounds: Any = result.result
    return list(rounds["rounds"])


def check(conn: psycopg.Connection[Any], ids: list[int], lines: list[dict[str, Any]], kills: int) -> None:
    """What has to be true of flows that have ended, however often their workers were killed."""
    ran = {(line["id"], line["round"], line["name"]) for line in lines}
    again = run_more_than_once(lines)
    assert told_different_things(lines) == []
    assert changed_entries(conn) == []
    firsts = [line for line in lines if line["name"] == "first"]
    for id, result in zip(ids, ended(conn, *ids, timeout=120), strict=True):
        rounds = rounds_of(result)
        assert {(id, round, step) for round in flow_whole.ROUNDS for step in flow_whole.STEPS} - ran == set()
        # The attempts of "flaky" are runs, too.
        assert again[id] <= 2 * 2 + kills * AGAIN, id
        for number, made in enumerate(rounds):
            draws = made.pop("draws")
            assert (id, number, [draws]) in [(one["id"], one["round"], one["given"]) for one in firsts]
            came = made.pop("came")
            assert sorted(came) == ["one", "two"]
            assert made == {
                "left": ["left", ["first", draws]],
                "right": ["right", ["first", draws]],
                "race": "fast",
                "timeout": True,
                "signals": [2 * number, 2 * number + 1],
                "none": None,
                "flaky": "at last",
                "broken": True,
                "kids": [0, 2, 4],
                "kid": 42,
                "saga": "refused",
            }
        assert rounds[0] != rounds[1]
        childs = conn.execute("select count(*) from gd_instances where parent_id = %s", (id,)).fetchone()
        assert childs == (flow_whole.CHILDREN * len(rounds),)
        # Which came first is what was recorded: the journal is that of the last round.
        assert came == [entry["name"] for entry in journal_of(conn, id) if entry.get("name") in ("one", "two")]


@pytest.mark.timeout(400)
def test_a_worker_is_killed_at_every_boundary(db: Any, conn: Any, tmp_path: Path) -> None:
    watch_journals(conn)
    id = begin(conn, "whole")
    with serving(db.dsn, tmp_path, "whole"):
        ended(conn, id, timeout=60)
    met = read_lines(tmp_path / "boundaries whole")
    lines = read_lines(tmp_path / "effects")
    check(conn, [id], lines, 0)
    ran = Counter((line["round"], line["name"]) for line in lines)
    assert set(ran.values()) == {1, 3}
    assert {step for step, times in ran.items() if times == 3} == {(0, "flaky"), (1, "flaky")}

    queues = [f"q{at}" for at in range(1, len(met) + 1)]
    ids = [begin(conn, queue) for queue in queues]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        at = range(1, len(met) + 1)
        killed = list(pool.map(lambda *one: run_until_killed(db.dsn, tmp_path, *one), queues, ids, at))
    # Chance has a part in what comes first, so a few flows have a boundary less.
    assert sum(killed) > 0.9 * len(met)
    lost = conn.execute("select count(*) from gd_instances where status = 'executing'").fetchone()
    assert lost is not None and lost[0] > 0.5 * len(met)
    # And once more, anywhere: what goes on is killed, too.
    expire(conn)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        at = [1 + (7 * number) % (len(met) // 2) for number in range(len(met))]
        again = list(pool.map(lambda *one: run_until_killed(db.dsn, tmp_path, *one), queues, ids, at))
    expire(conn)
    with serving(db.dsn, tmp_path, ",".join(queues)):
        ended(conn, *ids, timeout=120)
    check(conn, ids, read_lines(tmp_path / "effects"), 2)
    print(f"{sum(killed)} and {sum(again)} kills at {len(met)} boundaries: {Counter(line['what'] for line in met)}")
