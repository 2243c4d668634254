"""qh3's connection, bent to our rules of credit and memory. Everything that reaches into qh3 is in this file.

qh3 grants credit as bytes arrive and doubles its windows; here credit follows what the reader has taken, so a paused
stream stops its sender. Ids of finished streams are kept as ranges, for connections that live through millions.
"""

from __future__ import annotations

import ssl
from typing import cast

from qh3._hazmat import RangeSet
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import Limit, QuicConnection, QuicNetworkPath
from qh3.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from qh3.quic.stream import QuicStream

ALPN = "argotunnel"
IDLE_TIMEOUT = 3.9
"""Seconds of silence after which a connection is dead. The first ping into the silence, which comes within a second,
starts the count again (RFC 9000 10.1), so death is noticed within five. cloudflared says 5; the smaller side wins."""
STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024
MAX_DATAGRAM = 1350
"""UDP payload that passes nearly every path; a server does not probe for more."""


def server_configuration(certificate: bytes, key: bytes) -> QuicConfiguration:
    """How the edge meets connectors. Takes PEM. Raises `ValueError` for what is no certificate or key."""
    configuration = _configuration(is_client=False)
    configuration.load_cert_chain(certificate, key)
    return configuration


def client_configuration(server_name: str, roots: bytes | None) -> QuicConfiguration:
    """How a connector dials. `roots` are PEM certificates that replace the system's."""
    configuration = _configuration(is_client=True)
    configuration.server_name = server_name
    configuration.verify_mode = ssl.CERT_REQUIRED
    if roots is not None:
        configuration.load_verify_locations(cadata=roots)
    return configuration


def _configuration(is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        is_client=is_client,
        idle_timeout=IDLE_TIMEOUT,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        max_datagram_size=MAX_DATAGRAM,
        probe_datagram_size=is_client,
    )


class _Window(Limit):
    """The connection's receive window: qh3's own attempts to double it have no effect."""

    _value = 0

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        if not self._value:
            self._value = value

    def grant(self, value: int) -> None:
        """Let the peer send up to `value` bytes in all."""
        self._value = max(self._value, value)


class _Stream(QuicStream):
    """A stream whose receive window moves only by `grant`."""

    __slots__ = ("limit",)

    @property
    def max_stream_data_local(self) -> int:
        return self.limit

    @max_stream_data_local.setter
    def max_stream_data_local(self, value: int) -> None:
        if not hasattr(self, "limit"):
            self.limit = value


class StreamIds:
    """A set of stream ids, as ranges of each of the four kinds."""

    def __init__(self) -> None:
        self._ranges = [RangeSet() for _ in range(4)]

    def add(self, stream_id: int) -> None:
        number = stream_id >> 2
        self._ranges[stream_id & 3].add(number, number + 1)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id >> 2 in self._ranges[stream_id & 3]


class Engine(QuicConnection):
    """A QUIC connection, sans I/O.

    The peer may have `max_streams` open at first, and more as it uses them. `written` counts the stream bytes handed
    over, which the peer's credit for the connection must cover.
    """

    __slots__ = ("written",)

    def __init__(
        self, configuration: QuicConfiguration, max_streams: int, original_destination: bytes | None = None
    ) -> None:
        super().__init__(configuration=configuration, original_destination_connection_id=original_destination)
        limit = self._local_max_data
        self._local_max_data = _Window(limit.frame_type, limit.name, limit.value)
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = max_streams
        self._streams_finished = cast("set[int]", StreamIds())
        self.written = 0

    @property
    def connection_credit(self) -> int:
        """Stream bytes that the peer lets us send beyond those already handed over."""
        return self._remote_max_data - self.written

    @property
    def streams_left(self) -> int:
        """How many more streams the peer lets us open."""
        return self._remote_max_streams_bidi - self._local_next_stream_id_bidi // 4

    @property
    def initial_stream_credit(self) -> int:
        """What the peer lets us send on a new stream that we open."""
        return self._remote_max_stream_data_bidi_remote

    @property
    def bytes_received(self) -> int:
        """Stream bytes received so far, the highest offsets of all streams together."""
        return self._local_max_data.used

    def open_stream(self) -> int:
        """The id of a new stream."""
        stream_id = self.get_next_available_stream_id()
        self._get_or_create_stream_for_send(stream_id)
        return stream_id

    def stream_credit(self, stream_id: int) -> int:
        """The offset up to which the peer takes bytes of a stream; 0 for one that is gone."""
        stream = self._streams.get(stream_id)
        return stream.max_stream_data_remote if stream is not None else 0

    def highest_sent(self, stream_id: int) -> int | None:
        """How far a stream has been sent; None when it is gone."""
        stream = self._streams.get(stream_id)
        return stream.sender.highest_offset if stream is not None else None

    def write(self, stream_id: int, data: bytes, end: bool = False) -> None:
        """Hand bytes of a stream over, perhaps its last."""
        self.written += len(data)
        self.send_stream_data(stream_id, data, end)

    def forget_unsent(self, size: int) -> None:
        """A stream was reset with `size` bytes handed over but not sent: they need no credit any more."""
        self.written -= size

    def grant_stream(self, stream_id: int, limit: int) -> None:
        """Let the peer send a stream up to offset `limit`."""
        stream = self._streams.get(stream_id)
        if isinstance(stream, _Stream) and limit > stream.limit:
            stream.limit = limit
            self._streams_dirty_limits.add(stream)

    def grant_connection(self, limit: int) -> None:
        """Let the peer send up to `limit` bytes on all streams together."""
        window = self._local_max_data
        assert isinstance(window, _Window)
        window.grant(limit)

    def is_writable(self, stream_id: int) -> bool:
        """Whether a stream's sending half still takes bytes: not ended, not reset, not refused by the peer."""
        stream = self._streams.get(stream_id)
        return stream is not None and not (stream.sender.is_finished or stream.sender.reset_pending)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """Break a stream's sending half off."""
        super().reset_stream(stream_id, error_code)
        self.silence(stream_id)

    def silence(self, stream_id: int) -> None:
        """Send no more data on a stream that has been reset.

        qh3 1.9 would: a lost packet makes it go on with what was queued, beyond the final size it has announced.
        """
        if stream := self._streams.get(stream_id):
            stream.is_blocked = True

    def _write_application(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        try:
            super()._write_application(builder, network_path, now)
        except QuicPacketBuilderStop:
            # qh3 1.9 drops a stream from its queue when a packet has no room left for its reset or stop.
            if len(self._streams_queue) < len(self._streams):
                queued = set(map(id, self._streams_queue))
                self._streams_queue += [each for each in self._streams.values() if id(each) not in queued]
            raise

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        return self._managed(super()._get_or_create_stream(frame_type, stream_id), readable=True)

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        return self._managed(super()._get_or_create_stream_for_send(stream_id), readable=True)

    def _managed(self, stream: QuicStream, readable: bool) -> QuicStream:
        if isinstance(stream, _Stream):
            return stream
        managed = _Stream(
            stream.stream_id, stream.max_stream_data_local, stream.max_stream_data_remote, readable, writable=True
        )
        managed.sender, managed.receiver = stream.sender, stream.receiver  # a peer's one-way stream has no sending half
        assert stream.stream_id is not None
        self._streams[stream.stream_id] = managed
        self._streams_queue[-1] = managed  # where qh3 has just put it
        return managed
