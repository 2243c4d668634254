"""The tunnel token: the one credential of a connector.

Standard base64, padded, over a JSON object: account tag, tunnel id, secret, and perhaps a region. It is as strict as
cloudflared: URL-safe or unpadded base64 is refused, unknown keys are ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from uuid import UUID

from qanat.errors import ProtocolError
from qanat.ids import TunnelUUID

MAX_TOKEN_SIZE = 16 * 1024


@dataclass(eq=False)
class TokenInvalid(ProtocolError):
    """A tunnel token that does not parse. Never carries any of its text."""

    code = "tunnel_token_invalid"
    status = 401
    reason: str = "Provided Tunnel token is not valid."


@dataclass(frozen=True, slots=True)
class TunnelToken:
    """What a tunnel token says. `secret` is the raw bytes, of any length."""

    account_tag: str
    tunnel_uuid: TunnelUUID
    secret: bytes = field(repr=False)
    endpoint: str = ""
    """Region name; empty for none."""

    def encode(self) -> str:
        """The token as text: a secret, for its owner only."""
        fields = {
            "a": self.account_tag,
            "s": base64.b64encode(self.secret).decode(),
            "t": str(self.tunnel_uuid),
        }
        if self.endpoint:
            fields["e"] = self.endpoint
        return base64.b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode()


def parse_token(text: str) -> TunnelToken:
    """The token in `text`, which may be surrounded by white space. Raises `TokenInvalid`."""
    text = text.strip()
    if len(text) > MAX_TOKEN_SIZE:
        raise TokenInvalid
    try:
        fields = json.loads(_base64(text))
        if not isinstance(fields, dict):
            raise TokenInvalid
        return TunnelToken(
            account_tag=_text(fields, "a"),
            tunnel_uuid=TunnelUUID(UUID(_text(fields, "t"))),
            secret=_base64(_text(fields, "s")),
            endpoint=_text(fields, "e") if "e" in fields else "",
        )
    except (ValueError, RecursionError):  # bad base64, bad UTF-8, bad JSON, bad UUID: which one is nobody's business
        raise TokenInvalid from None


def _base64(text: str) -> bytes:
    """Strict standard base64. Like Go's decoder it skips line breaks, and nothing else."""
    compact = text.replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(compact.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise TokenInvalid from None


def _text(fields: dict[str, object], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise TokenInvalid
    return value
