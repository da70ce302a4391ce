"""Every action of the dashboard: it says what will happen, does it, and the audit says who did."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import commit_for
from support.web import Browser, browsing, failed, fields_of, status, text_in, text_of

import gendurable_py as gd
from gendurable_py import calls
from gendurable_py.calls import viewing
from gendurable_py.web import app
from gendurable_py.web.acts import ACTS, instance, many, migrate

Conn = psycopg.Connection[Any]
ACTOR = "ada@example.com"


@pytest.fixture
def browser(db: Database) -> Iterator[Browser]:
    with browsing(app(db.dsn, operate=True, auth=lambda request: ACTOR)) as browser:
        yield browser


def test_what_can_be_done_to_one_instance(browser: Browser, conn: Conn) -> None:
    id = gd.insert(conn, "order", {"n": 1}, delay=3600)
    assert id is not None
    act = f"/act/instance/{{}}?id={id}"

    browser.send(act.format("pause"))
    assert "paused" in text_of(browser.get(f"/instances/{id}"))
    browser.send(act.format("resume"))
    browser.send(act.format("reschedule"), at="now")
    browser.send(act.format("edit"), step="pay", state='{"n": 2}', queue="mails", priority="3", meta='{"a": 1}')
    found = gd.get(conn, id)
    assert found is not None
    assert [found[name] for name in ("step", "state", "queue", "priority", "meta")] == [
        "pay", {"n": 2}, "mails", 3, {"a": 1},
    ]  # fmt: skip
    browser.send(act.format("edit"), queue="default")
    browser.send(act.format("signal"), name="paid", payload='{"sum": 30}')
    [signal] = gd.signals(conn, id)
    assert (signal.name, signal.payload) == ("paid", {"sum": 30})
    answer = browser.send(act.format("fork"), state='{"n": 9}')
    fork = int(answer.headers["location"].split("/")[2].partition("?")[0])
    copy = gd.get(conn, fork)
    assert copy is not None
    assert copy["state"] == {"n": 9}

    page = browser.send(act.format("cancel"), reason="she has left")
    assert page.headers["location"] == f"/instances/{id}?did=cancel"
    assert "she has left" in text_of(browser.get(page.headers["location"]))
    assert status(conn, id) == "cancelled"
    browser.send(act.format("retry"), step="start")
    assert status(conn, id) == "runnable"
    browser.send(act.format("cancel"))
    browser.send(act.format("delete"))
    assert gd.get(conn, id) is None

    done = [(row.call, row.actor) for row in calls.audit(conn).calls]
    assert done[::-1] == [
        (f"gd_{verb}", ACTOR)
        for verb in (
            "pause", "resume", "reschedule", "edit", "edit", "signal_many", "fork", "cancel", "retry", "cancel",
            "delete",
        )
    ]  # fmt: skip


def test_a_confirmation_says_what_will_happen(browser: Browser, conn: Conn) -> None:
    parent = gd.insert(conn, "basket")
    commit_for(conn, parent, "schedule_childs", step="end", childs=[{"fsm": "order"}, {"fsm": "order"}])
    page = text_of(browser.get(f"/act/instance/cancel?id={parent}"))
    assert "It is awaiting children at step end." in page
    assert "2 instances that came out of it have not ended" in page
    browser.send(f"/act/instance/cancel?id={parent}", cascade="yes")
    assert gd.count(conn, {"status": "cancelled"}).instances == 3


def test_what_cannot_be_done_is_said_and_nothing_is_done(browser: Browser, conn: Conn) -> None:
    id = failed(conn)
    for verb, said in (
        ("cancel", "It had ended already."),
        ("pause", "It has ended, or is paused already."),
        ("resume", "It is not paused."),
        ("reschedule", "It is neither runnable nor waiting for a signal."),
        ("signal", "It has ended, or has had a signal with this key before."),
    ):
        more = {"name": "paid"} if verb == "signal" else {}
        assert said in text_of(browser.send(f"/act/instance/{verb}?id={id}", 409, **more))
    assert "no JSON" in text_of(browser.send(f"/act/instance/retry?id={id}", 400, state="{"))
    assert status(conn, id) == "failed"
    browser.get("/act/instance/cancel?id=999999", 404)
    browser.get("/act/instance/explode?id=1", 404)
    assert calls.audit(conn).calls == []


def test_many_that_were_previewed_are_done_and_no_others(browser: Browser, conn: Conn) -> None:
    gd.insert_many(conn, [{"fsm": "mail", "queue": "a"} for _ in range(600)])
    other = gd.insert(conn, "order", queue="a")
    path = "/act/many/cancel?fsm=mail"
    page = text_of(browser.get(path))
    assert "600 instances fit now." in page
    form = browser.form(path)
    late = gd.insert(conn, "mail", queue="a")
    answer = browser.client.post(path, data={**form, "reason": "by mistake"})
    assert answer.status_code == 200
    assert "Cancel: 600 of 600 done" in text_of(answer)
    assert gd.count(conn, {"fsm": "mail", "status": "cancelled", "error": "by mistake"}).instances == 600
    assert {status(conn, other), status(conn, late)} == {"runnable"}
    assert [(row.call, row.affected, row.actor) for row in calls.audit(conn).calls] == [
        ("gd_cancel_many", 100, ACTOR), ("gd_cancel_many", 500, ACTOR),
    ]  # fmt: skip
    # by which filter they were found, as the audit says and leads to
    [wanted] = {json.dumps(row.what["filter"]) for row in calls.audit(conn).calls}
    assert json.loads(wanted) == {
        "fsm": "mail", "status": ["runnable", "executing", "awaiting_signal", "awaiting_children"],
    }  # fmt: skip
    listed = browser.get("/audit").text
    assert "fsm mail, status runnable,executing,awaiting_signal,awaiting_children" in text_in(listed)
    [link] = set(re.findall(r'href="(/instances\?[^"]+)"', listed))
    assert f'id="i{late}"' in browser.get(html.unescape(link)).text
    # it is of that act alone
    browser.send(f"/act/instance/cancel?id={late}")
    assert "filter" not in calls.audit(conn).calls[0].what


def test_who_is_locked_is_told(browser: Browser, conn: Conn, db: Database) -> None:
    ids = [gd.insert(conn, "mail") for _ in range(3)]
    with db.connect(autocommit=False) as other:
        other.execute("select from gendurable.instance where id = %s for update", (ids[1],))
        answer = browser.send("/act/many/cancel?fsm=mail", 200)
    assert "Cancel: 2 of 3 done" in text_of(answer)
    assert f"locked by somebody: {ids[1]}" in text_of(answer)


def test_a_signal_waits_for_who_is_locked_for_a_moment(
    browser: Browser, conn: Conn, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = gd.insert(conn, "order")
    path = f"/act/instance/signal?id={id}"
    with db.connect(autocommit=False) as other:
        other.execute("select from gendurable.instance where id = %s for update", (id,))
        assert "Somebody has it locked" in text_of(browser.send(path, 409, name="paid"))
        tries = iter([None, other.rollback])

        async def sleep(seconds: float) -> None:
            (next(tries, None) or (lambda: None))()

        monkeypatch.setattr(instance, "asyncio", SimpleNamespace(sleep=sleep))
        browser.send(path, name="paid")
    assert [signal.name for signal in gd.signals(conn, id or 0)] == ["paid"]


def test_many_are_retried_signalled_moved_and_deleted(browser: Browser, conn: Conn) -> None:
    ids = [failed(conn) for _ in range(3)]
    browser.send("/act/many/retry?fsm=order", 200)
    assert {status(conn, id) for id in ids} == {"runnable"}
    browser.send("/act/many/signal?fsm=order", 200, name="hello", payload="[1]")
    assert [signal.payload for id in ids for signal in gd.signals(conn, id)] == [[1], [1], [1]]
    browser.send("/act/many/reschedule?fsm=order", 200, at="1d")
    assert conn.execute("select count(*) from gd_instances where eligible_at > now() + '23 h'").fetchone() == (3,)
    browser.send("/act/many/cancel?fsm=order", 200)
    browser.send("/act/many/delete?fsm=order", 200)
    assert [gd.get(conn, id) for id in ids] == [None] * 3


def test_all_instances_at_once_are_not_offered(browser: Browser) -> None:
    browser.get("/act/many/cancel", 400)
    assert "/act/many/" not in browser.get("/instances").text
    assert "/act/many/cancel?fsm=x" in browser.get("/instances?fsm=x").text


def test_queues_machines_schedules_limits_workers_and_everything(browser: Browser, conn: Conn) -> None:
    gd.insert(conn, "order", queue="a b/c")
    queue = "/act/queue/{}?name=a+b%2Fc"
    browser.send(queue.format("pause"))
    [row] = viewing.queues(conn)
    assert row["paused"]
    browser.send(queue.format("resume"))
    browser.send(queue.format("set"), limit="3", concurrency="2")
    [row] = viewing.queues(conn)
    assert (row["paused"], row["max_executing"], row["concurrency"]) == (False, 3, 2)
    browser.send(queue.format("set"), limit="none")
    [row] = viewing.queues(conn)
    assert (row["max_executing"], row["concurrency"]) == (None, 2)

    browser.send("/act/machine/pause?name=order&step=pay")
    assert "step pay is paused" in text_of(browser.get("/machine?name=order"))
    browser.send("/act/machine/resume?name=order&step=pay")
    assert viewing.pauses(conn) == []

    calls.schedule(conn, "nightly", "0 6 * * *", "mail")
    answer = browser.send("/act/schedule/trigger?name=nightly")
    assert "mail" in text_of(browser.get(answer.headers["location"]))
    browser.send("/act/schedule/pause?name=nightly")
    browser.send("/act/schedule/resume?name=nightly")
    browser.send("/act/schedule/remove?name=nightly")
    assert viewing.schedules(conn) == []
    browser.get("/schedules")

    browser.send("/act/limit/set", limit_name="mail", allowed="5", period="1m")
    browser.send("/act/limit/set?name=mail", allowed="7", period="1h", burst="2")
    browser.send("/act/limit/close?name=mail", until="10m")
    [row] = viewing.rate_limits(conn)
    assert (row["allowed"], row["burst"], row["bucket"]) == (7, 2, "mail")
    assert row["closed_until"]
    browser.send("/act/limit/open?name=mail")
    browser.send("/act/limit/set?name=mail", allowed="none")
    assert viewing.rate_limits(conn) == []
    browser.send("/act/limit/keys", prefix="customer", limit="2")
    assert conn.execute("select count(*) from gendurable.key_limit").fetchone() == (1,)

    calls.hello(conn, "w1", {"queues": {"a b/c": 4}})
    browser.send("/act/worker/drain?name=w1")
    assert "draining" in text_of(browser.get("/workers"))
    browser.send("/act/worker/resume?name=w1")

    browser.send("/act/everything/hold", reason="a restored copy")
    assert "Everything is held" in text_of(browser.get("/queues"))
    browser.send("/act/everything/release")
    assert viewing.holds(conn) == []
    assert {row.actor for row in calls.audit(conn).calls if row.call not in ("gd_schedule",)} == {ACTOR}
    # each of them is there, those that programs do as they run, too
    assert [row.call.removeprefix("gd_") for row in calls.audit(conn).calls if row.actor == ACTOR][::-1] == [
        "pause_queue", "resume_queue", "set_queue", "set_queue", "pause_machine", "resume_machine", "trigger",
        "pause_schedule", "resume_schedule", "unschedule", "set_rate_limit", "set_rate_limit", "close_rate_limit",
        "close_rate_limit", "set_rate_limit", "set_key_limit", "drain_worker", "resume_worker", "hold_all",
        "release_hold",
    ]  # fmt: skip


def test_a_migration_shows_what_it_would_do_first(browser: Browser, conn: Conn) -> None:
    for version, steps in ((1, ["start", "old"]), (2, ["start", "new"])):
        gd.register(conn, "order", version=version, initial_step="start", queue="q", options={"steps": steps})
    ids = [gd.insert(conn, "order", version=1) for _ in range(2)]
    path = "/act/machine/migrate?name=order"
    dry = browser.send(path, 200, start="1", to="2")
    assert "2 would move" in text_of(dry)
    assert {row.fsm_version for row in gd.list(conn).instances} == {1}
    moved = browser.client.post(path, data=fields_of(dry.text))
    assert "2 moved" in text_of(moved)
    assert {(row.id, row.fsm_version) for row in gd.list(conn).instances} == {(id, 2) for id in ids}


def test_who_has_changed_since_the_preview_is_left_alone(browser: Browser, conn: Conn) -> None:
    ids = [gd.insert(conn, "mail", step="pay") for _ in range(2)]
    path = "/act/many/cancel?fsm=mail&step=pay"
    form = browser.form(path)
    commit_for(conn, ids[0], "next", step="ship")
    answer = text_of(browser.client.post(path, data=form))
    assert "Cancel: 1 of 2 done" in answer
    assert f"do not fit any more: they have changed since, or are gone, and were left alone: {ids[0]}" in answer
    assert [status(conn, id) for id in ids] == ["runnable", "cancelled"]
    # nor does a misspelt filter mean more than was meant
    assert "there is no 'stepp' here" in text_of(browser.get("/act/many/cancel?fsm=mail&stepp=pay", 400))


def test_where_a_batch_fails_it_is_told_what_was_done_before(
    browser: Browser, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [gd.insert(conn, "mail") for _ in range(3)]
    monkeypatch.setattr(many, "_BATCH", 2)
    deed = many.KINDS["cancel"][3]

    async def fails_at_last(conn: Any, some: list[int], values: Any) -> dict[int, str]:
        if ids[2] in some:
            raise psycopg.errors.QueryCanceled("too long")
        return await deed(conn, some, values)

    monkeypatch.setitem(many.KINDS, "cancel", (*many.KINDS["cancel"][:3], fails_at_last))
    answer = text_of(browser.send("/act/many/cancel?fsm=mail", 200))
    assert "Cancel: 2 of 3 done" in answer
    assert "It stopped here: That took too long." in answer
    assert "1 more were not done" in answer
    assert [status(conn, id) for id in ids] == ["cancelled", "cancelled", "runnable"]


def test_a_form_to_edit_does_not_undo_what_a_step_did_meanwhile(browser: Browser, conn: Conn) -> None:
    id = gd.insert(conn, "order", {"n": 1})
    path = f"/act/instance/edit?id={id}"
    form = browser.form(path)
    commit_for(conn, id, "next", step="pay", state={"n": 2})
    assert browser.client.post(path, data={**form, "priority": "7"}).status_code == 303
    found = gd.get(conn, id or 0)
    assert found is not None
    assert (found["state"], found["priority"]) == ({"n": 2}, 7)
    answer = browser.client.post(path, data={**form, "state": '{"n": 9}'})
    assert answer.status_code == 409
    assert "Its state has changed" in text_of(answer)
    browser.send(path, state='{"n": 3}')
    found = gd.get(conn, id or 0)
    assert found is not None
    assert found["state"] == {"n": 3}


def test_a_migration_goes_on_behind_those_that_cannot_be_moved(
    browser: Browser, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_AT_ONCE", 1)
    for version, steps in ((1, ["start", "old"]), (2, ["start"])):
        gd.register(conn, "order", version=version, initial_step="start", queue="q", options={"steps": steps})
    gd.insert(conn, "order", version=1, step="old")
    second = gd.insert(conn, "order", version=1)
    path = "/act/machine/migrate?name=order"
    first = browser.send(path, 200, start="1", to="2", really="yes")
    assert "1 cannot" in text_of(first)
    assert "1 moved" in text_of(browser.client.post(path, data=fields_of(first.text)))
    assert {row.id: row.fsm_version for row in gd.list(conn).instances}[second or 0] == 2


def test_every_action_has_a_test() -> None:
    source = Path(__file__).read_text()
    for kind, verb in ACTS:
        assert f"/act/{kind}/{verb}" in source or f'format("{verb}")' in source, (kind, verb)
