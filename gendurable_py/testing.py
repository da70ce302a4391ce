"""For tests of machines: run them inline, through the real SQL, inside a transaction that is rolled back if you like.

::

    def test_checkout(conn):                                 # a psycopg connection
        with conn.transaction(force_rollback=True):
            id = gd.insert(conn, Checkout, {"order": 42})
            drain(conn, [Checkout])
            assert_awaiting(conn, id, "payment_confirmed")
            gd.signal(conn, id, "payment_confirmed")
            drain(conn, [Checkout])
            assert assert_done(conn, id) == {"shipped": True}

An assertion that fails says why the instance does not run, as `gd.why` does. On an ``AsyncConnection`` the same
functions are awaited. The fixture `gendurable_dsn` is an empty throw-away database
on an embedded server; with ``pytest_plugins = ["gendurable_py.testing"]`` in a ``conftest.py`` the tests have it.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, LiteralString, assert_never

import psycopg
from psycopg import pq
from pydantic import JsonValue

from . import embedded
from ._statement import About, Pause, Run, Script, Statement, nothing, script
from .calls import dispatching, inserting, limiting, rehearsing, stepping, working
from .calls.asserting import assert_awaiting, assert_done, assert_failed
from .calls.rows import Answer, Ran, Rehearsed
from .dispatch.answers import Fate, Meaning, read_answer
from .dispatch.connections import Given
from .dispatch.defined import Definitions
from .dispatch.perform import perform, perform_async
from .dispatch.transaction import Transactions
from .dispatch.work import Work, refuse
from .errors import InvalidArgument, from_sqlstate
from .machine.claim import ClaimRow
from .machine.codec import dumps
from .machine.context import Context
from .machine.outcome import MachineLike, Signal
from .machine.registry import lookup
from .machine.spec import Spec, collect_rate_limits, spec_of

__all__ = ["assert_awaiting", "assert_done", "assert_failed", "context", "drain", "rehearse"]

_LEASE = timedelta(hours=1)
_ROUND = 100


@script
def drain(
    machines: Iterable[MachineLike] = (),
    *,
    queues: Iterable[str] | None = None,
    advance: bool = False,
    run_ahead: bool = False,
    limit: int = 10_000,
) -> Script[int]:
    """Run everything that is due, until nothing is; answers how many steps that took.

    Of a transactional step ``ctx.conn`` is this connection, in a savepoint where it is in a transaction. Steps in SQL
    run on it by `run_claims`.

    Args:
        machines: registered first, with the rate limits that they declare; any imported machine can be run.
        queues: only these; None: all in which something waits.
        advance: let time pass, too: when nothing is due, what is due next (delayed, in back-off, or awaiting with a
            deadline) is made due, until nothing is left but instances that wait for a signal for ever, or for tokens of
            a rate limit: set a wide one in the test.
        limit: steps after which it gives up.

    Raises:
        InvalidArgument: a row is due whose machine or step is not known in this process, or which is in SQL and cannot
            be run by this role, or a transactional step that cannot use this connection: a sync one an
            ``AsyncConnection``, or an async one a ``Connection``.
        RuntimeError: ``limit`` steps were not enough.
    """
    worker = f"drain:{secrets.token_hex(4)}"
    yield from _register(list(machines))
    served = None if queues is None else list(queues)
    home: str | None = yield dispatching.home_of_steps.statement()
    defined = Definitions([] if home is None else (yield dispatching.defined_steps.statement(home)))
    count = 0
    while True:
        names = (yield rehearsing.queues_in_use.statement()) if served is None else served
        looked = yield rehearsing.forget_floor.statement()
        rows: list[ClaimRow] = yield dispatching.claim_rows.statement(worker, dict.fromkeys(names, _ROUND), _LEASE)
        problems: list[InvalidArgument] = []
        due = rows
        while due:
            count += len(due)
            if count > limit:
                raise RuntimeError(f"still not drained after {limit} steps")
            in_sql = {row.id: row for row in due if defined.find(row.fsm, row.version, row.step) is not None}
            if home is not None:
                yield from _run_in_sql(in_sql.values(), home, worker, problems)
            others = [row for row in due if row.id not in in_sql]
            works = [work for row in others if (work := _make_work(row, worker, run_ahead, problems))]
            due = yield from _run_round(works, worker, problems)
        if problems:
            yield working.release.statement(worker, None)  # they are not held by a worker that is gone
            raise problems[0]
        if rows:
            continue
        if not advance or (yield rehearsing.bring_forward.statement(names, looked)) is None:
            return count


def _register(machines: list[MachineLike]) -> Script[None]:
    for machine in machines:
        yield inserting.register.statement(machine)
    for name, declared in collect_rate_limits(map(spec_of, machines)).items():
        yield limiting.ensure_rate_limit.statement(name, *declared.stored)


@script
def rehearse(
    machines: Iterable[MachineLike] = (),
    *,
    queues: Iterable[str] | None = None,
    advance: bool = False,
    limit: int = 100,
) -> Script[list[Rehearsed]]:
    """Run what is due, one step after the other, up to ``limit`` steps, and undo all of it: what each step came to.
    Steps in Python and in SQL. What they do elsewhere than on this connection is not undone.

    The arguments are those of `drain`. A row whose machine or step is not known here is answered with "no_handler".
    """
    served = None if queues is None else list(queues)
    inside = yield from _is_inside()
    begin: LiteralString = "savepoint gendurable_rehearse" if inside else "begin isolation level read committed"
    yield Statement(begin, (), nothing)
    try:
        yield from _register(list(machines))
        told: list[Rehearsed] = []
        while len(told) < limit:
            names = (yield rehearsing.queues_in_use.statement()) if served is None else served
            looked = yield rehearsing.forget_floor.statement()
            one = yield from _rehearse_one(names, len(told))
            if one is not None:
                told.append(one)
            elif not advance or (yield rehearsing.bring_forward.statement(names, looked)) is None:
                break
        return told
    finally:
        if inside:
            yield Statement("rollback to savepoint gendurable_rehearse", (), nothing)
            yield Statement("release savepoint gendurable_rehearse", (), nothing)
        else:
            yield Statement("rollback", (), nothing)


def _rehearse_one(names: list[str], ord: int) -> Script[Rehearsed | None]:
    """Run the step of the next row that is due in one of these queues; None: there is none."""
    worker = f"gd_rehearse:{secrets.token_hex(4)}"
    rows: list[ClaimRow] = []
    for name in names:
        rows = rows or (yield dispatching.claim_rows.statement(worker, {name: 1}, _LEASE))
    if not rows:
        return None
    [row] = rows
    before = yield rehearsing.written.statement()
    outcome: bytes | None = None
    [ran] = yield stepping.run_claims.statement(worker, [(row.id, row.claim_no)], chain=1)
    result: str = ran.result
    detail: dict[str, JsonValue] = ran.detail or {}
    raised = result == "error" and "sqlstate" in detail
    if rehearsing.is_elsewhere(ran):
        problems: list[InvalidArgument] = []
        work = _make_work(row, worker, False, problems)
        if work is not None:
            yield from _run_round([work], worker, problems)
            outcome, raised = work.outcome, work.error is not None
        detail = {"problem": str(problems[0])} if problems else {}
        result = "no_handler" if problems else "error" if raised else "ok"
    elif result in ("ok", "error"):
        outcome = yield rehearsing.sent.statement()
    if result not in ("ok", "error"):
        return Rehearsed(ord, row.id, row.fsm, row.step, result, detail, None)
    after = yield rehearsing.shown.statement(row.id)
    after |= rehearsing.read_outcome(outcome) | detail
    counts = yield rehearsing.written.statement()
    if after["status"] == "executing" or after.get("kind") == "error":
        result = "stale" if after["status"] == "executing" else "error"
    writes = None if raised else rehearsing.compare(before, counts)
    return Rehearsed(ord, row.id, row.fsm, row.step, result, after, writes)


def _make_work(row: ClaimRow, worker: str, keep: bool, problems: list[InvalidArgument]) -> Work | None:
    """The work of a row, or a problem more: its neighbours are run all the same."""
    where = f"instance {row.id} of {row.fsm} v{row.version}, in step {row.step!r}"
    try:
        spec = lookup(row.fsm, row.version)
        step = None if spec is None else spec.steps.get(row.step)
        if spec is not None and step is not None:
            return Work(row, spec, step, worker, 0.0, keep)
        problems.append(InvalidArgument(f"no such machine or step is imported here: {where}"))
    except Exception as error:  # noqa: BLE001 - what is wrong with a class shows when it is used
        problem = InvalidArgument(f"{where}, cannot be run: {error}")
        problem.__cause__ = error
        problems.append(problem)
    return None


def _run_in_sql(rows: Iterable[ClaimRow], home: str, worker: str, problems: list[InvalidArgument]) -> Script[None]:
    """Run these by their functions, until each is settled: one by one, since an error counts only alone."""
    todo = deque(rows)
    while todo:
        row = todo.popleft()
        answers: list[Ran]
        answers = yield dispatching.run_claims_text.statement(home, worker, [(row.id, row.claim_no)], None)
        for answer in answers:
            if answer.result in ("left", "busy"):
                todo.append(row)
                yield Pause(0.01)
            elif answer.result == "no_handler":
                why = answer.detail.get("problem") if isinstance(answer.detail, dict) else answer.detail
                problems.append(InvalidArgument(f"step {row.step!r} of {row.fsm} cannot be run in SQL here: {why}"))


def _run_round(works: list[Work], worker: str, problems: list[InvalidArgument]) -> Script[list[ClaimRow]]:
    """Run the works and commit them; answers what goes on at once: kept claims."""
    going_on: list[ClaimRow] = []
    given = Given((yield About(lambda conn: conn)))
    while works:
        for work in works:
            if work.outcome is not None:
                continue
            if work.step.transactional:
                if not given.may_run(work.step.is_async) and not callable(work.step.transactional):
                    problems.append(_wrong_connection(work))
                    work.fate = Fate.UNSTARTED
                    continue
                work.transactions = Transactions(given)
            if work.step.is_async:
                yield Run(perform_async(work))
            else:
                perform(work)
        works = [work for work in works if work.fate is None]
        again: list[Work] = []
        batches = [works] if works else []
        while batches:
            works = batches.pop()
            document = b"[" + b",".join(work.outcome or b"null" for work in works) + b"]"
            answers = yield from _commit_guarded(dispatching.commit_text.statement(worker, document.decode(), _LEASE))
            if isinstance(answers, psycopg.Error):
                if len(works) > 1:  # one of them cannot be read by the server: which?
                    batches += [works[: len(works) // 2], works[len(works) // 2 :]]
                    continue
                answers = [Answer(0, "rejected", answers.sqlstate, str(answers), None)]
            busy: list[Work] = []
            for answer in answers:
                work = works[answer.ord]
                match read_answer(answer, work.stage, uncertain=False):
                    case Meaning.BUSY:
                        busy.append(work)
                    case Meaning.HANDLE | Meaning.STOP:
                        refuse(work, answer.sqlstate, answer.message or "rejected")
                        again.append(work)
                    case Meaning.HOPELESS:
                        refuse(work, answer.sqlstate, answer.message or "rejected")
                        raise from_sqlstate(answer.sqlstate, f"{work.row.fsm} {work.row.id}: {answer.message}")
                    case Meaning.KEPT:
                        if answer.kept is not None:
                            going_on.append(answer.kept)
                    case Meaning.COMMITTED | Meaning.REPEATED | Meaning.LOST:
                        pass
                    case never:
                        assert_never(never)
            if busy:
                batches.append(busy)
                yield Pause(0.01)
        works = again
    return going_on


def _wrong_connection(work: Work) -> InvalidArgument:
    kind = "an async" if work.step.is_async else "a sync"
    return InvalidArgument(
        f"step {work.row.step!r} of {work.row.fsm} is {kind} transactional step, which this connection is not for",
        hint="drain on an AsyncConnection for async steps, on a Connection for sync ones",
    )


def _is_inside() -> Script[bool]:
    """Whether what comes next stands in a transaction."""
    inside: bool = yield About(
        lambda conn: conn.info.transaction_status == pq.TransactionStatus.INTRANS or not conn.autocommit
    )
    return inside


def _commit_guarded(statement: Statement[list[Answer]]) -> Script[list[Answer] | psycopg.Error]:
    """Its answer, or what is wrong with the data; the transaction that it stands in goes on."""
    inside = yield from _is_inside()
    if inside:
        yield Statement("savepoint gendurable_drain", (), nothing)
    try:
        answers: list[Answer] = yield statement
    except psycopg.DataError as error:
        if inside:
            yield Statement("rollback to savepoint gendurable_drain", (), nothing)
        return error
    if inside:
        yield Statement("release savepoint gendurable_drain", (), nothing)
    return answers


def context(
    machine: MachineLike,
    state: object = None,
    *,
    step: str | None = None,
    attempt: int = 0,
    signals: Iterable[Signal] = (),
    awaits: Iterable[str] = (),
    timed_out: bool = False,
    meta: dict[str, object] | None = None,
    attributes: dict[str, object] | None = None,
) -> Context[Any]:
    """A context to call a step with, without any database: ``Checkout().ship(context(Checkout, {"order": 1}))``."""
    spec: Spec = spec_of(machine)
    inbox = [
        {
            "id": signal.id,
            "name": signal.name,
            "payload": signal.payload,
            "inserted_at": signal.inserted_at.isoformat(),
        }
        for signal in signals
    ]
    row = ClaimRow(
        id=1,
        claim_no=1,
        fsm=spec.name,
        version=spec.version,
        step=step or spec.initial,
        state=spec.codec.encode({} if state is None else state).decode(),
        attempt=attempt,
        queue=spec.queue,
        partition_key=None,
        unique_key=None,
        parent_id=None,
        awaits=list(awaits) or None,
        timed_out=timed_out,
        signals=dumps(inbox).decode(),
        childs="[]",
        meta=dumps(meta or {}).decode(),
        attributes=dumps(attributes or {}).decode(),
    )
    return Context(row, spec.codec)


with suppress(ImportError):
    import pytest

    @pytest.fixture(scope="session")
    def gendurable_server() -> Iterator[embedded.EmbeddedServer]:
        """One embedded server for the run; its data need not survive."""
        with embedded.start(settings={"fsync": "off", "full_page_writes": "off"}) as server:
            yield server

    @pytest.fixture
    def gendurable_dsn(gendurable_server: embedded.EmbeddedServer) -> Iterator[str]:
        """The dsn of a new database with gendurable in it, dropped after the test."""
        name = f"test_{secrets.token_hex(4)}"
        # Another database than the one that is copied: a template must have no connection.
        with psycopg.connect(gendurable_server.dsn_of("template1"), autocommit=True) as conn:
            rehearsing.create_database(conn, name)
            yield gendurable_server.dsn_of(name)
            rehearsing.drop_database(conn, name)
