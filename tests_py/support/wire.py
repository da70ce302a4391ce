"""docs/wire.md as it is read by tests: its tables, its examples, and values that a table takes or refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from support.races import Row, Session

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text("utf-8")
Cells = dict[str, str]

# -- the document


def sections() -> dict[str, str]:
    found: dict[str, str] = {}
    under, fenced = "", False
    for line in PAGE.splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            under = line.lstrip("#").strip()
        found[under] = found.get(under, "") + line
    return found


SECTIONS = sections()


def table(heading: str) -> list[Cells]:
    """The rows of a section's table, by column; its first column is `key`."""
    lines = re.findall(r"^\|(.*)\|$", SECTIONS[heading], re.MULTILINE)
    names, rule, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert names[0] == "key", heading
    assert rows, heading
    assert {*rule} == {"---"}, heading
    made = [dict(zip(names, row, strict=True)) for row in rows]
    for row in made:
        assert re.fullmatch("`[^`]+`", row["key"]), row
        row["key"] = row["key"].strip("`")
    return made


def keys(heading: str) -> list[str]:
    return [row["key"] for row in table(heading)]


def examples(heading: str) -> tuple[Any, Any]:
    """The minimal and the full one."""
    minimal, full = re.findall(r"^```json\n(.*?)^```$", SECTIONS[heading], re.MULTILINE | re.DOTALL)
    return json.loads(minimal), json.loads(full)


def words(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


def needed(rows: Iterable[Cells]) -> set[str]:
    return {row["key"] for row in rows if {"yes": True, "no": False}[row["needed"]]}


def cell(heading: str, key: str, column: str) -> str:
    return next(row[column] for row in table(heading) if row["key"] == key)


# -- what a key takes

OTHERS: Row = {"string": "x", "number": 1, "boolean": True, "object": {}, "array": ["x"]}


def probes(row: Cells, example: Any) -> list[tuple[Any, bool]]:
    """Values for a key, and whether the table says that the server reads them."""
    kinds = {kind for kind in OTHERS if row["type"] == "any" or re.search(rf"\b{kind}\b", row["type"])}
    assert kinds, row
    made = [
        (example if kind in kinds and isinstance(example, type(sample)) else sample, kind in kinds)
        for kind, sample in OTHERS.items()
    ]
    if "number" in kinds:
        made.append((1.5, "whole" not in row["type"]))
    bounds = re.match(r"(-?[\d,]+) to (-?[\d,]+)( bytes| elements)?", row["bounds"])
    if bounds:
        low, high = (int(text.replace(",", "")) for text in bounds.groups()[:2])
        element = 1 if "numbers" in row["type"] else example[0] if "objects" in row["type"] else "x"
        make: Callable[[int], Any] = {
            " bytes": lambda size: "x" * size,
            " elements": lambda size: [element] * size,
            None: lambda value: value,
        }[bounds[3]]
        made += [(make(low), True), (make(high), True), (make(high + 1), False)]
        made += [(make(low - 1), False)] if low > 0 or bounds[3] is None else []
    return [*made, (None, row["needed"] == "no")]


def read(session: Session, outcomes: list[Row]) -> list[str | None]:
    """Why the server cannot read these outcomes, None where it can. They are of nobody: what is valid is stale."""
    answers = session.answers(*outcomes)
    assert {answer["result"] for answer in answers} <= {"stale", "rejected"}
    return [answer["detail"]["message"] if answer["detail"] else None for answer in answers]
