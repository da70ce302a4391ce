"""The rules of leases: they are renewed, given back, lost and taken back. None of these calls waits for a client."""

from __future__ import annotations

from typing import Any

import psycopg
from support.model import SECOND
from support.model_inputs import QUEUES, WORKERS
from support.model_row import Row, nearest
from support.model_workers import Workers


class Leases(Workers):
    def heartbeat(self) -> None:
        name = self.some_worker()
        claims = [list(c) for c in self.claims[name].items()]
        if not claims:
            return
        rows, change = self.world.ask(
            self.world.workers[name], "select * from gd_heartbeat(%s, %s::jsonb, '120 s')", name, claims
        )
        lost = {r["id"] for r in rows}
        for number, claim_no in claims:
            row = self.model.rows.get(number)
            live = row is not None and row.status == "executing" and row.claim_no == claim_no
            over = row.over(change.now) if row is not None else False
            assert (number in lost) == (not live or over is True) or over is None, (number, row)
            if row is not None and live and number not in lost:
                old, lease = row.lease, nearest(change.after(120 * SECOND), row.timeout, row.expires)
                assert old is not None and lease is not None
                # a row that is locked is not lost, and is renewed beside it or not: also in the eyes of who locked it
                change.row(number).lease = (min(old[0], lease[0]), lease[1]) if self.touched(row) else lease
                for other in (o.change.rows.get(number) for o in self.open if o.change is not None):
                    if other is not None and other.lease is not None:
                        other.lease = change.row(number).lease
        change.apply()

    def release(self) -> None:
        name, everything, delay = self.some_worker(), self.chance.once_in(3), self.chance.choice([0, 0, 30])
        claims = [list(c) for c in sorted(self.claims[name].items()) if self.chance.once_in(2)]
        rows, change = self.world.ask(
            self.world.workers[name],
            "select gd_release(%s, %s::jsonb, %s * interval '1 second') as count",
            name,
            None if everything else claims if claims else "[]",
            delay,
        )
        mine = [
            r
            for r in self.model.rows.values()
            if r.status == "executing" and r.worker == name and (everything or [r.id, r.claim_no] in claims)
        ]
        back = self.left_execution(mine, self.world.client)
        assert len(back) == rows[0]["count"]
        self.contested()
        for row in mine:
            over = row.over(change.now)
            assert row.id not in back or not over, ("given back too late", row)
            assert row.id in back or self.touched(row) or over is not False, ("not given back", row)
        for number in back:
            change.give_back(number, delay * SECOND, False)
        change.apply()

    def left_execution(self, rows: list[Row], conn: psycopg.Connection[Any]) -> list[int]:
        query = "select id from gendurable.instance where status = 'runnable' and id = any(%s)"
        return sorted(r["id"] for r in conn.execute(query, ([r.id for r in rows],)).fetchall())

    def reap(self) -> None:
        self.reap_now(self.chance.choice(WORKERS), self.chance.once_in(2))

    def reap_now(self, name: str, maintain: bool) -> None:
        conn = self.world.workers[name]
        if maintain:
            answer, change = self.world.ask(conn, "select gd_maintain() as done")
            assert answer[0]["done"]["ran"] and answer[0]["done"]["repaired"] == 0, answer
            count = answer[0]["done"]["reaped"] + answer[0]["done"]["expired"]
        else:
            answer, change = self.world.ask(conn, "select gd_reap() as count")
            count = answer[0]["count"]
        before, after = change.now
        expired = [r for r in self.model.rows.values() if r.status == "executing" and r.lease and r.lease[0] <= after]
        ended = self.ended_by_clock(change, conn)
        back = [n for n in self.left_execution(expired, conn) if n not in change.rows]
        assert len(back) + ended == count
        for row in self.model.rows.values() if maintain else ():
            gone = row.expires is not None and not row.ended and row.expires[1] <= before
            assert not gone or change.row(row.id).ended or self.touched(row), ("not ended", row)
        self.contested()
        for row in expired:
            assert row.id in back or row.id in change.rows or row.lease[1] > before or self.touched(row), (
                "not reaped",
                row,
            )
        for number in back:
            change.give_back(number, 0, True)
        change.apply()

    def crash(self) -> None:
        """The process is gone, its leases are not."""
        self.claims[self.some_worker()].clear()

    def lose_a_worker(self) -> None:
        """It is gone for longer than its leases, and another one claims."""
        self.crash()
        if not self.open:
            self.world.pass_time(65)
        for queue in QUEUES:
            self.claim_now(self.chance.choice(WORKERS), queue, self.chance.choice([2, 50]))

    def has_crashed_often(self) -> None:
        crashes = self.chance.choice([18, 19])
        row = self.some_row(lambda r: r.status == "executing")
        if not self.open and row is not None and row.status == "executing":
            self.world.admin.execute("update gendurable.instance set crashes = %s where id = %s", (crashes, row.id))
            row.crashes = crashes
