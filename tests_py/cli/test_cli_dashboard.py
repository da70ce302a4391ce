"""`gendurable dashboard`: where it listens, who may look, how it ends."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from conftest import Database
from support.cli import PROGRAM, ROOT, call, environment
from support.web import Browser

TOKEN = "a long token, and secret"


def started(db: Database, *arguments: str, **more: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [*PROGRAM, "dashboard", "--port", "0", *arguments],
        env=environment(db.dsn, COLUMNS="200", **more),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    found = re.search(r"http://\S+", said)
    assert found, said
    return process, found[0]


def ended(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    return said


def test_it_serves_until_it_is_told_to_end(db: Database) -> None:
    process, address = started(db)
    with Browser(address) as browser:
        assert "looks only" in browser.get("/").text
        browser.get("/", 421, headers={"Host": "rebound.example.com"})
        # a stream that is open does not keep it from ending
        next(browser.events("/queues"))
        assert ended(process) == ""
    assert process.returncode in (0, -signal.SIGTERM)


def test_it_answers_under_the_address_that_it_tells(db: Database) -> None:
    process, address = started(db, "--host", "127.0.0.2")
    with Browser(address) as browser:
        browser.get("/")
        browser.get("/", 421, headers={"Host": "rebound.example.com"})
    ended(process)


def test_a_token_comes_by_a_file_and_is_not_told(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    process, address = started(db, "--token-file", str(file), "--operate", "--prefix", "/jobs")
    assert address.endswith("/jobs/")
    with httpx.Client() as client:
        assert client.get(address).status_code == 401
        page = client.get(address, headers={"Authorization": f"Bearer {TOKEN}"})
        assert page.status_code == 200
        assert 'href="/jobs/queues"' in page.text
        assert "looks only" not in page.text
        # a proxy may leave the prefix away
        bare = client.get(address.removesuffix("/jobs/") + "/queues", headers={"Authorization": f"Bearer {TOKEN}"})
        assert bare.status_code == 200
    said = ended(process)
    assert TOKEN not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "can be reached from elsewhere"),
        (("--host", "::"), "can be reached from elsewhere"),
        (("--token-file", "/nowhere/token"), "No such file"),
        (("--prefix", "jobs"), "begins with a slash"),
        (("--refresh", "soon"), "no duration"),
        (("--filter", "status"), "say NAME=QUERY"),
        (("--filter", "Mine=fms=order"), "there is no 'fms' in a filter"),
    ],
)
def test_what_is_not_valid_is_refused(db: Database, arguments: tuple[str, ...], said: str) -> None:
    answer = call(db.dsn, "dashboard", *arguments, code=2)
    assert said in " ".join(answer.err.replace("│", " ").split())


def test_a_port_that_is_taken_is_told(db: Database) -> None:
    process, address = started(db)
    port = address.rpartition(":")[2].strip("/")
    answer = call(db.dsn, "dashboard", "--port", port, code=3)
    assert "cannot listen" in answer.err
    ended(process)


def test_the_commands_of_the_page_serve(db: Database) -> None:
    page = (ROOT / "docs" / "dashboard.md").read_text("utf-8")
    [block] = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = block.splitlines()
    assert len(lines) == 5
    for line in lines:
        setting, _, command = line.rpartition("gendurable dashboard")
        more = {"GENDURABLE_DASHBOARD_TOKEN": TOKEN} if "GENDURABLE_DASHBOARD_TOKEN=" in setting else {}
        process, address = started(db, *shlex.split(command), **more)
        with httpx.Client() as client:
            named = {"X-Forwarded-User": "ada", "Authorization": f"Bearer {TOKEN}"}
            assert client.get(address.replace("0.0.0.0", "127.0.0.1"), headers=named).status_code == 200
        ended(process)
