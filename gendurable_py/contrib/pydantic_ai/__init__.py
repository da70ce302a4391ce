"""Agents of pydantic-ai in flows: each request to a model and each call of a tool is a step, and the run of the agent a
part of the flow. Extra ``gendurable_py[pydantic-ai]``.

::

    agent = Agent(
        DurableModel("openai:gpt-5", max_attempts=5),
        tools=[search, approve],
        capabilities=[Durability(in_flow={"approve"})],
    )

    @flow(name="research")
    async def research(ctx: FlowContext, question: str) -> str:
        return (await agent.run(question)).output

Outside of a flow, and inside a step, all of it passes through. Only results are stored, as pydantic-ai writes them:
what a tool changes in its `RunContext` (deps, usage, messages) is not, and is not there after a crash.
"""

from __future__ import annotations

from .. import missing

try:
    from .durability import Durability
    from .model import DurableModel, EventHandler
    from .steps import Refused, Retry
    from .toolset import DurableToolset
except ModuleNotFoundError as error:
    raise missing("pydantic-ai", error) from error

__all__ = ["Durability", "DurableModel", "DurableToolset", "EventHandler", "Refused", "Retry"]
