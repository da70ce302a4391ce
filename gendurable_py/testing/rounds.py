"""A round of works: each is run to its outcome, and all are committed together."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_never

import psycopg
from psycopg import pq

from .._statement import About, Pause, Run, Script, Statement, nothing
from ..calls import dispatching, working
from ..calls.rows import Answer
from ..dispatch.answers import Fate, Meaning, read_answer
from ..dispatch.connections import Given
from ..dispatch.perform import perform, perform_async
from ..dispatch.transaction import Transactions
from ..dispatch.work import Work, refuse
from ..errors import InvalidArgument, from_sqlstate
from ..machine.claim import ClaimRow
from ..machine.registry import lookup
from .flows import Boundaries, read_journals, run_flow

LEASE = timedelta(hours=1)


def make_work(row: ClaimRow, worker: str, keep: bool, problems: list[InvalidArgument]) -> Work | None:
    """The work of a row, or a problem more: its neighbours are run all the same."""
    where = f"instance {row.id} of {row.fsm} v{row.version}, in step {row.step!r}"
    try:
        spec = lookup(row.fsm, row.version)
        step = None if spec is None else spec.find_step(row.step)
        if spec is not None and step is not None:
            # A flow is never kept: it runs from its top after each checkpoint.
            return Work(row, spec, step, worker, 0.0, keep and not spec.journals)
        problems.append(InvalidArgument(f"no such machine or step is imported here: {where}"))
    except Exception as error:  # noqa: BLE001 - what is wrong with a class shows when it is used
        problem = InvalidArgument(f"{where}, cannot be run: {error}")
        problem.__cause__ = error
        problems.append(problem)
    return None


def run_round(
    works: list[Work], worker: str, problems: list[InvalidArgument], boundaries: Boundaries | None = None
) -> Script[list[ClaimRow]]:
    """Run the works and commit them; answers what goes on at once: kept claims. ``boundaries``: where flows crash."""
    going_on: list[ClaimRow] = []
    given = Given((yield About(lambda conn: conn)))
    journals = yield from read_journals(works)
    boundaries = boundaries or Boundaries()
    while works:
        for work in works:
            if work.outcome is not None:
                continue
            if work.spec.journals:
                yield from run_flow(work, *journals[work.row.id], boundaries, given)
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
        for work in works:
            if work.fate is Fate.CRASHED:
                yield working.release.statement(worker, [(work.row.id, work.row.claim_no)], 0, True)
        works = [work for work in works if work.fate is None]
        again: list[Work] = []
        batches = [works] if works else []
        while batches:
            works = batches.pop()
            document = b"[" + b",".join(work.outcome or b"null" for work in works) + b"]"
            answers = yield from _commit_guarded(dispatching.commit_text.statement(worker, document.decode(), LEASE))
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
                        if isinstance(answer.kept, ClaimRow):  # a flow is never kept here
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


def is_inside() -> Script[bool]:
    """Whether what comes next stands in a transaction."""
    inside: bool = yield About(
        lambda conn: conn.info.transaction_status == pq.TransactionStatus.INTRANS or not conn.autocommit
    )
    return inside


def _commit_guarded(statement: Statement[list[Answer]]) -> Script[list[Answer] | psycopg.Error]:
    """Its answer, or what is wrong with the data; the transaction that it stands in goes on."""
    inside = yield from is_inside()
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
