"""Vaults over HTTP: for callers of the API, and the three pages a browser sees."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from qanat.config import Section, describe
from qanat.gateway.access import Caller
from qanat.gateway.errors import APIError, invalid, not_found
from qanat.gateway.oauth.model import AuthMethod, OAuthClient, SignInFailed
from qanat.gateway.oauth.tunnel_config import TunnelOAuth, default_method
from qanat.gateway.oauth.vaults import Redirect, SignIn, Vaults, Wish
from qanat.gateway.request import Token
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
CheckURL = Callable[[str], None]
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}


def cookie_name(state: str) -> str:
    """The cookie that binds a sign-in to its browser: one for each, as one browser may be at several."""
    return f"qanat_sign_in_{hashlib.sha256(state.encode()).hexdigest()[:16]}"


class ConnectionBody(Section):
    """`POST /v1/vaults/{vault}/connections`."""

    url: str = Field(max_length=2048)
    scopes: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    token_endpoint_auth_method: AuthMethod | None = None
    tunnel_oauth: TunnelOAuth | None = None


class StaticBody(Section):
    """`POST /v1/vaults/{vault}/credentials`."""

    url: str = Field(max_length=2048)
    token: Token


class VaultEndpoints:
    """Handlers; the application adds authentication and errors."""

    def __init__(self, vaults: Vaults, check_url: CheckURL) -> None:
        self._vaults, self._check_url = vaults, check_url

    async def connect(self, vault: str, body: Any, caller: Caller) -> dict[str, Any]:
        """Begin a sign-in: where the user has to go, and the host that page leads to."""
        wanted = _parse(ConnectionBody, body)
        self._check_url(wanted.url)
        client = None
        if wanted.client_id:
            secret = wanted.client_secret.get_secret_value() if wanted.client_secret is not None else None
            method = wanted.token_endpoint_auth_method or default_method(secret)
            client = OAuthClient(wanted.client_id, secret, method)
        try:
            sign_in = await self._vaults.begin(
                caller, Wish(vault, wanted.url, wanted.tunnel_oauth, client, wanted.scopes)
            )
        except SignInFailed as failure:
            raise _refusal(failure) from None
        return {"type": "sign_in", "start_url": self._vaults.start_url(sign_in), "authorization_host": sign_in.host}

    async def put(self, vault: str, body: Any, caller: Caller) -> dict[str, Any]:
        """Store a bearer token."""
        wanted = _parse(StaticBody, body)
        self._check_url(wanted.url)
        await self._vaults.put_static(caller, vault, wanted.url, wanted.token)
        return {"type": "credential", "url": wanted.url, "kind": "static_bearer"}

    async def show(self, vault: str, caller: Caller) -> dict[str, Any]:
        """What a vault holds; secrets never come out again."""
        return {"type": "vault", "name": vault, "credentials": await self._vaults.describe(caller, vault)}

    async def disconnect(self, vault: str, url: str, caller: Caller) -> dict[str, Any]:
        """Revoke and forget."""
        if not await self._vaults.disconnect(caller, vault, url):
            raise not_found("There is no such credential")
        return {"type": "credential_deleted", "url": url}

    def pages(self) -> list[Route]:
        """What browsers and authorization servers fetch; no API credential there."""
        return [
            Route("/oauth/start/{state}", self._start, methods=["GET"]),
            Route("/oauth/callback", self._callback, methods=["GET"]),
            Route("/oauth/client", self._client, methods=["GET"]),
        ]

    async def _start(self, request: Request) -> Response:
        state = request.path_params["state"]
        sign_in = self._vaults.open(state, request.cookies.get(cookie_name(state), ""))
        if sign_in is None:
            return _page("This link is no longer valid", "Ask for a new one.", status=404)
        target = html.escape(self._vaults.authorization_url(sign_in), quote=True)
        host, server = html.escape(sign_in.host), html.escape(sign_in.key.url)
        response = _page(
            f"Sign in at {host}",
            f"To give access to <b>{server}</b> you will be sent to <b>{host}</b>.</p>"
            f'<p><a href="{target}">Continue</a>',
        )
        secure = self._vaults.redirect_uri.startswith("https://")
        response.set_cookie(
            cookie_name(state), sign_in.cookie, max_age=600, path="/oauth", httponly=True, samesite="lax", secure=secure
        )
        return response

    async def _callback(self, request: Request) -> Response:
        query = request.query_params
        back = Redirect(
            query.get("state", ""),
            request.cookies.get(cookie_name(query.get("state", "")), ""),
            query.get("code"),
            query.get("iss"),
            query.get("error"),
        )
        try:
            sign_in: SignIn = await self._vaults.complete(back)
        except SignInFailed as failure:
            log.warn("sign-in failed", error=failure.error)
            return _page("Sign-in failed", f"{html.escape(failure.message)} ({html.escape(failure.error)})", status=400)
        return _page(
            "Signed in", f"Access to <b>{html.escape(sign_in.key.url)}</b> is set up. You may close this page."
        )

    async def _client(self, _: Request) -> Response:
        return JSONResponse(self._vaults.document(), headers={"cache-control": "max-age=300"})


def _page(title: str, text: str, status: int = 200) -> HTMLResponse:
    style = "body{font:16px/1.5 system-ui;max-width:36em;margin:4em auto;padding:0 1em}"
    document = (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}</style><h1>{title}</h1><p>{text}</p>"
    )
    return HTMLResponse(document, status, PAGE_HEADERS)


def _refusal(failure: SignInFailed) -> APIError:
    return invalid(str(failure), failure.error)


def _parse(model: Any, body: Any) -> Any:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise invalid(describe(error.errors()[0])) from None
