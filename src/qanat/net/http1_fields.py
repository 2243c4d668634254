"""Field lines of HTTP/1.1 (RFC 9112 section 5): read strictly, asked for by name, written back. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from qanat.net.errors import HTTPViolation

Header = tuple[bytes, bytes]
"""A field line: its name as it was written, its value without the white space before it.

White space behind a value does not count (RFC 9110 5.5) and `values` leaves it out, but it is kept for forwarding:
there are servers that see it, and a proxy must not change what they decide.
"""

MAX_FIELDS: Final = 200
_KEPT: Final = 2048
_MAX_KEPT: Final = 128
"""How much is remembered of what peers send over and over, and how long it may be for that."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VISIBLE: Final = bytes(byte for byte in range(256) if byte == 0x09 or (byte >= 0x20 and byte != 0x7F))
"""What a field line may hold (RFC 9110 5.5)."""
_STRUCTURAL: Final = frozenset((b"content-length", b"transfer-encoding", b"host", b"connection"))
"""Fields that decide where a message goes or ends: written in one way only."""
_RECURRENT: Final = _STRUCTURAL | {
    b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"content-encoding", b"content-type", b"date",
    b"keep-alive", b"mcp-protocol-version", b"server", b"user-agent", b"vary", b"via", b"x-accel-buffering",
}  # fmt: skip
"""Fields that are the same in message after message, and no secret."""


J = TypeVar("J")


class Remembering(dict[bytes, J]):
    """`remembering[name]` is what a function says of a field name as it was written.

    Remembers, because the same dozen names come with each message, and not too much, because peers choose them.
    """

    def __init__(self, judge: Callable[[bytes], J]) -> None:
        super().__init__()
        self._judge = judge

    def __missing__(self, name: bytes) -> J:
        said = self._judge(name)
        if len(name) <= _MAX_KEPT:
            if len(self) >= _KEPT:
                self.clear()
            self[name] = said
        return said


class Fields:
    """Field lines that know their values by name, because those are asked for a dozen times about each message.

    Equal to the tuple of its lines.
    """

    __slots__ = ("by_name", "lines", "passing")

    def __init__(self, lines: Iterable[Header] = (), by_name: dict[bytes, list[bytes]] | None = None) -> None:
        self.lines = list(lines)
        """In order, and with repetitions."""
        self.by_name = _by_name(self.lines) if by_name is None else by_name
        """From a name in lower case to its values in order, without the white space behind them. Not to be changed."""
        self.passing: Block | None = None
        """For who passes a message on: what goes further of it, once that has been asked."""

    def __iter__(self) -> Iterator[Header]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fields | tuple):
            return NotImplemented
        return self.lines == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self.lines))

    def __repr__(self) -> str:
        return repr(self.lines)


Headers = tuple[Header, ...] | Fields


class Block:
    """Field lines that are sent again and again."""

    __slots__ = ("encoded", "lines", "made_for")

    def __init__(self, lines: Sequence[Header] = (), made_for: bytes = b"") -> None:
        self.lines = lines
        """Not to be changed."""
        self.made_for = made_for
        """For whoever makes it: what it depends on besides the message it was made of."""
        self.encoded: bytes | None = None
        """The lines as they go on the wire, once they went."""


class Outgoing:
    """The field lines of one message to be sent: a block that may be another's, too, and behind it lines of its own."""

    __slots__ = ("block", "own")

    def __init__(self, block: Block, own: list[Header]) -> None:
        self.block, self.own = block, own

    def __iter__(self) -> Iterator[Header]:
        return iter([*self.block.lines, *self.own])

    def encode(self, start_line: bytes) -> bytes:
        """The whole head as it goes on the wire."""
        block = self.block
        if block.encoded is None:
            block.encoded = b"\r\n".join([*map(_join_field, block.lines), b""])
        own = b""
        for name, value in self.own:
            own += b"%b: %b\r\n" % (name, value)
        return b"%b\r\n%b%b\r\n" % (start_line, block.encoded, own)


def _by_name(lines: Iterable[Header]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        found.setdefault(name.lower(), []).append(value.rstrip(b" \t"))
    return found


def values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Every value of the field `name` (lower case), in order. Not to be changed."""
    if isinstance(headers, Fields):
        return headers.by_name.get(name, [])
    size = len(name)  # compared first: lengths are cheaper than letters
    return [value.rstrip(b" \t") for key, value in headers if len(key) == size and key.lower() == name]


def tokens(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """The members of a comma-separated field, in lower case and over all its lines."""
    found = values(headers, name)
    return found and [member for value in found for part in value.split(b",") if (member := part.strip(b" \t").lower())]


_join_field: Final = b": ".join


def encode_head(start_line: bytes, headers: Iterable[Header]) -> bytes:
    """A start line and field lines as they go on the wire."""
    return b"\r\n".join([start_line, *map(_join_field, headers), b"\r\n"])


def parse_fields(lines: list[bytes]) -> Fields:
    """Field lines as pairs. Raises `HTTPViolation`; folded lines (`obs-fold`) are refused."""
    return parse_block(b"\r\n".join(lines)) if lines else Fields()


def parse_block(block: bytes) -> Fields:
    """The same, of at least one line, from lines joined by CRLF."""
    lines = block.split(b"\r\n")
    if len(lines) > MAX_FIELDS:
        raise HTTPViolation("too many header fields", 431)
    fields: list[Header] = []
    by_name: dict[bytes, list[bytes]] = {}
    for line in lines:
        key, field, values = _known_lines.get(line) or _read_line(line)
        fields.append(field)
        by_name[key] = [*by_name[key], *values] if key in by_name else values
    return Fields(fields, by_name)


_known_lines: Final[dict[bytes, tuple[bytes, Header, list[bytes]]]] = {}
"""Lines read before, of fields that recur: the name in lower case, the field, and its value as a list."""


def _read_line(line: bytes) -> tuple[bytes, Header, list[bytes]]:
    if line.translate(None, _VISIBLE):
        raise HTTPViolation("control character in a header field")
    name, colon, value = line.partition(b":")
    if not colon or _TOKEN.fullmatch(name) is None:
        raise HTTPViolation("malformed header field")
    key, value = name.lower(), value.lstrip(b" \t")
    bare = value.rstrip(b" \t")
    read = key, (name, bare if key in _STRUCTURAL else value), [bare]
    if key in _RECURRENT and len(line) <= _MAX_KEPT:
        if len(_known_lines) >= _KEPT:
            _known_lines.clear()  # peers choose them
        _known_lines[line] = read
    return read
