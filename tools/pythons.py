"""Interpreters, and virtual environments with gendurable and its extras, for tools/lowest.py and tools/matrix.py.

An interpreter is `python3.12` of the PATH, of pyenv, or whatever else uv finds; nothing is downloaded for it. Packages
come from PyPI, by uv, from where pip takes them (PIP_INDEX_URL).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINORS = ("3.11", "3.12", "3.13", "3.14")
# What is no part of the package: drawing the plots, and building the pages.
LEFT_OUT = {"bench", "docs"}
# What uv gives as the cause where no answer came, or one of a server that cannot give any: lines of its own, and not
# words, which stand in names of packages and in what a build says, too.
UNREACHED = re.compile(
    r"^[\s├╰─▶>]*(?:cause:|Caused by:)?\s*"
    r"(?:error sending request for url \(|HTTP status server error \(5\d\d|.* due to network timeout\.)",
    re.MULTILINE,
)


class Unavailable(Exception):
    """An interpreter or an index of packages cannot be had here, and how to get it."""


def project() -> dict[str, object]:
    """The table `project` of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def extras() -> list[str]:
    """The extras that are installed together, whoever adds one."""
    named = project()["optional-dependencies"]
    assert isinstance(named, dict)
    return sorted(set(named) - LEFT_OUT)


def find(minor: str) -> str:
    """The program of Python 3.N."""
    for program in (f"python{minor}", *_of_pyenv(minor)):
        if _is(program, minor):
            return program
    asked = [sys.executable, "-m", "uv", "python", "find", "--no-python-downloads", "--system", minor]
    found = subprocess.run(asked, cwd="/", capture_output=True, text=True, check=False)
    if found.returncode == 0 and _is(found.stdout.strip(), minor):
        return found.stdout.strip()
    raise Unavailable(f"no python{minor}: apt-get install python{minor} python{minor}-venv, or pyenv install {minor}")


def _of_pyenv(minor: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return sorted((str(path) for path in root.glob(f"versions/{minor}.*/bin/python{minor}")), key=len, reverse=True)


def _is(program: str, minor: str) -> bool:
    """Whether it runs, and is that version: the name may be a shim of pyenv's that leads nowhere."""
    if shutil.which(program) is None:
        return False
    code = "import sys; print('%d.%d' % sys.version_info[:2], end='')"
    said = subprocess.run([program, "-I", "-c", code], capture_output=True, text=True, check=False)
    return said.returncode == 0 and said.stdout == minor


def environment(folder: Path, program: str, *, lowest: bool = False) -> Path:
    """Make or bring up to date the virtual environment of the folder; return its interpreter.

    lowest: the lowest versions that pyproject.toml allows of what it names itself, else the newest.

    Raises:
        Unavailable: the index of packages cannot be reached.
        subprocess.CalledProcessError: there are no versions that go together.
    """
    uv = [sys.executable, "-m", "uv"]
    python = folder / "bin" / "python"
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", program, folder], cwd=ROOT, check=True)
    names = f".[{','.join(extras())}]"
    resolution = ["--resolution", "lowest-direct"] if lowest else []
    command = [*uv, "pip", "install", "--quiet", "--python", python, *resolution, "--editable", names]
    done = subprocess.run(command, cwd=ROOT, env=_index(), stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode != 0 and UNREACHED.search(done.stderr):
        raise Unavailable(f"the index of packages cannot be reached: {done.stderr.strip().splitlines()[0]}")
    done.check_returncode()
    return python


def _index() -> dict[str, str]:
    """The environment of uv, which has variables of its own."""
    changes = {}
    if "PIP_INDEX_URL" in os.environ and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(os.environ):
        changes["UV_DEFAULT_INDEX"] = os.environ["PIP_INDEX_URL"]
    return os.environ | changes
