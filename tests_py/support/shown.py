"""What pages show as answers, and what comes out: psql's tables, cell by cell, without what is another each time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

# Frames and counts of psql's, and its words for a command that answers nothing.
_FRAME = re.compile(r"[-+]+|\(\d+ rows?\)")
# A code block, and what is shown behind it: an answer as a block of its own, or quoted sentences.
_PART = re.compile(r"^```(sql|sh)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$|\n\n((?:> .*?\n)+)|)", re.MULTILINE | re.DOTALL)


class Part(NamedTuple):
    """A block of code of a page, and the answer that the page shows behind it, if it does."""

    language: str
    text: str
    answer: str


def sections(page: Path) -> dict[str, list[Part]]:
    """The blocks of SQL and shell below each heading of the second level; before the first of them, below ""."""
    found = {}
    for number, text in enumerate(re.split(r"^## ", page.read_text("utf-8"), flags=re.MULTILINE)):
        heading, _, body = text.partition("\n") if number else ("", "", text)
        parts = [Part(language, code, table or quoted) for language, code, table, quoted in _PART.findall(body)]
        found[heading] = parts
    return found


def read_tables(text: str) -> list[list[str]]:
    """The cells of psql's tables; of quoted sentences each by itself."""
    lines = [line.strip() for line in text.splitlines()]
    if text.startswith("> "):
        return [line.removeprefix("> ").split(": ", 1) for line in lines]
    return [
        [cell.strip() for cell in line.split("|")] for line in lines if line and _FRAME.fullmatch(line.strip()) is None
    ]


def steady(text: str) -> str:
    """Without times, processes, roles, hosts and sizes."""
    text = re.sub(r"\b\d+ (s|min|h|hours|days)\b", "so long", text)
    text = re.sub(r"\bprocess \d+", "process 4711", text)
    text = re.sub(r'role "[^"]*"', 'role "ada"', text)
    return re.sub(r"\b\d\d:\d\d:\d\d(\.\d+)?\b", "so long", text)
