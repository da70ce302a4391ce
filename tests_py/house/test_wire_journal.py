"""What docs/wire.md says of journals is what the server knows."""

from __future__ import annotations

from conftest import Database
from support.races import Row, Session, outcome
from support.wire import examples, needed, probes, read, table, words


def test_a_journal_of_an_outcome_takes_what_the_table_says(db: Database) -> None:
    rows, ([minimal], [full]) = table("Journal of an outcome"), examples("Journal of an outcome")
    assert ({*minimal}, {*full}) == (needed(rows), {row["key"] for row in rows})
    assert {*full["add"][0]} < {row["key"] for row in table("Entries of a journal")}
    tried: list[tuple[Row | list[Row], bool]] = [(minimal, True), (full, True), ({**full, "nope": None}, False)]
    for row in rows:
        key = row["key"]
        tried.append(({k: v for k, v in full.items() if k != key}, row["needed"] == "no"))
        tried += [({**minimal, key: value}, good) for value, good in probes(row, full[key])]
    said = read(Session(db), [{"id": 1, "claim_no": 1, "kind": "done", "journal": one} for one, _ in tried])
    wrong = [(str(one)[:300], why) for (one, good), why in zip(tried, said, strict=True) if (why is None) is not good]
    assert wrong == []


def test_entries_of_a_journal_are_shown_as_the_table_says(db: Database) -> None:
    session, rows = Session(db), table("Entries of a journal")
    session.insert()
    entry = {"k": "step", "name": "pay", "n": 2, "at": 1795727340.25, "v": '{"paid": true}', "e": {"message": "no"}}
    late = {"k": "retry", "at": "2026-11-27T10:00:00Z", "error": "not yet"}
    end = {"k": "end", "failed": 1}
    assert {*entry, *late, *end} == {row["key"] for row in rows}
    claim = session.claim_one()
    journal = {"at": 0, "add": [entry, late, end]}
    assert session.commit({**outcome(claim, "stop"), "reason": "r", "journal": journal}) == ["ok"]
    shown = session.rows("select * from gd_journal(%s)", claim["id"])
    column = {row["key"]: words(row["column of `gd_journal`, or meaning"])[:1] for row in rows}
    assert [column[key] for key in ("k", "name", "n", "at")] == [["kind"], ["name"], ["n"], ["at"]]
    assert [(row["kind"], row["name"], row["n"], row["value"], row["error"]) for row in shown] == [
        ("step", "pay", 2, {"paid": True}, "no"),
        ("retry", None, None, None, "not yet"),
        ("end", None, None, None, None),
    ]
    assert [row["at"] and row["at"].timestamp() for row in shown] == [1795727340.25, 1795773600.0, None]
    [[entries]] = [[*row.values()] for row in session.rows("select entries from gd_journals(%s)", [claim["id"]])]
    assert entries == journal["add"]
