"""A PostgreSQL in a container, through testcontainers; it goes with the process that started it."""

from __future__ import annotations

import atexit
import importlib.util
import io
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

ANSWER_SECONDS = 5
PULL_SECONDS = 60
READY_SECONDS = 60

# Started beside us and told by the end of its input, so that it also cleans up after a run that was killed.
REAPER = """
import sys, docker
sys.stdin.read()
try:
    docker.from_env().api.remove_container(sys.argv[1], v=True, force=True)
except docker.errors.APIError:
    pass  # it was stopped in order
"""


class Unavailable(Exception):
    """This kind of server cannot be had here, and why."""


@dataclass
class Container:
    """A running server in a container: the `dsn` of its superuser."""

    dsn: str
    image: str
    stop: Callable[[], None]
    # docker's own object, to look inside
    wrapped: Any

    def run(self, *command: str) -> str:
        """What a command in the container says; Unavailable when it fails."""
        code, output = self.wrapped.exec_run(list(command))
        said = output.decode().strip()
        if code != 0:
            raise Unavailable(f"{' '.join(command)} in {self.image}: {first_line(said)}")
        return str(said)


def engine() -> Any:
    """The client of the Docker engine that answers here."""
    if shutil.which("docker") is None and "DOCKER_HOST" not in os.environ:
        raise Unavailable("no docker")
    # testcontainers' own reaper is another image to pull; ours is a process.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    try:
        from testcontainers.core.docker_client import DockerClient
    except ImportError as error:
        raise Unavailable(f"no testcontainers: {error}") from None
    try:
        client = DockerClient(timeout=ANSWER_SECONDS).client
        client.ping()
    except Exception as error:  # noqa: BLE001 - of docker, requests, ssh...
        raise Unavailable(f"no Docker engine answers: {first_line(_root(error))}") from None
    return client


def has_image(client: Any, image: str) -> bool:
    from docker.errors import ImageNotFound  # type: ignore[import-untyped]

    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def engine_with(*images: str) -> Any:
    """The client of an engine that has these images; without one the test is skipped, and says how to get it."""
    try:
        client = engine()
    except Unavailable as error:
        pytest.skip(f"{error}; apt-get install docker.io, and start dockerd")
    if shutil.which("docker") is None:
        pytest.skip("no docker program; apt-get install docker.io")
    for needed in images:
        if not has_image(client, needed):
            pytest.skip(f"the image {needed} is not here: docker pull {needed}, or docker/scratch-image.sh {needed}")
    return client


def pull(client: Any, image: str) -> None:
    """Fetch an image that is not here yet."""
    failed: list[Exception] = []

    def fetch() -> None:
        try:
            # The first client has little patience for silence, and a pull may have nothing to say for long.
            client.api.timeout = PULL_SECONDS
            client.images.pull(image)
        except Exception as error:  # noqa: BLE001 - the reason why there is no such server
            failed.append(error)

    # A pull cannot be called off; a thread that nobody waits for ends with us.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(PULL_SECONDS)
    if thread.is_alive():
        raise Unavailable(f"the image {image} is not here, and not pulled within {PULL_SECONDS} s: docker pull {image}")
    if failed:
        raise Unavailable(f"the image {image} is not here and cannot be pulled: {first_line(failed[0])}")


def start(
    image: str, *, settings: Mapping[str, str] | None = None, files: Iterable[Path] = (), database: str = "postgres"
) -> Container:
    """Start the image, with these files in its extension folder; Unavailable where that cannot be done."""
    client = engine()
    if not has_image(client, image):
        pull(client, image)
    if importlib.util.find_spec("testcontainers.community"):  # where it moved to
        from testcontainers.community.postgres import PostgresContainer
    else:
        from testcontainers.postgres import PostgresContainer
    from testcontainers.core.config import testcontainers_config

    testcontainers_config.max_tries, testcontainers_config.sleep_time = READY_SECONDS * 5, 0.2
    made = PostgresContainer(image, username="postgres", password="postgres", dbname=database)
    options = itertools.chain(*(("-c", f"{name}={value}") for name, value in (settings or {}).items()))
    made.with_command(["postgres", *options]).with_env("POSTGRES_INITDB_ARGS", "--no-sync")
    try:
        made.start()
        wrapped = made.get_wrapped_container()
        container = Container(make_conninfo(made.get_connection_url(driver=None)), image, made.stop, wrapped)
        folder = container.run("pg_config", "--sharedir") + "/extension"
        wrapped.put_archive(folder, _archive(files))
    except BaseException as error:
        with suppress(Exception):
            made.stop()
        if isinstance(error, Unavailable) or not isinstance(error, Exception):
            raise
        raise Unavailable(f"{image}: {first_line(error)}") from error
    return replace(container, stop=_surely(made.stop, wrapped.id))


def _surely(stop: Callable[[], None], identity: str) -> Callable[[], None]:
    """Stop it now, at our exit, or when we are no more."""
    reaper = subprocess.Popen(
        [sys.executable, "-c", REAPER, identity],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def close() -> None:
        atexit.unregister(close)
        try:
            stop()
        finally:
            reaper.communicate()

    atexit.register(close)
    return close


def _archive(files: Iterable[Path]) -> bytes:
    """The files as a tar that the server's user can read, whoever owns them here."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file in files:
            content = file.read_bytes()
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def _root(error: BaseException) -> BaseException:
    """What went wrong first: the libraries in between only say that something did."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def first_line(said: object) -> str:
    # docker's exceptions quote the whole request before they come to what the engine said.
    text = getattr(said, "explanation", None) or said
    lines = str(text).strip().splitlines() or [type(said).__name__]
    return lines[0][:200]
