"""docker/Dockerfile: the image has the extension's files and nothing else of ours, its database has the extension."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support import container as _container
from support.server import ROOT
from support.wait import wait_until

from gendurable_py.install import extension_files, version

BASE = os.environ.get("GENDURABLE_TEST_IMAGE", "postgres:18")
PYTHON = "python:3-slim"
BUILD_SECONDS = 100
START = """
import sys; from support import container as _container
print(_container.start(sys.argv[1]).wrapped.id, flush=True)
input()
"""


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image that docker/Dockerfile makes of what is here; nothing is pulled for it."""
    client = _container.engine_with(BASE, PYTHON)
    name = f"gendurable-test:{os.getpid()}"
    arguments = [f"--build-arg={key}={value}" for key, value in (("BASE", BASE), ("PYTHON", PYTHON))]
    build = subprocess.run(
        ["docker", "build", "-f", "docker/Dockerfile", "-t", name, *arguments, "."],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    assert build.returncode == 0, build.stdout
    yield name
    client.images.remove(name, force=True)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[_container.Container]:
    started = _container.start(image, settings={"fsync": "off"}, database="app")
    yield started
    started.stop()


def test_its_database_works(container: _container.Container) -> None:
    with psycopg.connect(container.dsn, autocommit=True) as conn:
        assert conn.info.dbname == "app"
        extension = conn.execute("select extversion from pg_extension where extname = 'gendurable'").fetchone()
        assert extension == (version(),)

        inserted = conn.execute("""select gd_insert('greeting', '{"name": "Ada"}')""").fetchone()
        claimed = conn.execute("select id, claim_no, step from gd_claim('psql')").fetchone()
        assert inserted is not None
        assert claimed is not None
        assert (claimed[0], claimed[2]) == (inserted[0], "start")

        outcome = """jsonb_build_array(jsonb_build_object('id', %s, 'claim_no', %s, 'kind', 'done', 'result', 7))"""
        committed = conn.execute(f"select result from gd_commit('psql', {outcome})".encode(), claimed[:2]).fetchone()
        assert committed == ("ok",)
        assert conn.execute("select status, result from gd_result(%s)", claimed[:1]).fetchone() == ("done", 7)


def test_no_other_database_has_it(container: _container.Container) -> None:
    with psycopg.connect(container.dsn, dbname="postgres") as conn:
        assert conn.execute("select from pg_extension where extname = 'gendurable'").fetchone() is None
        # ... and may have it.
        conn.execute("create extension gendurable")


def test_it_has_the_files_of_this_checkout_and_no_others(container: _container.Container) -> None:
    folder = container.run("pg_config", "--sharedir") + "/extension"
    wanted = {file.name: file.read_text().strip() for file in extension_files()}
    there = [Path(path) for path in container.run("find", "/", "-xdev", "-name", "*gendurable*").splitlines()]

    assert {path.name for path in there if str(path.parent) == folder} == set(wanted)
    assert {str(path) for path in there if str(path.parent) != folder} == {
        "/docker-entrypoint-initdb.d/10-gendurable.sql"
    }
    for name, content in wanted.items():
        assert container.run("cat", f"{folder}/{name}") == content


def test_the_servers_user_can_read_the_files(container: _container.Container) -> None:
    folder = container.run("pg_config", "--sharedir") + "/extension"
    modes = container.run("stat", "-c", "%a %n", *(f"{folder}/{file.name}" for file in extension_files()))

    assert {line.split()[0] for line in modes.splitlines()} <= {"644", "444"}


def test_a_killed_run_leaves_no_container(image: str) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", START, image],
        cwd=ROOT / "tests_py",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        assert starter.stdout is not None
        identity = starter.stdout.readline().strip()
        assert identity in ids()

        starter.kill()

    wait_until(lambda: identity not in ids(), 30)


def ids() -> set[str]:
    return {container.id for container in _container.engine().containers.list(all=True, ignore_removed=True)}
