"""The rules of workers: claims and outcomes. None of these calls may wait for a client's open transaction."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
from support.model import CRASH_CAP, SECOND, Change
from support.model_base import Rows
from support.model_inputs import BAD, BAD_WITHIN, QUEUES, WORKERS
from support.model_inputs import journal as any_journal
from support.model_inputs import outcome as any_outcome
from support.model_outbox import Outbox
from support.model_pauses import Pauses
from support.model_row import Row

LEASE = 60 * SECOND
STANDS = "select id, status::text, crashes, last_error from gendurable.instance where id = any(%s)"


class Workers(Outbox, Pauses):
    # --- claims

    def claim(self) -> None:
        name, queue, limit = self.chance.choice(WORKERS), self.chance.choice(QUEUES), self.chance.choice([1, 2, 3, 50])
        if len(self.open) < len(self.world.holders) and self.chance.once_in(6):
            self.claim_slowly(name, queue, limit)
        else:
            self.claim_now(name, queue, limit)

    def claim_many(self) -> None:
        name = self.chance.choice(WORKERS)
        limits = {q: self.chance.randrange(5) for q in QUEUES}
        rows, change = self.world.ask(
            self.world.workers[name], "select * from gd_claim_many(%s, %s::jsonb)", name, limits
        )
        got = Counter(r["queue"] for r in rows)
        assert all(got[q] <= limits[q] for q in QUEUES)
        self.took(name, rows, change, self.world.workers[name])
        change.apply()

    def claim_slowly(self, name: str, queue: str, limit: int) -> None:
        """The transaction of a claim stays open; nobody knows what it has locked."""
        called = self.call(True, "select * from gd_claim(%s, %s, %s)", name, queue, limit, everything=True)
        if called is not None:
            rows, change, finish = called
            finish()
            self.took(name, rows, change, self.open[-1].conn)

    def claim_now(self, name: str, queue: str, limit: int) -> int:
        rows, change = self.world.ask(
            self.world.workers[name], "select * from gd_claim(%s, %s, %s)", name, queue, limit
        )
        assert len(rows) <= limit
        taken = [r for r in map(self.model.rows.get, [r["id"] for r in rows]) if r is not None]
        order = [r.priority for r in taken]
        assert order == sorted(order), taken
        assert all(r["queue"] == queue for r in rows)
        self.took(name, rows, change, self.world.workers[name])
        change.apply()
        return len(rows)

    def took(self, name: str, rows: Rows, change: Change, conn: psycopg.Connection[Any]) -> None:
        """Check what a claim handed out, and why it could."""
        if len(rows) > 1 or self.open:
            self.contested()
        before, after = change.now
        assert not (rows and self.model.held), "all is held"
        self.ended_by_clock(change, conn)
        self.gave_back_paused(change, conn)
        self.gave_up_for_tokens(change, conn)
        taken = {r["id"] for r in rows}
        assert len(taken) == len(rows)
        free: dict[str, int] = {}
        line: dict[str, list[int]] = {}
        for key in {r["partition_key"] for r in rows} - {None}:
            holders = [r for r in self.model.executing(key) if change.look(r.id).status == "executing"]  # type: ignore[union-attr]
            free[key] = self.model.limit(key) - len(holders)
            line[key] = [
                r.id
                for r in self.model.waiting(key, before)
                if not change.look(r.id).ended  # type: ignore[union-attr]
            ]
        for got in rows:
            row = change.row(got["id"])
            assert row.queue not in self.model.paused and not self.model.stopped(row), "it was paused"
            if row.status == "executing":
                assert row.lease is not None and row.lease[0] <= after, "its claim is live"
                assert row.over(change.now) is not True, "its time was up"
                assert row.crashes + 1 < CRASH_CAP
            else:
                assert row.waits and row.at is not None and row.at[0] <= after, "it was not due"
                assert row.over(change.now) is not True, "its deadline has passed"
                assert row.rests is None or row.rests[0] <= after, "it was given back for longer"
                if row.key is not None:
                    # one that comes to be due in the course of the call goes before those of a later priority
                    ahead = (
                        line[row.key].index(row.id)
                        if row.id in line[row.key]
                        else sum(n not in taken and self.model.rows[n].priority <= row.priority for n in line[row.key])
                    )
                    assert ahead < free[row.key], ("out of turn", row.id, line[row.key], free[row.key])
            assert got["claim_no"] > row.claim_no
            self.presented(got, change.claim(row.id, got["claim_no"], name, LEASE), change)
            self.claims[name][row.id] = got["claim_no"]
        self.paid(change)

    def presented(self, got: dict[str, Any], row: Row, change: Change, slim: bool = False) -> None:
        """``slim``: to a worker that has it in memory, what is new of it."""
        if slim:
            assert got.keys() - {"halted"} == {"id", "claim_no", "step", "attempt", "signals", "attributes"}
            assert (got["step"], got["attempt"]) == (row.step, row.attempt)
            signals = [(s["id"], (s["name"], s["payload"])) for s in got["signals"]]
            assert signals == sorted(row.inbox.items())
            return
        same = {"step": row.step, "state": row.state, "attempt": row.attempt, "queue": row.queue, "fsm": "m"}
        same |= {"partition_key": row.key, "unique_key": row.unique_key, "parent_id": row.parent, "awaits": row.awaits}
        assert {k: got[k] for k in same} == same
        signals = [(s["id"], (s["name"], s["payload"])) for s in got["signals"]]
        assert signals == sorted(row.inbox.items())
        if row.deadline is None or row.deadline[0] > change.now[1]:
            assert not got["timed_out"]
        elif row.deadline[1] <= change.now[0]:
            assert got["timed_out"]
        numbers = {*change.rows, *self.model.rows}
        children = sorted(n for n in numbers if (c := change.look(n)) is not None and c.parent == row.id)
        assert [c["id"] for c in got["childs"]] == children
        for child in got["childs"]:
            known = change.look(child["id"])
            assert known is not None and child["state"] == known.state and child["result"] == known.result

    def ended_by_clock(self, change: Change, conn: psycopg.Connection[Any]) -> int:
        """Follow what the call has done with rows past a deadline, a timeout or the crash cap: how many."""
        after = change.now[1]
        could = [
            r
            for r in self.model.rows.values()
            if not r.ended and ((r.lease is not None and r.lease[0] <= after) or (r.expires and r.expires[0] <= after))
        ]
        found = conn.execute(STANDS, ([r.id for r in could],)).fetchall() if could else []
        real = {r["id"]: r for r in found}
        count = 0
        for row in could:
            got = real[row.id]
            error = got["last_error"] or ""
            if got["status"] == "failed" and error.startswith("expired at"):
                assert row.expires is not None and row.expires[0] <= after, "it had not expired"
                change.end(row.id, "failed", None)
            elif row.status != "executing" or got["status"] not in ("failed", "runnable"):
                continue
            elif error.startswith("timed out") and got["crashes"] == row.crashes:
                assert row.timeout is not None and row.timeout[0] <= after, "its time was not up"
                change.time_out(row.id)
            elif got["status"] == "failed":
                assert row.crashes + 1 >= CRASH_CAP, "it had not crashed so often"
                change.end_crashed(row.id)
                change.row(row.id).error = None
            else:
                continue
            count += 1
        if count:
            self.contested()
        return count

    # --- outcomes

    def commit(self) -> None:
        self.commit_some(self.some_worker(), self.chance.randint(1, 4))

    def work(self) -> None:
        """What most workers do all day."""
        name, count = self.chance.choice(WORKERS), self.chance.randint(1, 4)
        self.claim_now(name, self.chance.choice(QUEUES), count)
        self.commit_some(name, count)

    def commit_some(self, name: str, count: int) -> None:
        held = self.held(name)
        if not held:
            return
        twice = self.chance.once_in(6)
        chosen = self.chance.choices(held, k=count) if twice else self.chance.sample(held, min(count, len(held)))
        self.commit_now(name, [self.outcome(*claim) for claim in chosen])

    def held(self, name: str) -> list[tuple[int, int]]:
        """The worker's claims; mostly those that still stand."""
        claims = sorted(self.claims[name].items())
        stand = [c for c in claims if (r := self.model.rows.get(c[0])) is not None and r.lease and r.claim_no == c[1]]
        return claims if self.chance.once_in(6) else stand

    def outcome(self, number: int, claim_no: int) -> dict[str, Any]:
        row = self.model.rows.get(number)
        inbox = sorted(row.inbox) if row else []
        drawn = {"id": number, "claim_no": claim_no, **any_outcome(self.chance, self.token())}
        if self.bad(drawn):
            return drawn
        if row is not None and self.chance.once_in(3):
            drawn["journal"] = any_journal(self.chance, self.token(), len(row.journal), drawn["kind"])
        used = self.chance.choice([inbox, inbox[:1], inbox[-1:], []])
        return self.with_signals({**drawn, "consume": used} if used else drawn)

    def bad(self, drawn: dict[str, Any], kinds: list[dict[str, Any]] = BAD) -> bool:
        return {k: v for k, v in drawn.items() if k not in ("id", "claim_no")} in kinds

    def commit_now(self, name: str, batch: list[dict[str, Any]]) -> None:
        rows, change = self.world.ask(self.world.workers[name], "select * from gd_commit(%s, %s::jsonb)", name, batch)
        assert [r["ord"] for r in rows] == list(range(len(batch)))
        if len(batch) > 1 or self.open:
            self.contested()
        rejects = any(r["result"] == "rejected" for r in rows)
        seen = set()
        accepted: list[tuple[dict[str, Any], Any]] = []
        for outcome, got in zip(batch, rows, strict=True):
            claim = (outcome["id"], outcome["claim_no"])
            row = self.model.rows.get(outcome["id"])
            live = row is not None and row.status == "executing" and row.claim_no == outcome["claim_no"]
            over = row.over(change.now) if row is not None else False
            assert (got["id"], got["claim_no"]) == claim
            bad = self.bad(outcome)
            unread = bad and not self.bad(outcome, BAD_WITHIN)
            if got["result"] == "busy":
                assert row is not None and live and self.open, ("busy", outcome)
                names = self.wanted_keys(outcome)
                assert any(map(self.touched, [row, *self.targets(outcome)])) or any(
                    o.everything or outcome.get("partition_key") in o.keys or names & o.unique for o in self.open
                ), ("busy", outcome, self.open)
            elif unread:
                assert got["result"] == "rejected", (outcome, got)
            elif not live or claim in seen or over or (over is None and got["result"] == "stale"):
                assert got["result"] == "stale", (outcome, got)
            elif bad:
                assert got["result"] == "rejected", (outcome, got)
            else:
                assert row is not None
                assert got["result"] == "ok", (outcome, got)
                self.committed(name, row, outcome, got["detail"], change, len(batch) > 1, rejects)
                accepted.append((outcome, got["detail"]))
            seen.add(claim)
        some = [outcome for outcome, _ in accepted]
        self.empty_outboxes(some, change, self.world.client, len(batch) > 1 or bool(self.open))
        for outcome, detail in accepted:
            if detail:
                self.presented(detail, change.row(outcome["id"]), change, slim="journal" in outcome)
        change.apply()

    def committed(
        self, name: str, row: Row, outcome: dict[str, Any], detail: Any, change: Change, batched: bool, rejects: bool
    ) -> None:
        children: list[int | None] = []
        if outcome["kind"] == "schedule_childs":
            children = self.created(row, outcome["childs"], change, batched or bool(self.open))
        kept = detail["claim_no"] if detail else None
        may = (
            outcome.get("keep") is True
            and "delay_ms" not in outcome
            and "partition_key" not in outcome
            and "rate_limit" not in outcome
            and (row.pending is None or "journal" in outcome)
            and not self.model.held
            and self.model.routes.get(outcome["step"], outcome.get("queue", row.home or row.queue)) == row.queue
            and outcome.get("priority", row.priority) == row.priority
            and row.queue not in self.model.paused
            and not self.model.stopped(row, outcome["step"])
        )
        crowded = row.key is not None and self.model.waiting(row.key, change.now[0]) != []
        maybe_crowded = row.key is not None and self.model.waiting(row.key, change.now[1], paused=True) != []
        if kept is not None:
            assert may and (not crowded or rejects or self.open or "journal" in outcome)
            assert kept > row.claim_no
            self.claims[name][row.id] = kept
        elif not (rejects or self.open or maybe_crowded):
            assert not may, "a claim was not kept"
        change.commit(outcome, children, kept, LEASE)
        if detail:
            change.row(row.id).worker = name

    def created(self, row: Row, specs: list[dict[str, Any]], change: Change, contested: bool) -> list[int | None]:
        query = "select id, (state ->> 'tok')::int as tok from gendurable.instance where parent_id = %s"
        new = {r["tok"]: r["id"] for r in self.world.client.execute(query, (row.id,)).fetchall()}
        taken: set[str] = set()
        for spec in specs:
            scope = spec.get("unique_scope", ["runnable"])
            wanted = spec.get("unique_key") if "runnable" in scope else None
            free = wanted is None or (wanted not in taken and change.holder(wanted) is None)
            if not contested or wanted is None:
                assert (spec["state"]["tok"] in new) == free, (spec, new)
            if wanted is not None:
                taken.add(wanted)
        return [new.get(spec["state"]["tok"]) for spec in specs]

    def commit_one(self) -> None:
        name, hold = self.some_worker(), self.hold()
        held = self.held(name)
        if not held:
            return
        outcome = self.outcome(*self.chance.choice(held))
        outcome.pop("keep", None)
        bad = self.bad(outcome)
        row = self.model.rows.get(outcome["id"])
        keys = [outcome["partition_key"]] if outcome.get("partition_key") else []
        live = row is not None and row.status == "executing" and row.claim_no == outcome["claim_no"]
        try:
            concerned = [*([row] if row else []), *self.targets(outcome)]
            called = self.call(hold, "select gd_commit_one(%s, %s::jsonb)", name, outcome, rows=concerned)
        except psycopg.DatabaseError as error:
            for conn in self.world.holders:
                if conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                    conn.rollback()
            late = row is not None and (row.expires is not None or row.timeout is not None)
            lost = error.sqlstate == "GD505" and (not live or late)
            if lost or (bad and error.sqlstate in ("GD501", "GD502")):
                return
            raise
        if called is None:
            return
        assert row is not None and live and not bad
        _, change, finish = called
        children: list[int | None] = []
        if outcome["kind"] == "schedule_childs":
            children = self.created_by_one(row, outcome["childs"], change, hold)
        change.commit(outcome, children, None, LEASE)
        self.empty_outboxes([outcome], change, self.seen_by_one(hold), bool(self.open))
        before = len(self.open)
        finish()
        if len(self.open) > before:
            self.open[-1].keys.update(keys)
            self.open[-1].unique |= self.wanted_keys(outcome)

    def created_by_one(self, row: Row, specs: list[dict[str, Any]], change: Change, hold: bool) -> list[int | None]:
        client, self.world.client = self.world.client, self.seen_by_one(hold)
        try:
            return self.created(row, specs, change, bool(self.open))
        finally:
            self.world.client = client

    def seen_by_one(self, hold: bool) -> psycopg.Connection[Any]:
        """Who sees what a call has done that may have been left open."""
        free = [c for c in self.world.holders if all(o.conn is not c for o in self.open)]
        return free[0] if hold and free else self.world.client
