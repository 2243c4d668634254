"""HTTP/2, sans-I/O, for both ends: `HTTP2Connection`, its `Settings`, and the events it reports."""

from qanat.wire.http2.connection import HTTP2Connection
from qanat.wire.http2.frames import ErrorCode, HTTP2Error, Settings

__all__ = ["ErrorCode", "HTTP2Connection", "HTTP2Error", "Settings"]
