"""Where keys come from: discovery, fixed URLs, rotation, outages, and addresses we refuse to dial."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from qanat.control.assertions import usable_keys
from qanat.control.config import FetchPolicy
from qanat.control.fetching import Fetcher, FetchFailed
from qanat.control.operations.issuers import IssuerChange
from tests.support.control import ControlThread, SteppedClock, Tenant
from tests.support.federation import EC_KEY, INLINE, RSA_KEY, Federated, federate, jwk, ok, sign
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow

API = "/v1/organizations/federation_issuers"
HOST = "issuer.test"


class Provider:
    """An OpenID provider over TLS on loopback, with whatever keys a test gives it."""

    def __init__(self, folder: Path) -> None:
        self.keys: list[dict[str, Any]] = [jwk(RSA_KEY, "rsa")]
        self.fetched: list[str] = []
        self.down = False
        self.keys_path = "/keys"
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while somebody waits for the keys."""
        ca = throwaway_ca("provider")
        self.ca_pem = ca.certificate_pem.decode()
        server = throwaway_server(ca, HOST)
        (folder / "tls.crt").write_bytes(server.certificate_pem)
        (folder / "tls.key").write_bytes(server.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"https://{HOST}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.fetched.append(request.path)
        if request.path == "/keys":
            self.meanwhile()
        documents = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}{self.keys_path}"},
            "/keys": {"keys": self.keys},
        }
        body = json.dumps(documents.get(request.path, {})).encode()
        request.send_response(503 if self.down else 302 if request.path == "/moved" else 200)
        request.send_header("location", f"{self.url}/keys")
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=30)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(tmp_path)
    yield made
    made.close()


async def resolve(host: str, port: int) -> list[str]:
    names = {HOST: ["127.0.0.1"], "public.example": ["93.184.216.34"], "mixed.example": ["93.184.216.34", "10.0.0.1"]}
    if host not in names:
        raise OSError("unknown name")
    return names[host]


@pytest.fixture
def relaxed(start_control: Callable[..., ControlThread], provider: Provider) -> tuple[Tenant, SteppedClock]:
    """A control plane that may fetch from the provider, and its clock."""
    clock = SteppedClock()
    policy = {"allow_hosts": [HOST], "allow_cidrs": ["127.0.0.0/8"], "allow_ports": [provider.port]}
    control = start_control({"federation": {"fetch_policy": policy}}, clock=clock, resolve=resolve)
    return control.new_tenant(), clock


def discovered(tenant: Tenant, provider: Provider) -> Federated:
    source = {"type": "discovery", "ca_cert_pem": provider.ca_pem}
    return federate(tenant, issuer={"issuer_url": provider.url, "jwks": source})


@requirement("workload-identity:21")
def test_a_loopback_issuer_needs_a_relaxed_policy(
    tenant: Tenant, relaxed: tuple[Tenant, SteppedClock], provider: Provider
) -> None:
    source = {"type": "discovery", "ca_cert_pem": provider.ca_pem}
    with tenant.as_operator() as http:
        refused = http.post(API, json={"name": "x", "issuer_url": provider.url, "jwks": source})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("issuer_url: ")
    federated = discovered(relaxed[0], provider)
    ok(federated.exchange())
    assert provider.fetched == ["/.well-known/openid-configuration", "/keys"]
    with relaxed[0].as_operator() as http:
        issuer = ok(http.get(f"{API}/{federated.issuer_id}"))
    assert issuer["jwks"] == {"type": "discovery", "discovery_base": None, "ca_cert_pem": provider.ca_pem}
    assert issuer["poll_status"]["consecutive_failures"] == 0
    assert issuer["poll_status"]["last_fetched_at"] is not None


def test_a_certificate_of_another_ca_is_not_believed(relaxed: tuple[Tenant, SteppedClock], provider: Provider) -> None:
    source = {"type": "discovery", "ca_cert_pem": throwaway_ca().certificate_pem.decode()}
    federated = federate(relaxed[0], issuer={"issuer_url": provider.url, "jwks": source})
    assert federated.exchange().status_code == 401
    assert federated.reasons() == ["jwks_unavailable"]


