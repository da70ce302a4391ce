"""docs/wire.md says what the server knows of schedules: its tables and examples are tried."""

from __future__ import annotations

from contextlib import nullcontext

import psycopg
import pytest
from conftest import Database
from psycopg.types.json import Jsonb
from support.races import Session
from support.wire import examples, keys, needed, table, words
from test_wire import known_words


def test_schedules_take_what_the_tables_say(db: Database) -> None:
    session = Session(db)
    instance = {*keys("Instances")} - {"fsm", "eligible_at", "delay_ms", "expires_at"}
    listed = keys("Options of a schedule")
    known = set()
    for word in known_words(session, [*listed, *keys("Instances")]):
        if word in ("fsm", "eligible_at", "delay_ms", "expires_at"):
            with pytest.raises(psycopg.Error, match="cannot be given"):
                session.call("schedule", "s", "@daily", "m", Jsonb({word: 1}))
            continue
        try:
            # null is the same as absent, so it must be a value: one that no key takes
            session.call("schedule", "s", "@daily", "m", Jsonb({word: [[]]}))
        except psycopg.Error as error:
            if error.diag.message_primary != "unknown key in an instance":
                known.add(word)
    assert known == instance | {*listed}
    for options in examples("Options of a schedule"):
        session.call("schedule", "s", "@daily", "m", Jsonb(options))
    for row in table("Options of a schedule"):
        for word in words(row["bounds"]):
            session.call("schedule", "s", "@daily", "m", Jsonb({row["key"]: word}))
        session.call("schedule", "s", "@daily", "m", Jsonb({row["key"]: None}))
        with pytest.raises(psycopg.Error, match="unknown value"):
            session.call("schedule", "s", "@daily", "m", Jsonb({row["key"]: "x"}))
    rows = table("Schedules that are announced")
    minimal, full = examples("Schedules that are announced")
    assert ({*minimal[0]}, {*full[0]}) == (needed(rows), {row["key"] for row in rows})
    for announced, told in ((minimal, "made"), (full, "differs")):
        assert session.one("select result from gd_announce_schedules(%s)", Jsonb(announced)) == told
    for row in rows:
        one = {**full[0], "name": f"without {row['key']}", row["key"]: None}
        with nullcontext() if row["needed"] == "no" else pytest.raises(psycopg.Error):
            session.rows("select * from gd_announce_schedules(%s)", Jsonb([one]))
    with pytest.raises(psycopg.Error, match="unknown key"):
        session.rows("select * from gd_announce_schedules(%s)", Jsonb([{**full[0], "nope": None}]))
