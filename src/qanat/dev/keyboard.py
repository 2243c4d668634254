"""What can be typed while `qanat dev` runs: ask again, or take a part away and see what is said then."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

from qanat.dev.request import HopFailed, ask, example_request
from qanat.stack import Stack

HELP = "type `ask` to send the request again, or `stop edge` (or another part) to see what is said then"


async def obey(stack: Stack, model: str) -> AsyncIterator[str]:
    """What to print for each command, until the input ends."""
    async for line in typed_lines():
        words = line.split()
        if words == ["ask"]:
            yield await _ask(stack, model)
        elif len(words) == 2 and words[0] == "stop":
            yield await _stop(stack, words[1])
        elif words:
            yield HELP


async def _ask(stack: Stack, model: str) -> str:
    try:
        answer = await ask(stack, example_request(stack, model))
    except HopFailed as failure:
        return f"failed at {failure}"
    return f"answered after {answer.seconds * 1000:.0f} ms"


async def _stop(stack: Stack, part: str) -> str:
    if part not in stack.running:
        return f"no part {part!r} is running; there are {', '.join(stack.running)}"
    await stack.stop_part(part)
    return f"stopped {part}"


async def typed_lines() -> AsyncIterator[str]:
    """Lines of standard input, without making it non-blocking: a terminal shares that with our output."""
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def read() -> None:
        if not chunks.full():
            chunks.put_nowait(os.read(descriptor, 4096))

    if os.isatty(descriptor) and os.tcgetpgrp(descriptor) != os.getpgrp():
        return  # in the background: to read would stop us
    try:
        loop.add_reader(descriptor, read)
    except OSError:
        return  # a file, or nothing at all
    try:
        rest = b""
        while chunk := await chunks.get():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")
    finally:
        loop.remove_reader(descriptor)
