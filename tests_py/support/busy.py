"""A database with an instance in every situation, and the proof that each of them goes on from there.

before = fill(conn)         work in every status
snapshot(conn)              all that can be seen of it: tables, sequences, views
goes_on(connect, before)    what should happen next, happens: claims, commits, lanes, signals, children, pauses
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from support.wait import wait_until

Conn = psycopg.Connection[Any]
Claim = tuple[int, int]


@dataclass
class Busy:
    """Ids by situation, and the claims that workers hold."""

    ids: dict[str, int] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    last_id: int = 0
    last_signal: int = 0
    scheduled: bool = False


def one(conn: Conn, query: str, *params: Any) -> Any:
    row = psycopg.RawCursor(conn).execute(query.encode(), params).fetchone()
    assert row is not None, query
    return row[0]


def insert(conn: Conn, queue: str, **arguments: Any) -> int:
    named = "".join(f", p_{name} => ${n}" for n, name in enumerate(arguments, 2))
    made = one(conn, f"select gd_insert('m', '{{\"n\": 1}}', p_queue => $1{named})", queue, *arguments.values())
    assert isinstance(made, int)
    return made


def claim(conn: Conn, queue: str, limit: int = 1, lease: str = "1 hour", worker: str = "old") -> list[dict[str, Any]]:
    """Claims until there is something: a session looks below its floor about once a second."""

    def some() -> list[dict[str, Any]]:
        cursor = conn.execute("select * from gd_claim(%s, %s, %s, %s::interval)", (worker, queue, limit, lease))
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    return wait_until(some)


def commit(conn: Conn, at: Claim, kind: str, **more: Any) -> str:
    outcome = json.dumps([{"id": at[0], "claim_no": at[1], "kind": kind, **more}])
    return str(one(conn, "select result from gd_commit('old', $1)", outcome))


def run(conn: Conn, queue: str, kind: str, **more: Any) -> dict[str, Any]:
    (row,) = claim(conn, queue)
    assert commit(conn, (row["id"], row["claim_no"]), kind, **more) == "ok"
    return row


def has(conn: Conn, function: str) -> bool:
    return bool(one(conn, "select exists (select from pg_proc where proname = $1)", function))


def fill(conn: Conn) -> Busy:
    made = Busy()
    ids = made.ids
    conn.execute("select gd_register('m', 3, 'begin', 'home', '{\"max_attempts\": 7}')")
    ids["runnable"] = insert(conn, "runnable", meta='{"traceparent": "00-1-2-01"}')
    conn.execute("select gd_watch(%s)", (ids["runnable"],))
    ids["delayed"] = insert(conn, "delayed", delay="1 hour", priority=-5)
    for queue in ("executing", "crashed"):
        ids[queue] = insert(conn, queue, unique_key=f"unique {queue}")
    made.claims["executing"] = at(claim(conn, "executing")[0])
    made.claims["crashed"] = at(claim(conn, "crashed", lease="1 microsecond", worker="dead")[0])

    for queue, more in (("awaiting", {}), ("deadline", {"timeout_ms": 3_600_000})):
        ids[queue] = insert(conn, queue, unique_key=f"unique {queue}")
        run(conn, queue, "await", step="answered", signals=["yes", "no"], **more)
        assert (
            one(conn, "select gd_signal($1::bigint, 'other', '{\"a\": null}', 'remembered')", ids[queue]) == "delivered"
        )

    ids["parent"] = insert(conn, "parent")
    child = {"fsm": "child", "queue": "children"}
    run(conn, "parent", "schedule_childs", step="joined", childs=[child, child | {"unique_key": "unique child"}])
    ids["first child"] = run(conn, "children", "done", result={"r": 1})["id"]
    ids["second child"] = ids["first child"] + 1

    for n in range(4):
        ids[f"lane {n}"] = insert(conn, "lane", partition_key="k")
        ids[f"wide {n}"] = insert(conn, "wide", partition_key="wide:x")
    conn.execute("select gd_set_key_limit('wide', 2)")
    made.claims["lane 0"] = at(claim(conn, "lane", 10)[0])
    made.claims["wide 0"], made.claims["wide 1"] = (at(row) for row in claim(conn, "wide", 10))

    ids["done"] = insert(conn, "ended", unique_key="unique done", unique_scope=["done"])
    run(conn, "ended", "done", result=[1, {"x": "ö"}])
    ids["failed"] = insert(conn, "ended")
    run(conn, "ended", "stop", reason="no\n'use'")
    ids["cancelled"] = insert(conn, "ended")
    conn.execute("select gd_cancel(%s, 'by hand')", (ids["cancelled"],))

    ids["paused"] = insert(conn, "paused")
    conn.execute("select gd_pause_queue('paused')")
    if has(conn, "gd_set_rate_limit"):
        conn.execute("select gd_set_rate_limit('api', 1000, '1 second')")
        ids["limited"] = insert(conn, "limited", rate_limit="api")
    if has(conn, "gd_schedule"):
        conn.execute("select gd_schedule('nightly', '0 3 * * *', 'm', '{\"queue\": \"nightly\"}', 'Europe/Berlin')")
        made.scheduled = True
    if has(conn, "gd_journal"):
        fill_flows(conn, made)
    made.last_id = one(conn, "select max(id) from gendurable.instance")
    made.last_signal = one(conn, "select max(id) from gendurable.signal")
    return made


def entry(kind: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"k": kind, "at": 1795727340.25, **({} if name is None else {"name": name, "n": 0}), **more}


def fill_flows(conn: Conn, made: Busy) -> None:
    """One in the midst of its steps, one that waits for a signal, one that a step has failed."""
    begun = [entry("start", seed="s"), entry("step", "pay", v='{"z": 1, "a": 1e22}')]
    for queue in ("flow", "flow waits", "flow failed"):
        made.ids[queue] = insert(conn, queue)
        (row,) = claim(conn, queue)
        journal = {"at": 0, "add": begun}
        assert commit(conn, at(row), "next", step="pay", keep=True, journal=journal) == "ok"
        if one(conn, "select status::text from gendurable.instance where id = $1", row["id"]) == "runnable":
            claim(conn, queue)  # in another encoding than the client's no claim is kept
        made.claims[queue] = (row["id"], one(conn, "select claim_no from gendurable.instance where id = $1", row["id"]))
    parked = {"step": "(signal)", "signals": "yes"}
    assert commit(conn, made.claims.pop("flow waits"), "await", **parked) == "ok"
    end = {"at": 2, "add": [entry("step", "ship", e={"message": "no"}), entry("end", failed=3)]}
    assert commit(conn, made.claims.pop("flow failed"), "stop", reason="no", journal=end) == "ok"


def flows_go_on(conn: Conn, made: Busy) -> None:
    ids = made.ids

    def journal(name: str) -> list[dict[str, Any]]:
        found = one(conn, "select entries from gd_journals(array[$1::bigint])", ids[name])
        assert isinstance(found, list)
        return found

    assert journal("flow")[1]["v"] == '{"z": 1, "a": 1e22}'  # to the letter
    # what is in the midst of its steps commits the next one under the claim it had
    more = {"at": 2, "add": [entry("step", "ship"), entry("end", failed=None)]}
    assert commit(conn, made.claims["flow"], "done", journal={**more, "at": 1}) == "rejected"
    assert commit(conn, made.claims["flow"], "done", journal=more) == "ok"
    assert [one["k"] for one in journal("flow")] == ["start", "step", "step", "end"]
    assert one(conn, "select gd_signal($1::bigint, 'yes', '2')", ids["flow waits"]) == "delivered"
    assert run(conn, "flow waits", "done", journal=more)["step"] == "(signal)"
    # and what has failed goes on at the checkpoint that has failed it
    assert one(conn, "select gd_retry($1)", ids["flow failed"]) is True
    assert [one["k"] for one in journal("flow failed")] == ["start", "step", "retried"]
    assert run(conn, "flow failed", "done", journal={**more, "at": 3})["step"] == "pay"


def at(row: dict[str, Any]) -> Claim:
    return row["id"], row["claim_no"]


def snapshot(conn: Conn) -> dict[str, list[str]]:
    relations = conn.execute(
        """
        select c.oid::regclass::text from pg_class c
        where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'S')
            or c.relkind = 'v' and c.relname like 'gd\\_%'
        except
        -- marks, of which a restore adds one for each row that it loads into the tables that they stand for
        select 'gendurable.special'
        """
    ).fetchall()
    seen = {}
    for (name,) in relations:
        # What a sequence says of itself beyond its value, log_cnt, is no part of it.
        what = "x.last_value::text, x.is_called::text" if name.endswith("_seq") else "x::text"
        seen[name] = sorted(str(row) for row in conn.execute(f"select {what} from {name} x".encode()))
    assert len(seen) > 10
    return seen


def goes_on(connect: Callable[[], Conn], made: Busy) -> None:
    """Each situation of `fill` goes on as if nothing had happened. `connect` gives autocommit connections."""
    conn, ids = connect(), made.ids
    upkeep = one(conn, "select gd_maintain()")
    assert (upkeep["reaped"], upkeep["repaired"]) == (1, 0)

    # Numbers do not collide, keys are held, signals are remembered.
    new = insert(conn, "new", unique_key="unique new")
    assert new > made.last_id
    for held in ("executing", "awaiting", "child"):
        key = f"unique {held}"
        assert one(conn, "select gd_insert('m', p_unique_key => $1)", key) is None, held
    assert one(conn, "select gd_find('unique done')") == ids["done"]
    assert one(conn, "select gd_signal('unique awaiting', 'other', null, 'remembered')") == "duplicate"
    assert one(conn, "select gd_signal($1::bigint, 'yes')", ids["done"]) == "no_target"
    by_default = one(conn, "select gd_insert('m')")
    assert conn.execute(
        "select step, queue, fsm_version from gd_instances where id = %s", (by_default,)
    ).fetchone() == (
        "begin",
        "home",
        3,
    )

    # A worker that knows nothing of it all commits under the claim it had; a claim that was lost is stale.
    executing = made.claims["executing"]
    assert commit(conn, (executing[0], executing[1] - 1), "done") == "stale"
    assert commit(conn, made.claims["crashed"], "done") == "stale"
    assert commit(conn, executing, "next", step="two") == "ok"
    again = run(conn, "executing", "done")
    assert again["step"] == "two" and again["claim_no"] > executing[1]
    (crashed,) = claim(conn, "crashed")
    assert (crashed["id"], crashed["attempt"]) == (ids["crashed"], 1)
    assert commit(conn, at(crashed), "done") == "ok"

    # The lane goes on in order; the wider key lets as many in as its limit.
    assert conn.execute("select from gd_claim('w', 'lane', 10)").fetchall() == []
    assert conn.execute("select from gd_claim('w', 'wide', 10)").fetchall() == []
    assert commit(conn, made.claims["lane 0"], "done") == "ok"
    assert [run(conn, "lane", "done")["id"] for _ in range(3)] == [ids[f"lane {n}"] for n in (1, 2, 3)]
    for held in ("wide 0", "wide 1"):
        assert commit(conn, made.claims[held], "done") == "ok"
    second, third = claim(conn, "wide", 1)[0], claim(conn, "wide", 1)[0]
    assert {second["id"], third["id"]} == {ids["wide 2"], ids["wide 3"]}
    for row in (second, third):
        assert commit(conn, at(row), "done") == "ok"

    # Signals, deadlines, children, pauses.
    assert one(conn, "select gd_signal('unique awaiting', 'yes', '2')") == "delivered"
    answered = run(conn, "awaiting", "done")
    assert [signal["name"] for signal in answered["signals"]] == ["other", "yes"] and not answered["timed_out"]
    assert answered["signals"][1]["id"] > made.last_signal
    assert one(conn, "select gd_reschedule($1, clock_timestamp())", ids["deadline"])
    late = run(conn, "deadline", "done")
    assert late["timed_out"] and late["signals"][0]["payload"] == {"a": None}
    assert run(conn, "children", "stop", reason="so it is")["id"] == ids["second child"]
    joined = run(conn, "parent", "done")
    assert joined["step"] == "joined"
    assert [(child["status"], child["result"]) for child in joined["childs"]] == [("done", {"r": 1}), ("failed", None)]
    assert conn.execute("select from gd_claim('w', 'paused')").fetchall() == []
    conn.execute("select gd_resume_queue('paused')")
    assert run(conn, "paused", "done")["id"] == ids["paused"]
    assert one(conn, "select gd_reschedule($1, clock_timestamp())", ids["delayed"])
    assert run(conn, "delayed", "done")["id"] == ids["delayed"]

    listening = connect()
    listening.execute("listen gendurable_done")
    assert run(conn, "runnable", "done")["meta"] == {"traceparent": "00-1-2-01"}
    heard = next(listening.notifies(timeout=10, stop_after=1))
    assert heard.payload == str(ids["runnable"])

    # What had ended has ended in the same way, and can be retried.
    ends = conn.execute(
        "select status, result, last_error from gd_instances where id = any(%s) order by id",
        ([ids["done"], ids["failed"], ids["cancelled"]],),
    ).fetchall()
    assert ends == [("done", [1, {"x": "ö"}], None), ("failed", None, "no\n'use'"), ("cancelled", None, "by hand")]
    assert one(conn, "select gd_retry($1)", ids["failed"]) is True
    assert run(conn, "ended", "done")["id"] == ids["failed"]
    if "flow" in ids:
        flows_go_on(conn, made)
    if "limited" in ids:
        assert run(conn, "limited", "done")["id"] == ids["limited"]
    if made.scheduled:
        assert one(conn, "select next_at > now() from gd_schedules where name = 'nightly'")
        conn.execute("update gendurable.schedule set next_at = now() - interval '1 hour'")
        conn.execute("update gendurable.instance set eligible_at = now() where id < 0 and unique_key = 'nightly'")
        assert run(conn, "nightly", "done")["meta"]["schedule"] == "nightly"
        assert one(conn, "select next_at > now() from gd_schedules where name = 'nightly'")
        assert one(conn, "select gd_unschedule('nightly')") is True

    for queue in ("new", "home"):
        run(conn, queue, "done")
    left = conn.execute("select id, status, queue from gd_instances where finished_at is null").fetchall()
    assert left == []
    assert one(conn, "select gd_maintain('0')")["repaired"] == 0
    assert one(conn, "select count(*) from gendurable.instance") == 0
    assert one(conn, "select count(*) from gendurable.signal_seen") == 0
    if has(conn, "gd_journal"):
        assert one(conn, "select count(*) from gendurable.journal") == 0
