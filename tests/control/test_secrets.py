"""After a life full of secrets, none of them stands in a log line or a database column."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.control.test_certificates import make_ca
from tests.support.control import GATEWAY_KEY, ControlThread, recorded_logs
from tests.support.federation import federate, ok
from tests.support.requirements import requirement


def variants(secret: str) -> list[str]:
    """A secret as it might have been written down."""
    return [secret, base64.b64encode(secret.encode()).decode(), secret.encode().hex(), repr(secret)[1:-1]]


@pytest.mark.slow
@requirement("tunnels-api:38", "workload-identity:36")
def test_no_secret_reaches_a_log_or_a_column(start_control: Callable[..., ControlThread]) -> None:
    secrets: list[str] = []
    with recorded_logs() as logs:
        control = start_control()
        tenant = control.new_tenant()
        federated = federate(tenant, issuer={"check_jti": True})
        pem = make_ca()
        secrets += [control.server.credential.get_secret_value(), tenant.operator, pem, pem.split("\n")[3]]
        with tenant.http() as http, tenant.as_operator() as operator, tenant.http(GATEWAY_KEY) as gateway:
            secrets.append(http.headers["authorization"].removeprefix("Bearer "))
            tunnel = ok(http.post("/v1/tunnels"))["id"]
            for path in ("reveal_token", "rotate_token", "reveal_token"):
                token = ok(http.post(f"/v1/tunnels/{tunnel}/{path}"))["tunnel_token"]
                secrets += [token, json.loads(base64.b64decode(token))["s"]]
            for body in ({"ca_certificate_pem": pem}, {"ca_certificate_pem": pem}, {"ca_certificate_pem": pem[:-40]}):
                http.post(f"/v1/tunnels/{tunnel}/certificates", json=body)
            key = ok(operator.post("/admin/v1/api_keys", json={"name": "x"}))["key"]
            minted = ok(operator.post("/admin/v1/tunnels_api_keys", json={"name": "x"}))["token"]
            secrets += [key, minted, GATEWAY_KEY]
            ok(gateway.post("/internal/v1/authenticate", json={"credential": key}))
            gateway.post("/internal/v1/authenticate", json={"credential": key + "x"})
            for assertion in (federated.assertion(jti="a"), federated.assertion(sub="stranger")):
                response = federated.exchange(assertion)
                secrets += [assertion, assertion.split(".")[2], response.json().get("access_token", assertion)]
            http.get("/v1/tunnels", headers={"authorization": f"Bearer {key}"})
            http.post(f"/v1/tunnels/{tunnel}/archive")
        columns = repr(control.run(control.dump()))
        files = b"".join(path.read_bytes() for path in control.operations.context.config.data_dir.glob("control.db*"))
    assert len(logs.lines) > 100
    assert tunnel in columns
    for secret in secrets:
        for text in variants(secret):
            assert not any(text in line for line in logs.lines), "a secret in the log"
            assert text not in columns, "a secret in a column"
            assert text.encode() not in files, "a secret in a file"
    raw = [base64.b64decode(secret) for secret in secrets if len(secret) == 44 and secret.endswith("=")]
    assert raw
    assert not any(secret in files or repr(secret)[2:-1] in columns for secret in raw)


def test_nothing_secret_shows_in_a_repr(start_control: Callable[..., ControlThread]) -> None:
    control: Any = start_control()
    shown = repr([control.server, control.operations, control.server.bootstrapped, control.operations.context])
    assert control.server.credential.get_secret_value() not in shown
    for key in control.operations.context.vault.keys.values():
        assert repr(key.material)[2:-1] not in shown
    assert repr(control.operations.context.cursor_key)[2:-1] not in shown
