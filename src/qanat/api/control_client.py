"""The client of the control plane's internal paths (`internal.py`), for edges and gateways.

Whatever keeps the control plane from answering becomes `ControlUnavailable`, so that a caller can go on with what it
knew; an answer of "no such thing" is None.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar
from uuid import UUID

import httpx2
from pydantic import SecretStr, ValidationError

from qanat.api.credential import bearer
from qanat.api.event_backlog import EventsRefused
from qanat.api.internal import Change, Credential, EventBatch, Message, Principal, TunnelRecord, Watches
from qanat.errors import ConfigInvalid, QanatError
from qanat.ids import WorkspaceID

SILENCE = 12.0
"""Seconds without a line on the changes stream after which it counts as broken; a heartbeat comes every 5 s."""
MAX_LINE = 64 * 1024


@dataclass(eq=False)
class ControlUnavailable(QanatError):
    """The control plane did not answer, or not with anything that makes sense."""

    code: ClassVar[str] = "control_unavailable"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True
    reason: str

    def __str__(self) -> str:
        return f"control plane unavailable: {self.reason}"


@dataclass(eq=False)
class ServiceKeyRefused(ControlUnavailable):
    """The control plane does not know our service key: a person has to look."""

    code: ClassVar[str] = "service_key_refused"
    retryable: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"control plane refused the service key: {self.reason}"


M = TypeVar("M", bound=Message)


class ControlClient:
    """One per process; close it with `aclose` or use it as an async context manager.

    Raises `ConfigInvalid` for a key or CA file of no use.
    """

    def __init__(self, url: str, service_key: SecretStr, *, ca_file: Path | None = None, timeout: float = 3.0) -> None:
        try:
            verify = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except OSError as error:
            raise ConfigInvalid([f"control.ca_file: {ca_file}: {error.strerror or error}"]) from error
        self._timeout = timeout
        self._http = httpx2.AsyncClient(
            base_url=url.rstrip("/"),
            headers={"authorization": bearer(service_key.get_secret_value(), "the service key")},
            timeout=timeout,
            verify=verify,
            trust_env=False,
        )

    async def __aenter__(self) -> ControlClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def by_uuid(self, uuid: UUID) -> TunnelRecord | None:
        """The tunnel with this wire id; None when unknown. Raises `ControlUnavailable`."""
        return await self._get_tunnel({"uuid": str(uuid)})

    async def by_domain(self, domain: str) -> TunnelRecord | None:
        """The tunnel with this domain; None when unknown. Raises `ControlUnavailable`."""
        return await self._get_tunnel({"domain": domain})

    async def send_events(self, batch: EventBatch) -> None:
        """Hand over at most 1,000 events. Raises `ControlUnavailable`, or `EventsRefused` when it never will."""
        never = (400, 413, 422)
        if await self._request("POST", "/internal/v1/events", body=batch.model_dump_json(), absent=never) is None:
            raise EventsRefused

    async def watches(self) -> Watches:
        """The routes to probe. Raises `ControlUnavailable`."""
        response = await self._request("GET", "/internal/v1/watches")
        assert response is not None
        return _read(Watches, response.content)

    async def authenticate(self, credential: str, workspace_id: WorkspaceID | None = None) -> Principal | None:
        """Who the credential stands for; None when unknown or expired. Raises `ControlUnavailable`."""
        question = Credential(credential=SecretStr(credential), workspace_id=workspace_id)
        fields = question.model_dump(mode="json") | {"credential": credential}
        response = await self._request("POST", "/internal/v1/authenticate", fields=fields, absent=(401, 404))
        return None if response is None else _read(Principal, response.content)

    async def changes(self, after: int | None) -> AsyncIterator[Change]:
        """Changes since the cursor, or from now on; never ends by itself.

        Raises `ControlUnavailable` when the stream breaks, or nothing came for `SILENCE` seconds.
        """
        parameters = {} if after is None else {"after": str(after)}
        timeout = httpx2.Timeout(self._timeout, read=SILENCE)
        try:
            async with self._http.stream("GET", "/internal/v1/changes", params=parameters, timeout=timeout) as response:
                _check(response)
                async for line in response.aiter_lines():
                    if line:
                        yield _read(Change, line[:MAX_LINE].encode())
        except httpx2.HTTPError as error:
            raise ControlUnavailable(_describe(error)) from error
        raise ControlUnavailable("the changes stream ended")

    async def _get_tunnel(self, parameters: dict[str, str]) -> TunnelRecord | None:
        response = await self._request("GET", "/internal/v1/tunnels", parameters=parameters, absent=(404,))
        return None if response is None else _read(TunnelRecord, response.content)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        parameters: dict[str, str] | None = None,
        fields: dict[str, object] | None = None,
        body: str | None = None,
        absent: tuple[int, ...] = (),
    ) -> httpx2.Response | None:
        """The response, or None when its status is in `absent`."""
        headers = {"content-type": "application/json"} if body is not None else None
        try:
            response = await self._http.request(
                method, path, params=parameters, json=fields, content=body, headers=headers
            )
        except httpx2.HTTPError as error:
            raise ControlUnavailable(_describe(error)) from error
        if response.status_code in absent and not _blames_service_key(response):
            return None
        _check(response)
        return response


def _blames_service_key(response: httpx2.Response) -> bool:
    """Whether a 401 is about our own key and not about the credential we asked about."""
    return response.status_code == 401 and response.headers.get("x-qanat-service-key") == "refused"


def _check(response: httpx2.Response) -> None:
    if response.status_code in (401, 403):
        raise ServiceKeyRefused(f"status {response.status_code}")
    if not response.is_success:
        raise ControlUnavailable(f"status {response.status_code}")


def _read(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise ControlUnavailable(f"an answer that makes no sense ({error.error_count()} problems)") from None


def _describe(error: Exception) -> str:
    """Kind and text of a network error; httpx2 leaves the text of a time-out empty."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
