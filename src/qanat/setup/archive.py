"""`setup archive`: retire a tunnel for good: its token, its certificates and its domain. For breaches and teardowns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qanat.api.http import APIRefused
from qanat.api.tunnels import TunnelsClient
from qanat.ids import TunnelID
from qanat.setup.errors import explain
from qanat.setup.init import access_token
from qanat.setup.options import SignIn


async def run_archive(
    api_url: str, sign_in: SignIn, tunnel_id: TunnelID, say: Callable[[str], None], *, trust: Path | None = None
) -> None:
    """Archive the tunnel; repeating is harmless. Raises `SetupRefused` or `APIUnreachable`."""
    credential = await access_token(api_url, sign_in, trust)
    try:
        async with TunnelsClient(api_url, credential, trust=trust) as client:
            tunnel = await client.archive(tunnel_id)
    except APIRefused as error:
        raise explain(error, sign_in.kind) from error
    when = tunnel.archived_at.isoformat() if tunnel.archived_at else "now"
    say(f"archived {tunnel.id} at {when}: its token, its certificates and {tunnel.domain} are dead for good")
