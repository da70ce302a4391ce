"""Hostile bodies: the flow fails clearly, or waits as it should, and neither the engine nor its neighbours notice."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.engine import TERMINAL, Events, ended, field, running
from support.flow_hostile import CASES, blocks, neighbour, typed
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_hostile_bodies(db: Any, conn: Any, caplog: pytest.LogCaptureFixture) -> None:
    machines = [function for function, _, _ in CASES.values()]
    with running(Engine(db.dsn, machines=[*machines, typed, neighbour], queues={"default": 20})):
        before = [gd.insert(conn, neighbour) for _ in range(5)]
        ids = {name: gd.insert(conn, function) for name, (function, _, _) in CASES.items()}
        misfit = gd.insert(conn, "hostile.typed", {"number": "abc"})
        after = [gd.insert(conn, neighbour) for _ in range(5)]
        assert [result.result for result in ended(conn, *before, *after, timeout=120)] == [2] * 10

        def settled() -> bool:
            for name, (_, status, _) in CASES.items():
                found = field(conn, ids[name], "status")
                if found == status:
                    continue
                assert found not in TERMINAL, (name, found, field(conn, ids[name], "last_error"))
                return False
            return True

        try:
            wait_until(settled, 90)
        finally:
            for name, (_, status, _) in CASES.items():
                if field(conn, ids[name], "status") != status:
                    print(name, field(conn, ids[name], "status"), str(field(conn, ids[name], "last_error"))[:200])
        [result] = ended(conn, misfit)
        assert result.status == "failed"
        assert "number" in (result.last_error or "")
        # And what waits is not harmed by being looked at again, or by its end.
        for name, (_, status, _) in CASES.items():
            if status == "awaiting_signal":
                assert gd.cancel(conn, ids[name] or 0, "enough")
    wrong = {
        name: said
        for name, (_, status, words) in CASES.items()
        if status == "failed" and words not in (said := str(field(conn, ids[name], "last_error")))
    }
    assert wrong == {}
    # Each is the flow's fault, and none a defect here.
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.CRITICAL] == []


def test_a_body_that_blocks_is_named(db: Any, conn: Any, caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    with running(Engine(db.dsn, machines=[blocks], on_event=events, heartbeat_interval=0.2, lease_ttl=10)):
        id = gd.insert(conn, blocks)
        ended(conn, id)
        wait_until(lambda: events.count("blocked"))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert f"hostile.blocks {id}" in said
    assert "in blocks" in said
