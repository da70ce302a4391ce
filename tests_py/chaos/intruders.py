"""Others in the same database, all at once: open and prepared transactions, settings, publications, locks, the clock.

Each has a thread of its own. What they are refused, or do not get at once, they leave; what they changed they take back
when it is over.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql
from support.clock import Clock

from .aside import OPTIONS
from .payloads import MOST as MOST_HOSTILE
from .payloads import PAUSE, Payloads

# The role of the engines: foreign settings are its own, those of the clients they are not.
ROLE = "gd_chaos_engine"
TRANSACTIONS = 4
# Rows of others: what is aside is nobody's to touch.
TOUCHABLE = "finished_at is null and fsm <> 'around.aside'"
HOSTILE_LEFT = "select count(*) from gendurable.instance where queue = 'hostile' and finished_at is null"
# They wait for what others hold, and all who come behind them wait too.
IMPATIENT = "set lock_timeout = '50ms'"
LONGEST_CHANGE = 2.0

SETTINGS: dict[str, tuple[str, ...]] = {
    "client_encoding": ("LATIN1", "SQL_ASCII", "EUC_JP"),
    "datestyle": ("SQL, DMY", "German", "Postgres, MDY"),
    "intervalstyle": ("postgres_verbose", "iso_8601", "sql_standard"),
    "timezone": ("America/New_York", "Asia/Kathmandu", "Africa/Casablanca"),
    "default_transaction_isolation": ("serializable", "repeatable read"),
    "default_transaction_read_only": ("on",),
    "default_transaction_deferrable": ("on",),
    "statement_timeout": ("1ms",),
    "lock_timeout": ("1ms",),
    "idle_in_transaction_session_timeout": ("1ms",),
    "idle_session_timeout": ("100ms",),
    "transaction_timeout": ("1ms",),
    "synchronous_commit": ("off", "local"),
    "row_security": ("off",),
    "search_path": ('"$user", nowhere, public', "public, pg_catalog"),
    "jit": ("on",),
    "jit_above_cost": ("0",),
    "bytea_output": ("escape",),
    "extra_float_digits": ("-15",),
    "array_nulls": ("off",),
    "standard_conforming_strings": ("off",),
    "transform_null_equals": ("on",),
    "quote_all_identifiers": ("on",),
    "enable_indexscan": ("off",),
    "enable_bitmapscan": ("off",),
    "enable_seqscan": ("off",),
    "plan_cache_mode": ("force_generic_plan", "force_custom_plan"),
    "work_mem": ("64kB",),
    "client_min_messages": ("debug1", "error"),
    "xmlbinary": ("hex",),
    "lc_numeric": ("C",),
    "application_name": ("it's \"\\",),
}


class Intruders:
    def __init__(self, dsn: str, seed: int, clock: Clock | None, longest: float) -> None:
        self._dsn = dsn
        self._clock = clock
        # How long a transaction is left open or prepared, at most.
        self._longest = longest
        self.finish = threading.Event()
        self.done: Counter[str] = Counter()
        self.failure: BaseException | None = None
        calls: list[Callable[[psycopg.Connection[Any], random.Random], object]] = [
            *[self._leave_open] * TRANSACTIONS,
            self._put_in,
            self._set,
            self._change_tables,
        ]
        if clock is not None:
            calls.append(self._step_clock)
        self._threads = [
            threading.Thread(
                target=self._guard, args=(call, random.Random(f"{seed} {n}")), name=f"intruder-{n}", daemon=True
            )
            for n, call in enumerate(calls)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.finish.set()
        for thread in self._threads:
            thread.join(60)
        with psycopg.connect(self._dsn, autocommit=True, options=OPTIONS) as conn:
            for (gid,) in conn.execute(
                "select gid from pg_prepared_xacts where database = current_database()"
            ).fetchall():
                conn.execute(sql.SQL("rollback prepared {}").format(gid))
            conn.execute(sql.SQL("alter role {} reset all").format(sql.Identifier(ROLE)))
            conn.execute("drop publication if exists chaos_all")
            self._reconnect(conn)
            # Nobody has their machine.
            conn.execute(
                "select gd_cancel(id) from gendurable.instance "
                "where finished_at is null and queue = 'hostile' and fsm not like all (array['around.%', 'chaos.%'])"
            )

    def _guard(self, call: Callable[[psycopg.Connection[Any], random.Random], object], chance: random.Random) -> None:
        while not self.finish.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, options=OPTIONS) as conn:
                    while not self.finish.wait(PAUSE):
                        call(conn, chance)
            except psycopg.Error as error:
                # A lock that it did not get, a deadlock that it gave in to, a server that was taken away; an instance
                # that was there when it looked, and removed when it acted: an hour is more than their retention.
                if not isinstance(error, psycopg.OperationalError) and error.sqlstate != "GD503":
                    self.failure = error
                    return
                self.finish.wait(PAUSE)
            except BaseException as error:  # noqa: BLE001 - told by the scene
                self.failure = error
                return

    # -- payloads

    def _put_in(self, conn: psycopg.Connection[Any], chance: random.Random) -> None:
        row = conn.execute(HOSTILE_LEFT).fetchone()
        if row is not None and row[0] < MOST_HOSTILE:
            self.done[Payloads(chance).put_in(conn)] += 1

    # -- transactions

    def _leave_open(self, conn: psycopg.Connection[Any], chance: random.Random) -> None:
        actions = chance.sample(list(ACTIONS), chance.randint(1, 4))
        if threading.current_thread() not in self._threads[:2]:
            # Three forgotten decisions stop nobody, a fourth refuses all others. Clients make some, too.
            actions = [action for action in actions if not action.startswith(DECISIONS)] or ["signal"]
        # By commit only what changes nothing that the clients' records know of.
        commit = chance.random() < 0.5 and not any(action in MUST_ROLL_BACK for action in actions)
        prepare = chance.random() < 0.4
        mine = f"chaos {threading.current_thread().name} "
        for (gid,) in conn.execute("select gid from pg_prepared_xacts where starts_with(gid, %s)", (mine,)).fetchall():
            # One that a crash of the server left: nobody else ends it, and it holds its rows for ever.
            conn.execute(sql.SQL("rollback prepared {}").format(gid))
        conn.execute("begin")
        try:
            conn.execute("set local lock_timeout = '200ms'")
            for action in actions:
                conn.execute(ACTIONS[action].encode())
            gid = f"{mine}{chance.random()}"
            if prepare:
                conn.execute(sql.SQL("prepare transaction {}").format(gid))
            # One forgets for long. Did all, soon every row and key would be touched, and nothing could go on.
            longest = self._longest if threading.current_thread() is self._threads[0] else min(self._longest, 8)
            self.finish.wait(chance.uniform(0.5, longest) * chance.random())
            how = "commit" if commit else "rollback"
            conn.execute(sql.SQL(f"{how} prepared {{}}").format(gid) if prepare else how.encode())
            self.done[f"transaction {'prepared' if prepare else 'left open'}, then {how}"] += 1
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.ObjectNotInPrerequisiteState):
            # It had notified somebody, which cannot be prepared.
            conn.execute("rollback")
        except psycopg.OperationalError:
            if not conn.closed:
                conn.execute("rollback")
            raise

    # -- settings

    def _set(self, conn: psycopg.Connection[Any], chance: random.Random) -> None:
        role = sql.Identifier(ROLE)
        for name in chance.sample(list(SETTINGS), 6):
            value = chance.choice(SETTINGS[name])
            where = sql.SQL("in database postgres " if chance.random() < 0.5 else "")
            try:
                # A search path is a list, not one text.
                to = sql.SQL(value) if name == "search_path" else sql.Literal(value)
                conn.execute(sql.SQL("alter role {} {}set {} to {}").format(role, where, sql.Identifier(name), to))
            except psycopg.errors.UndefinedObject:
                continue  # a setting of a later PostgreSQL
        self.done["settings changed"] += 1
        self._reconnect(conn)
        self.finish.wait(chance.uniform(1, 5))
        conn.execute(sql.SQL("alter role {} reset all").format(role))
        conn.execute(sql.SQL("alter role {} in database postgres reset all").format(role))

    def _reconnect(self, conn: psycopg.Connection[Any]) -> None:
        """Only a new session begins with new settings."""
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (ROLE,))

    # -- tables

    def _change_tables(self, conn: psycopg.Connection[Any], chance: random.Random) -> None:
        conn.execute(IMPATIENT)
        name = chance.choice(list(CHANGES))
        # The server's timeouts follow its clock, which steps here: one that waits on keeps everybody from the table.
        for statement in CHANGES[name]:
            impatience = threading.Timer(LONGEST_CHANGE, conn.cancel_safe)
            impatience.start()
            try:
                conn.execute(statement.encode())
            finally:
                impatience.cancel()
        self.done[name] += 1
        self.finish.wait(chance.uniform(0.2, 1))

    # -- the clock

    def _step_clock(self, conn: psycopg.Connection[Any], chance: random.Random) -> None:
        """Back for a while, and forward again, at least to where it would have been: what waited is due again then."""
        assert self._clock is not None
        # No further: PostgreSQL's own timeouts, such as the lock_timeout of an ALTER TABLE, wait on by as much.
        back = chance.choice((1.0, 2.0, 5.0))
        self._clock.step(-back)
        # Each process sees a step within two seconds.
        self.finish.wait(chance.uniform(1, 5))
        self._clock.step(back + chance.choice((0.0, 0.0, 5.0, 3600.0)))
        self.done["clock stepped back and forward"] += 1
        self.finish.wait(chance.uniform(2, 8))


def _some(columns: str, more: str = "", limit: int = 5) -> str:
    return (
        f"select {columns} from (select id, partition_key from gendurable.instance where {TOUCHABLE} and id > 0 {more} "
        f"order by random() limit {limit}) chosen"
    )


_ROWS = f"select from gendurable.instance where {TOUCHABLE} order by random() limit 5"
ACTIONS = {
    "signal": _some("gd_signal(id, 'noise', '{}')"),
    "cancel": _some("gd_cancel(id)", limit=2),
    "cancel of a key": _some("gd_cancel(id)", "and partition_key is not null", 1),
    "cancel with all below": _some("gd_cancel(id, 'chaos', true)", "and fsm = 'chaos.parent'", 1),
    "insert": "select gd_insert('around.hostile', '{}', p_queue => 'hostile')",
    "insert of a unique key": "select gd_insert('chaos.unique', '{\"n\": 0}', p_unique_key => 'nobody else''s')",
    "insert of a key": "select gd_insert('around.hostile', '{}', p_queue => 'hostile', p_partition_key => 'keyed:0')",
    "claim": "select id from gd_claim('intruder', 'default', 3, interval '1 second')",
    "claim of keys": "select id from gd_claim('intruder', 'keyed', 2, interval '1 second')",
    "pause": "select gd_pause_queue('keyed')",
    "pause of nobody's": "select gd_pause_queue('nobody''s'), gd_resume_queue('nobody''s')",
    "resume": "select gd_resume_queue('default')",
    "limit": "select gd_set_key_limit('wide', 3)",
    "limit of nobody's": "select gd_set_key_limit('nobody''s', 2)",
    "rows": f"{_ROWS} for update skip locked",
    "shared rows": f"{_ROWS} for share skip locked",
    "tables": "lock table gendurable.instance, gendurable.signal, gendurable.meta in row share mode",
    "reading": "select count(*) from gendurable.instance",
}
DECISIONS = ("pause", "resume", "limit")
MUST_ROLL_BACK = {
    name
    for name in ACTIONS
    if name in ("signal", "pause", "resume", "limit", "insert of a unique key") or name.startswith(("cancel", "claim"))
}

CHANGES = {
    "publication": (
        # One that a crash of the server left.
        "drop publication if exists chaos_all",
        "create publication chaos_all for all tables",
        "select pg_sleep(1)",
        "drop publication chaos_all",
    ),
    "replica identity": (
        "alter table gendurable.instance replica identity full",
        "alter table gendurable.instance replica identity default",
    ),
    "vacuum full": ("vacuum (full) gendurable.signal",),
    "vacuum": ("vacuum (analyze) gendurable.instance",),
    "reindex": ("reindex table gendurable.signal",),
    "analyze": ("analyze",),
    "grants": (
        "grant select on all tables in schema gendurable to pg_monitor",
        "alter default privileges grant all on tables to pg_monitor",
        "alter default privileges grant execute on functions to pg_monitor",
        "revoke select on all tables in schema gendurable from pg_monitor",
        "alter default privileges revoke all on tables from pg_monitor",
    ),
}
