"""What the proxy promises: the numbered conformance checks of its specification, in our words."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "proxy:9": "Path and query reach the upstream of the named route byte for byte",
}
GAPS: dict[str, str] = {}
