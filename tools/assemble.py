#!/usr/bin/env python3
"""Build the SQL scripts in sql/ from sql/schema, sql/kernel, sql/api and sql/upgrades.

For `make` and the wheel's build hook, with the standard library alone. It only concatenates: the bytes of a source are
never changed, and what stands around them depends on the script:

    gendurable.sql                     the plain script: psql -1, psycopg, a migration tool
    gendurable--V.sql                  the extension
    gendurable--A--V.sql               ALTER EXTENSION gendurable UPDATE from version A
    gendurable.upgrade--A--V.sql       the same for a plain installation

An upgrade leads from every released version straight to the current one: all sql/upgrades steps on the way, then the
functions once. A chain of scripts would create today's functions over yesterday's tables.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

GUARD = '\\echo Use "{command}" to load this file. \\quit\n'

# The row may also be inserted by the schema itself; the version stands in gendurable.control only.
RECORD = """
insert into gendurable.meta (version, api_schema)
select '{version}', pg_catalog.current_schema() where not exists (select from gendurable.meta);
update gendurable.meta set version = '{version}', api_schema = pg_catalog.current_schema();
"""

# What a release knows of itself, before the functions, which use it at their end. Functions and no rows: a dump without
# data, or of an extension, has them too.
API = """
create or replace function gendurable._version() returns text
language sql immutable parallel safe as $$
    select '{version}'
$$;

comment on function gendurable._version() is 'The release that these functions are of.';

create or replace function gendurable._api() returns table (signature text, kind text)
language sql immutable parallel safe as $$
    values
{rows}
$$;

comment on function gendurable._api() is
    'The functions and views of the API: in their schema there may be others that are called like them.';

"""

# And of all that it is made of: what gd_doctor finds in the catalog is compared with this.
PARTS = """
create or replace function gendurable._parts() returns table (kind text, name text, made text)
language sql immutable parallel safe as $$
    values
{rows}
$$;

comment on function gendurable._parts() is
    'What this release is made of. made: of a function a hash of its body and its properties, of a table its storage
parameters, of all else the table that it belongs to.';

"""

# Before a step drops anything, with what the installed release knows of its grants.
SETTLE = """do $grants$
declare
  v_path constant text := pg_catalog.current_setting('search_path');
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if to_regprocedure('gendurable._settle_grants()') is not null then
    perform gendurable._settle_grants();
  end if;
  perform pg_catalog.set_config('search_path', v_path, true);
end
$grants$;
"""

# All tables at once, or none: calls that run lock some of them in an order of their own, so one after the other would
# be a deadlock now and then. Those that come meanwhile wait for a tenth of a second at most, and then go before.
TAKE_TABLES = """do $tables$
declare
  v_path constant text := pg_catalog.current_setting('search_path');
  v_timeout constant text := pg_catalog.current_setting('lock_timeout');
  v_tables text;
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  select string_agg(c.oid::regclass::text, ', ' order by c.relname) into v_tables
  from pg_class c
  where c.relnamespace = 'gendurable'::regnamespace and c.relkind = 'r';
  for v_try in 1 .. 100 loop
    begin
      perform set_config('lock_timeout', case when v_try < 100 then '100ms' else v_timeout end, true);
      execute 'lock table ' || v_tables || ' in access exclusive mode';
      perform set_config('lock_timeout', v_timeout, true);
      exit;
    exception when lock_not_available then
      if v_try = 100 then raise; end if;
      perform pg_sleep(0.05);
    end;
  end loop;
  perform pg_catalog.set_config('search_path', v_path, true);
end
$tables$;
"""

# Then what is private goes, and what there still is of it is made anew: helpers may be renamed and answer otherwise
# from one release to the next, and no step has to say so.
DROP_HELPERS = """do $helpers$
declare
  v_path constant text := pg_catalog.current_setting('search_path');
  v_made record;
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  for v_made in
    select format('trigger %I on %s', t.tgname, t.tgrelid::regclass) as name
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid and c.relnamespace = 'gendurable'::regnamespace
    join pg_proc p on p.oid = t.tgfoid and p.pronamespace = 'gendurable'::regnamespace
    union all
    select 'function ' || p.oid::regprocedure from pg_proc p where p.pronamespace = 'gendurable'::regnamespace
      and not exists (select from pg_depend d  -- what a check calls is of the tables, and a step changes it
        where (d.refclassid, d.refobjid, d.classid) = ('pg_proc'::regclass, p.oid, 'pg_constraint'::regclass))
  loop
    execute 'drop ' || v_made.name;
  end loop;
  perform pg_catalog.set_config('search_path', v_path, true);
