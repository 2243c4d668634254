"""Redirects and challenges that name the upstream are made to name the tunnel hostname. Pure.

A server that builds a redirect from the `Host` it got names an address no caller can reach, and MCP clients follow
redirects only within one origin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qanat.proxy.routes import Authority
from qanat.proxy.upstream_url import UpstreamURL

_ORIGIN = re.compile(rb"(https?)://([^/?#\s\"@]+)(?=[/?#]|\Z)", re.IGNORECASE)
_REFRESH = re.compile(rb"(\s*[0-9.]+\s*[;,]\s*(?:url\s*=\s*)?[\"']?)(.*)", re.IGNORECASE | re.DOTALL)
_METADATA = re.compile(rb"(resource_metadata\s*=\s*\"?)([^\",\s]+)", re.IGNORECASE)
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


@dataclass(frozen=True, slots=True)
class OriginRewriter:
    """Knows the two names a server may give itself: the upstream's, and the tunnel hostname with the wrong scheme."""

    upstream: UpstreamURL
    authority: Authority

    def __call__(self, name: bytes, value: bytes) -> bytes:
        """The value of the field `name` (lower case), rewritten if it names one of our origins."""
        if name == b"www-authenticate":
            return _METADATA.sub(lambda found: found[1] + self.rewrite_url(found[2]), value)
        if name == b"refresh":
            return _REFRESH.sub(lambda found: found[1] + self.rewrite_url(found[2]), value, count=1)
        return self.rewrite_url(value)

    def rewrite_url(self, url: bytes) -> bytes:
        """Replace the origin at the start of `url`, and nothing else."""
        match = _ORIGIN.match(url)
        if match is None or not self._is_ours(match[1].lower(), match[2].decode("latin-1").lower()):
            return url
        return b"https://" + str(self.authority).encode("ascii") + url[match.end() :]

    def _is_ours(self, scheme: bytes, authority: str) -> bool:
        host, port = _split(authority, _DEFAULT_PORTS[scheme])
        if (host, port) == (self.upstream.host, self.upstream.port):
            return True  # with either scheme: uvicorn takes it from X-Forwarded-Proto when we come from loopback
        return scheme == b"http" and host == self.authority.host and port in (80, self.authority.port)


def _split(authority: str, default: int) -> tuple[str, int]:
    host, colon, port = authority.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        return host.strip("[]"), int(port)
    return authority.strip("[]"), default
