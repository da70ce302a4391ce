"""Journals as an engine reads them: what cannot be read costs its own flow, and a server that is away nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.engine import ended, running

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.dispatch.journals import Journals
from gendurable_py.flow import FlowContext, flow

Conn = psycopg.Connection[Any]


async def give(x: int) -> int:
    return x


@flow(name="flow.journals")
async def counting(ctx: FlowContext) -> int:
    return await ctx.step("give", give, 1) + await ctx.step("give", give, 2)


@pytest.mark.parametrize(
    "entry",
    [
        '{"k": "start"}',
        '{"k": "step", "name": "give"}',
        '{"k": "step", "name": "give", "n": "x", "at": 1}',
        '{"k": "something else"}',
        '{"k": "start", "at": "yesterday", "seed": 1}',
        '{"k": "patch"}',
        '{"k": "start", "at": ' + "9" * 5000 + ', "seed": "x"}',
        '{"k": "deep", "v": ' + "[" * 3000 + "]" * 3000 + "}",
    ],
    ids=lambda entry: entry[:60],
)
def test_a_journal_that_nobody_can_read_costs_its_flow_alone(db: Any, conn: Conn, entry: str) -> None:
    bad = gd.insert(conn, counting, max_attempts=1)
    conn.execute("insert into gendurable.journal values (%s, 1, %s)", (bad, entry))
    good = [gd.insert(conn, counting) for _ in range(5)]
    with running(Engine(db.dsn, machines=[counting])):
        [first, *others] = ended(conn, bad, *good)
    assert first.status == "failed"
    assert [(one.status, one.result) for one in others] == [("done", 3)] * 5


def test_flows_are_given_back_when_their_journals_cannot_be_asked_for(
    db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    real = Journals.begin

    async def begin(self: Journals) -> None:
        if self._claimed and not tried:
            tried.append(1)
            pid = self._link.backend
            conn.execute("select pg_terminate_backend(%s)", (pid,))
        await real(self)

    monkeypatch.setattr(Journals, "begin", begin)
    with running(Engine(db.dsn, machines=[counting], lease_ttl=600)):
        ids = [gd.insert(conn, counting) for _ in range(5)]
        results = ended(conn, *ids)
    assert tried and [(one.status, one.result) for one in results] == [("done", 3)] * 5
    # given back, not lost: no attempt was burnt
    assert conn.execute("select max(crashes) from gendurable.instance").fetchone() == (0,)
