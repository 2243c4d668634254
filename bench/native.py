"""Compiles what drives and answers the calls: they share the cores with the chain that is measured.

With mypyc, like the product's byte path. A compiled module cannot be run by `python -m`, so both have a `run`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent.parent
"""Where the programs are run from as they are."""
MODULES = ("bench/__init__.py", "bench/layers.py", "bench/load.py", "bench/upstream.py")


def compile_programs(directory: Path) -> Path:
    """Compile load and upstream into a new directory, and return it: they are run from there. Takes some 20 s.

    Raises `RuntimeError` with what the compiler said.
    """
    (directory / "bench").mkdir(parents=True)
    for module in MODULES:
        shutil.copy(SOURCES / module, directory / module)
    done = subprocess.run(
        [sys.executable, "-m", "mypyc", "--config-file=", "--ignore-missing-imports", *MODULES[1:]],
        cwd=directory,
        env={**os.environ, "MYPYPATH": str(SOURCES / "src"), "MYPYC_OPT_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"load and upstream were not compiled:\n{(done.stdout + done.stderr)[-2000:]}")
    return directory
