"""Whatever does not run has a cause, and who cures the causes that gd_why names, one after the other, makes it run.

Whether it runs is asked of the claims: what gd_why calls due is handed out, and what it gives another cause is not. A
cause that was cured is not named again. GENDURABLE_MODEL_EXAMPLES= for more examples.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from conftest import Database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from support.races import LOST, Session, outcome

KINDS = ["plain", "delayed", "await", "deadline", "overdue", "parent", "lost", "error", "executing"]
KINDS += ["expired", "crashed", "failed", "done", "cancelled", "routed"]
STOPPERS = ["hold", "pause", "bucket", "limit", "locked", "queue limit", "other of the key", "lost holder"]
STOPPERS += ["pause machine", "pause step", "pause instance", "met"]
STOPPERS += ["full queue", "refused step", "later of the key", "locked holder"]

QUEUES = ("q", "gpu", "children", "full")
# With these alone an instance is handed out to whoever claims: what nobody can run of its steps concerns gd_run alone.
RUNS = {"due", "crashing", "step refused"}
# What a claim cures, and who runs then is up to it: others of the queue or key may go first.
MOVES = {"due", "crashing", "executing", "limit", "key", "children"}


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
        holder = None
        if keyed and "lost holder" in stoppers:
            holder = w.insert(queue="q", partition_key="k")
            w.claim(1, "q", LOST)
        named: dict[str, Any] = {"queue": "q", "partition_key": "k" if keyed else None}
        if kind == "delayed":
            named["delay"] = "1 hour"
        if limited and kind in ("plain", "delayed", "crashed", "expired"):
            named["rate_limit"] = "l"
        if keyed and "later of the key" in stoppers:
            w.insert(queue="q", partition_key="k", priority=-2, delay="1 hour")
        if keyed and "other of the key" in stoppers:
            w.insert(queue="q", partition_key="k", priority=-1)
        if "refused step" in stoppers:
            named["fsm"] = "refused"
            w.conn.execute("create or replace function public.gone(jsonb) returns jsonb language sql as 'select $1'")
            # not a constant: a statement that psycopg has prepared would keep the number of the one before
            w.conn.execute("select gd_define_step('refused', 'start', %s::text::regprocedure)", ("public.gone(jsonb)",))
            w.conn.execute("drop function public.gone(jsonb)")
        target = w.insert(**named)
        self.begin(target, kind)
        if "limit" in stoppers and limited:
            w.call("set_rate_limit", "l", 0)
        if "bucket" in stoppers and limited:
            w.conn.execute("select gd_close_rate_limit('l', now() + interval '1 hour')")
        if "pause" in stoppers:
            w.call("pause_queue", "q")
        if "pause machine" in stoppers:
            assert w.one("select gd_pause_machine(fsm, fsm_version) from gendurable.instance where id = %s", target)
        if "pause step" in stoppers:
            assert w.one("select gd_pause_machine(fsm, p_step => step) from gendurable.instance where id = %s", target)
        if "pause instance" in stoppers:
            w.call("pause", target)
        if "met" in stoppers and any(stopper.startswith("pause ") for stopper in stoppers):
            assert target not in [row["id"] for row in w.claim(10, "q")]
        if "queue limit" in stoppers:
            w.call("set_queue", "q", Jsonb({"limit": 0}))
        elif "full queue" in stoppers and kind != "executing":
            w.call("set_queue", "q", Jsonb({"limit": 1}))
            w.insert(queue="q", priority=-10)
            self.forget()
            w.claim(1, "q")
        if "hold" in stoppers:
            w.call("hold_all", "test")
        if "locked" in stoppers:
            self.client.begin().rows("select id from gendurable.instance where id = %s for update", target)
        elif holder is not None and "locked holder" in stoppers:
            self.client.begin().rows("select id from gendurable.instance where id = %s for update", holder)
        return target

    def begin(self, target: int, kind: str) -> None:
        w = self.worker
        if kind in ("expired", "crashed"):
            change = {"expired": "expires_at = clock_timestamp()", "crashed": "crashes = 1"}[kind]
            w.conn.execute(f"update gendurable.instance set {change} where id = %s".encode(), (target,))
        if kind == "cancelled":
            assert w.call("cancel", target)
        if kind in ("plain", "delayed", "expired", "crashed", "cancelled"):
            return
        found = [row for row in w.claim(10, "q", LOST if kind == "lost" else "1 hour") if row["id"] == target]
        if not found or kind in ("lost", "executing"):
            return
        keys: dict[str, Any] = {
            "await": {"kind": "await", "step": "s", "signals": ["go"]},
            "deadline": {"kind": "await", "step": "s", "signals": ["go", "stay"], "timeout_ms": 3_600_000},
            "overdue": {"kind": "await", "step": "s", "signals": ["go"], "timeout_ms": 0},
            "parent": {"kind": "schedule_childs", "step": "s", "childs": [{"fsm": "c", "queue": "children"}]},
            "error": {"kind": "error", "error": "no", "delay_ms": 3_600_000},
            "failed": {"kind": "stop", "reason": "no"},
            "done": {"kind": "done"},
            "routed": {"kind": "next", "step": "routed"},
        }[kind]
        assert w.commit(outcome(found[0], **keys)) == ["ok"]

    def forget(self) -> None:
        """A session looks below its floor about once a second: not here."""
        self.worker.conn.execute("select set_config('gendurable.floor', '', false)")

    def handed_out(self, id: int) -> bool:
        """Whether claims hand it out now; nothing stays of them."""
        w = self.worker.begin()
        try:
            for queue in QUEUES:
                for _ in range(3):
                    self.forget()
                    if any(row["id"] == id for row in w.claim(50, queue)):
                        return True
            return False
        finally:
            w.roll_back()

    def agrees(self, id: int, causes: list[dict[str, Any]]) -> None:
        """What gd_why says of it, and what claims do with it."""
        names = {cause["cause"] for cause in causes}
        said = [cause["message"] for cause in causes]
        if any("the next claim" in message or "a claim of its queue" in message for message in said):
            return  # the claim that looks next changes what stands there
        lost = causes[0]["cause"] == "executing" and causes[0]["detail"]["lost"]
        runs = names - {"executing"} <= RUNS if lost else names <= RUNS
        assert self.handed_out(id) == runs, said

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
                w.call("set_queue", detail["queue"], Jsonb({"limit": None}))
            case "step refused":
                assert w.call("drop_step", "refused", "start")
            case "executing" if not detail["lost"]:
                claim_no = w.one("select claim_no from gendurable.instance where id = %s", id)
                assert w.commit({"id": id, "claim_no": claim_no, "kind": "done"}) == ["ok"]
            case "expired":  # also while nothing is claimed
                w.maintain()
            case "executing" | "due" | "crashing":
                self.claim(id)
            case other:
                raise AssertionError(other)

    def locked_behind(self, cause: dict[str, Any]) -> bool:
        """Whether what it leads to, instance by instance, ends at somebody's lock."""
        while cause["detail"].get("because"):
            cause = cause["detail"]["because"]
        return "is locked by" in cause["message"]

    def claim(self, id: int) -> None:
        for queue in QUEUES:
            self.forget()
            self.worker.finish(*self.worker.claim(10, queue))


