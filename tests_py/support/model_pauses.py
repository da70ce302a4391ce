"""The rules of pauses: of instances, and of the machine, its versions and its steps.

That a claim sets rows aside is not modelled: a paused row is a row that nobody may hand out, at the place that it has.
"""

from __future__ import annotations

from typing import Any

import psycopg
from support.model import Change
from support.model_base import Base
from support.model_inputs import STEPS

BACK = "select id from gendurable.instance where id = any(%s) and status = 'runnable'"


class Pauses(Base):
    def pause_or_resume_one(self) -> None:
        pause, hold = self.chance.once_in(2), self.hold()
        row = self.some_row(lambda r: not r.ended and r.paused != pause)
        if row is None:
            return
        called = self.call(hold, f"select gd_{'pause' if pause else 'resume'}(%s) as answer", row.id, rows=[row])
        if called is None:
            return
        [answer], change, finish = called
        assert answer["answer"] == (not row.ended and row.paused != pause)
        if answer["answer"]:
            change.row(row.id).paused = pause
        finish()

    def pause_or_resume_machine(self) -> None:
        where = self.chance.choice([None, None, 1, 2]), self.chance.choice([None, "start", *STEPS])
        self.pause_machine_now(where, self.chance.once_in(3))

    def pause_machine_now(self, where: tuple[int | None, str | None], pause: bool) -> None:
        query = f"select gd_{'pause' if pause else 'resume'}_machine('m', %s, %s) as answer"
        called = self.call(False, query, *where)
        if called is not None:
            assert called[0][0]["answer"] == ((where in self.model.stops) != pause)
            (self.model.stops.add if pause else self.model.stops.discard)(where)

    def nothing_is_paused(self) -> None:
        for where in list(self.model.stops):
            self.pause_machine_now(where, False)
        for row in self.model.rows.values():
            if row.paused:
                self.world.client.execute("select gd_resume(%s)", (row.id,))
                row.paused = False

    def gave_back_paused(self, change: Change, conn: psycopg.Connection[Any]) -> None:
        """Follow what a claim has done with paused rows whose worker was lost: they are runnable, and wait."""
        after = change.now[1]
        could = [
            r
            for r in (change.look(n) for n in self.model.rows)
            if r is not None and r.status == "executing" and r.lease and r.lease[0] <= after and self.model.stopped(r)
        ]
        if not could:
            return
        for got in conn.execute(BACK, ([r.id for r in could],)).fetchall():
            change.give_back(got["id"], 0, True)
            self.contested()
