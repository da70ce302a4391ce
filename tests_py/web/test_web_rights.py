"""Who may do what: by the dashboard, by the user, and by the role of the database, which decides in the end."""

from __future__ import annotations

from typing import Any

import psycopg
from conftest import Database
from support.people import People
from support.web import browsing, failed, status, text_of

from gendurable_py.web import app
from gendurable_py.web.acts import ACTS

Conn = psycopg.Connection[Any]


def test_who_only_looks_sees_no_buttons_and_is_refused(db: Database, conn: Conn) -> None:
    id = failed(conn)
    with browsing(app(db.dsn)) as browser:
        for path in ("/", f"/instances/{id}", "/instances?fsm=order", "/queues", "/schedules", "/limits", "/workers"):
            assert "/act/" not in browser.get(path).text, path
        for kind, verb in ACTS:
            browser.get(f"/act/{kind}/{verb}?id={id}&name=x&fsm=order", 403)
            answer = browser.client.post(f"/act/{kind}/{verb}?id={id}&name=x&fsm=order", data={"proof": "x"})
            assert answer.status_code == 403
    assert status(conn, id) == "failed"


def test_the_role_of_the_database_decides(people: People) -> None:
    database = people.database()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"select gd_grant('{people.role('looks')}', 'reader')".encode())
        conn.execute(f"select gd_grant('{people.role('steers')}', 'operator')".encode())
        id = failed(conn)
        with browsing(app(people.dsn(database, "looks"), operate=True)) as browser:
            for path in ("/", f"/instances/{id}", "/instances?fsm=order", "/limits", "/doctor", "/audit", "/machines"):
                assert "/act/" not in browser.get(path).text, path
            browser.get(f"/act/instance/retry?id={id}", 403)
            form = {"proof": "x"}
            assert browser.client.post(f"/act/instance/retry?id={id}", data=form).status_code == 403
        assert status(conn, id) == "failed"
        with browsing(app(people.dsn(database, "steers"), operate=True)) as browser:
            for kind, verb in ACTS:
                # what is asked for may not be there; it is not refused for want of a right
                named = "" if kind == "many" else "&name=x"
                answer = browser.client.get(f"/act/{kind}/{verb}?id={id}&fsm=order{named}")
                assert answer.status_code == 200, (kind, verb)
            browser.send(f"/act/instance/retry?id={id}")
        assert status(conn, id) == "runnable"


def test_a_right_that_is_taken_away_is_refused_by_the_database(people: People) -> None:
    database = people.database()
    with psycopg.connect(database, autocommit=True) as conn:
        role = people.role("steers")
        conn.execute(f"select gd_grant('{role}', 'operator')".encode())
        id = failed(conn)
        with browsing(app(people.dsn(database, "steers"), operate=True)) as browser:
            form = browser.form(f"/act/instance/retry?id={id}")
            conn.execute(f"revoke execute on function gd_retry(bigint, text, jsonb) from {role}".encode())
            answer = browser.client.post(f"/act/instance/retry?id={id}", data=form)
            assert answer.status_code == 403
            assert "gd_retry" in text_of(answer)
            assert "/act/instance/retry" not in browser.get(f"/instances/{id}").text
        assert status(conn, id) == "failed"


def test_operating_may_depend_on_the_user(db: Database, conn: Conn) -> None:
    id = failed(conn)
    made = app(db.dsn, operate=lambda user: user == "ada", user_header="X-User")
    with browsing(made) as browser:
        path = f"/act/instance/retry?id={id}"
        browser.get(path, 403, headers={"X-User": "bob"})
        browser.get(path, 200, headers={"X-User": "ada"})
