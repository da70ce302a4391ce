"""The causes of gd_why: what the functions give, what the guide names, and what the tests arrange are the same."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def given() -> set[str]:
    """The causes that the functions behind gd_why give, as they stand in the SQL."""
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "sql" / "api").glob("25*.sql"))]
    return {name for text in texts for name in re.findall(r"gendurable\._cause\(\s*'([a-z ]+)'", text)}


def test_there_are_causes() -> None:
    assert {"ended", "due", "key", "locked"} <= given() and len(given()) >= 18


def test_the_guide_has_a_row_for_each() -> None:
    part = (ROOT / "docs" / "seeing.md").read_text("utf-8").split("## The causes of gd_why")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z ]+)` \|", part, re.MULTILINE)) == given()


def test_the_comment_names_each() -> None:
    text = (ROOT / "sql" / "api" / "250_why.sql").read_text("utf-8").split("comment on function gd_why(")[1]
    part = text.split("The causes are")[1].split(".")[0]
    assert set(re.findall(r'"([a-z ]+)"', re.sub(r"\s+", " ", part))) == given()


def test_each_is_arranged_with_its_words() -> None:
    """With its sentence: in tests_sql/250_why.sql, and in the races what takes two sessions."""
    alone = (ROOT / "tests_sql" / "250_why.sql").read_text("utf-8")
    together = (ROOT / "tests_py" / "races" / "test_races_why.py").read_text("utf-8")
    arranged = {
        name for one in re.findall(r"select is\(t\.causes\([^)]*\), '([a-z, ]+)'", alone) for name in one.split(", ")
    }
    arranged |= set(re.findall(r'"([a-z ]+)"', together)) & {"locked"}
    assert arranged == given()
