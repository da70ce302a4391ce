"""docs/wire.md says what the server knows: its tables and examples are read here, and tried."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg.types.json import Jsonb
from support.races import Row, Session, outcome
from support.wire import PAGE, SECTIONS, Cells, cell, examples, keys, needed, probes, read, table, words

from gendurable_py.calls.rows import Claim, Committed
from gendurable_py.errors import from_sqlstate

KINDS = ("next", "replay", "await", "schedule_childs", "done", "stop", "error")


def for_kind(kind: str) -> list[Cells]:
    rows = [row for row in table("Outcomes") if row["kinds"] == "all" or kind in words(row["kinds"])]
    assert len({row["key"] for row in rows}) == len(rows), kind
    return rows


def example_outcomes(kind: str) -> tuple[Row, Row]:
    minimal, full = ([one for one in block if one["kind"] == kind] for block in examples("Outcomes"))
    return minimal[0], full[0]


def test_every_table_and_every_example_is_compared() -> None:
    assert {heading for heading, text in SECTIONS.items() if "\n|---" in text} == {
        "Where JSON goes", "Outcomes", "Journal of an outcome", "Entries of a journal", "Signals of an outcome",
        "Instances", "Claimed rows", "Signals of a claimed row",
        "Children of a claimed row", "Answers of gd_commit", "Detail of a rejected outcome", "Options of gd_register",
        "Options of gd_set_queue", "Filters", "The answer of gd_maintain", "An error of gd_maintain",
        "Answers that are words", "Notifications", "Errors", "Options of a schedule", "Schedules that are announced",
        "What a worker says", "What a worker is told",
    }  # fmt: skip
    with_json = {heading for heading, text in SECTIONS.items() if "```json" in text}
    assert with_json == {
        "Outcomes", "Journal of an outcome", "Signals of an outcome", "Instances", "Claimed rows",
        "Detail of a rejected outcome",
        "Options of gd_register", "Options of gd_set_queue", "Filters", "Limits of queues", "Lists of claims",
        "An error of gd_maintain", "Options of a schedule", "Schedules that are announced", "What a worker says",
    }  # fmt: skip
    assert [heading for heading, text in SECTIONS.items() if text.count("\n|---") > 1] == []
    assert PAGE.count("```") == 2 * 2 * len(with_json)


# -- what a key takes


def insert_error(session: Session, instance: Row) -> psycopg.Error | None:
    try:
        session.rows("select * from gd_insert_many(%s)", Jsonb([instance]))
    except psycopg.Error as error:
        return error
    return None


def known_words(session: Session, listed: Iterable[str]) -> list[str]:
    """All that may be a key: every word of the functions that refuse keys, and what the document lists."""
    source = session.rows(
        "select distinct w.word[1] as word from pg_proc p cross join regexp_matches(p.prosrc, '\\w+', 'g') w (word) "
        "where p.prosrc like '%%unknown key in an%%'"
    )
    found = {row["word"] for row in source}
    assert len(found) > 60
    return sorted({*found, *listed, "nope"})


def test_an_outcome_has_the_keys_that_are_listed_and_no_other(db: Database) -> None:
    session = Session(db)
    assert tuple(words(cell("Outcomes", "kind", "bounds"))) == KINDS
    candidates = known_words(session, keys("Outcomes"))
    for kind in KINDS:
        fixed = {"id": 1, "claim_no": 1, "kind": kind}
        problems = read(session, [{word: None, **fixed} for word in candidates])
        unknown = f"unknown key in an outcome {kind}"
        known = {word for word, said in zip(candidates, problems, strict=True) if said != unknown}
        assert known == {row["key"] for row in for_kind(kind)}
        with pytest.raises(psycopg.Error, match=unknown) as caught:
            session.commit_one({**example_outcomes(kind)[0], "nope": 1})
        assert caught.value.sqlstate == "GD501"
        assert '"nope"' in str(caught.value.diag.message_detail)


def test_keys_of_an_outcome_take_what_the_table_says(db: Database) -> None:
    tried: list[tuple[Row, bool]] = []
    for kind in KINDS:
        rows, (minimal, full) = for_kind(kind), example_outcomes(kind)
        assert {*minimal} == needed(rows), kind
        assert {*full} == {row["key"] for row in rows}, kind
        tried += [(minimal, True), (full, True)]
        for row in rows:
            key = row["key"]
            tried.append(({k: v for k, v in full.items() if k != key}, row["needed"] == "no"))
            if key != "kind":
                tried += [({**minimal, key: value}, good) for value, good in probes(row, full[key])]
    said = read(Session(db), [one for one, _ in tried])
    wrong = [(str(one)[:300], why) for (one, good), why in zip(tried, said, strict=True) if (why is None) is not good]
    assert wrong == []


def test_signals_of_an_outcome_take_what_the_table_says(db: Database) -> None:
    rows, (minimal, full) = table("Signals of an outcome"), examples("Signals of an outcome")
    for by in ("id", "unique_key"):
        assert [{*one} for one in minimal if by in one] == [{by, *needed(rows)}]
    assert all({*one} == {row["key"] for row in rows} for one in full)
    tried: list[tuple[Row, bool]] = [(one, True) for one in [*minimal, *full]]
    for row in rows:
        key, by = row["key"], "unique_key" if row["key"] == "unique_key" else "id"
        [base], [example] = ([one for one in some if one.get(by)] for some in (minimal, full))
        addresses = key in ("id", "unique_key")
        tried.append(({k: v for k, v in base.items() if k != key}, row["needed"] == "no" and not addresses))
        tried += [
            ({**base, key: value}, good and not (addresses and value is None))
            for value, good in probes(row, example[key])
        ]
    tried += [({**minimal[0], **minimal[1]}, False), ({**minimal[0], "nope": None}, False)]
    said = read(Session(db), [{"id": 1, "claim_no": 1, "kind": "done", "signal": [one]} for one, _ in tried])
    wrong = [(str(one)[:300], why) for (one, good), why in zip(tried, said, strict=True) if (why is None) is not good]
    assert wrong == []


def test_an_instance_has_the_keys_that_are_listed_and_no_other(db: Database) -> None:
    session, listed = Session(db), keys("Instances")
    assert len({*listed}) == len(listed)
    known = set()
    for word in known_words(session, listed):
        error = insert_error(session, {word: None, "fsm": "m"})
        if error is None:
            known.add(word)
            continue
        assert (error.sqlstate, error.diag.message_primary) == ("GD501", "unknown key in an instance")
        assert f'"{word}"' in str(error.diag.message_detail)
    assert known == {*listed}


def test_keys_of_an_instance_take_what_the_table_says(db: Database) -> None:
    session, rows = Session(db), table("Instances")
    [minimal], [full] = examples("Instances")
    assert {*minimal} == needed(rows)
    assert {*full} == {row["key"] for row in rows}
    tried: list[tuple[Row, bool]] = [({}, False), (minimal, True), (full, True)]
    for row in rows:
        key = row["key"]
        base = {**minimal, "unique_key": "u"} if key == "unique_scope" else minimal
        tried += [({**base, key: value}, good) for value, good in probes(row, full[key])]
    tried += [({**minimal, "unique_scope": []}, False), ({**full, "delay_ms": 1}, False)]
    wrong = []
    for one, good in tried:
        error = insert_error(session, one)
        # a rate limit is read, and then there is none
        if (error and error.sqlstate) not in ((None, "GD502") if good else ("GD501",)):
            wrong.append((str(one)[:300], error))
    assert wrong == []


# -- the examples


@pytest.mark.parametrize("which", [0, 1], ids=["minimal", "full"])
def test_examples_of_outcomes_commit(which: int, db: Database) -> None:
    session, outcomes = Session(db), examples("Outcomes")[which]
    assert sorted(one["kind"] for one in outcomes) == sorted(KINDS)
    for _ in outcomes:
        session.signal(session.insert())
    for one, claim in zip(outcomes, session.claim(len(outcomes)), strict=True):
        assert {*one} > {"id", "claim_no"}
        one.update(id=claim["id"], claim_no=claim["claim_no"])
        if which:
            assert len(one["consume"]) == 1
            one["consume"] = [signal["id"] for signal in claim["signals"]]
    assert session.commit(*outcomes) == ["ok"] * len(KINDS)
    inboxes = [session.rows("select id from gd_signals(%s)", one["id"]) for one in outcomes]
    assert which == all(inbox == [] for inbox in inboxes)


@pytest.mark.parametrize("which", [0, 1], ids=["minimal", "full"])
def test_examples_of_instances_are_inserted_and_are_children(which: int, db: Database) -> None:
    session, instances = Session(db), examples("Instances")[which]
    parent = session.insert(queue="parents")
    fan_out = outcome(session.claim_one("parents"), "schedule_childs", step="next", childs=instances)
    assert session.commit(fan_out) == ["ok"]
    childs = session.rows("select fsm from gd_childs(%s)", parent)
    assert [child["fsm"] for child in childs] == [one["fsm"] for one in instances] != []
    session.call("cancel", parent, None, True)
    assert all(row["created"] for row in session.insert_many(*instances))


def test_other_examples_are_taken(db: Database) -> None:
    session = Session(db)
    for options in examples("Options of gd_register"):
        session.call("register", "m", 1, "start", "default", Jsonb(options))
    for call in ("register('m', 1, 's', 'q', %s)", "claim('w', 'q', 1, '1 s', %s)", "claim_many('w', '{}', '1 s', %s)"):
        with pytest.raises(psycopg.Error, match="unknown option"):
            session.rows(f"select gd_{call}", Jsonb({"nope": 1}))
    rows = table("Options of gd_register")
    assert ([row["key"] for row in rows], needed(rows)) == ([*examples("Options of gd_register")[1]], set())
    row = rows[0]
    for value, good in probes(row, 5):
        with nullcontext() if good else pytest.raises(psycopg.Error, match="max_attempts"):
            session.call("register", "m", 1, "start", "default", Jsonb({row["key"]: value}))
    [row] = table("Options of gd_set_queue")
    assert (row["key"], needed([row])) == (next(iter(examples("Options of gd_set_queue")[1])), set())
    for value, good in probes(row, 5):
        with nullcontext() if good else pytest.raises(psycopg.Error, match="limit"):
            session.call("set_queue", "q", Jsonb({row["key"]: value}))
    session.call("set_queue", "q", Jsonb({row["key"]: None}))
    for queues in examples("Limits of queues"):
        assert session.rows("select * from gd_claim_many('w', %s)", Jsonb(queues)) == []
    for claims in examples("Lists of claims"):
        lost = session.rows("select * from gd_heartbeat('w', %s)", Jsonb(claims))
        assert [[row["id"], row["claim_no"]] for row in lost] == claims
        assert session.call("release", "w", Jsonb(claims)) == 0


def test_a_filter_has_the_keys_that_are_listed_and_takes_what_the_table_says(db: Database) -> None:
    session, rows = Session(db), table("Filters")
    minimal, full = examples("Filters")
    assert (minimal, {*full}) == ({}, {row["key"] for row in rows})

    def refused(filter: Any) -> str | None:
        try:
            session.rows("select * from gd_match(%s)", Jsonb(filter))
        except psycopg.Error as error:
            return error.diag.message_primary if error.sqlstate == "GD501" else repr(error)
        return None

    assert (refused({}), refused(full), refused({"nope": 1})) == (None, None, "unknown filter")
    hint = session.one("select prosrc from pg_proc where proname = '_parse_filter'")
    named = re.findall(r"'{([a-z_,]+)}'::text", hint)
    assert {key for some in named for key in some.split(",")} == {*full}
    wrong = []
    for row in rows:
        tried = probes({**row, "needed": "yes"}, full[row["key"]])
        # one or several of what the example has
        tried = [
            (full[row["key"]][0], True) if isinstance(v, str | int) and good and "array" in row["type"] else (v, good)
            for v, good in tried
        ]
        said = [(value, good, refused({row["key"]: value})) for value, good in tried]
        wrong += [(row["key"], *one) for one in said if (one[2] is None) is not one[1] or "Error" in (one[2] or "")]
    assert wrong == []


# -- what the server gives

RESULT = """
    select u.name as key, format_type(u.type, null) as type from pg_proc p
    cross join unnest(p.proargnames, p.proallargtypes, p.proargmodes) with ordinality u (name, type, mode, ord)
    where p.proname = %s and u.mode = 't' order by u.ord"""

COMPOSITE = """
    select a.attname as key, format_type(a.atttypid, a.atttypmod) as type
    from pg_attribute a where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum"""


def columns(heading: str) -> list[Row]:
    return [{"key": row["key"], "type": row["type"].strip("`")} for row in table(heading)]


def test_claimed_rows_have_the_columns_that_are_listed(db: Database) -> None:
    session = Session(db)
    listed = keys("Claimed rows")
    given = [session.rows(RESULT, "gd_claim"), session.rows(RESULT, "gd_claim_many")]
    assert [session.rows(COMPOSITE, "gendurable.claimed"), *given] == [columns("Claimed rows")] * 3
    assert [*Claim._fields] == listed
    session.insert()
    [answer] = session.answers(outcome(session.claim_one(), "next", step="next", keep=True))
    assert {*answer["detail"]} == {*listed}
    for example in examples("Claimed rows"):
        assert {*example} == {*listed}
        back = session.one("select to_jsonb(jsonb_populate_record(null::gendurable.claimed, %s))", Jsonb(example))
        assert back == example


def test_signals_and_children_have_the_keys_that_are_listed(db: Database) -> None:
    session = Session(db)
    parent = session.insert(queue="parents")
    fan_out = outcome(session.claim_one("parents"), "schedule_childs", step="next", childs=[{"fsm": "m"}, {"fsm": "m"}])
    assert session.commit(fan_out) == ["ok"]
    # Made by the server, so that it need not cross the wire: two of these do not fit into one claim.
    large = "to_jsonb(repeat('x', 9000000))"
    for claim in session.claim(2):
        done = f"jsonb_build_array(%s || jsonb_build_object('result', {large}))"
        assert session.one(f"select result from gd_commit('w', {done})", Jsonb(outcome(claim, "done"))) == "ok"
        session.one(f"select gd_signal(%s::bigint, 'go', {large})", parent)
    [got] = session.rows("""
        select (select jsonb_agg(array(select jsonb_object_keys(s))) from jsonb_array_elements(c.signals) s) as signals,
            (select jsonb_agg(array(select jsonb_object_keys(s))) from jsonb_array_elements(c.childs) s) as childs
        from gd_claim('w', 'parents') c""")
    full = examples("Claimed rows")[1]
    for column, heading in (("signals", "Signals of a claimed row"), ("childs", "Children of a claimed row")):
        whole, cut = got[column]
        assert {*cut} == {*keys(heading)}
        assert {*cut} - {*whole} == {"cut"}
        assert [{*one} for one in full[column]] == [{*whole}, {*cut}]


def test_answers_of_gd_commit(db: Database) -> None:
    session, other = Session(db), Session(db)
    assert columns("Answers of gd_commit") == session.rows(RESULT, "gd_commit")
    assert [*Committed._fields] == keys("Answers of gd_commit")
    for _ in range(3):
        session.insert()
    good, bad, locked = session.claim(3)
    other.begin().rows("select from gendurable.instance where id = %s for update", locked["id"])
    outcomes = [outcome(good, "done"), outcome(good, "done"), outcome(bad, "next"), outcome(locked, "done")]
    answers = session.answers(*outcomes)
    assert {answer["result"] for answer in answers} == {*words(cell("Answers of gd_commit", "result", "bounds"))}
    ok, rejected = examples("Detail of a rejected outcome")
    assert {**ok, "id": good["id"], "claim_no": good["claim_no"]} == answers[0]
    assert {**rejected, "ord": 2, "id": bad["id"], "claim_no": bad["claim_no"]} == answers[2]
    assert {*rejected["detail"]} == {*keys("Detail of a rejected outcome")}


def test_answer_of_gd_maintain(db: Database) -> None:
    session, other = Session(db), Session(db)
    session.insert()
    assert session.finish(session.claim_one()) == ["ok"]
    session.conn.execute("""
        create table note (id bigint references gendurable.instance);
        insert into note select id from gendurable.instance""")
    session.begin()
    minimal, full = examples("An error of gd_maintain")
    answer = session.one("select gd_maintain('0')")
    assert {*answer} == {*full} == {*keys("The answer of gd_maintain")}
    [(part, error)] = answer["errors"].items()
    assert {*error} == {*full["errors"][part]} == {*keys("An error of gd_maintain")}
    # the lock is one of the minute, which may be over just now
    session.rows("select pg_advisory_xact_lock(7304, (extract(epoch from clock_timestamp()) / 60)::int + 1)")
    assert other.one("select gd_maintain('0')") == minimal
    parts = re.findall(
        r"foreach v_part in array '{([a-z,]+)}'",
        session.one("select prosrc from pg_proc where proname = 'gd_maintain'"),
    )
    assert {*words(cell("The answer of gd_maintain", "errors", "meaning"))} == {*parts[0].split(","), "all"}


def test_json_goes_where_the_table_says(db: Database) -> None:
    places = Session(db).rows("""
        select distinct concat_ws('.', p.proname, a.name) as key
        from pg_proc p
        cross join lateral unnest(
            p.proargnames || null::text, coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype
        ) a (name, type)
        where p.proname like 'gd\\_%%' and a.type in ('json'::regtype, 'jsonb'::regtype)""")
    listed = keys("Where JSON goes")
    assert len({*listed}) == len(listed)
    assert {*listed} == {row["key"] for row in places}


def test_words_channels_and_errors(db: Database) -> None:
    session = Session(db)
    said = {row["key"]: words(row["words"]) for row in table("Answers that are words")}
    assert {*said} == {"gd_signal", "gd_ensure_rate_limit", "gd_cancel_many", "status"}
    assert said["status"] == session.one("select enum_range(null::gendurable.status)::text[]")
    id = session.insert()
    assert [session.signal(target, dedup="d") for target in (id, id, id + 1)] == said["gd_signal"]
    assert [session.call("ensure_rate_limit", "l", n, "1 s") for n in (1, 1, 2)] == said["gd_ensure_rate_limit"]
    other = Session(db)
    ids = [id, session.insert(), session.insert(), 10**9]
    session.call("cancel", ids[1])
    other.begin().rows("select from gendurable.instance where id = %s for update", ids[2])
    many = session.rows("select * from gd_cancel_many(%s)", ids)
    assert [row["result"] for row in many] == said["gd_cancel_many"][:4]
    source = session.one(
        "select string_agg(p.prosrc, '') from pg_proc p where p.oid::regprocedure::text ~ '^gendurable[.]_|^gd_'"
    )
    assert {*re.findall(r"pg_notify\('(\w+)'", source)} == {*keys("Notifications")}
    errors = table("Errors")
    assert {*re.findall(r"'(GD5\d\d)'", source)} == {row["key"] for row in errors}
    for row in errors:
        assert type(from_sqlstate(row["key"], "")).__name__ == row["class in Python"].strip("`")
