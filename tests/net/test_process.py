"""What a process gives back once it has started."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STARTS = """
from pathlib import Path
from qanat.net.process import freeze_start, use_large_blocks

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

use_large_blocks()
blocks = [bytes(4000) for _ in range(5000)]
kept = blocks[::50]  # so that the heap cannot simply shrink from its end
del blocks
before = resident()
freeze_start()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library manages its memory in its own way")
def test_memory_that_only_the_start_needed_is_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True, check=True, timeout=60)
    assert int(run.stdout) > 10_000, "kilobytes, of some 20 MB"
