"""An OpenAI-compatible server (vLLM, Ollama, llama.cpp) as an upstream."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from typing import Any

import httpx2

from qanat.errors import ProtocolError
from qanat.gateway.chat_request import to_chat
from qanat.gateway.chat_stream import ChatStream
from qanat.gateway.demo_model import estimate_tokens
from qanat.gateway.errors import APIError, internal, invalid, not_found, overloaded
from qanat.gateway.request import Block
from qanat.gateway.sse import EventStreamReader
from qanat.gateway.turn import Event
from qanat.gateway.upstream import CallInfo, Features, short_body
from qanat.ids import make_id
from qanat.logger import get_logger

log = get_logger("qanat.gateway")


class OpenAIUpstream:
    """Models behind `/chat/completions`."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        base_url: str,
        api_key: str | None,
        *,
        images: bool = False,
        show_reasoning: bool = False,
        max_tokens_field: str = "max_tokens",
    ) -> None:
        self._http, self._base_url, self._api_key = http, base_url.rstrip("/"), api_key
        self._show_reasoning, self._max_tokens_field = show_reasoning, max_tokens_field
        self.features = Features(media=frozenset({"image"}) if images else frozenset())

    def __repr__(self) -> str:
        return f"OpenAIUpstream({self._base_url!r})"

    async def stream(self, body: Block, info: CallInfo) -> AsyncGenerator[Event, None]:
        chat = to_chat(body, max_tokens_field=self._max_tokens_field)
        translated = ChatStream(body["model"], lambda: make_id("toolu", os.urandom(16)), self._show_reasoning)
        try:
            response = await self._send(chat)
            try:
                if response.status_code != 200:
                    raise _to_error(response.status_code, await short_body(response), info)
                reader = EventStreamReader()
                async for data in response.aiter_bytes():
                    reader.receive_data(data)
                    for frame in reader.events_received():
                        for event in translated.receive(_parse_chunk(frame.data)):
                            yield event
            finally:
                await response.aclose()
        except (httpx2.HTTPError, ProtocolError) as error:
            log.warn("upstream model failed", error=type(error).__name__, request_id=info.request_id)
            raise internal("The upstream model could not be reached") from None
        if translated.estimated:
            log.debug("upstream model reports no usage", request_id=info.request_id)
        for event in translated.finish(estimate_tokens(body)):
            yield event

    async def count_tokens(self, body: Block, info: CallInfo) -> int:
        return estimate_tokens(body)

    async def _send(self, chat: Block) -> httpx2.Response:
        try:
            return await self._http.send(self._request(chat), stream=True)
        except httpx2.ConnectError:
            return await self._http.send(self._request(chat), stream=True)  # nothing was received: once more

    def _request(self, chat: Block) -> httpx2.Request:
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        url = f"{self._base_url}/chat/completions"
        return self._http.build_request("POST", url, headers=headers, content=json.dumps(chat))


def _parse_chunk(data: str) -> dict[str, Any] | None:
    """One chunk; None for `[DONE]`. Raises `APIError` for errors in mid-stream and for garbage."""
    if data.strip() == "[DONE]":
        return None
    try:
        chunk = json.loads(data)
    except ValueError:
        raise internal("The upstream model sent an unreadable event") from None
    if not isinstance(chunk, dict):
        raise internal("The upstream model sent an unreadable event")
    if chunk.get("error"):
        raise internal("The upstream model failed")
    return chunk


def _to_error(status: int, content: bytes, info: CallInfo) -> APIError:
    message = _message(content)
    log.warn("upstream model refused", status=status, request_id=info.request_id)
    if status == 400:
        return invalid(message or "The upstream model refused the request")
    if status == 404:
        return not_found("The upstream model does not exist")
    if status == 429:
        return APIError(429, "The upstream model is rate limited")
    if status == 503:
        return overloaded("The upstream model is overloaded")
    return internal("The upstream model failed")


def _message(content: bytes) -> str:
    try:
        error = json.loads(content)
    except ValueError:
        return ""
    error = error.get("error", error) if isinstance(error, dict) else error
    return str(error.get("message", "")) if isinstance(error, dict) else str(error)
