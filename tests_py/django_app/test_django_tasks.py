"""Django's tasks over gendurable: enqueued in Django's transactions, run by an engine, read back as they stand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from support import djangoproject
from support.cli import commit_for
from support.engine import ended, field, running
from support.shop.models import Order
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, step
from gendurable_py.contrib.django import insert, serving
from gendurable_py.telemetry import instrument

try:
    import django.tasks as framework
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
    from django.tasks.signals import task_enqueued, task_finished, task_started
except ModuleNotFoundError:
    framework = pytest.importorskip("django_tasks", reason="needs Django 6.0 or pip install django-tasks")
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
    from django_tasks.signals import task_enqueued, task_finished, task_started

from support.shop import tasks

from gendurable_py.contrib.django.tasks import GendurableBackend, TaskCancelled, TaskLost

READY, RUNNING = framework.TaskResultStatus.READY, framework.TaskResultStatus.RUNNING
FAILED, SUCCESSFUL = framework.TaskResultStatus.FAILED, framework.TaskResultStatus.SUCCESSFUL


def is_of_others(machine: Any) -> bool:
    """Whether another test of this process has made it: what a worker knows is all that was imported."""
    return str(machine.__module__).startswith(("test_", "chaos", "support.")) and "shop" not in machine.__module__


@contextmanager
def worker(db: Database) -> Iterator[None]:
    """An engine as ``manage.py gendurable worker`` has it."""
    before = instrument.current
    machines = [machine for machine in serving.found if not is_of_others(machine)]
    try:
        with running(Engine(db.dsn, machines, dict.fromkeys(serving.queues(), 4), poll_interval=0.2)):
            yield
    finally:
        instrument.use(before)


def run(db: Database, *results: Any) -> None:
    """Until they have ended, and say so."""
    with worker(db):
        ended(db.connect(), *(int(result.id) for result in results))
    for result in results:
        result.refresh()


@contextmanager
def heard() -> Iterator[list[tuple[str, Any]]]:
    """The signals of the framework."""
    said: list[tuple[str, Any]] = []
    named = {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}
    receivers = {}
    for name, signal in named.items():

        def receiver(sender: object, task_result: Any, name: str = name, **_: object) -> None:
            assert sender is GendurableBackend
            said.append((name, str(task_result.status)))

        receivers[name] = receiver
        signal.connect(receiver)
    try:
        yield said
    finally:
        for name, signal in named.items():
            signal.disconnect(receivers[name])


def test_a_task_from_its_enqueueing_to_its_result(project: Database) -> None:
    with heard() as said:
        result = tasks.add.enqueue(2, b=3)
        assert (result.status, result.started_at, result.errors, result.worker_ids) == (READY, None, [], [])
        with pytest.raises(ValueError, match="not finished"):
            _ = result.return_value
        again = tasks.add.get_result(result.id)
        assert (again.args, again.kwargs, again.enqueued_at) == ([2], {"b": 3}, result.enqueued_at)
        assert again.task == result.task
        run(project, result)
    assert (result.status, result.return_value, result.attempts, result.errors) == (SUCCESSFUL, 5, 1, [])
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at
    assert said == [("enqueued", READY), ("started", RUNNING), ("finished", SUCCESSFUL)]


def test_it_commits_and_rolls_back_with_django(project: Database) -> None:
    gone = []

    @transaction.atomic
    def view() -> None:
        gone.append(tasks.add.enqueue(1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        view()
    with pytest.raises(TaskResultDoesNotExist):
        gone[0].refresh()
    with transaction.atomic():
        kept = tasks.add.enqueue(1)
        assert gd.count(project.connect(), {}).instances == 0
    assert tasks.add.get_result(kept.id).status == READY


def test_a_failure_is_told_with_its_class_and_traceback(project: Database) -> None:
    with heard() as said:
        result = tasks.fail.enqueue("no funds\nat all")
        run(project, result)
    assert result.status == FAILED
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value
    [error] = result.errors
    assert error.exception_class is tasks.CardDeclined
    assert "raise CardDeclined(message)" in error.traceback
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.attempts == 1
    assert said[1:] == [("started", RUNNING), ("finished", FAILED)]


def test_what_is_no_json_is_refused_as_an_argument_and_fails_as_a_result(project: Database) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.add.enqueue(object())
    with pytest.raises(InvalidTask, match="module level"):
        framework.task(lambda: None)
    result = tasks.unstorable.enqueue()
    run(project, result)
    assert result.status == FAILED
    assert result.errors[0].exception_class is TypeError


def test_attempts_that_are_left_are_used(project: Database) -> None:
    with heard() as said:
        result = tasks.flaky.enqueue("a")
        with worker(project):
            id = int(result.id)
            conn = project.connect()
            for attempt in (1, 2):
                wait_until(lambda attempt=attempt: field(conn, id, "attempt") == attempt, 15)
                result.refresh()
                assert (result.status, len(result.errors)) == (READY, attempt)
                gd.reschedule(conn, id, timezone.now())  # not to wait for the back-off
            ended(conn, id)
        result.refresh()
    assert (result.status, result.return_value) == (SUCCESSFUL, "paid 3")
    assert result.attempts == 3
    assert [error.exception_class for error in result.errors] == [ValueError, ValueError]
    assert result.started_at < result.last_attempted_at
    assert [name for name, _ in said] == ["enqueued", "started", "started", "started", "finished"]


def test_another_backend_has_its_own_attempts(project: Database) -> None:
    result = tasks.flaky.using(backend="default").enqueue("a")
    run(project, result)
    assert (result.status, result.attempts) == (FAILED, 1)
    other = tasks.fail.using(backend="stubborn").enqueue("no")
    with project.connect() as conn:
        assert gd.get(conn, int(other.id))["max_attempts"] == 4  # type: ignore[index]


@pytest.mark.parametrize(("how", "paid", "status"), [("well", 1, SUCCESSFUL), ("raises", 0, FAILED)])
def test_a_transactional_task_and_its_effects_are_one(project: Database, how: str, paid: int, status: Any) -> None:
    order = Order.objects.create(name="a")
    result = tasks.pay.enqueue(order.pk, how)
    run(project, result)
    order.refresh_from_db()
    assert (result.status, order.paid) == (status, paid)


def test_an_async_task_runs_on_the_loop_and_uses_the_database(project: Database) -> None:
    Order.objects.create(name="a")
    result = asyncio.run(tasks.later.aenqueue("orders:"))
    run(project, result)
    assert result.return_value == "orders: 1"
    assert asyncio.run(tasks.later.aget_result(result.id)).status == SUCCESSFUL


class Reading(FSM, name="shop.reading", queue="default"):
    """Reads piece by piece, and lets a task run between."""

    @step
    async def start(self, ctx: Context[Any]) -> Done:
        seen = []
        async for order in Order.objects.order_by("name").aiterator(chunk_size=1):
            seen.append(order.name)
            if len(seen) == 1:
                result = await tasks.later.aenqueue("between")
                while not result.is_finished:
                    await asyncio.sleep(0.02)
                    await result.arefresh()
        return Done([*seen, result.return_value])


def test_an_async_task_takes_no_connection_from_others(project: Database) -> None:
    for name in ("a", "b", "c"):
        Order.objects.create(name=name)
    id = insert(Reading, {})
    with worker(project):
        [row] = ended(project.connect(), id)
    assert (row.result, row.last_error) == (["a", "b", "c", "between 3"], None)


def test_the_context_says_which_attempt_it_is(project: Database) -> None:
    result = tasks.about.enqueue()
    run(project, result)
    assert result.return_value == [1, result.id, "about"]


def test_priority_queue_and_time(project: Database) -> None:
    conn = project.connect()
    at = timezone.now() + timedelta(hours=1)
    later = tasks.mail.using(run_after=at, priority=100).enqueue("ada")
    [row] = gd.list(conn, {"id": int(later.id)}).instances
    assert (row.fsm, row.queue, row.priority, row.eligible_at) == ("support.shop.tasks:mail", "mail", -100, at)
    read = tasks.mail.get_result(later.id)
    assert (read.task.priority, read.task.queue_name, read.task.run_after) == (100, "mail", at)
    low, high = tasks.mail.using(priority=-7).enqueue("low"), tasks.mail.using(priority=7).enqueue("high")
    claims = gd.claim(conn, "w", "mail", 2)
    assert [claim.id for claim in claims] == [int(high.id), int(low.id)]
    for wrong in (101, -101):
        with pytest.raises(InvalidTask):
            tasks.mail.using(priority=wrong)
    with pytest.raises(InvalidTask, match="not valid"):
        tasks.mail.using(queue_name="nowhere")
    with pytest.raises(InvalidTask, match="aware"):
        tasks.mail.using(run_after=timezone.make_naive(at))


def test_where_django_has_no_zones(project: Database) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        djangoproject.use(default=djangoproject.described(project.dsn))
        at = timezone.now().replace(microsecond=0) + timedelta(hours=1)
        result = tasks.add.using(run_after=at).enqueue(1)
        read = tasks.add.get_result(result.id)
        assert (read.task.run_after, read.enqueued_at, result.enqueued_at.tzinfo) == (at, result.enqueued_at, None)
        seconds = (gd.list(project.connect(), {"id": int(result.id)}).instances[0].eligible_at or at).timestamp()
        assert abs(seconds - timezone.make_aware(at).timestamp()) < 1


def test_each_status_of_an_instance_has_one_of_a_task(project: Database) -> None:
    conn = project.connect()
    result = tasks.add.enqueue(1)
    id = int(result.id)
    [claim] = gd.claim(conn, "w1", "default", 1)
    result.refresh()
    assert (result.status, result.worker_ids, result.started_at is not None) == (RUNNING, ["w1"], True)
    gd.release(conn, "w1", [(claim.id, claim.claim_no)], crashed=True)
    result.refresh()
    assert (result.status, result.worker_ids) == (READY, ["w1"])
    assert [error.exception_class for error in result.errors] == [TaskLost]
    gd.cancel(conn, id, "not needed")
    result.refresh()
    assert (result.status, result.errors[-1].exception_class) == (FAILED, TaskCancelled)
    assert "not needed" in result.errors[-1].traceback
    assert result.finished_at is not None
    assert result.attempts == 1
    gd.retry(conn, id)
    result.refresh()
    assert (result.status, result.finished_at) == (READY, None)
    assert gd.cancel(conn, id)
    assert gd.delete(conn, id)
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()


def test_a_result_of_something_else_does_not_exist(project: Database) -> None:
    conn = project.connect()
    other = gd.insert(conn, "shop.checkout", {"order": 1})
    removed = gd.insert(conn, "support.shop.tasks:removed", {"args": [], "kwargs": {}})
    function = gd.insert(conn, "os.path:join", {"args": [], "kwargs": {}})
    ran = gd.insert(conn, "os.path:join", {"args": [], "kwargs": {}})
    commit_for(conn, ran, result={"a": 1})
    backend = framework.task_backends["default"]
    for id in (other, removed, function, ran, "", "x", "-1", "1" * 30, "²", None):
        with pytest.raises(TaskResultDoesNotExist):
            backend.get_result(id if id is None else str(id))
    with pytest.raises(TaskResultMismatch):
        tasks.add.get_result(tasks.mail.enqueue("ada").id)


def test_any_text_of_an_error_can_be_read(project: Database) -> None:
    long = tasks.fail.enqueue("x" * 20_000)
    run(project, long)
    assert long.started_at is not None
    assert long.errors[0].exception_class is tasks.CardDeclined
    for text in ("no\n(began at -)", "no\n(began at 2026-13-01T00:00:00)"):
        result = tasks.fail.enqueue("")
        assert gd.cancel(project.connect(), int(result.id), text)
        result.refresh()
        assert (result.status, result.started_at) == (FAILED, None)


def test_an_operator_may_move_a_task_to_where_none_is_enqueued(project: Database) -> None:
    result = tasks.add.enqueue(2, b=3)
    conn = project.connect()
    gd.edit(conn, int(result.id), queue="shop", priority=500)
    moved = tasks.add.get_result(result.id)
    assert (moved.task.queue_name, moved.task.priority) == ("shop", -500)
    run(project, result)
    assert (result.status, result.return_value) == (SUCCESSFUL, 5)


class Derived(GendurableBackend):
    """One of a project's own."""


