"""Releases of the past: their plain scripts stand in tests_py/releases, their extension scripts are made of them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import ROOT, Server, of_installation

from gendurable_py import embedded

ASSEMBLE = runpy.run_path(str(ROOT / "tools" / "assemble.py"))
SCRIPTS = {
    path.stem.removeprefix("gendurable-"): path for path in sorted((ROOT / "tests_py" / "releases").glob("*.sql"))
}
# What the script of a release inserted itself, and its dumps leave out.
FILTERS = {release: {"meta": "where false"} for release in SCRIPTS}


def plain_script(release: str) -> str:
    return SCRIPTS[release].read_text(encoding="utf-8")


def extension_file(folder: Path, release: str) -> Path:
    """The extension script as tools/assemble.py makes it around the same bytes."""
    header, body = plain_script(release).split("\n", 1)
    guard = ASSEMBLE["GUARD"].format(command="CREATE EXTENSION gendurable")
    marks = ASSEMBLE["DUMP_MARKS"].replace("{filters}", json.dumps(FILTERS[release]))
    path = folder / f"gendurable--{release}.sql"
    path.write_text(f"{header}\n{guard}{body}{marks}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the extension's files of this release and of all before it."""
    try:
        installation = embedded.installation()
    except ImportError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("released")
    server = of_installation(
        installation, "with released versions", extension_files=[extension_file(folder, release) for release in SCRIPTS]
    )
    yield server
    server.close()
