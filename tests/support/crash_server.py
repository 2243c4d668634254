"""Runs control planes that are meant to die: for each `start` line a fork that serves, and prints its pid and URL.

A script, so that the slow part of a start (imports) happens once and not two hundred times.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from qanat.control.server import serve
from tests.support.control import GENEROUS, control_config


async def run(data_dir: Path) -> None:
    config = control_config(data_dir, limits=GENEROUS | {"tunnels_per_organization": 10**6})
    async with serve(config) as server:
        print(os.getpid(), server.url, server.credential.get_secret_value(), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(run(Path(sys.argv[1])))
        os.waitpid(child, 0)
        print("died", flush=True)


if __name__ == "__main__":
    main()
