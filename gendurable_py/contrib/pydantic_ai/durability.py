"""A capability of pydantic-ai that makes a whole agent durable but for its model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Unpack

from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering, Instrumentation
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import AbstractToolset, DynamicToolset, FunctionToolset

from .steps import THREADS, Retry, complete, here, replay_scope
from .toolset import DurableToolset


class Durability(AbstractCapability[Any]):
    """For an agent, in its ``capabilities``: each of its toolsets is a `DurableToolset` (one that is stays as it is),
    its own functions among them. Sync functions that the agent calls in the flow itself (instructions,
    output functions, validators) are called there and then: a flow has no threads. The arguments are those of
    `DurableToolset`.
    """

    def __init__(self, *, in_flow: Collection[str] = (), name: str = "tool", **retry: Unpack[Retry]) -> None:
        self._in_flow = in_flow
        self._name = name
        self._retry = complete(retry)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        return toolset.visit_and_replace(self._wrap)

    def _wrap(self, leaf: AbstractToolset[Any]) -> AbstractToolset[Any]:
        # pydantic-ai's others have no code of users: they list what runs elsewhere, or reveal tools.
        own = type(leaf).__module__.startswith(("pydantic_ai.toolsets.", "pydantic_ai.capabilities."))
        if isinstance(leaf, DurableToolset) or (own and type(leaf) not in (FunctionToolset, DynamicToolset)):
            return leaf
        return DurableToolset(leaf, in_flow=self._in_flow, name=self._name, **self._retry)

    async def wrap_run(self, ctx: RunContext[Any], *, handler: Callable[[], Awaitable[Any]]) -> Any:
        flow = here()
        if flow is None:
            return await handler()
        with Agent.using_thread_executor(THREADS), replay_scope(is_replaying=lambda: flow.suspended):
            return await handler()

    def get_ordering(self) -> CapabilityOrdering:
        # Around the spans of the run, too: a replay tells none of what it only reads.
        return CapabilityOrdering(position="outermost", wraps=(Instrumentation,))
