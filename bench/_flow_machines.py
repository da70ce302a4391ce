"""Flows of checkpoints that do nothing, and machines of as many async steps."""

from __future__ import annotations

from gendurable_py import FSM, Context, Done, Next, step
from gendurable_py.flow import FlowContext, flow


async def nothing(number: int) -> int:
    return number


async def _checkpoints(ctx: FlowContext, count: int) -> None:
    for number in range(count):
        await ctx.step("nothing", nothing, number)


@flow(name="bench_flow_5")
async def five(ctx: FlowContext) -> None:
    """Five checkpoints."""
    await _checkpoints(ctx, 5)


@flow(name="bench_flow_100")
async def hundred(ctx: FlowContext) -> None:
    await _checkpoints(ctx, 100)


@flow(name="bench_flow_1000")
async def thousand(ctx: FlowContext) -> None:
    await _checkpoints(ctx, 1000)


@flow(name="bench_flow_long")
async def long(ctx: FlowContext, args: dict[str, int]) -> None:
    """As many as it is told."""
    await _checkpoints(ctx, args["count"])


class Steps(FSM, abstract=True):
    """As many steps as its class says, each of which counts."""

    count = 0

    @step
    async def start(self, ctx: Context[dict[str, int]]) -> Next | Done:
        done = int(ctx.state.get("n", 0)) + 1
        return Next("start", {"n": done}) if done < self.count else Done()


class FiveSteps(Steps, name="bench_steps_5"):
    count = 5


class HundredSteps(Steps, name="bench_steps_100"):
    count = 100


MACHINES = [five, hundred, thousand, long, FiveSteps, HundredSteps]
