"""docs/deployment.md and examples/deploy: the files are valid, their numbers agree, the commands do what is said."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from configparser import RawConfigParser
from functools import partial
from pathlib import Path

import kubernetes_validate
import psycopg
import pytest
import typer.main
import yaml
from conftest import Database
from support.cli import environment
from support.deploying import PAGE, Commands, page_blocks
from support.people import People
from support.server import ROOT
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.cli import app, supervise

FILES = ROOT / "examples" / "deploy"
UNIT = FILES / "gendurable-worker.service"
MANIFESTS = {each["kind"]: each for each in yaml.safe_load_all((FILES / "kubernetes.yaml").read_text("utf-8"))}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
UNITS = {"s": 1, "m": 60}
# What the parent leaves its children besides the drain, and what is left for the last commits.
AFTER_THE_DRAIN = supervise._GRACE + 5
SHOP = """
from gendurable_py import job

@job(name="mail", queue="mails")
def mail(args: dict) -> str:
    return "sent"

@job(name="order", queue="orders")
def order(args: dict) -> str:
    return "shipped"
"""


def unit() -> RawConfigParser:
    parser = RawConfigParser(strict=True, inline_comment_prefixes=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text("utf-8"))
    return parser


def options_of(command: list[str]) -> dict[str, str]:
    """The long options of a command, each with the word behind it."""
    return {word: command[n + 1] for n, word in enumerate(command) if word.startswith("--")}


def drain(options: dict[str, str]) -> float:
    found = re.fullmatch(r"(\d+)([sm])", options["--drain-timeout"])
    assert found is not None
    return float(found[1]) * UNITS[found[2]]


COMMANDS = {
    "unit": shlex.split(unit()["Service"]["ExecStart"])[1:],
    "pod": [*CONTAINER["command"], *CONTAINER["args"]][1:],
}


def known_options(command: str) -> set[str]:
    found = typer.main.get_command(app.make()).commands[command]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_commands_have_options_that_there_are(command: list[str]) -> None:
    assert set(options_of(command)) <= known_options(command[0])


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze (Debian: apt-get install systemd)")
    # It looks whether the program is there: one that anybody may run.
    text = UNIT.read_text("utf-8")
    [there] = {line.split()[0].removeprefix("ExecStart=") for line in text.splitlines() if line.startswith("ExecStart")}
    path = tmp_path / UNIT.name
    path.write_text(text.replace(there, "/bin/true"))
    done = subprocess.run([program, "verify", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    path.write_text(text.replace(there, "/bin/true").replace("Restart=always", "Restart=often"))
    done = subprocess.run([program, "verify", str(path)], capture_output=True, text=True, check=False)
    assert "restart" in done.stderr


def test_the_numbers_of_the_unit_agree() -> None:
    service = unit()["Service"]
    options = options_of(COMMANDS["unit"])
    assert float(service["TimeoutStopSec"]) >= drain(options) + AFTER_THE_DRAIN
    assert service["KillMode"] in ("mixed", "control-group")
    assert service["Restart"] == "always"
    assert unit()["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kubernetes_takes_the_manifests(kind: str) -> None:
    for version in ("1.30", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)
    wrong = {**MANIFESTS[kind], "spoc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_numbers_of_the_pod_agree() -> None:
    options = options_of(COMMANDS["pod"])
    assert POD["terminationGracePeriodSeconds"] >= drain(options) + AFTER_THE_DRAIN
    [port] = CONTAINER["ports"]
    assert int(options["--metrics-port"]) == port["containerPort"]
    assert options["--metrics-host"] == "0.0.0.0"  # probes come from outside
    paths = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/ready", "livenessProbe": "/health", "readinessProbe": "/ready"}
    assert {CONTAINER[name]["httpGet"]["port"] for name in paths} == {port["name"]}
    meta = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]
    assert meta["annotations"]["prometheus.io/port"] == options["--metrics-port"]
    labels = meta["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert MANIFESTS[kind]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_what_the_pod_mounts_is_there() -> None:
    mounted = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in POD["volumes"]}
    set_to = {each["name"]: each["value"] for each in CONTAINER["env"]}
    secret = MANIFESTS["Secret"]
    [password] = [volume for volume in POD["volumes"] if volume.get("secret")]
    assert password["secret"]["secretName"] == secret["metadata"]["name"]
    folder, _, file = set_to["PGSERVICEFILE"].rpartition("/")
    assert folder == mounted[password["name"]]
    service = RawConfigParser()
    service.read_string(secret["stringData"][file])
    assert set_to["GENDURABLE_DSN"] == f"service={service.sections()[0]}"


def test_the_page_says_what_the_files_say() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    for text in (
        f"terminationGracePeriodSeconds: {POD['terminationGracePeriodSeconds']}",
        f"TimeoutStopSec={unit()['Service']['TimeoutStopSec']}",
        f"--metrics-port {options_of(COMMANDS['pod'])['--metrics-port']}",
        f"--drain-timeout {options_of(COMMANDS['unit'])['--drain-timeout']}",
        f"{supervise._GRACE:.0f} seconds",
    ):
        assert text in page, text


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        print(error.read())
        return False


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_commands_serve_and_drain(db: Database, tmp_path: Path, command: list[str]) -> None:
    """As they stand, but for the port, which is any one that is free."""
    (tmp_path / "shop.py").write_text(SHOP)
    conn = db.connect()
    arguments = list(command)
    port = None
    if "--metrics-port" in arguments:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments[arguments.index("--metrics-port") + 1] = str(port)
    process = subprocess.Popen(
        [sys.executable, "-m", "gendurable_py.cli", *arguments], cwd=tmp_path, env=environment(db.dsn)
    )
    try:
        ids = [gd.insert(conn, "mail", queue="mails"), gd.insert(conn, "order", queue="orders")]
        query = "select count(*) from gd_instances where id = any(%s) and status = 'done'"
        wait_until(lambda: conn.execute(query, [ids]).fetchone() == (2,), 60)
        if port is not None:
            for probe in ("livenessProbe", "readinessProbe"):
                wait_until(partial(answers, f"http://127.0.0.1:{port}{CONTAINER[probe]['httpGet']['path']}"), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_an_ordinary_role_installs_where_nobody_may_put_files(people: People, tmp_path: Path) -> None:
    dsn = people.database(empty=True)
    owner, web, work = people.role("owner"), people.role("web"), people.role("work")
    [sql] = page_blocks("A managed server", "sql")
    with psycopg.connect(dsn, autocommit=True) as conn:
        text = re.sub(r"(?m)^create role .*\n", "", sql).replace("app_role", owner)
        conn.execute(text.replace(':"DBNAME"', conn.info.dbname).encode())
    commands = Commands(people.dsn(dsn, "owner"), tmp_path, WORKER=work, WEB=web)
    [block] = page_blocks("A managed server", "sh")
    commands.run(block)
    with psycopg.connect(people.dsn(dsn, "web"), options="-c search_path=jobs", autocommit=True) as conn:
        id = gd.insert(conn, "mail", queue="mails")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select * from gd_claim('w')")
    (tmp_path / "shop.py").write_text(SHOP)
    worker = Commands(people.dsn(dsn, "work"), tmp_path, PGOPTIONS="-c search_path=jobs")
    with worker.serves("shop"), psycopg.connect(dsn, options="-c search_path=jobs", autocommit=True) as conn:
        wait_until(lambda: gd.result(conn, id).status == "done", 60)  # type: ignore[union-attr,arg-type]


def test_the_page_has_no_other_commands() -> None:
    assert {heading for heading in PAGE if page_blocks(heading, "sh")} == {
        "A managed server",
        "An upgrade without a gap",
    }
