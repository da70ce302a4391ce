#!/usr/bin/env python3
"""Write docs/sql.md from what a server has installed: signatures, comments, columns, who may call what.

    reference.py [--check]     --check writes nothing, and fails where the page differs

docs/templates/sql.md is the frame: the headings, and the prose that belongs to no single function. A line `{gd_name}`
in it stands for that function or view, in the order of sql/api and sql/schema; `{contents}` for the list at the top.

Comments are plain text, for `\\df+` as well. Empty lines divide paragraphs. Lines that are indented by two spaces are
entries `name: meaning` (by four: the last entry goes on) and become a table. Names with an underscore, SQLSTATEs, JSON
and what stands in double quotes become code, the first mention of another function or view a link.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import written
from psycopg.rows import dict_row

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "sql.md"
TEMPLATE = ROOT / "docs" / "templates" / "sql.md"
WIRE = ROOT / "docs" / "wire.md"
NOTE = "<!-- Written by `make docs` from the comments in sql/ and docs/templates/sql.md: edit those. -->"
WIDTH = 110

# Types and defaults are written as these settings say.
SESSION = """
select set_config('search_path', 'pg_catalog', false), set_config('intervalstyle', 'postgres', false),
    set_config('datestyle', 'ISO', false), set_config('timezone', 'UTC', false)"""

FUNCTIONS = """
select p.proname as name, a.signature, obj_description(p.oid, 'pg_proc') as comment,
    pg_get_function_result(p.oid) as result, p.prokind = 'p' as procedure,
    coalesce(jsonb_agg(
        jsonb_build_array(x.name, format_type(x.type, null), pg_get_function_arg_default(p.oid, x.ord::int))
        order by x.ord
    ) filter (where x.mode in ('i', 'b')), '[]') as arguments,
    coalesce(jsonb_agg(
        jsonb_build_array(x.name, format_type(x.type, null), quote_ident(x.name)) order by x.ord
    ) filter (where x.mode = 't'), '[]') as columns
from gendurable._api() a
join pg_proc p on p.oid = to_regprocedure(format('%I.%s', gendurable._api_schema(), a.signature))
left join lateral (
    select n.name, t.type, coalesce(m.mode, 'i') as mode, t.ord
    from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality t (type, ord)
    left join unnest(p.proargnames) with ordinality n (name, ord) on n.ord = t.ord
    left join unnest(p.proargmodes) with ordinality m (mode, ord) on m.ord = t.ord
) x on true
where a.kind = 'function'
group by p.oid, p.proname, p.prokind, a.signature
order by a.signature collate "C"
"""

VIEWS = """
select c.relname as name, obj_description(c.oid, 'pg_class') as comment,
    jsonb_agg(
        jsonb_build_array(x.attname, format_type(x.atttypid, x.atttypmod), col_description(c.oid, x.attnum))
        order by x.attnum
    ) as columns
