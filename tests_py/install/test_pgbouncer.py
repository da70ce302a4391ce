"""Transaction pooling, the rest of it: every kind of wake-up by polling alone, no state of a session, a lost pooler."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.engine import ended, field, running
from support.pgbouncer import PROBE, PROGRAM, pooled
from support.wait import run_in_thread, wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Done, Engine, Next, Outcome, job, step

Conn = psycopg.Connection[Any]

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer: apt-get install pgbouncer")
__all__ = ["pooled"]


@job(name="pooled.work")
def work(args: dict[str, Any]) -> int:
    return int(args["n"])


class Walk(FSM, name="pooled.walk"):
    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        return Next("late", {"way": ["start"]}, delay=0.1)

    @step
    async def late(self, ctx: Context[Any]) -> Outcome:
        return Next("wait", {"way": [*ctx.state["way"], "late"]}, partition_key="one")

    @step
    def wait(self, ctx: Context[Any]) -> Outcome:
        way = ctx.state["way"]
        if ctx.timed_out:
            return Await("go", {"way": [*way, "deadline"]})
        taken = ctx.signal("go")
        if taken is None:
            return Await("go", ctx.state, timeout=0.1 if "deadline" not in way else None)
        return Done([*way, taken.payload])


def engine(dsn: str, **options: Any) -> Engine:
    return Engine(
        dsn,
        [Walk, work],
        notify=False,
        poll_interval=0.02,
        max_poll_interval=0.05,
        lease_ttl=5,
        heartbeat_interval=0.1,
        reap_interval=0.2,
        **options,
    )


@pytest.mark.parametrize("run_ahead", [False, True])
def test_delays_deadlines_keys_and_signals_need_no_notification(conn: Conn, pooled: str, run_ahead: bool) -> None:
    with (
        psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as client,
        running(engine(pooled, run_ahead=run_ahead), engine(pooled, run_ahead=run_ahead)),
    ):
        ids = [gd.insert(client, Walk) for _ in range(8)]
        for id in ids:
            wait_until(lambda id=id: "deadline" in field(conn, id, "state").get("way", []))
            assert gd.signal(client, id or 0, "go", "on", dedup_key="1") == "delivered"
            assert gd.signal(client, id or 0, "go", "on", dedup_key="1") in ("duplicate", "no_target")
        assert [r.result for r in ended(conn, *ids)] == [["start", "late", "deadline", "on"]] * 8


def test_no_session_keeps_anything(db: Any, conn: Conn, pooled: str) -> None:
    with running(engine(pooled)):
        many = gd.insert_many(conn, [Child(work, {"n": n}) for n in range(200)])
        assert [r.result for r in ended(conn, *(m.id for m in many))] == list(range(200))
        # What a session keeps would be met by whoever gets its server connection next.
        with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as client:
            for _ in range(20):
                assert client.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
                assert client.execute("select count(*) from pg_listening_channels()").fetchone() == (0,)
        query = (
            "select from pg_locks l join pg_database d on d.oid = l.database "
            "where locktype = 'advisory' and mode = 'ShareLock' and datname = current_database()"
        )
        # A claim holds locks for its transaction; a sleeper's would stay.
        wait_until(lambda: conn.execute(query).fetchone() is None)


def test_the_calls_work_through_it(conn: Conn, pooled: str) -> None:
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as c:
        gd.register(c, work)
        id = gd.insert(c, work, {"n": 1}, unique_key="u", partition_key="k")
        assert id is not None
        assert gd.insert(c, work, {"n": 1}, unique_key="u") is None
        assert gd.find(c, "u") == id
        assert gd.signal(c, "u", "x", {"a": 1}) == "delivered"
        (claim,) = gd.claim(c, "by hand")
        assert (claim.id, claim.state, len(claim.signals or [])) == (id, {"n": 1}, 1)  # type: ignore[arg-type]
        held = [(claim.id, claim.claim_no)]
        assert gd.heartbeat(c, "by hand", held) == []
        assert gd.release(c, "by hand", held) == 1
        (claim,) = gd.claim_many(c, "by hand", {"default": 3})
        outcome = {"id": claim.id, "claim_no": claim.claim_no}
        answers = gd.commit(c, "by hand", [{**outcome, "kind": "stop", "reason": "why not"}])
        assert [a.result for a in answers] == ["ok"]
        assert gd.result(c, id) == gd.Result("failed", None, "why not")
        assert gd.retry(c, id)
        (claim,) = gd.claim(c, "by hand")
        with c.transaction():
            outcome = {"id": claim.id, "claim_no": claim.claim_no, "kind": "done", "result": 5}
            gd.commit_one(c, "by hand", outcome)
        assert gd.wait(c, id, 5) == gd.Result("done", 5, None)
        gd.pause_queue(c, "default")
        other = gd.insert(c, work, {"n": 2})
        assert gd.claim(c, "by hand") == []
        gd.resume_queue(c, "default")
        assert gd.cancel(c, other or 0, "enough")
        assert gd.maintain(c)["repaired"] == 0
        assert gd.gc(c, 0) == 2


STEPS = """
create table worked (id bigint);
create function work(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into worked values ((ctx ->> 'id')::bigint);
    perform pg_advisory_xact_lock(4711, 1) where ctx #> '{state,waits}' = 'true';
    return '{"kind": "done"}';
end $$;
select gd_define_step('pooled.sql', 'start', 'work(jsonb)');
"""


def through(pooled: str) -> Conn:
    return psycopg.connect(pooled, autocommit=True, prepare_threshold=None)


def test_gd_run_works_through_it(conn: Conn, pooled: str) -> None:
    """More callers than server connections, a transaction between any two statements of it; nothing stays behind."""
    conn.execute(STEPS)
    with through(pooled) as client:
        before = {row[1:] for _ in range(4) for row in [client.execute(PROBE).fetchone()] if row}
        many = [Child("pooled.sql", {}, partition_key=f"k:{n}" if n % 4 == 0 else None) for n in range(400)]
        ids = [made.id for made in gd.insert_many(client, many)]

        def call() -> int:
            with through(pooled) as mine:
                return int(gd.run(mine, batch=10)["ok"])  # type: ignore[arg-type]

        while conn.execute("select 1 from gd_instances where finished_at is null limit 1").fetchone():
            callers = [run_in_thread(call) for _ in range(4)]
            assert all(caller.result() >= 0 for caller in callers)
        assert conn.execute("select count(*), count(distinct id) from worked").fetchone() == (400, 400)
        assert {result.status for result in ended(conn, *ids)} == {"done"}
        after = {row[1:] for _ in range(8) for row in [client.execute(PROBE).fetchone()] if row}
        assert after == before


def test_gd_run_ends_what_it_began_when_its_client_is_gone(conn: Conn, pooled: str) -> None:
    conn.execute(STEPS)
    id = gd.insert(conn, "pooled.sql", {"waits": True})
    conn.execute("select pg_advisory_lock(4711, 1)")
    client = through(pooled)
    client.pgconn.send_query(b"call gd_run(p_options => '{\"lock_ms\": 60000}')")
    client.pgconn.flush()
    wait_until(lambda: conn.execute("select 1 from pg_locks where not granted and objid = 1").fetchone())
    client.close()
    conn.execute("select pg_advisory_unlock(4711, 1)")
    assert ended(conn, id)[0].status == "done"
    assert conn.execute("select id from worked").fetchall() == [(id,)]
