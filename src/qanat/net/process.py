"""What a process that serves does to itself once: the settings of C's allocator and of Python's garbage collector."""

from __future__ import annotations

import contextlib
import ctypes
import gc

from qanat.net import layer

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_NO_SUCH_LIBRARY = (OSError, AttributeError)
"""Not glibc: everything here is left as it is."""


def use_large_blocks() -> None:
    """Let glibc keep blocks of up to 32 MiB on its heap, and 4 MiB of that when it is free.

    To map each anew, or to give the kernel its pages back between two reads, costs a sixth of the CPU of bulk relays.
    """
    with contextlib.suppress(*_NO_SUCH_LIBRARY):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)
        library.mallopt(_M_TRIM_THRESHOLD, 4 * 1024 * 1024)


def freeze_start() -> None:
    """Everything is set up: what is here now stays, and the collector need not look at it again.

    What only the start needed, some ten megabytes, goes back to the kernel.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(*_NO_SUCH_LIBRARY):
        ctypes.CDLL(None).malloc_trim(0)


def is_compiled() -> bool:
    """Whether the byte path runs as native code, as in our images, and not as Python (`make wheel`)."""
    return not (layer.__file__ or "").endswith(".py")
