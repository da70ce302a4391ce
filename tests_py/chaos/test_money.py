"""The bank under random kills for a minute (`chaos --money` is longer), and the proof that its judges are not blind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from support.wait import wait_until

import gendurable_py as gd
from chaos.bank import HOLDS, QUEUE, TELLERS, TOTAL, open_bank
from chaos.bank_checker import JUDGES, Books, Instance, Movement, check, gather
from chaos.by_hand import LOST
from chaos.money import play_money
from chaos.sabotage import DEFECTS
from chaos.scene import Unavailable, installation

SEED = 20261127


@pytest.mark.timeout(400)
def test_money_is_neither_made_nor_lost_whatever_is_killed() -> None:
    try:
        installation()
    except Unavailable as error:
        pytest.skip(str(error))
    report = play_money(SEED, 1)
    print(report)
    assert report.violations == []
    assert {"backend terminated", "backend cancelled", "server killed", "worker killed"} <= set(report.faults)
    for fsm in ("transfer", "receipt", "order", "teller"):
        assert report.instances[f"bank.{fsm} done"], fsm
    assert report.transitions > 200


# -- the judges


def all_is_well() -> Books:
    """A transfer by way of a clearing account, one by a customer, and an order."""
    state = {"k": 0, "teller": 3, "route": [["sql", "debit"], ["plain", None], ["sync", "credit"]], "tells": [1]}
    return Books(
        accounts={1: (1000 - 10 - 7 - 3, 3), 2: (1000 + 10 + 7, 2), 101: (0, 2), 200: (3, 1)}
        | dict.fromkeys(range(3, 41), (1000, 0)),
        ledger=[
            Movement("transfer:0:0", 1, ["sql"], 10, 1, 101),
            Movement("transfer:0:2", 1, ["sync in Python"], 10, 101, 2),
            Movement("client:0", 1, ["client"], 7, 1, 2),
            Movement("purchase:0", 1, ["client"], 3, 1, 200),
            Movement("order:0", 1, ["sql"]),
            Movement("receipt:0", 1, ["sql"]),
            Movement("note:3:transfer:0:1", 1, ["sql"]),
            Movement("note:4:client:0", 1, ["sql"]),
        ],
        instances=[
            Instance(1, "bank.transfer", "done", state, {"n": 3}),
            Instance(2, "bank.receipt", "done", {"k": 0}, {"n": 1}),
            Instance(3, "bank.order", "done", {"order": 0}, {"signals": 1}),
            Instance(4, "bank.teller", "done", {"teller": 3}, {"n": 1}),
            Instance(5, "bank.teller", "done", {"teller": 4}, {"n": 1}),
        ],
        told=[
            {"what": "transfer", "id": 0},
            {"what": "client", "id": 0, "teller": 4},
            {"what": "order", "id": 0},
        ],
        audits=[(TOTAL, [])],
    )


def line(books: Books, part: str) -> Movement:
    return next(one for one in books.ledger if one.part == part)


def twice(books: Books) -> None:
    """The balances say so, too."""
    line(books, "transfer:0:0").times = 2
    books.accounts[1] = (books.accounts[1][0] - 10, 4)
    books.accounts[101] = (10, 3)


SEEDED: list[tuple[str, Callable[[Books], object]]] = [
    ("sum", lambda b: b.audits.append((TOTAL - 1, []))),
    ("sum", lambda b: b.accounts.update({3: (1001, 0)})),
    ("sum", lambda b: b.accounts.update({3: (999, 1), 4: (1001, 1)})),
    ("sum", twice),
    ("once", twice),
    ("once", lambda b: b.ledger.remove(line(b, "transfer:0:2"))),
    ("once", lambda b: b.ledger.append(Movement("transfer:1:0", 1, ["sql"]))),
    ("once", lambda b: setattr(line(b, "receipt:0"), "times", 2)),
    ("once", lambda b: b.ledger.remove(line(b, "note:3:transfer:0:1"))),
    ("once", lambda b: b.ledger.remove(line(b, "order:0"))),
    ("once", lambda b: b.ledger.remove(line(b, "client:0"))),
    ("half", lambda b: b.audits.append((TOTAL, ["transfer 0 is at 1, and 0 times written down at 0"]))),
    ("lost", lambda b: b.instances.pop(0)),
    ("lost", lambda b: b.instances.append(copy.copy(b.instances[0]))),
    ("lost", lambda b: b.instances.append(copy.copy(b.instances[1]))),
    ("lost", lambda b: b.instances.append(copy.copy(b.instances[2]))),
    ("lost", lambda b: setattr(b.instances[1], "status", "executing")),
    ("lost", lambda b: setattr(b, "repaired", 1)),
    ("signals", lambda b: b.instances[2].result.update(signals=2)),
    ("signals", lambda b: b.instances[3].result.update(n=2)),
    ("signals", lambda b: setattr(b, "signals_left", 1)),
    ("victim", lambda b: b.deadlocks.append("deadlock detected")),
]


def test_the_judges_are_content_when_all_is_well() -> None:
    assert check(all_is_well()) == []


@pytest.mark.parametrize(("kind", "doctor"), SEEDED)
def test_a_judge_finds_a_seeded_violation(kind: str, doctor: Callable[[Books], object]) -> None:
    books = all_is_well()
    doctor(books)
    assert kind in {violation.kind for violation in check(books)}


def test_each_judge_has_a_seeded_violation() -> None:
    assert {kind for kind, _ in SEEDED} == set(JUDGES)


# -- defects that are planted


class Teller:
    """The bank without a dispatcher: one session that runs every step in SQL, and another one that is in its way."""

    def __init__(self, db: Any, defect: str | None) -> None:
        self.conn: psycopg.Connection[Any] = db.connect()
        self.other: psycopg.Connection[Any] = db.connect(autocommit=False)
        open_bank(self.conn)
        gd.define_step(self.conn, "bank.teller", "async", "bank.tell(jsonb)")
        gd.define_step(self.conn, "bank.receipt", "sync", "bank.receive(jsonb)")
        self.audits: list[tuple[int, list[str]]] = []
        self.told: list[dict[str, Any]] = []
        if defect is not None:
            DEFECTS[defect].plant(self.conn)
        # all of them wait for their notes
        gd.run(self.conn, QUEUE)

    def transfer(self, *route: tuple[str, str | None], tells: list[int] | None = None) -> int:
        number = len(self.told)
        state = {"k": number, "n": 0, "source": 1, "target": 2, "via": 101, "amount": 10, "raises": [], "teller": 0}
        id = gd.insert(
            self.conn,
            "bank.transfer",
            state | {"route": route, "tells": tells or [], "receipt": "sql"},
            step=route[0][0],
            queue=QUEUE,
            unique_key=f"transfer:{number}",
            unique_scope=HOLDS,
        )
        assert id is not None
        self.told.append({"what": "transfer", "id": number})
        return id

    def finish(self) -> Books:
        for number in TELLERS:
            gd.signal(self.conn, f"teller:{number}", "close", dedup_key="close")
        left = "select count(*) from gd_instances where finished_at is null"
        wait_until(lambda: gd.run(self.conn, QUEUE) and self.conn.execute(left).fetchone() == (0,))
        books = gather(self.conn)
        books.told = self.told
        return books


def meets_a_lock(bank: Teller) -> None:
    """The teller that it tells is locked: the commit of the step is refused, and so is what it has moved."""
    bank.transfer(("sql", "both"), tells=[0])
    bank.other.execute("select from gendurable.instance where unique_key = 'teller:0' for update")
    assert gd.run(bank.conn, QUEUE, lock_ms=10)["busy"] == 1
    bank.other.rollback()


def comes_back_late(bank: Teller) -> None:
    """A worker of its own loses its claim in the middle of the step, and commits nevertheless."""
    id = bank.transfer(("sql", "both"))
    [claim] = gd.claim(bank.conn, "late", QUEUE, 1, LOST)
    bank.other.execute("select bank.move(state, 0, 'late') from gd_instances where id = %s", (id,))
    wait_until(lambda: gd.run(bank.conn, QUEUE, lock_ms=10)["busy"] == 1)
    outcome = {"id": id, "claim_no": claim.claim_no, "kind": "done", "result": {"n": 1}}
    try:
        gd.commit_one(bank.other, "late", outcome)
        bank.other.commit()
    except gd.ClaimLost:
        bank.other.rollback()


STORIES: dict[str, Callable[[Teller], None]] = {"refused and kept": meets_a_lock, "lost and kept": comes_back_late}


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize("planted", [False, True], ids=["sound", "planted"])
def test_the_judges_find_a_defect_that_is_planted_into_the_engine(name: str, planted: bool, db: Any) -> None:
    bank = Teller(db, name if planted else None)
    STORIES[name](bank)
    found = {violation.kind for violation in check(bank.finish())}
    if planted:
        assert found & set(DEFECTS[name].finds)
    else:
        assert found == set()
