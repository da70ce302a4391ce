"""pgspot over our scripts: what it finds in the functions as they run, one by one.

pgspot gives up on a whole script at the first body that it cannot read, and passes over what stands behind ``elsif``,
``return query`` and ``open``. So it gets each statement by itself, of a function all expressions one after the other,
and what it cannot read is an error here.
"""

from __future__ import annotations

import contextlib
import io
import re
from argparse import Namespace
from typing import Any

import pglast
import pytest

visitors = pytest.importorskip("pgspot.visitors", reason="needs pgspot: pip install pgspot")
state = pytest.importorskip("pgspot.state")

PINNED = " set search_path = pg_catalog, pg_temp"
HEAD = re.compile(
    r"create or replace (?P<kind>function|procedure) (?P<schema>gendurable\.)?(?P<name>\w+)\s*\((?P<head>.*?)"
    r"\sas (?P<quote>\$\w*\$)(?P<body>.*?)(?P=quote)",
    re.DOTALL,
)


def statements(script: str) -> list[str]:
    script = re.sub(r"^\\", "-- ", script, flags=re.MULTILINE)  # of psql, at the head of the scripts of extensions
    return [s for s in pglast.split(script, with_parser=True, only_slices=False) if isinstance(s, str)]


def without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


def open_functions(script: str) -> set[str]:
    """Functions that may run in the search_path of whoever calls: public ones that do not set one, and those that they
    call as far as these do not. All others run in that of the function that called them, or are called by nobody."""
    bodies: dict[str, str] = {}
    found: set[str] = set()
    for head in HEAD.finditer(without_comments(script)):
        if "search_path" not in head["head"]:
            bodies[head["name"]] = head["body"]
            if not head["schema"]:
                found.add(head["name"])
    left = list(found)
    while left:
        for name in re.findall(r"\b(_\w+)\s*\(", bodies[left.pop()]):
            if name in bodies and name not in found:
                found.add(name)
                left.append(name)
    return found


def as_it_runs(statement: str, opened: set[str]) -> str:
    """A statement as pgspot can read it: a function with the search_path under which it runs, without our types."""
    head = HEAD.search(statement)
    if head is not None and "search_path" not in head["head"] and head["name"] not in opened:
        at = head.start("head") + len(head["head"])
        statement = statement[:at] + PINNED + statement[at:]
    # A variable of a type of ours is a record to a parser that has no catalog, and has no fields to select into.
    statement = re.sub(r"^(\s+v_\w+) gendurable\.\w+( :=.*)?;", r"\1 record;", statement, flags=re.MULTILINE)
    return re.sub(r"\binto (v_\w+\.\w+|\w+(?=,))(,\s+[\w.]+)*", "", statement)


def _expressions(parsed: Any) -> list[dict[str, Any]]:
    """All expressions of a parsed body, each as a statement of its own: so pgspot looks at every one of them."""
    if isinstance(parsed, list):
        return [one for part in parsed for one in _expressions(part)]
    if not isinstance(parsed, dict):
        return []
    if "PLpgSQL_expr" not in parsed:
        return [one for part in parsed.values() for one in _expressions(part)]
    query, mode = parsed["PLpgSQL_expr"]["query"], parsed["PLpgSQL_expr"].get("parseMode", 0)
    if mode == 2:
        query = f"select {query}"
    elif mode > 2:
        target, value = query.split(":=" if ":=" in query else "=", 1)
        query = f"select {target}, {value}"
    return [{"PLpgSQL_expr": {"query": query}}]


def findings(script: str, known: set[str] | None = None) -> list[tuple[str, str]]:
    """What pgspot says of each statement: (its first line, finding). Raises where there is one that it cannot read.

    ``known``: functions that were looked at before, which are passed over; these are added.
    """
    opened = open_functions(script)
    args = Namespace(
        plpgsql=True, ignore=[], ignore_lang=[], sql_fn=[], summary_only=False, proc_without_search_path=[]
    )
    found = []
    original = visitors.parse_plpgsql
    visitors.parse_plpgsql = lambda text: _expressions(original(text))
    try:
        context = state.State(state.Counter(args))
        for statement in statements(script):
            text = as_it_runs(statement, opened)
            if known is not None and HEAD.search(text):
                if text in known:
                    continue
                known.add(text)
            said = io.StringIO()
            first = next((x for x in statement.splitlines() if x and not x.startswith("--")), "")
            with contextlib.redirect_stdout(said):
                try:
                    visitors.visit_sql(context, text)
                except Exception as error:
                    raise AssertionError(f"pgspot cannot read {first}: {error}") from error
            found += [(first, line.rsplit(" at line ", 1)[0]) for line in said.getvalue().splitlines() if line]
    finally:
        visitors.parse_plpgsql = original
    return found
