"""`/metrics` and `/ready`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import pytest

from qanat.connector.server import Connector, serve
from tests.connector.conftest import config_for
from tests.support.loopback_edge import TIMEOUT, loopback_edge
from tests.support.requirements import requirement
from tests.support.tunnel import Client, Upstreams, http_request


async def get(connector: Connector, path: str) -> httpx2.Response:
    assert connector.metrics_address is not None
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.get("http://{}:{}{}".format(*connector.metrics_address, path), timeout=TIMEOUT)


@requirement("connector:ready")
@pytest.mark.slow
async def test_ready_is_200_only_while_a_connection_is_registered(tmp_path: Path) -> None:
    async with loopback_edge(tmp_path) as edge:
        edge.guests.refusal = "Unauthorized: not yet"
        async with serve(config_for(edge, protocol="http2", metrics="127.0.0.1:0"), Upstreams()) as connector:
            await edge.guests.wait_refused(1)
            before = await get(connector, "/ready")
            assert before.status_code == 503
            assert before.json()["readyConnections"] == 0
            edge.guests.refusal = None
            async with asyncio.timeout(TIMEOUT):
                await connector.wait_ready()
            after = await get(connector, "/ready")
            assert after.status_code == 200
            assert json.loads(after.content) == {
                "status": 200,
                "readyConnections": 1,
                "connectorId": str(connector.connector_id),
            }


@requirement("connector:metrics")
async def test_metrics_count_connections_dials_and_streams(tmp_path: Path) -> None:
    async with (
        loopback_edge(tmp_path) as edge,
        serve(config_for(edge, protocol="quic", metrics="127.0.0.1:0"), Upstreams()) as connector,
    ):
        async with asyncio.timeout(TIMEOUT):
            await connector.wait_ready()
        client = Client()
        edge.guests.connections[0].open_stream(http_request("POST", has_body=True), client)
        await client.answer()
        text = (await get(connector, "/metrics")).text
        assert 'qanat_connector_connections{protocol="quic"} 1.0' in text
        assert 'qanat_connector_dials_total{protocol="quic",result="registered"} 1.0' in text
        assert 'qanat_connector_streams_total{kind="http"} 1.0' in text
        assert "qanat_connector_open_streams 1.0" in text
        assert (await get(connector, "/nothing")).status_code == 404
        assert (await get(connector, "/healthcheck")).status_code == 200
        client.transport.abort()
