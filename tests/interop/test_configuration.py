"""Ingress rules pushed by our edge, taken by a stock cloudflared."""

from __future__ import annotations

from pathlib import Path

import pytest

from qanat.wire.registration import ConfigurationResult
from tests.support.cloudflared import cloudflared, needs_cloudflared
from tests.support.loopback_edge import loopback_edge
from tests.support.requirements import requirement
from tests.support.tunnel import Client, http_request
from tests.support.upstream_server import upstream_server


@requirement("tunnel:configuration:stock")
@needs_cloudflared
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http2", "quic"])
async def test_a_stock_cloudflared_takes_pushed_ingress_rules(protocol: str, tmp_path: Path) -> None:
    async with upstream_server() as first, upstream_server() as second, loopback_edge(tmp_path) as edge:
        async with cloudflared(edge, protocol, first.url, connections=1):
            [connection] = await edge.guests.wait(1)
            rules = {"ingress": [{"service": second.url}]}
            assert await connection.push_configuration(1, rules) == ConfigurationResult(1)
            client = Client()
            connection.open_stream(http_request(path="/after"), client)
            assert (await client.answer()).status == 200
            assert await client.ended() is None
            assert await connection.push_configuration(0, {"ingress": []}) == ConfigurationResult(1)
        assert not first.requests
        assert [target for _, target, _, _ in second.requests] == ["/after"]
