"""What tests say of instances: how they stand, or an `AssertionError` that tells how."""

from __future__ import annotations

from pydantic import JsonValue

from .._statement import Script, script
from ..errors import UnknownInstance
from . import looking, rehearsing
from .rows import Instance


def _need(id: int, found: Instance | None) -> Instance:
    if found is None:
        raise UnknownInstance(f"there is no instance {id}")
    return found


def _assert_status(found: Instance, status: str) -> Script[None]:
    if found.status == status:
        return
    because = f" ({found.last_error})" if found.last_error else ""
    message = f"{found.fsm} {found.id} is {found.status} in step {found.step!r}{because}, not {status}"
    message += yield from _explain(found)
    for error in (yield looking.errors.statement(found.id, 1)):
        if error.traceback:
            message += f"\n{error.traceback}"
    raise AssertionError(message)


def _explain(found: Instance) -> Script[str]:
    """Why it does not run, a line for each cause."""
    causes = yield looking.why.statement(found.id)
    return "".join(f"\n  {one.cause}: {one.message}" for one in causes)


@script
def assert_done(id: int) -> Script[JsonValue]:
    """It is ``done``; answers its result."""
    found = _need(id, (yield rehearsing.instance.statement(id)))
    yield from _assert_status(found, "done")
    return found.result


@script
def assert_failed(id: int, text: str = "") -> Script[str]:
    """It is ``failed``, and its last error contains the text; answers the error."""
    found = _need(id, (yield rehearsing.instance.statement(id)))
    yield from _assert_status(found, "failed")
    error = found.last_error or ""
    if text not in error:
        raise AssertionError(
            f"{found.fsm} {id} failed with {error!r}, which does not contain {text!r}" + (yield from _explain(found))
        )
    return error


@script
def assert_awaiting(id: int, *names: str) -> Script[JsonValue]:
    """It waits for a signal, for exactly these names if any are given; answers its state."""
    found = _need(id, (yield rehearsing.instance.statement(id)))
    yield from _assert_status(found, "awaiting_signal")
    if names and set(names) != set(found.awaits or ()):
        raise AssertionError(
            f"{found.fsm} {id} awaits {found.awaits}, not {list(names)}" + (yield from _explain(found))
        )
    return found.state
