"""Typed ids.

Each kind is a type of its own, so that a rule cannot pass for a tunnel. On the wire an id is a prefix, `01` and 22
base58 characters (128 random bits); clients treat it as opaque.
"""

from __future__ import annotations

import re
from typing import NewType
from uuid import UUID

OrganizationID = NewType("OrganizationID", str)
WorkspaceID = NewType("WorkspaceID", str)
TunnelID = NewType("TunnelID", str)
CertificateID = NewType("CertificateID", str)
TokenID = NewType("TokenID", str)
ServiceAccountID = NewType("ServiceAccountID", str)
IssuerID = NewType("IssuerID", str)
RuleID = NewType("RuleID", str)
RequestID = NewType("RequestID", str)
APIKeyID = NewType("APIKeyID", str)
UserID = NewType("UserID", str)
ConnectorID = NewType("ConnectorID", UUID)
TunnelUUID = NewType("TunnelUUID", UUID)
"""The tunnel's id inside the tunnel token and on the wire between connector and edge."""

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BODY_LENGTH = 22


def base58(value: int, length: int = BODY_LENGTH) -> str:
    """`value` in base58, left-padded with the zero digit to `length` characters."""
    digits: list[str] = []
    while value:
        value, digit = divmod(value, 58)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits)).rjust(length, ALPHABET[0])


def make_id(prefix: str, random_bytes: bytes) -> str:
    """`<prefix>_01…` from exactly 16 random bytes."""
    if len(random_bytes) != 16:
        raise ValueError("an id takes 16 random bytes")
    return f"{prefix}_01{base58(int.from_bytes(random_bytes, 'big'))}"


def is_well_formed(prefix: str, value: str) -> bool:
    """Whether `value` could be an id of that kind: the prefix, then 1 to 64 letters and digits."""
    return re.fullmatch(rf"{re.escape(prefix)}_[0-9A-Za-z]{{1,64}}", value) is not None
