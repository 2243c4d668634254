"""`qanat doctor` over the whole stack on loopback, and over each hop broken in turn."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from qanat.cli.doctor import app, choose, examine
from qanat.cli.doctor_hops import Finding, Place
from qanat.pki.issue import issue_server
from qanat.stack import Stack, join
from tests.support.pki import DOMAIN, now, serial, throwaway_ca, throwaway_server
from tests.support.tunnels_api import API_KEY, JSONHandler, Request, serving, tunnels_api


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(tmp_path) as running:
        yield running


@pytest.fixture
def place(stack: Stack, tmp_path: Path) -> Place:
    """Everything doctor can be told about that stack."""
    assert stack.proxy.address is not None
    config = {
        "listen_addr": join(stack.proxy.address),
        "tls": {"cert_file": str(stack.customer / "tls.crt"), "key_file": str(stack.customer / "tls.key")},
        "routes": stack.samples.urls,
        "upstream": {"allowed_ips": ["127.0.0.1/32"]},
    }
    (tmp_path / "proxy.yaml").write_text(yaml.safe_dump(config))
    return Place(
        data=stack.customer,
        config=tmp_path / "proxy.yaml",
        edges=(join(stack.edge.connector_address),),
        cacert=stack.pki / "connector-listener-ca.pem",
        api_url=stack.control.url,
        api_token=stack.control.credential.get_secret_value(),
        client_listener=join(stack.edge.client_address),
        client_files=(stack.pki / "gateway.pem", stack.pki / "gateway-key.pem"),
        client_ca=stack.pki / "client-listener-ca.pem",
        route="tickets",
        timeout=20.0,
    )


async def look(place: Place) -> list[Finding]:
    return await examine(place, choose(place))


def failing(findings: list[Finding]) -> list[str]:
    return [finding.hop for finding in findings if finding.verdict == "fail"]


@pytest.mark.slow
async def test_a_sound_deployment_passes_every_hop(place: Place) -> None:
    findings = await look(place)
    assert [f for f in findings if f.verdict != "ok"] == []
    hops = list(dict.fromkeys(finding.hop for finding in findings))
    assert hops == ["files", "token", "certificate", "api", "edge", "proxy", "upstream", "call"]


@pytest.mark.slow
async def test_each_broken_hop_is_the_first_that_fails(place: Place, stack: Stack) -> None:
    assert place.data is not None
    assert failing(await look(replace(place, edges=("127.0.0.1:1",), timeout=2.0)))[0] == "edge"
    wrong_ca = stack.pki / "client-ca.pem"
    refused = await look(replace(place, cacert=wrong_ca))
    assert failing(refused)[0] == "edge"
    assert any("is not its CA" in finding.text for finding in refused)
    assert failing(await look(replace(place, route="nobody")))[0] == "call"
    await stack.stop_part("connector")
    assert failing(await look(place)) == ["call"]
    (ca := place.data / "ca.crt").write_bytes(throwaway_ca().certificate_pem)
    assert failing(await look(place))[:2] == ["certificate", "api"]
    ca.unlink()
    assert failing(await look(replace(place, api_url="")))[0] == "call"


def stored(folder: Path) -> Path:
    """A data folder without an API behind it."""
    ca = throwaway_ca()
    server = throwaway_server(ca)
    token = "eyJhIjoiYSIsInQiOiIzZjI1MDRlMC00Zjg5LTExZDMtOWEwYy0wMzA1ZTgyYzMzMDEiLCJzIjoiYzJWamNtVjAifQ=="
    for name, data in {
        "ca.crt": ca.certificate_pem,
        "tls.crt": server.certificate_pem,
        "tls.key": server.key_pem,
        "tunnel-domain": DOMAIN.encode(),
        "tunnel-token": token.encode(),
    }.items():
        (folder / name).write_bytes(data)
    (folder / "tls.key").chmod(0o600)
    (folder / "tunnel-token").chmod(0o600)
    (folder / "ca.key").write_bytes(ca.key_pem)
    (folder / "ca.key").chmod(0o600)
    return folder


async def test_a_data_folder_alone_is_checked(tmp_path: Path) -> None:
    findings = await look(Place(data=stored(tmp_path)))
    assert [(finding.hop, finding.verdict) for finding in findings] == [
        ("files", "ok"),
        ("token", "ok"),
        ("certificate", "ok"),
    ]


async def test_what_is_wrong_with_files_is_said(tmp_path: Path) -> None:
    data = stored(tmp_path)
    (data / "tls.key").chmod(0o644)
    (data / "tunnel-token").write_text("not a token")
    findings = await look(Place(data=data))
    assert (findings[0].hop, findings[0].verdict) == ("files", "warn")
    assert "chmod 600" in findings[0].text
    assert failing(findings) == ["token"]
    assert "not a token" not in str(findings)
    (data / "tls.crt").unlink()
    assert failing(await look(Place(data=data))) == ["files", "token", "certificate"]


async def test_what_cannot_be_read_is_a_finding_too(tmp_path: Path) -> None:
    data = stored(tmp_path)
    (data / "tunnel-token").write_bytes(b"\xff\xfe")
    assert failing(await look(Place(data=data))) == ["token"]
    (data / "tunnel-token").unlink()
    (data / "tunnel-token").mkdir()
    with tunnels_api() as api:
        (data / "tunnel-id").write_text(api.add_tunnel())
        place = Place(data=data, api_url=api.url, api_token=API_KEY)
        assert failing(await look(place)) == ["files", "token", "api"]
    edge = await look(Place(edges=("127.0.0.1:1",), cacert=tmp_path / "none.pem"))
    assert edge[0].text == f"--cacert {tmp_path / 'none.pem'}: no such file or directory"


async def test_a_certificate_near_its_end_is_a_warning_and_one_past_it_a_failure(tmp_path: Path) -> None:
    data, ca = stored(tmp_path), throwaway_ca()
    for days_left, verdict in ((10, "warn"), (-1, "fail")):
        pair = issue_server(ca, DOMAIN, now() - timedelta(days=90 - days_left), serial())
        (data / "ca.crt").write_bytes(ca.certificate_pem)
        (data / "tls.crt").write_bytes(pair.certificate_pem)
        (data / "tls.key").write_bytes(pair.key_pem)
        finding = (await look(Place(data=data)))[-1]
        assert (finding.hop, finding.verdict) == ("certificate", verdict)
        assert "renew-cert" in finding.text


async def test_upstreams_are_judged_as_the_proxy_judges_them(tmp_path: Path) -> None:
    data = stored(tmp_path)
    config: dict[str, Any] = {"routes": {"kb": "http://127.0.0.1:1", "lost": "http://no-such-name.invalid:80"}}
    joined = {"listen_addr": "127.0.0.1:1", "connector": {"edge": ["e:1"]}}
    (data / "join.yaml").write_text(yaml.safe_dump(config | joined))
    findings = await look(Place(data=data, config=data / "join.yaml"))
    assert "proxy" not in failing(findings), "nothing listens, whatever the file says"
    upstream = [finding.text for finding in findings if finding.hop == "upstream"]
    assert "may not be dialled" in upstream[0]
    assert "has no address" in upstream[1]
    config["upstream"] = {"allowed_ips": ["127.0.0.1/32"]}
    (data / "join.yaml").write_text(yaml.safe_dump(config))
    findings = await look(Place(data=data, config=data / "join.yaml"))
    assert "127.0.0.1:1" in next(finding.text for finding in findings if finding.hop == "upstream")
    (data / "join.yaml").write_text("routs: {}")
    assert "proxy" in failing(await look(Place(data=data, config=data / "join.yaml")))


async def test_the_connector_is_asked_whether_it_is_ready() -> None:
    answers: list[tuple[int, dict[str, Any]]] = [(200, {"readyConnections": 4}), (503, {"readyConnections": 0})]

    class Handler(JSONHandler):
        def answer(self, request: Request) -> tuple[int, dict[str, Any]] | None:
            return answers.pop(0)

    with serving(Handler) as server:
        place = Place(ready=f"http://127.0.0.1:{server.server_port}/ready")
        assert failing(await look(place)) == []
        assert failing(await look(place)) == ["connector"]
    gone = await look(place)
    assert failing(gone) == ["connector"]
    assert "is the connector running?" in gone[0].text


def test_the_command_names_the_first_failing_hop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = stored(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app(["--data", str(data)])
    assert ended.value.code == 0
    assert "every hop that was checked works" in capsys.readouterr().out
    (data / "tunnel-token").write_text("x")
    with pytest.raises(SystemExit) as ended:
        app(["--data", str(data)])
    assert ended.value.code == 1
    assert "first failing hop: token" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        app(["--data", str(data), "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["hop"] for line in lines] == ["files", "token", "certificate"]


def test_with_nothing_to_check_it_is_misused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNNEL_EDGE", raising=False)
    with pytest.raises(SystemExit) as ended:
        app([])
    assert ended.value.code == 2
