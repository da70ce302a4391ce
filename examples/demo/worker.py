"""One worker process: `python -m examples.demo.worker DSN`. It ends on SIGTERM, or when its parent is gone."""

from __future__ import annotations

import logging
import sys
import threading

from gendurable_py import Engine

from .machine import QUEUE, Checkout, open_pool


def main(dsn: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    open_pool(dsn)
    # A short lease, since the demo kills a worker and does not want to wait a minute for its orders.
    engine = Engine(dsn, machines=[Checkout], queues={QUEUE: 4}, lease_ttl=2, heartbeat_interval=0.5, reap_interval=1)

    def parent_is_gone() -> None:
        sys.stdin.read()
        engine.stop()

    threading.Thread(target=parent_is_gone, daemon=True).start()
    engine.run()


if __name__ == "__main__":
    main(sys.argv[1])
