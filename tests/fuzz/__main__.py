"""`python -m tests.fuzz [--seconds 300] [--seed N] [--target NAME] [--replay HEX --cuts 1,2]`.

The seconds are for all targets together, and no target gets more than sixty. The seed is printed: with it, a run of
the same length of inputs can be repeated; a failing input is printed whole.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.fuzz.runner import Fuzzer, replay
from tests.fuzz.targets import TARGETS

MAX_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="feed the codecs garbage for a while")
    parser.add_argument("--seconds", type=float, default=300.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    parser.add_argument("--replay", help="one input, in hex, instead")
    parser.add_argument("--cuts", default="")
    options = parser.parse_args()
    names = options.target or sorted(TARGETS)
    if options.replay is not None:
        cuts = tuple(int(cut) for cut in options.cuts.split(",") if cut)
        failures = [replay(name, TARGETS[name], bytes.fromhex(options.replay), cuts) for name in names]
        return _report([failure for failure in failures if failure is not None])
    print(f"seed {options.seed}")
    seconds = min(MAX_SECONDS, options.seconds / len(names))
    failures = []
    for name in names:
        fuzzer = Fuzzer(name, TARGETS[name], options.seed)
        failures.append(fuzzer.run_for(seconds))
        print(f"{name}: {fuzzer.inputs} inputs, {'FAILED' if failures[-1] else 'fine'}", flush=True)
    return _report([failure for failure in failures if failure is not None])


def _report(failures: list[object]) -> int:
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
