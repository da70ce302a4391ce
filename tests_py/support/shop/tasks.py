"""Tasks of Django's framework."""

from __future__ import annotations

from typing import Any

try:
    from django.tasks import task
except ModuleNotFoundError:
    from django_tasks import task


class CardDeclined(Exception):
    """Raised by `fail`."""


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task(queue_name="mail", priority=5)
def mail(to: str) -> None:
    return None


@task(takes_context=True)
def about(context: Any) -> list[Any]:
    return [context.attempt, context.task_result.id, context.task_result.task.name]


@task
async def later(text: str) -> str:
    from asgiref.sync import sync_to_async

    from .models import Order

    count = await sync_to_async(Order.objects.count)()
    return f"{text} {count}"


@task
def fail(message: str) -> None:
    raise CardDeclined(message)


@task(backend="stubborn")
def flaky(name: str) -> str:
    from .models import Order

    order, _ = Order.objects.get_or_create(name=name)
    order.paid += 1
    order.save()
    if order.paid < 3:
        raise ValueError(f"only {order.paid}")
    return f"paid {order.paid}"


@task(backend="exact")
def pay(pk: int, how: str) -> None:
    from .models import Order

    order = Order.objects.get(pk=pk)
    order.paid += 1
    order.save()
    if how == "raises":
        raise CardDeclined("no")


@task
def unstorable() -> object:
    return object()
