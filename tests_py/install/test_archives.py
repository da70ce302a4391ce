"""What is handed out: the archive for PGXN, and wheels and source distributions, which are the same bytes each time."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from support.server import ROOT

from gendurable_py.install import version

PAGE = ROOT / "docs" / "packaging.md"


def test_pgxn_is_told_of_what_is_there() -> None:
    meta = json.loads((ROOT / "META.json").read_text(encoding="utf-8"))
    provided = meta["provides"][meta["name"]]
    assert meta["version"] == provided["version"] == version()
    for key in ("file", "docfile"):
        assert (ROOT / provided[key]).is_file(), provided[key]


def test_the_meta_file_is_valid() -> None:
    """The rules of the PGXN Meta Spec 1.0.0, https://pgxn.org/spec, for the keys that we use."""
    meta = json.loads((ROOT / "META.json").read_text(encoding="utf-8"))
    required = {"abstract", "license", "maintainer", "meta-spec", "name", "provides", "version"}
    optional = {"description", "generated_by", "no_index", "prereqs", "release_status", "resources", "tags"}
    assert required <= set(meta) <= required | optional
    semantic = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[a-z][a-z0-9.-]*)?", re.IGNORECASE)
    term = re.compile(r"[^\s/\\\x00-\x1f]{2,}")
    assert meta["meta-spec"] == {"version": "1.0.0", "url": "https://pgxn.org/meta/spec.txt"}
    assert term.fullmatch(meta["name"]) and semantic.fullmatch(meta["version"])
    assert meta["license"] == "postgresql"
    assert meta["release_status"] in {"stable", "testing", "unstable"}
    for key in ("abstract", "description", "maintainer", "generated_by"):
        assert isinstance(meta[key], str) and meta[key].strip(), key
    assert len(set(meta["tags"])) == len(meta["tags"])
    assert all(
        isinstance(tag, str) and 0 < len(tag) < 256 and not re.search(r"[/\\\x00-\x1f]", tag) for tag in meta["tags"]
    )
    for name, provided in meta["provides"].items():
        assert term.fullmatch(name)
        assert {"file", "version"} <= set(provided) <= {"file", "version", "abstract", "docfile"}
        assert semantic.fullmatch(provided["version"])
    for phase, relations in meta["prereqs"].items():
        assert phase in {"configure", "build", "test", "runtime", "develop"}
        for relation, named in relations.items():
            assert relation in {"requires", "recommends", "suggests", "conflicts"}
            assert all(term.fullmatch(name) for name in named)
            assert all(wanted == "0" or semantic.fullmatch(wanted) for wanted in named.values())


def test_commands_of_the_page_are_targets() -> None:
    commands = re.findall(r"^make (\S+)(?: GD_ARGS=\"(.*)\")?$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {target for target, _ in commands} == {"test-lowest", "test-matrix", "deb", "dist", "pg-tle"}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target, arguments in commands:
        rule = re.search(rf"^{target}:.*\n\t(?:.*tools/(\w+)\.py \$\(GD_ARGS\)|.*)$", makefile, re.MULTILINE)
        assert rule is not None, target
        if arguments:
            program = (ROOT / "tools" / f"{rule[1]}.py").read_text("utf-8")
            assert all(f'"{word}"' in program for word in arguments.split() if word.startswith("--")), arguments


def test_the_archive_of_pgxn_builds_what_it_promises(tmp_path: Path) -> None:
    """Of the last commit, as make dist has it."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is missing (Debian: apt-get install make)")
    command = ["git", "archive", "--format=zip", f"--prefix=gendurable-{version()}/", "HEAD"]
    assert " ".join(command[1:4]) in (ROOT / "Makefile").read_text("utf-8").replace("$$v", version())
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip("needs a git checkout")
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as packed:
        packed.extractall(tmp_path / "un packed")
    [tree] = (tmp_path / "un packed").iterdir()
    meta = json.loads((tree / "META.json").read_text("utf-8"))
    subprocess.run([make, "--no-print-directory", "all"], cwd=tree, check=True, capture_output=True)
    for provided in meta["provides"].values():
        assert (tree / provided["file"]).is_file() and (tree / provided["docfile"]).is_file()


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


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling")
def test_a_wheel_has_the_whole_package_whatever_it_was_built_from(tmp_path: Path) -> None:
    for folder in ("sdist", "wheel", "wheel of sdist"):
        (tmp_path / folder).mkdir()
    sources = copy_of_sources(tmp_path / "sources")
    wheel = build(sources, "wheel", tmp_path / "wheel")
    with tarfile.open(build(sources, "sdist", tmp_path / "sdist")) as sdist:
        sdist.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert build(unpacked, "wheel", tmp_path / "wheel of sdist").read_bytes() == wheel.read_bytes()

    with zipfile.ZipFile(wheel) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    package = {
        str(path.relative_to(sources)): path.read_bytes()
        for path in (sources / "gendurable_py").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    scripts = {f"gendurable_py/_sql/{path.name}": path.read_bytes() for path in (sources / "sql").glob("*.sql")}
    scripts["gendurable_py/_sql/gendurable.control"] = (sources / "gendurable.control").read_bytes()
    assert {name: text for name, text in files.items() if ".dist-info/" not in name} == package | scripts
    assert "gendurable_py/py.typed" in package
    [metadata] = [text.decode() for name, text in files.items() if name.endswith(".dist-info/METADATA")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.MULTILINE)) == set(project["optional-dependencies"])
    [entries] = [text.decode() for name, text in files.items() if name.endswith(".dist-info/entry_points.txt")]
    assert "gendurable = gendurable_py.cli:main" in entries