def test_a_redirect_is_not_followed(relaxed: tuple[Tenant, SteppedClock], provider: Provider) -> None:
    source = {"type": "explicit_url", "url": f"{provider.url}/moved", "ca_cert_pem": provider.ca_pem}
    federated = federate(relaxed[0], issuer={"jwks": source})
    assert federated.exchange().status_code == 401
    assert provider.fetched == ["/moved"]


@requirement("workload-identity:22")
def test_a_new_key_is_found_and_unknown_ones_cause_no_storm(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider
) -> None:
    tenant, clock = relaxed
    federated = discovered(tenant, provider)
    ok(federated.exchange())
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    provider.keys = [jwk(new, "new")]
    ok(federated.exchange(sign(federated.claims(), kid="new", key=new)))
    assert provider.fetched.count("/keys") == 2
    for _ in range(100):
        assert federated.exchange(sign(federated.claims(), kid="nobody", key=new)).status_code == 401
    assert provider.fetched.count("/keys") == 2
    clock.advance(seconds=61)
    federated.exchange(sign(federated.claims(iat=None), kid="nobody", key=new))
    assert provider.fetched.count("/keys") == 3


@requirement("workload-identity:23")
def test_cached_keys_outlive_an_outage(relaxed: tuple[Tenant, SteppedClock], provider: Provider) -> None:
    tenant, clock = relaxed
    federated = discovered(tenant, provider)
    provider.down = True
    assert federated.exchange().status_code == 401
    assert federated.reasons() == ["jwks_unavailable"]
    provider.down = False
    clock.advance(seconds=11)
    ok(federated.exchange())
    provider.down = True
    clock.advance(minutes=16)
    shift = int(clock.offset.total_seconds())

    def later() -> str:
        now = federated.claims()["iat"] + shift
        return federated.assertion(iat=now, exp=now + 300)

    ok(federated.exchange(later()))
    clock.advance(hours=24)
    shift = int(clock.offset.total_seconds())
    assert federated.exchange(later()).status_code == 401


def test_polling_pauses_after_ten_failures_and_is_resumed_by_hand(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider
) -> None:
    tenant, clock = relaxed
    federated, key_sets = discovered(tenant, provider), tenant.control.operations.housekeeping
    ok(federated.exchange())
    provider.down = True
    for _ in range(12):
        clock.advance(minutes=16)
        tenant.control.run(key_sets.poll_issuers())
    with tenant.as_operator() as http:
        paused = ok(http.get(f"{API}/{federated.issuer_id}"))
        assert paused["jwks_polling_disabled_at"] is not None
        assert (paused["poll_status"]["consecutive_failures"], paused["poll_status"]["next_poll_at"]) == (10, None)
        assert http.post(f"{API}/{federated.issuer_id}", json={"jwks_polling_disabled": True}).status_code == 400
        resumed = ok(http.post(f"{API}/{federated.issuer_id}", json={"jwks_polling_disabled": False}))
    assert resumed["jwks_polling_disabled_at"] is None
    assert resumed["poll_status"]["next_poll_at"] is not None


def poll_until_it_pauses(federated: Federated, clock: SteppedClock) -> None:
    for _ in range(10):
        federated.tenant.control.run(federated.tenant.control.operations.housekeeping.poll_issuers())
        clock.advance(minutes=16)


def test_exchanges_during_a_short_outage_do_not_pause_the_polling(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider
) -> None:
    tenant, clock = relaxed
    federated = discovered(tenant, provider)
    provider.down = True
    for _ in range(12):
        assert federated.exchange().status_code == 401
        clock.advance(seconds=11)
    with tenant.as_operator() as http:
        issuer = ok(http.get(f"{API}/{federated.issuer_id}"))
    assert (issuer["jwks_polling_disabled_at"], issuer["poll_status"]["consecutive_failures"]) == (None, 1)
    provider.down = False
    now = int(clock.now().timestamp())
    ok(federated.exchange(federated.assertion(iat=now, exp=now + 300)))


