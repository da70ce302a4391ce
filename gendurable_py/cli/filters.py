"""The options that say which instances are meant, as a filter of `calls.match` and `calls.list`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer
from pydantic import JsonValue

from .reading import duration, mapping, moment

PANEL = "Which instances"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=PANEL, show_default=False)


@dataclass(frozen=True)
class Filters:
    """All that are given have to fit."""

    machine: Annotated[str | None, _option("--machine", "-m", help="Of this machine.")] = None
    version: Annotated[int | None, _option("--version", help="Of this version of it.")] = None
    step: Annotated[str | None, _option("--step", help="At this step.")] = None
    status: Annotated[
        str | None,
        _option(
            "--status",
            "-s",
            help="runnable, executing, awaiting_signal, awaiting_children, done, failed, "
            "cancelled; several with commas. open: all that have not ended.",
        ),
    ] = None
    queue: Annotated[str | None, _option("--queue", "-q", help="In this queue.")] = None
    key: Annotated[str | None, _option("--key", help="With this partition key.")] = None
    key_prefix: Annotated[str | None, _option("--key-prefix", help="With a partition key that begins so.")] = None
    unique: Annotated[str | None, _option("--unique", help="With this unique key.")] = None
    unique_prefix: Annotated[str | None, _option("--unique-prefix", help="With a unique key that begins so.")] = None
    rate_limit: Annotated[str | None, _option("--rate-limit", help="With this rate limit, or a part of it.")] = None
    parent: Annotated[int | None, _option("--parent", help="Children of this instance.", metavar="ID")] = None
    of_worker: Annotated[str | None, _option("--worker", help="Claimed by this worker.")] = None
    error: Annotated[str | None, _option("--error", help="Whose last error contains this.")] = None
    meta: Annotated[str | None, _option("--meta", help="Whose meta contains this.", metavar="JSON")] = None
    attributes: Annotated[
        str | None, _option("--attributes", help="Whose attributes contain this.", metavar="JSON")
    ] = None
    inserted_after: Annotated[str | None, _option("--inserted-after", help="A time, or 2h: ago.", metavar="TIME")] = (
        None
    )
    inserted_before: Annotated[str | None, _option("--inserted-before", help="The same.", metavar="TIME")] = None
    finished_after: Annotated[str | None, _option("--finished-after", help="The same.", metavar="TIME")] = None
    finished_before: Annotated[str | None, _option("--finished-before", help="The same.", metavar="TIME")] = None
    due_before: Annotated[str | None, _option("--due-before", help="The same.", metavar="TIME")] = None
    stuck: Annotated[
        str | None, _option("--stuck", help="Open, due or parked, and not written for so long: 10m.", metavar="TIME")
    ] = None
    filter: Annotated[
        str | None, _option("--filter", help="More keys of a filter of gd_match, as an object.", metavar="JSON")
    ] = None

    def read(self) -> dict[str, JsonValue]:
        """The filter; empty: nothing was said."""
        said: dict[str, object] = {
            "fsm": self.machine,
            "version": self.version,
            "step": self.step,
            "status": None if self.status is None else _statuses(self.status),
            "queue": self.queue,
            "partition_key": self.key,
            "partition_prefix": self.key_prefix,
            "unique_key": self.unique,
            "unique_prefix": self.unique_prefix,
            "rate_limit": self.rate_limit,
            "parent_id": self.parent,
            "worker": self.of_worker,
            "error": self.error,
            "meta": None if self.meta is None else mapping(self.meta),
            "attributes": None if self.attributes is None else mapping(self.attributes),
            "stuck_for_ms": None if self.stuck is None else round(duration(self.stuck) * 1000),
        }
        for name in ("inserted_after", "inserted_before", "finished_after", "finished_before", "due_before"):
            text = getattr(self, name)
            said[name] = None if text is None else moment(text).isoformat()
        found = {key: value for key, value in said.items() if value is not None}
        if self.filter is not None:
            found |= mapping(self.filter)
        return cast("dict[str, JsonValue]", found)


OPEN = ["runnable", "executing", "awaiting_signal", "awaiting_children"]


def _statuses(text: str) -> list[str]:
    return [status for part in text.split(",") for status in (OPEN if part.strip() == "open" else [part.strip()])]
