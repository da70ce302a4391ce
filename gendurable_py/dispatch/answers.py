"""What a refused outcome means for its work, in the engine as in the testing kit."""

from __future__ import annotations

from ..machine.encode import encode_stop
from .._log import logger
from .work import HANDLE, RUN, STOP, Work
from ..errors import from_sqlstate


def refuse(work: Work, sqlstate: str | None, message: str) -> bool:
    """An outcome of the step goes to `handle`, one of `handle` stops the instance; False: even that was refused."""
    reason = from_sqlstate(sqlstate, message)
    if work.stage == RUN:
        work.rejection = reason
        work.outcome = None
    elif work.stage == HANDLE:
        logger.error("%s %s: the outcome of handle was rejected: %s", work.row.fsm, work.row.id, message)
        work.stage = STOP
        work.outcome = encode_stop(work.ctx, reason)
    else:
        logger.error("%s %s cannot be stopped: %s; its lease will end", work.row.fsm, work.row.id, message)
        return False
    return True