def test_a_key_found_while_polling_is_paused_does_not_resume_it(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider
) -> None:
    tenant, clock = relaxed
    federated = discovered(tenant, provider)
    ok(federated.exchange())
    provider.down = True
    clock.advance(minutes=16)
    poll_until_it_pauses(federated, clock)
    provider.down = False
    federated.exchange(sign(federated.claims(), kid="unknown"))
    with tenant.as_operator() as http:
        issuer = ok(http.get(f"{API}/{federated.issuer_id}"))
    assert issuer["jwks_polling_disabled_at"] is not None
    assert (issuer["poll_status"]["consecutive_failures"], issuer["poll_status"]["next_poll_at"]) == (0, None)


def test_another_source_is_polled_from_the_beginning(relaxed: tuple[Tenant, SteppedClock], provider: Provider) -> None:
    federated = discovered(relaxed[0], provider)
    provider.down = True
    poll_until_it_pauses(federated, relaxed[1])
    source = {"type": "explicit_url", "url": f"{provider.url}/keys", "ca_cert_pem": provider.ca_pem}
    changed = ok(change_issuer(federated, jwks=source))
    assert (changed["jwks_polling_disabled_at"], changed["poll_status"]["consecutive_failures"]) == (None, 0)
    assert changed["poll_status"]["next_poll_at"] is not None


@requirement("workload-identity:24")
@pytest.mark.parametrize(
    "url",
    ["http://public.example", "https://public.example:8443", "https://93.184.216.34", "https://[::1]", "https://127.1"],
)
def test_only_a_url_that_will_be_dialled_must_be_public(tenant: Tenant, url: str) -> None:
    with tenant.as_operator() as http:
        refused = http.post(API, json={"name": "x", "issuer_url": url})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"].startswith("issuer_url: url must")
        ok(http.post(API, json={"name": "x", "issuer_url": url, "jwks": INLINE}))
        source = {"type": "explicit_url", "url": url}
        field = http.post(API, json={"name": "y", "issuer_url": url, "jwks": source}).json()["error"]["message"]
        assert field.startswith("jwks.url: url must")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://public.example", None),
        ("https://public.example:443/x?y=z", None),
        ("https://mixed.example", "public addresses only"),
        ("https://issuer.test", "public addresses only"),
        ("https://nowhere.example", "does not resolve"),
        ("https://user:secret@public.example", "credentials"),
        ("ftp://public.example", "https"),
        ("https://public.example:0", "443"),
        ("https:///x", "absolute"),
        ("https://public.example:port", "absolute"),
        ("https://2130706433", "IP address"),
        ("https://0x7f000001", "IP address"),
        ("https://b\u00fccher.example", "ASCII"),
    ],
)
async def test_the_strict_policy_judges_a_url(url: str, reason: str | None) -> None:
    fetcher = Fetcher(FetchPolicy(), resolve)
    if reason is None:
        await fetcher.check(url)
        return
    with pytest.raises(FetchFailed, match=reason):
        await fetcher.check(url)


@pytest.mark.parametrize(
    ("path", "token"), [("x" * 70_000, "token"), ("", "t\u00f6ken"), ("", "a\nb")], ids=["long", "letter", "line"]
)
async def test_what_cannot_be_sent_is_a_failure_like_any_other(path: str, token: str) -> None:
    fetcher = Fetcher(FetchPolicy(allow_hosts=("issuer.test",)), resolve)
    with pytest.raises(FetchFailed, match="did not answer"):
        await fetcher.ask(f"https://issuer.test/{path}", None, headers={"authorization": f"Bearer {token}"})


def test_private_members_and_weak_keys_never_reach_the_store() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    kept = usable_keys([jwk(RSA_KEY, "a") | {"d": "secret", "x5c": ["x"]}, jwk(weak, "b"), {"kty": "oct", "k": "x"}, 5])
    assert [key["kid"] for key in kept] == ["a"]
    assert set(kept[0]) == {"kty", "kid", "use", "n", "e"} | ({"key_ops"} & set(kept[0]))
    assert usable_keys([jwk(EC_KEY, "ec")])[0]["crv"] == "P-256"


def change_issuer(federated: Federated, **fields: Any) -> httpx2.Response:
    with federated.tenant.as_operator() as http:
        return http.post(f"{API}/{federated.issuer_id}", json=fields)


