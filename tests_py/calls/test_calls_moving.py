"""Forks, and instances as documents."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py.testing import drain

Conn = psycopg.Connection[Any]


def test_a_fork_reproduces_what_went_wrong(conn: Conn) -> None:
    broken = [True]

    @gd.job(name="moving.divide", max_attempts=1, history="states")
    def divide(args: dict[str, Any], ctx: gd.Context[Any]) -> float:
        return float(args["sum"] / (0 if broken else 2))

    id = gd.insert(conn, divide, {"sum": 5}, unique_key="u", meta={"by": "ada"}) or 0
    drain(conn, [divide])
    [failed] = gd.history(conn, id)
    broken.clear()
    fork = gd.fork(conn, id, failed.no, options={"meta": {"bug": 7}, "unique_key": "debug"}) or 0
    assert gd.fork(conn, id, options={"unique_key": "debug"}) is None
    shown = gd.get(conn, fork)
    assert shown is not None and shown["meta"] == {"by": "ada", "bug": 7, "forked_from": id, "forked_no": failed.no}
    other = gd.fork(conn, id, step="start", state={"sum": 8}) or 0
    drain(conn, [divide])
    assert [getattr(gd.result(conn, one), "result", None) for one in (fork, other, id)] == [2.5, 4.0, None]
    with pytest.raises(gd.InvalidArgument):
        gd.fork(conn, id, options={"step": "start"})
    with pytest.raises(gd.UnknownInstance):
        gd.fork(conn, 10**9)


def test_a_document_loses_nothing_on_its_way(conn: Conn, db: Any) -> None:
    state = '{"n": 1e400, "m": 0.10000000000000000000000000000001, "s": "\\u00e9\\ud83d\\udca5"}'
    [[id]] = conn.execute("select gd_insert('work', %s::jsonb, p_unique_key => 'u')", [state]).fetchall()
    document = gd.export(conn, id)
    assert json.loads(document)["format"] == 2
    assert gd.import_(conn, document) is None
    gd.cancel(conn, id)
    for given in (document, document.encode()):
        copy = gd.import_(conn, given)
        assert copy is not None
        assert conn.execute("select state = %s::jsonb from gd_instances where id = %s", [state, copy]).fetchone() == (
            True,
        )
        gd.cancel(conn, copy)


async def test_the_same_on_an_async_connection(db: Any) -> None:
    async with await db.aconnect() as conn:
        id = await gd.insert(conn, "work", {"n": 1}) or 0
        copy = await gd.import_(conn, await gd.export(conn, id))
        fork = await gd.fork(conn, id)
        assert copy is not None and fork is not None
        for one in (copy, fork):
            shown = await gd.get(conn, one)
            assert shown is not None and shown["state"] == {"n": 1}


@pytest.mark.parametrize("document", ["{}", "[]", '{"format": 3, "instances": []}'])
def test_what_is_no_document_is_refused(conn: Conn, document: str) -> None:
    with pytest.raises(gd.InvalidArgument):
        gd.import_(conn, document)


def test_what_is_no_text_is_refused_before_it_travels(conn: Conn) -> None:
    with pytest.raises(gd.InvalidArgument):
        gd.import_(conn, {"format": 1})  # type: ignore[call-overload]
    with pytest.raises(gd.InvalidArgument):
        gd.import_(conn, b"\xff")


@pytest.mark.parametrize("document", ["", "{", '{"format": 1, "x": "\\u0000"}', '{"format": 1e999999}'])
def test_what_is_no_json_never_comes_to_the_function(conn: Conn, document: str) -> None:
    with pytest.raises(psycopg.DataError):
        gd.import_(conn, document)
