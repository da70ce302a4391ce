"""Putting work in: ``insert``, and ``insert-many`` for files of JSON lines.

A batch is a transaction: all of it is in, or none. Which line is at fault is found by halves, in transactions that are
undone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import psycopg
import typer
from pydantic import JsonValue
from rich.text import Text

from .. import calls
from ..errors import InvalidArgument
from ..machine.outcome import UNSET
from .frame import NO, OK, REFUSED, Frame, Negative, command
from .many import progress
from .reading import duration, mapping, moment

PANEL = "Putting work in"
_LONGEST_LINE = 64 << 20
_LARGEST_BATCH = 8 << 20
_TOLD = 10


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "insert", panel=PANEL)(insert)
    command(app, "insert-many", panel=PANEL)(insert_many)


def insert(
    frame: Frame,
    machine: Annotated[str, typer.Argument(help="The name of the machine.")],
    state: Annotated[str | None, typer.Argument(help="Its state, an object; @FILE reads it.", metavar="[JSON]")] = None,
    step: Annotated[str | None, typer.Option("--step", help="The first step.")] = None,
    version: Annotated[int | None, typer.Option("--version", help="The version of the machine.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="The queue.")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="Lower runs earlier.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Its partition key.")] = None,
    unique: Annotated[str | None, typer.Option("--unique", help="Its unique key.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="When: a time, or 2h: from now.", metavar="TIME")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="Its deadline, the same.", metavar="TIME")] = None,
    rate_limit: Annotated[str | None, typer.Option("--rate-limit", help="Its rate limit.")] = None,
    max_attempts: Annotated[int | None, typer.Option("--max-attempts", help="How often a step is tried.")] = None,
    meta: Annotated[str | None, typer.Option("--meta", help="An object kept beside it.", metavar="JSON")] = None,
    attributes: Annotated[
        str | None, typer.Option("--attributes", help="An object that it is searched by.", metavar="JSON")
    ] = None,
    on_conflict: Annotated[
        Literal["nothing", "id", "reschedule", "replace"],
        typer.Option("--on-conflict", help="What becomes of the holder of the unique key."),
    ] = "nothing",
    wait: Annotated[str | None, typer.Option("--wait", help="Wait so long for its end: 30s.", metavar="TIME")] = None,
) -> int:
    """Insert an instance and print its id. Code 1: another one holds the unique key."""
    id = calls.insert(
        frame.conn,
        machine,
        UNSET if state is None else mapping(state),
        step=step,
        version=version,
        queue=queue,
        priority=priority,
        partition_key=key,
        unique_key=unique,
        eligible_at=None if at is None else moment(at, ahead=True),
        expires_at=None if expires is None else moment(expires, ahead=True),
        rate_limit=rate_limit,
        max_attempts=max_attempts,
        meta=None if meta is None else mapping(meta),
        attributes=None if attributes is None else mapping(attributes),
        on_conflict=on_conflict,
    )
    if id is None:
        assert unique is not None
        holder = calls.find(frame.conn, unique)
        raise Negative("the unique key is held" + ("" if holder is None else f" by instance {holder}"))
    if wait is None:
        frame.answer({"id": id}, lambda: Text(str(id)))
        return OK
    frame.note(f"instance {id}")
    return show_end(frame, id, duration(wait))


def show_end(frame: Frame, id: int, timeout: float | None) -> int:
    """Wait for the end of an instance and show it: 0 if it is done, else 1."""
    found = calls.wait(frame.conn, id, timeout)
    answer = {"id": id, "status": found.status, "result": found.result, "last_error": found.last_error}

    def render() -> Text:
        text = Text(found.status)
        if found.status != "done":
            text.append(f": {found.last_error or ''}")
        elif found.result is not None:
            text.append(f"\n{json.dumps(found.result, ensure_ascii=False, indent=2)}")
        return text

    frame.answer(answer, render)
    return OK if found.status == "done" else NO


# -- many


@dataclass
class _Report:
    inserted: int = 0
    existing: int = 0
    rejected: list[dict[str, JsonValue]] = field(default_factory=list)

    @property
    def as_json(self) -> dict[str, object]:
        return {"inserted": self.inserted, "existing": self.existing, "rejected": self.rejected}

    def tell(self) -> str:
        text = f"inserted: {self.inserted}"
        if self.existing:
            text += f"\ntheir unique key was held: {self.existing}"
        if self.rejected:
            text += f"\nrejected: {len(self.rejected)}"
            for one in self.rejected[:_TOLD]:
                text += f"\n  line {one['line']}: {one['error']}"
            if len(self.rejected) > _TOLD:
                text += "\n  ..."
        return text


@dataclass(frozen=True)
class _Line:
    number: int
    raw: bytes
    what: dict[str, JsonValue] | None
    problem: str | None


def insert_many(
    frame: Frame,
    file: Annotated[str, typer.Argument(help="A file of JSON lines; - is stdin.")] = "-",
    machine: Annotated[str | None, typer.Option("--machine", "-m", help="Of lines that have no fsm.")] = None,
    states: Annotated[bool, typer.Option("--states", help="Each line is a state alone; needs --machine.")] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, max=10000, help="Lines in a transaction.")] = 1000,
    skip_errors: Annotated[
        bool, typer.Option("--skip-errors", help="Go on behind lines that are refused, and report them.")
    ] = False,
    rejects: Annotated[Path | None, typer.Option("--rejects", help="Write refused lines to this file.")] = None,
) -> int:
    """Insert instances from JSON lines, each an object of gd_insert_many: {"fsm": "mail", "state": {"to": "ada"}}.

    What has a unique key that is held stays as it is, so a file with unique keys may be sent again.
    """
    if states and machine is None:
        raise typer.BadParameter("--states needs --machine")
    report = _Report()
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open(file))
        kept = stack.enter_context(rejects.open("wb")) if rejects is not None else None
        bar = stack.enter_context(progress(frame, counted=False))
        task = bar.add_task("inserting", total=_size(stream))
        for lines in _batched(_lines(stream, machine, states), batch):
            refused = _insert_batch(frame.conn, lines, report, skip_errors)
            for one in refused:
                if kept is not None:
                    kept.write(one.raw.rstrip(b"\r\n") + b"\n")
            bar.update(task, advance=sum(len(one.raw) for one in lines), description=f"inserted {report.inserted}")
            if refused and not skip_errors:
                break
    frame.answer(report.as_json, lambda: Text(report.tell()))
    if not report.rejected:
        return OK
    if not skip_errors:
        frame.complain(
            f"stopped at line {report.rejected[0]['line']}: {report.rejected[0]['error']}",
            f"what precedes line {lines[0].number} is in; mend the file, or add --skip-errors",
        )
        return REFUSED
    return NO


def _insert_batch(conn: psycopg.Connection[Any], lines: list[_Line], report: _Report, skip: bool) -> list[_Line]:
    """Insert those that can be; answers the others. Without ``skip`` one bad line keeps the whole batch out."""
    refused = [line for line in lines if line.problem is not None]
    good = [line for line in lines if line.problem is None]
    while True:
        if refused and not skip:
            break
        try:
            with conn.transaction():
                answers = calls.insert_many(conn, [line.what or {} for line in good])
        except psycopg.Error as error:
            if not _blames_a_line(error):
                raise
            bad, why = _find_bad(conn, good, error)
            refused.append(_Line(bad.number, bad.raw, None, why))
            good = [line for line in good if line.number != bad.number]
            continue
        report.inserted += sum(answer.created for answer in answers)
        report.existing += sum(not answer.created for answer in answers)
        break
    refused.sort(key=lambda line: line.number)
    report.rejected += [{"line": line.number, "error": line.problem} for line in refused]
    return refused


def _find_bad(conn: psycopg.Connection[Any], lines: list[_Line], error: psycopg.Error) -> tuple[_Line, str]:
    """The first line that is refused by itself, by halves: a thousand lines are ten calls."""
    first, last = 0, len(lines)
    while last - first > 1:
        middle = (first + last) // 2
        found = _try(conn, lines[first:middle])
        if found is None:
            first = middle
        else:
            last, error = middle, found
    # Alone it may be fine: then its neighbours and it do not go together, and the whole is to blame.
    error = _try(conn, lines[first:last]) or error
    return lines[first], _describe(error)


def _try(conn: psycopg.Connection[Any], lines: list[_Line]) -> psycopg.Error | None:
    try:
        with conn.transaction(force_rollback=True):
            calls.insert_many(conn, [line.what or {} for line in lines])
    except psycopg.Error as error:
        if not _blames_a_line(error):
            raise
        return error
    return None


def _blames_a_line(error: psycopg.Error) -> bool:
    state = error.sqlstate
    return isinstance(error, InvalidArgument) or (state is not None and state[:2] in ("22", "23", "54", "P0"))


def _describe(error: psycopg.Error) -> str:
    message = (error.diag.message_primary or str(error)).partition("\nHINT:  ")[0]
    return f"{message} ({error.diag.message_detail})" if error.diag.message_detail else message


def _open(file: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if file == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(file, "rb")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None


def _size(stream: BinaryIO) -> int | None:
    try:
        about = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return None
    return about.st_size if stat.S_ISREG(about.st_mode) else None


def _lines(stream: BinaryIO, machine: str | None, states: bool) -> Iterator[_Line]:
    for number in itertools.count(1):
        raw = stream.readline(_LONGEST_LINE)
        if not raw:
            return
        if len(raw) == _LONGEST_LINE and not raw.endswith(b"\n"):
            raise typer.BadParameter(f"line {number} is longer than {_LONGEST_LINE >> 20} MB", param_hint="FILE")
        if raw.strip(b"\xef\xbb\xbf \t\r\n"):
            yield _read_line(number, raw, machine, states)


def _read_line(number: int, raw: bytes, machine: str | None, states: bool) -> _Line:
    try:
        found = json.loads(raw.removeprefix(b"\xef\xbb\xbf").decode())
    except (ValueError, RecursionError) as error:
        return _Line(number, raw, None, f"this is no JSON: {error}")
    if not isinstance(found, dict):
        return _Line(number, raw, None, "this is no JSON object")
    if states:
        found = {"fsm": machine, "state": found}
    elif machine is not None and "fsm" not in found:
        found["fsm"] = machine
    return _Line(number, raw, found, None)


def _batched(lines: Iterator[_Line], size: int) -> Iterator[list[_Line]]:
    some: list[_Line] = []
    taken = 0
    for line in lines:
        some.append(line)
        taken += len(line.raw)
        if len(some) == size or taken >= _LARGEST_BATCH:
            yield some
            some, taken = [], 0
    if some:
        yield some
