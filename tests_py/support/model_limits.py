"""The rules of rate limits and of the hold on everything, and what a claim has paid.

Whose turn it is among the rows of a line, and which of several lines goes first, is not modelled: only that no more
starts than there are tokens for, and that all starts for which there are enough.
"""

from __future__ import annotations

from typing import Any

import psycopg
from support.model import Change
from support.model_base import Base
from support.model_inputs import RATES
from support.model_world import SET_RATE, SETTINGS

LOST = "select id from gendurable.instance where id = any(%s) and status = 'runnable' and bucket_at is not null"


class Limits(Base):
    def set_a_rate_limit(self) -> None:
        self.set_rate_now(self.chance.choice(list(RATES)), self.chance.choice(["open", "tight", "tight", "shut"]))

    def set_rate_now(self, name: str, rate: str) -> None:
        if self.call(False, SET_RATE, name, *SETTINGS[rate]) is not None:
            self.model.set_rate(name, rate)

    def hold_or_release(self) -> None:
        self.hold_now(self.chance.once_in(3))

    def hold_now(self, hold: bool) -> None:
        query = "select gd_hold_all('model') as answer" if hold else "select gd_release_hold() as answer"
        called = self.call(False, query)
        if called is not None:
            assert hold or called[0][0]["answer"] == self.model.held
            self.model.held = hold

    def gave_up_for_tokens(self, change: Change, conn: psycopg.Connection[Any]) -> None:
        """Follow what a claim has done with rows whose worker was lost: behind a line, or without tokens, they wait."""
        could = [
            r
            for r in (change.look(n) for n in self.model.rows)
            if r is not None and r.rate_limit and r.status == "executing" and r.lease and r.lease[0] <= change.now[1]
        ]
        if not could:
            return
        for got in conn.execute(LOST, ([r.id for r in could],)).fetchall():
            row = change.row(got["id"])
            before = row.at
            change.give_back(row.id, 0, True)
            if row.key is None and before is not None:
                row.at = before[0], change.now[1]  # its place in the line
            self.contested()

    def paid(self, change: Change) -> None:
        """No more has started than there were tokens for."""
        wanted: dict[str, float] = {}
        for bucket, weight in change.taken:
            wanted[bucket] = wanted.get(bucket, 0) + weight
        for bucket, weight in wanted.items():
            assert self.model.rates[bucket.partition(":")[0]] != "shut", ("a limit that gives nothing", bucket)
            assert weight <= self.model.left(bucket) + 0.01, (bucket, weight, self.model.left(bucket))
