"""Journals of claimed flows, which they need before they run: read together, one call a claim.

Large ones are read aside, by pages and one after the other, on a connection that nobody else waits for. A flow whose
journal cannot be read now is given back.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable

from .._log import logger
from ..calls import replaying
from ..calls.replaying import Entries
from ..errors import InvalidArgument
from ..flow import seeds
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
        reading: Counter[str],
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
        self._reading = reading
        self._settle = settle
        self._give_back = give_back
        self._progressed = progressed
        self._identity: str | None = None
        self._claimed: list[Work] = []
        self._large: deque[Work] = deque()
        """Those whose journals are to be read aside; the first one is read now."""
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
                may_ask = await self._link.attempt(replaying.may_ask_identity)
                self._identity = await self._link.attempt(replaying.database_identity, may_ask)
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
                self._reading[work.queue] += 1
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
            self._executor.prepare(work, entries, seeds.first(self._identity, work.row))
        except Exception as error:  # noqa: BLE001 - whatever stands in its journal
            self._refuse(work, error)
        else:
            self._executor.submit(work)

    async def run(self) -> None:
        while True:
            await self._event.wait()
            self._event.clear()
            while self._large:
                await self._read_first(self._large[0])
            await self._aside.drop()

    async def _read_first(self, work: Work) -> None:
        trouble: BaseException | None = None
        found: Entries | InvalidArgument | None = None
        try:
            found = await self._read_pages(work)
        except InvalidArgument as error:
            found = error
        except (*TROUBLE, ValueError) as error:
            trouble = error
        if self._large and self._large[0] is work:  # else it was given back
            self._large.popleft()
            self._reading[work.queue] -= 1
            if found is None:
                self._give_back([work], _DELAY)
            elif isinstance(found, InvalidArgument):
                self._refuse(work, found)
            else:
                self._begin(work, found)
            self._progressed()
        if trouble is not None:
            await self._aside.trouble(trouble)

    def withdraw(self) -> list[Work]:
        """Begin none of those whose journals are still read; answers them."""
        works = list(self._large)
        self._large.clear()
        self._reading.clear()
        return works

    async def _read_pages(self, work: Work) -> Entries:
        entries: Entries = []
        after: int | None = 0
        while after is not None and not work.ctx._cancelled:
            page, after = await self._aside.attempt(replaying.journal_entries, work.row.id, after)
            entries += page
        logger.debug("a large journal: %s %s has %d entries", work.row.fsm, work.row.id, len(entries))
        return entries
