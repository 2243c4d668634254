"""Trying a tool from the console: through a gateway, the way of every call, for the person who asked and nobody else.

The gateway is shown a ticket: a credential for this one request, which it asks us about as about any other. Arguments,
results and the token for the server are in memory for as long as that takes; kept is who tried which tool where.
"""

from __future__ import annotations

import json
import secrets
import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2
from pydantic import SecretStr, ValidationError
from sqlalchemy import delete

from qanat.api.internal import TrialOutcome
from qanat.control.errors import Invalid, Refused
from qanat.control.operations.authentication import PLAYGROUND, digest
from qanat.control.operations.context import Actor, Context, audit
from qanat.control.operations.tunnels import find_live_tunnel
from qanat.control.operations.watches import check
from qanat.control.store.tables import AccessTokenRow, TunnelRow

LIFETIME = timedelta(minutes=2)
TIMEOUT, CONNECT_TIMEOUT = 75.0, 5.0
"""Seconds; a gateway gives up after 60."""
MAX_ANSWER = 2 * 1024 * 1024
MAX_TOKEN = 8192


@dataclass(eq=False)
class PlaygroundUnavailable(Refused):
    """No gateway can be asked."""

    code, status = "playground_unavailable", 502
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Wish:
    """What a person wants to try."""

    route: str
    path: str
    tool: str | None = None
    """None: list the tools."""
    arguments: dict[str, Any] | None = None
    token: SecretStr | None = None


class Playgrounds:
    """Asks the configured gateway."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.gateway_url = context.config.console.playground.gateway_url

    async def run(self, actor: Actor, tunnel_id: str, wish: Wish) -> TrialOutcome:
        """Try it. Raises `Invalid`, `NotFound`, `TunnelArchived`, `PlaygroundUnavailable`."""
        if not self.gateway_url:
            raise PlaygroundUnavailable("No gateway is configured: set console.playground.gateway_url.")
        route, path = check(wish.route, wish.path)
        if wish.tool is not None and not (0 < len(wish.tool) <= 256 and wish.tool.isprintable()):
            raise Invalid("tool", "must be the name of a tool")
        token = None if wish.token is None else wish.token.get_secret_value()
        if token is not None and not (token.isascii() and token.isprintable() and len(token) <= MAX_TOKEN):
            raise Invalid("token", "must be a bearer token")
        ticket = SecretStr(self._context.config.access_token_prefix + secrets.token_urlsafe(32))
        sha256 = digest(ticket.get_secret_value())
        tunnel = await self._begin(actor, tunnel_id, sha256, route=route, path=path, tool=wish.tool)
        trial: dict[str, Any] = {"url": f"https://{route}.{tunnel.domain}{path}", "authorization_token": token}
        if wish.tool is not None:
            trial |= {"tool": wish.tool, "arguments": wish.arguments or {}}
        try:
            return await self._ask(ticket, trial)
        finally:
            async with self._context.database.write() as session:
                await session.execute(delete(AccessTokenRow).where(AccessTokenRow.sha256 == sha256))

    async def _begin(self, actor: Actor, tunnel_id: str, sha256: str, **told: str | None) -> TunnelRow:
        """A ticket, and the trail of what it is for: neither exists without the other."""
        now = self._context.now()
        async with self._context.database.write() as session:
            tunnel = await find_live_tunnel(session, actor, tunnel_id)
            session.add(
                AccessTokenRow(
                    sha256=sha256, id=self._context.new_id("oat"), kind="playground", name="playground",
                    organization_id=tunnel.organization_id, workspace_id=tunnel.workspace_id, subject=actor.id,
                    scope=PLAYGROUND, created_at=now, created_by_actor_id=actor.id, expires_at=now + LIFETIME,
                )
            )  # fmt: skip
            action = "playground.list" if told["tool"] is None else "playground.call"
            details = {name: value for name, value in told.items() if value is not None}
            audit(session, self._context, actor, action, tunnel.id, workspace_id=tunnel.workspace_id, **details)
        return tunnel

    async def _ask(self, ticket: SecretStr, trial: dict[str, Any]) -> TrialOutcome:
        headers = {"authorization": f"Bearer {ticket.get_secret_value()}", "content-type": "application/json"}
        timeout = httpx2.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
        url, body, answer = f"{self.gateway_url}/internal/v1/playground", json.dumps(trial).encode(), b""
        try:
            async with (
                httpx2.AsyncClient(verify=self._tls(), timeout=timeout, trust_env=False) as client,
                client.stream("POST", url, content=body, headers=headers) as response,
            ):
                async for chunk in response.aiter_bytes():
                    answer += chunk
                    if len(answer) > MAX_ANSWER:
                        raise PlaygroundUnavailable("The gateway's answer is too long to be shown.")
        except (httpx2.HTTPError, OSError) as error:
            raise PlaygroundUnavailable(f"The gateway does not answer ({type(error).__name__}).") from None
        if response.status_code != 200:
            raise PlaygroundUnavailable(f"The gateway refused: {_message(answer, response.status_code)}.")
        try:
            return TrialOutcome.model_validate_json(answer)
        except ValidationError:
            raise PlaygroundUnavailable("The gateway's answer makes no sense; is it of the same version?") from None

    def _tls(self) -> ssl.SSLContext:
        ca_file = self._context.config.console.playground.ca_file
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


def _message(answer: bytes, status: int) -> str:
    try:
        return str(json.loads(answer)["error"]["message"])[:500].rstrip(".")
    except (ValueError, KeyError, TypeError):
        return f"status {status}"
