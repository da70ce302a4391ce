"""Chaos: dispatchers in processes of their own, clients, and a server that is killed under them; then a judge.

    python -m tests_py.chaos --minutes 3          (make chaos)

`scene.py` starts it all and lets it drain, `faults.py` breaks things, `worker.py` and `machines.py` are what the
processes run, `clients.py` inserts, signals and cancels, `records.py` gathers what was written down, and `checker.py`
compares that with the invariants. The checker reads nothing but records, so a doctored one must make it complain.
"""

import sys
from pathlib import Path

# The helpers of the tests import each other by bare names, which pytest makes possible and -m tests_py.chaos does not.
TESTS = Path(__file__).resolve().parent.parent
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
