"""Deploys: which versions of machines there are, and moving instances from one to another."""

from __future__ import annotations

from builtins import list as List
from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue

from .._statement import Rows, Statement, call
from ..machine.codec import dumps, loads
from ..machine.outcome import MachineLike, StepLike
from ..machine.spec import spec_of, step_name


class Deployed(NamedTuple):
    """A version of a machine, and its open instances by status; ``exact`` False: there may be more than were looked at.

    ``steps`` None: nobody has said which it has. ``unrunnable``: instances that stand where nobody knows a step.
    """

    fsm: str
    version: int
    initial_step: str | None
    queue: str | None
    steps: List[str] | None
    pinned: bool
    registered: bool
    runnable: int
    executing: int
    awaiting_signal: int
    awaiting_children: int
    unrunnable: int
    exact: bool


class Moved(NamedTuple):
    """``result``: done, no (``problem`` says why), busy, executing. ``state``: what a dry run shows."""

    id: int
    result: str
    step: str
    state: JsonValue
    problem: str | None


class Migration(NamedTuple):
    """``next``: pass it as ``after`` to go on; None: that was all."""

    instances: List[Moved]
    next: int | None


@call
def machines(
    machine: str | None = None, after: tuple[str, int] = ("", 0), limit: int | None = None
) -> Statement[List[Deployed]]:
    """The versions of machines that are registered, or that open instances have; of one machine, if it is named.

    A page of them: ``after`` is the machine and the version of the row before.
    """
    return Statement(
        "select fsm, version, initial_step, queue, steps, pinned, registered, runnable, executing, awaiting_signal, "
        "awaiting_children, unrunnable, exact from gd_machines where (fsm, version) > (%s, %s) "
        "and coalesce(fsm = %s, true) order by fsm, version limit %s",
        (*after, machine, limit),
        lambda rows: [Deployed(*row) for row in rows],
    )


@call
def migrate(
    machine: MachineLike | str,
    start: int,
    to: int | None = None,
    *,
    steps: Mapping[str, StepLike] | None = None,
    state: str | None = None,
    limit: int = 1000,
    dry_run: bool = False,
    after: int = 0,
    look: int = 20_000,
) -> Statement[Migration]:
    """Move instances that do not execute from the version ``start`` to ``to``, by default the version of the class.

    ``steps`` says which step becomes which, and ``state`` names a function of the database, such as
    ``app.upgrade(jsonb)``, that makes the new state of the old one. As long as ``next`` is not None, pass it as
    ``after`` to go on; begin anew for what was busy or executing.
    """
    name = machine if isinstance(machine, str) else spec_of(machine).name
    if to is None and not isinstance(machine, str):
        to = spec_of(machine).version
    renamed = {old: step_name(new) for old, new in (steps or {}).items()}

    def read(rows: Rows) -> Migration:
        found = [
            Moved(id, result, step, loads(text), problem)
            for id, result, step, text, problem, _ in rows
            if id is not None
        ]
        return Migration(found, next((row[5] for row in rows if row[0] is None), None))

    return Statement(
        "select id, result, step, state::text, problem, next "
        "from gd_migrate(%s, %s, %s, %s::jsonb, %s::text::regprocedure, %s, %s, %s, %s)",
        (name, start, to, dumps(renamed).decode(), state, limit, dry_run, after, look),
        read,
    )
