"""A private server whose clock steps when it is told to, through libfaketime; clocks that only run on are left alone.

with stepping(installation, ...) as (server, clock):    Unavailable without libfaketime
    clock.step(-3600)                                   from now on the server's clock is an hour behind
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gendurable_py.embedded.cluster import Cluster, Installation
from gendurable_py.embedded.places import server_user, temporary_folder

PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime", "/usr/lib64/faketime")


class Unavailable(Exception):
    """There is no libfaketime here, and how to get it."""


def library() -> Path:
    for place in PLACES if sys.platform == "linux" else ():
        for found in sorted(Path("/").glob(f"{place[1:]}/libfaketime.so.1")):
            return found
    raise Unavailable("no libfaketime (Debian: apt-get install faketime)")


class Clock:
    """The clock of the processes that were started inside `used`, so many seconds beside the true one.

    `prompt`: a step is seen at once, since each look at the clock reads a file. That allocates memory, in the handlers
    of signals too, and a server with many timeouts aborts by it ("corrupted double-linked list", hundreds of times a
    minute). Otherwise each process sees a step within two seconds, and none aborts.
    """

    def __init__(self, *, prompt: bool = True) -> None:
        self._library = library()
        self._reads = {"FAKETIME_NO_CACHE": "1"} if prompt else {"FAKETIME_CACHE_DURATION": "1"}
        self._folder = temporary_folder(server_user(), "gd-clock-")
        self.beside = 0.0
        self.step(0)

    def step(self, seconds: float) -> None:
        self.beside += seconds
        written = self._folder / "next"
        written.write_text(f"{self.beside:+f}\n")
        written.chmod(0o644)
        # Read at each look at the clock: never half of it.
        written.replace(self._folder / "beside")

    @contextmanager
    def used(self) -> Iterator[None]:
        before = dict(os.environ)
        os.environ.update(
            LD_PRELOAD=str(self._library),
            FAKETIME_TIMESTAMP_FILE=str(self._folder / "beside"),
            FAKETIME_DONT_FAKE_MONOTONIC="1",
            FAKETIME_DONT_RESET="1",
            FAKETIME_DISABLE_SHM="1",
            NO_FAKE_STAT="1",
            **self._reads,
        )
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class SteppingCluster(Cluster):
    """Each of its server's processes lives by the clock that it was given."""

    def __init__(self, clock: Clock, installation: Installation, **more: Any) -> None:
        self._clock = clock
        super().__init__(installation, **more)

    def _launch(self) -> None:
        with self._clock.used():
            super()._launch()


@contextmanager
def stepping(
    installation: Installation, *, extension_files: list[Path], settings: Mapping[str, str]
) -> Iterator[tuple[SteppingCluster, Clock]]:
    clock = Clock()
    try:
        with SteppingCluster(clock, installation, extension_files=extension_files, settings=settings) as server:
            yield server, clock
    finally:
        clock.close()
