"""An authorization server and a protected MCP server written by hand, for everything well-made ones do not do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.asgi import serve_asgi
from tests.support.mcp_stub import StubMCP

Document = dict[str, Any] | int


@dataclass
class AuthStub:
    """Everything on one origin. Each issuer is `<url>` or a path below it; documents are whatever a test puts there."""

    url: str = ""
    mcp: StubMCP = field(default_factory=StubMCP)
    documents: dict[str, Document] = field(default_factory=dict)
    """Path to a JSON document or a status; all others are 404."""
    packed: Response | None = None
    """The answer to every question for metadata."""
    challenge: str = "Bearer"
    call_scope: str | None = None
    """Tool calls with a token that was not granted this scope get a 403."""
    registration: dict[str, Any] = field(default_factory=dict)
    """Changes to what a registration answers."""
    token_answer: Response | None = None
    meanwhile: Callable[[], Awaitable[object]] | None = None
    """What happens between a question to the token endpoint and its answer."""
    asked: list[str] = field(default_factory=list)
    """Paths of the metadata that was asked for."""
    registered: list[str] = field(default_factory=list)
    """Paths at which clients were registered."""
    forms: list[dict[str, str]] = field(default_factory=list)
    """What came to token endpoints."""
    strays: list[str] = field(default_factory=list)
    granted: dict[str, str] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """The MCP endpoint."""
        return f"{self.url}/mcp"

    def metadata(self, issuer: str = "", /, **changes: Any) -> dict[str, Any]:
        """Good metadata for the issuer at a path; None takes a field out."""
        base = f"{self.url}{issuer}"
        fields = {
            "issuer": base,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "registration_endpoint": f"{base}/register",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            **changes,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def publish(self, issuer: str = "/one", /, **changes: Any) -> None:
        """The usual documents: a resource at the MCP endpoint, and metadata of its issuer."""
        self.documents["/.well-known/oauth-protected-resource/mcp"] = {
            "resource": self.server,
            "authorization_servers": [f"{self.url}{issuer}"],
        }
        self.documents[f"/.well-known/oauth-authorization-server{issuer}"] = self.metadata(issuer, **changes)

    async def endpoint(self, request: Request) -> Response:
        path = request.url.path
        if path.startswith("/mcp"):
            return await self._protected(request)
        if "/.well-known/" in path:
            self.asked.append(path)
            if self.packed is not None:
                return self.packed
            found = self.documents.get(path, 404)
            return Response(status_code=found) if isinstance(found, int) else JSONResponse(found)
        if path.endswith("/register"):
            self.registered.append(path)
            client = {"client_id": f"client{len(self.registered)}", "token_endpoint_auth_method": "none"}
            return JSONResponse({**await request.json(), **client, **self.registration}, 201)
        if path.endswith("/token"):
            return await self._token(request)
        self.strays.append(path)
        return Response(status_code=404)

    async def _token(self, request: Request) -> Response:
        form = dict(httpx2.QueryParams((await request.body()).decode()))
        self.forms.append(form)
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.token_answer is not None:
            return self.token_answer
        token = f"access{len(self.forms)}"
        self.granted[token] = form.get("code", "")
        answer = {"access_token": token, "token_type": "bearer", "refresh_token": "again", "expires_in": 3600}
        return JSONResponse({**answer, "scope": self.granted[token]})

    async def _protected(self, request: Request) -> Response:
        scope = self.granted.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if scope is None:
            return Response(status_code=401, headers={"www-authenticate": self.challenge})
        wanted = self.call_scope
        if wanted is not None and wanted not in scope.split() and b"tools/call" in await request.body():
            challenge = f'Bearer error="insufficient_scope", scope="{wanted}"'
            return Response(status_code=403, headers={"www-authenticate": challenge})
        return await self.mcp.endpoint(request)


@asynccontextmanager
async def auth_stub() -> AsyncIterator[AuthStub]:
    """A stub that listens on loopback."""
    stub = AuthStub()
    methods = ["GET", "POST", "DELETE"]
    async with serve_asgi(Starlette(routes=[Route("/{path:path}", stub.endpoint, methods=methods)])) as url:
        stub.url = url
        yield stub
