"""docker/worker.Dockerfile: the worker serves as nobody on a read-only file system, says how it is, and drains."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest
from support import container as _container
from support.server import ROOT
from support.wait import wait_until

SERVER = os.environ.get("GENDURABLE_TEST_IMAGE", "postgres:18")
PYTHON = "python:3-slim"
BUILD_SECONDS = 300
NAME = f"gd-worker-test-{os.getpid()}"
HARD = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")

pytestmark = pytest.mark.timeout(400)


def docker(*words: str, code: int | None = 0) -> str:
    """What a docker command says; it ends with this code (None: with any)."""
    done = subprocess.run(
        ["docker", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    assert code is None or done.returncode == code, done.stdout
    return done.stdout.strip()


def remove(*names: str) -> None:
    docker("rm", "-fv", *names, code=None)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image of what is here; nothing is pulled for it, but its packages come from the index of pip."""
    _container.engine_with(SERVER, PYTHON)
    docker("build", "-f", "docker/worker.Dockerfile", "-t", NAME, f"--build-arg=PYTHON={PYTHON}", ".")
    yield NAME
    docker("rmi", "-f", NAME)


@pytest.fixture(scope="module")
def network(image: str) -> Iterator[list[str]]:
    """A network with a server that has gendurable: the arguments that bring a container to it."""
    docker("network", "create", NAME)
    at = [f"--network={NAME}", "-e", "PGHOST=db", "-e", "PGUSER=postgres", "-e", "PGPASSWORD=secret"]
    try:
        docker(
            "run", "-d", "--name", f"{NAME}-db", f"--network={NAME}", "--network-alias=db",
            "-e", "POSTGRES_PASSWORD=secret", SERVER, "postgres", "-c", "fsync=off",
        )  # fmt: skip
        ready = ("exec", f"{NAME}-db", "pg_isready", "-q", "-h", "127.0.0.1", "-U", "postgres")
        wait_until(lambda: subprocess.run(["docker", *ready], check=False).returncode == 0, 60)
        docker("run", "--rm", *HARD, *at, image, "install")
        yield at
    finally:
        remove(f"{NAME}-db")
        docker("network", "rm", NAME, code=None)


@pytest.fixture
def worker(image: str, network: list[str]) -> Iterator[str]:
    """A container that serves, as compose.yaml starts it."""
    name = f"{NAME}-worker"
    docker("run", "-d", "--name", name, "--health-interval=1s", *HARD, *network, image)
    yield name
    remove(name)


def state(name: str) -> str:
    return docker("inspect", "-f", "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}", name)


def cli(image: str, network: list[str], *words: str, code: int = 0) -> str:
    return docker("run", "--rm", *HARD, *network, image, *words, code=code)


def test_it_serves_and_is_healthy_and_drains_when_it_is_told_to_stop(
    image: str, network: list[str], worker: str
) -> None:
    wait_until(lambda: state(worker) != "running starting", 60)
    assert state(worker) == "running healthy", docker("logs", worker)

    order = cli(image, network, "insert", "examples.checkout:Checkout", '{"order": 1}', "--queue", "checkout")
    id = order.split()[-1]
    cli(image, network, "signal", id, "payment", '{"amount": 7}')
    shown = json.loads(cli(image, network, "wait", id, "--timeout", "60s", "--json"))
    assert shown["status"] == "done", shown

    docker("stop", "-t", "60", worker)
    # 137 is what it would be if the signal had not reached it.
    assert docker("inspect", "-f", "{{.State.ExitCode}}", worker) == "0"
    assert json.loads(cli(image, network, "workers", "--json")) == []


def test_it_is_unhealthy_where_no_worker_serves(image: str, network: list[str]) -> None:
    name = f"{NAME}-idle"
    docker("run", "-d", "--name", name, *network, "--entrypoint", "sleep", image, "600")
    try:
        said = docker("exec", name, "python", "/app/health.py", code=1)
        assert "no worker" in said
    finally:
        remove(name)


def test_nobody_owns_or_may_write_anything(image: str) -> None:
    find = ("find", "/", "-xdev", "(", "-path", "/proc", "-o", "-path", "/sys", "-o", "-path", "/dev", ")", "-prune")
    kinds = ("-o", "(", "-type", "f", "-o", "-type", "d", ")", "-writable", "-print")
    said = docker("run", "--rm", "--entrypoint", find[0], image, *find[1:], *kinds, code=None)
    written = {line for line in said.splitlines() if line.startswith("/")}
    assert not {path for path in written if not path.startswith(("/tmp", "/var/tmp", "/run/lock"))}
    assert docker("run", "--rm", "--entrypoint", "id", image, "-u") == "65534"


def test_nothing_is_in_it_that_only_built_it(image: str) -> None:
    assert set(docker("run", "--rm", "--entrypoint", "ls", image, "/app").split()) == {
        "__pycache__",
        "examples",
        "health.py",
    }
    packages = docker("run", "--rm", "--entrypoint", "ls", image, "/venv/bin").split()
    assert "gendurable" in packages
    assert not {"pip", "hatchling", "pytest"} & set(packages)
