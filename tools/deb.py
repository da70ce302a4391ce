#!/usr/bin/env python3
"""Build the Debian packages: postgresql-NN-gendurable for each PostgreSQL whose development package is here.

    deb.py [15 16 17 18]     the versions (default: those that are installed); the packages go to dist/

Files of the packaging stand in packaging/debian. Everything is built in a folder of its own, since debhelper wants a
folder `debian` at the top, and its tools know no path with a space. Two runs on the same sources give the same bytes.
DEBFULLNAME and DEBEMAIL name the maintainer, as for Debian's own tools.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from assemble import ROOT, version

MAJORS = (15, 16, 17, 18)
NEEDED = {
    "dpkg-buildpackage": "dpkg-dev",
    "g++": "build-essential",
    "dh": "debhelper",
    "pg_buildext": "postgresql-server-dev-all",
}
MAINTAINER = ("The gendurable developers", "gendurable@example.org")
# Whoever builds as root asks about files of another user, which git would refuse. What is built is run anyway.
GIT = ("git", "-c", "safe.directory=*")
# Where there is no git to ask: what is built, and what tools leave behind.
LEFT_OUT = {"dist", "build", ".git", "__pycache__", "node_modules", ".hypothesis"}
LEFT_BEHIND = re.compile(r"\.venv.*|\..*_cache|\.env.*")


def missing() -> list[str]:
    """The Debian packages without which nothing can be built here."""
    return sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})


def installed() -> list[int]:
    """The versions of PostgreSQL that extensions can be built for here."""
    programs = Path("/usr/lib/postgresql")
    return [major for major in MAJORS if (programs / str(major) / "lib" / "pgxs").is_dir()]


def sources(root: Path = ROOT) -> list[str]:
    """The files that a release consists of, as paths below the top."""
    known = subprocess.run([*GIT, "ls-files", "-z"], cwd=root, env=_environment(), capture_output=True, check=False)
    if known.returncode == 0 and known.stdout:
        names = [name for name in known.stdout.decode().split("\0") if name]
    else:
        names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        names = [
            name
            for name in names
            if not LEFT_OUT & set(Path(name).parts)
            and not any(LEFT_BEHIND.fullmatch(part) for part in Path(name).parts)
            and not re.fullmatch(r"sql/[^/]*\.(sql|part)", name)
        ]
    return sorted(name for name in names if (root / name).is_file() and not name.startswith("packaging/debian/"))


def releases(root: Path = ROOT) -> list[tuple[str, datetime]]:
    """Versions and dates out of CHANGELOG.md, newest first. What is not released yet has the last commit's time."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d|unreleased)$", text, re.MULTILINE)
    if not found or found[0][0] != version(root):
        raise SystemExit(f"CHANGELOG.md does not begin with version {version(root)}")
    answer = []
    for number, date in found:
        if date == "unreleased":
            # Lower than the release, so that an upgrade finds it.
            answer.append((f"{number}~dev", _last_commit(root)))
        else:
            answer.append((number, datetime.fromisoformat(date).replace(hour=12, tzinfo=UTC)))
    return answer


def _last_commit(root: Path) -> datetime:
    if "SOURCE_DATE_EPOCH" in os.environ:
        return datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    command = [*GIT, "log", "-1", "--format=%ct"]
    said = subprocess.run(command, cwd=root, env=_environment(), capture_output=True, check=False, text=True)
    if said.returncode == 0:
        return datetime.fromtimestamp(int(said.stdout), UTC)
    return datetime.fromtimestamp(int((root / "CHANGELOG.md").stat().st_mtime), UTC)


def _environment() -> dict[str, str]:
    """Ours without what would lead the tools elsewhere: another server, another repository, the make that called us."""
    led = re.compile(r"PG|GIT_|GD_|MAKE|MFLAGS$|DESTDIR$|GENDURABLE_")
    return {name: value for name, value in os.environ.items() if not led.match(name)}


