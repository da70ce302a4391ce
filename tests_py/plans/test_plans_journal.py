"""Journals cost pages by what is asked for and by the batch, however many entries others have."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from support.plans import sessions, shared_buffers

Conn = psycopg.Connection[Any]
FLOWS = 200
# Measured with a million entries of others: 10, 14 and 13 for each of 200 flows.
LOOKS = {
    "select * from gd_journals(%s)": 4000,
    "select j.* from unnest(%s::bigint[]) f (id), gd_journal(f.id, -1) j": 5000,
    "select j.* from unnest(%s::bigint[]) f (id), gd_journal_entries(f.id, 2) j": 5000,
    "select j.* from unnest(%s::bigint[]) f (id), gd_journal_page(f.id, null, 1) j": 5000,
}


def flows(conn: Conn) -> list[int]:
    """Instances with three entries each."""
    conn.execute("select gd_insert_many(%s)", (json.dumps([{"fsm": "m"}] * FLOWS),))
    ids = [row[0] for row in conn.execute("select id from gd_claim('w', 'default', %s)", (FLOWS,))]
    assert len(ids) == FLOWS
    add = [{"k": "step", "name": "s", "n": n, "at": 1795727340.25, "v": "1"} for n in range(3)]
    commit(conn, ids, {"at": 0, "add": add})
    return ids


def outcomes(conn: Conn, ids: list[int], journal: dict[str, Any]) -> str:
    """Of rows that execute: they are kept."""
    claims = conn.execute("select id, claim_no from gendurable.instance where id = any(%s) order by id", (ids,))
    kept = {"kind": "next", "step": "s", "keep": True, "journal": journal}
    return json.dumps([{"id": id, "claim_no": no, **kept} for id, no in claims])


def commit(conn: Conn, ids: list[int], journal: dict[str, Any]) -> None:
    answers = conn.execute("select result, detail from gd_commit('w', %s)", (outcomes(conn, ids, journal),)).fetchall()
    assert {(result, detail is not None) for result, detail in answers} == {("ok", True)}


def fill(conn: Conn) -> None:
    """A million entries of others."""
    conn.execute(
        "insert into gendurable.journal select 1000000 + g / 10, 1 + g % 10, "
        """'{"k": "step", "name": "s", "n": 0, "v": "1"}' from generate_series(0, 999999) g"""
    )


def test_who_reads_journals_touches_pages_by_what_is_asked_for(conn: Conn) -> None:
    ids = flows(conn)
    for query in LOOKS:
        for _ in range(8):  # plans are kept that were made while the table was nearly empty
            assert len(conn.execute(query.encode(), (ids,)).fetchall()) == FLOWS
    fill(conn)
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.journal, gendurable.instance")
        for session in sessions(conn):
            for query, most in LOOKS.items():
                assert len(session.execute(query.encode(), (ids,)).fetchall()) == FLOWS
                assert shared_buffers(session, query, ids) <= most, (query, analyzed, session is conn)


@pytest.mark.parametrize("forget", [False, True])
def test_a_commit_that_appends_touches_pages_by_the_batch(conn: Conn, forget: bool) -> None:
    ids = flows(conn)
    entry = {"k": "step", "name": "s", "n": 3, "at": 1795727340.25, "v": "1"}
    count = 3

    def measured(session: Conn) -> int:
        """Of what is committed next, which shows that it is taken."""
        nonlocal count
        journal = {"at": count, "add": [entry], "forget": forget}
        used = shared_buffers(session, "select * from gd_commit('w', %s)", outcomes(session, ids, journal))
        commit(session, ids, journal)
        count += not forget
        return used

    small = [measured(conn) for _ in range(8)][-1]
    fill(conn)
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.journal, gendurable.instance")
        for session in sessions(conn):
            measured(session)  # the catalog is looked at anew
            assert measured(session) <= 2 * small, (analyzed, session is conn)


def test_removing_an_instance_looks_for_its_journal_alone(conn: Conn) -> None:
    def removed() -> int:
        ids = flows(conn)
        conn.execute("select gd_cancel_many(%s)", (ids,))
        return shared_buffers(conn, "select gd_delete_many(%s)", ids)

    small = [removed() for _ in range(8)][-1]
    fill(conn)
    assert removed() <= 2 * small
    conn.execute("analyze gendurable.journal")
    assert removed() <= 2 * small


def test_a_page_of_a_long_journal_is_read_from_its_end(conn: Conn) -> None:
    [id] = flows(conn)[:1]
    fill(conn)
    conn.execute(
        "insert into gendurable.journal select %s, 3 + g, "
        """'{"k": "step", "name": "s", "n": 0, "v": "1"}' from generate_series(1, 10000) g""",
        (id,),
    )
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.journal, gendurable.instance")
        for query in ("select * from gd_journal_page(%s)", "select * from gd_journal_page(%s, 500)"):
            for session in sessions(conn):
                shared_buffers(session, query, id)  # the catalog is looked at anew
                # a descent for the page, and one for each entry that is read
                assert shared_buffers(session, query, id) <= 300, (query, analyzed)
