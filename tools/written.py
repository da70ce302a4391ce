"""A page of the documentation that a tool writes, or compares with what is there."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def checks(what: str | None) -> bool:
    """Whether the command line says `--check`. ``what``: what the tool does, for --help."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the page differs")
    return bool(parser.parse_args().check)


def difference(page: Path, made: str) -> str:
    """Empty, or how the page that is there differs from the one that was made."""
    there = page.read_text("utf-8") if page.exists() else ""
    name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
    lines = (there.splitlines(), made.splitlines(), str(name), "what make docs writes")
    return "\n".join(difflib.unified_diff(*lines, lineterm="", n=1))


def write(page: Path, made: str, source: str, *, check: bool) -> int:
    """Write the page, or tell how it differs; returns the exit code. ``source``: whose words it should be."""
    if not check:
        page.write_text(made, "utf-8")
        return 0
    found = difference(page, made)
    if found:
        print(f"{found}\n{page.relative_to(ROOT)} is not what {source}: run make docs")
    return 1 if found else 0
