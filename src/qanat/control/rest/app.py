"""The application: every router under one envelope."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp

from qanat import __version__
from qanat.control.console.app import make_console
from qanat.control.errors import Refused
from qanat.control.metrics import Metrics
from qanat.control.operations import Operations
from qanat.control.rest import (
    alias,
    federation,
    history,
    internal,
    keys,
    service_accounts,
    token,
    tunnels,
    workspaces,
)
from qanat.control.rest.envelope import Envelope, error_answer
from qanat.control.rest.internal import ServiceKeys
from qanat.control.rest.limits import RateLimits
from qanat.control.rest.openapi import describe

ROUTERS = (
    tunnels.router,
    token.router,
    service_accounts.router,
    workspaces.router,
    federation.issuers,
    federation.rules,
    keys.router,
    history.router,
    internal.router,
)


class CompleteJSON(JSONResponse):
    """JSON that says its charset."""

    media_type = "application/json; charset=utf-8"


def make_app(operations: Operations, service_keys: ServiceKeys, closing: asyncio.Event, metrics: Metrics) -> ASGIApp:
    """The ASGI application. `closing`, once set, ends the streams of changes."""
    context = operations.context
    app = FastAPI(
        title="qanat control plane", version=__version__, default_response_class=CompleteJSON,
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.operations = operations
    app.state.service_keys = service_keys
    app.state.closing = closing
    app.state.metrics = metrics
    app.state.limits = RateLimits(context.config.limits, context.clock, metrics)
    for router in ROUTERS:
        app.include_router(router)
    if context.config.deprecated_alias:
        app.include_router(alias.router)
    app.mount("/console", make_console(operations, closing))
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # the framework's documented way
    app.add_api_route("/healthz", healthy, include_in_schema=False)
    for error in (HTTPException, RequestValidationError, Refused, Exception):
        app.add_exception_handler(error, answer_error)
    return Envelope(app, lambda: context.new_id("req"), context.clock, context.config.trusted_proxies, metrics)


async def healthy(request: Request) -> dict[str, str]:
    return {"status": "ok"}


async def answer_error(request: Request, error: Exception) -> Response:
    status, headers, body = error_answer(error, request.state.request_id)
    if status == 405 and (methods := allowed_methods(request)):
        headers["allow"] = ", ".join(sorted(methods))
    return Response(body, status, headers)


def allowed_methods(request: Request) -> set[str]:
    """Every method the path takes; the framework alone would name those of the first route that matches."""
    app: FastAPI = request.app
    return {
        method.upper()
        for template, methods in app.openapi()["paths"].items()
        if compile_path(template)[0].match(request.url.path)
        for method in methods
    }
