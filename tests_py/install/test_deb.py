"""make deb: the packages have the extension's files and nothing else, lintian has nothing to say, and they install."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from support.server import ROOT

from gendurable_py.install import extension_files, version

sys.path.insert(0, str(ROOT / "tools"))
try:
    TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "deb.py"))
finally:
    sys.path.pop(0)

pytestmark = pytest.mark.timeout(300)

# A system of its own over this one: what is written there goes with it. Everything else in it is this machine's.
INSIDE = """
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t tmpfs tmpfs "$1/root/tmp"
chmod 1777 "$1/root/tmp"
cp "$2" "$3" "$1/root/tmp"
cp "$4" "$1/root/tmp/create.sql"
chmod 644 "$1"/root/tmp/*.*
chroot "$1/root" sh -eu /tmp/inside.sh "$5"
"""
SCRIPT = """
cd /tmp
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
dpkg -i ./*.deb
dpkg -V "postgresql-$1-gendurable"
unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE
pg_virtualenv -v "$1" psql -X -v ON_ERROR_STOP=1 -f /tmp/create.sql
dpkg -P "postgresql-$1-gendurable"
ls /usr/share/postgresql/"$1"/extension/gendurable* 2>/dev/null && exit 9
echo "installed, used and removed"
"""


@pytest.fixture(scope="module")
def majors() -> list[int]:
    if packages := TOOL["missing"]():
        pytest.skip(f"apt-get install {' '.join(packages)}")
    found: list[int] = TOOL["installed"]()
    if not found:
        pytest.skip("apt-get install postgresql-server-dev-all")
    return found


def built(majors: list[int], out: Path, patch: pytest.MonkeyPatch, options: str) -> dict[str, Path]:
    """All that `make deb` makes, by its name."""
    patch.setenv("DEB_BUILD_OPTIONS", options)
    build: Callable[..., list[Path]] = TOOL["build"]
    return {path.name: path for path in build(majors, out)}


@pytest.fixture(scope="module")
def made(majors: list[int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        return built(majors, tmp_path_factory.mktemp("debs out"), patch, "")


def binaries(made: dict[str, Path]) -> dict[int, Path]:
    found = {int(name.split("-")[1]): path for name, path in made.items() if name.endswith(".deb")}
    assert found
    return found


def test_there_is_a_package_for_each_version_and_the_sources(made: dict[str, Path], majors: list[int]) -> None:
    [(number, _), *_] = TOOL["releases"]()
    assert {path.name for path in binaries(made).values()} == {
        f"postgresql-{major}-gendurable_{number}-1_all.deb" for major in majors
    }
    assert {f"gendurable_{number}-1.dsc", f"gendurable_{number}.orig.tar.gz"} <= set(made)


def test_a_package_has_the_files_of_the_extension(made: dict[str, Path], tmp_path: Path) -> None:
    wanted = {file.name: file.read_bytes() for file in extension_files()}
    for major, path in binaries(made).items():
        folder = tmp_path / str(major)
        subprocess.run(["dpkg-deb", "-x", path, folder], check=True)
        files = {file for file in folder.rglob("*") if file.is_file()}
        there = folder / "usr/share/postgresql" / str(major) / "extension"
        documents = folder / f"usr/share/doc/postgresql-{major}-gendurable"
        assert {file.name: file.read_bytes() for file in files if file.parent == there} == wanted
        rest = {str(file.relative_to(documents)) for file in files if file.parent != there}
        assert rest == {"README.md.gz", "changelog.gz", "changelog.Debian.gz", "copyright"}
        assert {file.stat().st_mode & 0o777 for file in files} == {0o644}
        depends = subprocess.run(["dpkg-deb", "-f", path, "Depends"], capture_output=True, text=True, check=True)
        # Any minor version will do.
        assert depends.stdout.strip() == f"postgresql-{major}"


def test_lintian_is_silent(made: dict[str, Path]) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("apt-get install lintian")
    [changes] = [path for name, path in made.items() if name.endswith(".changes")]
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", changes],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_second_run_makes_the_same_bytes(
    made: dict[str, Path], majors: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = built(majors, tmp_path, monkeypatch, "nocheck")
    for name, path in made.items():
        # The two that list the environment of the build are other.
        if not name.endswith((".buildinfo", ".changes")):
            assert again[name].read_bytes() == path.read_bytes(), name


def test_it_installs_creates_the_extension_and_goes_again(made: dict[str, Path], tmp_path: Path) -> None:
    probe = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private"]
    if os.getuid() != 0 or subprocess.run([*probe, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs root and namespaces of its own, so that this machine stays as it is")
    script = tmp_path / "inside.sh"
    script.write_text(SCRIPT)
    tried = 0
    for major, path in binaries(made).items():
        if not Path(f"/usr/lib/postgresql/{major}/bin/postgres").exists():
            continue
        tried += 1
        folder = tmp_path / f"system {major}"
        folder.mkdir()
        create = ROOT / "packaging" / "debian" / "tests" / "create.sql"
        done = subprocess.run(
            [*probe, "sh", "-c", INSIDE, "sh", folder, path, script, create, str(major)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout
        assert "installed, used and removed" in done.stdout
        assert not Path(f"/usr/share/postgresql/{major}/extension/gendurable.control").exists()
    if not tried:
        pytest.skip("apt-get install postgresql: the server of a version that packages were built for")


# What needs no tool.


def test_the_changelog_is_that_of_the_releases() -> None:
    text: str = TOOL["changelog"]()
    entries = re.findall(r"^gendurable \((\S+)-1\) unstable;.*?^ -- [^\n]+ <\S+@\S+>  ([^\n]+)$", text, re.M | re.S)
    released = re.findall(r"^## (\d\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert [number.removesuffix("~dev") for number, _ in entries] == [number for number, _ in released]
    assert entries[0][0].removesuffix("~dev") == version()
    assert entries[0][0].endswith("~dev") == (released[0][1] == "unreleased")
    for (_, at), (_, date) in zip(entries, released, strict=True):
        if date != "unreleased":
            assert parsedate_to_datetime(at).date().isoformat() == date


def test_the_copyright_has_the_licence() -> None:
    text: str = TOOL["copyright_text"]()
    assert "@" not in text
    assert [line for line in text.splitlines() if line and not re.match(r"[A-Z][A-Za-z-]+: | \S", line)] == []
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert set(licence.split("\n\n", 2)[2].split()) <= set(text.split())


def test_what_was_built_here_is_no_source(tmp_path: Path) -> None:
    listed: list[str] = TOOL["sources"]()
    assert {"gendurable.control", "sql/api/100_insert.sql", "tools/assemble.py", "Makefile", "LICENSE"} <= set(listed)
    # The same without git, as from an archive: another folder of the files, and what tools leave in it.
    for name in listed:
        if name.startswith(("sql/", "tools/")) or "/" not in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    built = ("sql/gendurable.sql", "sql/x.part", "dist/x.zip", "tools/__pycache__/x.pyc")
    left = (".venv/bin/python", ".venv-peers/node_modules/x/y.js", ".mypy_cache/x.json", ".hypothesis/x", ".env")
    for name in (*built, *left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = set(TOOL["sources"](tmp_path))
    assert found == {name for name in listed if name.startswith(("sql/", "tools/")) or "/" not in name}


def test_whoever_builds_as_root_asks_git_all_the_same(tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("git") is None:
        pytest.skip("needs root, and git (Debian: apt-get install git)")
    (tmp_path / "Makefile").touch()
    for arguments in (["init", "-q"], ["add", "Makefile"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "secrets.txt").touch()
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 65534, 65534)
    assert TOOL["sources"](tmp_path) == ["Makefile"]