end
$helpers$;
"""

# Read from the catalog and not from a list: a table that nobody marked would be empty after a restore.
DUMP_MARKS = """
do $marks$
declare
  v_filter constant jsonb := '{filters}';
  v_path constant text := pg_catalog.current_setting('search_path');
  v_relation record;
begin
  -- Whoever may create in the extension's schema could have put a better fitting operator there.
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  for v_relation in
    select c.oid, c.relname
    from pg_catalog.pg_class c
    where c.relnamespace = 'gendurable'::pg_catalog.regnamespace and c.relkind in ('r', 'p', 'S')
    order by c.relname
  loop
    perform pg_catalog.pg_extension_config_dump(v_relation.oid, coalesce(v_filter ->> v_relation.relname::text, ''));
  end loop;
  perform pg_catalog.set_config('search_path', v_path, true);
end
$marks$;
"""

PLAIN_UPGRADE_GUARD = """do $guard$
declare
  v_meta record;
  v_schema text;
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if exists (select from pg_extension e where e.extname = 'gendurable') then
    raise exception 'gendurable is installed as an extension' using errcode = 'GD506',
      hint = 'Run ALTER EXTENSION gendurable UPDATE instead of this script.';
  end if;
  if to_regprocedure('gendurable._version()') is not null and not exists (select from gendurable.meta) then
    -- Restored from a dump without data.
    insert into gendurable.meta (version, api_schema) values (gendurable._version(), '');
  end if;
  select m.version, m.api_schema into strict v_meta from gendurable.meta m;
  -- The schema of the functions may have another name by now: as in gendurable._api_schema, which not each release has.
  select n.nspname into v_schema
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where p.proname = 'gd_version' and p.pronargs = 0 and p.prosecdef
    and p.proowner = (select g.nspowner from pg_namespace g where g.nspname = 'gendurable')
  order by n.nspname = v_meta.api_schema desc, p.oid desc
  limit 1;
  if v_meta.version <> '{source}' then
    raise exception 'this script upgrades gendurable {source}' using errcode = 'GD506',
      detail = format('Installed is %s.', v_meta.version),
      hint = 'Take the script that is named after the installed version.';
  end if;
  v_schema := coalesce(v_schema, v_meta.api_schema);
  perform set_config('search_path', format('%I, pg_temp', v_schema), true);
  perform set_config('gendurable.upgrade', v_schema, true);
end
$guard$;
do $guard$
declare
  v_schema constant text := pg_catalog.current_schema();
  v_path constant text := pg_catalog.current_setting('search_path');
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if v_schema is distinct from nullif(current_setting('gendurable.upgrade', true), '') then
    raise exception 'this script must run in one transaction'
      using hint = 'Run psql -1 -v ON_ERROR_STOP=1 -f with it.';
  end if;
  perform pg_catalog.set_config('search_path', v_path, true);
