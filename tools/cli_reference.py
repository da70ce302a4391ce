#!/usr/bin/env python3
"""Write docs/cli-reference.md from the commands as they are registered: arguments, options, defaults, help.

    cli_reference.py [--check]     --check writes nothing, and fails where the page differs

It reads what the functions declare and not what a version of typer makes of it, so that the page is the same for each.
What is about one option stands in its help, what is about one command in the docstring of its function.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import written

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from typer.models import ArgumentInfo, OptionInfo, TyperInfo  # noqa: E402 - behind the line above, as the others

from gendurable_py.cli import app  # noqa: E402

PAGE = ROOT / "docs" / "cli-reference.md"
HEAD = """\
<!-- Written by `make docs` from the commands in gendurable_py/cli: edit their docstrings and helps. -->

# Command line, all options

[Command line](cli.md) is the guide: the connection, the answers, the exit codes, what a time or a filter looks like. \
Here is every command with all that it takes.

Each command takes these two besides:
"""
COMMON = ("dsn", "json")
MARKS = {"<": "&lt;", ">": "&gt;"}


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command, as the page shows it."""

    spelled: str
    usage: str
    help: str
    is_argument: bool


@dataclass(frozen=True)
class Command:
    """One command: `pause queue` is one."""

    name: str
    panel: str
    help: str
    parameters: list[Parameter]
    common: list[Parameter]


def default_of(value: object) -> Any:
    """The default of a field of TyperInfo, which may be wrapped to say that nobody gave it."""
    return getattr(value, "value", value)


def read_commands(typed: Any, prefix: str = "", panel: str = "") -> Iterator[Command]:
    for info in typed.registered_commands:
        function = info.callback
        signature = inspect.signature(function, eval_str=True)
        every = {name: read_parameter(one) for name, one in signature.parameters.items()}
        yield Command(
            prefix + str(info.name),
            panel or default_of(info.rich_help_panel),
            inspect.getdoc(function) or "",
            [one for name, one in every.items() if name not in COMMON],
            [one for name, one in every.items() if name in COMMON],
        )
    group: TyperInfo
    for group in typed.registered_groups:
        yield from read_commands(group.typer_instance, f"{prefix}{group.name} ", default_of(group.rich_help_panel))


def read_parameter(parameter: inspect.Parameter) -> Parameter:
    annotation = parameter.annotation
    kind, info = typing.get_args(annotation)[:2]
    required = parameter.default is inspect.Parameter.empty
    many = typing.get_origin(strip_none(kind)) is list
    if isinstance(info, ArgumentInfo):
        metavar = info.metavar or parameter.name.upper()
        shown = metavar if required or metavar.startswith("[") else f"[{metavar}]"
        shown += "" if not many or shown.rstrip("]").endswith("...") else "..."
        return Parameter(shown.strip("[]"), shown, sentence(info, parameter.default, required), True)
    assert isinstance(info, OptionInfo)
    # The first name stands where older spellings have the default.
    given = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str) and one.startswith("-")]
    declared = [*dict.fromkeys(given)] or [f"--{parameter.name.replace('_', '-')}"]
    value = "" if strip_none(kind) is bool else f" {info.metavar or metavar_of(kind)}"
    spelled = f"{', '.join(sorted(declared, key=len))}{value}"
    usage = "" if not required else f"{max(declared, key=len)}{value}"
    text = sentence(info, parameter.default, required)
    return Parameter(spelled, usage, text + (" May be there several times." if many else ""), False)


def strip_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(one for one in typing.get_args(kind) if one is not type(None))
    return kind


def metavar_of(kind: Any) -> str:
    kind = strip_none(kind)
    if typing.get_origin(kind) is list:
        return metavar_of(typing.get_args(kind)[0])
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, typing.get_args(kind)))
    return {int: "N", float: "NUMBER", Path: "FILE"}.get(kind, "TEXT")


def sentence(info: Any, default: object, required: bool) -> str:
    """The help with what it does not say: the default, the bounds, the variable."""
    said = [info.help or ""]
    if info.min is not None and info.max is not None:
        said.append(f"{info.min} to {info.max}.")
    elif info.min is not None:
        said.append(f"At least {info.min}.")
    if not required and info.show_default is not False and default not in (None, "", []) and default is not False:
        said.append(f"Default: `{default}`.")
    if info.envvar:
        said.append(f"Variable: `{info.envvar}`.")
    return " ".join(part for part in said if part)


# -- the page


def escape(text: str) -> str:
    """A text for people as Markdown: what looks like code is code, and nothing is a tag or ends a cell."""
    text = re.sub(r"(?<![`\w-])(--[a-z][a-z-]*|\b[a-z]+_[a-z_]+\b)(?![`\w])", r"`\1`", text)
    parts = re.split(r"(`[^`]*`|\{\"[^`\n]*\}\}?)", text)
    for at, part in enumerate(parts):
        if part.startswith("{"):
            parts[at] = f"`{part}`"
        elif not part.startswith("`"):
            parts[at] = re.sub(r"([*<>\[\]])", lambda found: MARKS.get(found[1], "\\" + found[1]), part)
    return "".join(parts).replace("|", "\\|")


def cells(parameters: list[Parameter]) -> list[str]:
    return [f"| `{one.spelled.replace('|', chr(92) + '|')}` | {escape(one.help)} |" for one in parameters]


def section(command: Command) -> str:
    arguments = " ".join(one.usage for one in command.parameters if one.usage)
    optional = any(not one.is_argument and not one.usage for one in command.parameters)
    usage = " ".join(
        part for part in ("gendurable", command.name, "[OPTION]..." if optional else "", arguments) if part
    )
    made = [f"### {command.name}", f"```\n{usage}\n```"]
    made += [escape(" ".join(part.split())) for part in command.help.split("\n\n")]
    if command.parameters:
        made.append("\n".join(["| | |", "|---|---|", *cells(command.parameters)]))
    return "\n\n".join(made)


def page() -> str:
    commands = list(read_commands(app.make()))
    common = next(command.common for command in commands if command.common)
    panels: dict[str, list[Command]] = {}
    for command in commands:
        panels.setdefault(command.panel, []).append(command)
    made = [HEAD, "\n".join(["| | |", "|---|---|", *cells(common)])]
    made.append(
        "\n".join(
            f"- {panel}: " + ", ".join(f"[`{one.name}`](#{one.name.replace(' ', '-')})" for one in some)
            for panel, some in panels.items()
        )
    )
    for panel, some in panels.items():
        made += [f"## {panel}", *(section(command) for command in some)]
    return "\n\n".join(part.strip("\n") for part in made) + "\n"


def main() -> int:
    return written.write(PAGE, page(), "the commands say", check=written.checks(__doc__))


if __name__ == "__main__":
    sys.exit(main())
