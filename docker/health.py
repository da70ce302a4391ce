"""The health check of the worker's image: exit code 0 where the worker of this container serves, 1 where it does not.

With GENDURABLE_METRICS_PORT, the port that `gendurable worker --metrics-port` listens at (GENDURABLE_METRICS_HOST: at
which address), it asks `/health`. Without, it looks in the database for a worker of this host that says hello; a role
that may not look passes as soon as the database answers, since only people and dashboards see all workers.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.error
import urllib.request

SECONDS = 5
# Who listens at every address is asked at this machine's own.
EVERY = ("", "0.0.0.0", "::")


def by_port(port: int) -> str | None:
    """What is wrong, by what the worker says of itself; None: nothing."""
    host = os.environ.get("GENDURABLE_METRICS_HOST", "")
    host = "127.0.0.1" if host in EVERY else host
    host = f"[{host}]" if ":" in host else host
    try:
        # Not by a proxy that the environment names for others.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{host}:{port}/health", timeout=SECONDS):
            return None
    except OSError as error:
        return f"/health at port {port}: {error}"


def by_database() -> str | None:
    """What is wrong, by what the database knows; None: nothing."""
    import psycopg

    from gendurable_py.calls import viewing

    here = socket.gethostname()
    try:
        dsn = os.environ.get("GENDURABLE_DSN", "")
        with psycopg.connect(dsn, autocommit=True, connect_timeout=SECONDS, prepare_threshold=None) as conn:
            serves = viewing.works_on(conn, here)
    except psycopg.errors.InsufficientPrivilege:
        return None
    except psycopg.Error as error:
        return str(error).strip()
    return None if serves else f"no worker of {here} says hello"


def main() -> int:
    port = os.environ.get("GENDURABLE_METRICS_PORT", "")
    wrong = by_port(int(port)) if port else by_database()
    print(wrong or "ok")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
