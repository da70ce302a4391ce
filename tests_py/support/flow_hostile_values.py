"""Values, names and times that nobody should give a flow: more cases of `flow_hostile`."""

from __future__ import annotations

import asyncio

from support.flow_hostile import awaited, case, one

from gendurable_py import Child
from gendurable_py.flow import FlowContext


@case("failed", "step 'large' failed: InvalidArgument: the value has 40,000,002 bytes")
async def has_a_large_value(ctx: FlowContext) -> None:
    await ctx.step("large", lambda: "x" * 40_000_000)


@case("failed", "step 'zero' failed")
async def has_a_zero(ctx: FlowContext) -> None:
    await ctx.step("zero", lambda: "a\0b")


@case("failed", "step 'nan' failed")
async def has_no_number(ctx: FlowContext) -> None:
    await ctx.step("nan", lambda: [float("nan")])


@case("failed", "step 'surrogate' failed")
async def has_a_surrogate(ctx: FlowContext) -> None:
    await ctx.step("surrogate", lambda: "\ud800")


@case("failed", "step 'object' failed")
async def has_an_object(ctx: FlowContext) -> None:
    await ctx.step("object", lambda: object())


def mistyped() -> int:
    return "abc"  # type: ignore[return-value]


@case("failed", "step 'mistyped' failed")
async def has_a_wrong_type(ctx: FlowContext) -> None:
    await ctx.step("mistyped", mistyped)


def raise_zero() -> None:
    raise ValueError("a\0b \ud800 " + "x" * 100_000)


@case("failed", "step 'words' failed")
async def has_hostile_words(ctx: FlowContext) -> None:
    await ctx.step("words", raise_zero)


@case("failed", "ValueError")
async def ends_with_hostile_words(ctx: FlowContext) -> None:
    raise_zero()


@case("failed", "")
async def gives_back_a_zero(ctx: FlowContext) -> str:
    return "a\0b"


@case("failed", "")
async def gives_back_an_object(ctx: FlowContext) -> object:
    return object()


@case("failed", "FlowError")
async def has_a_name_with_a_zero(ctx: FlowContext) -> None:
    await ctx.step("a\0b", one)


@case("failed", "FlowError")
async def has_a_long_name(ctx: FlowContext) -> None:
    await ctx.step("x" * 3000, one)


@case("failed", "parentheses")
async def has_the_name_of_a_pause(ctx: FlowContext) -> None:
    await ctx.step("(sleep)", one)


@case("failed", "is no function")
async def has_no_function(ctx: FlowContext) -> None:
    await ctx.step("three", 3)  # type: ignore[call-overload]


@case("failed", "awaitable")
async def has_a_lambda_of_a_coroutine(ctx: FlowContext) -> None:
    await ctx.step("lambda", lambda: awaited())


@case("failed", "unique_key")
async def has_a_unique_child(ctx: FlowContext) -> None:
    await ctx.childs([Child("whatever", unique_key="u")])


@case("failed", "children beside something with a deadline")
async def has_a_barrier_with_a_deadline(ctx: FlowContext) -> None:
    async with asyncio.timeout(3600):
        await ctx.childs([Child("whatever")])


@case("failed", "a timer of inf s")
async def sleeps_for_ever(ctx: FlowContext) -> None:
    await asyncio.sleep(float("inf"))


@case("failed", "InvalidArgument")
async def sleeps_too_long(ctx: FlowContext) -> None:
    await ctx.sleep(1e300)


@case("failed", "nan")
async def sleeps_no_number(ctx: FlowContext) -> None:
    await asyncio.sleep(float("nan"))
