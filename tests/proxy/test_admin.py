"""The admin address: metrics, health, routes."""

from __future__ import annotations

import httpx2

from tests.support.proxy import TestPKI, proxy_running


async def test_the_admin_address_answers_metrics_health_and_routes(pki: TestPKI) -> None:
    routes = {"echo": "http://10.0.0.1:1"}
    async with proxy_running(pki, routes, admin={"listen_addr": "127.0.0.1:0"}) as end:
        assert end.running.admin_address is not None
        base = "http://{}:{}".format(*end.running.admin_address)
        async with httpx2.AsyncClient(base_url=base, trust_env=False) as client:
            metrics = (await client.get("/metrics")).text
            assert "mcp_proxy_cert_not_after_seconds" in metrics
            assert "mcp_proxy_config_reload_success 1.0" in metrics
            assert (await client.get("/healthz")).text == "ok\n"
            assert (await client.get("/readyz")).status_code == 200
            shown = (await client.get("/routes")).json()
            assert [(route["route"], route["upstream"]) for route in shown] == [("echo", "http://10.0.0.1:1")]
            assert (await client.get("/other")).status_code == 404
            end.proxy.forwarder.draining = True
            assert (await client.get("/readyz")).status_code == 503
