"""Text from a database that does not say in which encoding it is."""

from __future__ import annotations

from psycopg.abc import Buffer
from psycopg.adapt import Loader


class Lenient(Loader):
    """For a database in SQL_ASCII, which takes any bytes: those that are not UTF-8 become lone surrogates.

    So one such row fails in its own step, where its state is decoded, and not all that were claimed with it.
    """

    def load(self, data: Buffer) -> str:
        return bytes(data).decode("utf-8", "surrogateescape")
