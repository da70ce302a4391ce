"""How a function that begins anew says so: an exception that no ``except Exception`` stops."""

from __future__ import annotations


class Restart(BaseException):
    """``state``: the arguments, as JSON. ``step``: the first. ``seed``: of the next round."""

    def __init__(self, state: bytes, step: str, seed: str) -> None:
        super().__init__("the flow begins anew")
        self.state = state
        self.step = step
        self.seed = seed