def test_the_queues_of_every_backend_that_is_ours_are_served(project: Database) -> None:
    backends = {
        "a": {"BACKEND": f"{__name__}.Derived", "QUEUES": ["derived"]},
        "b": {"BACKEND": djangoproject.BACKEND, "QUEUES": ["own"]},
        "c": {"BACKEND": "django.core.cache.backends.dummy.DummyCache", "QUEUES": ["else"]},
        "d": {"BACKEND": "not.there", "QUEUES": ["nowhere"]},
    }
    with override_settings(TASKS=backends):
        assert {"derived", "own"} == {"derived", "own", "else", "nowhere"} & set(serving.queues())


def test_what_the_backend_says_it_can() -> None:
    backend = framework.task_backends["default"]
    said = ("supports_defer", "supports_async_task", "supports_get_result", "supports_priority")
    assert all(getattr(backend, name) for name in said)
    with pytest.raises(ImproperlyConfigured, match="retries"):
        GendurableBackend("default", {"OPTIONS": {"retries": 3}})
    wrong = {"BACKEND": djangoproject.BACKEND, "OPTIONS": {"max_attempts": 0}}
    with override_settings(TASKS={"default": wrong}), pytest.raises(InvalidTask, match="attempts"):
        framework.task(no_task)


def no_task() -> None:
    return None
