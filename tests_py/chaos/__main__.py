"""python -m tests_py.chaos [--minutes 3] [--seed N] [--around | --money]: the exit code is 0 if all invariants held."""

from __future__ import annotations

import argparse
import random
import sys

from .around import play_around
from .money import play_money
from .sabotage import DEFECTS
from .scene import Unavailable, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="for how long things are broken (default: 3)")
    parser.add_argument("--seed", type=int, default=None, help="the order of faults and the clients' choices")
    parser.add_argument("--sabotage", choices=sorted(DEFECTS), help="plant this defect, which the suite has to find")
    parser.add_argument(
        "--around",
        action="store_true",
        help="others in the database instead of faults: hostile payloads, settings, open and prepared transactions, "
        "publications, locks and clock steps, all at once",
    )
    parser.add_argument(
        "--money",
        action="store_true",
        help="a bank instead of machines of all kinds: steps in SQL and in Python, kills at random, books that balance",
    )
    parser.add_argument("--steady", action="store_true", help="with --around: no clock steps, and times are judged")
    options = parser.parse_args()
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    print(f"seed: {seed}", flush=True)
    try:
        if options.around:
            report = play_around(seed, options.minutes, steady=options.steady)
        elif options.money:
            report = play_money(seed, options.minutes, options.sabotage)
        else:
            report = play(seed, options.minutes, options.sabotage)
    except Unavailable as error:
        parser.error(str(error))
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
