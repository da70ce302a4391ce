"""A machine that a worker finds by itself."""

from __future__ import annotations

from typing import Any

from gendurable_py import FSM, Await, Context, Done, Next, step
from gendurable_py.contrib.django import atomic


class Checkout(FSM, name="shop.checkout", queue="shop"):
    @step
    def start(self, ctx: Context[dict[str, Any]]) -> object:
        if ctx.state.get("wait"):
            return Await("paid", step=self.pay)
        return Next(self.pay)

    @step(transactional=atomic())
    def pay(self, ctx: Context[dict[str, Any]]) -> Done:
        from .models import Order

        order = Order.objects.get(pk=ctx.state["order"])
        order.paid += 1
        order.save()
        return Done(order.paid)
