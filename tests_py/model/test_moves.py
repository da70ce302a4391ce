"""Whatever state instances are in: their document makes the same ones in another database, and these go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from support.races import Session, outcome
from support.server import Server

STATUSES = ["runnable", "executing", "awaiting_signal", "awaiting_children", "done", "failed", "cancelled"]
TABLES = "instance, signal, signal_seen, watch, error, history, bucket, doubtful_key, ended_parent"
NAMES = ["a", "b"]
MORE = int(os.environ.get("GENDURABLE_FUZZ", "1"))

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "é"]), inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.sampled_from(["n", "m", ""]), values, max_size=2)
inserts = st.fixed_dictionaries(
    {
        "fsm": st.sampled_from(["plain", "steps", "states"]),
        "state": objects,
        "meta": objects,
        "partition_key": st.sampled_from([None, None, "k", "k:1"]),
        "priority": st.integers(-1, 1),
        "rate_limit": st.sampled_from([None, None, "l", "l:x"]),
        "max_attempts": st.sampled_from([None, 1, 2]),
        "expires_at": st.sampled_from([None, "2200-01-01T00:00:00Z"]),
        "delay_ms": st.sampled_from([0, 0, 3_600_000]),
        "unique_scope": st.sampled_from(
            [None, None, [], ["runnable"], ["executing"], ["runnable", "failed"], STATUSES]
        ),
    }
)
outcomes = st.one_of(
    st.just({"kind": "leave"}),
    st.fixed_dictionaries({"kind": st.just("next"), "step": st.sampled_from(["s", "t", "routed"]), "state": objects}),
    st.fixed_dictionaries({"kind": st.just("replay"), "error": st.sampled_from([None, "once more"])}),
    st.fixed_dictionaries(
        {
            "kind": st.just("await"),
            "signals": st.sampled_from([["a"], ["a", "b"]]),
            "timeout_ms": st.sampled_from([None, 3_600_000]),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("schedule_childs"),
            "step": st.just("after"),
            "childs": st.lists(inserts, min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries({"kind": st.just("done"), "result": values}),
    st.just({"kind": "stop", "reason": "no"}),
    st.just({"kind": "error", "error": "oh", "traceback": "at line 1", "delay_ms": 0}),
)
work = st.tuples(st.just("work"), st.lists(outcomes, min_size=2, max_size=4))
acts = st.one_of(
    st.tuples(st.just("insert"), inserts),
    work,
    work,
    st.tuples(st.just("family"), inserts, st.lists(inserts, min_size=1, max_size=3), st.lists(outcomes, max_size=3)),
    st.tuples(st.just("waiter"), inserts, st.sampled_from(["seen", "later", "timeout", "alone"])),
    st.tuples(st.just("signal"), st.integers(0, 9), st.sampled_from(NAMES), values, st.sampled_from([None, "d"])),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("retry"), st.integers(0, 9)),
)


class World:
    """A database in which a worker with no plan is at work."""

    def __init__(self, db: Database) -> None:
        self.w = Session(db)
        self.keys = 0
        self.w.conn.execute("set gendurable.notify = off")
        for fsm in ("steps", "states"):
            self.w.rows("select gd_register(%s, 1, 's', 'q', %s)", fsm, Jsonb({"history": fsm}))
            self.w.rows("select gd_define_step(%s, 'routed', null, '{\"queue\": \"q2\"}')", fsm)
        self.w.rows("select gd_set_rate_limit('l', 1e6, '1 second', 1e6)")

    def clear(self) -> None:
        self.w.conn.execute("truncate " + ", ".join(f"gendurable.{name}" for name in TABLES.split(", ")))

    def named(self, new: dict[str, Any]) -> dict[str, Any]:
        self.keys += 1
        made = {"queue": "q", "step": "s", **new}
        if new["unique_scope"] is None:
            del made["unique_scope"]
        if self.keys % 2 or new["unique_scope"] is not None:
            made["unique_key"] = f"u{self.keys}"
        return made

    def pick(self, place: int) -> int | None:
        ids = [row["id"] for row in self.w.rows("select id from gd_instances order by id")]
        return ids[place % len(ids)] if ids else None

    def claim(self, *queues: str) -> list[dict[str, Any]]:
        self.w.conn.execute("select set_config('gendurable.floor', '', false)")
        return [claim for queue in queues or ("q", "q2", "first") for claim in self.w.claim(3, queue)]

    def commit(self, claim: dict[str, Any], one: dict[str, Any]) -> None:
        keys = {name: value for name, value in one.items() if value is not None or name == "result"}
        if "childs" in keys:
            keys["childs"] = [new if "queue" in new else self.named(new) for new in keys["childs"]]
        kind = keys.pop("kind")
        if kind != "leave":
            assert self.w.commit(outcome(claim, kind, **keys)) == ["ok"]

    def begin(self, new: dict[str, Any], kind: str, **keys: Any) -> int | None:
        """One that is claimed before all others, and has this first outcome; None: others of its key are before it."""
        self.w.insert_many(self.named(new) | {"queue": "first", "delay_ms": 0})
        self.w.conn.execute("select set_config('gendurable.floor', '', false)")
        for claim in self.w.claim(1, "first"):
            self.commit(claim, {"kind": kind, **keys})
            return int(claim["id"])
        return None

    def act(self, act: tuple[Any, ...]) -> None:
        match act:
            case ("insert", new):
                self.w.insert_many(self.named(new))
            case ("work", given):
                for claim, one in zip(self.claim(), given * 2, strict=False):
                    self.commit(claim, one)
            case ("family", parent, children, ends):
                self.begin(parent, "schedule_childs", step="after", childs=[self.named(new) for new in children])
                for claim, one in zip(self.claim(), ends, strict=False):
                    self.commit(claim, one)
            case ("waiter", new, how):
                keys: dict[str, Any] = {"signals": ["a", "b"], "timeout_ms": 3_600_000 if how == "timeout" else None}
                id = self.begin(new, "await", **keys)
                if id is not None and how != "alone":
                    self.w.signal(id, "c" if how == "later" else "a")
                if how == "seen":
                    for claim in self.claim():
                        self.commit(claim, {"kind": "await", **keys} if claim["id"] == id else {"kind": "leave"})
            case ("signal", place, name, payload, dedup) if (id := self.pick(place)) is not None:
                self.w.rows("select gd_signal(%s, %s, %s, %s)", id, name, Jsonb(payload), dedup)
            case ("cancel", place) if (id := self.pick(place)) is not None:
                self.w.rows("select gd_cancel(%s)", id)
            case ("retry", place) if (id := self.pick(place)) is not None:
                self.w.rows("select gd_retry(%s)", id)

    def roots(self) -> list[int]:
        return [row["id"] for row in self.w.rows("select id from gd_instances where parent_id is null order by id")]

    def export(self, id: int) -> str:
        text: str = self.w.one("select gd_export(%s)::text", id)
        return text

    def imported(self, document: str) -> tuple[int | None, str | None]:
        """The new id, and the SQLSTATE of a refusal."""
        try:
            return self.w.one("select gd_import(%s::jsonb)", document), None
        except psycopg.Error as error:
            return None, error.sqlstate

    def finish(self) -> None:
        """All that has not ended is done, children before their parents."""
        for _ in range(50):
            left = self.w.rows("select id, status, awaits, queue from gd_instances where finished_at is null")
            if not left:
                return
            for row in left:
                if row["status"] == "runnable":
                    self.w.rows("select gd_reschedule(%s, clock_timestamp())", row["id"])
                elif row["status"] == "awaiting_signal":
                    assert self.w.signal(row["id"], row["awaits"][0]) == "delivered"
            for claim in self.claim(*sorted({row["queue"] for row in left})):
                assert self.w.commit(outcome(claim, "done")) == ["ok"]
        raise AssertionError(self.w.rows("select * from gd_instances where finished_at is null"))


def expected(document: str) -> list[dict[str, Any]]:
    """What an import makes of it: what is worked at is given back. Ids become places."""
    made = json.loads(document, parse_float=str)["instances"]
    for one in made:
        if one["status"] == "executing":
            scope = one["unique_scope"]
            held = one["unique_held"] if scope is None else "runnable" in scope
            one |= {"status": "runnable", "worker": None, "eligible_at": "at once", "unique_held": held}
    return places(made)


def places(instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    at = {one["id"]: place for place, one in enumerate(instances)}
    return [one | {"id": at[one["id"]], "parent_id": at.get(one["parent_id"])} for one in instances]


@pytest.fixture
def worlds(db: Database, server: Server) -> Iterator[tuple[World, World]]:
    other = Database(server)
    yield World(db), World(other)
    other.close()


@settings(
    max_examples=60 * MORE,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    first=st.lists(st.tuples(st.just("insert"), inserts), min_size=2, max_size=4),
    story=st.lists(acts, min_size=5, max_size=14),
)
def test_what_is_imported_is_what_was_exported_and_goes_on(
    worlds: tuple[World, World], first: list[tuple[Any, ...]], story: list[tuple[Any, ...]]
) -> None:
    there, here = worlds
    there.clear()
    here.clear()
    for act in first + story:
        there.act(act)
    for id in there.roots():
        document = there.export(id)
        copy = here.w.one("select gd_import(%s::jsonb)", document)
        made = places(json.loads(here.export(copy), parse_float=str)["instances"])
        wanted = expected(document)
        for one, other in zip(made, wanted, strict=True):
            if other["eligible_at"] == "at once":
                assert one["eligible_at"] is not None
                one["eligible_at"] = "at once"
        assert made == wanted
    assert len(there.roots()) == len(here.roots())
    assert here.w.maintain()["repaired"] == 0
    here.finish()
    assert here.w.maintain()["repaired"] == 0


ODD = [
    None, True, False, 0, 1, -1, 0.5, 20, 2**31 - 1, 2**31, 2**63 - 1, 10**400, "", "x", "s", "q", "k", "l", "u1", "a",
    "b", "x" * 2001, "2026-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+00:00 BC",
    "294276-12-31T23:59:59Z", "294277-01-01T00:00:00Z", "infinity", "now", *STATUSES, [], [None], ["a"], ["a", "b"],
    STATUSES, {}, {"a": 1}, [[]], [{}],
]  # fmt: skip


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, but what is inside of states and payloads."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    deep = [] if at and at[-1] in ("state", "meta", "payload", "result", "detail") else inner
    return [at] * bool(at) + [path for key, part in deep for path in paths(part, (*at, key))]


def alike(document: Any, path: tuple[Any, ...]) -> list[Any]:
    """Values of the type that stands there, which have more of a chance."""
    for key in path:
        document = document[key]
    return [value for value in ODD if type(value) is type(document)] or ODD


def change(document: Any, path: tuple[Any, ...], how: str, value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    match how:
        case "set":
            document[path[-1]] = value
        case "drop":
            del document[path[-1]]
        case "twice" if isinstance(document, list):
            document.append(document[path[-1]])


@settings(
    max_examples=100 * MORE,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    first=st.lists(st.tuples(st.just("insert"), inserts), min_size=1, max_size=2),
    story=st.lists(acts, min_size=3, max_size=8),
    data=st.data(),
)
def test_what_somebody_has_changed_is_refused_or_goes_on(
    worlds: tuple[World, World], first: list[tuple[Any, ...]], story: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    there, here = worlds
    there.clear()
    here.clear()
    for act in first + story:
        there.act(act)
    document = json.loads(there.export(data.draw(st.sampled_from(there.roots()))))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([path for path in paths(document) if "paused_at" not in path]))
        how = data.draw(st.sampled_from(["set", "set", "set", "set", "drop", "twice"]))
        change(document, path, how, data.draw(st.sampled_from(alike(document, path)) | st.sampled_from(ODD)))
    copy, refused = here.imported(json.dumps(document))
    # nothing but what is said of a document
    assert refused in (None, "GD501", "GD502"), document
    if copy is None:
        assert here.w.one("select count(*) from gendurable.instance") == 0
        return
    here.export(copy)
    here.finish()
    assert here.w.maintain()["repaired"] == 0
