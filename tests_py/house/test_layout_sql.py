"""Where SQL stands: the api calls the kernel and its own stage, the kernel is built from the ground up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNEL = sorted((ROOT / "sql" / "kernel").glob("*.sql"))
API = sorted((ROOT / "sql" / "api").glob("*.sql"))
FUNCTIONS = [*KERNEL, *API]
WRITTEN = {"_api", "_parts", "_version"}
"""What a release knows of itself: written by the assembler, before all others."""


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


def defined(path: Path) -> set[str]:
    return set(
        re.findall(
            r"create or replace (?:function|procedure) (?:gendurable\.)?([a-z_0-9]+)\s*\(",
            without_comments(path.read_text()),
        )
    )


def homes() -> dict[str, set[Path]]:
    found: dict[str, set[Path]] = {}
    for path in FUNCTIONS:
        for name in defined(path):
            found.setdefault(name, set()).add(path)
    return found


def named(path: Path) -> set[str]:
    """The functions that a file names anywhere but where they are defined or described.

    What a trigger of gd_signal_on calls is written with a schema in front, and is no call of the file's.
    """
    text = without_comments(path.read_text())
    text = re.sub(
        r"(create or replace (?:function|procedure)|comment on (?:function|procedure))\s+(gendurable\.)?\w+", "", text
    )
    return set(re.findall(r"gendurable\.(_[a-z_0-9]+)\s*\(", text)) | set(
        re.findall(r"(?<![\w'.])(gd_[a-z_]+)\s*\(", text)
    )


def stage(path: Path) -> str:
    """The files of a stage of life share the first two of their digits."""
    return path.name[:2]


DOORS = {"_claim_run": "11", "_claim_this": "11", "_release_run": "12", "_commit_run": "13", "_outcome_problem": "13"}
"""What runs steps is a client of the engine that lives in the database: it comes in where clients do."""


GRANTS = {"_api_schema", "_describe_profile", "_list_rights", "_profile_names", "_telling_right"}
"""The doctor compares rights with what the last stage would give."""


PINS = {"_is_pinned", "_is_known_definer", "_call_text", "_refuse_replaced"}
"""gd_migrate runs a function of the caller by the rules of a step in SQL."""


def may_call(caller: Path, home: Path) -> bool:
    if caller.parent.name == "kernel":
        return home.parent.name == "kernel" and home.name <= caller.name
    return home.parent.name == "kernel" or (stage(home) == stage(caller) and home.name >= caller.name)


@pytest.mark.parametrize("path", FUNCTIONS, ids=label)
def test_a_file_calls_only_where_it_may(path: Path) -> None:
    # The kernel: itself and what stands before it. The api: the kernel, itself, and what follows in its own stage.
    where = homes()
    wrong = {
        f"{name} ({label(home)})"
        for name in named(path)
        for home in where.get(name, set())
        if not may_call(path, home)
        and not (stage(path) == "24" and stage(home) == DOORS.get(name))
        and not (path.name == "108_migrate_doors.sql" and name in PINS)
        and not (stage(path) == "26" and name in GRANTS)
    }
    assert not wrong


@pytest.mark.parametrize("path", FUNCTIONS, ids=label)
def test_every_called_helper_is_defined(path: Path) -> None:
    assert {name for name in named(path) if name.startswith("_")} <= set(homes()) | WRITTEN


def test_a_helper_is_defined_in_one_file() -> None:
    assert {name: found for name, found in homes().items() if len(found) > 1} == {}


def test_what_is_public_stands_in_the_api() -> None:
    assert {name for path in KERNEL for name in defined(path) if not name.startswith("_")} == set()


def test_every_helper_is_called() -> None:
    called = set().union(*(named(path) for path in [*FUNCTIONS, ROOT / "tools" / "assemble.py"]))
    views = "".join(path.read_text() for path in (ROOT / "sql" / "schema").glob("*.sql"))
    unused = {name for name in homes() if name.startswith("_") and name not in called and name not in views}
    assert not unused


@pytest.mark.parametrize("path", FUNCTIONS, ids=label)
def test_a_file_says_what_it_is(path: Path) -> None:
    head = re.match(r"(?:-- \S[^\n]*\n)+\n", path.read_text())
    assert head is not None
    assert len(head[0]) > 60


@pytest.mark.parametrize("path", FUNCTIONS, ids=label)
def test_function_files_only_create_or_replace(path: Path) -> None:
    # They run again in every upgrade.
    assert not re.findall(r"^create (?!or replace (?:function|procedure))", path.read_text(), re.MULTILINE)


SOURCES = [
    path for folder in ("schema", "kernel", "api", "upgrades") for path in sorted((ROOT / "sql" / folder).glob("*"))
]


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_sql_means_the_same_whatever_the_encoding_and_the_settings(path: Path) -> None:
    # A server of another encoding refuses, or stores as something else, what is not ASCII. Bodies are read under the
    # caller's standard_conforming_strings, so a backslash stands in E'...' or not at all.
    text = path.read_bytes()
    assert [line for line in text.splitlines() if not line.isascii()] == []
    assert [
        line for line in without_comments(text.decode()).splitlines() if "\\" in re.sub(r"E'[^']*'", "", line)
    ] == []


VOCABULARY = ("000", "005", "010", "020", "025", "027", "028", "030")
"""The files of the kernel whose functions are read by their names."""
WALKS = {"gd_insert": 13, "gd_claim_many": 32, "gd_commit": 29, "gd_signal": 6}
"""Through how many files the ways through the code lead at most, as docs/internals.md tells them. Rate limits have
four of a claim: buckets and bells in the kernel, and a stage before and one behind the hand-out. Only rows that
name one go there. One of a claim reads its arguments, and one has its short way, behind the lock on due rows. One
file of each is 067_routes, which is entered where some step has a queue, and one is 069_attributes. Pauses have
two of a claim, which are entered where something is paused, and one of a commit, which has one of journals, too,
one for an outcome that is alone, and two for what is plain in a batch. Six of an insert are about moving the
holder of its unique key, and two of all are about new rows, one examines and one stores. One of a signal is the
audit, which is entered where somebody says for whom it is."""


def way(start: str) -> list[Path]:
    """The files that a call passes through, in the order in which to read them."""
    bodies: dict[str, list[tuple[Path, str]]] = {}
    for path in FUNCTIONS:
        for part in re.split(r"(?m)^(?=create or replace function)", without_comments(path.read_text())):
            if found := re.match(r"create or replace function (?:gendurable\.)?(\w+)\s*\(", part):
                body = part[found.end() :].split("comment on function")[0]
                bodies.setdefault(found[1], []).append((path, body))
    left, seen = [start], set[str]()
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            for _, body in bodies.get(name, []):
                left += re.findall(r"gendurable\.(_[a-z_0-9]+)\s*\(", body)
    files = {path for name in seen for path, _ in bodies.get(name, [])}
    return sorted(
        (path for path in files if path.parent.name == "api" or path.name[:3] not in VOCABULARY),
        key=lambda path: (path.parent.name != "api", path.name),
    )


@pytest.mark.parametrize("call", WALKS)
def test_a_way_through_the_code_is_short_and_told(call: str) -> None:
    files = way(call)
    assert len(files) <= WALKS[call]
    [told] = [
        line for line in (ROOT / "docs" / "internals.md").read_text().splitlines() if line.startswith(f"| `{call}`")
    ]
    assert set(re.findall(r"`(\d{3}_\w+)`", told)) == {path.stem for path in files}


@pytest.mark.parametrize("path", FUNCTIONS, ids=label)
def test_only_the_transitions_write_a_status(path: Path) -> None:
    updates = re.split(r"\bupdate gendurable\.instance\b", without_comments(path.read_text()))[1:]
    assigned = [re.split(r"\b(?:from|where)\b", update)[0] for update in updates]
    writers = [text for text in assigned if re.search(r"(?<![.\w])status = ", text)]
    assert bool(writers) == (path.name in ("080_transitions.sql", "089_plain.sql"))


def test_the_glossary_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    named = set(re.findall(r"`((?:api|kernel)/\w+)`", text))
    assert named <= {f"{path.parent.name}/{path.stem}" for path in FUNCTIONS}
    words = re.findall(r"^\| \*\*(.+?)\*\*", text, re.MULTILINE)
    assert len(words) > 30
    assert words == sorted(words, key=lambda word: word.replace("`", "").lower())