def maintainer() -> str:
    """Name and address for control and changelog."""
    name, address = MAINTAINER
    return f"{os.environ.get('DEBFULLNAME') or name} <{os.environ.get('DEBEMAIL') or address}>"


def changelog(root: Path = ROOT) -> str:
    """debian/changelog: an entry for each release, which refers to ours."""
    return "\n".join(
        f"gendurable ({number}-1) unstable; urgency=medium\n\n"
        f"  * Release {number.removesuffix('~dev')}: what is new stands in CHANGELOG.md.\n\n"
        f" -- {maintainer()}  {format_datetime(date)}\n"
        for number, date in releases(root)
    )


def copyright_text(root: Path = ROOT) -> str:
    """debian/copyright, with the text of LICENSE as its format wants it: indented, a dot for an empty line."""
    licence = (root / "LICENSE").read_text(encoding="utf-8").split("\n\n", 2)[2].rstrip().splitlines()
    lines = "\n".join(f" {line}" if line else " ." for line in licence)
    return (root / "packaging" / "debian" / "copyright").read_text(encoding="utf-8").replace("@LICENSE@", lines)


def lay_out(folder: Path, root: Path = ROOT) -> Path:
    """Make the source folder, with debian/ in it, and the archive of the original sources beside it; return it."""
    (newest, date), *_ = releases(root)
    tree = folder / f"gendurable-{newest}"
    for name in sources(root):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, tree / name)
        (tree / name).chmod(0o755 if os.access(root / name, os.X_OK) else 0o644)
    _archive(tree, folder / f"gendurable_{newest}.orig.tar.gz", int(date.timestamp()))
    debian = tree / "debian"
    shutil.copytree(root / "packaging" / "debian", debian, copy_function=shutil.copy)
    control = (debian / "control.in").read_text(encoding="utf-8")
    (debian / "control.in").write_text(control.replace("@MAINTAINER@", maintainer()), encoding="utf-8")
    (debian / "changelog").write_text(changelog(root), encoding="utf-8")
    (debian / "copyright").write_text(copyright_text(root), encoding="utf-8")
    return tree


def _archive(tree: Path, to: Path, seconds: int) -> None:
    """The tree as an archive of the same bytes each time: sorted, of nobody, and of one time."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = tar.gettarinfo(path, f"{tree.name}/{path.relative_to(tree)}")
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = seconds
            with path.open("rb") as file:
                tar.addfile(entry, file)
    with to.open("wb") as target, gzip.GzipFile("", "wb", fileobj=target, mtime=0) as packed:
        packed.write(content.getvalue())


def build(majors: list[int], out: Path, root: Path = ROOT) -> list[Path]:
    """Build source and binary packages for these versions; return what was put into `out`."""
    # A server that runs as another user reads the files, too.
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="gd-deb-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        tree = lay_out(folder, root)
        environment = _environment() | {
            "PG_SUPPORTED_VERSIONS": "\n".join(map(str, majors)),
            "SOURCE_DATE_EPOCH": str(int(releases(root)[0][1].timestamp())),
            "LC_ALL": "C.UTF-8",
            "TMPDIR": "/tmp",
        }
        subprocess.run(["pg_buildext", "updatecontrol"], cwd=tree, env=environment, check=True)
        subprocess.run(["dpkg-buildpackage", "-us", "-uc", "-F"], cwd=tree, env=environment, check=True)
        out.mkdir(parents=True, exist_ok=True)
        made = sorted(path for path in folder.iterdir() if path.is_file())
        return [Path(shutil.copy(path, out / path.name)) for path in made]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("majors", nargs="*", type=int, metavar="major", help="15, 16, 17, 18")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the packages go")
    options = parser.parse_args()
    if packages := missing():
        print(f"missing: apt-get install {' '.join(packages)}", file=sys.stderr)
        return 1
    majors = options.majors or installed()
    if not majors:
        print("missing: apt-get install postgresql-server-dev-all", file=sys.stderr)
        return 1
    try:
        made = build(majors, options.out)
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} has failed", file=sys.stderr)
        return 1
    print(*made, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
