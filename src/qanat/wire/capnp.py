"""The subset of Cap'n Proto that the control channel needs: encode a tree, read a message.

Written messages have one segment, laid out depth first as capnp's own libraries do. Readers accept many segments and
far pointers, and structs shorter or longer than expected: missing fields are zero, extra ones are skipped. A hostile
message meets limits on size, depth and the total it can make us read (capnproto.org/encoding.html).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Union

from qanat.errors import ProtocolError, UnexpectedEnd
from qanat.wire.codec import Buffer, Codec

WORD = 8
MAX_SEGMENTS = 64
MAX_MESSAGE_SIZE = 1024 * 1024
MAX_DEPTH = 32
READ_FACTOR = 4
"""How many times over a message may be read: pointers may overlap, so a small message could claim to be huge."""

_STRUCT, _LIST, _FAR, _OTHER = range(4)
_BYTES, _POINTERS, _COMPOSITE = 2, 6, 7
_BITS = {0: 0, 1: 1, 2: 8, 3: 16, 4: 32, 5: 64, 6: 64}


@dataclass(eq=False)
class CapnpInvalid(ProtocolError):
    """A message that is no well-formed Cap'n Proto, or beyond our limits."""

    code = "capnp_invalid"


@dataclass(frozen=True, slots=True)
class Capability:
    """A pointer to an entry of the payload's capability table."""

    index: int


