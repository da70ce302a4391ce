"""What is left of the bank, compared with what was asked for: each movement once, none half, none lost.

As `checker.py`: the judges read nothing but the record, so a doctored one must make them complain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import class_row

from .bank import BALANCE, CLEARING, SHOP, TOTAL
from .checker import Violation


@dataclass
class Movement:
    """A line of the ledger: what was done, how often, and by which kinds of steps."""

    part: str
    times: int
    by: list[str]
    amount: int | None = None
    source: int | None = None
    target: int | None = None


@dataclass
class Instance:
    id: int
    fsm: str
    status: str
    state: dict[str, Any]
    result: Any
    last_error: str | None = None


@dataclass
class Books:
    accounts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Balance and number of movements."""
    ledger: list[Movement] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    """What was promised to customers: {"what", "id", ...}"""
    audits: list[tuple[int, list[str]]] = field(default_factory=list)
    """While it went on, of one snapshot each: the sum, and what stood half done."""
    deadlocks: list[str] = field(default_factory=list)
    """Transactions of customers that were chosen to end one."""
    signals_left: int = 0
    repaired: int = 0

    def of(self, fsm: str) -> list[Instance]:
        return [one for one in self.instances if one.fsm == fsm]

    @property
    def steps(self) -> int:
        """Transitions that were committed."""
        done = [one for one in self.instances if one.status == "done"]
        more = sum(int(one.result["n"]) - 1 for one in done if one.fsm == "bank.transfer")
        return len(done) + more + sum(one.fsm == "bank.order" for one in done)


def gather(conn: psycopg.Connection[Any]) -> Books:
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        books = Books()
        for id, balance, times in conn.execute("select id, balance, times from bank.account"):
            books.accounts[id] = (balance, times)
        with conn.cursor(row_factory=class_row(Movement)) as cursor:
            columns = "part, times, by, amount, source, target"
            books.ledger = cursor.execute(f"select {columns} from bank.ledger order by part".encode()).fetchall()
        with conn.cursor(row_factory=class_row(Instance)) as cursor:
            books.instances = cursor.execute(
                "select id, fsm, status, state, result, last_error from gd_instances "
                "where fsm like 'bank.%' order by id"
            ).fetchall()
        row = conn.execute("select count(*) from gendurable.signal").fetchone()
        books.signals_left = row[0] if row else 0
    return books


def sums(books: Books) -> Iterator[str]:
    """Money is neither made nor lost, at no moment, and each account has what the ledger says."""
    for total in {total for total, _ in books.audits} | {sum(balance for balance, _ in books.accounts.values())}:
        if total != TOTAL:
            yield f"the sum was {total} instead of {TOTAL}"
    moved, times = Counter[int](), Counter[int]()
    for line in books.ledger:
        if line.source is not None and line.target is not None and line.amount is not None:
            moved[line.source] -= line.amount * line.times
            moved[line.target] += line.amount * line.times
            times[line.source] += line.times
            times[line.target] += line.times
    for id, (balance, count) in books.accounts.items():
        began = 0 if id in CLEARING or id == SHOP else BALANCE
        if (balance, count) != (began + moved[id], times[id]):
            yield f"account {id} has {balance} after {count}, the ledger says {began + moved[id]} after {times[id]}"
        if id in CLEARING and balance:
            yield f"{balance} are left in clearing account {id}"


def expected(books: Books) -> Iterator[str]:
    """The parts that there should be, by what was asked for and what has ended."""
    for transfer in books.of("bank.transfer"):
        k = transfer.state["k"]
        yield from (f"transfer:{k}:{n}" for n, (_, part) in enumerate(transfer.state["route"]) if part is not None)
        yield from (f"note:{transfer.state['teller']}:transfer:{k}:{n}" for n in transfer.state["tells"])
        yield f"receipt:{k}"
    for line in books.told:
        if line["what"] == "client":
            yield from (f"client:{line['id']}", f"note:{line['teller']}:client:{line['id']}")
        if line["what"] == "order":
            yield from (f"order:{line['id']}", f"purchase:{line['id']}")


def once(books: Books) -> Iterator[str]:
    """Each movement, note and receipt once: none missing, none twice, none that nobody asked for."""
    wanted = set(expected(books))
    found = {line.part: line for line in books.ledger}
    yield from (f"{line.part} was done {line.times} times, by {line.by}" for line in books.ledger if line.times != 1)
    yield from (f"{part} was never done" for part in sorted(wanted - found.keys()))
    yield from (f"{part} was done, and nobody asked for it" for part in sorted(found.keys() - wanted))


def half(books: Books) -> Iterator[str]:
    """In no snapshot anything was done that its instance does not know of, or the other way round."""
    yield from sorted({text for _, texts in books.audits for text in texts})


def lost(books: Books) -> Iterator[str]:
    """Each wish has one instance, and each instance has ended well."""
    made = Counter(one.state["k"] for one in books.of("bank.transfer"))
    receipts = Counter(one.state["k"] for one in books.of("bank.receipt"))
    for line in books.told:
        if line["what"] == "transfer" and made[line["id"]] != 1:
            yield f"transfer {line['id']} was acknowledged and has {made[line['id']]} instances"
    for k in made:
        if receipts[k] != 1:
            yield f"transfer {k} has {receipts[k]} receipts"
    orders = Counter(one.state["order"] for one in books.of("bank.order"))
    yield from (f"order {k} has {count} instances" for k, count in orders.items() if count != 1)
    for one in books.instances:
        if one.status != "done":
            yield f"{one.id}: {one.fsm} is {one.status} ({one.last_error})"
    if books.repaired:
        yield f"gd_maintain had to repair {books.repaired} keys"


def signals(books: Books) -> Iterator[str]:
    """Each signal was shown to one step that used it."""
    notes = Counter(line.part.split(":")[1] for line in books.ledger if line.part.startswith("note:"))
    for teller in books.of("bank.teller"):
        if teller.status == "done" and teller.result["n"] != notes[str(teller.state["teller"])]:
            counted = notes[str(teller.state["teller"])]
            yield f"teller {teller.state['teller']} counted {teller.result['n']} notes and wrote {counted} down"
    for order in books.of("bank.order"):
        if order.status == "done" and order.result["signals"] != 1:
            yield f"order {order.state['order']} was shown {order.result['signals']} signals"
    if books.signals_left:
        yield f"{books.signals_left} signals are left though all has ended"


def victims(books: Books) -> Iterator[str]:
    """A customer who writes accounts and then signals has the same order of locks as the steps."""
    yield from (f"a customer's transaction was chosen to end a deadlock: {text}" for text in books.deadlocks)


JUDGES: dict[str, Callable[[Books], Iterator[str]]] = {
    "sum": sums,
    "once": once,
    "half": half,
    "lost": lost,
    "signals": signals,
    "victim": victims,
}


def check(books: Books) -> list[Violation]:
    return [Violation(kind, text) for kind, find in JUDGES.items() for text in find(books)]
