"""What steps of agents have in common: their rule, and how pydantic-ai's types stand in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict

from pydantic import ConfigDict, TypeAdapter
from pydantic_ai import durable_exec
from pydantic_ai.exceptions import ModelHTTPError, UserError
from pydantic_core import to_json

from ..._contract import Seconds
from ...flow import FlowContext, StepFailed, current
from ...flow.loop import FlowLoop, Inline
from ...flow.rules import read_rule

THREADS = Inline(thread_name_prefix="gendurable-agents")
"""For sync functions that an agent calls: in a flow they are called there and then."""

_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", defer_build=True)


class Retry(TypedDict, total=False):
    """A retry rule for steps, as of `FlowContext.using`. `UserError` and `Refused` are never tried again."""

    max_attempts: int
    delay: Seconds
    factor: float
    max_delay: Seconds
    timeout: Seconds | None
    never: type[BaseException] | tuple[type[BaseException], ...]


class Refused(ModelHTTPError):
    """The provider answered with a status that another attempt will not change, such as 400 or 401."""


def complete(retry: Retry, max_attempts: int = 1) -> Retry:
    """The rule of someone who said this much of it.

    Raises:
        InvalidArgument: a part of it is out of range.
    """
    rule = read_rule(**retry)
    return {"max_attempts": max_attempts, **retry, "never": (*rule.never, UserError, Refused)}


def here(rule: Retry | None = None) -> FlowContext | None:
    """The flow whose own code this is; None: there is none, or this is a step of it."""
    try:
        if not isinstance(asyncio.get_running_loop(), FlowLoop):
            return None
    except RuntimeError:
        return None
    return current() if rule is None else current().using(**rule)


async def ask(flow: FlowContext, name: str, function: Callable[..., Awaitable[Any]], /, *args: Any) -> Any:
    """A step; pydantic-ai is told whether it was run here, or its result comes out of the journal."""
    ran: list[bool] = []
    try:
        made = await flow.step(name, _run, ran, function, *args)
    except StepFailed:
        _record(executed=bool(ran))
        raise
    _record(executed=bool(ran))
    return made


async def _run(ran: list[bool], function: Callable[..., Awaitable[Any]], /, *args: Any) -> Any:
    ran.append(True)
    return await function(*args)


def _no_scope(is_replaying: Callable[[], bool]) -> AbstractContextManager[Any]:
    return nullcontext()


# Of newer versions: spans and metrics of what is replayed are not told again.
_record: Callable[..., None] = getattr(durable_exec, "record_durable_unit", lambda executed: None)
replay_scope: Callable[..., AbstractContextManager[Any]] = getattr(durable_exec, "replay_scope", _no_scope)


class Kind:
    """How the values of one type are written into the journal, as plain JSON, and read again."""

    def __init__(self, kind: Any) -> None:
        # A list, as pydantic-ai has it for messages: a dataclass by itself takes no config from outside.
        self._adapter: TypeAdapter[list[Any]] = TypeAdapter(list[kind], config=_CONFIG)

    def write(self, value: Any) -> Any:
        return self._adapter.dump_python([value], mode="json")[0]

    def read(self, written: Any) -> Any:
        return self._adapter.validate_json(to_json([written]))[0]
