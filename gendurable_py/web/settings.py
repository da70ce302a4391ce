"""What a dashboard is told when it is made, and who may ask for what."""

from __future__ import annotations

import hashlib
import inspect
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import JsonValue
from starlette.requests import Request

from ..errors import InvalidArgument

User: TypeAlias = "str | None"
"""Who asks, as the audit is to name them; None: they may not."""
Auth: TypeAlias = "Callable[[Request], User | Awaitable[User]]"
"""From a request, without its body, to who asks. It may raise Starlette's HTTPException, which is the answer then: a
redirect to where one logs in, or a challenge."""
Operate: TypeAlias = "bool | Callable[[str], bool]"
Redact: TypeAlias = "Callable[[str, str, JsonValue], JsonValue]"
"""From what is shown (``state``, ``result``, ``meta``, ``attributes``, ``payload``, ``detail``, or ``error``: a
text), the machine, and the value, to what people see of it."""

NOBODY = "dashboard"
"""What the audit says where nobody is known by a name."""


@dataclass(frozen=True)
class Settings:
    """How a dashboard behaves. Times in seconds."""

    operate: Operate = False
    token: str | None = field(default=None, repr=False)
    user_header: str | None = None
    trusted: frozenset[str] = frozenset({"127.0.0.1", "::1", ""})
    auth: Auth | None = None
    hosts: frozenset[str] | None = None
    redact: Redact | None = None
    refresh: float = 2.0
    patience: float = 5.0
    title: str = "gendurable"
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def asks_for_token(self) -> bool:
        return self.token is not None

    def operates(self, user: str) -> bool:
        """Whether this user may do more than look, as far as the dashboard has a say."""
        found = self.operate(user) if callable(self.operate) else self.operate
        if inspect.isawaitable(found):  # it would be true, whatever it comes to
            if inspect.iscoroutine(found):
                found.close()
            raise InvalidArgument("operate is async", hint="give a function that answers True or False at once")
        return found

    async def known(self, request: Request) -> User:
        """Who the mounting app says that asks."""
        assert self.auth is not None
        found = self.auth(request)
        return await found if inspect.isawaitable(found) else found


def key_of(secret: str | None, token: str | None) -> bytes:
    """The key of cookies and forms: the same in all processes that are told the same, else one of this process."""
    if not (secret or token):
        return secrets.token_bytes(32)
    # of both: a session does not outlive the token by which it was opened
    return hashlib.sha256(f"gendurable dashboard\0{secret or ''}\0{token or ''}".encode()).digest()
