"""The database beside the reference model: connections, the clock, the comparison, the invariants."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row, tuple_row
from support.model import BURST, SECOND, TIMEOUTS, Change, Model
from support.model_inputs import RATES
from support.model_row import Row, Span

US = "(extract(epoch from {}) * 1000000)::bigint"
PLACE = """coalesce(
    case when i.partition_key is null then coalesce(i.eligible_at, i.bucket_at) else i.lane_at end, i.aside_at)"""
LEASE = "case when i.status = 'executing' then greatest(i.lease_expires_at, r.until) end"
ROWS = f"""
select i.id, i.status::text, i.step, i.state, i.attempt, i.crashes, i.queue, i.home, i.priority, i.partition_key as key,
    i.unique_held as held, i.awaits, i.claim_no, i.worker, i.parent_id as parent, i.barrier_no as barrier, i.result,
    i.rate_limit, coalesce(i.weight, 1) as weight, i.paused_at is not null and i.finished_at is null as paused,
    case when i.status = 'awaiting_children' then i.children_pending end as pending,
    {US.format(PLACE)} as at,
    {US.format("i.deadline_at")} as deadline, {US.format(LEASE)} as lease,
    {US.format("i.finished_at")} as finished, {US.format("i.expires_at")} as expires,
    {US.format("i.timeout_at")} as timeout,
    array(select s.id from gendurable.signal s where s.instance_id = i.id order by s.id) as inbox,
    array(select j.entry ->> 'k' from gendurable.journal j where j.instance_id = i.id order by j.seq) as journal
