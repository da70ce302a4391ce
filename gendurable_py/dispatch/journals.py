"""Journals of claimed flows, which they need before they run: read together, one call a claim.

Large ones are read aside, by pages and one after the other, on a connection that nobody else waits for. A flow whose
journal cannot be read now is given back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable

from .._log import logger
from ..calls import replaying
from ..calls.replaying import Entries
from ..errors import InvalidArgument
from ..machine.claim import ClaimRow
from .link import TROUBLE, Link
from .services import Service
from .work import Holding, Runner, Work, break_off

_DELAY = 1.0
"""Seconds until a flow is due again whose journal could not be read."""


class Journals(Service):
    """Starts works of flows, with what they have committed before."""

    name = "journals"

    def __init__(
        self,
        link: Link,
        aside: Link,
        executor: Runner,
        *,
        settle: Callable[[list[Work]], None],
        give_back: Callable[[Iterable[Holding], float], None],
        progressed: Callable[[], None],
    ) -> None:
        """``progressed``: called when one that waited is gone, and more may be claimed."""
        super().__init__()
        self._link = link
        self._aside = aside
        self._executor = executor
        self._settle = settle
        self._give_back = give_back
        self._progressed = progressed
        self._leaving = False
        self.waiting: Counter[str] = Counter()
        """Those of each queue whose large journals are still to be read."""
        self._identity: str | None = None
        self._claimed: list[Work] = []
        self._large: deque[Work] = deque()
        self._event = asyncio.Event()

    def add(self, work: Work) -> None:
        """It was claimed just now; `begin` or `give_up` follows."""
        self._claimed.append(work)

    def give_up(self) -> None:
        """Give back those that have not begun."""
        works, self._claimed = self._claimed, []
        if works:
            self._give_back(works, _DELAY)

    async def begin(self) -> None:
        """Read the journals of those that were claimed, and start them.

        Raises:
            psycopg.Error: the server could not be asked; they are given back.
        """
        if not self._claimed:
            return
        try:
            if self._identity is None:
                self._identity = await self._link.attempt(replaying.database_identity)
            found = await self._link.attempt(replaying.journals, [work.row.id for work in self._claimed])
        except BaseException:
            self.give_up()
            raise
        works, self._claimed = self._claimed, []
        for work in works:
            entries = found.get(work.row.id)
            if isinstance(entries, InvalidArgument):
                self._refuse(work, entries)
            elif entries is not None:
                self._begin(work, entries)
            else:
                self._large.append(work)
                self.waiting[work.queue] += 1
                self._event.set()

    def _refuse(self, work: Work, error: Exception) -> None:
        """Its journal cannot be read here, by nobody: it costs this flow alone."""
        break_off(work, error)
        self._settle([work])

    def _begin(self, work: Work, entries: Entries) -> None:
        if work.ctx._cancelled:
            self._settle([work])  # it was lost meanwhile
            return
        try:
            self._executor.prepare(work, entries, self._seed(work.row))
        except Exception as error:  # noqa: BLE001 - whatever stands in its journal
            self._refuse(work, error)
        else:
            self._executor.submit(work)

    def _seed(self, row: ClaimRow) -> str:
        """What the chance of a flow is drawn from that has no journal yet: the same each time, here and elsewhere."""
        return hashlib.sha256(f"{self._identity} {row.fsm} {row.id}".encode()).hexdigest()[:32]

    async def run(self) -> None:
        while True:
            await self._event.wait()
            self._event.clear()
            while self._large:
                work = self._large.popleft()
                trouble: Exception | None = None
                try:
                    entries = await self._read_pages(work)
                except InvalidArgument as error:
                    self._refuse(work, error)
                except (*TROUBLE, ValueError) as error:
                    trouble = error
                    self._give_back([work], _DELAY)
                else:
                    if self._leaving:
                        self._give_back([work], 0.0)
                    else:
                        self._begin(work, entries)
                    del entries
                self.waiting[work.queue] -= 1
                del work  # nothing is kept while it waits
                self._progressed()
                if trouble is not None:
                    await self._aside.trouble(trouble)
            await self._aside.drop()

    def withdraw(self) -> list[Work]:
        """Begin none of those any more that wait for their journals."""
        self._leaving = True
        works = list(self._large)
        self._large.clear()
        self.waiting.subtract(work.queue for work in works)
        return works

    async def _read_pages(self, work: Work) -> Entries:
        entries: Entries = []
        after: int | None = 0
        while after is not None and not work.ctx._cancelled and not self._leaving:
            page, after = await self._aside.attempt(replaying.journal_entries, work.row.id, after)
            entries += page
        logger.debug("a large journal: %s %s has %d entries", work.row.fsm, work.row.id, len(entries))
        return entries
