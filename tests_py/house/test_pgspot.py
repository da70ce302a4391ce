"""No name in our functions and scripts means what a caller of another search_path makes of it, says pgspot."""

from __future__ import annotations

import re

import pytest
from support.spots import HEAD, findings, open_functions

from gendurable_py.install import extension_files, plain_script

# A procedure that commits cannot have a search_path of its own, and what runs handlers gives them that of its caller:
# their bodies are looked at as they run, under any search_path.
OPEN = {"gd_run", "gd_run_claims", "gd_rehearse", "gd_migrate"}

# In tables and views all operands have their operator exactly, which is found in pg_catalog first: proved by the test
# that installs among everything inexact (test_roles.py).
SAFE = (
    "create table gendurable.",
    "alter table gendurable.",
    "insert into gendurable.",
    "create view gd_",
    "create or replace view gd_",
)


def is_accepted(statement: str, finding: str) -> bool:
    code, _, name = finding.partition(": ")
    name = name.rpartition(": ")[2].split("(")[0]
    # PS002, `create or replace`: PostgreSQL refuses to replace what is not the extension's. PS005: no search_path.
    return code == "PS002" or statement.startswith(SAFE) or (code == "PS005" and name in OPEN)


def test_pgspot_finds_nothing() -> None:
    known: set[str] = set()
    scripts = [file.read_text() for file in extension_files() if file.suffix == ".sql"]
    assert len(scripts) > 2
    wrong = [found for script in scripts for found in findings(script, known) if not is_accepted(*found)]
    assert wrong == []
    assert len(known) > 400


def test_what_runs_in_the_search_path_of_its_caller_is_known() -> None:
    # All others set one, or run in that of the function that called them: no one else may call them, or it is their own
    # rights that such a caller has.
    assert open_functions(plain_script()) == OPEN


def test_the_names_of_the_caller_are_those_of_its_handlers_alone() -> None:
    # _run_group lets the search_path of the caller in for the handlers, and _call_text looks up nothing else meanwhile.
    [body] = [head["body"] for head in HEAD.finditer(plain_script()) if head["name"] == "_run_group"]
    [between] = re.findall(
        r"set_config\('search_path', p_path, true\);\n(.*?set_config\('search_path'.*?;)\n", body, re.DOTALL
    )
    assert [line.strip() for line in between.splitlines()] == [
        "execute v_sql into v_some using v_some, v_handler, v_pin;",
        "v_after := pg_catalog.current_setting('search_path');",
        "perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);",
    ]
    [text] = [head["body"] for head in HEAD.finditer(plain_script()) if head["name"] == "_call_text"]
    queries = re.findall(r"'(\(?\s?(?:select|where) .*?)'[,;)]", text)
    assert len(queries) == 4
    for query in queries:
        assert re.findall(r"(?<![\w.])(\w+)\(", query.replace("%s(", "")) == []


@pytest.mark.parametrize(
    "body",
    [
        "return query select length('x');",
        "if found then null; elsif length('x') > 1 then null; end if;",
        "if found then null; elsif found then perform length('x'); end if;",
        "open v_cursor for execute format('x');",
        "v_text := length('x');",
        "v_list[length('x')] := 1;",
        "raise exception using message = lower('x');",
        "begin null; exception when others then perform length('x'); end;",
        "for v_one in select length('x') loop null; end loop;",
        "perform gendurable._helper();",
    ],
)
def test_pgspot_looks_everywhere(body: str) -> None:
    script = f"""
create schema gendurable;
create or replace function gendurable._helper() returns int
language plpgsql as $$ begin return length('x'); end $$;
create or replace function gd_open() returns setof int
language plpgsql as $$ declare v_text text; v_list int[]; v_cursor refcursor; v_one record; begin {body} end $$;
"""
    found = {finding for _, finding in findings(script)}
    assert any(finding.startswith("PS016") for finding in found), found
    # ... and not where the search_path is set
    pinned = script.replace("returns setof int\n", "returns setof int set search_path = pg_catalog, pg_temp\n")
    assert {finding[:5] for _, finding in findings(pinned)} <= {"PS002"}


def test_what_pgspot_cannot_read_is_an_error() -> None:
    with pytest.raises(AssertionError, match="cannot read create function odd"):
        findings("create function odd() returns int language plpgsql as $$ begin x := 1; end $$;")
