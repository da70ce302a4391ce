"""Limits and schedules: ``limits``, ``limit set``, ``limit close``, ``schedules``, ``schedule`` and its like."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.text import Text

from .. import calls
from ..calls import viewing
from ..machine.outcome import UNSET
from ..machine.schedule import ScheduleOptions
from .frame import NO, OK, Frame, Machine, Negative, Schedule, command
from .output import age, clock, first_line, table
from .reading import duration, mapping, moment, number_or_none

PANEL = "Limits and schedules"


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "limits", panel=PANEL)(limits)
    limit = typer.Typer(no_args_is_help=True, help="Set a rate limit, close it for a while, or set a key's limit.")
    command(limit, "set", panel=PANEL)(limit_set)
    command(limit, "close", panel=PANEL)(limit_close)
    command(limit, "key", panel=PANEL)(limit_key)
    app.add_typer(limit, name="limit", rich_help_panel=PANEL)
    command(app, "schedules", panel=PANEL)(schedules)
    command(app, "schedule", panel=PANEL)(schedule)
    command(app, "unschedule", panel=PANEL)(unschedule)
    command(app, "trigger", panel=PANEL)(trigger)


def limits(frame: Frame) -> None:
    """List the rate limits, with the buckets that are in use and who waits for them."""
    rows = viewing.rate_limits(frame.conn)
    cells = [
        (
            row["name"],
            _number(row["allowed"]) + (f" / {row['period']}" if row["period"] else ""),
            _number(row["burst"]),
            row["bucket"],
            _number(row["level"]),
            row["queue"],
            f"closed until {clock(row['closed_until'])}" if row["closed_until"] else "",
        )
        for row in rows
    ]
    columns = ("limit", "allowed", "burst", "bucket", "level", "queue waiting", "")
    frame.answer(rows, lambda: table(columns, cells) if rows else Text("There is no rate limit."))


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else ""


def limit_set(
    frame: Frame,
    name: Annotated[str, typer.Argument(help="The name; it decides for NAME and NAME:...")],
    allowed: Annotated[str, typer.Argument(help="How many start in each period; none: the limit is gone.")],
    period: Annotated[str, typer.Option("--per", help="The period: 1s, 1m.", metavar="TIME")] = "1s",
    burst: Annotated[float | None, typer.Option("--burst", help="How many may start at once.")] = None,
) -> None:
    """Set a rate limit."""
    try:
        wanted = None if allowed == "none" else float(allowed)
    except ValueError:
        raise typer.BadParameter(f"{allowed!r} is no number, and not none", param_hint="ALLOWED") from None
    with frame.acting() as conn:
        each = None if wanted is None else duration(period)
        calls.set_rate_limit(conn, name, wanted, each, burst)
    said = {"name": name, "allowed": wanted, "period": each, "burst": burst}
    frame.answer(said, lambda: Text(f"{name}: any number" if wanted is None else f"{name}: {wanted:g} in {period}"))


def limit_close(
    frame: Frame,
    bucket: Annotated[str, typer.Argument(help="The rate limit, or a part of it: mail, mail:eu.")],
    until: Annotated[str, typer.Argument(help="A time, or 10m: from now; none opens it.", metavar="TIME")],
) -> None:
    """Let nothing start out of a bucket before a time."""
    when = None if until == "none" else moment(until, ahead=True)
    with frame.acting() as conn:
        calls.close_rate_limit(conn, bucket, when)
    frame.answer(
        {"bucket": bucket, "closed_until": when},
        lambda: Text(f"{bucket} is open" if when is None else f"{bucket} is closed until {clock(when)}"),
    )


def limit_key(
    frame: Frame,
    prefix: Annotated[str, typer.Argument(help="The partition key, or what stands before its colon.")],
    limit: Annotated[str, typer.Argument(help="How many execute at once; none: one again.")],
) -> None:
    """Say how many of a partition key execute at once."""
    wanted = number_or_none(limit, "LIMIT")
    with frame.acting() as conn:
        calls.set_key_limit(conn, prefix, wanted)
    frame.answer({"prefix": prefix, "limit": wanted}, lambda: Text(f"{prefix}: {limit}"))


# -- schedules


def schedules(frame: Frame) -> None:
    """List the schedules."""
    rows = viewing.schedules(frame.conn)
    cells = [
        (
            row["name"],
            row["cron"],
            row["timezone"],
            row["fsm"],
            "paused" if row["paused_at"] else age(row["next_at"]),
            row["last_id"],
            first_line(row["last_error"]),
        )
        for row in rows
    ]
    columns = ("schedule", "cron", "timezone", "machine", "next", "last id", "error")
    frame.answer(rows, lambda: table(columns, cells) if rows else Text("There is no schedule."))


def schedule(
    frame: Frame,
    name: Schedule,
    cron: Annotated[str, typer.Argument(help='The expression: "0 6 * * *", or "@every 5m".')],
    machine: Machine,
    state: Annotated[str | None, typer.Argument(help="The state of what it inserts.", metavar="[JSON]")] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Whose clock it is.")] = "UTC",
    catch_up: Annotated[
        Literal["one", "none", "all"] | None, typer.Option("--catch-up", help="What missed ticks leave.")
    ] = None,
    overlap: Annotated[
        Literal["allow", "skip", "queue"] | None, typer.Option("--overlap", help="While an earlier one has not ended.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="The queue.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="The partition key.")] = None,
) -> None:
    """Insert an instance at each tick of a cron expression, or change the schedule of this name."""
    options: ScheduleOptions = {}
    if catch_up is not None:
        options["catch_up"] = catch_up
    if overlap is not None:
        options["overlap"] = overlap
    if queue is not None:
        options["queue"] = queue
    if key is not None:
        options["partition_key"] = key
    given = UNSET if state is None else mapping(state)
    with frame.acting() as conn:
        calls.schedule(conn, name, cron, machine, given, timezone=timezone, **options)
    [row] = [row for row in viewing.schedules(frame.conn) if row["name"] == name] or [{"next_at": None}]
    frame.answer({"name": name, "next_at": row["next_at"]}, lambda: Text(f"{name}: next at {clock(row['next_at'])}"))


def unschedule(frame: Frame, name: Schedule) -> None:
    """Forget a schedule. What it has inserted stays."""
    with frame.acting() as conn:
        found = calls.unschedule(conn, name)
    if not found:
        raise Negative(f"there is no schedule {name}")
    frame.answer({"unscheduled": name}, lambda: Text(f"{name} is forgotten"))


def trigger(frame: Frame, name: Schedule) -> int:
    """Insert now what a schedule inserts at its ticks. Code 1: its overlap holds it back."""
    with frame.acting() as conn:
        id = calls.trigger(conn, name)
    frame.answer({"id": id}, lambda: Text("held back: an earlier one has not ended" if id is None else str(id)))
    return NO if id is None else OK
