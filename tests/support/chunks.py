"""Bytes cut anywhere: a codec must report the same whatever TCP does to what it is fed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

from qanat.errors import ProtocolError
from qanat.wire.codec import Codec

E = TypeVar("E")


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places, wherever they fall (taken modulo its length)."""
    edges = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def feed(codec: Codec[E], chunks: list[bytes]) -> tuple[list[E], str | None]:
    """Every event of these chunks, and the error they ended in, if any."""
    events: list[E] = []
    try:
        for chunk in chunks:
            codec.receive_data(chunk)
            events += codec.events_received()
    except ProtocolError as error:
        return events + codec.events_received(), str(error)
    return events, None


def exchange(a: Codec[Any], b: Codec[Any]) -> tuple[list[Any], list[Any]]:
    """Let two codecs talk until both are quiet; returns what each reported."""
    events_a: list[Any] = []
    events_b: list[Any] = []
    while True:
        to_b, to_a = a.data_to_send(), b.data_to_send()
        if not to_b and not to_a:
            return events_a + a.events_received(), events_b + b.events_received()
        if to_b:
            b.receive_data(to_b)
            events_b += b.events_received()
        if to_a:
            a.receive_data(to_a)
            events_a += a.events_received()


def survives(make: Callable[[], Codec[Any]], chunks: list[bytes]) -> None:
    """Feed anything: nothing but `ProtocolError` may come out."""
    codec = make()
    try:
        for chunk in chunks:
            codec.receive_data(chunk)
            codec.events_received()
            codec.data_to_send()
        codec.receive_eof()
    except ProtocolError:
        return
