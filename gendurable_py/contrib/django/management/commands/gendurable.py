"""``manage.py gendurable …``: the command line, with the database of the project.

All that stands behind the name is the command line's, but for ``--database ALIAS``, ``--settings`` and
``--pythonpath``. ``worker`` without modules serves what is in the installed apps.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from psycopg import pq
from psycopg.conninfo import make_conninfo

from ... import conf, serving
from ...calling import need_postgresql

FOUND = "gendurable_py.contrib.django.serving:found"
READY = "gendurable_py.contrib.django.serving:ready"
# Of the command line's options for `worker` those that stand alone: behind all others stands a value.
_FLAGS = {"--run-ahead", "--poll-only", "--no-upkeep", "--reload", "--json", "--help", "-h"}


class Command(BaseCommand):
    """Hands on to `gendurable_py.cli`."""

    help = "Operate gendurable in the database of this project; worker serves the machines and tasks of its apps."
    requires_system_checks: list[str] = []  # noqa: RUF012 - as Django has it
    suppressed_base_arguments = frozenset({"--version", "--verbosity", "--traceback", "--no-color", "--force-color"})

    def run_from_argv(self, argv: list[str]) -> None:
        """Django's own parser would refuse the options of the commands."""
        try:
            self._hand_on(list(argv[2:]))
        finally:
            connections.close_all()

    def handle(self, *positional: str, **options: Any) -> None:
        """By ``call_command("gendurable", "list", "--json")``: the connections are those of the caller."""
        before = os.environ.get("GENDURABLE_DSN")
        try:
            self._hand_on([*positional, *options["arguments"]])
        finally:
            # It may have a password in it, which other children of this process need not know.
            os.environ.pop("GENDURABLE_DSN", None)
            if before is not None:
                os.environ["GENDURABLE_DSN"] = before

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def _hand_on(self, given: list[str]) -> None:
        arguments, own = _split(given)
        alias = own.get("database") or conf.default_database()
        if alias not in connections.settings:
            raise CommandError(f"there is no database {alias!r}: DATABASES has {', '.join(connections.settings)}")
        os.environ["GENDURABLE_DSN"] = dsn_of(alias)
        if arguments[:1] == ["worker"]:
            arguments = _with_machines(arguments)
        from .....cli import main

        main(arguments)


def dsn_of(alias: str) -> str:
    """The connection string of one of the project's databases, with what Django says of it besides.

    Raises:
        ImproperlyConfigured: it is no PostgreSQL.
    """
    wrapper = connections[alias]
    need_postgresql(wrapper)
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    params = {key: value for key, value in wrapper.get_connection_params().items() if value is not None}
    said = {key: str(value) for key, value in params.items() if key in known}
    role = wrapper.settings_dict.get("OPTIONS", {}).get("assume_role")
    if role:
        escaped = str(role).replace("\\", "\\\\").replace(" ", "\\ ")
        said["options"] = f"{said.get('options', '')} -c role={escaped}".strip()
    return make_conninfo(**said)


def _split(given: list[str]) -> tuple[list[str], dict[str, str]]:
    """What is the command line's, and what is ours."""
    own: dict[str, str] = {}
    left: list[str] = []
    rest = iter(given)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("--database", "--settings", "--pythonpath"):
            own[name[2:]] = value if equals else next(rest, "")
        else:
            left.append(word)
            if word == "--":
                left += rest
    return left, own


def _with_machines(arguments: list[str]) -> list[str]:
    """`worker` serves what is in the apps unless it is told what, in the queues that there are."""
    if not {"--help", "-h"}.isdisjoint(arguments):
        return arguments
    if "DJANGO_SETTINGS_MODULE" not in os.environ:
        raise CommandError("a worker needs DJANGO_SETTINGS_MODULE: its processes set Django up by it")
    # The processes of --processes find what this one does, from wherever it was started.
    paths = [sys.path[0], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    if _names_modules(arguments[1:]):
        return ["worker", READY, *arguments[1:]]
    if not serving.discover():
        modules = " or ".join(f"{name}.py" for name in conf.read().modules)
        raise CommandError(f"no installed app has a machine or a task in {modules}: there is nothing to serve")
    if not any(word in ("--queues", "-q") or word.startswith("--queues=") for word in arguments):
        arguments = [*arguments, "--queues", ",".join(f"{name}=10" for name in serving.queues())]
    return [*arguments, FOUND]


def _names_modules(words: list[str]) -> bool:
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return True
        # -p4 and --processes=4 have their values, as flags have none
        if word not in _FLAGS and "=" not in word and (len(word) == 2 or word.startswith("--")):
            next(rest, None)
    return False
