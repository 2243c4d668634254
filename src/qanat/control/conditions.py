"""CEL conditions of federation rules: what may be written, and evaluation that cannot hurt us.

A condition is text from an administrator over claims from a stranger. It runs in a process of its own under CPU and
memory limits (`condition_worker.py`), because the evaluator cannot be interrupted: whatever goes wrong there means
"not matched" here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import cel

from qanat.control.errors import Invalid

FIELD = "match.condition"
MAX_SOURCE = 4096
ANSWER_TIMEOUT = 10.0
"""Seconds of waiting for the worker, which limits itself to 50 ms of CPU: a loaded machine must not deny anybody."""
_STANDARD = frozenset(
    {
        *("size", "startsWith", "endsWith", "contains", "matches", "in", "has", "min", "max"),
        *("int", "uint", "double", "string", "bool", "bytes", "timestamp", "duration", "type", "dyn"),
        *("all", "exists", "exists_one", "map", "filter"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
_STRING = re.compile(r"""r?("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""")
_BOUND = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_FIELDS = re.compile(r"\bclaims\s*(?:\.\s*([A-Za-z_]\w*)|\[\s*(?:\"([^\"\\]*)\"|'([^'\\]*)')\s*\])")
MAX_PROBES = 12


class Conditions:
    """Checks and evaluates conditions. `await close()` ends the worker."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def check(self, source: str) -> None:
        """Raises `Invalid` for a syntax error, a name other than `claims`, no boolean, or always true."""
        if not source or len(source.encode()) > MAX_SOURCE:
            raise Invalid(FIELD, f"must have 1 to {MAX_SOURCE} bytes")
        _check_names(source)
        results = [await self._ask(source, claims) for claims in _probes(source)]
        if any(result not in (True, False, None) for result in results):
            raise Invalid(FIELD, "must evaluate to a boolean")
        if all(result is True for result in results):
            raise Invalid(FIELD, "is always true")

    async def holds(self, source: str, claims: Mapping[str, Any]) -> bool:
        """Whether the condition is true of the claims; an error, or taking too long, is no."""
        return await self._ask(source, claims) is True

    async def _ask(self, source: str, claims: Mapping[str, Any]) -> object:
        """True, False, None for an evaluation error or exceeded limit, or the name of another type."""
        question = json.dumps({"source": source, "claims": claims}).encode() + b"\n"
        async with self._lock:
            try:
                process = await self._worker()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(question)
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    await process.stdin.drain()
                    answer = await process.stdout.readline()
                if answer:
                    return json.loads(answer)
            except (OSError, TimeoutError):
                pass
            except asyncio.CancelledError:
                await self._stop()  # an answer nobody read would be taken for the next one's
                raise
            await self._stop()
            return None

    async def _worker(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "qanat.control.condition_worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        return self._process

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()

    async def close(self) -> None:
        """End the worker, if it runs."""
        async with self._lock:
            await self._stop()


def _check_names(source: str) -> None:
    try:
        references = cel.compile(source).references()
    except Exception:
        raise Invalid(FIELD, "is not a valid CEL expression") from None
    bare = _STRING.sub('""', source)
    unknown = set(references["variables"]) - {"claims"} - set(_BOUND.findall(bare))
    if unknown:
        raise Invalid(FIELD, f"may refer to claims only, not to {min(unknown)}")
    functions = {name for name in references["functions"] if name.isidentifier()} - _STANDARD
    if functions:
        raise Invalid(FIELD, f"unknown function {min(functions)}")
    if "claims" not in references["variables"]:
        raise Invalid(FIELD, "must depend on claims")


def _probes(source: str) -> list[dict[str, Any]]:
    """Claims to try a condition with: none, and each string of the source (and some others) for every claim."""
    fields = {next(filter(None, groups), "") for groups in _FIELDS.findall(source)}
    literals = [match[1][1:-1] for match in _STRING.finditer(source)][:MAX_PROBES]
    values: list[Any] = [*literals, "\u2063no such value\u2063", 0, True, False, []]
    return [{}, *(dict.fromkeys(fields, value) for value in values)]
