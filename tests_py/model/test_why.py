"""Whatever does not run has a cause, and who cures the causes that gd_why names, one after the other, makes it run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from support.races import LOST, Session, outcome

KINDS = ["plain", "delayed", "await", "parent", "lost", "error", "executing"]
STOPPERS = [
    "hold",
    "pause",
    "bucket",
    "limit",
    "locked",
    "queue limit",
    "other of the key",
    "lost holder",
    "pause machine",
    "pause step",
    "pause instance",
    "met",
]


class Scene:
    """A database in which an instance does not run, for any of many reasons."""

    def __init__(self, db: Database) -> None:
        self.worker = Session(db)
        self.client = Session(db, "client")
        self.reader = Session(db, "reader")

    def arrange(self, kind: str, keyed: bool, limited: bool, stoppers: list[str]) -> int:
        w = self.worker
        if limited:
            w.call("set_rate_limit", "l", 1, "1 hour", 1)
        if keyed and "lost holder" in stoppers:
            w.insert(queue="q", partition_key="k")
            w.claim(1, "q", LOST)
        named: dict[str, Any] = {"queue": "q", "partition_key": "k" if keyed else None}
        if kind == "delayed":
            named["delay"] = "1 hour"
        if limited and kind in ("plain", "delayed"):
            named["rate_limit"] = "l"
        if keyed and "other of the key" in stoppers:
            w.insert(queue="q", partition_key="k", priority=-1)
        target = w.insert(**named)
        if kind in ("await", "parent", "lost", "error", "executing"):
            self.begin(target, kind)
        if "limit" in stoppers and limited:
            w.call("set_rate_limit", "l", 0)
        if "bucket" in stoppers and limited:
            w.conn.execute("select gd_close_rate_limit('l', now() + interval '1 hour')")
        if "pause" in stoppers:
            w.call("pause_queue", "q")
        if "pause machine" in stoppers:
            assert w.call("pause_machine", "m", 1)
        if "pause step" in stoppers:
            assert w.one("select gd_pause_machine('m', p_step => step) from gendurable.instance where id = %s", target)
        if "pause instance" in stoppers:
            w.call("pause", target)
        if "met" in stoppers and any(stopper.startswith("pause ") for stopper in stoppers):
            assert target not in [row["id"] for row in w.claim(10, "q")]
        if "queue limit" in stoppers:
            w.call("set_queue", "q", Jsonb({"limit": 0}))
        if "hold" in stoppers:
            w.call("hold_all", "test")
        if "locked" in stoppers:
            self.client.begin().rows("select id from gendurable.instance where id = %s for update", target)
        return target

    def begin(self, target: int, kind: str) -> None:
        w = self.worker
        found = [row for row in w.claim(10, "q", LOST if kind == "lost" else "1 hour") if row["id"] == target]
        if not found or kind in ("lost", "executing"):
            return
        keys: dict[str, Any] = {
            "await": {"kind": "await", "step": "s", "signals": ["go"]},
            "parent": {"kind": "schedule_childs", "step": "s", "childs": [{"fsm": "c", "queue": "children"}]},
            "error": {"kind": "error", "error": "no", "delay_ms": 3_600_000},
        }[kind]
        assert w.commit(outcome(found[0], **keys)) == ["ok"]

    def causes(self, id: int) -> list[dict[str, Any]]:
        return self.reader.rows("select * from gd_why(%s)", id)

    def cure(self, id: int, cause: dict[str, Any]) -> None:
        w, detail = self.worker, cause["detail"]
        match cause["cause"]:
            case "everything held":
                assert w.call("release_hold")
            case "queue paused":
                w.call("resume_queue", detail["queue"])
            case "instance paused":
                assert w.call("resume", id)
            case "machine paused" | "step paused":
                assert w.call("resume_machine", detail["fsm"], detail["version"], detail["step"])
            case "locked":
                self.client.roll_back()
            case "delayed":
                assert w.one("select gd_reschedule(%s, clock_timestamp())", id)
            case "signal":
                assert w.signal(id, detail["awaits"][0]) == "delivered"
            case "children" | "key" if "instance" in detail:
                self.cure(detail["instance"], self.causes(detail["instance"])[0])
            case "key":
                w.maintain()
            case "bucket closed":
                w.conn.execute("delete from gendurable.bucket_closed")
            case "limit":
                w.call("set_rate_limit", "l", 1e9, "1 second", 1e9)
                self.claim(id)
            case "queue full":
                w.call("set_queue", "q", Jsonb({"limit": None}))
            case "executing" if not detail["lost"]:
                claim_no = w.one("select claim_no from gendurable.instance where id = %s", id)
                assert w.commit({"id": id, "claim_no": claim_no, "kind": "done"}) == ["ok"]
            case "executing" | "due" | "crashing":
                self.claim(id)
            case other:
                raise AssertionError(other)

    def claim(self, id: int) -> None:
        for queue in ("q", "children"):
            self.worker.conn.execute("select set_config('gendurable.floor', '', false)")
            self.worker.finish(*self.worker.claim(10, queue))


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    kind=st.sampled_from(KINDS),
    keyed=st.booleans(),
    limited=st.booleans(),
    stoppers=st.lists(st.sampled_from(STOPPERS), max_size=4, unique=True),
)
def test_curing_the_named_causes_makes_it_run(
    scene: Scene, kind: str, keyed: bool, limited: bool, stoppers: list[str]
) -> None:
    scene.client.roll_back()
    scene.worker.conn.execute(
        "truncate gendurable.instance, gendurable.paused_queue, gendurable.hold, gendurable.queue_setting, "
        "gendurable.bucket, gendurable.bucket_closed, gendurable.rate_limit, gendurable.doubtful_key, "
        "gendurable.paused_machine, gendurable.resumed"
    )
    target = scene.arrange(kind, keyed, limited, stoppers)
    seen: list[Any] = []
    for _ in range(40):
        causes = scene.causes(target)
        assert causes, ("no cause", seen)
        if causes[0]["cause"] == "ended":
            return
        seen.append([cause["message"] for cause in causes])
        # what nobody but a claim can cure comes after all that has to go first: an executing one that is lost names it
        lost = causes[0]["cause"] == "executing" and causes[0]["detail"]["lost"] and len(causes) > 1
        locked = [cause for cause in causes if cause["cause"] == "locked"]  # nothing else can be cured behind it
        if locked:
            scene.cure(target, locked[0])
            continue
        scene.cure(target, causes[1] if lost and causes[1]["cause"] != "crashing" else causes[0])
    raise AssertionError(json.dumps(seen, indent=1))


@pytest.fixture
def scene(db: Database) -> Scene:
    return Scene(db)
