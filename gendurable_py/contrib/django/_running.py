"""How a task of Django's runs: as a machine of one step, which is made when the task is.

What Django wants to know of a run, and gendurable does not keep, goes along: with the result when it began and where,
with an error the path of its class and when it began.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import socket
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.utils import timezone

from ..._contract import Seconds
from ...machine.context import Context
from ...machine.describe import describe
from ...machine.job import Job
from ...machine.outcome import Outcome, Retry
from ._framework import TaskContext, TaskError, TaskResult, TaskResultStatus, task_finished, task_started
from .transactions import atomic, close_shared, under_way


class TaskLost(Exception):
    """The worker of a task was lost while it ran."""


class TaskCancelled(Exception):
    """A task was cancelled by hand."""


class TaskExpired(Exception):
    """The deadline of a task has passed."""


@dataclass(frozen=True)
class Settings:
    """How a task runs."""

    database: str
    queue: str
    max_attempts: int
    timeout: Seconds | None
    transactional: bool
    retain: Mapping[str, Seconds] | None


class Tried(NamedTuple):
    """What the text of an error says of the run."""

    path: str | None
    started: str | None


_STARTED = re.compile(r"\n\(began at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d:\d\d)?)\)\Z", re.ASCII)
# So long that what is added to it is not cut off.
_LONGEST = 7_900
_PATH = re.compile(r"[^\W\d]\w*(?:\.\w+)*(?=:|\n|\Z)")
_machines: dict[str, tuple[Any, type[Job]]] = {}


def read_error(text: str) -> Tried:
    """The class and the beginning out of an error that `_TaskJob.handle` has written; of others what can be told."""
    match = _STARTED.search(text)
    started = match.group(1) if match else None
    if started is not None:
        try:
            datetime.fromisoformat(started)
        except ValueError:  # somebody else's text
            started = None
    path = _PATH.match(text)
    found = path.group() if path else None
    return Tried(f"builtins.{found}" if found and "." not in found else found, started)


def machine_of(task: Any, settings: Settings) -> type[Job]:
    """The machine of a task's function, made for the first task that has it."""
    name = f"{task.func.__module__}:{task.func.__qualname__}"
    known = _machines.get(name)
    if known is not None and known[0] is task.func:
        return known[1]
    kind = _AsyncTaskJob if inspect.iscoroutinefunction(task.func) else _SyncTaskJob
    made: type[Job] = type(
        task.func.__qualname__,
        (kind,),
        {
            "__module__": task.func.__module__,
            "__qualname__": task.func.__qualname__,
            "__doc__": task.func.__doc__,
            "task": task,
        },
        name=name,
        queue=settings.queue,
        max_attempts=settings.max_attempts,
        timeout=settings.timeout,
        transactional=atomic(settings.database) if settings.transactional else None,
        retain=settings.retain,
    )
    _machines[name] = (task.func, made)
    return made


def as_it_stands(task: Any, **changes: object) -> Any:
    """The task with what the row says, unchecked: an operator may have moved it to where none can be enqueued."""
    made = object.__new__(type(task))
    for field in fields(task):
        object.__setattr__(made, field.name, changes.get(field.name, getattr(task, field.name)))
    return made


@functools.cache
def worker_name() -> str:
    """This process, as a result names who made it."""
    return f"{socket.gethostname()}:{os.getpid()}"


