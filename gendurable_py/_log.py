"""The logger of the package: what goes wrong while something is logged stops nothing."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from typing import Any

__all__ = ["logger"]


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """A handler may raise anything, and so may the `__repr__` of what is logged. Neither is a reason to stop."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        try:
            if self.isEnabledFor(level):
                # The line belongs to the caller, not to this frame.
                self.logger.log(level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})
        except BaseException:  # noqa: BLE001 - SystemExit, too: the engine must not end because of a line in a log
            if logging.raiseExceptions:
                with contextlib.suppress(BaseException):
                    traceback.print_exc(limit=5, file=sys.stderr)


logger = _Quiet(logging.getLogger("gendurable"), {})
