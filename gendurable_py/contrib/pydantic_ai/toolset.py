"""Toolsets whose calls are steps."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, Unpack, cast

from pydantic import ValidationError
from pydantic_ai import Agent
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import InstructionPart
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, ToolsetTool, WrapperToolset
from pydantic_core import SchemaValidator, core_schema, to_json

from .results import SAID, give, keep, say
from .steps import THREADS, Kind, Retry, ask, complete, here

_TOOL = Kind(ToolDefinition)
_INSTRUCTIONS = Kind(str | InstructionPart | list[str | InstructionPart] | None)
_ANY_ARGS = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))
Args = dict[str, Any]
Contributed = str | InstructionPart | Sequence[str | InstructionPart] | None


class DurableToolset(WrapperToolset[Any]):
    """A toolset whose calls are steps of the flow that its agent runs in, tried once unless the rule says otherwise.

    What it offers is listed in a step, too, once for each request to the model; of a `FunctionToolset` whose tools have
    no ``prepare`` it is known without one. Each step resolves a dynamic toolset, and opens the connections of an MCP
    server and closes them again: where the process has it open all the time (``async with server``), it stays open.

    ``in_flow``: tools that run in the flow itself, and so may wait: for a signal, for time, for children. They are
    functions, and do no I/O outside of their own steps. ``name``: what the names of its steps begin with; then the
    tool's and its ``tool_call_id`` follow.

    What a tool raises for the model (`ModelRetry`, `ToolFailed`, arguments that do not fit) or for the run
    (`ApprovalRequired`, `CallDeferred`) is recorded as its result.

    Raises, in a flow:
        StepFailed: a tool failed for good.
        UserError: a tool of ``in_flow`` is none of its functions.
    """

    def __init__(
        self,
        toolset: AbstractToolset[Any],
        /,
        *,
        in_flow: Collection[str] = (),
        name: str = "tool",
        **retry: Unpack[Retry],
    ) -> None:
        super().__init__(toolset)
        self._in_flow = frozenset([in_flow] if isinstance(in_flow, str) else in_flow)
        self._name = name
        self._retry = complete(retry)
        self._listed: tuple[int, dict[str, ToolsetTool[Any]], Contributed] | None = None

    @property
    def id(self) -> str | None:
        return self.wrapped.id

    async def for_run(self, ctx: RunContext[Any]) -> AbstractToolset[Any]:
        return self._around(self.wrapped if here() else await self.wrapped.for_run(ctx))

    async def for_run_step(self, ctx: RunContext[Any]) -> AbstractToolset[Any]:
        if here():
            return self
        resolved = await self.wrapped.for_run_step(ctx)
        return self if resolved is self.wrapped else self._around(resolved)

    def _around(self, toolset: AbstractToolset[Any]) -> DurableToolset:
        made = copy.copy(self)
        made.wrapped, made._listed = toolset, None
        return made

    async def __aenter__(self) -> Self:
        return self if here() else await super().__aenter__()

    async def __aexit__(self, *args: Any) -> bool | None:
        return None if here() else await super().__aexit__(*args)

    def apply(self, visitor: Callable[[AbstractToolset[Any]], None]) -> None:
        visitor(self)

    def visit_and_replace(
        self, visitor: Callable[[AbstractToolset[Any]], AbstractToolset[Any]]
    ) -> AbstractToolset[Any]:
        return visitor(self)

    async def get_instructions(self, ctx: RunContext[Any]) -> Contributed:
        if not here() or self._known:
            return await self.wrapped.get_instructions(ctx)
        return (await self._list(ctx))[1]

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        if not here() or self._known:
            return await self.wrapped.get_tools(ctx)
        return (await self._list(ctx))[0]

    async def call_tool(self, name: str, tool_args: Args, ctx: RunContext[Any], tool: ToolsetTool[Any]) -> Any:
        flow = here(self._retry)
        if flow is None:
            return await self.wrapped.call_tool(name, tool_args, ctx, tool)
        if name in self._in_flow:
            if not isinstance(self.wrapped, FunctionToolset):
                raise UserError(f"tool {name!r} cannot run in a flow itself: it is no function of a FunctionToolset")
            with Agent.using_thread_executor(THREADS):
                return await self.wrapped.call_tool(name, tool_args, ctx, tool)
        step = f"{self._name} {name} {ctx.tool_call_id or ''}".rstrip()
        return give(await ask(flow, step, self._call, name, tool_args, ctx, tool))

    @property
    def _known(self) -> bool:
        """Whether what it offers is known from the code alone."""
        own = self.wrapped
        return (
            isinstance(own, FunctionToolset)
            and type(own).get_tools is FunctionToolset.get_tools
            and all(tool.prepare is None for tool in own.tools.values())
        )

    async def _list(self, ctx: RunContext[Any]) -> tuple[dict[str, ToolsetTool[Any]], Contributed]:
        """Of this step of the agent: its tools and its instructions are asked for one after the other."""
        if self._listed is None or self._listed[0] != ctx.run_step:
            flow = here(self._retry)
            assert flow is not None
            found = await ask(flow, f"{self._name}s", self._look, ctx)
            tools: dict[str, ToolsetTool[Any]] = {
                name: ToolsetTool(toolset=self, tool_def=_TOOL.read(tool), max_retries=most, args_validator=_ANY_ARGS)
                for name, (tool, most) in found["tools"].items()
            }
            self._listed = ctx.run_step, tools, _INSTRUCTIONS.read(found["instructions"])
        return self._listed[1:]

    # In the steps

    @asynccontextmanager
    async def _opened(self, ctx: RunContext[Any]) -> AsyncGenerator[AbstractToolset[Any]]:
        async with await self.wrapped.for_run(ctx) as toolset:
            yield await toolset.for_run_step(ctx)

    async def _look(self, ctx: RunContext[Any]) -> Any:
        async with self._opened(ctx) as toolset:
            tools = await toolset.get_tools(ctx)
            said = await toolset.get_instructions(ctx)
        listed = {name: (_TOOL.write(tool.tool_def), tool.max_retries) for name, tool in tools.items()}
        return {"tools": listed, "instructions": _INSTRUCTIONS.write(said)}

    async def _call(self, name: str, args: Args, ctx: RunContext[Any], tool: ToolsetTool[Any]) -> Any:
        try:
            if tool.args_validator is not _ANY_ARGS:
                return keep(name, await self.wrapped.call_tool(name, args, ctx, tool))
            async with self._opened(ctx) as toolset:
                tool = await _find(toolset, tool.tool_def, ctx)
                args = tool.args_validator.validate_json(
                    to_json(args), context=getattr(ctx, "validation_context", None)
                )
                if (check := getattr(tool, "args_validator_func", None)) is not None:
                    checked = check(ctx, **args)
                    if inspect.isawaitable(checked):
                        await checked
                return keep(name, await toolset.call_tool(name, args, ctx, tool))
        except (*SAID, ValidationError) as error:
            return say(error)


async def _find(toolset: AbstractToolset[Any], tool_def: ToolDefinition, ctx: RunContext[Any]) -> ToolsetTool[Any]:
    """The tool of a definition that was listed in a step before."""
    find = getattr(toolset, "get_tool_for_tool_def", None)  # of newer versions: an MCP server is not asked again
    try:
        found = (await toolset.get_tools(ctx))[tool_def.name] if find is None else await find(tool_def, ctx)
    except KeyError:
        raise UserError(f"tool {tool_def.name!r} is not there any more") from None
    return cast("ToolsetTool[Any]", found)
