"""Signing in and out, by an operator's credential or at the configured provider.

A session that begins ends the one its browser had before. `return_to` is a path of this console or nothing.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from qanat.control.console.pages import ROOT, SECURITY_HEADERS, Visit, go, render
from qanat.control.errors import AuthenticationFailed, PermissionDenied, Refused
from qanat.control.openid import SignInFailed
from qanat.control.operations import Operations
from qanat.control.rest.limits import Buckets

START = "/tunnels"
MAX_RETURN = 512
ATTEMPT_SECONDS = 600
MAX_ATTEMPTS = 5
"""Sign-ins a browser may have under way at once; beginning another one forgets the oldest."""
_PAGE = re.compile(rf"{ROOT}/[A-Za-z0-9_/-]*(\?[A-Za-z0-9_=&%.:-]*)?", re.ASCII)
"""What may be returned to: no host, no dot segments, nothing a browser could read as another address."""


def is_secure(request: Request) -> bool:
    """Whether browsers reach us over TLS."""
    operations: Operations = request.app.state.operations
    return operations.context.public_url.startswith("https://")


def cookie_name(request: Request) -> str:
    """The session cookie's name; over TLS a browser guarantees by the prefix that no other host has set it."""
    return "__Host-qanat" if is_secure(request) else "qanat"


def attempt_cookie(request: Request, state: str) -> str:
    """The cookie's name that holds a sign-in while its browser is at the provider: one for each, as tabs have."""
    return f"{cookie_name(request)}-attempt-{hashlib.sha256(state.encode()).hexdigest()[:16]}"


def to_sign_in(request: Request) -> Response:
    """Send somebody without a session to sign in, and remember where they were going."""
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    wanted = safe_return(path) if request.method == "GET" and not request.url.path.endswith("/live") else ""
    return go("/sign-in" + (f"?return_to={quote(wanted)}" if wanted else ""))


def safe_return(path: str) -> str:
    """The path when it is a page of this console, else nothing."""
    return path if len(path) <= MAX_RETURN and _PAGE.fullmatch(path) and "//" not in path else ""


async def page(request: Request) -> Response:
    """The form."""
    return _form(request)


async def sign_in(request: Request) -> Response:
    """Take a credential, begin a session that has nothing of any earlier one."""
    operations: Operations = request.app.state.operations
    state = request.state
    count_attempt(request)
    try:
        cookie = await operations.console_sessions.sign_in(
            state.form.get("credential", ""), state.client_address, state.request_id
        )
    except (AuthenticationFailed, PermissionDenied) as error:
        return _form(request, error)
    return await begin(request, cookie.get_secret_value(), state.form.get("return_to", ""))


async def to_provider(request: Request) -> Response:
    """Send the browser to the provider."""
    operations: Operations = request.app.state.operations
    count_attempt(request)
    try:
        begun = await operations.single_sign_on.begin(safe_return(request.query_params.get("return_to", "")))
    except SignInFailed as error:
        return _failed(request, error)
    response = RedirectResponse(begun.url, 303, dict(SECURITY_HEADERS))
    others = [name for name in request.cookies if name.startswith(f"{cookie_name(request)}-attempt-")]
    for name in others[: max(0, len(others) - MAX_ATTEMPTS + 1)]:  # browsers send the oldest first
        _forget(request, name, response)
    response.set_cookie(
        attempt_cookie(request, begun.state), begun.kept, max_age=ATTEMPT_SECONDS, path="/",
        secure=is_secure(request), httponly=True, samesite="lax",  # the way back from the provider is a link
    )  # fmt: skip
    return response


async def from_provider(request: Request) -> Response:
    """Finish what `to_provider` began. The attempt is spent, however it ends."""
    operations: Operations = request.app.state.operations
    count_attempt(request)
    name, state = attempt_cookie(request, request.query_params.get("state", "")), request.state
    try:
        signed_in = await operations.single_sign_on.finish(
            request.cookies.get(name, ""), request.query_params, state.client_address, state.request_id
        )
    except SignInFailed as error:
        return _forget(request, name, _failed(request, error))
    response = await begin(request, signed_in.cookie.get_secret_value(), signed_in.return_to)
    return _forget(request, name, response)


async def begin(request: Request, value: str, return_to: str) -> Response:
    """Hand a new session to the browser, and end the one it had."""
    operations: Operations = request.app.state.operations
    name = cookie_name(request)
    if before := request.cookies.get(name):
        await operations.console_sessions.end(before)
    response = go((safe_return(return_to) or ROOT + START).removeprefix(ROOT))
    lifetime = operations.context.config.console.session_lifetime
    response.set_cookie(
        name, value, max_age=int(lifetime.total_seconds()), path="/", secure=is_secure(request), httponly=True,
        samesite="lax",
    )  # fmt: skip
    return response


def count_attempt(request: Request) -> None:
    """Raises `RateLimited` for an address that tries too often."""
    attempts: Buckets = request.app.state.sign_ins
    attempts.take(request.state.client_address)


async def sign_out(visit: Visit) -> Response:
    """End the session, here and in the browser; whoever came from a provider is offered to leave it as well."""
    name, operations = cookie_name(visit.request), visit.operations
    value = visit.request.cookies[name]
    url = None
    if visit.session.issuer is not None:
        url = await operations.single_sign_on.sign_out_url(await operations.console_sessions.id_token(value))
    await operations.console_sessions.end(value)
    if url is None:
        return _forget(visit.request, name, go("/sign-in", "signed-out"))
    response = render("signed-out.html", session=None, done="", path="", url=url, name=provider_name(visit.request))
    return _forget(visit.request, name, response)


def provider_name(request: Request) -> str | None:
    """What the provider is called here; None without single sign-on."""
    operations: Operations = request.app.state.operations
    sso = operations.context.config.console.single_sign_on
    return None if sso is None else sso.name


def _forget(request: Request, name: str, response: Response) -> Response:
    response.delete_cookie(name, path="/", secure=is_secure(request), httponly=True, samesite="lax")
    return response


async def choose_workspace(visit: Visit) -> Response:
    """Look at another workspace from now on."""
    cookie = visit.request.cookies[cookie_name(visit.request)]
    wanted = visit.request.state.form.get("workspace", "")
    await visit.operations.console_sessions.choose_workspace(cookie, wanted)
    return go(START)


ABOUT_ONESELF = (sign_out, choose_workspace)
"""Changes that take no right but being signed in."""


def _form(request: Request, error: Refused | None = None) -> Response:
    operations: Operations = request.app.state.operations
    status = 200 if error is None else error.status
    text = "That credential is not known here." if isinstance(error, AuthenticationFailed) else str(error or "")
    form = getattr(request.state, "form", {})
    return_to = safe_return(form.get("return_to", "") or request.query_params.get("return_to", ""))
    return render(
        "sign-in.html", status, session=None, error=text, done=request.query_params.get("done", ""),
        path=f"{ROOT}/sign-in", return_to=return_to, provider=provider_name(request),
        by_credential=operations.context.config.console.operator_sign_in,
    )  # fmt: skip


def _failed(request: Request, error: SignInFailed) -> Response:
    by_credential = request.app.state.operations.context.config.console.operator_sign_in
    return render(
        "sign-in-failed.html", error.status, session=None, done="", path="", error=error, by_credential=by_credential,
        request_id=request.state.request_id,
    )  # fmt: skip
