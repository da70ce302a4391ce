"""A child of ``gendurable worker --processes``: an engine in a process of its own, held by two pipes.

What it is to do comes as the first line of the one; then ``drain`` and ``hurry``. Its end of file is the end of the
parent, however that went: then it drains, too. On the other it says ``ready`` with its name, once it serves. A third,
where there is one, is a socket on which it tells what it counts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
from typing import IO, Any, Self

import psycopg

from ..engine import Engine
from ..errors import GendurableError
from .machines import NotFound, load, queues_of
from .measured import answer_parent
from .serving import Settings, set_up_logging

OK, USAGE, REFUSED = 0, 2, 3


_telling = threading.RLock()  # a signal may interrupt the handler of another one


class SupervisedEngine(Engine):
    """An engine that may be told twice that it is one and the same drain: by a signal, and by its parent.

    A service manager may signal all processes of a service at once. Only who asks again is in a hurry.
    """

    told: frozenset[str] = frozenset()
    ready: IO[str]

    def stop(self, source: str = "signal") -> None:
        """Drain; a second time from one source: at once."""
        with _telling:  # a signal and the parent may come at one moment
            counts = source in self.told or not self.told
            self.told |= {source}
        if counts:
            super().stop()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        with contextlib.suppress(OSError):  # the parent is gone: the other pipe says so, too
            self.ready.write(f"ready {self.worker}\n")
            self.ready.flush()
        return self


def main() -> int:
    """Run until told to stop; the exit code."""
    for number in sys.argv[1:]:
        os.set_inheritable(int(number), False)  # what a step starts may outlive us
    control, status = (os.fdopen(int(number), mode) for number, mode in zip(sys.argv[1:3], ("r", "w"), strict=True))
    first = control.readline()
    if not first:
        return OK  # the parent is gone already
    told: dict[str, Any] = json.loads(first)
    settings = Settings(**told)
    set_up_logging(settings.log_level, settings.json, f"[{settings.number}] ")
    logger = logging.getLogger("gendurable.cli")
    try:
        machines = load(settings.targets)
        engine = SupervisedEngine(settings.dsn, machines, settings.queues or queues_of(machines), **settings.options())
        engine.ready = status
        if settings.measured:
            answer_parent(socket.socket(fileno=int(sys.argv[3])), engine)
        threading.Thread(target=_obey, args=(control, engine), name="gendurable parent", daemon=True).start()
        engine.run()
    except NotFound as error:
        logger.error("%s", error)
        return USAGE
    except psycopg.Error as error:
        hint = error.hint if isinstance(error, GendurableError) else None
        logger.error("%s%s", str(error).strip().partition("\nHINT:")[0], f" (hint: {hint})" if hint else "")
        return REFUSED
    return OK


def _obey(control: IO[str], engine: SupervisedEngine) -> None:
    for _word in control:  # drain, and then hurry
        engine.stop("parent")
    if "parent" not in engine.told:
        engine.stop("parent")


if __name__ == "__main__":
    sys.exit(main())
