"""Measure the neighbours and gendurable in turn, each in a database of its own on one server; --help has the options.

Each run is a process: it installs its tables, inserts everything, then lets one worker with so many slots run, and
waits until the database says that all have ended. Each number has to have been handled exactly once, in each step.
Their packages stand in a virtual environment of their own (`make bench-peers` makes it), and whichever is not there is
left out, and said to be. So is one whose run fails, from then on; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console
from rich.table import Table

from .. import _server

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Failed(Exception):
    """A run that does not count."""


@dataclass(frozen=True)
class Peer:
    """A neighbour: the program that runs it, the package whose version counts, and whether it has durable steps.
    ``keeps``: whether what is done stays in the database, where its program can do either."""

    name: str
    program: str
    package: str
    steps: bool = False
    keeps: bool = True


PEERS = [
    Peer("gendurable", "ours.py", "gendurable_py", steps=True),
    Peer("gendurable, fleeting", "ours.py", "gendurable_py", keeps=False),
    Peer("PgQueuer", "pgqueuer_.py", "pgqueuer"),
    Peer("Procrastinate", "procrastinate_.py", "procrastinate"),
    Peer("Awa", "awa_.py", "awa-pg"),
    Peer("Graphile Worker", "graphile.mjs", "graphile-worker"),
    Peer("Oban", "oban_.py", "oban"),
    Peer("DBOS", "dbos_.py", "dbos", steps=True),
    Peer("Absurd", "absurd_.py", "absurd-sdk", steps=True),
]
WORKLOADS = {"jobs": "jobs of one step", "steps": "instances of five steps", "flows": "functions of five steps"}
"""Functions are what DBOS and Absurd have anyway; of gendurable they are flows, and its instances machines."""


@dataclass(frozen=True)
class Places:
    """The interpreter with the neighbours' packages, and the folder with those of Node."""

    python: str
    node: str

    def version(self, peer: Peer) -> str | None:
        """Its version there; None: it is not there."""
        if peer.program.endswith(".mjs"):
            package = Path(self.node) / "node_modules" / peer.package / "package.json"
            there = shutil.which("node") and package.exists()
            return str(json.loads(package.read_text())["version"]) if there else None
        ask = f"import importlib.metadata as m; print(m.version({peer.package!r}))"
        done = subprocess.run([self.python, "-c", ask], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def command(self, peer: Peer) -> list[str]:
        return ["node" if peer.program.endswith(".mjs") else self.python, str(HERE / peer.program)]


def measure(
    conn: psycopg.Connection, url: str, places: Places, peer: Peer, workload: str, count: int, slots: int
) -> float:
    """Instances a second, in a fresh database."""
    conn.execute("drop database if exists bench_peer with (force)")
    conn.execute("create database bench_peer")
    conn.execute("checkpoint")
    dsn = url.format(database="bench_peer")
    try:
        done = subprocess.run(
            [*places.command(peer), dsn, workload, str(count), str(slots)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
                "GD_PEERS_NODE": places.node,
                "GD_PEERS_KEEP": "1" if peer.keeps else "",
            },
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{peer.name}: has not ended after 300 seconds") from None
    finally:
        conn.execute("drop database bench_peer with (force)")
    return rate(peer, count, done.stdout, done.stderr)


def rate(peer: Peer, count: int, said: str, error: str = "") -> float:
    """What a program's answer amounts to; Failed where something was lost or done twice."""
    try:
        found = json.loads(said.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"{peer.name}: {said[-2000:]}{error[-3000:]}") from None
    if found["ended"] != count or found["missing"] or found["repeated"]:
        raise Failed(f"{peer.name}: of {count}: {found}")
    return count / float(found["seconds"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only the neighbours with this in their name, and gendurable")
    parser.add_argument("--jobs", type=int, default=10_000, help="how many jobs (default: 10,000)")
    parser.add_argument("--instances", type=int, default=1_000, help="how many instances of five steps")
    parser.add_argument("--flows", type=int, default=200, help="how many functions of five steps")
    parser.add_argument("--slots", type=int, default=20, help="how many at once (default: 20)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter with the neighbours' packages")
    parser.add_argument("--node", default=str(HERE), help="the folder with node_modules")
    options = parser.parse_args()
    places = Places(options.python, str(Path(options.node).absolute()))
    chosen = [peer for peer in PEERS if options.only.lower() in peer.name.lower() or "gendurable" in peer.name]
    versions = {peer: places.version(peer) for peer in chosen}
    if versions[PEERS[0]] is None:
        parser.error(f"{options.python} has no gendurable, with which all are compared: make bench-peers sets one up")
    for peer, version in versions.items():
        if version is None:
            print(f"{peer.name} is left out: {peer.package} is not installed", file=sys.stderr)
    chosen = [peer for peer in chosen if versions[peer]]
    rates: dict[tuple[str, str], list[float]] = {}
    failed: set[str] = set()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    settings = {"listen_addresses": "127.0.0.1", "port": port}
    with _server.server(**settings) as server, psycopg.connect(server.dsn, autocommit=True) as conn:
        said = conninfo_to_dict(server.dsn)
        url = f"postgresql://{quote(str(said['user']))}@127.0.0.1:{port}/{{database}}"
        for number in range(1, options.rounds + 1):
            for workload, what in WORKLOADS.items():
                count = {"jobs": options.jobs, "steps": options.instances, "flows": options.flows}[workload]
                if not count:
                    continue
                for peer in (one for one in chosen if one.steps or workload == "jobs"):
                    if peer.name in failed:
                        continue
                    try:
                        found = measure(conn, url, places, peer, workload, count, options.slots)
                    except Failed as why:
                        if peer.name == "gendurable":
                            raise SystemExit(str(why)) from None
                        failed.add(peer.name)
                        print(f"{peer.name} is left out from here on: {why}", file=sys.stderr, flush=True)
                        continue
                    rates.setdefault((workload, peer.name), []).append(found)
                    print(f"round {number}: {what}: {peer.name}: {found:,.0f}/s", file=sys.stderr, flush=True)
        row = conn.execute("show server_version").fetchone()
    assert row is not None
    table = Table(
        title=f"medians of {options.rounds} rounds, PostgreSQL {row[0]}, {options.slots} at once, one process"
    )
    for heading in ("workload", "who", "version", "a second", "in ratio"):
        table.add_column(heading, justify="right" if heading in ("a second", "in ratio") else "left")
    for (workload, name), measured in rates.items():
        ours = rates[workload, "gendurable"]
        # one that failed has fewer
        ratio = statistics.median(one / other for one, other in zip(measured, ours, strict=False))
        version = next(versions[peer] for peer in chosen if peer.name == name)
        table.add_row(WORKLOADS[workload], name, version, f"{statistics.median(measured):,.0f}", f"{ratio:.2f}")
    Console(width=110).print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
