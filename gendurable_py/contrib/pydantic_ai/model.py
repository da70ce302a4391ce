"""Models whose requests are steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Self, Unpack, cast

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponseStreamEvent
from pydantic_ai.models import (
    CompletedStreamedResponse,
    Model,
    ModelRequestContext,
    ModelRequestParameters,
    StreamedResponse,
)
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage

from .steps import Kind, Refused, Retry, ask, complete, here

EventHandler = Callable[[AsyncIterable[ModelResponseStreamEvent]], Awaitable[None]]
"""What a model streams, as it comes. Called in the step, on the engine's loop: `current` tells which flow it is of."""

_RESPONSE, _USAGE = Kind(ModelResponse), Kind(RequestUsage)
_PASSING = frozenset({408, 409, 425, 429})
"""Statuses of 400 and more that may be gone with the next attempt."""


class DurableModel(WrapperModel):
    """A model whose requests are steps of the flow that they are made in, tried three times unless the rule says
    otherwise. Have its provider try once (``max_retries=0``): attempts of both multiply.

    ``name``: that of its steps in the journal. ``on_events``: is given what the model streams, in the step; then
    requests stream, those of `Agent.run`, too. The flow itself gets the finished response, and its streams have that
    alone.

    Raises, in a flow:
        StepFailed: a request failed for good.
    """

    def __init__(
        self,
        model: Model | str,
        /,
        *,
        name: str = "model",
        on_events: EventHandler | None = None,
        **retry: Unpack[Retry],
    ) -> None:
        super().__init__(model)
        self._name = name
        self._on_events = on_events
        self._retry = complete(retry, max_attempts=3)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        flow = here(self._retry)
        if flow is None:
            return await super().request(messages, model_settings, model_request_parameters)
        run = self._run if self._on_events is None else self._stream
        made = await ask(flow, self._name, run, messages, model_settings, model_request_parameters)
        return cast("ModelResponse", _RESPONSE.read(made))

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        asked = (messages, model_settings, model_request_parameters, run_context)
        flow = here(self._retry)
        if flow is None:
            async with super().request_stream(*asked) as stream:
                yield stream
            return
        response = _RESPONSE.read(await ask(flow, self._name, self._stream, *asked))
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters, replay_events=True)

    async def count_tokens(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> RequestUsage:
        flow = here(self._retry)
        if flow is None:
            return await super().count_tokens(messages, model_settings, model_request_parameters)
        step = ask(flow, f"{self._name} tokens", self._count, messages, model_settings, model_request_parameters)
        return cast("RequestUsage", _USAGE.read(await step))

    async def compact_messages(
        self, request_context: ModelRequestContext, *, instructions: str | None = None
    ) -> ModelResponse:
        flow = here(self._retry)
        if flow is None:
            return await super().compact_messages(request_context, instructions=instructions)
        step = ask(flow, f"{self._name} compact", self._compact, request_context, instructions)
        return cast("ModelResponse", _RESPONSE.read(await step))

    async def cancel_suspended_response(self, response: ModelResponse) -> None:
        flow = here(self._retry)
        if flow is None:
            await super().cancel_suspended_response(response)
        else:
            await ask(flow, f"{self._name} cancel", self.wrapped.cancel_suspended_response, response)

    # In the steps

    async def _run(self, *asked: Any) -> Any:
        with _refusals():
            return _RESPONSE.write(await self.wrapped.request(*asked))

    async def _stream(self, *asked: Any) -> Any:
        with _refusals():
            async with self.wrapped.request_stream(*asked) as stream:
                events = aiter(stream)
                if self._on_events is not None:
                    await self._on_events(events)
                async for _ in events:
                    pass  # what the handler has left
                return _RESPONSE.write(stream.get())

    async def _count(self, *asked: Any) -> Any:
        with _refusals():
            return _USAGE.write(await self.wrapped.count_tokens(*asked))

    async def _compact(self, request_context: ModelRequestContext, instructions: str | None) -> Any:
        with _refusals():
            return _RESPONSE.write(await self.wrapped.compact_messages(request_context, instructions=instructions))

    # The clients of providers belong to the engine's loop, and a flow leaves them alone. The last two are not public:
    # an agent asks them on the loop that it runs on, and would have a new client made for each run of a flow.

    async def __aenter__(self) -> Self:
        return self if here() else await super().__aenter__()

    async def __aexit__(self, *args: Any) -> bool | None:
        return None if here() else await super().__aexit__(*args)

    def _refresh_http_client(self) -> None:
        if not here():
            super()._refresh_http_client()

    def _run_scope(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if here() else super()._run_scope()


@contextmanager
def _refusals() -> Generator[None]:
    try:
        yield
    except ModelHTTPError as error:
        if not 400 <= error.status_code < 500 or error.status_code in _PASSING:
            raise
        raise Refused(error.status_code, error.model_name, error.body) from error