from gendurable._api() a
join pg_class c on c.oid = to_regclass(format('%I.%I', gendurable._api_schema(), a.signature))
join pg_attribute x on x.attrelid = c.oid and x.attnum > 0 and not x.attisdropped
where a.kind = 'view'
group by c.oid, c.relname
"""

PROFILES = """
select n.profile, d.functions || d.views as may
from unnest(gendurable._profile_names()) with ordinality n (profile, ord)
cross join lateral gendurable._describe_profile(n.profile) d
order by n.ord
"""

CODE = re.compile(
    r"""
    (?P<call> \b[a-z]\w*_\w+\((?:[^()]|\([^()]*\))*\)(?:\s>=\s\w+)?)
    | (?P<object> \{[^{}]*(?:\{[^{}]*\}[^{}]*)*\} | "\w+":\s(?:true|false|null)\b)
    | (?P<array> \[\[[^\]]*\][^\]]*\] | \[\{[^\]]*\}\] | \[\])
    | "(?P<word> [^"]+)"
    | (?P<name> \b[a-z]+(?:_[a-z0-9]+)+\b)
    | (?P<state> \b(?:GD5\d\d|\d\dP\d\d)\b)
    | (?P<mark> [*<>`])
    """,
    re.VERBOSE,
)


class Mistake(Exception):
    """What keeps the page from being written."""


@dataclass
class Catalog:
    """What the queries above have found: functions (with their overloads) and views by name, names by profile."""

    functions: dict[str, list[dict[str, Any]]]
    views: dict[str, dict[str, Any]]
    profiles: dict[str, list[str]]

    @property
    def names(self) -> set[str]:
        return {*self.functions, *self.views}


def read_catalog(conn: psycopg.Connection[Any]) -> Catalog:
    cursor = conn.cursor(row_factory=dict_row)
    cursor.execute(SESSION)
    functions: dict[str, list[dict[str, Any]]] = {}
    for row in cursor.execute(FUNCTIONS).fetchall():
        if not row["comment"]:
            raise Mistake(f"{row['signature']} has no comment")
        functions.setdefault(row["name"], []).append(row)
    views = {row["name"]: row for row in cursor.execute(VIEWS).fetchall()}
    for name, row in views.items():
        if bare := [column for column, _, comment in row["columns"] if not comment]:
            raise Mistake(f"view {name}: no comment on {', '.join(bare)}")
        if not row["comment"]:
            raise Mistake(f"view {name} has no comment")
    profiles = {row["profile"]: row["may"] for row in cursor.execute(PROFILES).fetchall()}
    return Catalog(functions, views, profiles)


def source_order(root: Path = ROOT) -> list[str]:
    """The functions and views in the order in which they are written down: that of an instance's life."""
    found = []
    for folder, made in (("api", "create or replace (?:function|procedure)"), ("schema", "create view")):
        for path in sorted((root / "sql" / folder).glob("*.sql")):
            found += re.findall(rf"^{made} (gd_\w+)", path.read_text("utf-8"), re.MULTILINE)
    return [*dict.fromkeys(found)]


def wire_shapes(text: str) -> dict[str, list[str]]:
    """For each function the links to its shapes, out of the table of docs/wire.md that says where JSON goes."""
    found: dict[str, list[str]] = {}
    for name, shape in re.findall(r"^\| `(gd_\w+)[.\w]*` \| ([^|]*) \|", text, re.MULTILINE):
        for label, anchor in re.findall(r"\[([^\]]+)\]\((#[^)]+)\)", shape):
            link = f"[{label}](wire.md{anchor})"
            if link not in found.setdefault(name, []):
                found[name].append(link)
    return found


# -- from a comment to Markdown


class Prose:
    """The text of one section: it knows which names it has linked already."""

    def __init__(self, own: str, names: set[str]) -> None:
        self._linked = {own}
        self._names = names

    def inline(self, text: str) -> str:
        return CODE.sub(self._one, text)

    def _one(self, found: re.Match[str]) -> str:
        if mark := found["mark"]:
            return {"<": "&lt;", ">": "&gt;"}.get(mark, "\\" + mark)
        code = found["word"] or found[0]
        span = f"`{code}`"
        if code in self._names - self._linked:
            self._linked.add(code)
            return f"[{span}](#{code})"
        return span

    def table(self, head: str, rows: list[list[str]]) -> str:
        lines = [head, "|".join(["", *["---"] * (head.count("|") - 1), ""])]
        # A bar would end the cell, in code too.
        cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)])

    def comment(self, text: str, arguments: set[str], columns: set[str], others: str = "value") -> str:
        made = []
        for part in re.split(r"\n\s*\n", text.strip("\n")):
            if not part.startswith("  "):
                made.append(self.inline(" ".join(part.split())))
                continue
            entries: list[str] = []
            for line in part.splitlines():
                if line.startswith("    ") and entries:
                    entries[-1] += " " + line.strip()
                elif re.match(r"  [a-z]\w*(, [a-z]\w*)*: ", line):
                    entries.append(line.strip())
                else:
                    raise Mistake(f"not an entry `name: meaning` of a list: {line.strip()}")
            rows = [entry.split(": ", 1) for entry in entries]
            words = {word for names, _ in rows for word in names.split(", ")}
            what = "argument" if words <= arguments else "column" if words <= columns else others
            made.append(
                self.table(
                    f"| {what} | meaning |",
                    [[", ".join(f"`{n}`" for n in names.split(", ")), self.inline(said)] for names, said in rows],
                )
            )
        return "\n\n".join(made)


def fill(head: str, parts: list[str], tail: str) -> str:
    """`head(a, b) tail`, broken between the parts, which stand under each other."""
    lines, indent = [f"{head}("], " " * (len(head) + 1)
    for at, part in enumerate(parts):
        part += "," if at < len(parts) - 1 else ")"
        if at and len(lines[-1]) + 1 + len(part) > WIDTH:
            lines.append(indent + part)
        else:
            lines[-1] += (" " if at else "") + part
    if not parts:
        lines[-1] += ")"
    if tail and len(lines[-1]) + 1 + len(tail) > WIDTH:
        return "\n".join([*lines, f"  {tail}"])
    return "\n".join(lines) + (f" {tail}" if tail else "")


def signature(row: dict[str, Any]) -> str:
    arguments = [
        f"{name} {type_}" + (f" default {default}" if default is not None else "")
        for name, type_, default in row["arguments"]
    ]
    if row["procedure"]:
        return fill(f"call {row['name']}", arguments, "")
    if not row["columns"]:
        return fill(row["name"], arguments, f"returns {row['result']}")
    call = fill(row["name"], arguments, "")
    columns = fill("  returns table ", [f"{quoted} {type_}" for _, type_, quoted in row["columns"]], "")
    joined = f"{call} {columns.strip()}"
    return joined if "\n" not in joined and len(joined) <= WIDTH else f"{call}\n{columns}"


def section(name: str, catalog: Catalog, shapes: dict[str, list[str]]) -> str:
    prose = Prose(name, catalog.names)
    made = [f"### {name}"]
    if name in catalog.views:
        view = catalog.views[name]
        made.append(prose.comment(view["comment"], set(), {column for column, _, _ in view["columns"]}))
        rows = [[f"`{column}`", f"`{type_}`", prose.inline(said)] for column, type_, said in view["columns"]]
        made.append(prose.table("| column | type | meaning |", rows))
    else:
        for row in catalog.functions[name]:
            made.append(f"```\n{signature(row)}\n```")
            given, back = ({one[0] for one in row[what]} for what in ("arguments", "columns"))
            made.append(prose.comment(row["comment"], given, back, "key" if row["result"] == "jsonb" else "value"))
    may = [profile for profile, names in catalog.profiles.items() if name in names]
    ends = [f"Profiles: {', '.join(f'`{profile}`' for profile in may) or 'none, only the owner'}."]
    if name in shapes:
        ends.append(f"JSON: {', '.join(shapes[name])}.")
    return "\n\n".join([*made, " ".join(ends)])


def contents(template: str) -> str:
    lines = []
    for part in re.split(r"^## ", template, flags=re.MULTILINE)[1:]:
        heading = part.splitlines()[0]
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        named = re.findall(r"^\{(gd_\w+)\}$", part, re.MULTILINE)
        links = ", ".join(f"[`{name}`](#{name})" for name in named)
        lines.append(f"- [{heading}](#{anchor})" + (f": {links}" if links else ""))
    return "\n".join(lines)


def page(catalog: Catalog, template: str, shapes: dict[str, list[str]], order: list[str]) -> str:
    """The whole page; a Mistake where template, sources and catalog do not name the same."""
    named = re.findall(r"^\{(\w+)\}$", template, re.MULTILINE)
    known = catalog.names | {"contents"}
    for wrong, why in (
        ({*named} - known, "it names what there is not"),
        (known - {*named}, "it leaves out"),
        ({name for name in named if named.count(name) > 1}, "it names twice"),
    ):
        if wrong:
            raise Mistake(f"docs/templates/sql.md: {why}: {', '.join(sorted(wrong))}")
    wanted = [name for name in order if name in catalog.names]
    if [name for name in named if name != "contents"] != wanted:
        raise Mistake(f"docs/templates/sql.md: the order of sql/ is {', '.join(wanted)}")

    def put(found: re.Match[str]) -> str:
        return contents(template) if found[1] == "contents" else section(found[1], catalog, shapes)

    return f"{NOTE}\n\n" + re.sub(r"^\{(\w+)\}$", put, template, flags=re.MULTILINE)


def made_page(conn: psycopg.Connection[Any]) -> str:
    shapes = wire_shapes(WIRE.read_text("utf-8"))
    return page(read_catalog(conn), TEMPLATE.read_text("utf-8"), shapes, source_order())


def main() -> int:
    check = written.checks(__doc__)
    import run_tests  # next to this file: it finds the servers of the SQL tests

    run_tests.prepare()
    server = next(run_tests.sql_servers(), None)
    if server is None:
        print("no PostgreSQL server to read the catalog of")
        return 1
    with server as one:
        dsn = one.database()
        try:
            with psycopg.connect(dsn) as conn:
                made = made_page(conn)
        except Mistake as mistake:
            print(mistake)
            return 1
        finally:
            one.server.drop_database(dsn)
    return written.write(PAGE, made, "the catalog says", check=check)


if __name__ == "__main__":
    sys.exit(main())
