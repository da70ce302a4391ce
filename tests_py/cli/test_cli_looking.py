"""Looking: list with its filters and pages, show, why, errors, history, line, failures, tail, top in a pipe."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import PROGRAM, call, commit_for, environment

import gendurable_py as gd

Conn = psycopg.Connection[Any]


def listed(db: Database, *arguments: object) -> list[int]:
    return [row["id"] for row in call(db.dsn, "list", "--json", *arguments).json["instances"]]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--machine", "mail"],
        ["-m", "mail", "--step", "start"],
        ["--version", "2"],
        ["--status", "runnable", "--queue", "mails"],
        ["--status", "open", "--key", "customer:7"],
        ["--key-prefix", "customer:"],
        ["--unique", "u:1"],
        ["--unique-prefix", "u:"],
        ["--meta", '{"trace": 1}'],
        ["--filter", '{"queue": "mails"}'],
        ["--inserted-after", "1h", "--machine", "mail"],
        ["--rate-limit", "mail"],
        ["--due-before", "now", "--queue", "mails"],
    ],
)
def test_each_filter_finds_the_one(db: Database, conn: Conn, arguments: list[str]) -> None:
    conn.execute("select gd_set_rate_limit('mail', 100, '1 second')")
    gd.insert(conn, "other")
    id = gd.insert(
        conn, "mail", version=2, queue="mails", partition_key="customer:7", unique_key="u:1", meta={"trace": 1},
        rate_limit="mail:eu",
    )  # fmt: skip
    assert listed(db, *arguments) == [id]


def test_filters_of_ends_children_workers_and_errors(db: Database, conn: Conn) -> None:
    parent = gd.insert(conn, "tree")
    commit_for(conn, parent, "schedule_childs", step="join", childs=[{"fsm": "leaf", "queue": "leaves"}])
    [child] = listed(db, "--parent", parent)
    failed = gd.insert(conn, "mail")
    commit_for(conn, failed, "stop", reason="card refused")
    assert listed(db, "--error", "refused") == [failed]
    assert listed(db, "--status", "failed", "--finished-after", "1h") == [failed]
    assert listed(db, "--status", "failed", "--finished-before", "1h") == []
    gd.claim(conn, "w7", "leaves")
    assert listed(db, "--worker", "w7") == [child]
    assert listed(db, "--stuck", "1h") == []
    assert listed(db, "--stuck", "0", "--status", "awaiting_children") == [parent]


def test_a_time_without_a_zone_is_of_this_machine_and_refused_if_it_is_none(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail")
    assert listed(db, "--inserted-after", "2020-01-01") == [id]
    assert listed(db, "--inserted-before", "2020-01-01T06:00+02:00") == []
    call(db.dsn, "list", "--inserted-after", "yesterday", code=2)


def test_pages_follow_each_other(db: Database, conn: Conn) -> None:
    gd.insert_many(conn, [{"fsm": "mail"}] * 25)
    seen: list[int] = []
    after: list[object] = []
    while True:
        page = call(db.dsn, "list", "--json", "--limit", 10, *after).json
        seen += [row["id"] for row in page["instances"]]
        if page["next"] is None:
            break
        after = ["--after", json.dumps(page["next"])]
    assert seen == list(range(25, 0, -1))
    said = call(db.dsn, "list", "--limit", 10)
    assert "There may be more: --all goes through all of them, or --after" in said.err
    assert len(call(db.dsn, "list", "--all", "--limit", 10).out.split("mail")) == 26


def test_one_look_says_what_it_has_not_seen(db: Database, conn: Conn) -> None:
    rare = gd.insert(conn, "rare")
    conn.execute('select gd_insert_many((select jsonb_agg(\'{"fsm": "mail"}\'::jsonb) from generate_series(1, 21000)))')
    # One look sees 20,000 rows.
    assert gd.list(conn, {"fsm": "rare"}).instances == []
    said = call(db.dsn, "list", "--machine", "rare")
    assert said.out == ""
    assert "None of the 20,000 that were looked at fits, and there are more: --all goes through" in said.err
    after = said.err[said.err.index("'") + 1 : said.err.rindex("'")]
    assert listed(db, "--machine", "rare", "--after", after) == [rare]
    assert listed(db, "--machine", "rare", "--all") == [rare]


def test_all_pages_as_json_are_one_document(db: Database, conn: Conn) -> None:
    assert call(db.dsn, "list", "--all", "--json").json == {"instances": [], "next": None}
    gd.insert_many(conn, [{"fsm": "mail"}] * 2500)
    found = call(db.dsn, "list", "--all", "--json").json
    assert [row["id"] for row in found["instances"]] == list(range(2500, 0, -1))
    assert found["next"] is None


def test_counting(db: Database, conn: Conn) -> None:
    gd.insert_many(conn, [{"fsm": "mail"}] * 12)
    assert call(db.dsn, "list", "--count").out == "12\n"
    assert call(db.dsn, "list", "--count", "--json", "-m", "mail").json == {"count": 12, "exact": True}


def test_the_columns_of_a_row_are_those_of_the_call(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail")
    [row] = call(db.dsn, "list", "--json").json["instances"]
    assert list(row) == list(gd.list(conn).instances[0]._fields)


# -- one


def test_show_has_all_of_it(db: Database, conn: Conn) -> None:
    gd.register(conn, "tree", options={"history": "steps", "max_attempts": 5})
    id = gd.insert(conn, "tree", {"sum": 3}, partition_key="k", meta={"trace": "t"})
    commit_for(conn, id, "error", error="no luck", traceback="File shop.py", delay_ms=0)
    commit_for(conn, id, "schedule_childs", step="join", childs=[{"fsm": "leaf"}, {"fsm": "leaf"}])
    whole = call(db.dsn, "show", id, "--json").json
    assert set(whole) == {"instance", "why", "errors", "tree", "history", "journal"}
    assert whole["instance"]["state"] == {"sum": 3}
    assert [cause["cause"] for cause in whole["why"]] == ["children"]
    assert [node["fsm"] for node in whole["tree"]] == ["tree", "leaf", "leaf"]
    assert [entry["kind"] for entry in whole["history"]] == ["error", "schedule_childs"]
    text = call(db.dsn, "show", id).out
    for part in (
        "awaiting_children",
        '"sum": 3',
        "It waits for 2 children",
        "no luck",
        "leaf start runnable",
        "start > join",
    ):
        assert part in text, part
    assert "File shop.py" not in text
    assert "File shop.py" in call(db.dsn, "show", id, "--traceback").out


def test_why_says_the_sentence(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail")
    assert id is not None
    gd.pause_queue(conn, "default")
    # They are asked one after the other, and say for how long.
    said, message, answered = (
        re.sub(r"for \d+ s", "for ... s", text)
        for text in (
            call(db.dsn, "why", id).out,
            gd.why(conn, id)[0].message,
            call(db.dsn, "why", id, "--json").json[0]["message"],
        )
    )
    assert said.startswith("queue paused")
    assert message in said
    assert answered == message
    for name in ("why", "show", "errors", "history", "journal", "signals"):
        call(db.dsn, name, 99, code=1)


def test_errors_and_histories(db: Database, conn: Conn) -> None:
    gd.register(conn, "mail", options={"history": "states", "max_attempts": 5})
    id = gd.insert(conn, "mail", {"to": "ada"})
    assert "no errors" in call(db.dsn, "errors", id).out
    assert "keeps no history" in call(db.dsn, "history", gd.insert(conn, "plain", queue="other")).out
    commit_for(conn, id, "error", error="no luck", traceback="Traceback:\n  deep", delay_ms=0)
    commit_for(conn, id, "next", step="go", state={"to": "bob"})
    said = call(db.dsn, "errors", id).out
    assert "error  step start, attempt 0 by w" in said
    assert "    deep" in said
    assert "deep" not in call(db.dsn, "errors", id, "--no-traceback").out
    assert call(db.dsn, "errors", id, "--json").json[0]["traceback"] == "Traceback:\n  deep"
    assert '{"to": "ada"}' in call(db.dsn, "history", id, "--states").out
    assert '{"to": "ada"}' not in call(db.dsn, "history", id).out
    assert [entry["no"] for entry in call(db.dsn, "history", id, "--after", 1, "--json").json] == [2]


def test_the_inbox(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail")
    assert id is not None
    call(db.dsn, "signal", id, "paid", '{"sum": 3}')
    [row] = call(db.dsn, "signals", id, "--json").json
    assert (row["name"], row["payload"]) == ("paid", {"sum": 3})
    assert '{"sum": 3}' in call(db.dsn, "signals", id).out


def test_the_line_of_a_key(db: Database, conn: Conn) -> None:
    first, second = (gd.insert(conn, "mail", partition_key="k") for _ in range(2))
    gd.claim(conn, "w", limit=5)
    assert [row["id"] for row in call(db.dsn, "line", "k", "--json").json] == [first, second]
    assert "holds" in call(db.dsn, "line", "k").out
    assert "Nobody" in call(db.dsn, "line", "other").out


def test_failures_are_grouped(db: Database, conn: Conn) -> None:
    for number in (1, 2):
        commit_for(conn, gd.insert(conn, "mail"), "stop", reason=f"order {number} is bad")
    [row] = call(db.dsn, "failures", "--json").json
    assert (row["instances"], row["message"]) == (2, "order # is bad")
    assert "order # is bad" in call(db.dsn, "failures", "--machine", "mail").out
    assert call(db.dsn, "failures", "--machine", "other", "--json").json == []


# -- live


def test_tail_tells_each_end_once(db: Database, conn: Conn) -> None:
    with subprocess.Popen(
        [*PROGRAM, "tail", "--interval", "100ms", "--since", "1h", "-n", "4"],
        env=environment(db.dsn),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ids, told = [], []
        for kind, more in (("done", {}), ("stop", {"reason": "bad\nluck"}), ("done", {})):
            ids.append(gd.insert(conn, "mail"))
            commit_for(conn, ids[-1], kind, **more)
            told.append(process.stdout.readline())
        # one that ends again is told again
        gd.retry(conn, ids[1] or 0)
        commit_for(conn, ids[1])
        told.append(process.stdout.readline())
        assert process.wait(30) == 0
    said = [line.rstrip().split("  ", 1)[1] for line in told]
    assert said == [
        f"{ids[0]}  done  mail start",
        f"{ids[1]}  failed  mail start  bad",
        f"{ids[2]}  done  mail start",
        f"{ids[1]}  done  mail start",
    ]


@pytest.mark.parametrize(("look", "lines"), [(5000, 2500), (400, 400)])
def test_tail_tells_all_of_what_ended_at_one_moment(
    db: Database, conn: Conn, monkeypatch: pytest.MonkeyPatch, look: int, lines: int
) -> None:
    monkeypatch.setattr("gendurable_py.cli.tail._LOOK", look)
    ids = [row.id for row in gd.insert_many(conn, [{"fsm": "mail"}] * 2500)]
    gd.cancel_many(conn, ids)
    gd.cancel(conn, gd.insert(conn, "other") or 0)
    said = call(db.dsn, "tail", "--since", "1h", "-n", lines)
    assert [int(line.split("  ")[1]) for line in said.out.splitlines()] == ids[:lines]


def test_tail_follows_filters(db: Database, conn: Conn) -> None:
    commit_for(conn, gd.insert(conn, "mail"))
    bad = gd.insert(conn, "mail")
    commit_for(conn, bad, "stop", reason="no")
    commit_for(conn, gd.insert(conn, "other"), "stop", reason="no")
    said = call(db.dsn, "tail", "--since", "1h", "--failed", "-m", "mail", "-n", "1", "--json")
    assert json.loads(said.out)["id"] == bad


def test_top_in_a_pipe_is_one_page(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail", queue="mails")
    commit_for(conn, gd.insert(conn, "mail"), "stop", reason="no luck")
    gd.claim(conn, "w7", "mails")
    said = call(db.dsn, "top").out
    for part in ("executing 1", "mails", "w7", "no luck"):
        assert part in said
    found = call(db.dsn, "top", "--once", "--json").json
    assert {row["queue"] for row in found["queues"]} == {"default", "mails"}
    assert found["failures"][0]["message"] == "no luck"


def test_what_loses_its_workers_is_found(db: Database, conn: Conn) -> None:
    assert call(db.dsn, "crashes").out == "No instance has lost a worker in that time.\n"
    first, second = gd.insert(conn, "mail"), gd.insert(conn, "mail")

    def lose() -> None:
        claims = gd.claim(conn, "w1", limit=10)
        gd.release(conn, "w1", [(claim.id, claim.claim_no) for claim in claims], crashed=True)

    lose()
    lose()
    said = call(db.dsn, "crashes")
    assert "Several were lost together" in said.out and "pause instance" not in said.out
    commit_for(conn, second, "done", "w1")
    lose()
    said = call(db.dsn, "crashes")
    assert f"gendurable pause instance {first}" in said.out
    assert [row["id"] for row in call(db.dsn, "crashes", "--json").json] == [first, second]
    assert re.search(rf"^ *{first} .*\b3\b", call(db.dsn, "list").out, re.MULTILINE)
    assert call(db.dsn, "top", "--json", "--once").json["crashes"][0]["crashes"] == 3
    said = call(db.dsn, "doctor", code=None)
    assert f"up to 3 times in a row: {first}" in said.out
    assert call(db.dsn, "crashes", "--limit", 1).out.count("mail") == 1


def test_show_and_journal_have_what_a_flow_has_come_through(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "story") or 0
    assert "There is nothing in its journal." in call(db.dsn, "journal", id).out
    assert call(db.dsn, "show", id, "--json").json["journal"] == []
    [claim] = gd.claim(conn, "w")
    add = [
        {"k": "start", "at": 1795727340.25, "seed": "s"},
        {"k": "retry", "name": "pay", "n": 0, "at": 1795727341, "attempts": 1, "error": "no\nanswer"},
        {"k": "step", "name": "pay", "n": 1, "at": 1795727342, "v": '{"paid": true}'},
        {"k": "retried"},
    ]
    park = {"id": claim.id, "claim_no": claim.claim_no, "kind": "await", "signals": "sent", "step": "(signal)"}
    [answer] = gd.commit(conn, "w", [{**park, "journal": {"at": 0, "add": add}}])
    assert answer.result == "ok"
    for said in (call(db.dsn, "show", id).out, call(db.dsn, "journal", id).out):
        lines = [line.strip() for line in said.splitlines()]
        assert re.fullmatch(r"1  2026-\d\d-\d\d \d\d:\d\d:\d\d  start", lines[-5])
        assert re.fullmatch(r"2  2026-.*  retry  pay", lines[-4])
        assert lines[-3] == "error: no"
        assert re.fullmatch(r"3  2026-.*  step  pay \(number 2\)", lines[-2])
        assert re.fullmatch(r"4 {23}retried", lines[-1])
    assert 'at checkpoint "pay"' in " ".join(call(db.dsn, "show", id).out.split())
    assert 'value: {"paid": true}' in call(db.dsn, "journal", id, "--values").out
    assert [one["seq"] for one in call(db.dsn, "journal", id, "--after", 1, "--limit", 2, "--json").json] == [2, 3]
    assert [one["kind"] for one in call(db.dsn, "journal", id, "--after", -1, "--json").json] == ["retried"]


def test_a_history_is_read_on_a_narrow_screen(db: Database, conn: Conn) -> None:
    conn.execute("""select gd_register('mail', 1, 'start', 'default', '{"history": "states"}')""")
    id = gd.insert(conn, "mail", {"to": "ada"})
    commit_for(conn, id, "error", "w1", error="no route to a host with a long name", delay_ms=0)
    commit_for(conn, id, "next", "w1", step="sent")
    said = call(db.dsn, "history", id, "--states").out.splitlines()
    assert re.fullmatch(r"1  \S+ \S+  error  start  [\d.]+ s", said[0])
    assert said[1] == "   error: no route to a host with a long name"
    assert said[2] == '   state: {"to": "ada"}'
    assert re.fullmatch(r"2  \S+ \S+  next  start > sent  [\d.]+ s", said[3])
