"""python -m tests_py.chaos [--minutes 3] [--seed N]: the exit code is 0 if no invariant was violated."""

from __future__ import annotations

import argparse
import random
import sys

from .sabotage import DEFECTS
from .scene import Unavailable, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="for how long things are broken (default: 3)")
    parser.add_argument("--seed", type=int, default=None, help="the order of faults and the clients' choices")
    parser.add_argument("--sabotage", choices=sorted(DEFECTS), help="plant this defect, which the suite has to find")
    options = parser.parse_args()
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    print(f"seed: {seed}", flush=True)
    try:
        report = play(seed, options.minutes, options.sabotage)
    except Unavailable as error:
        parser.error(str(error))
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
