"""A backend of Django's tasks on Django's own connection: what is enqueued in ``atomic`` is there if that commits.

::

    TASKS = {"default": {"BACKEND": "gendurable_py.contrib.django.tasks.GendurableBackend", "QUEUES": ["default"]}}

Each task is a machine of one step, named ``module:function``, so that operators see, pause and retry it by its name.
``manage.py gendurable worker`` runs them. Options (``OPTIONS`` of the backend, or arguments of the decorator where it
takes some): ``max_attempts``, ``timeout``, ``transactional``, ``retain``; for the backend also ``database``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, cast

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.module_loading import import_string

from ... import calls
from ..._contract import Seconds
from ...errors import InvalidArgument
from . import conf
from ._framework import (
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from ._running import Settings, TaskCancelled, TaskExpired, TaskLost, as_it_stands, machine_of, read_error
from .calling import connection, translated, wrapper_of

__all__ = ["GendurableBackend", "GendurableTask", "TaskCancelled", "TaskExpired", "TaskLost"]

_OPTIONS = {"max_attempts", "timeout", "transactional", "retain"}
# What a failure is that the task itself has not raised.
_KINDS = {
    "timeout": "builtins.TimeoutError",
    "crash": f"{TaskLost.__module__}.{TaskLost.__qualname__}",
    "cancel": f"{TaskCancelled.__module__}.{TaskCancelled.__qualname__}",
    "expired": f"{TaskExpired.__module__}.{TaskExpired.__qualname__}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GendurableTask(Task):
    """A task with what gendurable can do for it; None: as the backend says.

    max_attempts: how often it runs at most if it raises, 1 by default. timeout: seconds that a run may take.
    transactional: run in ``atomic``, and commit with it that the task has ended: its effects in this database happen
    exactly once. retain: as of `gendurable_py.FSM`.
    """

    max_attempts: int | None = None
    timeout: Seconds | None = None
    transactional: bool | None = None
    retain: Mapping[str, Seconds] | None = None


class GendurableBackend(BaseTaskBackend):
    """Enqueues into gendurable, and reads from it how tasks stand."""

    task_class = GendurableTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    _statuses: ClassVar[dict[str, Any]] = {
        "executing": TaskResultStatus.RUNNING,
        "done": TaskResultStatus.SUCCESSFUL,
        "failed": TaskResultStatus.FAILED,
        "cancelled": TaskResultStatus.FAILED,
    }

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        unknown = sorted(map(str, self.options.keys() - _OPTIONS - {"database"}))
        if unknown:
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]['OPTIONS'] has {', '.join(unknown)}: its keys are database, "
                + ", ".join(sorted(_OPTIONS))
            )

    @property
    def database(self) -> str:
        """The alias of the database in which tasks are."""
        return str(self.options.get("database") or conf.default_database())

    def settings(self, task: Any) -> Settings:
        """What holds for a task: its own, else the backend's."""

        def said(name: str, default: Any = None) -> Any:
            own = getattr(task, name, None)
            return self.options.get(name, default) if own is None else own

        return Settings(
            database=self.database,
            queue=task.queue_name,
            max_attempts=said("max_attempts", 1),
            timeout=said("timeout"),
            transactional=said("transactional", False),
            retain=said("retain"),
        )

    def validate_task(self, task: Any) -> None:
        super().validate_task(task)
        try:
            machine_of(task, self.settings(task))
        except InvalidArgument as error:
            raise InvalidTask(str(error)) from error

    # Enqueueing

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """In the transaction of Django's connection, if there is one."""
        self.validate_task(task)
        now = timezone.now()
        result = TaskResult(
            task=task,
            id="",
            status=TaskResultStatus.READY,
            enqueued_at=now,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        state = {
            "args": result.args,
            "kwargs": result.kwargs,
            "backend": self.alias,
            "enqueued_at": now.isoformat(),
        }
        run_after = task.run_after
        if run_after is not None:
            run_after = timezone.make_aware(run_after) if timezone.is_naive(run_after) else run_after
            state["run_after"] = run_after.isoformat()
        settings = self.settings(task)
        with translated(wrapper_of(self.database)):
            id = calls.insert(
                connection(self.database),
                machine_of(task, settings),
                state,
                queue=task.queue_name,
                priority=-task.priority,
                eligible_at=run_after,
                max_attempts=settings.max_attempts,
            )
        object.__setattr__(result, "id", str(id))
        task_enqueued.send(type(self), task_result=result)
        return result

    # Results

    def get_result(self, result_id: str) -> Any:
        """How a task stands: until its retention is over, then it does not exist."""
        if not (isinstance(result_id, str) and result_id.isascii() and result_id.isdigit()) or len(result_id) > 18:
            raise TaskResultDoesNotExist(result_id)
        id = int(result_id)
        with translated(wrapper_of(self.database)):
            conn = connection(self.database)
            row = cast("dict[str, Any] | None", calls.get(conn, id))
            if row is None or not isinstance(row["state"], dict) or not {"args", "kwargs"} <= row["state"].keys():
                raise TaskResultDoesNotExist(result_id)
            errors = list(reversed(calls.errors(conn, id))) if row["errors"] else []
            since = None
            if row["status"] == "executing":
                since = next((cause.since for cause in calls.why(conn, id) if cause.cause == "executing"), None)
        return self._read(row, [error for error in errors if error.kind != "unfit"], since)

    def _read(self, row: dict[str, Any], errors: list[Any], since: datetime | None) -> Any:
        state, task = row["state"], self._task(row)
        tries = [read_error(error.error or "") for error in errors]
        started = [_moment(one.started) for one in tries if one.started]
        workers = [error.worker for error in errors if error.kind != "cancel" and error.worker]
        done = row["result"] if row["status"] == "done" and isinstance(row["result"], dict) else {}
        if row["status"] == "executing":
            started += [since] if since is not None else []
            workers.append(row["worker"])
        if done:
            started.append(_moment(done["started_at"]))
            workers.append(done["worker"])
        result = TaskResult(
            task=task,
            id=str(row["id"]),
            status=self._statuses.get(row["status"], TaskResultStatus.READY),
            enqueued_at=_moment(state.get("enqueued_at") or row["inserted_at"]),
            started_at=started[0] if started else None,
            finished_at=_moment(row["finished_at"]),
            last_attempted_at=started[-1] if started else None,
            args=state["args"],
            kwargs=state["kwargs"],
            backend=self.alias,
            errors=[
                TaskError(
                    exception_class_path=_KINDS.get(error.kind) or one.path or "builtins.Exception",
                    traceback=error.traceback or error.error or "",
                )
                for error, one in zip(errors, tries, strict=True)
            ],
            worker_ids=workers,
        )
        object.__setattr__(result, "_return_value", done.get("return_value"))
        return result

    def _task(self, row: dict[str, Any]) -> Any:
        path = str(row["fsm"]).replace(":", ".")
        try:
            task = import_string(path)
        except ImportError as error:
            raise TaskResultDoesNotExist(f"{row['id']} is of the task {path}, which is not here: {error}") from error
        if not isinstance(task, Task):
            raise TaskResultDoesNotExist(f"{row['id']} is of {path}, which is no task")
        run_after = row["state"].get("run_after")
        return as_it_stands(
            task,
            backend=self.alias,
            queue_name=row["queue"],
            priority=-row["priority"],
            run_after=_moment(run_after),
        )


def _moment(text: Any) -> Any:
    """A time of JSON as Django has times: aware with ``USE_TZ``, else naive in its zone."""
    if text is None:
        return None
    moment = text if isinstance(text, datetime) else datetime.fromisoformat(text)
    if timezone.is_aware(moment):
        return moment if _uses_zones() else timezone.make_naive(moment)
    return moment


def _uses_zones() -> bool:
    from django.conf import settings

    return bool(settings.USE_TZ)
