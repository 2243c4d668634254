"""The console as an ASGI application, to be mounted at `/console`.

One guard stands in front of every page: who is signed in, whether a change came from a page of ours (origin and form
token), and whether the person may change anything at all.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from qanat.control.console import agents, audit, identity, keys, playground, signin, tunnels
from qanat.control.console.pages import HERE, Handler, Pages, Visit, go, read_form, render
from qanat.control.errors import AuthenticationFailed, Invalid, NotFound, PermissionDenied, Refused
from qanat.control.operations import Operations
from qanat.control.operations.workspaces import OlderPageRequest
from qanat.control.rest.limits import Buckets

WORKSPACES = OlderPageRequest(limit=100, include_default=True)
PAGES: Pages = {**tunnels.PAGES, **identity.PAGES, **playground.PAGES, **agents.PAGES, **keys.PAGES, **audit.PAGES}


def make_console(operations: Operations, closing: asyncio.Event) -> Starlette:
    """The application. `closing`, once set, ends the live streams."""
    routes: list[Route | Mount] = [
        Mount("/static", StaticFiles(directory=HERE / "static")),
        Route("/", _home),
        Route("/sign-in", signin.page, methods=["GET"]),
        Route("/sign-in", _from_our_pages(signin.sign_in), methods=["POST"]),
        Route("/sign-in/provider", signin.to_provider, methods=["GET"]),
        Route("/sign-in/callback", signin.from_provider, methods=["GET"]),
        Route("/workspace", _guard(signin.choose_workspace), methods=["POST"]),
        Route("/sign-out", _guard(signin.sign_out), methods=["POST"]),
    ]
    for path, methods in PAGES.items():
        routes.extend(Route(path, _guard(handler), methods=[method]) for method, handler in methods.items())
    console = Starlette(routes=routes, exception_handlers={Refused: _show_error, Exception: _show_bug})
    console.state.operations = operations
    console.state.closing = closing
    console.state.streams = Counter()
    limits = operations.context.config.limits
    console.state.sign_ins = Buckets(limits.sign_ins_per_minute, operations.context.clock)
    console.state.trials = Buckets(limits.playground_calls_per_minute, operations.context.clock)
    return console


async def _home(request: Request) -> Response:
    return go("/tunnels")


def _guard(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Let a handler see only whom it may serve."""

    async def guarded(request: Request) -> Response:
        operations: Operations = request.app.state.operations
        try:
            session = await operations.console_sessions.find(request.cookies.get(signin.cookie_name(request), ""))
        except AuthenticationFailed:
            return signin.to_sign_in(request)
        request.state.actor_id = session.user
        if request.method != "GET":
            check_origin(request)
            request.state.form = await read_form(request)
            if not hmac.compare_digest(request.state.form.pop("csrf", "").encode(), session.csrf.encode()):
                raise PermissionDenied("this form is out of date; reload the page and try again")
            if not session.may_manage and handler not in signin.ABOUT_ONESELF:
                raise PermissionDenied("your role may look at everything here and change nothing")
        alone = Visit(request, operations, session)
        page = await operations.workspaces.list_page(alone.actor, WORKSPACES)
        return await handler(Visit(request, operations, session, page.data))

    return guarded


def _from_our_pages(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def checked(request: Request) -> Response:
        check_origin(request)
        request.state.form = await read_form(request)
        return await handler(request)

    return checked


def check_origin(request: Request) -> None:
    """A change must come from a page of ours, whatever cookies it carries. Raises `PermissionDenied`."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if site not in (None, "same-origin", "none"):
        raise PermissionDenied("this request came from another site")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise PermissionDenied("this request came from another site")
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Invalid("", "a form is wanted")


async def _show_bug(request: Request, error: Exception) -> Response:
    hint = BugHint(request.state.request_id)
    return render("error.html", 500, title="Something broke", error=hint, session=None, done="", path="")


@dataclass(eq=False)
class BugHint(Refused):
    """All that a page says of a bug; the log has the rest under the same id."""

    code, status = "internal", 500
    request_id: str

    def __str__(self) -> str:
        return f"This is a bug of ours. The log knows more under {self.request_id}."


async def _show_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    title = "Not found" if isinstance(error, NotFound) else "That did not work"
    return render("error.html", error.status, title=title, error=error, session=None, done="", path="")