from gendurable.instance i
left join gendurable.renewal r on r.instance_id = i.id and r.claim_no = i.claim_no
where i.id > 0
order by i.id
"""

SET_RATE = "select gd_set_rate_limit(%s, %s, %s::interval, %s)"
SETTINGS = {"open": (1e9, "1 second", 1e9), "tight": (1, "1000 days", BURST), "shut": (0, None, BURST)}

# Each returns what is broken; nothing else may happen meanwhile, so no baton is on its way.
INVARIANTS = {
    "a key waits and nobody will look at it": """
        select distinct i.partition_key from gendurable.instance i
        where i.lane_at <= now() and i.slot_no is null and (i.eligible_at is null or i.eligible_at <= now())
            and not exists (select from gendurable.paused_queue q where q.queue = i.queue)
            and not exists (
                select from gendurable.instance h where h.partition_key = i.partition_key and h.slot_no is not null)
            and not exists (
                select from gendurable.instance b
                where b.partition_key = i.partition_key and b.slot_no is null
                    and (b.eligible_at <= now() + interval '1 second'
                        -- by the bell of its line
                        or b.bucket_at is not null
                        -- given back for a while, at its place: those behind it wait for it
                        or (b.lane_at <= now() and b.eligible_at is not null))
                    and not exists (select from gendurable.paused_queue q where q.queue = b.queue))""",
    "a row is in no index of a claim": """
        select i.id from gendurable.instance i
        where (i.status = 'runnable' and i.partition_key is null
                and coalesce(i.eligible_at, i.bucket_at, i.aside_at) is null)
            or (i.status = 'awaiting_signal' and i.partition_key is null and i.aside_at is null
                and i.eligible_at is distinct from i.deadline_at)
            or (i.finished_at is null and not exists (
                select from gendurable.queue_name p where p.queue = i.queue))""",
    "a row is aside for nothing": """
        select i.id from gendurable.instance i
        where i.aside_at is not null and i.paused_at is null
            and not exists (select from gendurable._find_pause(i.fsm, i.fsm_version, i.step))
            and not exists (select from gendurable.resumed r where r.fsm = i.fsm)""",
    "a row is aside and stands elsewhere": """
        select i.id from gendurable.instance i
        where i.aside_at is not null and (coalesce(i.lane_at, i.bucket_at) is not null
            or i.status <> all ('{runnable,awaiting_signal}')
            or (i.eligible_at is not null and i.partition_key is null))""",
    "a line has no bell": """
        select distinct i.rate_limit, i.queue from gendurable.instance i
        where i.bucket_at is not null and not exists (
            select from gendurable.instance b
            where b.id < 0 and b.rate_limit = i.rate_limit and b.queue = i.queue and b.eligible_at is not null)""",
    "a barrier counts wrongly": """
        select i.id from gendurable.instance i
        where i.status = 'awaiting_children' and i.children_pending <> (
            select count(*) from gendurable.instance c
            where c.parent_id = i.id and c.barrier_no = i.claim_no and c.finished_at is null)""",
    "a slot without a claim": """
        select i.id from gendurable.instance i
        where i.partition_key is not null and (i.slot_no is not null) <> (i.status = 'executing')""",
    "a unique key is held outside of its scope": """
        select i.id from gendurable.instance i
        where i.unique_held is not null and i.status <> all (coalesce(
            i.unique_scope, '{runnable,executing,awaiting_signal,awaiting_children}'))""",
    "a lease goes beyond a timeout or a deadline": """
        select i.id from gendurable.instance i
        left join gendurable.renewal r on r.instance_id = i.id and r.claim_no = i.claim_no
        where (i.status = 'executing' and greatest(i.lease_expires_at, r.until) > least(i.timeout_at, i.expires_at))
            or (i.status <> 'executing' and i.timeout_at is not null)
            or (i.finished_at is not null and i.expires_at is not null)""",
    "a signal waits for an answer that it is itself": """
        select i.id from gendurable.instance i join gendurable.signal s on s.instance_id = i.id
        where i.status = 'awaiting_signal' and s.name = any (i.awaits) and s.id <> all (coalesce(i.shown, '{}'))""",
    "something belongs to an instance that is gone": """
        select o.instance_id from (
            select s.instance_id from gendurable.signal s
            union all select s.instance_id from gendurable.signal_seen s
            union all select w.instance_id from gendurable.watch w
            union all select e.instance_id from gendurable.error e
            union all select a.instance_id from gendurable.attribute a
            union all select h.instance_id from gendurable.history h
            union all select j.instance_id from gendurable.journal j) o
        where not exists (select from gendurable.instance i where i.id = o.instance_id)""",
    "an instance is not found by its attributes": """
        select i.id from gendurable.instance i
        where i.id > 0 and gendurable._attribute_words(i.attributes) is distinct from array(
            select a.word from gendurable.attribute a where a.instance_id = i.id order by a.word)""",
    "a history has a gap": """
        select h.instance_id from gendurable.history h group by 1 having min(h.no) <> 1 or max(h.no) <> count(*)""",
    "a journal has a gap": """
        select j.instance_id from gendurable.journal j group by 1 having min(j.seq) <> 1 or max(j.seq) <> count(*)""",
    "errors have a gap, or are too many": """
        select e.instance_id from gendurable.error e group by 1
        having max(e.no) - min(e.no) + 1 <> count(*) or count(*) > 20 or min(e.no) <> greatest(max(e.no) - 19, 1)""",
    "a history does not end with the end": """
        select i.id from gendurable.instance i
        join gendurable.machine m on m.fsm = i.fsm and m.version = i.fsm_version and m.history is not null
        left join lateral (
            select h.kind, h.next_step from gendurable.history h where h.instance_id = i.id
            order by h.no desc limit 1) l on true
        where (i.finished_at is not null) <> coalesce(l.next_step is null and (i.crashes = 20
            or l.kind in ('done', 'stop', 'error', 'timeout', 'expired', 'unfit', 'cancel')), false)""",
    "a step was given another state than its history says": """
        select h.instance_id from gendurable.history h
        join gendurable.history n on n.instance_id = h.instance_id and n.no = h.no + 1
        where h.next_step is null and h.kind in ('crash', 'cancel') and n.state <> h.state""",
    "somebody watches what has ended": """
        select w.instance_id from gendurable.watch w join gendurable.instance i on i.id = w.instance_id
        where i.finished_at is not null""",
    "the retention will never look at a child": """
        select c.id from gendurable.instance c
        where c.finished_at is not null and c.barrier_no is not null
            and not exists (select from gendurable.instance p where p.id = c.parent_id and p.finished_at is null)
            and not exists (select from gendurable.ended_parent e where e.parent_id = c.parent_id)""",
}
SHIFTED = {
    "instance": [
        "inserted_at",
        "eligible_at",
        "lane_at",
        "deadline_at",
        "finished_at",
        "lease_expires_at",
        "updated_at",
        "expires_at",
        "timeout_at",
        "bucket_at",
        "aside_at",
    ],
    "bucket": ["full_at"],
    "signal": ["inserted_at"],
    "renewal": ["until"],
}
LINES = """
update gendurable.bucket b set lines = array(
    select row(l.queue, l.ring_at - back, l.turn_at - back, l.weight, l.priority, l.at - back, l.id, l.bell_id)
        ::gendurable.line
    from unnest(b.lines) l)
