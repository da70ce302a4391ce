"""How many rows are claimed before there is a slot for them (``prefetch="auto"``), by a clock that is set by hand."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gendurable_py.dispatch import ahead
from gendurable_py.dispatch.ahead import HORIZON, LONGEST, Ahead, Pace
from gendurable_py.dispatch.executor import Executor
from gendurable_py.dispatch.work import Work
from gendurable_py.machine.context import Draining


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Steps:
    """As a work that has ended is looked at."""

    def __init__(self, seconds: float, queue: str = "q") -> None:
        self.queue, self.started, self.ended = queue, 5.0, 5.0 + seconds


class Waiting:
    """A backlog by hand: since when, and how many."""

    def __init__(self) -> None:
        self.since: dict[str, float] = {}
        self.works: list[Any] = []

    def waiting_since(self, queue: str) -> float | None:
        return self.since.get(queue)

    def take_waiting(self, queue: str) -> list[Any]:
        del self.since[queue]
        return self.works


class World:
    def __init__(self, prefetch: Any = "auto") -> None:
        self.clock = Clock()
        self.waiting = Waiting()
        self.back: list[Any] = []
        self.ahead = Ahead(prefetch, self.waiting, self.back.append, self.clock)
        self.ahead.wanted({"q": (0, 10)})
        self.ahead.claimed({"q": 10}, {"q": 10}, {})

    def work(self, rate: float, step: float, seconds: float, tick: float = 0.002) -> None:
        """Steps of so many seconds end at this rate, for so long."""
        owed = 0.0
        for _ in range(round(seconds / tick)):
            self.clock.now += tick
            owed += rate * tick
            self.ahead.ended([Steps(step)] * int(owed))  # type: ignore[list-item]
            owed -= int(owed)
            self.ahead.wanted({"q": (10, 10)})

    def wants(self, load: int = 10, slots: int = 10) -> int:
        return self.ahead.wanted({"q": (load, slots)}).get("q", 0)


def test_as_many_are_ahead_as_are_done_in_the_horizon() -> None:
    world = World()
    assert world.wants() == 0  # nothing is known
    world.work(2000, 0.005, 0.5)
    assert world.wants() == pytest.approx(2000 * HORIZON, abs=5)
    world.work(500, 0.015, 1.0)
    assert world.wants() == pytest.approx(500 * HORIZON, abs=3)
    world.work(100_000, 0.0001, 1.0)
    assert world.wants() == ahead._MOST


def test_the_first_few_steps_say_of_few_more() -> None:
    pace = Pace(0.0)
    for _ in range(10):
        pace.add(0.0)
    assert pace.count(0.0005) <= 10


def test_long_steps_have_none_ahead_however_many_slots_there_are() -> None:
    world = World()
    world.work(5000, 2 * HORIZON, 1.0)
    assert world.wants(200, 200) == 0


def test_few_long_ones_among_many_short_ones_are_long_for_a_while() -> None:
    world = World()
    world.work(5000, 0.0005, 1.0)
    assert world.wants() > 0
    world.ahead.ended([Steps(5.0)])  # type: ignore[list-item]
    world.work(5000, 0.0005, 0.5)
    assert world.wants() == 0
    world.work(5000, 0.0005, 20.0)
    assert world.wants() > 0


def test_one_that_was_held_up_for_a_moment_changes_nothing() -> None:
    world = World()
    world.work(5000, 0.0005, 1.0)
    world.ahead.ended([Steps(3 * HORIZON)])  # type: ignore[list-item]
    world.work(5000, 0.0005, 0.01)
    assert world.wants() > 50


def test_what_stands_still_has_soon_none_ahead() -> None:
    world = World()
    world.work(5000, 0.0005, 1.0)
    for _ in range(200):
        world.clock.now += 0.003
        world.wants()
    assert world.wants() == 0


def test_a_rate_of_before_a_pause_says_nothing() -> None:
    world = World()
    world.work(5000, 0.0005, 1.0)
    world.clock.now += 60
    assert world.wants() == 0
    world.work(5000, 0.0005, 0.02)
    assert world.wants() > 50  # and the pause nothing of what comes


def test_what_has_no_beginning_or_no_end_is_not_measured() -> None:
    world = World()
    work = Steps(0.0)
    for work.started, work.ended in ((0.0, 0.0), (5.0, 0.0)):
        for _ in range(50):
            world.ahead.ended([work] * 10)  # type: ignore[list-item]
            world.clock.now += 0.002
            assert world.wants() == 0


def test_they_are_claimed_many_at_a_time() -> None:
    world = World()
    world.work(5000, 0.0005, 1.0)
    count = world.wants()
    assert world.wants(10 + count // 4) == count - count // 4
    assert world.wants(10 + count // 2 + 2) == 0  # more than half of them are there
    assert world.wants(10 + 2 * count) == 0
    assert world.wants(9) == count  # a slot is free: one claim for both


def test_a_claim_that_found_less_than_it_asked_for_ends_it() -> None:
    world = World()
    world.work(5000, 0.0005, 1.0)
    assert world.wants() > 0
    world.ahead.claimed({"q": 50}, {"q": 49}, {})
    assert world.wants() == 0
    assert world.ahead.allowed == 0
    world.ahead.claimed({"q": 3}, {"q": 3}, {})  # the free slots were filled: there may be more
    assert world.wants() > 0
    world.ahead.claimed({"q": 5, "other": 1}, {"other": 1}, {})
    assert world.wants() == 0


def test_where_all_rows_have_keys_it_is_seldom_asked_for_more() -> None:
    world = World()
    world.work(5000, 0.0005, 1.0)
    vain = 0
    for _ in range(500):
        wanted = world.wants(9)
        vain += wanted > 0
        # the free slot is filled, and nothing came besides
        world.ahead.claimed({"q": 1 + wanted}, {"q": 1}, {"q": wanted} if wanted else {})
    assert 5 < vain < 15
    # once some come it is as it was
    while not (wanted := world.wants(9)):
        world.ahead.claimed({"q": 1}, {"q": 1}, {})
    world.ahead.claimed({"q": 1 + wanted}, {"q": 2}, {"q": wanted})
    world.ahead.claimed({"q": 1}, {"q": 1}, {})
    assert world.wants() > 0


def test_a_queue_without_slots_has_none() -> None:
    world = World()
    world.work(5000, 0.0005, 1.0)
    assert world.wants(0, 0) == 0


def test_a_number_leaves_it_at_that() -> None:
    world = World(7)
    world.work(5000, 0.0005, 1.0)
    assert (world.ahead.fixed, world.wants()) == (7, 0)


async def _looked(world: World, waited: float, late: float = 0.0) -> int:
    """How often something was given back in one look at what waits so long, of which no step ended since the last."""
    before = len(world.back)
    world.waiting.since["q"] = world.clock.now - 0.001
    world.ahead.claimed({"q": 10}, {"q": 10}, {})
    world.ahead._paces["q"].stands = True
    world.clock.now += LONGEST / 2 + late
    world.waiting.since["q"] = world.clock.now - waited
    world.ahead.look()
    return len(world.back) - before


def test_what_waits_too_long_is_given_back_and_nothing_is_ahead_for_a_while() -> None:
    async def main() -> None:
        world = World()
        world.work(5000, 0.0005, 1.0)
        assert await _looked(world, LONGEST - 0.01) == 0
        assert await _looked(world, LONGEST + 0.01) == 1
        world.work(5000, 0.0005, 0.9)
        assert world.wants() == 0
        world.work(5000, 0.0005, 0.2)
        assert world.wants() > 0
        # again and again: each rest is twice as long
        assert await _looked(world, LONGEST + 0.01) == 1
        world.work(5000, 0.0005, 1.9)
        assert world.wants() == 0
        world.work(5000, 0.0005, 0.2)
        assert world.wants() > 0
        # and a long time afterwards as short as the first
        world.work(1000, 0.0005, 30, tick=0.02)
        assert await _looked(world, LONGEST + 0.01) == 1
        world.work(5000, 0.0005, 1.1)
        assert world.wants() > 0

    asyncio.run(main())


def test_who_was_held_up_itself_gives_nothing_back_at_once() -> None:
    async def main() -> None:
        world = World()
        world.work(5000, 0.0005, 1.0)
        assert await _looked(world, 2 * LONGEST, late=2 * LONGEST) == 0  # the look came late
        assert await _looked(world, 3 * LONGEST + 0.01, late=2 * LONGEST) == 1

    asyncio.run(main())


def test_while_steps_end_what_waits_has_longer() -> None:
    async def main() -> None:
        world = World()
        world.work(5000, 0.0005, 1.0)
        for waited, given in ((2 * LONGEST, 0), (3 * LONGEST + 0.01, 1)):
            world.waiting.since["q"] = world.clock.now
            world.ahead.claimed({"q": 10}, {"q": 10}, {})
            world.ahead.ended([Steps(0.0)])  # type: ignore[list-item]
            world.clock.now += LONGEST / 2
            world.waiting.since["q"] = world.clock.now - waited
            world.ahead.look()
            assert len(world.back) == given

    asyncio.run(main())


def test_what_goes_on_under_a_kept_claim_has_waited_since_it_came_back() -> None:
    """Not since it was claimed: chains of steps that end all the time would look like steps that have become long."""

    async def main() -> None:
        executor = Executor(asyncio.get_running_loop(), {"q": 1}, lambda _: None, Draining(), lambda _: None)
        executor._running["q"] = 1
        begun = time.monotonic()
        executor.submit(cast("Work", SimpleNamespace(queue="q", since=begun - 10 * LONGEST, flow=None)))
        since = executor.waiting_since("q")
        assert since is not None and since >= begun

    asyncio.run(main())
