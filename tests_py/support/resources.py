"""Steps that misuse what they are given, and counters of what the engine does meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, Next, Stop, job, step
from gendurable_py.calls import dispatching

Conn = psycopg.Connection[Any]


class Endless:
    """Two jobs that never end by themselves: `thread` looks at nothing but the gate, `task` can only be cancelled."""

    def __init__(self, name: str, queue: str = "default") -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.contexts: list[Context[Any]] = []
        self.cancelled = threading.Event()

        @job(name=f"{name}.thread", queue=queue)
        def thread(args: dict[str, Any], ctx: Context[Any]) -> str:
            self.contexts.append(ctx)
            self.entered.release()
            assert self.gate.wait(60)
            return "through"

        @job(name=f"{name}.task", queue=queue)
        async def task(args: dict[str, Any], ctx: Context[Any]) -> str:
            self.contexts.append(ctx)
            self.entered.release()
            try:
                while not self.gate.is_set():  # noqa: ASYNC110 - the gate is opened by another thread
                    await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return "through"

        self.thread, self.task = thread, task


def serve(dsn: str) -> None:
    """A dispatcher in a process of its own, with steps that end at no price."""

    @job(name="resources.process_thread")
    def thread(args: dict[str, Any]) -> None:
        print("entered", flush=True)
        threading.Event().wait()

    @job(name="resources.process_task")
    async def task(args: dict[str, Any]) -> None:
        print("entered", flush=True)
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    Engine(dsn, [thread, task], drain_timeout=0.1).run()


class Hears:
    """Counts events by name and keeps nothing of what they are about, but the few that are asked for."""

    def __init__(self, *keep: str) -> None:
        self.counts: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.kept: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self._keep = keep

    def __call__(self, name: str, measurements: Any, metadata: Any) -> None:
        self.counts[name] += 1
        self.rows[name] += measurements.get("rows", 0)
        if name in self._keep:
            self.kept.append((name, dict(measurements), dict(metadata)))


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Counter[str]:
    """Counts the round trips of one of the engine's calls, also those that find nothing."""
    original: Callable[..., Awaitable[Any]] = getattr(dispatching, name)
    calls: Counter[str] = Counter()

    async def call(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return await original(*args, **kwargs)

    monkeypatch.setattr(dispatching, name, call)
    return calls


class Mute(Exception):
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise Mute


class Poison(FSM, name="resources.poison"):
    """Fails in the way that its state asks for."""

    @step
    def start(self, ctx: Context[Any]) -> Any:
        how = ctx.state["how"]
        if how == "no outcome":
            return {"done": True}
        if how == "not JSON":
            return Done(object())
        if how == "NUL in the result":
            return Done({"text": "a\x00b"})
        if how == "NUL in the reason":
            return Stop("a\x00b")
        if how == "too large":
            return Done(self.large)
        if how == "no such step":
            return Next("nowhere")
        if how == "mute":
            raise Mute
        raise ValueError(f"always ({how})")

    large = "x" * (33 << 20)

    def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        how = ctx.state["how"]
        if how == "handler exits":
            raise SystemExit(1)
        if how == "handler is cancelled":
            return self.cancel_me()
        return Stop(error)

    async def cancel_me(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)


class PoisonTask(FSM, name="resources.poison_task"):
    """The same for what only an async step can do."""

    @step
    async def start(self, ctx: Context[Any]) -> Any:
        if ctx.state["how"] == "cancels itself":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        if ctx.state["how"] == "mute":
            raise Mute
        raise ValueError("always")

    def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        if ctx.state["how"] == "handler exits":
            raise SystemExit(1)
        return Stop(error)


ERRORS = {
    "no outcome": "returned dict, which is no outcome",
    "not JSON": "cannot be encoded",
    "NUL in the result": "U+0000",
    "NUL in the reason": "a\N{REPLACEMENT CHARACTER}b",
    "no such step": "has no step 'nowhere'",
    "mute": "Mute",
    "raises": "ValueError: always (raises)",
    "handler exits": "SystemExit: 1",
    "handler is cancelled": "CancelledError",
}
"""How each instance of `Poison` ends, and a part of what its last_error says."""


def count(conn: Conn, condition: str, *params: object) -> int:
    row = conn.execute(f"select count(*) from gd_instances where {condition}", params).fetchone()
    assert row is not None
    return int(row[0])


def insert_many(conn: Conn, what: list[Any], batch: int = 10_000) -> list[int]:
    ids = []
    for at in range(0, len(what), batch):
        ids += [inserted.id for inserted in gd.insert_many(conn, what[at : at + batch])]
    return ids
