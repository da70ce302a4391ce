"""Every event that the engine tells of, with the numbers and facts that docs/python.md promises."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.faults import broken_commits
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, FlowContext, Next, Replay, Stop, flow, job, scheduled, step
from gendurable_py.telemetry import instrument as telemetry
from gendurable_py.telemetry.events import EVENTS

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """The table of the documentation: event, measurements, metadata. What stands in brackets is explanation."""
    found = {}
    text = (ROOT / "docs" / "python.md").read_text()
    table = text[text.index("| event |") :].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        name, _, measurements, metadata = (cell.strip() for cell in line.strip("|").split("|"))
        keys = (re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", cell)) for cell in (measurements, metadata))
        found[name.strip("`")] = (set(next(keys)), set(next(keys)))
    return found


def test_the_documentation_names_every_event() -> None:
    assert set(EVENTS) == set(documented())
    emitted = "".join(path.read_text() for path in (ROOT / "gendurable_py").rglob("*.py"))
    assert {name for name, event in EVENTS.items() if not re.search(rf"_emit\(\s*{event.__name__}\(", emitted)} == set()


def test_each_event_has_the_fields_of_the_documentation() -> None:
    for name, (measurements, metadata) in documented().items():
        if name != "maintain":  # what is counted there is the server's
            assert (set(EVENTS[name].numbers), set(EVENTS[name].facts)) == (measurements, metadata), name


class Refused(FSM, name="events.refused"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("start", priority=2**40)


def test_every_event_says_what_is_promised(db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(telemetry._intervals, "test", 1.0)
    events, other, locker = Events(), db.connect(), db.connect(autocommit=False)

    @job(name="events.stale")
    def stale(args: dict[str, Any], ctx: Context[Any]) -> None:
        gd.cancel(other, ctx.id)

    @job(name="events.locked")
    def locked(args: dict[str, Any], ctx: Context[Any]) -> None:
        locker.execute("select from gendurable.instance where id = %s for update", (ctx.id,))

    @job(name="events.blocks")
    async def blocks(args: dict[str, Any]) -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - which is the mistake that the engine tells of

    @job(name="events.forever")
    async def forever(args: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    @job(name="events.slow", timeout=0.2, max_attempts=1)
    async def slow(args: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    @scheduled("@daily", name="events.scheduled")
    @job(name="events.quick", rate_limits={"events": (1, 1)})
    def quick(args: dict[str, Any]) -> None:
        return None

    @flow(name="events.flow")
    async def told(ctx: FlowContext) -> None:
        await ctx.signal("go")

    machines = [Refused, stale, locked, blocks, forever, slow, quick, told]
    engine = Engine(
        db.dsn,
        machines,
        {"default": 1},
        heartbeat_interval=0.1,
        poll_interval=0.05,
        reap_interval=0.05,
        on_event=events,
    )
    with running(engine):
        parked = gd.insert(conn, told)
        wait_until(lambda: field(conn, parked, "status") == "awaiting_signal")
        gd.signal(conn, parked or 0, "go")
        ended(conn, gd.insert(conn, Refused), gd.insert(conn, blocks), gd.insert(conn, slow), parked)
        # A heartbeat may be quicker than the commit, and then it is the one that tells.
        wait_until(lambda: ended(conn, gd.insert(conn, stale)) and events.count("stale"))
        gd.insert(conn, "events.unknown")
        lost = gd.insert(conn, forever)
        wait_until(lambda: field(conn, lost, "status") == "executing")
        gd.cancel(conn, lost or 0)
        wait_until(lambda: events.count("lost"))
        late = gd.insert(conn, locked)
        wait_until(lambda: any(about["fsm"] == "events.locked" for _, about in events.named("busy")))
        locker.rollback()
        ended(conn, late)
        with broken_commits(conn, "53100", "no space left on device"):
            stuck = gd.insert(conn, quick)
            wait_until(lambda: events.count("stuck"))
        ended(conn, stuck)
        wait_until(lambda: events.count("sleep") and events.count("maintain"))
        gd.pause_queue(conn, "default")
        assert gd.drain_worker(conn, engine.worker)
        wait_until(lambda: events.count("drain") and events.count("queue"))
        assert gd.resume_worker(conn, engine.worker)
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name like 'gendurable %'"
        )
        wait_until(lambda: events.count("recovered"))

        def all_told() -> bool:
            missing = set(documented()) - {name for name, _, _ in list(events.seen)}
            assert not missing, missing
            return True

        wait_until(all_told)

    for name, measurements, metadata in events.seen:
        wanted_measurements, wanted_metadata = documented()[name]
        if name == "sleep":
            measurements.setdefault("due_in", 0)  # only where something is due later
        if name == "wake":
            measurements.setdefault("late", 0)  # only where it did not look by itself
        assert (set(measurements), set(metadata)) == (wanted_measurements, wanted_metadata), name
        assert all(type(value) in (int, float) for value in measurements.values())
    assert "unknown" in {about["reason"] for _, about in events.named("release")}
    links = {"claims", "commits", "busy commits", "heartbeats", "maintenance", "schedules", "depth"}
    assert {about["link"] for _, about in events.named("recovered")} <= links
    told = {(about["fsm"], about["outcome"]) for _, about in events.named("step")}
    assert told >= {("events.refused", "next"), ("events.refused", "stop"), ("events.forever", None)}


class Ahead(FSM, name="events.ahead", run_ahead=True):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("second")

    @step
    def second(self, ctx: Context[Any]) -> Next | Stop | Done:
        if ctx.state.get("fails"):
            return Stop("no")
        return Next("third") if ctx.state.get("goes on") else Done()

    @step
    def third(self, ctx: Context[Any]) -> Replay | Done:
        return Done() if ctx.attempt else Replay()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, ["start next", "second done"]),
        ({"fails": True}, ["start next", "second stop"]),
        ({"goes on": True}, ["start next", "second next", "third replay", "third done"]),
    ],
)
def test_what_a_step_came_to_is_told_as_it_was_where_its_claim_might_go_on(
    db: Any, conn: Conn, state: dict[str, bool], said: list[str]
) -> None:
    events = Events()
    with running(Engine(db.dsn, machines=[Ahead], on_event=events)):
        ended(conn, gd.insert(conn, Ahead, state))
        wait_until(lambda: events.count("step") >= len(said))
    assert [f"{about['step']} {about['outcome']}" for _, about in events.named("step")] == said
