"""Django's transactions for transactional steps, over the driver psycopg 3.

::

    @job(name="mail", transactional=atomic())
    def pay(args, ctx):
        Account.objects.filter(pk=args["account"]).update(balance=F("balance") - 10)

The step is sync, and runs in `django.db.transaction.atomic`: whatever it does through Django is in it, and functions
given to ``on_commit`` are called once, when the step has been committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.db import connections, transaction

__all__ = ["atomic"]


def close_old() -> None:
    """Close the connections of this thread that are broken or past ``CONN_MAX_AGE``, as Django does around a request.

    One that is in ``atomic`` stays, which Django would close: a test that runs a step inline is in there.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def close_broken() -> None:
    """Close those that an error has left unusable, and no others: somebody may be reading from them."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred and not connection.in_atomic_block and not connection.is_usable():
            connection.close()


_under_way: set[object] = set()


@contextmanager
def under_way() -> Iterator[None]:
    """Around an async step: what async steps ask goes through one connection, which they share."""
    task = asyncio.current_task()
    known = task in _under_way
    _under_way.add(task)
    try:
        yield
    finally:
        if not known:
            _under_way.discard(task)


def close_shared() -> Callable[[], None]:
    """What closes that connection, in its thread: as around a request, unless other async steps may be reading."""
    return close_broken if _under_way - {asyncio.current_task()} else close_old


def atomic(using: str | None = None) -> Callable[[Callable[[Any], None]], AbstractContextManager[Any]]:
    """A hook: ``ctx.conn`` is Django's connection ``using``, the default one for None.

    Each thread of the engine has a connection of its own, which lives as ``CONN_MAX_AGE`` says.
    """

    @contextmanager
    def hook(commit: Callable[[Any], None]) -> Iterator[Any]:
        close_old()
        with transaction.atomic(using=using):
            connection = transaction.get_connection(using)
            yield connection
            # Else it would be rolled back behind the commit of the outcome, and nobody told.
            connection.validate_no_broken_transaction()
            connection.ensure_connection()
            commit(connection.connection)

    return hook
