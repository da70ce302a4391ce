"""What steps of agents have in common: their rule, and how pydantic-ai's types stand in the journal."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

from pydantic import ConfigDict, TypeAdapter
from pydantic_ai.exceptions import ModelHTTPError, UserError
from pydantic_core import to_json

from ..._contract import Seconds
from ...flow import FlowContext, current
from ...flow.loop import FlowLoop, Inline

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


def here(rule: Retry | None = None) -> FlowContext | None:
    """The flow whose own code this is; None: there is none, or this is a step of it."""
    try:
        if not isinstance(asyncio.get_running_loop(), FlowLoop):
            return None
    except RuntimeError:
        return None
    if rule is None:
        return current()
    said = rule.get("never", ())
    never = (*(said if isinstance(said, tuple) else (said,)), UserError, Refused)
    given: dict[str, Any] = {**rule, "never": never}
    return current().using(**given)


class Kind:
    """How the values of one type are written into the journal, as plain JSON, and read again."""

    def __init__(self, kind: Any) -> None:
        # A list, as pydantic-ai has it for messages: a dataclass by itself takes no config from outside.
        self._adapter: TypeAdapter[list[Any]] = TypeAdapter(list[kind], config=_CONFIG)

    def write(self, value: Any) -> Any:
        return self._adapter.dump_python([value], mode="json")[0]

    def read(self, written: Any) -> Any:
        return self._adapter.validate_json(to_json([written]))[0]
