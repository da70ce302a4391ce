"""The server that is measured, and the yardstick U: pgbench with one single-row update a transaction."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from gendurable_py import embedded

SCRIPT = "\\set id random(1, 100000)\nupdate bench_yardstick set n = n + 1 where id = :id;\n"

# Durable defaults; only sizes differ from a fresh initdb, so that checkpoints do not fall into a short run.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200"}


@contextmanager
def server() -> Iterator[embedded.EmbeddedServer]:
    with embedded.start(settings=SETTINGS) as running:
        with psycopg.connect(running.dsn, autocommit=True) as conn:
            conn.execute("create table bench_yardstick (id int primary key, n int not null)")
            conn.execute("insert into bench_yardstick select g, 0 from generate_series(1, 100000) g")
            conn.execute("vacuum analyze bench_yardstick")
        yield running


def yardstick(running: embedded.EmbeddedServer, seconds: float) -> float:
    """U: transactions a second of 32 clients that each update one random row of 100,000."""
    return pgbench(running, SCRIPT, seconds)


def inserts(running: embedded.EmbeddedServer, seconds: float) -> float:
    """Single inserts a second of 32 clients, into a queue that nobody serves."""
    return pgbench(running, "select gd_insert('bench', '{}', p_queue => 'elsewhere');\n", seconds)


def pgbench(running: embedded.EmbeddedServer, text: str, seconds: float) -> float:
    """Transactions a second of 32 clients that run the script."""
    script = Path(running.data_dir).parent / f"bench-{Path(running.data_dir).name}.sql"
    script.write_text(text)
    try:
        command = [running.bindir / "pgbench", "-n", "-c", "32", "-j", "2", "-T", str(max(1, round(seconds)))]
        done = subprocess.run([*command, "-f", str(script), running.dsn], capture_output=True, text=True, check=True)
    finally:
        script.unlink()
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if found is None:
        raise RuntimeError(f"pgbench said nothing of tps: {done.stdout}{done.stderr}")
    return float(found[1])


def clear(conn: psycopg.Connection) -> None:
    """An empty table, as after a vacuum: what one workload leaves must not slow the next one."""
    conn.execute("truncate gendurable.instance cascade")
    conn.execute("select set_config('gendurable.floor', '', false)")
    conn.execute("checkpoint")
