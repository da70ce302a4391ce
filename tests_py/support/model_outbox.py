"""The outbox of outcomes: what they insert and what they tell others, behind all rows of their batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from support.model import Change
from support.model_inputs import sends
from support.model_limits import Limits
from support.model_row import Row

MADE = "select id, (state ->> 'tok')::int as tok from gendurable.instance where (state ->> 'tok')::int = any(%s)"
SENT = """
select s.id, s.instance_id, (s.payload ->> 'tok')::int as tok
from gendurable.signal s
where (s.payload ->> 'tok')::int = any(%s)
"""


class Outbox(Limits):
    def with_signals(self, drawn: dict[str, Any]) -> dict[str, Any]:
        if drawn["kind"] == "error" or not self.chance.once_in(3):
            return drawn
        ids = sorted(r.id for r in self.model.rows.values() if r.awaits is not None or self.chance.once_in(3))
        return {**drawn, "signal": sends(self.chance, self.token(), [*ids, drawn["id"]])}

    def targets(self, outcome: dict[str, Any]) -> list[Row]:
        """The rows that its signals go to as it stands; they may not be held by others."""
        found = []
        for one in outcome.get("signal", ()):
            holder = (
                self.model.rows.get(one["id"])
                if "id" in one
                else next((r for r in self.model.rows.values() if r.held == one["unique_key"]), None)
            )
            found += [holder] if holder is not None else []
        return found

    def wanted_keys(self, outcome: dict[str, Any]) -> set[str]:
        """Unique keys that its new instances would take, or that tell it whom it signals."""
        news = [*outcome.get("childs", ()), *outcome.get("insert", ()), *outcome.get("signal", ())]
        return {one["unique_key"] for one in news if isinstance(one.get("unique_key"), str)} - {""}

    def empty_outboxes(
        self, outcomes: Iterable[dict[str, Any]], change: Change, conn: psycopg.Connection[Any], contested: bool
    ) -> None:
        """All inserts of the batch, then all signals. Where a unique key is contested, who has got it is read there."""
        outcomes = list(outcomes)
        news = [spec for one in outcomes for spec in one.get("insert", ())]
        made = self._found(conn, MADE, [spec["state"]["tok"] for spec in news])
        for spec in news:
            scope = spec.get("unique_scope", ["runnable"])
            wanted = spec.get("unique_key") if "runnable" in scope else None
            got = made.get(spec["state"]["tok"])
            if wanted is None or not contested:
                assert (got is not None) == (wanted is None or change.holder(wanted) is None), (spec, made)
            if got is not None:
                change.insert(spec, got["id"])
        letters = [one for outcome in outcomes for one in outcome.get("signal", ())]
        sent = self._found(conn, SENT, [one["payload"]["tok"] for one in letters])
        for one in letters:
            self._delivered(one, sent.get(one["payload"]["tok"]), change, contested)

    def _delivered(self, one: dict[str, Any], got: dict[str, Any] | None, change: Change, contested: bool) -> None:
        by_key = "unique_key" in one
        target = change.holder(one["unique_key"]) if by_key else one["id"]
        if by_key and contested:
            target = None if got is None else got["instance_id"]
        row = None if target is None else change.look(target)
        arrives = row is not None and not row.ended and one.get("dedup_key") not in row.seen
        assert (got is not None) == arrives, (one, got, row)
        if got is not None:
            assert got["instance_id"] == target, (one, got, target)
            change.deliver(target, got["id"], one["name"], one["payload"], one.get("dedup_key"))

    def _found(self, conn: psycopg.Connection[Any], query: str, tokens: list[int]) -> dict[int, dict[str, Any]]:
        rows = conn.execute(query.encode(), (tokens,)).fetchall() if tokens else []
        return {row["tok"]: row for row in rows}
