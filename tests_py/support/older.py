"""The package of a release before this one, as it was: out of the history of the repository."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.server import ROOT

RELEASE = "0.3.0"
# By its tag, or by the commit that it stands at where a clone came without tags.
NAMES = (f"v{RELEASE}", "78420e7")


def older_package(folder: Path) -> Path:
    """A folder with it, for the path of Python; without the history the test is skipped, and says so."""
    for name in NAMES:
        try:
            found = subprocess.run(["git", "-C", str(ROOT), "archive", name], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        place = folder / f"gendurable-{RELEASE}"
        with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
            archive.extractall(place, filter="data")
        assert f"default_version = '{RELEASE}'" in (place / "gendurable.control").read_text()
        # as its own "make build"
        subprocess.run([sys.executable, "tools/assemble.py"], cwd=place, capture_output=True, check=True)
        return place
    pytest.skip(f"needs the package of {RELEASE}, out of the repository: git fetch --tags --unshallow")
