"""What the chance of a flow is drawn from: the same wherever and how often it runs, and another for each flow."""

from __future__ import annotations

import hashlib

from ..machine.claim import ClaimRow


def first(identity: str | None, row: ClaimRow) -> str:
    """Of a flow that has no journal yet, in the database of this identity."""
    return _draw(f"{identity} {row.fsm} {row.id}")


def following(seed: str) -> str:
    """Of a flow that begins anew."""
    return _draw(f"{seed} again")


def _draw(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
