"""Recognises an upstream that refuses the Host it was sent: the commonest fault of MCP servers behind a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qanat.logger import get_logger
from qanat.proxy.routes import Authority

if TYPE_CHECKING:
    from qanat.proxy.route import Route

log = get_logger("qanat.proxy")
_LOOK_AT = 512
"""Bytes of a 403's body that are looked at for the words."""


class HostHint:
    """Watches one answer; says once per route what to change."""

    def __init__(self, route: Route, authority: Authority, status: int) -> None:
        self._route, self._authority = route, authority
        self._seen = b""
        if status == 421:
            self._say()

    def passed(self, data: bytes) -> None:
        """A piece of the answer's body went by."""
        if self._route.hinted or len(self._seen) >= _LOOK_AT:
            return
        self._seen += data[:_LOOK_AT]
        if b"Origin" in self._seen or b"Host" in self._seen:
            self._say()

    def _say(self) -> None:
        self._route.hinted = True
        sent = self._route.host_for(self._authority).decode("latin-1")
        log.warn(
            f'upstream rejected Host "{sent}"; set host_header or the server\'s allowed hosts', route=self._route.name
        )
