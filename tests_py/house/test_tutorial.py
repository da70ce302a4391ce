"""The quick start and the tutorial, as somebody follows them: each command as it stands, and what it shows compared."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from conftest import Database
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.cli import environment
from support.pages import PLAYED, ROOT, Player, blocks
from support.proxy import Proxy
from support.server import FAST, installations
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import embedded
from gendurable_py.embedded.cluster import Cluster

QUICK_START, *TUTORIAL = PLAYED


def settled(dsn: str) -> None:
    """What can run has run: the page goes on with what came of it."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        soon = {
            "status": ["runnable", "executing"],
            "due_before": (datetime.now(UTC) + timedelta(minutes=1)).isoformat(),
        }
        wait_until(lambda: gd.count(conn, soon).instances == 0, 60)


def test_there_are_ten_pages_in_order() -> None:
    assert [page.name[:2] for page in TUTORIAL] == [f"{n:02}" for n in range(1, 11)]
    listed = (ROOT / "docs" / "tutorial" / "index.md").read_text("utf-8")
    places = [listed.index(f"]({page.name})") for page in TUTORIAL]
    assert places == sorted(places)
    for page, following in itertools.pairwise(TUTORIAL):
        assert f"]({following.name})." in page.read_text("utf-8").splitlines()[-1]


@pytest.mark.timeout(1500)
def test_the_tutorial_as_it_stands(empty_db: Database, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Of pytest the page has what somebody sees who has it alone: none of the plugins that are here.
    quiet = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    env = environment(empty_db.dsn, PATH=path, PYTHONDONTWRITEBYTECODE="1", **quiet)
    player = Player(tmp_path, env, lambda: settled(empty_db.dsn))
    for page in TUTORIAL:
        assert blocks(page, language="sh"), page.name
        player.play(page)


# -- the quick start, on a server of its own that listens, as an existing one does


@pytest.fixture
def existing() -> Iterator[tuple[Cluster, int]]:
    """PostgreSQL 15 of Debian where it is installed, else what there is; without files of gendurable. And its port."""
    found = {one.major: one for one in installations() if (one.bindir / "postgres").exists()}
    cluster = Cluster(found.get(15) or embedded.installation(), settings=FAST)
    try:
        # Whoever is not its superuser gives a password, as with every server that others reach.
        rules = cluster.data_dir / "pg_hba.conf"
        rules.write_text("local all workshop scram-sha-256\n" + rules.read_text())
        with psycopg.connect(cluster.dsn) as conn, Proxy(cluster.dsn) as proxy:
            conn.execute("select pg_reload_conf()")
            yield cluster, int(str(conninfo_to_dict(proxy.dsn)["port"]))
    finally:
        cluster.stop()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder in which pip finds this package as it is here: the page takes it from where it is published."""
    folder = tmp_path / "wheels"
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "*_cache", "tests_*"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(command, check=True, timeout=100)
    return folder


@pytest.mark.timeout(1500)
def test_the_quick_start_as_it_stands(existing: tuple[Cluster, int], wheels: Path, tmp_path: Path) -> None:
    cluster, port = existing
    here, programs = tmp_path / "ada", tmp_path / "bin"
    here.mkdir()
    programs.mkdir()
    # The one of the system may be older than the page asks for.
    (programs / "python3").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    env = {
        # What somebody has who sits at the server: a psql that finds it, a Python, and an index of packages.
        **{name: value for name, value in os.environ.items() if not name.startswith(("PG", "GENDURABLE", "PYTHON"))},
        "PATH": os.pathsep.join([str(programs), str(cluster.bindir), os.environ["PATH"]]),
        "PGPORT": str(port),
        "PIP_FIND_LINKS": wheels.as_uri(),  # its words are divided at spaces
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "GENDURABLE_ACTOR": "ada",
    }
    player = Player(here, env, lambda: settled(dsn()), before="", admin=cluster.dsn)

    def dsn() -> str:
        return make_conninfo(player.env["GENDURABLE_DSN"], port=port)

    player.play(QUICK_START)
    [installed] = here.glob(".venv/lib/*/site-packages/gendurable_py/engine.py")
    assert installed.read_bytes() == (ROOT / "gendurable_py" / "engine.py").read_bytes()
    with psycopg.connect(cluster.dsn) as conn:
        rights = conn.execute(
            "select rolsuper, rolcreaterole, rolcreatedb from pg_roles where rolname = 'workshop'"
        ).fetchone()
    assert rights == (False, False, False)
    with psycopg.connect(dsn()) as conn:
        assert conn.execute("select 1 from pg_extension where extname = 'gendurable'").fetchone() is None
        assert conn.execute("select tableowner from pg_tables where tablename = 'instance'").fetchone() == ("workshop",)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(make_conninfo(dsn(), password="wrong"))
