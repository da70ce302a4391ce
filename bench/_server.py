"""The server that is measured, the yardstick U, and what else pgbench does: many clients with one statement each."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from gendurable_py import embedded

YARDSTICK = "\\set id random(1, 100000)\nupdate bench_yardstick set n = n + 1 where id = :id;\n"

# Durable defaults; only sizes differ from a fresh initdb, so that checkpoints do not fall into a short run.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200"}


@contextmanager
def server(**settings: str) -> Iterator[embedded.EmbeddedServer]:
    with embedded.start(settings={**SETTINGS, **settings}) as running:
        with psycopg.connect(running.dsn, autocommit=True) as conn:
            conn.execute("create table bench_yardstick (id int primary key, n int not null)")
            conn.execute("insert into bench_yardstick select g, 0 from generate_series(1, 100000) g")
            conn.execute("vacuum analyze bench_yardstick")
        yield running


def yardstick(running: embedded.EmbeddedServer, seconds: float) -> float:
    """U: transactions a second of 32 clients that each update one random row of 100,000."""
    return pgbench(running, YARDSTICK, seconds)


def inserts(running: embedded.EmbeddedServer, seconds: float, clients: int = 32, queue: str = "elsewhere") -> float:
    """Single inserts a second of so many clients; nobody serves the queue `elsewhere`."""
    return pgbench(running, f"select gd_insert('bench_sync', '{{}}', p_queue => '{queue}');\n", seconds, clients)


def pgbench(running: embedded.EmbeddedServer, text: str, seconds: float, clients: int = 32) -> float:
    """Transactions a second of clients that run the script."""
    with script(running, text, seconds, clients) as command:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if found is None:
        raise RuntimeError(f"pgbench said nothing of tps: {done.stdout}{done.stderr}")
    return float(found[1])


@contextmanager
def background(running: embedded.EmbeddedServer, clients: int) -> Iterator[None]:
    """So many clients update single rows of the yardstick while the block runs."""
    with script(running, YARDSTICK, 3600, clients) as command, subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def script(running: embedded.EmbeddedServer, text: str, seconds: float, clients: int) -> Iterator[list[str]]:
    """A pgbench command that runs the script."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(text)
        file.flush()
        threads = ["-c", str(clients), "-j", str(min(2, clients)), "-T", str(max(1, round(seconds)))]
        yield [str(running.bindir / "pgbench"), "-n", *threads, "-f", file.name, running.dsn]


def clear(conn: psycopg.Connection) -> None:
    """An empty table, as after a vacuum: what one workload leaves must not slow the next one."""
    conn.execute("truncate gendurable.instance cascade")
    conn.execute("truncate gendurable.queue_name, gendurable.rate_limit, gendurable.bucket, gendurable.bucket_closed")
    conn.execute("select set_config('gendurable.floor', '', false)")
    conn.execute("checkpoint")
