"""`crash_everywhere`: a flow against all the kills that it could meet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, LiteralString

from .._statement import Script, Statement, nothing, script
from ..calls import inserting, inspecting, talking
from ..calls.rows import Result
from ..machine.outcome import UNSET, MachineLike
from .draining import drain_with, register
from .flows import Boundaries
from .rounds import is_inside


@script
def crash_everywhere(
    machine: MachineLike,
    state: object = UNSET,
    *,
    signals: Iterable[tuple[str, object]] = (),
    machines: Iterable[MachineLike] = (),
    limit: int = 10_000,
) -> Script[int]:
    """Run a flow once as it is, and then once for each place at which its worker can be killed: at a claim, before and
    after each step, before each commit. Each time it has to come to the same end. All of it is undone; answers how many
    places there are.

    Time passes as with ``drain(advance=True)``. What steps do elsewhere than on this connection is not undone, and is
    done again where the kill came before its commit, as in life: have the steps count, and look at what they say.

    Args:
        machine, state: what is inserted. machines: those of its children.
        signals: names and payloads, which are in the inbox from the start.
        limit: steps in one of these runs after which it gives up.

    Raises:
        AssertionError: a run ended otherwise; the text says where the kill was. Or the flow did not end.
        InvalidArgument, RuntimeError: as of `drain`.
    """
    inside = yield from is_inside()
    begin: LiteralString = "savepoint gendurable_crash" if inside else "begin isolation level read committed"
    yield Statement(begin, (), nothing)
    try:
        yield from register([machine, *machines])
        id: int = yield inserting.insert.statement(machine, state)
        for name, payload in signals:
            yield talking.signal.statement(id, name, payload)
        plain = Boundaries()
        expected = yield from _run(id, plain, limit)
        for at in range(1, plain.met + 1):
            killed = Boundaries(at)
            found = yield from _run(id, killed, limit)
            assert found == expected, f"killed {killed.killed} (place {at} of {plain.met}): {found} and not {expected}"
        return plain.met
    finally:
        if inside:
            yield Statement("rollback to savepoint gendurable_crash", (), nothing)
            yield Statement("release savepoint gendurable_crash", (), nothing)
        else:
            yield Statement("rollback", (), nothing)


def _run(id: int, boundaries: Boundaries, limit: int) -> Script[tuple[str, Any, str | None]]:
    """The end that it comes to; undone."""
    yield Statement("savepoint gendurable_run", (), nothing)
    yield from drain_with((), None, True, False, limit, boundaries)
    result: Result | None = yield inspecting.result.statement(id)
    yield Statement("rollback to savepoint gendurable_run", (), nothing)
    yield Statement("release savepoint gendurable_run", (), nothing)
    assert result is not None and result.status in ("done", "failed", "cancelled"), f"it has not ended: {result}"
    return result.status, result.result, result.last_error
