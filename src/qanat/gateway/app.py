"""The HTTP surface: routes, bodies, credentials, errors in the API's form."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from qanat.api.internal import Trial
from qanat.config import describe
from qanat.gateway import strict_json
from qanat.gateway.access import Caller, Gatekeeper
from qanat.gateway.answer import Answering
from qanat.gateway.errors import APIError, internal, invalid, not_found
from qanat.gateway.exchange import MessageExchange
from qanat.gateway.oauth.routes import VaultEndpoints
from qanat.gateway.playground import MAX_BODY, Playground
from qanat.ids import make_id
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
Handler = Callable[[Request, Caller, "Reply"], Awaitable[Any]]
Admit = Callable[[Mapping[str, str], float], Awaitable[Caller]]


class Reply:
    """What every answer of one request carries, whatever its kind."""

    def __init__(self, endpoint: str) -> None:
        self.request_id = make_id("req", os.urandom(16))
        self.endpoint = endpoint
        self.headers = {"request-id": self.request_id}

    def identify(self, caller: Caller) -> None:
        """Say whom the answer is for."""
        self.headers["anthropic-organization-id"] = caller.principal.organization_id
        if caller.principal.workspace_id:
            self.headers["anthropic-workspace-id"] = caller.principal.workspace_id


class GatewayApp:
    """The ASGI application."""

    def __init__(self, answering: Answering, gatekeeper: Gatekeeper) -> None:
        self._answering, self._gatekeeper = answering, gatekeeper
        self._metrics = answering.metrics
        self._playground = Playground(answering.reach, answering.config.limits, answering.events)
        admit = gatekeeper.admit_console
        routes = [
            Route("/v1/messages", self._endpoint("messages", self._messages), methods=["POST"]),
            Route("/v1/messages/count_tokens", self._endpoint("count_tokens", self._count_tokens), methods=["POST"]),
            Route("/v1/models", self._endpoint("models", self._list_models), methods=["GET"]),
            Route("/v1/models/{model:path}", self._endpoint("models", self._get_model), methods=["GET"]),
            Route("/internal/v1/playground", self._endpoint("playground", self._try, admit), methods=["POST"]),
            Route("/healthz", self._health, methods=["GET"]),
        ]
        if answering.vaults is not None:
            self._vaults = VaultEndpoints(answering.vaults, answering.reach.check_url)
            routes += [*self._vault_routes(), *self._vaults.pages()]
        handlers = {404: self._no_route, 405: self._no_route}
        self._app = Starlette(routes=routes, exception_handlers=handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._metrics.active.track_inprogress():  # here, because a stream goes on after its endpoint has returned
            await self._app(scope, receive, send)

    def _endpoint(self, name: str, handler: Handler, admit: Admit | None = None) -> Callable[[Request], Awaitable[Any]]:
        """The handler behind authentication, with every failure in the API's form."""
        admit = admit or self._gatekeeper.admit

        async def respond(request: Request) -> Any:
            reply = Reply(name)
            try:
                caller = await admit(request.headers, asyncio.get_running_loop().time())
                reply.identify(caller)
                return await handler(request, caller, reply)
            except APIError as error:
                return self._refuse(reply, error)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception:
                log.exception("request failed", request_id=reply.request_id)
                return self._refuse(reply, internal())

        return respond

    async def _messages(self, request: Request, caller: Caller, reply: Reply) -> Any:
        parsed = self._answering.parse(await self._read_json(request), request.headers)
        return MessageExchange(
            lambda emit: self._answering.message(parsed, caller, reply.request_id, emit),
            stream=parsed.stream,
            headers=reply.headers,
            request_id=reply.request_id,
            ping_interval=self._answering.config.ping_interval.total_seconds(),
            on_status=lambda status: self._count(reply, status),
        )

    async def _count_tokens(self, request: Request, caller: Caller, reply: Reply) -> Response:
        parsed = self._answering.parse(await self._read_json(request), request.headers, counting=True)
        tokens = await self._answering.count_tokens(parsed, caller, reply.request_id)
        return self._send(reply, {"input_tokens": tokens})

    async def _list_models(self, request: Request, caller: Caller, reply: Reply) -> Response:
        return self._send(reply, self._answering.models.page(request.query_params))

    async def _get_model(self, request: Request, caller: Caller, reply: Reply) -> Response:
        return self._send(reply, self._answering.models.info(request.path_params["model"]))

    async def _try(self, request: Request, caller: Caller, reply: Reply) -> Response:
        body = await self._read_json(request, MAX_BODY)
        try:
            trial = Trial.model_validate(body)
        except ValidationError as error:
            raise invalid(describe(error.errors(include_url=False, include_input=False)[0])) from None
        outcome = await self._playground.run(trial, caller)
        return self._send(reply, outcome.model_dump(mode="json"))

    def _vault_routes(self) -> list[Route]:
        base = "/v1/vaults/{vault}"
        return [
            Route(base, self._endpoint("vaults", self._show_vault), methods=["GET"]),
            Route(f"{base}/connections", self._endpoint("vaults", self._connect), methods=["POST"]),
            Route(f"{base}/connections", self._endpoint("vaults", self._disconnect), methods=["DELETE"]),
            Route(f"{base}/credentials", self._endpoint("vaults", self._put_credential), methods=["POST"]),
        ]

    async def _show_vault(self, request: Request, caller: Caller, reply: Reply) -> Response:
        return self._send(reply, await self._vaults.show(request.path_params["vault"], caller))

    async def _connect(self, request: Request, caller: Caller, reply: Reply) -> Response:
        body = await self._read_json(request)
        return self._send(reply, await self._vaults.connect(request.path_params["vault"], body, caller))

    async def _disconnect(self, request: Request, caller: Caller, reply: Reply) -> Response:
        url = request.query_params.get("url", "")
        return self._send(reply, await self._vaults.disconnect(request.path_params["vault"], url, caller))

    async def _put_credential(self, request: Request, caller: Caller, reply: Reply) -> Response:
        body = await self._read_json(request)
        return self._send(reply, await self._vaults.put(request.path_params["vault"], body, caller))

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _no_route(self, request: Request, error: Exception) -> Response:
        reply = Reply("unknown")
        if getattr(error, "status_code", 404) == 405:
            return self._refuse(reply, APIError(405, "Method not allowed"))
        return self._refuse(reply, not_found("Not found"))

    async def _read_json(self, request: Request, limit: int | None = None) -> Any:
        """The body. Raises `APIError` (408, 413, 400)."""
        limit = limit or self._answering.config.limits.body_bytes
        too_large = APIError(413, f"Request exceeds the maximum size of {limit} bytes")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._answering.config.limits.request.total_seconds()):
                async for piece in request.stream():
                    body += piece
                    if len(body) > limit:
                        raise too_large
        except TimeoutError:
            raise APIError(408, "The request body did not arrive in time", "timeout_error") from None
        try:
            return strict_json.loads(body)
        except ValueError:
            raise invalid("The request body is not valid JSON") from None

    def _send(self, reply: Reply, body: Any) -> Response:
        self._count(reply, 200)
        return JSONResponse(body, headers=reply.headers)

    def _refuse(self, reply: Reply, error: APIError) -> Response:
        self._count(reply, error.http_status)
        headers = {**reply.headers, **error.headers}
        return JSONResponse(error.body(reply.request_id), error.http_status, headers)

    def _count(self, reply: Reply, status: int) -> None:
        self._metrics.requests.labels(reply.endpoint, str(status)).inc()
        log.info("request answered", endpoint=reply.endpoint, status=status, request_id=reply.request_id)
