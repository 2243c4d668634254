"""One TLS session without I/O, in buffers that all sessions of a thread share.

A `MemoryBIO` keeps for good the largest buffer it ever had, and every session would have two: several kilobytes for
one that is idle, a quarter of a megabyte once it has carried bulk. Here both are empty again after each call, because
TLS is handed whole records: what is incomplete waits, at its real size, with the session it belongs to.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from typing import Any, Final

HEADER_SIZE: Final = 5
RECORD_SIZE: Final = 16384
_MAX_LENGTH: Final = RECORD_SIZE + 2048
"""The largest `length` of a record that TLS could accept (RFC 5246 6.2.3; RFC 8446 allows less)."""
_TYPES: Final = range(20, 25)
"""Of records: change_cipher_spec, alert, handshake, application_data, heartbeat."""


_of_thread: Final = threading.local()


def _buffers() -> tuple[ssl.MemoryBIO, ssl.MemoryBIO]:
    """What comes in and what goes out. Not across threads: OpenSSL works on them without Python's lock."""
    buffers: tuple[ssl.MemoryBIO, ssl.MemoryBIO] | None = getattr(_of_thread, "buffers", None)
    if buffers is None:
        buffers = _of_thread.buffers = ssl.MemoryBIO(), ssl.MemoryBIO()
    return buffers


class TLSEngine:
    """Opens and seals. What the peer must be sent is in `sealed` after each call, whoever sends it empties that.

    Every method raises `ssl.SSLError`, and only that. Belongs to the thread that made it.
    """

    __slots__ = ("_bare", "_incoming", "_outgoing", "sealed", "tls")

    def __init__(self, context: ssl.SSLContext, server_side: bool, server_hostname: str | None) -> None:
        self._incoming, self._outgoing = _buffers()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._bare: Any = getattr(self.tls, "_sslobj", self.tls)
        """What `SSLObject` wraps, or that itself where it wraps nothing: its `read` and `write` only add a call."""
        self.sealed = b""

    def handshake(self, ciphertext: bytes) -> bytes | None:
        """Go on with the handshake; once it is done, what came behind it. None while TLS waits for more."""
        self._incoming.write(ciphertext)
        rest = b""
        try:
            self.tls.do_handshake()
            rest = self._incoming.read()
        except ssl.SSLWantReadError:
            return None  # it has taken everything
        finally:
            self._leave()
        return rest

    def open(self, record: bytes | memoryview) -> bytes | None:
        """The plaintext of one record; empty for the peer's close_notify, None for a message of TLS's own."""
        self._incoming.write(record)
        try:
            plaintext: bytes = self._bare.read(RECORD_SIZE)  # a larger buffer costs several times more
        except ssl.SSLWantReadError:
            self._leave()
            return None
        except BaseException:
            self._leave()
            raise
        if self._outgoing.pending:
            self._leave()
        return plaintext

    def seal(self, plaintext: bytes) -> None:
        """Encrypt."""
        try:
            self._bare.write(plaintext)
            self.sealed += self._outgoing.read()
        except BaseException:
            self._leave()
            raise

    def end(self) -> None:
        """Say close_notify. The peer's own is not waited for."""
        try:
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Leave the buffers as they were found, or the next session would take what is this one's for its own."""
        if self._outgoing.pending:
            self.sealed += self._outgoing.read()
        if self._incoming.pending:
            self._incoming.read()


def end_of_record(data: bytes, start: int) -> int:
    """Where the record at `start` ends; 0 while it is incomplete.

    What can never become a record ends with the data, so that TLS sees it now and refuses it.
    """
    size = len(data)
    if size - start < HEADER_SIZE:
        return 0
    length = data[start + 3] << 8 | data[start + 4]
    end = start + HEADER_SIZE + length
    if end <= size:
        return end
    return 0 if length <= _MAX_LENGTH and data[start] in _TYPES and data[start + 1] == 3 else size
