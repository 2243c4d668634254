"""The Cap'n Proto subset."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.errors import UnexpectedEnd
from qanat.wire.capnp import MAX_DEPTH, Capability, CapnpInvalid, Message, MessageDecoder, Struct, encode
from tests.fuzz.targets import read_everything
from tests.support.chunks import cut, feed, survives
from tests.support.requirements import requirement


def read(data: bytes) -> Message:
    decoder = MessageDecoder()
    decoder.receive_data(data)
    [message] = decoder.events_received()
    decoder.receive_eof()
    return message


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def framed(*segments: bytes) -> bytes:
    table = struct.pack(f"<{len(segments) + 1}I", len(segments) - 1, *(len(segment) // 8 for segment in segments))
    return table + bytes(-len(table) % 8) + b"".join(segments)


@requirement("wire:round-trip")
@given(st.integers(0, 2**64 - 1), st.text(max_size=50), st.binary(max_size=50), st.lists(st.text(max_size=9)))
def test_what_is_written_is_read(number: int, text: str, data: bytes, texts: list[str]) -> None:
    inner = Struct(b"\x05", (text,))
    root = Struct(struct.pack("<Q", number), (text, data, tuple(texts), inner, (inner, inner), Capability(3)))
    reader = read(encode(root)).root()
    assert reader.unsigned(0, 8) == number
    assert (reader.text(0), reader.data(1), list(reader.texts(2))) == (text, data, texts)
    assert reader.struct(3).text(0) == text
    assert [(item.unsigned(0, 1), item.text(0)) for item in reader.structs(4)] == [(5, text)] * 2
    assert reader.capability(5) == 3


@requirement("wire:capnp:evolution")
def test_missing_fields_read_as_zero_and_extra_ones_are_skipped() -> None:
    reader = read(encode(Struct(b"\x01"))).root()
    assert (reader.unsigned(8, 8), reader.signed(8, 4), reader.bit(64)) == (0, 0, False)
    assert (reader.text(0), reader.data(3), reader.texts(1), reader.structs(2)) == ("", b"", (), ())
    assert reader.capability(0) is None
    assert reader.struct(5).struct(5).unsigned(0, 8) == 0
    longer = read(encode(Struct(bytes(64), ("a", "b", "c")))).root()
    assert longer.text(1) == "b"


@requirement("wire:capnp:far")
def test_far_pointers_lead_to_other_segments() -> None:
    root_far = 2 | 0 << 3 | 1 << 32  # single far: segment 1, word 0
    there = words(0 | 1 << 32, 77)  # the landing pad is the struct pointer, its data follows
    assert read(framed(words(root_far), there)).root().unsigned(0, 8) == 77
    double = 2 | 4 | 0 << 3 | 1 << 32  # double far: segment 1, word 0 and 1
    pad = words(2 | 0 << 3 | 2 << 32, 0 | 1 << 32)
    assert read(framed(words(double), pad, words(78))).root().unsigned(0, 8) == 78


@requirement("wire:chunks")
@given(st.lists(st.integers(0, 500), max_size=8))
def test_cutting_changes_nothing(cuts: list[int]) -> None:
    data = encode(Struct(b"abc", ("x", b"y"))) * 2 + framed(words(0, 0), words(0))
    whole = [message.segments for message in feed(MessageDecoder(), [data])[0]]
    assert len(whole) == 3
    assert [message.segments for message in feed(MessageDecoder(), cut(data, cuts))[0]] == whole


@requirement("wire:capnp:one")
def test_with_only_one_the_rest_is_left_alone() -> None:
    decoder = MessageDecoder(only_one=True)
    decoder.receive_data(encode(Struct(b"a")) + b"body that is no message")
    assert len(decoder.events_received()) == 1
    assert decoder.take_rest() == b"body that is no message"


@requirement("wire:capnp:limits")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack("<I", 1000), "too many segments"),
        (struct.pack("<II", 0, 2**31), "too large"),
        (struct.pack("<II", 0, 0), "without a root"),
    ],
)
def test_a_frame_beyond_the_limits_is_refused_at_once(data: bytes, reason: str) -> None:
    with pytest.raises(CapnpInvalid, match=reason):
        MessageDecoder().receive_data(data)


@requirement("wire:capnp:limits")
def test_a_struct_that_contains_itself_is_refused() -> None:
    itself = words(0xFFFFFFFC & (-1 << 2) | 1 << 48)  # offset -1, one pointer: the pointer's own word
    reader = read(framed(itself)).root()

    def descend() -> None:
        deeper = reader
        for _ in range(MAX_DEPTH + 1):
            deeper = deeper.struct(0)

    with pytest.raises(CapnpInvalid, match="too deep"):
        descend()


@requirement("wire:capnp:limits")
def test_a_small_message_cannot_claim_to_be_a_large_list() -> None:
    empty_elements = words(0 | 1 << 48, 1 | 7 << 32, 2**28 << 2)  # composite list of 2**28 elements of no size
    with pytest.raises(CapnpInvalid, match="over and over"):
        read(framed(empty_elements)).root().structs(0)


@requirement("wire:capnp:limits")
@pytest.mark.parametrize(
    "root",
    [
        words(0 | 1000 << 2 | 1 << 32),  # outside
        words(0 | (2**30 - 5) << 2 | 1 << 32),  # before the beginning
        words(1),  # a list
        words(3),  # a capability
        words(2 | 9 << 32),  # far, no such segment
        words(2 | 100 << 3),  # far, outside
        words(2 | 0 << 3),  # far to itself
        words(2 | 4 | 0 << 3, 0),  # double far to nothing of the kind
    ],
)
def test_bad_root_pointers_are_refused(root: bytes) -> None:
    with pytest.raises(CapnpInvalid):
        read(framed(root)).root()


@requirement("wire:capnp:limits")
def test_pointers_of_the_wrong_kind_are_refused() -> None:
    reader = read(encode(Struct(b"", (Struct(b"a"), "text", (Struct(b"a"),), b"no nul", ("a",), b"\xff\0")))).root()
    for wrong in (
        lambda: reader.text(0),
        lambda: reader.texts(1),
        lambda: reader.structs(1),
        lambda: reader.struct(1),
        lambda: reader.data(2),
        lambda: reader.text(3),
        lambda: reader.data(4),
        lambda: reader.text(5),
        lambda: reader.capability(0),
    ):
        with pytest.raises(CapnpInvalid):
            wrong()


def test_the_end_inside_a_message_is_unexpected() -> None:
    decoder = MessageDecoder()
    decoder.receive_data(encode(Struct(b"a"))[:-1])
    with pytest.raises(UnexpectedEnd):
        decoder.receive_eof()


@requirement("wire:garbage")
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_raises_only_protocol_error(chunks: list[bytes]) -> None:
    survives(MessageDecoder, chunks)


@requirement("wire:garbage")
@given(st.binary(min_size=8, max_size=200))
def test_reading_garbage_raises_only_protocol_error(data: bytes) -> None:
    data = data[: len(data) // 8 * 8]
    read_everything(framed(data), ())
