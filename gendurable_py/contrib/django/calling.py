"""The calls on Django's own connection: inside of ``transaction.atomic`` they commit and roll back with it.

::

    with transaction.atomic():
        order = Order.objects.create(...)
        insert(Checkout, {"order": order.pk})

`connection` gives the psycopg connection itself, for every call that is not here: ``gd.why(connection(), id)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

import psycopg
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.asyncio import async_unsafe

from ... import calls
from ..._statement import Call
from ...errors import GendurableError
from . import conf

P = ParamSpec("P")
R = TypeVar("R")


def connection(using: str | None = None) -> psycopg.Connection[Any]:
    """Django's connection in this thread, as psycopg's: of the alias, or of the first in ``GENDURABLE["DATABASES"]``.

    It is in the transaction that Django has open; without one each call is a transaction of its own. It is Django's:
    neither close it nor commit.

    Raises:
        ImproperlyConfigured: the alias is no PostgreSQL, or its driver is not psycopg 3.
        django.db.transaction.TransactionManagementError: the ``atomic`` block has failed already.
        django.db.OperationalError: there is no connection to be had.
    """
    conn: psycopg.Connection[Any] = _open(wrapper_of(using))
    return conn


def wrapper_of(using: str | None = None) -> Any:
    """What Django has around that connection."""
    return connections[using or conf.default_database()]


@async_unsafe("gendurable would wait for the database on the loop of async code: use ainsert, or sync_to_async.")
def _open(wrapper: Any) -> psycopg.Connection[Any]:
    need_postgresql(wrapper)
    wrapper.validate_thread_sharing()
    wrapper.validate_no_broken_transaction()
    wrapper.ensure_connection()
    conn = wrapper.connection
    if not isinstance(conn, psycopg.Connection):
        kind = f"{type(conn).__module__}.{type(conn).__qualname__}"
        raise ImproperlyConfigured(
            f"the connection of the database {wrapper.alias!r} is a {kind}, and gendurable needs psycopg 3: "
            "pip install 'psycopg[binary]', which Django prefers to psycopg2"
        )
    return conn


def need_postgresql(wrapper: Any) -> None:
    """Raise ImproperlyConfigured where the alias is another kind of database."""
    if wrapper.vendor != "postgresql":
        raise ImproperlyConfigured(
            f"the database {wrapper.alias!r} is {wrapper.vendor}, and gendurable needs PostgreSQL: name an alias that "
            f'is in {conf.NAME}["DATABASES"]'
        )


class _OursError(Exception):
    """Carries an error past Django, which would make it one of its own."""

    def __init__(self, error: GendurableError) -> None:
        super().__init__()
        self.error = error


@contextlib.contextmanager
def translated(wrapper: Any) -> Iterator[None]:
    """What psycopg raises is what Django makes of it, as from a cursor of Django's; errors of gendurable stay."""
    try:
        with wrapper.wrap_database_errors:
            try:
                yield
            except GendurableError as error:
                raise _OursError(error) from error
    except _OursError as carried:
        raise carried.error from carried.error.__cause__


class DjangoCall(Generic[P, R]):
    """A call of `gendurable_py` that brings its connection along: ``insert(Machine, state)``.

    Errors of the connection and of SQL are Django's (`django.db.Error`), as those of its cursors are; what gendurable
    itself raises is `gendurable_py.GendurableError`.
    """

    def __init__(self, call: Call[P, R], using: str | None = None) -> None:
        self._call = call
        self._using = using
        self.__doc__ = call.__doc__
        self.__name__ = call.__name__  # type: ignore[attr-defined]

    def using(self, alias: str) -> DjangoCall[P, R]:
        """The same on another database: ``insert.using("reports")(Machine, state)``."""
        return DjangoCall(self._call, alias)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        wrapper = wrapper_of(self._using)
        conn: psycopg.Connection[Any] = _open(wrapper)
        with translated(wrapper):
            return self._call(conn, *args, **kwargs)


def _asynchronous(call: DjangoCall[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """For async views: in the thread in which Django's own async methods use the connection."""

    async def acall(*args: P.args, **kwargs: P.kwargs) -> R:
        return await sync_to_async(call, thread_sensitive=True)(*args, **kwargs)

    acall.__doc__ = call.__doc__
    acall.__name__ = acall.__qualname__ = f"a{call.__name__}"
    return acall


insert = DjangoCall(calls.insert)
insert_many = DjangoCall(calls.insert_many)
signal = DjangoCall(calls.signal)
signal_many = DjangoCall(calls.signal_many)
cancel = DjangoCall(calls.cancel)
retry = DjangoCall(calls.retry)
reschedule = DjangoCall(calls.reschedule)
find = DjangoCall(calls.find)
result = DjangoCall(calls.result)

ainsert = _asynchronous(insert)
ainsert_many = _asynchronous(insert_many)
asignal = _asynchronous(signal)
aresult = _asynchronous(result)
