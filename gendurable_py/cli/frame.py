"""What all commands share: the connection, the options ``--dsn`` and ``--json``, the exit codes, how errors are told.

Exit codes: 0 ok; 1 a negative answer (there is no such instance, it has not ended in time, not all could be done); 2
usage; 3 the server said no, or cannot be reached. A text that is told has no password in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import getpass
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NoReturn, get_type_hints

import psycopg
import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import RenderableType
from rich.text import Text

from ..calls import viewing
from ..errors import GendurableError, InvalidArgument, UnknownInstance, UnknownName
from .output import encode, plain, screen

OK, NO, USAGE, REFUSED = 0, 1, 2, 3
_BY_SIGNAL = 128

Dsn = Annotated[
    str,
    typer.Option(
        "--dsn",
        envvar="GENDURABLE_DSN",
        metavar="DSN",
        help="The database, as libpq takes it; without it the PG* variables say. A password is better kept out of it: "
        "others see the arguments of a process.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Id = Annotated[int, typer.Argument(help="The instance.", metavar="ID")]
Queue = Annotated[str, typer.Argument(help="The queue.")]
Machine = Annotated[str, typer.Argument(help="The machine.")]
Schedule = Annotated[str, typer.Argument(help="The name of the schedule.")]


class Negative(Exception):
    """The answer is no: exit code 1, with what there is to say."""


def no_instance(id: int) -> Negative:
    return Negative(f"there is no instance {id} (any more)")


class Refused(Exception):
    """It cannot be done: exit code 3, and what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Frame:
    """One command as it runs: where it asks, and where it says what."""

    def __init__(self, dsn: str, json: bool) -> None:
        self.json = json
        self.out = screen(sys.stdout)
        self.err = screen(sys.stderr)
        self._given = dsn
        self._conn: psycopg.Connection[Any] | None = None

    @property
    def dsn(self) -> str:
        """As it was given, and where that says nothing, the name by which the server knows us."""
        try:
            said: dict[str, Any] = conninfo_to_dict(self._given)
            return make_conninfo("", **{"fallback_application_name": "gendurable", **said})
        except (psycopg.Error, ValueError):
            # Its own message quotes a part of it.
            raise typer.BadParameter(
                "this is no connection string: say postgresql://user@host/database or 'host=... dbname=...'",
                param_hint="--dsn",
            ) from None

    @property
    def conn(self) -> psycopg.Connection[Any]:
        """The connection, made when it is first asked for; each call is a transaction of its own."""
        if self._conn is None or self._conn.closed:
            dsn = self.dsn
            # No prepared statements: a proxy that pools transactions would not know them.
            self._conn = psycopg.connect(dsn, autocommit=True, prepare_threshold=None, client_encoding="UTF8")
            self._conn.add_notice_handler(self._tell_notice)
        return self._conn

    @property
    def is_connected(self) -> bool:
        """There is a connection, and it is not known to be broken."""
        return self._conn is not None and not self._conn.closed

    def close(self) -> None:
        if self._conn is not None:
            with contextlib.suppress(psycopg.Error):
                self._conn.close()
            self._conn = None

    @contextlib.contextmanager
    def acting(self) -> Iterator[psycopg.Connection[Any]]:
        """A transaction that says whose hand it is, for the audit and the histories."""
        with self.conn.transaction():
            viewing.says_who(self.conn, actor())
            yield self.conn

    # Saying

    def answer(self, value: object, show: Callable[[], RenderableType | None]) -> None:
        """What was asked for: the value under --json, else what `show` makes of it."""
        if self.json:
            self.line(encode(value))
            return
        shown = show()
        if shown is not None:
            self.out.print(shown)

    def line(self, text: str) -> None:
        """A line on stdout as it is, whatever the width."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A word beside the answer, for people alone."""
        if not self.json:
            self.err.print(Text(plain(text, lines=True)))

    def complain(self, message: str, hint: str | None = None, state: str | None = None) -> None:
        message, hint = self.scrub(message), None if hint is None else self.scrub(hint)
        if self.json:
            said = {"error": message, "hint": hint, "sqlstate": state}
            sys.stderr.write(encode({key: value for key, value in said.items() if value is not None}) + "\n")
        else:
            self.err.print(Text.assemble(("gendurable: ", "bold"), plain(message, lines=True)))
            if hint:
                self.err.print(Text.assemble(("hint: ", "bold"), plain(hint, lines=True)))

    def scrub(self, text: str) -> str:
        """The text without the passwords that this process knows."""
        known = {os.environ.get("PGPASSWORD", "")}
        with contextlib.suppress(psycopg.Error, ValueError):
            known |= {str(conninfo_to_dict(self._given).get(name) or "") for name in ("password", "sslpassword")}
        for secret in known:
            if len(secret) > 2:
                text = text.replace(secret, "***")
        text = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
        return re.sub(r"\b((?:ssl)?password)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s'\"]+)", r"\1=***", text)

    def _tell_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self.note(f"{diagnostic.message_primary}")

    # Ending

    def confirm(self, question: str, yes: bool) -> None:
        """Ask before much is changed; where nobody can answer, ``--yes`` has to say it."""
        if yes:
            return
        if self.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise typer.BadParameter(f"{question} Nobody is here to say so: add --yes.", param_hint="--yes")
        self.err.print(Text(f"{plain(question)} [y/N] "), end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Negative("Nothing was done.")

    def run(self, function: Callable[[], int | None]) -> int:
        """The exit code of a command, whatever happens in it."""
        try:
            return function() or OK
        except KeyboardInterrupt:
            return _BY_SIGNAL + 2
        except BrokenPipeError:
            _close_quietly()
            return _BY_SIGNAL + 13
        except Negative as answer:
            if str(answer):
                self.complain(str(answer))
            return NO
        except Refused as error:
            self.complain(str(error), error.hint)
            return REFUSED
        except (UnknownInstance, UnknownName) as error:
            self._complain_of(error)
            return NO
        except TimeoutError as error:
            self.complain(str(error) or "the time is up")
            return NO
        except InvalidArgument as error:
            self._complain_of(error)
            return USAGE if error.diag.sqlstate is None else REFUSED
        except psycopg.Error as error:
            self._complain_of(error)
            return REFUSED
        finally:
            self.close()

    def _complain_of(self, error: psycopg.Error) -> None:
        message, hint = error.diag.message_primary or str(error), error.diag.message_hint
        if isinstance(error, GendurableError):
            message, _, _ = message.partition("\nHINT:  ")
            hint = error.hint
        if error.diag.message_detail:
            message = f"{message} ({error.diag.message_detail})"
        if isinstance(error, (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable)):
            hint = (
                "gendurable is not in this database (gendurable install), it is older than this package (gendurable "
                "upgrade), or its schema is not on the search_path (PGOPTIONS='-c search_path=...')"
            )
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            hint = hint or "the profiles reader, operator and worker of gd_grant give the rights of the commands"
        self.complain(message.strip(), hint, error.sqlstate)


def actor() -> str:
    """Who acts: ``GENDURABLE_ACTOR``, else the user of this machine."""
    said = os.environ.get("GENDURABLE_ACTOR")
    if said:
        return said
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"user {os.getuid()}"


def _close_quietly() -> None:
    """Whoever read is gone: what is left in the buffers has nowhere to go."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command(app: typer.Typer, name: str, *, panel: str) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make a function of a `Frame` and of options a command; a dataclass among its parameters is a group of options."""

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        parameters: list[inspect.Parameter] = []
        groups: dict[str, tuple[type[Any], list[str]]] = {}
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            kind = hints[parameter.name]
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                fields = get_type_hints(kind, include_extras=True)
                groups[parameter.name] = (kind, [field.name for field in dataclasses.fields(kind)])
                parameters += [
                    _keyword(field.name, fields[field.name], field.default) for field in dataclasses.fields(kind)
                ]
            else:
                parameters.append(_keyword(parameter.name, kind, parameter.default))
        parameters += [_keyword("dsn", Dsn, ""), _keyword("json", Json, False)]

        @functools.wraps(function)
        def perform(**given: Any) -> NoReturn:
            _check(given)
            frame = Frame(given.pop("dsn"), given.pop("json"))
            for each, (kind, names) in groups.items():
                given[each] = kind(**{field: given.pop(field) for field in names})
            raise typer.Exit(frame.run(lambda: function(frame, **given)))

        perform.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        perform.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, rich_help_panel=panel)(perform)
        return perform

    return register


# What is no int of SQL but a bigint, and what is a path.
_LARGE = {"id", "ids", "parent", "after", "no"}
_PATHS = {"file", "modules"}


def _check(given: dict[str, Any]) -> None:
    """Refuse what the server has no argument for: its message would be about something else."""
    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int) and not -(most := 2**63 if name in _LARGE else 2**31) <= each < most:
                raise typer.BadParameter(f"{each} is out of range", param_hint=name)
            if isinstance(each, str) and name not in _PATHS:
                try:
                    each.encode()
                except UnicodeEncodeError:
                    raise typer.BadParameter(
                        "this is no text in the encoding of the terminal", param_hint=name
                    ) from None


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