class _TaskJob(Job, abstract=True):
    """What both kinds have in common."""

    task: Any

    def _begin(self, ctx: Context[Any], began: datetime | None, status: Any) -> Any:
        """The result as it stands in this run."""
        args = ctx.state
        task = as_it_stands(self.task, backend=args["backend"], queue_name=ctx.queue)
        return TaskResult(
            task=task,
            id=str(ctx.id),
            status=status,
            enqueued_at=datetime.fromisoformat(args["enqueued_at"]),
            started_at=began,
            finished_at=None,
            last_attempted_at=began,
            args=args["args"],
            kwargs=args["kwargs"],
            backend=task.backend,
            errors=[],
            # Who has tried before is not handed out with a claim, but how often is.
            worker_ids=[*[""] * ctx.attempt, worker_name()],
        )

    def _arguments(self, result: Any) -> list[Any]:
        return [TaskContext(task_result=result), *result.args] if self.task.takes_context else result.args

    def _end(self, result: Any, value: object) -> dict[str, object]:
        """Note the end on the result; what is kept as the result of the instance."""
        [value] = replace(result, args=[value]).args  # checked and normalized as Django does it with arguments
        object.__setattr__(result, "finished_at", timezone.now())
        object.__setattr__(result, "status", TaskResultStatus.SUCCESSFUL)
        object.__setattr__(result, "_return_value", value)
        return {"return_value": value, "started_at": result.started_at.isoformat(), "worker": worker_name()}

    def _judge(self, error: Exception, ctx: Context[Any]) -> tuple[Outcome, Any]:
        """What becomes of an error, and if that is the end, the result as it is then."""
        outcome = super().handle(error, ctx)
        assert isinstance(outcome, Outcome)
        if not isinstance(outcome, Retry):
            return outcome, None
        began = getattr(error, "_gendurable_began", None)
        outcome = replace(outcome, reason=_describe(error, began))
        result = self._begin(ctx, began, TaskResultStatus.FAILED)
        if ctx.attempt + 1 < result.task.get_backend().settings(result.task).max_attempts:
            return outcome, None
        object.__setattr__(result, "finished_at", timezone.now())
        trace = "".join(traceback.format_exception(error))
        result.errors.append(TaskError(exception_class_path=_class_path(error), traceback=trace))
        return outcome, result


class _SyncTaskJob(_TaskJob, abstract=True):
    def perform(self, args: dict[str, Any], ctx: Context[Any]) -> dict[str, object]:
        began = timezone.now()
        with _marked(began):
            result = self._begin(ctx, began, TaskResultStatus.RUNNING)
            sender = type(result.task.get_backend())
            task_started.send(sender, task_result=result)
            answer = self._end(result, self.task.func(*self._arguments(result), **result.kwargs))
            task_finished.send(sender, task_result=result)
            return answer

    def handle(self, error: Exception, ctx: Context[Any]) -> Outcome:
        outcome, result = self._judge(error, ctx)
        if result is not None:
            task_finished.send(type(result.task.get_backend()), task_result=result)
        return outcome


class _AsyncTaskJob(_TaskJob, abstract=True):
    async def perform(self, args: dict[str, Any], ctx: Context[Any]) -> dict[str, object]:
        began = timezone.now()
        with under_way(), _marked(began):
            # What asks the database does so in asgiref's thread, whose connections have nobody else who closes them.
            await sync_to_async(close_shared())()
            result = self._begin(ctx, began, TaskResultStatus.RUNNING)
            sender = type(result.task.get_backend())
            await task_started.asend(sender, task_result=result)
            try:
                value = await self.task.func(*self._arguments(result), **result.kwargs)
            finally:
                await sync_to_async(close_shared())()
            answer = self._end(result, value)
            await task_finished.asend(sender, task_result=result)
            return answer

    async def handle(self, error: Exception, ctx: Context[Any]) -> Outcome:
        outcome, result = self._judge(error, ctx)
        if result is not None:
            await task_finished.asend(type(result.task.get_backend()), task_result=result)
        return outcome


@contextlib.contextmanager
def _marked(began: datetime) -> Iterator[None]:
    """What is raised here knows when its run began."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(Exception):  # one that takes no attributes
            error._gendurable_began = began  # type: ignore[attr-defined]
        raise


def _class_path(error: BaseException) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"


def _describe(error: Exception, began: datetime | None) -> str:
    """Its text with the whole name of its class, but of those that everybody knows."""
    text = describe(error)
    kind = type(error)
    if kind.__module__ != "builtins" and text.startswith(kind.__name__):
        text = _class_path(error) + text[len(kind.__name__) :]
    return text if began is None else f"{text[:_LONGEST]}\n(began at {began.isoformat()})"