end
$guard$;
"""


def version(root: Path = ROOT) -> str:
    match = re.search(
        r"^default_version\s*=\s*'([^']+)'", (root / "gendurable.control").read_text(encoding="utf-8"), re.MULTILINE
    )
    if match is None:
        raise SystemExit("gendurable.control: no default_version")
    return match.group(1)


def _sources(root: Path, folder: str) -> str:
    # Path order is byte order, whatever the locale of the machine.
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((root / "sql" / folder).glob("*.sql")))


def _functions(root: Path) -> str:
    # The kernel first: what the server inlines must be there when it is named.
    return _sources(root, "kernel") + "\n" + _sources(root, "api")


def dump_filters(root: Path = ROOT) -> dict[str, str]:
    """The rows of a table that a dump must leave out, because the script itself inserts them.

    The source says it next to the table: `-- dump: gendurable.setting where not built_in`. The row of gendurable.meta
    is written by every script (RECORD), so it is left out here.
    """
    found = re.findall(r"^-- dump: gendurable\.(\w+) (where .+)$", _sources(root, "schema"), re.MULTILINE)
    return {"meta": "where false"} | {table: condition.strip() for table, condition in found}


def _api(root: Path) -> str:
    """What gendurable._api answers. A function's comment is where its types stand without names and defaults."""
    functions, views = _functions(root), _sources(root, "schema")
    made = re.findall(r"^create or replace (?:function|procedure) (gd_\w+)\s*\(", functions, re.MULTILINE)
    commented = re.findall(r"^comment on (?:function|procedure) (gd_\w+)\s*\(([^)]*)\)", functions, re.MULTILINE)
    if sorted(made) != sorted(name for name, _ in commented):
        raise SystemExit(f"sql/api: without a comment: {sorted({*made} - {name for name, _ in commented})}")
    rows = [(f"{name}({' '.join(types.split())})", "function") for name, types in commented]
    rows += [(name, "view") for name in re.findall(r"^create view (gd_\w+)", views, re.MULTILINE)]
    lines = ",\n".join(f"    ('{signature}', '{kind}')" for signature, kind in sorted(rows))
    return API.format(rows=lines, version=version(root))


def _hash_of(body: str, properties: str) -> str:
    """As gendurable._check_functions reads it from the catalog."""
    properties = re.sub(r"--[^\n]*", "", properties)
    language = re.search(r"language (\w+)", properties)
    stability = re.search(r"\b(immutable|stable)\b", properties)
    parallel = re.search(r"\bparallel (safe|restricted)\b", properties)
    settings = re.findall(r"\bset (\w+) = (.+?)(?=\s+set \w+ = |\s*$)", properties, re.DOTALL)
    words = [
        language[1] if language else "",
        stability[1][0] if stability else "v",
        parallel[1][0] if parallel else "u",
        "definer" if "security definer" in properties else "invoker",
        "strict" if re.search(r"\bstrict\b", properties) else "called",
        # the server has its own way to write the names of settings
        *sorted(f"{name}={value.strip(chr(39))}".lower() for name, value in settings),
    ]
    return hashlib.md5((body + "\n" + " ".join(words)).encode(), usedforsecurity=False).hexdigest()


def _made_functions(text: str) -> list[tuple[str, str, str]]:
    found = []
    for part in re.split(r"^(?=create or replace (?:function|procedure) )", text, flags=re.MULTILINE)[1:]:
        made = re.match(
            r"create or replace (?:function|procedure) ([\w.]+)\s*\(.*?^(language .*?)as (\$\w*\$)(.*?)\3;",
            part,
            re.DOTALL | re.MULTILINE,
        )
        told = re.search(r"^comment on (?:function|procedure) ([\w.]+)\s*\(([^)]*)\)", part, re.MULTILINE)
        if not (made and told and made[1] == told[1]):
            raise SystemExit(f"sql: not understood, or without its comment: {part[:80]!r}")
        if re.search(r"(^|,)\s*out\s", told[2]):
            raise SystemExit(f"sql: the comment of {told[1]} has out parameters, by which gd_doctor does not find it")
        found.append(("function", f"{told[1]}({' '.join(told[2].split())})", _hash_of(made[4], made[2])))
    return found


def _made_tables(text: str) -> list[tuple[str, str, str]]:
    """Tables with their storage parameters, and their constraints."""
    found = []
    for made in re.finditer(r"^create table gendurable\.(\w+) \(\n(.*?)^\)(.*?);$", text, re.MULTILINE | re.DOTALL):
        table, columns, rest = made[1], made[2], made[3]
        options = re.search(r"\bwith \((.*)\)", rest, re.DOTALL)
        pairs = re.findall(r"(\w+) = ([\w.]+)", options[1] if options else "")
        found.append(("table", table, ", ".join(sorted(f"{name}={value}" for name, value in pairs))))
        names = re.findall(r"^    constraint (\w+)", columns, re.MULTILINE)
        names += [f"{table}_{one}_check" for one in re.findall(r"^    (?!constraint)(\w+) .*\bcheck \(", columns, re.M)]
        if "primary key" in columns:
            names.append(f"{table}_pkey")
        found += [("constraint", name, table) for name in names]
    return found


