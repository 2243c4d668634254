"""JSON as other languages read it: Python would also take `NaN` and `Infinity`, and pass them on.

The other way round, JavaScript writes half of a surrogate pair where it has cut a text inside an emoji; the MCP SDK
refuses a message that holds one.
"""

from __future__ import annotations

import json
import re
from typing import Any

# A backslash behind a backslash is left alone: counting them would take five times as long on a server's 8 MiB.
_HALF = re.compile(
    rb"\\(?<!\\\\)u"
    rb"(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)


def mend_halves(text: bytes) -> bytes:
    """JSON text with a replacement character for escapes that are half of a surrogate pair. As long as before."""
    return _HALF.sub(rb"\\ufffd", text) if b"\\ud" in text or b"\\uD" in text else text


def loads(text: str | bytes | bytearray) -> Any:
    """The value. Raises `ValueError`, also for what is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
