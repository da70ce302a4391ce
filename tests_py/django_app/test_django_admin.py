"""The admin with a client that has logged in: what it shows, what it does, and for whom."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Database
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from support.cli import commit_for
from support.djangoproject import Permission, User

import gendurable_py as gd

LIST = "/admin/gendurable/instance/"


@pytest.fixture
def admin(migrated: Database) -> Client:
    """A superuser."""
    from gendurable_py.contrib.django import _changelist

    _changelist._known.clear()  # of the tests before
    User.objects.create_superuser("ada", password="x")
    client = Client(raise_request_exception=True)
    assert client.login(username="ada", password="x")
    return client


def staff(*permissions: str) -> Client:
    user = User.objects.create_user("bob", password="x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    assert client.login(username="bob", password="x")
    return client


def text(response: Any) -> str:
    assert response.status_code == 200, response
    return response.content.decode()


def ids(page: str) -> list[int]:
    return [int(id) for id in re.findall(r'name="_selected_action" value="(\d+)"', page)]


def act(client: Client, action: str, *chosen: object, **more: Any) -> str:
    data = {"action": action, "_selected_action": [str(id) for id in chosen], "index": "0", **more}
    return text(client.post(LIST, data, follow=True))


def test_the_list_shows_the_newest_first_page_by_page(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    made = [row.id for row in gd.insert_many(conn, [{"fsm": "order", "queue": f"q{n % 2}"} for n in range(250)])]
    page, seen = text(admin.get(LIST)), []
    for _ in range(3):
        seen += ids(page)
        further = re.search(r'<a href="([^"]*after=[^"]*)">next page', page)
        if further is None:
            break
        page = text(admin.get(LIST + html.unescape(further[1])))
    assert seen == sorted(made, reverse=True)
    assert "First page" in page
    assert '<option value="reschedule">' in page
    assert "next page" not in page
    assert len(ids(text(admin.get(LIST, {"queue": "q1"})))) == 100


def test_filters_and_the_search(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    one = gd.insert(
        conn, "order", partition_key="customer:7", unique_key="order:1", attributes={"tenant": "acme", "n": 4}
    )
    two = gd.insert(conn, "mail", queue="mail", attributes={"n": "5", "name": "Infinity"})
    gd.register(conn, "mail", queue="mail")
    assert two is not None
    gd.cancel(conn, two, "no use")
    for query, found in (
        (str(one), [one]),
        ("order:1", [one]),
        ("key:customer:7", [one]),
        ("prefix:customer", [one]),
        ("tenant=acme", [one]),
        ("n=4 machine:order", [one]),
        ("tenant=other", []),
        ("n=5", []),
        ("name=Infinity", [two]),
        ("'n=\"5\"'", [two]),
        ("queue:mail", [two]),
        ('error:"no use"', [two]),
        ("machine:mail queue:default", []),
    ):
        assert ids(text(admin.get(LIST, {"q": query}))) == found, query
    page = text(admin.get(LIST, {"status": "cancelled"}))
    assert ids(page) == [two]
    assert re.search(r'href="\?[^"]*fsm=mail', page), re.findall(r'href="\?[^"]*"', page)
    assert ids(text(admin.get(LIST, {"fsm": "order"}))) == [one]
    assert ids(text(admin.get(LIST, {"stuck": "1d"}))) == []


HOSTILE = (
    {"q": '"not closed'},
    {"q": "parent:abc"},
    {"q": "9" * 400},
    {"q": "x" * 100_000},
    {"q": "\u202eabc \x00 \x01"},
    {"q": "a=" + "[" * 100_000},
    {"q": "=5 a= :x queue: machine:"},
    {"after": "no json"},
    {"after": "[1, 2]"},
    {"after": '{"id": "x"}'},
    {"after": "[" * 100_000},
    {"status": "nonsense"},
    {"stuck": "nonsense"},
    {"queue": "q\x00"},
    {"p": "-1"},
    {"o": "1.-2"},
    {"all": ""},
    {"id__in": "1,2"},
    {"e": "1"},
    {"_popup": "1"},
    {"_facets": "1"},
)


def test_no_question_breaks_the_list(admin: Client, migrated: Database) -> None:
    gd.insert(migrated.connect(), "order")
    for query in HOSTILE:
        assert admin.get(LIST, query, follow=True).status_code in (200, 400), str(query)[:100]
    id = gd.insert(migrated.connect(), "order")
    for after in ("x", "-1", "9" * 18, "9" * 5000):
        text(admin.get(f"{LIST}{id}/change/", {"after": after}))


def test_the_list_counts_no_table_and_reads_no_state(admin: Client, migrated: Database) -> None:
    gd.insert(migrated.connect(), "order")
    with CaptureQueriesContext(connection) as asked:
        text(admin.get(LIST))
    # What is asked of gendurable does not go through Django's cursors: what does is about users and sessions.
    assert [query["sql"] for query in asked if "gd_" in query["sql"]] == []


def test_one_instance_with_all_that_is_known(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    gd.register(conn, "order", options={"history": "steps", "max_attempts": 3})
    id = gd.insert(conn, "order", {"sum": 3}, meta={"by": "web"})
    child = gd.insert(conn, "part")
    conn.execute("update gendurable.instance set parent_id = %s where id = %s", (id, child))
    commit_for(conn, id, "error", error="CardDeclined: no funds", traceback="File pay.py, line 7")
    assert id is not None
    gd.signal(conn, id, "paid", 3)
    page = text(admin.get(f"{LIST}{id}/change/"))
    for expected in (
        "order",
        "&quot;sum&quot;: 3",
        "&quot;by&quot;: &quot;web&quot;",
        "File pay.py, line 7",
        "It backs off after attempt 1 of 3",
        "paid (",
        f'/admin/gendurable/instance/{child}/change/">{child}</a>',
        "<th>delayed</th>",
        "CardDeclined",
    ):
        assert expected in page, expected
    below = text(admin.get(f"{LIST}{child}/change/"))
    assert f'/admin/gendurable/instance/{id}/change/">{id}</a>' in below
    response = admin.get(f"{LIST}{id}/history/")
    assert response.status_code == 302
    for gone in ("999999", "x", "-1", "9" * 40, "1_0"):
        assert admin.get(f"{LIST}{gone}/change/").status_code == 302


def test_what_is_hostile_is_text(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    bad = "<script>alert('x')</script>\u202e{{ settings.SECRET_KEY }}"
    id = gd.insert(
        conn,
        bad,
        {bad: bad},
        step=bad,
        queue=bad,
        unique_key=bad,
        partition_key=bad,
        meta={"a": bad},
        attributes={bad: bad},
    )
    gd.register(conn, bad, initial_step=bad, queue=bad)
    assert id is not None
    gd.signal(conn, id, bad)
    gd.cancel(conn, id, bad)
    for page in (text(admin.get(LIST)), text(admin.get(f"{LIST}{id}/change/")), text(admin.get(LIST, {"fsm": bad}))):
        assert "<script>alert" not in page
        assert "\u202e" not in re.sub(r'value="[^"]*"', "", page)  # a field of the form has what was asked for
        assert "not so secret" not in page
        assert "&lt;script&gt;alert" in page
    assert "<script>alert" not in text(admin.get("/admin/gendurable/queue/"))


def test_numbers_are_shown_with_all_their_digits(admin: Client, migrated: Database) -> None:
    exact = '{"n": [1.2345678901234567890123, 12345678901234567890123], "s": "a, {\\"b\\": 1}", "none": {}, "no": []}'
    with migrated.connect() as conn:
        [(id,)] = conn.execute("select gd_insert('elsewhere', p_state => %s)", [exact]).fetchall()
    page = html.unescape(admin.get(f"{LIST}{id}/change/").content.decode())
    assert '"n": [\n    1.2345678901234567890123,\n    12345678901234567890123\n  ]' in page
    assert '"s": "a, {\\"b\\": 1}"' in page
    assert '"none": {}' in page and '"no": []' in page


def test_a_large_state_is_cut(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    id = gd.insert(conn, "order", {"text": "x" * 10_000_000}, meta={"note": "y" * 30_000})
    response = admin.get(f"{LIST}{id}/change/")
    page = text(response)
    assert "cut: the whole has 10,000,0" in page
    assert "cut: the whole has 30,0" in page
    assert len(page) < 100_000
    assert str(id) in text(admin.get(LIST))


def test_actions_act_in_the_name_of_the_user(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    made = [row.id for row in gd.insert_many(conn, [{"fsm": "order"}] * 3)]
    assert "Pause: 3 done" in act(admin, "pause", *made)
    assert "(paused)" in text(admin.get(LIST))
    assert "Resume: 1 done, 1 not there any more" in act(admin, "resume", made[0], 999_999)
    page = act(admin, "cancel", *made)
    assert "Cancel 3 instances" in page
    assert all(gd.result(conn, id).status == "runnable" for id in made)  # type: ignore[union-attr]
    assert "Cancel: 3 done" in act(admin, "cancel", *made, reason="not needed", apply="1")
    assert {gd.result(conn, id).last_error for id in made} == {"not needed"}  # type: ignore[union-attr]
    assert "Cancel: 3 not possible as they stand" in act(admin, "cancel", *made, apply="1")
    assert "Retry: 3 done" in act(admin, "retry", *made)
    done = gd.audit(conn).calls
    assert {row.actor for row in done} == {"ada"}
    assert {row.call for row in done} >= {"gd_pause", "gd_resume", "gd_cancel_many", "gd_retry_many"}
    assert "gd_pause" in text(admin.get(f"{LIST}{made[0]}/change/"))


def test_actions_that_need_to_be_told_something(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    id = gd.insert(conn, "order")
    assert id is not None
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    assert 'name="time_0"' in act(admin, "reschedule", id)
    assert "Enter a valid date" in act(admin, "reschedule", id, time_0="never", time_1="10:00", apply="1")
    local = timezone.localtime(at)  # the fields are in the zone of the project
    said = {"time_0": local.date().isoformat(), "time_1": local.time().isoformat()}
    assert "Reschedule: 1 done" in act(admin, "reschedule", id, apply="1", **said)
    [row] = gd.list(conn, {"id": id}).instances
    assert row.eligible_at == at
    for wrong in ("{", "NaN", "[" * 100_000):
        assert "This is no JSON" in act(admin, "signal", id, name="paid", payload=wrong, apply="1")
    assert "Signal: 1 done" in act(admin, "signal", id, name="paid", payload='{"sum": 3}', apply="1", back="instance")
    [signal] = gd.signals(conn, id)
    assert (signal.name, signal.payload) == ("paid", {"sum": 3})
    assert "Signal: 1 done" in act(admin, "signal", id, name="paid", payload="", apply="1")


def test_an_action_concerns_what_was_chosen_and_never_all(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    made = [row.id for row in gd.insert_many(conn, [{"fsm": "order"}] * 3)]
    assert "Pause: 1 done" in act(admin, "pause", made[0], "x", "-1", "9" * 5000, "1; drop", select_across="1")
    assert [row.id for row in gd.list(conn, {}).instances if row.paused_at] == [made[0]]
    act(admin, "pause", select_across="1")
    assert len([row.id for row in gd.list(conn, {}).instances if row.paused_at]) == 1


def test_permissions_say_who_may_what(migrated: Database) -> None:
    conn = migrated.connect()
    id = gd.insert(conn, "order")
    assert id is not None
    client = staff("view_instance", "retry_instance")
    page = text(client.get(f"{LIST}{id}/change/"))
    assert 'value="retry"' in page
    assert 'value="cancel"' not in page
    listed = text(client.get(LIST))
    assert '<option value="retry">' in listed
    assert 'value="cancel"' not in listed
    for action in ("cancel", "pause", "reschedule", "signal", "delete_selected"):
        act(client, action, id, apply="1", name="x")
    assert gd.audit(conn).calls == []
    assert gd.signals(conn, id) == []
    assert "Retry: 1 not possible as they stand" in act(client, "retry", id)
    for path in ("add/", f"{id}/delete/"):
        assert client.get(LIST + path).status_code == 403
    assert client.post(f"{LIST}{id}/change/", {"fsm": "other"}).status_code == 200
    assert gd.list(conn, {"id": id}).instances[0].fsm == "order"
    User.objects.all().delete()
    for client in (staff("retry_instance"), Client()):
        assert client.get(LIST).status_code in (302, 403)
        assert client.get(f"{LIST}{id}/change/").status_code in (302, 403)
        assert client.post(LIST, {"action": "retry", "_selected_action": [id], "index": 0}).status_code in (302, 403)


def test_queues_schedules_and_workers(admin: Client, migrated: Database) -> None:
    conn = migrated.connect()
    gd.insert(conn, "order", queue="a/b?c")
    gd.schedule(conn, "nightly", "0 3 * * *", "order")
    gd.claim(conn, "w1", "a/b?c", 1)

    def do(kind: str, action: str, name: str) -> str:
        data = {"action": action, "_selected_action": [name], "index": "0"}
        return text(admin.post(f"/admin/gendurable/{kind}/", data, follow=True))

    assert "a/b?c" in text(admin.get("/admin/gendurable/queue/"))
    assert "a/b?c" in text(admin.get("/admin/gendurable/queue/a_2Fb_3Fc/change/"))
    assert "Pause: 1 done" in do("queue", "pause", "a/b?c")
    assert conn.execute("select paused from gd_queues where queue = 'a/b?c'").fetchone() == (True,)
    assert "Resume: 1 done" in do("queue", "resume", "a/b?c")
    assert "Pause: 1 done" in do("schedule", "pause", "nightly")
    assert "Pause: 1 not possible" in do("schedule", "pause", "nightly")
    assert "Resume: 1 done" in do("schedule", "resume", "nightly")
    assert "Trigger: 1 done" in do("schedule", "trigger", "nightly")
    assert "0 3 * * *" in text(admin.get("/admin/gendurable/schedule/nightly/change/"))
    assert "w1" in text(admin.get("/admin/gendurable/worker/"))
    assert "w1" in text(admin.get("/admin/gendurable/worker/w1/change/"))
    assert "Drain: 1 not possible" in do("worker", "drain", "w1")  # it has not said hello
    assert {row.actor for row in gd.audit(conn).calls if row.call != "gd_schedule"} == {"ada"}
    assert "gendurable" in text(admin.get("/admin/"))


def test_what_is_refused_costs_no_other(admin: Client, migrated: Database) -> None:
    conn, other = migrated.connect(), migrated.connect()
    gd.set_rate_limit(conn, "partner", 10, 60)
    gd.schedule(conn, "good", "0 3 * * *", "order")
    gd.schedule(conn, "bad", "0 3 * * *", "order", rate_limit="partner")
    gd.set_rate_limit(conn, "partner", None)
    data = {"action": "trigger", "_selected_action": ["bad", "good"], "index": "0"}
    page = text(admin.post("/admin/gendurable/schedule/", data, follow=True))
    assert "Trigger: 1 done" in page
    assert "Trigger bad: no such rate limit" in page
    locked, free = gd.insert(conn, "order"), gd.insert(conn, "order")
    other.autocommit = False
    other.execute("select from gendurable.instance where id = %s for update", (locked,))
    assert "Pause: 1 done, 1 busy" in act(admin, "pause", locked, free)
    other.rollback()


def test_without_gendurable_pages_say_so(admin: Client, migrated: Database) -> None:
    from gendurable_py.install import remove

    remove(migrated.connect())
    assert "gd_list" in text(admin.get(LIST))
    assert "gd_get" in text(admin.get(f"{LIST}1/change/", follow=True))
