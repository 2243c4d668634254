"""The Anthropic API as an upstream: events pass through, errors keep their status before the first one.

Always streamed, whatever the caller asked for: the loop speaks in events.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx2

from qanat.errors import ProtocolError
from qanat.gateway.errors import STATUS_BY_TYPE, APIError, internal
from qanat.gateway.request import Block
from qanat.gateway.sse import EventStreamReader
from qanat.gateway.turn import Event
from qanat.gateway.upstream import CallInfo, Features, short_body
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
PASSED_STATUS = frozenset({400, 404, 413, 429, 500, 502, 503, 504, 529})
REFUSED = "The upstream model refused the gateway"
PASSED_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")


class AnthropicUpstream:
    """Models behind a Messages API without MCP."""

    features = Features(media=frozenset({"image", "document"}), tool_search=True)

    def __init__(self, http: httpx2.AsyncClient, base_url: str, api_key: str, allowed_betas: frozenset[str]) -> None:
        self._http, self._base_url, self._api_key = http, base_url.rstrip("/"), api_key
        self._allowed_betas = allowed_betas

    def __repr__(self) -> str:
        return f"AnthropicUpstream({self._base_url!r})"

    async def stream(self, body: Block, info: CallInfo) -> AsyncGenerator[Event, None]:
        request = self._request("/v1/messages", {**body, "stream": True}, info)
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise self._to_error(response, await short_body(response), info)
                reader = EventStreamReader()
                async for data in response.aiter_bytes():
                    reader.receive_data(data)
                    for frame in reader.events_received():
                        yield _parse_event(frame.data)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, ProtocolError) as error:
            log.warn("upstream model failed", error=type(error).__name__, request_id=info.request_id)
            raise internal("The upstream model could not be reached") from None

    async def count_tokens(self, body: Block, info: CallInfo) -> int:
        try:
            response = await self._http.send(self._request("/v1/messages/count_tokens", body, info), stream=True)
            content = await short_body(response)
        except httpx2.HTTPError as error:
            log.warn("upstream model failed", error=type(error).__name__, request_id=info.request_id)
            raise internal("The upstream model could not be reached") from None
        if response.status_code != 200:
            raise self._to_error(response, content, info)
        return int(json.loads(content)["input_tokens"])

    def _request(self, path: str, body: Block, info: CallInfo) -> httpx2.Request:
        headers = {"x-api-key": self._api_key, "anthropic-version": info.version, "content-type": "application/json"}
        if betas := [beta for beta in info.betas if beta in self._allowed_betas]:
            headers["anthropic-beta"] = ",".join(betas)
        return self._http.build_request("POST", self._base_url + path, headers=headers, content=json.dumps(body))

    def _to_error(self, response: httpx2.Response, content: bytes, info: CallInfo) -> APIError:
        log.warn("upstream model refused", status=response.status_code, request_id=info.request_id)
        if response.status_code not in PASSED_STATUS:
            return internal(REFUSED)  # 401 and 403 are about our key, not theirs
        headers = {name: response.headers[name] for name in PASSED_HEADERS if name in response.headers}
        error = _error_fields(content)
        return APIError(
            response.status_code,
            str(error.get("message") or "The upstream model failed"),
            str(error.get("type") or ""),
            headers=headers,
            details=error["details"] if isinstance(error.get("details"), dict) else {},
        )


def _error_fields(content: bytes) -> dict[str, Any]:
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _parse_event(data: str) -> Event:
    """One event. Raises `APIError` for an `error` event and for what is no event at all."""
    try:
        event = json.loads(data)
    except ValueError:
        raise internal("The upstream model sent an unreadable event") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise internal("The upstream model sent an unreadable event")
    if event["type"] == "error":
        error = event.get("error")
        error = error if isinstance(error, dict) else {}
        error_type = str(error.get("type") or "api_error")
        status = STATUS_BY_TYPE.get(error_type, 500)
        if status not in PASSED_STATUS:
            raise internal(REFUSED)
        raise APIError(status, str(error.get("message") or "The upstream model failed"), error_type)
    return event
