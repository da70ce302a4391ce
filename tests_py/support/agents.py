"""Agents of pydantic-ai whose models answer from a script, and what has been called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

Answer = str | list[ToolCallPart] | Exception


def call(name: str, id: str, /, **args: Any) -> ToolCallPart:
    return ToolCallPart(name, args, id)


def ask(messages: list[ModelMessage]) -> str:
    """What the model was told last, one line each part."""
    return "\n".join(str(getattr(part, "content", "")) for part in messages[-1].parts)


class Calls(list[str]):
    """What has been called, in order."""

    def count_of(self, name: str) -> int:
        return self.count(name)


def scripted(calls: Calls, *answers: Answer | Callable[[list[ModelMessage]], Answer]) -> FunctionModel:
    """A model that gives the n-th answer to a conversation with n responses, the last one again and again. It forgets
    nothing between runs: what it says depends on the conversation alone."""

    def choose(messages: list[ModelMessage]) -> Answer:
        calls.append("model")
        at = min(sum(message.kind == "response" for message in messages), len(answers) - 1)
        answer = answers[at]
        return answer(messages) if callable(answer) else answer

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        answer = choose(messages)
        if isinstance(answer, Exception):
            raise answer
        return ModelResponse(parts=[TextPart(answer)] if isinstance(answer, str) else list(answer))

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        answer = choose(messages)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            for word in answer.split(" "):
                yield word + " "
            return
        for at, part in enumerate(answer):
            yield {at: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}

    return FunctionModel(respond, stream_function=stream)


def entries(conn: psycopg.Connection[Any], id: int | None) -> list[str]:
    """The journal of a flow: names and kinds, in order."""
    found = conn.execute("select kind, name from gd_journal(%s) order by seq", (id,))
    return [kind if kind == "start" else name for kind, name in found]