def test_keys_of_a_source_that_was_replaced_meanwhile_are_not_believed(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider
) -> None:
    federated = discovered(relaxed[0], provider)
    new = {"type": "explicit_url", "url": f"{provider.url}/nothing", "ca_cert_pem": provider.ca_pem}
    provider.meanwhile = lambda: ok(change_issuer(federated, jwks=new))
    assert federated.exchange().status_code == 401
    assert federated.exchange().status_code == 401
    assert provider.fetched == ["/.well-known/openid-configuration", "/keys", "/nothing"]


def test_an_update_does_not_bring_back_keys_that_were_replaced_meanwhile(
    start_control: Callable[..., ControlThread],
) -> None:
    async def resolve_slowly(host: str, port: int) -> list[str]:
        if host == "moved.example":
            await control.operations.issuers.update(tenant.actor, federated.issuer_id, IssuerChange(jwks=INLINE))
        return ["93.184.216.34"]

    control = start_control(resolve=resolve_slowly)
    tenant = control.new_tenant()
    federated = federate(tenant, issuer={"issuer_url": "https://public.example", "jwks": {"type": "discovery"}})
    refused = change_issuer(federated, issuer_url="https://moved.example")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
    with tenant.as_operator() as http:
        issuer = ok(http.get(f"{API}/{federated.issuer_id}"))
    assert (issuer["issuer_url"], issuer["jwks"]["type"]) == ("https://public.example", "inline")
    ok(change_issuer(federated, issuer_url="https://moved.example"))


@pytest.mark.parametrize("pem", ["no certificate", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", "é"])
def test_a_ca_that_cannot_be_used_is_refused(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider, pem: str
) -> None:
    pem = pem + provider.ca_pem if pem == "é" else pem
    source = {"type": "discovery", "ca_cert_pem": pem}
    with relaxed[0].as_operator() as http:
        refused = http.post(API, json={"name": "x", "issuer_url": provider.url, "jwks": source})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("jwks.ca_cert_pem: ")


def test_a_url_that_no_request_can_carry_is_refused(tenant: Tenant) -> None:
    with tenant.as_operator() as http:
        refused = http.post(API, json={"name": "x", "issuer_url": "https://exämple.com"})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("issuer_url: url must be ASCII")


@pytest.mark.parametrize("nonsense", ["a url that is too long", "a member that is no text"])
def test_a_provider_that_answers_nonsense_denies_its_own_exchanges_only(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider, nonsense: str
) -> None:
    tenant, clock = relaxed
    federated = discovered(tenant, provider)
    if nonsense == "a url that is too long":
        provider.keys_path = "/" + "a" * 70_000
    else:
        provider.keys = [jwk(RSA_KEY, "rsa") | {"key_ops": float("nan")}]
    assert federated.exchange().status_code == 401
    assert federated.reasons() == ["jwks_unavailable"]
    clock.advance(minutes=16)
    tenant.control.run(tenant.control.operations.housekeeping.poll_issuers())


def test_a_bug_with_one_issuer_keeps_no_other_from_being_polled(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, _ = relaxed
    for other in (tenant, tenant.control.new_tenant()):
        discovered(other, provider)
    asked: list[str] = []

    async def broken(fetcher: Fetcher, url: str, ca_pem: str | None) -> str:
        asked.append(url)
        raise RuntimeError

    monkeypatch.setattr(Fetcher, "discover", broken)
    tenant.control.run(tenant.control.operations.housekeeping.poll_issuers())
    assert len(asked) == 2


@pytest.mark.parametrize("change", ["/archive", ""])
def test_a_rule_that_changed_while_keys_were_fetched_counts_as_it_is_now(
    relaxed: tuple[Tenant, SteppedClock], provider: Provider, change: str
) -> None:
    tenant, _ = relaxed
    source = {"type": "discovery", "ca_cert_pem": provider.ca_pem}
    everywhere = {"applies_to_all_workspaces": True, "workspace_id": None}
    federated = federate(tenant, issuer={"issuer_url": provider.url, "jwks": source}, rule=everywhere)
    fields = {} if change else {"match": {"subject_prefix": "somebody-else"}}

    def change_rule() -> None:
        with tenant.as_operator() as http:
            ok(http.post(f"/v1/organizations/federation_rules/{federated.rule_id}{change}", json=fields))

    provider.meanwhile = change_rule
    assert federated.exchange().status_code == 401
    assert federated.reasons() == ["rule_archived" if change else "match_subject_prefix"]