from (select %s * interval '1 second') x (back)
"""
NOTES = """
update gendurable.resumed set again_at = now()
where id = any (array(select r.id from gendurable.resumed r for update skip locked))
"""
EMPTY = (
    "truncate gendurable.instance, gendurable.signal, gendurable.signal_seen, gendurable.watch, "
    "gendurable.queue_name, gendurable.paused_queue, gendurable.key_limit, gendurable.renewal, gendurable.upkeep, "
    "gendurable.doubtful_key, gendurable.schedule, gendurable.ended_parent, "
    "gendurable.bucket, gendurable.rate_limit, gendurable.hold, gendurable.step, gendurable.error, "
    "gendurable.attribute, gendurable.history, gendurable.history_left, gendurable.journal, "
    "gendurable.audit, gendurable.paused_machine, gendurable.resumed, "
    "gendurable.worker, gendurable.draining, gendurable.minute_count"
)


class World:
    def __init__(self, connect: Any, workers: list[str]) -> None:
        # A worker that waits for a lock breaks a promise; a client may wait, here for a moment only.
        self.admin: psycopg.Connection[Any] = connect(row_factory=tuple_row)
        self.client: psycopg.Connection[Any] = connect(row_factory=dict_row, options="-c lock_timeout=20ms")
        self.holders = [
            connect(row_factory=dict_row, autocommit=False, options="-c lock_timeout=20ms") for _ in range(2)
        ]
        self.workers = {n: connect(row_factory=dict_row, options="-c lock_timeout=1s") for n in workers}

        options = json.dumps(
            {"timeouts": {step: seconds * 1000 for step, seconds in TIMEOUTS.items()}, "history": "states"}
        )
        self.admin.execute("select gd_register('m', 1, 'start', 'default', %s::jsonb)", (options,))

        # a vacuum that cuts an emptied table locks it for a moment, which is nobody's open transaction
        for table in SHIFTED:
            self.admin.execute(f"alter table gendurable.{table} set (autovacuum_enabled = off)".encode())

    def clean(self) -> None:
        for conn in self.holders:
            conn.rollback()
        self.admin.execute(EMPTY.encode())
        self.model = Model()
        for name, rate in RATES.items():
            self.admin.execute(SET_RATE.encode(), (name, *SETTINGS[rate]))
            self.model.rates[name] = rate
        self.shifted = 0
        self.forget_floors()

    def forget_floors(self) -> None:
        """The next claims scan in full, as they do about once a second."""
        for conn in self.workers.values():
            conn.execute("select set_config('gendurable.floor', '', false)")
        self.admin.execute(NOTES.encode())

    def now(self) -> int:
        row = self.admin.execute(f"select {US.format('clock_timestamp()')}".encode()).fetchone()
        assert row is not None
        return int(row[0]) + self.shifted

    def ask(self, conn: psycopg.Connection[Any], query: str, *args: Any) -> tuple[list[dict[str, Any]], Change]:
        """Call a function: its rows, and a transaction of the model with the time at which it ran."""
        before = self.now()
        # a list of names is an array, everything else that has structure is JSON
        ready = [
            json.dumps(a)
            if isinstance(a, dict) or (isinstance(a, list) and not all(isinstance(x, str) for x in a))
            else a
            for a in args
        ]
        rows = conn.execute(query.encode(), ready).fetchall()
        return rows, Change(self.model, (before, self.now()))

    def real(self, moment: int) -> str:
        """That moment of the model's clock as the database has it now."""
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment - self.shifted)).isoformat()

    def pass_time(self, seconds: int) -> None:
        for table, columns in SHIFTED.items():
            back = ", ".join(f"{c} = {c} - interval '{seconds} seconds'" for c in columns)
            self.admin.execute(f"update gendurable.{table} set {back}".encode())
        self.admin.execute(LINES.encode(), (seconds,))
        self.shifted += seconds * SECOND
        self.forget_floors()

    # --- comparison

    def rows(self) -> dict[int, dict[str, Any]]:
        cursor = self.admin.cursor(row_factory=dict_row)
        return {r["id"]: r for r in cursor.execute(ROWS.encode()).fetchall()}

    def compare(self, loose: set[int]) -> None:
        """The committed rows are the model's. `loose`: rows that may or may not have got a contested unique key."""
        real = self.rows()
        assert real.keys() == self.model.rows.keys(), real.keys() ^ self.model.rows.keys()
        for number, got in real.items():
            row = self.model.rows[number]
            if number in loose and got["held"] in (None, row.unique_key):
                row.held = got["held"]
            if row.ended and got["barrier"] is None:
                row.barrier = None  # its parent has ended: the retention looks at it
            for name in (
                "status",
                "step",
                "state",
                "attempt",
                "crashes",
                "queue",
                "home",
                "priority",
                "key",
                "held",
                "awaits",
                "worker",
                "parent",
                "barrier",
                "result",
                "claim_no",
                "rate_limit",
                "weight",
                "paused",
            ):
                assert got[name] == getattr(row, name), (number, name, got[name], row)
            if row.status == "awaiting_children":
                assert got["pending"] == row.pending, (number, "pending", got["pending"], row)
            assert got["inbox"] == sorted(row.inbox), (number, "inbox", got["inbox"], row)
            assert got["journal"] == [kind for kind, _ in row.journal], (number, "journal", got["journal"], row)
            for name in ("at", "deadline", "lease", "finished", "expires", "timeout"):
                carries = name == "at" and row.ended
                setattr(row, name, self._narrow(row, name, None if carries else got[name]))

    def _narrow(self, row: Row, name: str, got: int | None) -> Span | None:
        span: Span | None = getattr(row, name)
        assert (got is None) == (span is None), (row.id, name, got, row)
        if got is None or span is None:
            return None
        moment = got + self.shifted
        assert span[0] <= moment <= span[1], (row.id, name, moment - span[0], moment - span[1], row)
        return moment, moment

    def check_invariants(self) -> None:
        for what, query in INVARIANTS.items():
            broken = self.admin.execute(query.encode()).fetchall()
            assert broken == [], (what, broken)
