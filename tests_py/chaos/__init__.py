"""Chaos: dispatchers in processes of their own, clients, and a server that is killed under them; then a judge.

    python -m tests_py.chaos --minutes 3                  (make chaos)
    python -m tests_py.chaos --minutes 10 --around        (make chaos GD_ARGS="--minutes 10 --around")
    python -m tests_py.chaos --minutes 10 --money

- `scene.py` starts it all, lets it drain and reports; `faults.py` breaks things.
- `around.py` is the other scene: little is broken, but others share the database. `intruders.py` is what they do
  there, `payloads.py` what they put in; `aside.py` measures for how long work that they leave alone stands still.
- `money.py` is the third one: a bank (`bank.py`, `bank_clients.py`) whose books have to balance (`bank_checker.py`),
  with steps in SQL and in Python in one queue, while everything is killed at random.
- `worker.py` and `machines.py` are what the processes run; `clients.py` inserts and signals, `operators.py` does what
  operators do.
- `records.py` gathers what was written down: by a trigger in the transactions, by steps and clients outside of them.
- `checker.py`, `checker_keys.py`, `checker_limits.py` and `checker_talk.py` compare that with the invariants. They
  read nothing but records, so a doctored one (`story.py`) must make them complain.
- `sabotage.py` has defects to plant into the engine, which the suite has to find; `by_hand.py` plays workers without
  leaving anything to chance.
"""

import sys
from pathlib import Path

# The helpers of the tests import each other by bare names, which pytest makes possible and -m tests_py.chaos does not.
TESTS = Path(__file__).resolve().parent.parent
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
