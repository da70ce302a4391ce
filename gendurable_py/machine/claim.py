"""A claimed row as it comes over the wire: where a run of a step begins.

Both sides count its columns: `CLAIMED` asks for them in the order of the fields.
"""

from __future__ import annotations

from typing import LiteralString, NamedTuple

CLAIMED: LiteralString = (
    "id, claim_no, fsm, fsm_version, step, state::text, attempt, queue, partition_key, unique_key, parent_id, "
    "awaits, timed_out, signals::text, childs::text, meta::text, attributes::text"
)


class ClaimRow(NamedTuple):
    """A claimed row. The JSON columns stay text until a step looks at them."""

    id: int
    claim_no: int
    fsm: str
    version: int
    step: str
    state: str
    attempt: int
    queue: str
    partition_key: str | None
    unique_key: str | None
    parent_id: int | None
    awaits: list[str] | None
    timed_out: bool
    signals: str
    childs: str
    meta: str
    attributes: str

    def renewed(self, new: ClaimRow | int, step: str) -> ClaimRow:
        """The next claim of a flow in memory: what the server says of a claim with a journal that is kept is what is
        new of it, ``new``, or its number alone; it stands at ``step`` then. Its state has been read."""
        if isinstance(new, int):
            claim_no, attempt, signals, attributes = new, 0, "[]", self.attributes
        else:
            claim_no, attempt, signals, attributes = new.claim_no, new.attempt, new.signals, new.attributes
            step = new.step
        # Not by the class, which names all of these once more.
        return tuple.__new__(
            ClaimRow,
            (
                self.id,
                claim_no,
                self.fsm,
                self.version,
                step,
                "",
                attempt,
                self.queue,
                self.partition_key,
                self.unique_key,
                self.parent_id,
                None,
                False,
                signals,
                "[]",
                self.meta,
                attributes,
            ),
        )
