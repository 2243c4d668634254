"""Promises of setup, the images, Compose and the charts."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "setup:17": "The CA is ECDSA P-256, five years, critical CA:TRUE with a key identifier, and under 8 kB",
    "setup:18": "The server certificate is for 90 days and the wildcard name, names the CA's key, and is RSA on request",
    "setup:19": "openssl verify accepts the pair, also in strict mode",
    "setup:20": "The documented openssl recipe yields a CA and a server certificate that are accepted",
    "setup:36": "A key, two certificates, 9 kB, a leaf, RSA-1024 and SHA-1 are each refused with their own reason",
}

GAPS: dict[str, str] = {}
