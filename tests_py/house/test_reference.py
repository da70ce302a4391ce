"""docs/sql.md is what tools/reference.py makes of the catalog."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.tools import load

reference, written = load("reference"), load("written")
TEMPLATE = reference.TEMPLATE.read_text("utf-8")


def page(conn: psycopg.Connection[Any], template: str = TEMPLATE) -> str:
    text: str = reference.page(reference.read_catalog(conn), template, {}, reference.source_order())
    return text


def test_the_reference_is_up_to_date(conn: psycopg.Connection[Any]) -> None:
    assert written.difference(reference.PAGE, reference.made_page(conn)) == "", "run make docs"


def test_it_does_not_depend_on_the_session(conn: psycopg.Connection[Any]) -> None:
    conn.execute("set intervalstyle = 'iso_8601'; set search_path = gendurable, public; set datestyle = 'German'")
    assert written.difference(reference.PAGE, reference.made_page(conn)) == ""


def test_nor_on_the_schema_nor_on_functions_of_others(conn: psycopg.Connection[Any]) -> None:
    conn.execute("""
        alter schema public rename to elsewhere;
        create schema public;
        create function public.gd_find(p_other text) returns text language sql return p_other;
        create function elsewhere.gd_find(p_other int) returns int language sql return p_other""")
    assert written.difference(reference.PAGE, reference.made_page(conn)) == ""


def test_every_signature_is_one_that_can_be_called(conn: psycopg.Connection[Any]) -> None:
    """Types, defaults and answers are the catalog's own."""
    catalog = reference.read_catalog(conn)
    for row in (row for overloads in catalog.functions.values() for row in overloads):
        shown = " ".join(reference.signature(row).split()).replace("( ", "(")
        [said] = conn.execute(
            "select case p.prokind when 'p' then format('call %%s(%%s)', p.proname, "
            "regexp_replace(pg_get_function_arguments(p.oid), '\\m(in|inout) ', '', 'gi')) "
            "else format('%%s(%%s) returns %%s', p.proname, pg_get_function_arguments(p.oid), "
            "pg_get_function_result(p.oid)) end from pg_proc p where p.oid = to_regprocedure('public.' || %s)",
            (row["signature"],),
        ).fetchone() or [None]
        assert shown.lower() == str(said).lower().replace("table(", "table (")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("comment on function gd_find(text) is null", r"gd_find\(text\) has no comment"),
        ("comment on view gd_workers is null", "view gd_workers has no comment"),
        ("comment on column gd_queues.due is null", "view gd_queues: no comment on due"),
        ("comment on function gd_find(text) is E'A list:\n\n  Of what?'", "not an entry .*: Of what"),
        ("alter function gd_find(text) rename to gd_gone", "it names what there is not: gd_find"),
    ],
)
def test_what_is_not_described_is_refused(conn: psycopg.Connection[Any], change: str, said: str) -> None:
    conn.execute(change.encode())
    with pytest.raises(reference.Mistake, match=said):
        page(conn)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{gd_find}", "{gd_find}\n\n{gd_nope}", "it names what there is not: gd_nope"),
        ("{gd_find}\n", "", "it leaves out: gd_find"),
        ("{gd_find}", "{gd_find}\n\n{gd_find}", "it names twice: gd_find"),
        ("{contents}\n", "", "it leaves out: contents"),
        ("{gd_heartbeat}\n\n{gd_release}", "{gd_release}\n\n{gd_heartbeat}", "the order of sql/ is gd_insert, .*"),
    ],
)
def test_a_template_names_all_in_order(conn: psycopg.Connection[Any], old: str, new: str, said: str) -> None:
    assert TEMPLATE.count(old) == 1
    with pytest.raises(reference.Mistake, match=said):
        page(conn, TEMPLATE.replace(old, new))


def test_from_a_comment_to_markdown(conn: psycopg.Connection[Any]) -> None:
    conn.execute("""comment on function gd_find(text) is
'Finds what has p_unique_key < 3 | 4, as gd_signal does
and gd_signal again; gd_find(''a_b'', 1) raises GD501 or 55P03.

  p_unique_key: what "one" holds, with
    "cut": true or [[id, claim_no], ...]

  yes, no: {"a": {"b": 1}} * 2 | "x|y"'""")
    text = page(conn).split("### gd_find\n")[1].split("\n## ")[0]
    assert (
        text.strip()
        == """\
```
gd_find(p_unique_key text) returns bigint
```

Finds what has `p_unique_key` &lt; 3 | 4, as [`gd_signal`](#gd_signal) does and `gd_signal` again; \
`gd_find('a_b', 1)` raises `GD501` or `55P03`.

| argument | meaning |
|---|---|
| `p_unique_key` | what `one` holds, with `"cut": true` or `[[id, claim_no], ...]` |

| value | meaning |
|---|---|
| `yes`, `no` | `{"a": {"b": 1}}` \\* 2 \\| `x\\|y` |

Profiles: `client`, `worker`, `operator`, `reader`."""
    )


def test_a_difference_is_shown() -> None:
    there = reference.PAGE.read_text("utf-8")
    assert written.difference(reference.PAGE, there) == ""
    shown = written.difference(reference.PAGE, there.replace("### gd_find\n", "### gd_found\n"))
    assert {"-### gd_find", "+### gd_found"} <= {*shown.splitlines()}
