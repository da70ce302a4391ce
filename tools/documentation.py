#!/usr/bin/env python3
"""Build the site of the documentation into build/site, out of a copy of docs/ in build/docs.

    documentation.py [--serve]     --serve shows it on http://127.0.0.1:8000 and follows every change

The pages are read in the repository as well, so their links are those of the repository. In the copy, what is linked
to outside of docs/ gets a place of its own: pages of Markdown (PAGES) among the others, other files below source/ as
pages that show them. Nothing else is changed. A link that leads nowhere, an anchor that is not there and a page that
is in no navigation are warnings, and a warning is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COPY = ROOT / "build" / "docs"
SITE = ROOT / "build" / "site"
# What stands elsewhere in the repository, and is a page of the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docker/README.md": "docker.md",
}
NOT_PAGES = ("templates/",)
LANGUAGES = {".py": "python", ".sql": "sql", ".sh": "sh", ".yaml": "yaml", ".json": "json"}
_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]*)(#[^)\s]*)?\)")


class Mistake(Exception):
    """What keeps the site from being built."""


def tracked(folder: str) -> list[str]:
    """The files below a folder that belong to the repository: no caches, nothing that was built."""
    found = (path for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return [name for name in names if "__pycache__" not in name and not name.endswith((".pyc", ".orig", ".rej"))]


def place_of(path: str) -> str:
    """Where in the copy a file or folder of the repository is."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in PAGES:
        return PAGES[path]
    if (ROOT / path).is_dir():
        return f"source/{path}/index.md"
    return f"source/{path}.md"


def rewrite(text: str, path: str, wanted: Callable[[str], object]) -> str:
    """The page `path`, with links that fit its place in the copy; `wanted` gets what they need besides pages."""
    here = PurePosixPath(place_of(path)).parent

    def one(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        whole = os.path.normpath(PurePosixPath(path).parent / target) if target else path
        if not target:
            return found[0]
        if whole.startswith("..") or not (ROOT / whole).exists():
            raise Mistake(f"{path}: the link {target} leads nowhere")
        if not whole.startswith("docs/") and whole not in PAGES:
            wanted(whole)
        return f"]({os.path.relpath(place_of(whole), here)}{anchor})"

    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(one, part) for part in parts[::2]]
    return "".join(parts)


def source_page(path: str) -> str:
    """A page that shows a file, or lists a folder."""
    if (ROOT / path).is_dir():
        names = [name for name in tracked(path) if not Path(name).name.startswith("_")]
        links = [f"- [{name}]({os.path.relpath(place_of(name), f'source/{path}')})" for name in names]
        return f"# {path}\n\n" + "\n".join(links) + "\n"
    text = (ROOT / path).read_text("utf-8")
    return f"# {path}\n\n````{LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n````\n"


def prepare(copy: Path = COPY) -> None:
    """Make the copy that the site is built from, or bring it up to date; what has not changed is not touched."""
    made: dict[str, bytes] = {}
    sources: set[str] = set()
    documents = [name for name in tracked("docs") if not name.removeprefix("docs/").startswith(NOT_PAGES)]
    for path in [*documents, *(path for path in PAGES if path != "README.md")]:
        whole = (ROOT / path).read_bytes()
        made[place_of(path)] = rewrite(whole.decode(), path, sources.add).encode() if path.endswith(".md") else whole
    for folder in [path for path in sources if (ROOT / path).is_dir()]:
        sources |= {name for name in tracked(folder) if not Path(name).name.startswith("_")}
    for path in sources:
        made[place_of(path)] = source_page(path).encode()
    for path in [one for one in copy.rglob("*") if one.is_file()]:
        if path.relative_to(copy).as_posix() not in made:
            path.unlink()
    for name, content in made.items():
        target = copy / name
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def mkdocs(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mkdocs", *arguments]


def environment() -> dict[str, str]:
    # Its authors announce a successor at each start; CONTRIBUTING.md has what comes of it.
    return {**os.environ, "NO_MKDOCS_2_WARNING": "1"}


def build(site: Path = SITE) -> subprocess.CompletedProcess[str]:
    """Build it; what there is to say is in the answer's `stdout`."""
    prepare()
    return subprocess.run(
        mkdocs("build", "--strict", "--clean", "--site-dir", str(site)),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def serve(arguments: Iterable[str]) -> int:
    """Show the site until Ctrl-C, and copy what changes."""
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    class Changes(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            # The copying itself opens and closes them.
            if event.event_type not in ("created", "deleted", "modified", "moved"):
                return
            try:
                prepare()
            except (Mistake, OSError) as error:
                print(error, file=sys.stderr)

    prepare()
    observer = Observer()
    observer.schedule(Changes(), str(DOCS), recursive=True)
    observer.start()
    try:
        return subprocess.run(mkdocs("serve", *arguments), cwd=ROOT, env=environment(), check=False).returncode
    except KeyboardInterrupt:
        return 0
    finally:
        observer.stop()
        observer.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="show it, and follow every change")
    given, more = parser.parse_known_args()
    try:
        if given.serve:
            return serve(more)
        done = build()
    except Mistake as mistake:
        print(mistake)
        return 1
    if done.returncode != 0 or "WARNING" in done.stdout:
        print(done.stdout)
        return 1
    print(f"{SITE.relative_to(ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