def _parts(root: Path, functions: str) -> str:
    def bare(text: str) -> str:
        return re.sub(r"--[^\n]*", "", text)

    schema = bare(_sources(root, "schema"))
    parts = _made_functions(_sources(root, "schema") + functions) + _made_tables(schema)
    parts += [
        ("index", name, table)
        for name, table in re.findall(r"^create (?:unique )?index (\w+) on gendurable\.(\w+)", schema, re.MULTILINE)
    ]
    parts += [("view", name, "") for name in re.findall(r"^create view (gd_\w+)", schema, re.MULTILINE)]
    triggers = r"create (?:constraint )?trigger (\w+) [^;]*?\bon gendurable\.(\w+)"
    parts += [("trigger", name, table) for name, table in re.findall(triggers, bare(functions))]
    lines = ",\n".join(f"    ('{kind}', '{name}', '{made}')" for kind, name, made in sorted(parts))
    return PARTS.format(rows=lines)


def _upgrade_paths(root: Path) -> dict[str, list[Path]]:
    """For each older version the upgrade steps from it to the current version, in order."""
    steps: dict[str, tuple[str, Path]] = {}
    for path in sorted((root / "sql" / "upgrades").glob("*--*.sql")):
        source, target = path.stem.split("--")
        if source in steps:
            raise SystemExit(f"sql/upgrades: two steps lead away from {source}")
        steps[source] = (target, path)
    paths: dict[str, list[Path]] = {}
    for source in steps:
        way: list[Path] = []
        at = source
        while at in steps and len(way) <= len(steps):
            way.append(steps[at][1])
            at = steps[at][0]
        if at != version(root):
            raise SystemExit(f"sql/upgrades: the steps from {source} lead to {at}, not to {version(root)}")
        paths[source] = way
    return paths


def names(root: Path = ROOT) -> list[str]:
    """The files that an extension installation needs, the first one being the script of the current version."""
    current = version(root)
    return [f"gendurable--{current}.sql", *(f"gendurable--{old}--{current}.sql" for old in _upgrade_paths(root))]


def assemble(root: Path = ROOT) -> dict[str, str]:
    """Every script by its file name."""
    current = version(root)
    functions = _api(root) + _functions(root)
    functions = _parts(root, functions) + functions
    record = RECORD.format(version=current)
    filters = json.dumps(dump_filters(root), sort_keys=True).replace("'", "''")
    marks = DUMP_MARKS.replace("{filters}", filters)
    header = f"-- gendurable {current}. Generated by make from the folders of sql/.\n"
    body = _sources(root, "schema") + "\n" + functions + record
    scripts = {
        "gendurable.sql": header + body,
        f"gendurable--{current}.sql": header + GUARD.format(command="CREATE EXTENSION gendurable") + body + marks,
    }
    for old, way in _upgrade_paths(root).items():
        steps = "\n".join(path.read_text(encoding="utf-8") for path in way)
        change = TAKE_TABLES + SETTLE + DROP_HELPERS + steps + "\n" + functions + record
        guard = GUARD.format(command=f"ALTER EXTENSION gendurable UPDATE TO '{current}'")
        scripts[f"gendurable--{old}--{current}.sql"] = header + guard + change + marks
        scripts[f"gendurable.upgrade--{old}--{current}.sql"] = (
            header + PLAIN_UPGRADE_GUARD.replace("{source}", old) + change
        )
    return scripts


def write(root: Path = ROOT) -> list[Path]:
    """Write the scripts to sql/, remove those of another version, and return what stands there now."""
    scripts = assemble(root)
    for stale in (root / "sql").glob("gendurable*.sql"):
        if stale.name not in scripts:
            stale.unlink()
    for name, text in scripts.items():
        path = root / "sql" / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            # Renamed into place: another process may be reading it.
            part = path.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    return [root / "sql" / name for name in scripts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the extension's script files, build nothing")
    if parser.parse_args().list:
        print(*(f"sql/{name}" for name in names()))
        return
    for path in write():
        print(path.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