@settings(
    max_examples=int(os.environ.get("GENDURABLE_MODEL_EXAMPLES", "150")),
    deadline=None,
    derandomize="GENDURABLE_MODEL_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    kind=st.sampled_from(KINDS),
    keyed=st.booleans(),
    limited=st.booleans(),
    stoppers=st.lists(st.sampled_from(STOPPERS), max_size=5, unique=True),
)
def test_curing_the_named_causes_makes_it_run(
    scene: Scene, kind: str, keyed: bool, limited: bool, stoppers: list[str]
) -> None:
    scene.client.roll_back()
    scene.worker.conn.execute(
        "truncate gendurable.instance, gendurable.paused_queue, gendurable.hold, gendurable.queue_setting, "
        "gendurable.bucket, gendurable.bucket_closed, gendurable.rate_limit, gendurable.doubtful_key, gendurable.step, "
        "gendurable.paused_machine, gendurable.resumed"
    )
    scene.worker.conn.execute("select gd_define_step('m', 'routed', null, '{\"queue\": \"gpu\"}')")
    scene.worker.conn.execute("select gd_define_step('refused', 'routed', null, '{\"queue\": \"gpu\"}')")
    target = scene.arrange(kind, keyed, limited, stoppers)
    seen: list[Any] = []
    for _ in range(40):
        causes = scene.causes(target)
        assert causes, ("no cause", seen)
        if causes[0]["cause"] == "ended":
            assert [cause["cause"] for cause in causes] == ["ended"]
            return
        seen.append([cause["message"] for cause in causes])
        scene.agrees(target, causes)
        # what nobody but a claim can cure comes after all that has to go first: an executing one that is lost names it
        lost = causes[0]["cause"] == "executing" and causes[0]["detail"]["lost"] and len(causes) > 1
        locked = [cause for cause in causes if cause["cause"] == "locked"]  # nothing else can be cured behind it
        first = locked[0] if locked else causes[1] if lost and causes[1]["cause"] != "crashing" else causes[0]
        if scene.locked_behind(first):
            scene.client.roll_back()
        else:
            scene.cure(target, first)
        left = [cause["message"] for cause in scene.causes(target)]
        assert first["cause"] in MOVES or not any(same(first["message"], message) for message in left), (first, left)
    raise AssertionError(json.dumps(seen, indent=1))


def same(one: str, other: str) -> bool:
    """The same sentence, whenever it was said."""
    return re.sub(r"\d+ (s|min|h)\b", "0 s", one) == re.sub(r"\d+ (s|min|h)\b", "0 s", other)


@pytest.fixture
def scene(db: Database) -> Scene:
    return Scene(db)
