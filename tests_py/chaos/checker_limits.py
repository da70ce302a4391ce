"""Rate limits: never more than burst + rate * T in any time, whoever is killed and whatever is lost."""

from __future__ import annotations

from collections.abc import Iterator

from support.limits import Start, excess

from .machines import BURST, RATE
from .records import Record

# Time is in microseconds there, and a limit a second.
SECOND = 1_000_000
# So many starts at most are taken as the first of a window; of more, every n-th.
FIRSTS = 1500


def limits(record: Record) -> Iterator[str]:
    """A claim took its tokens between the begin of its transaction and the change of its row."""
    if record.stepped:
        return
    starts = [
        Start(event.bucket, event.weight or 1, event.began / SECOND, event.at / SECOND)
        for event in record.events
        if event.claimed and event.status == "executing" and event.bucket is not None
    ]
    if (over := excess(starts, RATE, BURST, firsts=FIRSTS)) > 1e-6:
        yield f"{over:.3f} more was started in a time than {BURST:g} + {RATE:g} a second"
