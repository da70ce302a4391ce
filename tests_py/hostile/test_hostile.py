"""Whatever is passed to a public function: a documented SQLSTATE comes out, and the session and the data are as before.

GENDURABLE_FUZZ=10 tries ten times as much, at random; without it the same values are tried every time.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from psycopg.pq import ExecStatus, Format, TransactionStatus
from support.busy import Busy, fill, one
from support.engine import ended, running
from support.hostile import Argument, values
from support.server import Server
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.machine import registry
from gendurable_py.machine.registry import autoload

Conn = psycopg.Connection[Any]
MORE = int(os.environ.get("GENDURABLE_FUZZ", "0"))
fuzz = settings(
    max_examples=60 * max(MORE, 1),
    deadline=None,
    derandomize=not MORE,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

FUNCTIONS = """
select
    p.proname,
    jsonb_agg(
        jsonb_build_array(p.proargnames[a.n], format_type(a.t, null), a.n > p.pronargs - p.pronargdefaults) order by a.n
    ) filter (where a.n is not null)
from pg_proc p
left join lateral unnest(p.proargtypes::oid[]) with ordinality a (t, n) on true
where p.proname like 'gd\\_%' and p.prokind = 'f'    -- gd_run takes nothing inside of a transaction
group by p.oid
order by p.proname, p.oid::regprocedure::text
"""
# The contract's own, and Postgres's for what the input is: a value that its type does not have, JSON that is nested
# too deeply for the parser (54001), a role or a table that does not exist. No lock is held by anybody else here.
ALLOWED = {"GD501", "GD502", "GD503", "GD504", "GD505", "42704", "42883", "54001", "42P01"}
SEEN = """
select (select count(*) from gendurable.instance), (select max(updated_at) from gendurable.instance),
    (select count(*) from gendurable.signal), (select count(*) from gendurable.signal_seen),
    (select count(*) from gendurable.machine), (select count(*) from gendurable.paused_queue),
    (select sum(max_executing) from gendurable.key_limit), (select sum(claim_no) from gendurable.instance),
    (select count(*) from gendurable.watch),
    (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory')
"""


class Target:
    """One connection to a busy database, in which nothing that is tried remains."""

    def __init__(self, dsn: str) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.busy: Busy = fill(self.conn)
        self.conn.execute("create table strangers_table (id int, state jsonb)")
        self.functions: list[tuple[str, list[Argument]]] = [
            (name, [tuple(argument) for argument in arguments or []])
            for name, arguments in self.conn.execute(FUNCTIONS.encode())
        ]
        self.conn.execute("set statement_timeout = '20 s'")

    def call(self, name: str, types: Sequence[str], given: tuple[bytes | None, ...], isolation: str) -> str | None:
        """Call in a transaction that is rolled back; the SQLSTATE, once what must hold after an error was looked at."""
        conn = self.conn
        conn.execute(f"begin isolation level {isolation}".encode())
        try:
            before = conn.execute(SEEN.encode()).fetchone()
            conn.execute("savepoint tried")
            arguments = ", ".join(f"${n}::{type_name}" for n, type_name in enumerate(types, 1))
            done = conn.pgconn.exec_params(
                f"select * from {name}({arguments})".encode(),
                list(given),
                [25 if type_name == "text" else 0 for type_name in types],
                [Format.BINARY if type_name == "text" else Format.TEXT for type_name in types],
            )
            assert conn.info.transaction_status != TransactionStatus.UNKNOWN, "the connection is lost"
            if done.status == ExecStatus.TUPLES_OK:
                self.check_answer(name, done, before)
                return None
            sqlstate = (done.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
            said = done.get_error_message()
            assert sqlstate in ALLOWED or sqlstate.startswith("22"), f"{sqlstate}: {said}"
            if sqlstate.startswith("GD"):
                assert done.error_field(psycopg.pq.DiagnosticField.MESSAGE_HINT), f"no hint: {said}"
                assert isolation == "read committed" or sqlstate != "GD504" or "isolation" in said
            if isolation == "read committed":
                assert sqlstate != "GD504", said
            conn.execute("rollback to tried")
            assert conn.execute(SEEN.encode()).fetchone() == before, "an error left something behind"
            return sqlstate
        finally:
            conn.execute("rollback")
            # What a session keeps beyond its transaction.
            conn.execute("select pg_advisory_unlock_all()")

    def check_answer(self, name: str, done: psycopg.pq.PGresult, before: Any) -> None:
        if name != "gd_commit":
            return
        column = [done.fname(n) for n in range(done.nfields)].index(b"result")
        results = {done.get_value(row, column) for row in range(done.ntuples)}
        assert results <= {b"ok", b"stale", b"busy", b"rejected"}
        if b"ok" not in results:
            # but for the locks of keys, which last as long as the transaction: what is rejected may have got them
            after = self.conn.execute(SEEN.encode()).fetchone()
            assert after is not None and after[:-1] == before[:-1], f"{results} left something behind"


@pytest.fixture(scope="module")
def target(server: Server) -> Iterator[Target]:
    dsn = server.new_database()
    made = Target(dsn)
    with closing(made.conn):
        yield made
    server.drop_database(dsn)


def test_every_public_function_survives_hostile_arguments(target: Target) -> None:
    busy = target.busy
    ids, claims = [*busy.ids.values(), 0, -1, 2**62], [*busy.claims.values()]
    assert len(target.functions) > 25
    isolation = st.sampled_from(["read committed"] * 4 + ["repeatable read", "serializable"])
    came: dict[str, set[str | None]] = {}

    def tries_of(name: str, arguments: list[Argument]) -> Callable[[], None]:
        types = [argument[1] for argument in arguments]
        # What reads a small language of its own deserves more.
        more = 8 if {"p_outcomes", "p_outcome", "p_instances"} & {argument[0] for argument in arguments} else 1

        @settings(fuzz, max_examples=fuzz.max_examples * more)
        @given(values(arguments, ids, claims), isolation)
        def tries(given: tuple[bytes | None, ...], isolation: str) -> None:
            came.setdefault(name, set()).add(target.call(name, types, given, isolation))

        return tries

    failures = []
    for name, arguments in target.functions:
        try:
            tries_of(name, arguments)()
        except AssertionError as error:
            failures.append("\n".join([f"{name}: {error}", *getattr(error, "__notes__", [])]))
    assert not failures, "\n\n".join(failures)
    # The fuzz is not always turned away at the door.
    assert {name for name, states in came.items() if states == {None}} <= {"gd_version", "gd_watch", "gd_doctor"}
    # But no document is come upon, nor two versions of a machine: these have fuzzes of their own (model/test_moves).
    assert {name for name, states in came.items() if None not in states} <= {"gd_import", "gd_migrate"}
    assert one(target.conn, "select gd_maintain() ->> 'repaired'") == "0"


@pytest.mark.parametrize("array", ["{{default,a},{b,c}}", "{{NULL}}", "{default,NULL}", "{NULL}"])
def test_an_array_that_is_no_plain_list_is_not_valid(conn: Conn, array: str) -> None:
    for call in ("gd_sleep('w', $1)", "gd_insert('m', p_unique_key => 'u', p_unique_scope => $1)"):
        with pytest.raises(psycopg.Error) as caught:
            one(conn, f"select * from {call}", array)
        assert caught.value.sqlstate == "GD501", call
    assert one(conn, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()") == 0


# -- what is large, and goes through


def test_large_and_deep_values_come_back_as_they_were(conn: Conn) -> None:
    deep: Any = 1
    for _ in range(800):
        deep = [deep]
    state = {"text": "ö" * 3_000_000, "many": list(range(20_000)), "deep": deep, "": "\x01\u202e\U0001f4a5", "n": 2**70}
    id = one(conn, "select gd_insert('large', $1, p_meta => $2)", json.dumps(state), json.dumps({"x": "y" * 100_000}))
    for n in range(5):
        assert gd.signal(conn, id, "s" * 1000, "z" * 500_000, dedup_key=f"k{n}" * 100) == "delivered"
    row = conn.execute("select id, claim_no, state, signals from gd_claim('w')").fetchone()
    assert row is not None and row[2] == state and [s["payload"] for s in row[3]] == ["z" * 500_000] * 5
    outcome = {"id": row[0], "claim_no": row[1], "kind": "done", "result": state}
    answer = conn.execute("select result from gd_commit('w', %s)", (json.dumps([outcome]),)).fetchone()
    assert answer == ("ok",)
    assert one(conn, "select result from gd_result($1)", id) == state


def test_a_name_that_is_too_long_for_an_index_is_refused(conn: Conn) -> None:
    """Of random bytes, since what repeats itself is compressed."""
    long = os.urandom(6000).hex()
    id = gd.insert(conn, "m")
    before = conn.execute(SEEN.encode()).fetchone()
    for call in (
        "gd_insert('m', p_unique_key => $1)",
        "gd_insert('m', p_partition_key => $1)",
        "gd_insert('m', p_queue => $1)",
        "gd_insert_many(jsonb_build_array(jsonb_build_object('fsm', 'm', 'queue', $1::text)))",
        "gd_register($1, 1, 's')",
        "gd_pause_queue($1)",
        "gd_set_key_limit($1, 2)",
        f"gd_signal({id}::bigint, $1)",
        f"gd_signal({id}::bigint, 's', null, $1)",
    ):
        with pytest.raises(psycopg.Error) as caught:
            one(conn, f"select {call}", long)
        assert caught.value.sqlstate == "GD501", call
        assert conn.execute(SEEN.encode()).fetchone() == before
    assert gd.find(conn, long) is None
    (claim,) = gd.claim(conn, "w")
    outcome = {"id": claim.id, "claim_no": claim.claim_no, "kind": "next", "step": "x", "partition_key": long}
    answer = conn.execute("select result, detail from gd_commit('w', %s)", (json.dumps([outcome]),)).fetchone()
    assert answer is not None and answer[0] == "rejected" and answer[1]["sqlstate"] == "GD501"


def test_names_of_every_kind_of_character_are_kept_apart(conn: Conn) -> None:
    """Queues, keys and signals are compared by their bytes: no case, no normal form, no trimming."""
    names = ["é", "e\u0301", "É", " é", "é ", "k", "K", "k:1", "'", '"', "\\", "%", "_", "\n", "\x01", "\ufeffk", "🏗"]
    ids = [gd.insert(conn, "m", queue=name, unique_key=name, partition_key=name) for name in names]
    assert len(set(ids)) == len(names) and None not in ids
    for name, id in zip(names, ids, strict=True):
        assert gd.find(conn, name) == id
        assert gd.signal(conn, name, name, name) == "delivered"
        row = conn.execute("select id, queue, partition_key, signals from gd_claim('w', %s, 10)", (name,)).fetchall()
        assert [(r[0], r[1], r[2], r[3][0]["name"], r[3][0]["payload"]) for r in row] == [(id, name, name, name, name)]


# -- autoload


MODULES = [
    "os:system", "subprocess:run", "allowed:X", "allowed.sub:X", "allowed_not:X", "allowedx.y:Z", "allowed..os:X",
    ".allowed:X", "allowed.:X", "allowed", ":X", "allowed/../os:X", "allowed.sub\n:X", "ａllowed:X", "allowed .os:X",
    "sys:exit", "__main__:X", "os.allowed:X", "ALLOWED:X", "allowed\x00:X", "allowed.__import__:X", "allowed.class:X",
    "allowed-x:Y", "",
]  # fmt: skip
PARTS = ["allowed", "os", "..", "", "sub", "__init__", "allowed_x", "é", "also", "this", "also.this"]
module_names = st.one_of(
    st.sampled_from(MODULES),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(lambda parts: ".".join(parts) + ":X"),
    st.text(max_size=20),
)


@fuzz
@given(module_names)
@example("allowed.sub:X:Y")
def test_autoload_imports_nothing_outside_of_the_allowed_packages(name: str) -> None:
    imported: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib, "import_module", imported.append)
        patch.setattr(registry, "_defines", lambda module, qualname: True)
        autoload(name, ["allowed", "also.this"])
    for module in imported:
        assert module == name.partition(":")[0]
        assert module.partition(".")[0] == "allowed" or f"{module}.".startswith("also.this.")
        assert all(part.isidentifier() for part in module.split("."))


MODULE = """
from gendurable_py import job

@job
def work(args):
    return __name__
"""


def test_an_engine_loads_only_below_what_it_was_given(
    db: Any, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("gd_allowed/__init__", "gd_allowed/sub", "gd_allowed_not/__init__", "gd_victim/__init__"):
        path = tmp_path / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(MODULE)
    (tmp_path / "gd_allowed" / "broken.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "gd_allowed" / "no_syntax.py").write_text("def\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    good = gd.insert(conn, "gd_allowed.sub:work")
    bad = [
        gd.insert(conn, name)
        for name in (
            "gd_victim:work",
            "gd_allowed_not:work",
            "gd_allowed.nothing:work",
            "gd_allowed.no_syntax:work",
            "gd_allowed.sub:nothing",
            "os:system",
            "gd_allowed/../gd_victim:work",
        )
    ]
    engine = Engine(db.dsn, autoload=["gd_allowed"], poll_interval=0.1, max_poll_interval=0.1)
    with running(engine):
        (result,) = ended(conn, good)
        assert (result.status, result.result) == ("done", "gd_allowed.sub")
        wait_until(
            lambda: (
                one(conn, "select count(*) from gd_instances where id = any($1) and eligible_at > now()", bad)
                == len(bad)
            )
        )
    rows = conn.execute("select distinct status, attempt, crashes from gd_instances where id = any(%s)", (bad,))
    assert rows.fetchall() == [("runnable", 0, 0)], "given back, no attempt burnt"
    loaded = {name for name in sys.modules if name.startswith("gd_")}
    assert loaded == {"gd_allowed", "gd_allowed.sub"}
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
