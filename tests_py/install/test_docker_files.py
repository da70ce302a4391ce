"""The files of docker/ without an engine: what they copy is sent, nobody is root, signals reach the worker."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import typer.main
import yaml
from conftest import Database
from support.server import ROOT

import gendurable_py as gd
from gendurable_py.cli import app

DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments, the lines that it goes on over as one."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(words[0], words[1].strip()) for line in text.splitlines() if (words := line.split(maxsplit=1))]


def last_stage(path: Path) -> dict[str, str]:
    """The last of each instruction in the stage that becomes the image."""
    found: dict[str, str] = {}
    for name, arguments in instructions(path):
        if name == "FROM":
            found = {}
        found[name] = arguments
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_is_sent_to_the_engine(path: Path) -> None:
    docker = pytest.importorskip("docker.utils.build", reason="needs docker's own library: testcontainers brings it")
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    sent = docker.exclude_paths(str(ROOT), ignored)
    copied = [arguments.split()[:-1] for name, arguments in instructions(path) if name in ("COPY", "ADD")]
    sources = [source for words in copied if not words[0].startswith("--from") for source in words]
    assert sources
    for source in sources:
        assert source == "." or source in sent or any(name.startswith(f"{source}/") for name in sent), source
    # The scripts are built inside, the folder of git and what tools leave stay outside.
    assert not [name for name in sent if name.startswith((".git/", ".venv/", "dist/", "tests_py/"))]
    assert "sql/gendurable.sql" not in sent
    assert "gendurable_py/py.typed" in sent


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_base_can_be_named_by_who_builds(path: Path) -> None:
    stages = [words.split(" AS ") for name, words in instructions(path) if name == "FROM"]
    known = {f"${{{words.split('=')[0]}}}" for name, words in instructions(path) if name == "ARG"}
    assert {stage[0] for stage in stages} <= known | {stage[1] for stage in stages if len(stage) > 1}


def test_the_worker_is_process_1_and_not_root() -> None:
    stage = last_stage(DOCKER / "worker.Dockerfile")
    user, group = stage["USER"].split(":")
    assert int(user) > 0 and int(group) > 0
    # As lists: a shell in between would be process 1, and keep the signals for itself.
    assert json.loads(stage["ENTRYPOINT"]) == ["gendurable"]
    assert json.loads(stage["CMD"])[0] == "worker"
    check = re.fullmatch(r".*\bCMD (\[.*\])", stage["HEALTHCHECK"])
    assert check is not None and Path(json.loads(check[1])[-1]).name == "health.py"
    assert stage["STOPSIGNAL"] == "SIGTERM"


def test_the_image_sets_what_the_worker_reads() -> None:
    stage = (DOCKER / "worker.Dockerfile").read_text()
    set_to = dict(re.findall(r"\b(GENDURABLE_METRICS_\w+)=(\S+)", stage))
    worker = typer.main.get_command(app.make()).commands["worker"]  # type: ignore[attr-defined]
    read = {parameter.envvar: parameter for parameter in worker.params if parameter.envvar}
    assert set(set_to) == {"GENDURABLE_METRICS_PORT", "GENDURABLE_METRICS_HOST"} <= set(read)
    assert f"EXPOSE {int(set_to['GENDURABLE_METRICS_PORT'])}\n" in stage
    assert "[cli,prometheus]" in stage


def test_compose_names_files_that_are_there_and_asks_for_little() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert (DOCKER / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    worker = services["worker"]
    assert worker["read_only"] is True and worker["cap_drop"] == ["ALL"]
    # The steps may take as long as the drain gives them, and what they did is committed.
    assert int(worker["stop_grace_period"].removesuffix("s")) > 5
    assert "command" not in worker or isinstance(worker["command"], list)


# health.py


def health(dsn: str = "", port: str = "", host: str = "0.0.0.0") -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"GENDURABLE_DSN": dsn, "GENDURABLE_METRICS_PORT": port, "GENDURABLE_METRICS_HOST": host}
    environment |= {"http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, str(DOCKER / "health.py")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def test_health_by_the_database(db: Database) -> None:
    code, said = health(db.dsn)
    assert code == 1 and "says hello" in said
    with db.connect() as conn:
        gd.hello(conn, "elsewhere", {"host": f"not {socket.gethostname()}"})
        assert health(db.dsn)[0] == 1
        gd.hello(conn, "here", {"host": socket.gethostname()})
        assert health(db.dsn) == (0, "ok")
        gd.bye(conn, "here")
        assert health(db.dsn)[0] == 1


def test_health_of_a_worker_that_may_not_look(db: Database) -> None:
    name = f"gd_health_{os.getpid()}"
    with db.connect() as conn:
        conn.execute(f"create role {name} login password 'secret'".encode())
        try:
            conn.execute(f"select gd_grant('{name}', 'worker')".encode())
            dsn = psycopg.conninfo.make_conninfo(db.dsn, user=name, password="secret")
            assert health(dsn) == (0, "ok")
        finally:
            conn.execute(f"drop owned by {name}; drop role {name}".encode())


def test_health_without_a_database() -> None:
    code, said = health(f"host=127.0.0.1 port={unused_port()}")
    assert code == 1 and said != "ok"


@contextmanager
def answering(status: int, host: str = "127.0.0.1") -> Iterator[str]:
    """A port of which everything answers with this status; only /health is asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            thread.join()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_health_by_the_port() -> None:
    with answering(200) as port:
        assert health(port=port) == (0, "ok")
    with answering(503) as port:
        code, said = health(port=port)
        assert code == 1 and "503" in said
    assert health(port=str(unused_port()))[0] == 1


def test_health_at_the_address_at_which_the_worker_listens() -> None:
    with answering(200, "127.0.0.2") as port:
        assert health(port=port, host="127.0.0.2") == (0, "ok")
        assert health(port=port)[0] == 1
