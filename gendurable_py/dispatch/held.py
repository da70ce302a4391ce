"""What this process holds: claims by instance, and the names they are held under."""

from __future__ import annotations

import os
import secrets
import socket
from collections import Counter

from .work import Work


def worker_name() -> str:
    """Unique for each engine in each process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Held:
    """The claims of one engine.

    After a claim whose answer was lost the server may hold rows for us that we do not know of. They can only be given
    back with everything else under the same name, so from then on claims are made under a new one; once the last known
    claim under the old name is settled, all that is left there is given back.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._generation = 0
        self.worker = name
        self._works: dict[int, Work] = {}
        self._abandoned: set[str] = set()
        self.uncommitted = 0
        """Outcomes that wait for their first commit, or are on their way."""
        self.blocked = 0
        """Outcomes that met a lock or a fault of the server, and their bytes: they wait apart from the others."""
        self.blocked_bytes = 0
        self.failing = False
        """Whether the last such outcome that was tried met a fault of the server."""
        self.kept: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._works)

    def add(self, work: Work) -> Work | None:
        """Hold a claim; answers an older one of the same instance, which is lost with that."""
        older = self._works.get(work.row.id)
        self._works[work.row.id] = work
        return older

    def drop(self, work: Work) -> None:
        if self._works.get(work.row.id) is work:
            del self._works[work.row.id]

    def get(self, id: int, claim_no: int) -> Work | None:
        work = self._works.get(id)
        return work if work is not None and work.row.claim_no == claim_no else None

    def works(self) -> list[Work]:
        return list(self._works.values())

    def claims(self) -> list[tuple[int, int]]:
        return [(work.row.id, work.row.claim_no) for work in self._works.values()]

    def rename(self) -> None:
        """Claim under a new name from now on."""
        self._abandoned.add(self.worker)
        self._generation += 1
        self.worker = f"{self._name}#{self._generation}"

    def settled(self) -> list[str]:
        """The old names under which nothing is held any more that is known; each is answered once."""
        if not self._abandoned:
            return []
        used = {work.worker for work in self._works.values()}
        free = [name for name in self._abandoned if name not in used]
        self._abandoned.difference_update(free)
        return free