Pointer = Union["Struct", str, bytes, tuple["Struct", ...], tuple[str, ...], Capability, None]


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct to be written. `data` is padded to whole words; empty texts, data and lists become null pointers."""

    data: bytes = b""
    pointers: tuple[Pointer, ...] = ()

    @property
    def data_words(self) -> int:
        return (len(self.data) + 7) // WORD


def encode(root: Struct) -> bytes:
    """A framed message of one segment."""
    out = bytearray(WORD)
    _place(out, 0, root)
    return struct.pack("<II", 0, len(out) // WORD) + out


def _place(out: bytearray, slot: int, value: Pointer) -> None:
    """Append `value` and make the pointer at byte `slot` point to it."""
    if isinstance(value, Capability):
        struct.pack_into("<II", out, slot, _OTHER, value.index)
    elif isinstance(value, Struct):
        offset = (len(out) - slot) // WORD - 1 if value.data or value.pointers else -1
        struct.pack_into("<iHH", out, slot, offset << 2 | _STRUCT, value.data_words, len(value.pointers))
        _place_structs(out, (value,), value.data_words, len(value.pointers))
    elif value:
        _place_list(out, slot, value)


def _place_list(out: bytearray, slot: int, value: str | bytes | tuple[Struct, ...] | tuple[str, ...]) -> None:
    here = (len(out) - slot) // WORD - 1 << 2 | _LIST
    if isinstance(value, tuple):
        structs = tuple(item for item in value if isinstance(item, Struct))
        if structs:
            data, pointers = max(s.data_words for s in structs), max(len(s.pointers) for s in structs)
            struct.pack_into("<iI", out, slot, here, len(structs) * (data + pointers) << 3 | _COMPOSITE)
            out += struct.pack("<iHH", len(structs) << 2 | _STRUCT, data, pointers)
            _place_structs(out, structs, data, pointers)
            return
        texts = tuple(item for item in value if isinstance(item, str))
        struct.pack_into("<iI", out, slot, here, len(texts) << 3 | _POINTERS)
        start = len(out)
        out += bytes(len(texts) * WORD)
        for index, text in enumerate(texts):
            _place(out, start + index * WORD, text)
        return
    raw = value.encode() + b"\0" if isinstance(value, str) else value
    struct.pack_into("<iI", out, slot, here, len(raw) << 3 | _BYTES)
    out += raw + bytes(-len(raw) % WORD)


def _place_structs(out: bytearray, structs: tuple[Struct, ...], data: int, pointers: int) -> None:
    """Append the bodies of `structs`, each of the given size, then all they point to."""
    start = len(out)
    for item in structs:
        out += item.data.ljust(data * WORD, b"\0") + bytes(pointers * WORD)
    for number, item in enumerate(structs):
        slot = start + (number * (data + pointers) + data) * WORD
        for index, value in enumerate(item.pointers):
            _place(out, slot + index * WORD, value)


class MessageDecoder(Codec["Message"]):
    """Cuts a byte stream into messages; with `only_one`, what follows the first is left for `take_rest`."""

    def __init__(self, max_size: int = MAX_MESSAGE_SIZE, only_one: bool = False) -> None:
        super().__init__()
        self._buffer = Buffer()
        self._max_size = max_size
        self._only_one, self._done = only_one, False
        self._sizes: tuple[int, ...] | None = None

    def receive_data(self, data: bytes) -> None:
        self._buffer.feed(data)
        while not self._done and self._read_table() and self._sizes is not None:
            body = self._buffer.take(sum(self._sizes))
            if body is None:
                return
            self._events.append(Message(_cut(body, self._sizes)))
            self._sizes, self._done = None, self._only_one

    def receive_eof(self) -> None:
        if self._sizes is not None or (self._buffer and not self._done):
            raise UnexpectedEnd("a Cap'n Proto message")

    def take_rest(self) -> bytes:
        """Bytes fed that belong to no whole message yet: what follows a message on a mixed stream."""
        return self._buffer.take_all()

    def _read_table(self) -> bool:
        """Read the segment table; False while there is too little of it."""
        if self._sizes is not None:
            return True
        if len(self._buffer) < 4:
            return False
        count = int.from_bytes(self._buffer.peek(4), "little") + 1
        if count > MAX_SEGMENTS:
            raise CapnpInvalid("too many segments in a Cap'n Proto message")
        table = self._buffer.take((4 + 4 * count + 7) // WORD * WORD)
        if table is None:
            return False
        self._sizes = tuple(size * WORD for size in struct.unpack_from(f"<{count}I", table, 4))
        if sum(self._sizes) > self._max_size:
            raise CapnpInvalid("Cap'n Proto message too large")
        if not self._sizes[0]:
            raise CapnpInvalid("Cap'n Proto message without a root")
        return True


def _cut(body: bytes, sizes: tuple[int, ...]) -> tuple[bytes, ...]:
    segments, start = [], 0
    for size in sizes:
        segments.append(body[start : start + size])
        start += size
    return tuple(segments)


class Message:
    """A received message: its segments, and how much of it may still be read."""

    __slots__ = ("budget", "segments")

    def __init__(self, segments: tuple[bytes, ...]) -> None:
        self.segments = segments
        self.budget = READ_FACTOR * sum(map(len, segments)) // WORD + 64

    def root(self) -> StructReader:
        """The root struct. Raises `CapnpInvalid`."""
        return _struct_at(self, 0, 0, 0)

    def charge(self, words: int) -> None:
        """Account for `words` being read. Raises `CapnpInvalid` when the message makes us read too much."""
        self.budget -= words
        if self.budget < 0:
            raise CapnpInvalid("Cap'n Proto message reads itself over and over")


class StructReader:
    """A struct in a received message. Offsets are in bytes, pointers by index; whatever is absent reads as zero."""

    __slots__ = ("_data", "_depth", "_first_pointer", "_message", "_pointers", "_segment")

    def __init__(self, message: Message, segment: int, start: int, sizes: tuple[int, int], depth: int) -> None:
        self._message, self._segment, self._depth = message, segment, depth
        data_words, self._pointers = sizes
        self._first_pointer = start + data_words * WORD
        self._data = message.segments[segment][start : self._first_pointer]

    def unsigned(self, offset: int, size: int) -> int:
        """A little-endian unsigned integer of `size` bytes."""
        return int.from_bytes(self._data[offset : offset + size], "little")

    def signed(self, offset: int, size: int) -> int:
        """A little-endian signed integer of `size` bytes."""
        return int.from_bytes(self._data[offset : offset + size].ljust(size, b"\0"), "little", signed=True)

    def bit(self, index: int) -> bool:
        """The bit at `index`, counted from the start of the data section."""
        return bool(self.unsigned(index // 8, 1) >> index % 8 & 1)

    def struct(self, index: int) -> StructReader:
        """The struct behind a pointer. Raises `CapnpInvalid`."""
        if index >= self._pointers:
            return _EMPTY
        return _struct_at(self._message, self._segment, self._slot(index), self._depth)

    def data(self, index: int) -> bytes:
        """A Data field. Raises `CapnpInvalid`."""
        if index >= self._pointers:
            return b""
        return _bytes_at(self._message, self._segment, self._slot(index))

    def text(self, index: int) -> str:
        """A Text field. Raises `CapnpInvalid`, also for bad UTF-8."""
        return _text(self.data(index))

    def texts(self, index: int) -> tuple[str, ...]:
        """A List(Text) field. Raises `CapnpInvalid`."""
        if index >= self._pointers:
            return ()
        found = _list_at(self._message, self._segment, self._slot(index))
        if found is None or not found.count:
            return ()
        if found.kind != _POINTERS:
            raise CapnpInvalid("a Cap'n Proto list is not of texts")
        slots = range(found.start, found.start + found.count * WORD, WORD)
        return tuple(_text(_bytes_at(self._message, found.segment, slot)) for slot in slots)

    def structs(self, index: int) -> tuple[StructReader, ...]:
        """A list of structs. Raises `CapnpInvalid`."""
        if index >= self._pointers:
            return ()
        found = _list_at(self._message, self._segment, self._slot(index))
        if found is None or (found.kind != _COMPOSITE and not found.count):
            return ()
        if found.kind != _COMPOSITE:
            raise CapnpInvalid("a Cap'n Proto list is not of structs")
        return _elements(self._message, found, self._depth + 1)

    def capability(self, index: int) -> int | None:
        """Where in the capability table the pointer points; None when it is null. Raises `CapnpInvalid`."""
        if index >= self._pointers:
            return None
        low, high = struct.unpack_from("<II", self._message.segments[self._segment], self._slot(index))
        if not low and not high:
            return None
        if low != _OTHER:
            raise CapnpInvalid("a Cap'n Proto pointer is not a capability")
        return int(high)

    def _slot(self, index: int) -> int:
        return self._first_pointer + index * WORD


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a pointer leads: the pointer word to interpret, and the segment and byte it is relative to."""

    word: int
    segment: int
    base: int


