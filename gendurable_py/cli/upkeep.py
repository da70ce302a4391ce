"""The installation and its upkeep: ``install``, ``upgrade``, ``uninstall``, ``maintain``, ``doctor``; ``steps`` and
``rehearse``."""

from __future__ import annotations

from typing import Annotated

import typer
from psycopg.errors import UndefinedFunction
from rich.console import Group, RenderableType
from rich.text import Text

from .. import calls
from ..calls import Finding, Rehearsed, viewing
from ..errors import VersionMismatch
from ..install import install, uninstall, upgrade
from .frame import NO, OK, Frame, Refused, Yes, command
from .looking import readable_line
from .output import facts, plain, styled, table
from .reading import duration

PANEL = "Installation and upkeep"


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "install", panel=PANEL)(install_here)
    command(app, "upgrade", panel=PANEL)(upgrade_here)
    command(app, "uninstall", panel=PANEL)(uninstall_here)
    command(app, "grant", panel=PANEL)(grant)
    command(app, "doctor", panel=PANEL)(doctor)
    command(app, "maintain", panel=PANEL)(maintain)
    command(app, "steps", panel="Steps in SQL")(steps)
    command(app, "rehearse", panel="Steps in SQL")(rehearse)


def install_here(frame: Frame) -> None:
    """Install gendurable in the database, in the first schema of the search_path. It needs no superuser."""
    version = install(frame.conn)
    frame.answer({"version": version}, lambda: Text(f"gendurable {version} is installed"))


def upgrade_here(frame: Frame) -> None:
    """Bring an installation of `gendurable install` to the version of this package."""
    version = upgrade(frame.conn)
    frame.answer({"version": version}, lambda: Text(f"gendurable {version} is installed"))


def uninstall_here(frame: Frame, yes: Yes = False) -> None:
    """Remove gendurable from the database, with all instances."""
    try:
        counted = calls.count(frame.conn, {})
        how_many = f"{counted.instances}{'' if counted.exact else ' or more'} instances"
    except (UndefinedFunction, VersionMismatch) as error:
        raise Refused("gendurable is not installed here") from error
    frame.confirm(f"Remove gendurable from database {frame.conn.info.dbname}, with {how_many}?", yes)
    uninstall(frame.conn)
    frame.answer({"uninstalled": True}, lambda: Text("gendurable is removed"))


def grant(
    frame: Frame,
    role: Annotated[str, typer.Argument(help="The role.")],
    profile: Annotated[str, typer.Argument(help="client, worker, operator, reader or author.")],
) -> None:
    """Give a role the rights of a profile."""
    with frame.acting() as conn:
        calls.grant(conn, role, profile)
    frame.answer({"role": role, "profile": profile}, lambda: Text(f"{role} is a {profile}"))


def doctor(
    frame: Frame, everything: Annotated[bool, typer.Option("--all", help="Also what is in order.")] = False
) -> int:
    """Look for what is wrong with the installation, the database or the work. Code 1: there is a problem."""
    findings = calls.doctor(frame.conn)
    frame.answer(findings, lambda: _findings(findings, everything))
    return NO if any(finding.level == "problem" for finding in findings) else OK


def _findings(findings: list[Finding], everything: bool) -> RenderableType:
    made: list[RenderableType] = []
    for finding in findings:
        if finding.level == "ok" and not everything:
            continue
        made.append(Text.assemble(styled(finding.level), f"  {plain(finding.check)}: {plain(finding.message)}"))
        if finding.hint:
            made.append(Text(f"    {plain(finding.hint)}", style="dim"))
    fine = sum(finding.level == "ok" for finding in findings)
    made.append(Text(f"{fine} of {len(findings)} are in order."))
    return Group(*made)


def maintain(
    frame: Frame,
    retention: Annotated[
        str, typer.Option("--retention", help="How long what has ended is kept.", metavar="TIME")
    ] = "7d",
) -> None:
    """Do what engines do now and then: take lost claims back, remove what is past its retention, repair."""
    done = calls.maintain(frame.conn, duration(retention))
    frame.answer(done, lambda: facts((name, count) for name, count in done.items()))


def steps(frame: Frame) -> None:
    """List the steps that are functions of the database, or have a queue of their own."""
    rows = viewing.steps(frame.conn)
    cells = [
        (
            row["fsm"],
            row["step"],
            row["version"],
            row["handler"] or "(in another language)",
            row["queue"],
            row["problem"],
        )
        for row in rows
    ]
    columns = ("machine", "step", "version", "function", "queue", "problem")
    frame.answer(rows, lambda: table(columns, cells) if rows else Text("No step is defined."))


def rehearse(
    frame: Frame,
    id: Annotated[int | None, typer.Argument(help="One instance, until it parks.", metavar="[ID]")] = None,
    queue: Annotated[str, typer.Option("--queue", "-q", help="What is due in this queue.")] = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many steps.")] = 100,
) -> int:
    """Run steps in SQL and undo them: what each would come to. Code 1: one of them fails."""
    rows = calls.rehearse(frame.conn, queue, id, limit)
    frame.answer(rows, lambda: _rehearsed(rows))
    return NO if any(row.result in ("error", "no_handler") for row in rows) else OK


def _rehearsed(rows: list[Rehearsed]) -> RenderableType:
    if not rows:
        return Text("Nothing is due.")
    cells = [
        (
            row.id,
            row.fsm,
            row.step,
            row.result,
            readable_line(row.writes) if row.writes else "",
            readable_line(row.after),
        )
        for row in rows
    ]
    return table(("id", "machine", "step", "result", "writes", "after"), cells, keep=("id", "result"))
