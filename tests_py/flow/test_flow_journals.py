"""Journals as an engine reads them: what cannot be read costs its own flow, and a server that is away nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest
from support.engine import ended, field, running
from support.people import People
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job
from gendurable_py.calls import replaying
from gendurable_py.dispatch.journals import Journals
from gendurable_py.dispatch.work import Work
from gendurable_py.flow import FlowContext, flow
from gendurable_py.flow.values import look_at
from gendurable_py.machine.codec import dumps

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


def test_what_is_claimed_beside_them_is_given_back_as_well(
    db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, failed = threading.Event(), threading.Event()
    real = Journals.begin

    async def begin(self: Journals) -> None:
        if self._claimed and failing.is_set():
            self.give_up()
            failed.set()
            raise psycopg.errors.InsufficientPrivilege("not for you")
        await real(self)

    monkeypatch.setattr(Journals, "begin", begin)
    with running(Engine(db.dsn, machines=[counting], lease_ttl=600)):
        ended(conn, gd.insert(conn, counting))  # it is known from now on
        failing.set()
        with conn.transaction():
            gd.insert(conn, counting)
            other = gd.insert(conn, "flow.of_another_node", {})
        assert failed.wait(10)
        wait_until(lambda: field(conn, other, "status") == "runnable")


@job(name="flow.journals.other", queue="others")
def other_work(args: dict[str, Any]) -> None:
    pass


@flow(name="flow.journals.large", queue="large")
async def large(ctx: FlowContext) -> int:
    return await ctx.step("give", give, 1) + await ctx.step("give", give, 2)


def count_executing(conn: Conn) -> int:
    [count] = conn.execute("select count(*) from gd_instances where status = 'executing'").fetchone() or (0,)
    return int(count)


def test_large_journals_that_are_still_to_be_read_have_a_slot_and_no_claim_is_left_behind(
    db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reading = threading.Event(), threading.Event()
    real = Journals._read_pages

    async def read(self: Journals, work: Work) -> Any:
        reading.set()
        while not gate.is_set():  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.005)
        return await real(self, work)

    monkeypatch.setattr(Journals, "_read_pages", read)
    ids = [gd.insert(conn, large) for _ in range(8)]
    for id in ids:
        conn.execute("""insert into gendurable.journal values (%s, 1, '{"k": "start", "at": 1, "seed": "x"}')""", (id,))
        conn.execute(
            "insert into gendurable.journal values (%s, 2, jsonb_build_object("
            "'k', 'step', 'name', 'give', 'n', 0, 'at', 2, 'v', '1', 'more', repeat('x', 1200000)))",
            (id,),
        )

    def engine() -> Engine:
        return Engine(db.dsn, machines=[large, other_work], queues={"large": 2, "others": 1}, prefetch=0, lease_ttl=600)

    first = engine()
    with running(first):
        assert reading.wait(10)
        for _ in range(3):  # each comes with a claim, which asks for both queues
            ended(conn, gd.insert(conn, other_work, {}))
        assert count_executing(conn) == 2
        first.stop()
        wait_until(lambda: count_executing(conn) == 0)
        gate.set()
    with running(engine()):
        assert [one.result for one in ended(conn, *ids)] == [3] * 8
    assert conn.execute("select max(crashes) from gendurable.instance").fetchone() == (0,)


@flow(name="flow.journals.keys")
async def draw(ctx: FlowContext) -> str:
    return ctx.idempotency_key("charge")


def test_who_may_not_ask_for_the_identity_of_the_server_runs_flows_all_the_same(people: People) -> None:
    database = people.database()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("select gd_grant(%s, 'worker')", (people.role("worker"),))
        conn.execute("revoke execute on function pg_control_system() from public")
        with running(Engine(people.dsn(database, "worker"), machines=[draw])):
            first, second = ended(conn, gd.insert(conn, draw), gd.insert(conn, draw))
        assert first.status == second.status == "done" and first.result != second.result
        with people.connect(database, "worker") as worker:
            assert not replaying.may_ask_identity(worker)
            assert replaying.database_identity(worker, False) == replaying.database_identity(worker, False)


async def plain() -> Any: ...


async def whole() -> int: ...


async def said() -> bool: ...


NUMBERS = [0, 1, -5, 2**63 - 1, 1 - 2**63, 2**63, -(2**63), 10**5000]


@pytest.mark.parametrize(
    "value", [None, True, False, 1.5, 1e22, "a\U0001f600", *NUMBERS], ids=lambda value: str(type(value))
)
def test_a_value_is_written_as_any_json_is(value: Any) -> None:
    assert look_at(plain).write(value) == dumps(value).decode()


def test_a_value_of_an_exact_type_is_written_as_any_json_is() -> None:
    assert [look_at(whole).write(number) for number in NUMBERS[:5]] == [str(number) for number in NUMBERS[:5]]
    assert [look_at(said).write(one) for one in (True, False)] == ["true", "false"]
