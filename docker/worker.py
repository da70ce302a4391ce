"""The worker of compose.yaml: it serves the queue of one example until it is told to stop."""

from __future__ import annotations

import logging

from examples.checkout import MACHINES, QUEUES
from gendurable_py import Engine

logging.basicConfig(level=logging.INFO)
# The server is named by the PG* variables.
Engine("", machines=MACHINES, queues=QUEUES).run()
