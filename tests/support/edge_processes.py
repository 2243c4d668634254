"""Edges as processes of their own, and the control plane's internal paths over HTTP for them to ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from qanat.api.internal import EventBatch
from tests.support.asgi import serve_asgi
from tests.support.edge import DictDirectory, OperatorFiles, edge_settings
from tests.support.programs import Program

SERVICE_KEY = "service-key-for-edges"


@asynccontextmanager
async def directory_over_http(directory: DictDirectory, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """The dictionary as `/internal/v1`; yields the control plane's URL."""

    async def tunnels(request: Request) -> Response:
        query = request.query_params
        uuid = query.get("uuid")
        record = await (directory.by_uuid(UUID(uuid)) if uuid else directory.by_domain(query["domain"]))
        return Response(status_code=404) if record is None else Response(record.model_dump_json())

    async def changes(request: Request) -> Response:
        after = request.query_params.get("after")

        async def lines() -> AsyncIterator[str]:
            async for change in directory.changes(None if after is None else int(after)):
                yield change.model_dump_json() + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def events(request: Request) -> Response:
        await directory.send_events(EventBatch.model_validate_json(await request.body()))
        return Response(status_code=204)

    prefix = "/internal/v1"
    routes = [
        Route(f"{prefix}/tunnels", tunnels),
        Route(f"{prefix}/changes", changes),
        Route(f"{prefix}/events", events, methods=["POST"]),
    ]
    async with serve_asgi(Starlette(routes=routes), host=host) as url:
        try:
            yield url
        finally:
            await directory.stop()


class EdgeProcess(Program):
    """`qanat edge` in a process."""

    def __init__(self, folder: Path, settings: dict[str, Any], prefix: Sequence[str] = ()) -> None:
        super().__init__()
        self.folder, self.settings, self._prefix = folder, settings, prefix

    async def start(self) -> None:
        """Returns once it listens. The ports stay the same from one start to the next."""
        path = self.folder / f"{self.settings['name']}.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        await self.run("edge", "--config", str(path), prefix=self._prefix)
        line = await self.line("edge listening")
        self.connector_address = (str(line["connectors"][0]), int(line["connectors"][1]))
        self.client_address = (str(line["clients"][0]), int(line["clients"][1]))
        self.settings["connectors"]["listen_addr"] = "{}:{}".format(*self.connector_address)
        self.settings["clients"]["listen_addr"] = "{}:{}".format(*self.client_address)


@asynccontextmanager
async def edge_processes(
    count: int,
    folder: Path,
    files: OperatorFiles,
    control_url: str,
    redis_url: str | None,
    *,
    key: str = SERVICE_KEY,
    **changes: Any,
) -> AsyncIterator[list[EdgeProcess]]:
    """So many running nodes; of one cluster when there is a Redis."""
    cluster = {
        "redis_url": redis_url,
        "listen_addr": "127.0.0.1:0",
        "tls": files.files("node"),
        "ca_file": str(files.path("node-ca")),
        "lifetime": "3s",
    }
    control = {"url": control_url, "service_key": key}
    nodes = [
        EdgeProcess(
            folder,
            edge_settings(
                files,
                name=f"node-{number}",
                control=control,
                **({} if redis_url is None else {"cluster": cluster}),
                **changes,
            ),
        )
        for number in range(1, count + 1)
    ]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        yield nodes
    finally:
        for node in nodes:
            await node.close()
