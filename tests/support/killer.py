"""Runs the qanat command and kills it with SIGKILL just before its n-th change to a file, or never.

A program of its own, so that it can fork: one line of JSON on standard input is one run, two lines of output are its
process id and its end. Started once, it spares every run the imports.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove")


def run(task: dict[str, Any]) -> int:
    """The exit status of a forked `qanat` with that environment; negative when it was killed."""
    child = os.fork()
    if child == 0:
        _become(task)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _become(task: dict[str, Any]) -> None:
    left = task["kill_before"]

    def hook(event: str, _: Any) -> None:
        nonlocal left
        if event in CHANGES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    os.environ.update(task["environment"])
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    sys.argv = ["qanat", *task["arguments"]]
    sys.addaudithook(hook)
    try:
        main()
    except SystemExit as ended:
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    os._exit(0)


if __name__ == "__main__":
    import qanat.cli.setup
    import qanat.setup.directory
    import qanat.setup.init  # noqa: F401 - imported once, for every run
    from qanat.cli import main

    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)
