"""What is handed out: the archive for PGXN, and wheels and source distributions, which are the same bytes each time."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.server import ROOT

from gendurable_py.install import version

# https://pgxn.org/spec: what has to be there.
REQUIRED = {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"}


def test_pgxn_is_told_of_what_is_there() -> None:
    meta = json.loads((ROOT / "META.json").read_text(encoding="utf-8"))
    assert not REQUIRED - set(meta)
    provided = meta["provides"][meta["name"]]
    assert meta["version"] == provided["version"] == version()
    assert re.fullmatch(r"\d+\.\d+\.\d+", meta["version"])
    for key in ("file", "docfile"):
        assert (ROOT / provided[key]).is_file(), provided[key]


def copy_of_sources(folder: Path) -> Path:
    """What git knows, as it stands here, in a folder of its own with other times and modes."""
    known = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if known.returncode != 0:
        pytest.skip("needs a git checkout")
    for name in known.stdout.decode().split("\0"):
        if name and not name.startswith(("docs/", "tests", "bench/")) and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return folder


def build(sources: Path, kind: str, out: Path) -> Path:
    call = f"from hatchling.build import build_{kind}; print(build_{kind}({str(out)!r}))"
    made = subprocess.run([sys.executable, "-c", call], cwd=sources, capture_output=True, check=True, text=True)
    return out / made.stdout.split()[-1]


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling")
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_same_sources_make_the_same_bytes(tmp_path: Path, kind: str) -> None:
    digests = []
    for name in ("here", "elsewhere"):
        out = tmp_path / f"{name} out"
        out.mkdir()
        path = build(copy_of_sources(tmp_path / name), kind, out)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    if kind == "wheel":
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
    else:
        with tarfile.open(path) as sdist:
            names = sdist.getnames()
    release = version()
    wanted = f"gendurable_py/_sql/gendurable--{release}.sql" if kind == "wheel" else "sql/api/100_insert.sql"
    assert any(name.endswith(wanted) for name in names)
