"""Signing in and out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from qanat.control.console.pages import ROOT, Visit, go, render
from qanat.control.errors import AuthenticationFailed, PermissionDenied, Refused
from qanat.control.operations import Operations
from qanat.control.operations.console_sessions import LIFETIME


def is_secure(request: Request) -> bool:
    """Whether browsers reach us over TLS."""
    operations: Operations = request.app.state.operations
    return operations.context.public_url.startswith("https://")


def cookie_name(request: Request) -> str:
    """The session cookie's name; over TLS a browser guarantees by the prefix that no other host has set it."""
    return "__Host-qanat" if is_secure(request) else "qanat"


async def page(request: Request) -> Response:
    """The form."""
    return _form(request)


async def sign_in(request: Request) -> Response:
    """Take a credential, begin a session that has nothing of any earlier one."""
    operations: Operations = request.app.state.operations
    state = request.state
    try:
        cookie = await operations.console_sessions.sign_in(
            state.form.get("credential", ""), state.client_address, state.request_id
        )
    except (AuthenticationFailed, PermissionDenied) as error:
        return _form(request, error)
    return set_session(request, go("/tunnels"), cookie.get_secret_value())


def set_session(request: Request, response: Response, value: str) -> Response:
    """Put the session's cookie on an answer."""
    response.set_cookie(
        cookie_name(request), value, max_age=int(LIFETIME.total_seconds()), path="/", secure=is_secure(request),
        httponly=True, samesite="lax",
    )  # fmt: skip
    return response


async def sign_out(visit: Visit) -> Response:
    """End the session, here and in the browser."""
    name = cookie_name(visit.request)
    await visit.operations.console_sessions.end(visit.request.cookies[name])
    response = go("/sign-in", "signed-out")
    response.delete_cookie(name, path="/", secure=is_secure(visit.request), httponly=True, samesite="lax")
    return response


async def choose_workspace(visit: Visit) -> Response:
    """Look at another workspace from now on."""
    cookie = visit.request.cookies[cookie_name(visit.request)]
    wanted = visit.request.state.form.get("workspace", "")
    await visit.operations.console_sessions.choose_workspace(cookie, wanted)
    return go("/tunnels")


ABOUT_ONESELF = (sign_out, choose_workspace)
"""Changes that take no right but being signed in."""


def _form(request: Request, error: Refused | None = None) -> Response:
    status = 200 if error is None else error.status
    text = "That credential is not known here." if isinstance(error, AuthenticationFailed) else str(error or "")
    done = request.query_params.get("done", "")
    return render("sign-in.html", status, session=None, error=text, done=done, path=f"{ROOT}/sign-in")
