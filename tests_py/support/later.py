"""A made-up next release of gendurable: a checkout with changed tables and functions, built."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from support.server import ROOT

from gendurable_py.install import version

ASSEMBLE = runpy.run_path(str(ROOT / "tools" / "assemble.py"))
NEXT = "{}.{}.0".format(version().split(".")[0], int(version().split(".")[1]) + 1)

# What the made-up release changes. A new installation and an upgraded one get the tables from two places.
TABLES = """
alter table gendurable.instance add note text not null default 'none';
comment on column gendurable.instance.note is 'Whatever.';
create index instance_note on gendurable.instance (note) where note <> 'none';
create table gendurable.extra (
    id bigint generated always as identity primary key,
    instance_id bigint not null,
    made_at timestamptz not null default clock_timestamp()
);
alter table gendurable.key_limit add constraint key_limit_most check (max_executing < 1000000);
"""
# gd_find gets an argument: the old function goes, and whoever could call it can call the new one, since grants are
# remembered. What it does stands in sql/api, as for every other function.
STEP = TABLES + "drop function gd_find(text);\n"
FIND = """
create or replace function gd_find(p_unique_key text, p_fsm text = null) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return (
        select i.id from gendurable.instance i
        where i.unique_held = p_unique_key and i.fsm = coalesce(p_fsm, i.fsm));
end $$;

comment on function gd_find(text, text) is 'The id of the instance that holds the unique key now, or null.';

create or replace function gd_extra() returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    return (select 'extra ' || count(*) from gendurable.extra x);
end $$;

comment on function gd_extra() is 'Is new.';
"""


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def next_release(root: Path) -> Path:
    """Lay it out below `root`, an empty directory."""
    shutil.copytree(ROOT / "sql", root / "sql", ignore=shutil.ignore_patterns("gendurable*"))
    (root / "sql" / "upgrades").mkdir(exist_ok=True)
    shutil.copy(ROOT / "gendurable.control", root)
    changed(root / "gendurable.control", f"'{version()}'", f"'{NEXT}'")
    (root / "sql" / "schema" / "950_later.sql").write_text(TABLES)
    (root / "sql" / "upgrades" / f"{version()}--{NEXT}.sql").write_text(STEP)
    insert_file = root / "sql" / "api" / "100_insert.sql"
    text = insert_file.read_text()
    start = text.index("create or replace function gd_find(")
    insert_file.write_text(text[:start] + FIND + text[text.index(";", text.index("comment on function gd_find")) + 1 :])
    changed(root / "sql" / "kernel" / "000_numbers.sql", "interval '60 seconds'", "interval '59 seconds'")
    # What is new reaches the roles of old.
    changed(
        root / "sql" / "api" / "900_access.sql",
        "{gd_reap,gd_gc,gd_maintain}",
        "{gd_extra,gd_reap,gd_gc,gd_maintain}",
    )
    ASSEMBLE["write"](root)
    return root
