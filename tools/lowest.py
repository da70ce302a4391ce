"""Run tests with the lowest versions of everything that pyproject.toml allows, so that its lower bounds are true.

    lowest.py [--all] [-- arguments]     arguments go to pytest; the default is a quick choice of files

The virtual environment is build/lowest, with the lowest Python that the package takes, where it is here. What the
dependencies themselves need is the newest that fits. Exit code 3: the packages cannot be had here.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pythons

ROOT = pythons.ROOT
# Where a dependency is met, each by a file: the drivers, models and their schemas, the command line, telemetry, the
# embedded server, and whatever is in contrib.
QUICK = (
    "calls/test_calls.py",
    "calls/test_fsm.py",
    "cli/test_cli_frame.py::test_every_command_explains_itself_in_80_columns",
    "cli/test_cli_inserting.py",
    "engine/test_contrib_*.py",
    "engine/test_engine_connect.py",
    "engine/test_otel.py",
    "engine/test_prometheus*.py",
    "install/test_embedded.py::test_it_has_the_extension_and_is_durable",
)
UNREACHABLE = 3


def chosen() -> list[str]:
    """The files of the quick choice that there are, or single tests of them."""
    folder, found = ROOT / "tests_py", []
    for pattern in QUICK:
        files, *tests = pattern.split("::")
        found += ["::".join([str(path.relative_to(ROOT)), *tests]) for path in sorted(folder.glob(files))]
    return found


def installed(python: Path) -> list[tuple[str, str]]:
    """What pyproject.toml names itself, in the version that is there."""
    named = {_plain(text) for text in _requirements()}
    folder = next((python.parent.parent / "lib").glob("python3.*")) / "site-packages"
    found: list[Distribution] = list(distributions(path=[str(folder)]))
    return sorted((_plain(one.metadata["Name"]), one.version) for one in found if _plain(one.metadata["Name"]) in named)


def _plain(text: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0]).lower()


def _requirements() -> list[str]:
    table = pythons.project()
    own, named = table["dependencies"], table["optional-dependencies"]
    assert isinstance(own, list) and isinstance(named, dict)
    return [*own, *(text for extra in pythons.extras() for text in named[extra])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="all of tests_py, not a quick choice")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "lowest", help="of the virtual environment")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:at])
    try:
        program = pythons.find(pythons.MINORS[0])
    except pythons.Unavailable as error:
        print(f"{error}; with {sys.version.split()[0]} in its place", file=sys.stderr)
        program = sys.executable
    try:
        python = pythons.environment(options.folder, program, lowest=True)
    except pythons.Unavailable as error:
        print(error, file=sys.stderr)
        return UNREACHABLE
    except subprocess.CalledProcessError:
        return 1
    print(*(f"{name} {number}" for name, number in installed(python)), sep=", ", flush=True)
    arguments = sys.argv[at + 1 :] or ([] if options.all else chosen())
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
