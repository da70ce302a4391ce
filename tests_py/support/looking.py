"""Every function and view that only looks, with calls of it; and a database with something of everything to look at."""

from __future__ import annotations

import json
from typing import Any, LiteralString, NamedTuple

import psycopg

Conn = psycopg.Connection[Any]

# %(id)s has everything that one instance can have, %(parent)s is above it, 'k' is its key, 'q' its queue.
FILTERS: dict[str, Any] = {
    "id": [1, 2, 3],
    "fsm": "m",
    "version": 1,
    "step": "start",
    "status": ["failed", "cancelled"],
    "queue": "q",
    "partition_key": "k",
    "partition_prefix": "k",
    "unique_key": "u",
    "unique_prefix": "u",
    "rate_limit": "l",
    "parent_id": 1,
    "worker": "w",
    "error": "no",
    "meta": {"a": 1},
    "attributes": {"a": 1},
    "inserted_before": "2100-01-01T00:00:00Z",
    "inserted_after": "2000-01-01T00:00:00Z",
    "finished_before": "2100-01-01T00:00:00Z",
    "finished_after": "2000-01-01T00:00:00Z",
    "due_before": "2100-01-01T00:00:00Z",
    "stuck_for_ms": 0,
}

LOOKS: dict[str, tuple[str, ...]] = {
    "gd_get": ("select gd_get(%(id)s)", "select gd_get(%(parent)s)"),
    "gd_why": ("select * from gd_why(%(id)s)", "select * from gd_why(%(parent)s)"),
    "gd_tree": ("select * from gd_tree(%(parent)s)",),
    "gd_errors": ("select * from gd_errors(%(id)s)",),
    "gd_journal": ("select * from gd_journal(%(id)s)", "select * from gd_journal(%(id)s, -1, 10, false)"),
    "gd_journal_page": ("select * from gd_journal_page(%(id)s)", "select * from gd_journal_page(%(id)s, 9, 1, 10)"),
    "gd_history": ("select * from gd_history(%(id)s)",),
    "gd_line": ("select * from gd_line('k')",),
    "gd_crashes": ("select * from gd_crashes()",),
    "gd_failures": ("select * from gd_failures()", "select * from gd_failures('m')"),
    "gd_doctor": ("select * from gd_doctor()",),
    "gd_list": tuple(f"select * from gd_list('{json.dumps({key: value})}')" for key, value in FILTERS.items()),
    "gd_count": tuple(f"select * from gd_count('{json.dumps({key: value})}')" for key, value in FILTERS.items()),
    "gd_match": tuple(f"select * from gd_match('{json.dumps({key: value})}')" for key, value in FILTERS.items()),
    "gd_audit": ("select * from gd_audit()", """select * from gd_audit('{"id": 1}')"""),
    "gd_signals": ("select * from gd_signals(%(id)s)",),
    "gd_result": ("select * from gd_result(%(id)s)",),
    "gd_find": ("select gd_find('u')",),
    "gd_childs": ("select * from gd_childs(%(parent)s)",),
    "gd_version": ("select gd_version()",),
    "gd_instances": ("select * from gd_instances",),
    "gd_queues": ("select * from gd_queues",),
    "gd_list_queues": ("select * from gd_list_queues()", """select * from gd_list_queues('{"queue": "q"}')"""),
    "gd_workers": ("select * from gd_workers",),
    "gd_rate_limits": ("select * from gd_rate_limits",),
    "gd_schedules": ("select * from gd_schedules",),
    "gd_holds": ("select * from gd_holds",),
    "gd_pauses": ("select * from gd_pauses",),
    "gd_machines": ("select * from gd_machines",),
    "gd_stats": ("select * from gd_stats(60)",),
    "gd_transitions": ("select * from gd_transitions('m')",),
}


class Looks(NamedTuple):
    ids: dict[str, int]

    def calls(self, name: str) -> list[tuple[LiteralString, dict[str, int]]]:
        return [(call, self.ids) for call in LOOKS[name]]  # type: ignore[misc]


def readers_calls(conn: Conn) -> set[str]:
    """What the profile reader may call or read, as the database says it."""
    row = conn.execute("select p.functions || p.views from gendurable._describe_profile('reader') p").fetchone()
    assert row is not None
    return set(row[0])


def commit(conn: Conn, queue: str, **outcome: Any) -> int:
    """Claim one instance and commit an outcome for it."""
    row = conn.execute("select id, claim_no from gd_claim('w', %s, 1)", (queue,)).fetchone()
    assert row is not None
    text = json.dumps([{"id": row[0], "claim_no": row[1], **outcome}])
    assert conn.execute("select result from gd_commit('w', %s)", (text,)).fetchall() == [("ok",)]
    return int(row[0])


def fill(conn: Conn) -> Looks:
    """Something in every table: a parent, whose child waits for a key, with an inbox, errors, a history, a watcher."""
    conn.execute(
        """select gd_register('m', 1, 'start', 'default', '{"history": "states", "timeouts": {"start": 60000}}')"""
    )
    conn.execute("select gd_set_rate_limit('l', 5, '1 hour'), gd_set_key_limit('k', 1)")
    conn.execute("""select gd_set_queue('few', '{"limit": 1}')""")
    conn.execute("select gd_pause_machine('paused')")
    counters = {"no": 1, "rows": [["m", "start", "next", 1, 0.5, "end"]]}
    conn.execute("select gd_hello('known', %s::jsonb)", (json.dumps({"queues": {"q": 1}, "counters": counters}),))
    conn.execute("select gd_close_rate_limit('l:shut', now() + interval '1 hour')")
    conn.execute("""select gd_schedule('nightly', '0 3 * * *', 'm')""")
    conn.execute("select gd_insert('m', p_queue => 'failing')")
    commit(conn, "failing", kind="stop", reason="no answer", traceback="at line 1")
    conn.execute("select gd_insert('m', p_queue => 'crashing')")
    [lost] = conn.execute("select jsonb_build_array(id, claim_no)::text from gd_claim('w', 'crashing', 1)").fetchall()
    conn.execute("select gd_release('w', jsonb_build_array(%s::jsonb), p_crashed => true)", lost)
    [parent] = conn.execute("select gd_insert('m', p_queue => 'parents')").fetchone() or ()
    child = {"fsm": "m", "queue": "q", "partition_key": "k", "unique_key": "u", "rate_limit": "l", "meta": {"a": 1}}
    commit(conn, "parents", kind="schedule_childs", step="joined", childs=[child])
    journal = {"at": 0, "add": [{"k": "start", "at": 1, "seed": "s"}]}
    commit(conn, "q", kind="error", error="no", delay_ms=0, traceback="at line 2", journal=journal)
    [id] = conn.execute("select gd_find('u')").fetchone() or ()
    conn.execute("select gd_signal(%s, 'go', '1', 'd'), gd_watch(%s)", (id, id))
    conn.execute("select gd_insert('m', p_queue => 'q', p_partition_key => 'k', p_priority => -1)")
    assert len(conn.execute("select id from gd_claim('w', 'q', 10)").fetchall()) == 1
    conn.execute("select gd_insert('m', p_queue => 'few') from generate_series(1, 2)")
    conn.execute("select id from gd_claim('w', 'few', 2)")
    return Looks({"id": id, "parent": parent})
