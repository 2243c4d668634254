"""The audit log: one JSON line per MCP request, each chained to the one before by a hash.

A line's `hash` covers its own text and the previous line's hash, so that an edited, removed, inserted or moved line is
found offline by `verify`. With a key the hash is an HMAC, and whoever lacks the key cannot rebuild the chain either.
The end of a chain cannot vouch for itself: keep the head (printed by `verify`, logged at each stop) elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from qanat.errors import QanatError

GENESIS = "0" * 64


@dataclass(eq=False)
class AuditBroken(QanatError):
    """A line that does not follow from the one before it."""

    code: ClassVar[str] = "audit_broken"
    line: int
    """Counted from 1."""
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.problem}"


class Chain:
    """Writes a chain: `append` gives the next line. Start from a head to go on with an existing file."""

    def __init__(self, key: bytes = b"", seq: int = 0, head: str = GENESIS) -> None:
        self._key, self.seq, self.head = key, seq, head

    def append(self, entry: dict[str, Any]) -> bytes:
        """The line for `entry`, line break included. Keys `seq`, `prev` and `hash` are the chain's own."""
        self.seq += 1
        body = {**entry, "seq": self.seq, "prev": self.head}
        self.head = _digest(self._key, body)
        return _encode({**body, "hash": self.head}) + b"\n"


@dataclass(frozen=True, slots=True)
class Verified:
    """A sound chain: how many lines it has, and its head."""

    lines: int
    head: str


def verify(lines: Iterable[bytes], key: bytes = b"", expected_head: str | None = None) -> Verified:
    """Check a whole log. Raises `AuditBroken` naming the first line that is wrong.

    `expected_head` is a head noted earlier: it must be the hash of some line, or the end has been cut off.
    """
    chain_head, seq, number, head_seen = GENESIS, 0, 0, expected_head in (None, GENESIS)
    for number, line in enumerate(lines, start=1):
        seq, chain_head = check_line(line, number, key, seq, chain_head)
        head_seen = head_seen or chain_head == expected_head
    if not head_seen:
        raise AuditBroken(number + 1, f"the line with hash {expected_head} is missing: the end was cut off")
    return Verified(number, chain_head)


def check_line(line: bytes, number: int, key: bytes, seq: int, head: str) -> tuple[int, str]:
    """The sequence number and hash of a line that follows `seq` and `head`. Raises `AuditBroken`."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("hash"), str):
        raise AuditBroken(number, "not an audit line")
    if _encode(entry) != line.rstrip(b"\n"):  # the same in other words, or a key given twice: not as it was written
        raise AuditBroken(number, "was changed: it is not spelled as it was written")
    stated = entry.pop("hash")
    if not hmac.compare_digest(stated.encode(), _digest(key, entry).encode()):
        raise AuditBroken(number, "was changed: its hash does not match its content")
    if entry.get("seq") != seq + 1 or entry.get("prev") != head:
        raise AuditBroken(number, f"does not follow line {number - 1}: a line was removed, inserted or moved before it")
    return seq + 1, stated


def _encode(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":"), ensure_ascii=True).encode()


def _digest(key: bytes, body: dict[str, Any]) -> str:
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=True, sort_keys=True).encode()
    return hmac.digest(key, text, "sha256").hex() if key else hashlib.sha256(text).hexdigest()


def arguments_hash(key: bytes, arguments: Any) -> str:
    """A keyed hash of a call's arguments: equal arguments are recognised, none can be read back or guessed."""
    canonical = json.dumps(arguments, separators=(",", ":"), sort_keys=True, ensure_ascii=True).encode()
    return hmac.digest(key, canonical, "sha256").hex()
