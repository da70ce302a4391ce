"""`python -m examples NAME`: play one example against the embedded server and print what came of it."""

from __future__ import annotations

import asyncio
import importlib
import sys

from gendurable_py import embedded

from ._run import play

NAMES = (
    "agent_pydantic_ai",
    "checkout",
    "flow_agent",
    "flow_checkout",
    "flow_trip",
    "ledger",
    "nightly",
    "outbox",
    "paid_order",
    "saga",
    "subscription",
    "thumbnails",
    "transfer",
    "web_flask",
)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in NAMES:
        print(f"usage: python -m examples {'|'.join(NAMES)}", file=sys.stderr)
        return 2
    example = importlib.import_module(f"examples.{arguments[0]}")
    with embedded.start() as server:
        print(asyncio.run(play(server.dsn, example.MACHINES, example.QUEUES, example.scene, example.SCHEMA)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