@dataclass(frozen=True, slots=True)
class _List:
    segment: int
    start: int
    count: int
    """Elements; for a composite list, words."""
    kind: int


def _follow(message: Message, segment: int, slot: int) -> _Target:
    """The pointer at `slot`, with far pointers resolved."""
    word = _word(message, segment, slot)
    if word & 3 != _FAR:
        return _Target(word, segment, slot + WORD)
    landing, pad = word >> 32, (word >> 3 & 0x1FFFFFFF) * WORD
    target = _word(message, landing, pad)
    if not word & 4:
        if target & 3 == _FAR:
            raise CapnpInvalid("a Cap'n Proto far pointer leads to another")
        return _Target(target, landing, pad + WORD)
    tag = _word(message, landing, pad + WORD)
    if target & 7 != _FAR or tag & 3 == _FAR:
        raise CapnpInvalid("a Cap'n Proto double-far pointer is malformed")
    return _Target(tag & ~0xFFFFFFFC, target >> 32, (target >> 3 & 0x1FFFFFFF) * WORD)


def _word(message: Message, segment: int, start: int) -> int:
    if segment >= len(message.segments) or start + WORD > len(message.segments[segment]):
        raise CapnpInvalid("a Cap'n Proto pointer leads outside the message")
    return int.from_bytes(message.segments[segment][start : start + WORD], "little")


def _locate(message: Message, target: _Target, size: int) -> int:
    """Where the `size` bytes that a pointer means begin; checks that they exist, and charges for them."""
    offset = (target.word & 0xFFFFFFFF) >> 2
    if offset & 0x20000000:
        offset -= 0x40000000
    start = target.base + offset * WORD
    if target.segment >= len(message.segments):
        raise CapnpInvalid("a Cap'n Proto pointer leads outside the message")
    if start < 0 or start + size > len(message.segments[target.segment]):
        raise CapnpInvalid("a Cap'n Proto pointer leads outside the message")
    message.charge((size + 7) // WORD + 1)
    return start


def _struct_at(message: Message, segment: int, slot: int, depth: int) -> StructReader:
    target = _follow(message, segment, slot)
    if not target.word:
        return _EMPTY
    if target.word & 3 != _STRUCT:
        raise CapnpInvalid("a Cap'n Proto pointer is not a struct")
    if depth >= MAX_DEPTH:
        raise CapnpInvalid("Cap'n Proto message too deep")
    data, pointers = target.word >> 32 & 0xFFFF, target.word >> 48
    start = _locate(message, target, (data + pointers) * WORD) if data or pointers else 0
    return StructReader(message, target.segment if data or pointers else 0, start, (data, pointers), depth + 1)


def _list_at(message: Message, segment: int, slot: int) -> _List | None:
    target = _follow(message, segment, slot)
    if not target.word:
        return None
    if target.word & 3 != _LIST:
        raise CapnpInvalid("a Cap'n Proto pointer is not a list")
    kind, count = target.word >> 32 & 7, target.word >> 35
    size = (count + 1) * WORD if kind == _COMPOSITE else (count * _BITS[kind] + 7) // 8
    return _List(target.segment, _locate(message, target, size), count, kind)


def _elements(message: Message, found: _List, depth: int) -> tuple[StructReader, ...]:
    tag = _word(message, found.segment, found.start)
    count, data, pointers = (tag & 0xFFFFFFFF) >> 2, tag >> 32 & 0xFFFF, tag >> 48
    if tag & 3 != _STRUCT or count * (data + pointers) > found.count:
        raise CapnpInvalid("a Cap'n Proto list holds more than its size")
    if depth >= MAX_DEPTH:
        raise CapnpInvalid("Cap'n Proto message too deep")
    message.charge(count)  # elements may be of no size at all
    first, size = found.start + WORD, (data + pointers) * WORD
    return tuple(
        StructReader(message, found.segment, first + number * size, (data, pointers), depth) for number in range(count)
    )


def _bytes_at(message: Message, segment: int, slot: int) -> bytes:
    found = _list_at(message, segment, slot)
    if found is None or not found.count:
        return b""
    if found.kind != _BYTES:
        raise CapnpInvalid("a Cap'n Proto list is not of bytes")
    return message.segments[found.segment][found.start : found.start + found.count]


def _text(raw: bytes) -> str:
    if not raw:
        return ""
    if raw[-1]:
        raise CapnpInvalid("a Cap'n Proto text does not end in NUL")
    try:
        return raw[:-1].decode()
    except UnicodeDecodeError:
        raise CapnpInvalid("a Cap'n Proto text is not UTF-8") from None


_EMPTY = StructReader(Message((b"",)), 0, 0, (0, 0), 0)
