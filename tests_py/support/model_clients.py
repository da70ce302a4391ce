"""The rules of clients and operators."""

from __future__ import annotations

from support.model import SECOND
from support.model_base import Base
from support.model_inputs import KEYS, QUEUES, SIGNALS, STEPS, UNIQUE, instance
from support.model_row import Row

ONE = """
select 0 as ord, n.id, n.id is not null as created
from gd_insert(
    'm', p_state => %s::jsonb, p_queue => %s, p_priority => %s, p_partition_key => %s, p_unique_key => %s,
    p_unique_scope => %s::text[], p_eligible_at => %s, p_delay => %s::float8 * interval '1 millisecond',
    p_max_attempts => %s, p_expires_at => clock_timestamp() + %s::float8 * interval '1 millisecond', p_rate_limit => %s,
    p_weight => coalesce(%s, 1)) n (id)
"""
ARGUMENTS = (
    "queue",
    "priority",
    "partition_key",
    "unique_key",
    "unique_scope",
    "eligible_at",
    "delay_ms",
    "max_attempts",
    "expires_ms",
    "rate_limit",
    "weight",
)


class Clients(Base):
    def insert(self) -> None:
        self.insert_now(self.chance.randint(1, 4), self.chance.once_in(2), self.hold())

    def insert_now(self, count: int, many: bool, hold: bool) -> None:
        specs = [instance(self.chance, self.token()) for _ in range(count if many else 1)]
        sent = [dict(s) for s in specs]
        if self.chance.once_in(4) and "delay_ms" not in specs[0]:
            moment = self.world.now() - 100 * SECOND
            specs[0]["at"] = (moment, moment)
            sent[0]["eligible_at"] = self.world.real(moment)
        unique = next((s["unique_key"] for s in sent if "unique_key" in s), None)
        called = (
            self.call(hold, "select * from gd_insert_many(%s::jsonb)", sent, unique=unique)
            if many
            else self.call(hold, ONE, sent[0]["state"], *map(sent[0].get, ARGUMENTS), unique=unique)
        )
        if called is None:
            return
        answer, change, finish = called
        assert [a["ord"] for a in answer] == list(range(len(sent)))
        for spec, got in zip(specs, answer, strict=True):
            scope = spec.get("unique_scope") or (None if "unique_scope" in spec else ["runnable"])
            wanted = spec.get("unique_key") if scope and "runnable" in scope else None
            holder = change.holder(wanted) if wanted else None
            assert got["created"] == (holder is None), (spec, got)
            if holder is None:
                change.insert(spec, got["id"])
            elif many:
                assert got["id"] == holder
        finish()

    def signal(self) -> None:
        hold, name = self.hold(), self.chance.choice(SIGNALS)
        dedup = self.chance.choice([None, None, None, "d"])
        key = self.chance.choice([None, None, None, *UNIQUE])
        target: Row | None
        if key is not None:
            target = next((r for r in self.model.rows.values() if r.held == key), None)
        else:
            target = self.some_row(lambda r: r.awaits is not None or r.status == "executing")
            if target is None:
                return
        if target is not None and target.awaits and self.chance.once_in(2):
            name = self.chance.choice(target.awaits)
        payload = {"tok": self.token()}
        called = self.call(
            hold,
            f"select gd_signal(%s{'::text' if key else '::bigint'}, %s, %s::jsonb, %s) as answer",
            key or (target and target.id),
            name,
            payload,
            dedup,
            rows=[target] if target else [],
        )
        if called is None:
            return
        [answer], change, finish = called
        if target is None or target.ended:
            assert answer["answer"] == "no_target"
        elif dedup in target.seen:
            assert answer["answer"] == "duplicate"
        else:
            assert answer["answer"] == "delivered"
            sent = self._sent(target.id, hold)
            change.deliver(target.id, sent, name, payload, dedup)
        finish()

    def _sent(self, target: int, hold: bool) -> int:
        """The id of the signal that was sent last; an open transaction sees its own."""
        query = "select max(id) as id from gendurable.signal where instance_id = %s"
        free = [c for c in self.world.holders if all(o.conn is not c for o in self.open)]
        row = (free[0] if hold and free else self.world.client).execute(query, (target,)).fetchone()
        return int(row["id"])

    def cancel(self) -> None:
        hold, cascade, reason = self.hold(), self.chance.once_in(2), self.chance.choice([None, "why"])
        row = self.some_row(lambda r: not r.ended)
        if row is None:
            return
        tree = self.model.tree(row.id) if cascade else [row.id]
        called = self.call(
            hold,
            "select gd_cancel(%s, %s, %s) as answer",
            row.id,
            reason,
            cascade,
            rows=[self.model.rows[n] for n in tree],
        )
        if called is None:
            return
        [answer], change, finish = called
        assert answer["answer"] == (not row.ended)
        if not row.ended:
            change.cancel(tree, reason)
        finish()

    def retry(self) -> None:
        hold, to = self.hold(), self.chance.choice([None, "again"])
        row = self.some_row(lambda r: r.status in ("failed", "cancelled"))
        if row is None:
            return
        state = {"tok": self.token()} if to else None
        to = None if row.journal else to  # a flow has no steps to go to
        called = self.call(hold, "select gd_retry(%s, %s, %s::jsonb) as answer", row.id, to, state, rows=[row])
        if called is None:
            return
        [answer], change, finish = called
        free = not row.in_scope("runnable") or change.holder(str(row.unique_key)) in (None, row.id)
        assert answer["answer"] == (row.status in ("failed", "cancelled") and free), row
        if answer["answer"]:
            change.retry(row.id, to, state)
        finish()

    def reschedule(self) -> None:
        hold, seconds = self.hold(), self.chance.choice([-30, 0, 30])
        row = self.some_row(lambda r: r.waits)
        if row is None:
            return
        at = self.world.now() + seconds * SECOND
        called = self.call(
            hold, "select gd_reschedule(%s, %s::timestamptz) as answer", row.id, self.world.real(at), rows=[row]
        )
        if called is None:
            return
        [answer], change, finish = called
        assert answer["answer"] == row.waits
        if row.waits:
            change.reschedule(row.id, at)
        finish()

    def pause_or_resume(self) -> None:
        self.pause_now(self.chance.choice(QUEUES), self.chance.once_in(3))

    def pause_now(self, queue: str, pause: bool) -> None:
        called = self.call(False, f"select gd_{'pause' if pause else 'resume'}_queue(%s)", queue)
        if called is not None:
            (self.model.paused.add if pause else self.model.paused.discard)(queue)

    def route_a_step(self) -> None:
        step, queue = self.chance.choice(["start", *STEPS]), self.chance.choice([None, *QUEUES])
        if queue is None and self.chance.once_in(2):
            called = self.call(False, "select gd_drop_step('m', %s)", step)
        else:
            options = {} if queue is None else {"queue": queue}
            called = self.call(False, "select gd_define_step('m', %s, p_options => %s)", step, options)
        if called is not None:
            self.model.routes.pop(step, None)
            if queue is not None:
                self.model.routes[step] = queue

    def limit_a_key(self) -> None:
        prefix, limit = self.chance.choice([*KEYS, "c"]), self.chance.choice([None, 1, 2, 3])
        if self.call(False, "select gd_set_key_limit(%s, %s::int)", prefix, limit) is not None:
            self.model.limits.pop(prefix, None)
            if limit is not None:
                self.model.limits[prefix] = limit

    def hold_a_key(self) -> None:
        if len(self.open) == len(self.world.holders):
            return
        key = self.chance.choice(KEYS)
        called = self.call(
            True, "select pg_advisory_xact_lock(gendurable._key_lock(%s))", key, rows=self.model.executing(key)
        )
        if called is not None:
            called[2]()
            self.open[-1].keys.add(key)

    def end_a_transaction(self) -> None:
        if self.open:
            self.close(self.chance.randrange(len(self.open)), self.chance.once_in(2))
