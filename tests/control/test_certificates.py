"""CA certificates on tunnels, over the API: what is taken, what is not, and what the data plane sees of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from qanat.pki.material import NO_EXPIRY
from tests.support.control import EDGE_KEY, Tenant, plain_client
from tests.support.federation import ok
from tests.support.pki import documented_ca, openssl
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
USAGE = dict.fromkeys(
    (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("crl_sign", "encipher_only", "decipher_only"),
    ),
    False,
)


def make_ca(
    key: Any = None,
    *,
    ca: bool = True,
    critical: bool = True,
    ski: bool = True,
    usage: bool | None = True,
    start: timedelta = timedelta(minutes=-5),
    end: datetime | None = None,
    pathlen: int | None = None,
    signer: Any = None,
) -> str:
    """A CA certificate as PEM, with one thing about it changed."""
    key, now = key or ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now + start)
    builder = builder.not_valid_after(end or now + timedelta(days=365))
    builder = builder.add_extension(x509.BasicConstraints(ca, pathlen), critical=critical)
    if ski:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=usage, **USAGE), critical=True)
    signer = signer or key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@pytest.fixture
def tunnel(tenant: Tenant) -> str:
    with tenant.http() as http:
        return str(ok(http.post("/v1/tunnels"))["id"])


def register(tenant: Tenant, tunnel: str, pem: object) -> httpx2.Response:
    with tenant.http() as http:
        return http.post(f"/v1/tunnels/{tunnel}/certificates", json={"ca_certificate_pem": pem})


@requirement("tunnels-api:16")
def test_the_documented_ca_is_shown_as_openssl_shows_it(tenant: Tenant, tunnel: str, tmp_path: Path) -> None:
    path = documented_ca(tmp_path)
    client = anthropic.Anthropic(base_url=tenant.url, auth_token=tenant.mint())
    made = client.beta.tunnels.certificates.create(tunnel, ca_certificate_pem=path.read_text())
    printed = openssl("x509", "-in", str(path), "-noout", "-fingerprint", "-sha256").strip().split("=")[1]
    assert made.fingerprint == printed.replace(":", "").lower()
    assert made.expires_at == x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    assert (made.type, made.tunnel_id, made.archived_at) == ("tunnel_certificate", tunnel, None)
    client.close()


def test_a_certificate_without_an_end_expires_never(tenant: Tenant, tunnel: str) -> None:
    assert ok(register(tenant, tunnel, make_ca(end=NO_EXPIRY)))["expires_at"] is None


@requirement("tunnels-api:17")
def test_a_third_live_certificate_is_refused_until_one_is_archived(tenant: Tenant, tunnel: str) -> None:
    first = ok(register(tenant, tunnel, make_ca()))["id"]
    ok(register(tenant, tunnel, make_ca()))
    refused = register(tenant, tunnel, make_ca())
    assert refused.status_code == 400
    assert refused.json()["error"]["details"] == {"error_code": "tunnel_certificate_limit_exceeded"}
    with tenant.http() as http:
        archived = ok(http.post(f"/v1/tunnels/{tunnel}/certificates/{first}/archive"))
        assert ok(http.post(f"/v1/tunnels/{tunnel}/certificates/{first}/archive")) == archived
    ok(register(tenant, tunnel, make_ca()))


@requirement("tunnels-api:18")
def test_the_same_certificate_again_is_a_conflict_that_is_not_retried(tenant: Tenant, tunnel: str) -> None:
    pem = make_ca()
    sent: list[httpx2.Request] = []
    hooks: dict[str, list[Any]] = {"request": [sent.append]}
    with plain_client(event_hooks=hooks) as http:
        client = anthropic.Anthropic(base_url=tenant.url, auth_token=tenant.mint(), http_client=http)
        made = client.beta.tunnels.certificates.create(tunnel, ca_certificate_pem=pem)
        with pytest.raises(anthropic.ConflictError):
            client.beta.tunnels.certificates.create(tunnel, ca_certificate_pem=pem)
        assert len(sent) == 2
        client.beta.tunnels.certificates.archive(made.id, tunnel_id=tunnel)
        again = client.beta.tunnels.certificates.create(tunnel, ca_certificate_pem=pem)
    assert (again.fingerprint, again.id != made.id) == (made.fingerprint, True)


def _openssl_pem(tmp_path: Path, *arguments: str) -> str:
    key = tmp_path / "key.pem"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key))
    return openssl(*arguments, "-key", str(key), "-subj", "/CN=ca")


PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"
FAILING: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda _: None, "required"),
    "a number": (lambda _: 5, "string"),
    "empty": (lambda _: "", "empty"),
    "too long": (lambda _: "x" * 8193, "8192 bytes"),
    "with a key": (
        lambda _: make_ca() + "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
        "private key",
    ),
    "two": (lambda _: make_ca() + make_ca(), "exactly one"),
    "a request": (lambda tmp: _openssl_pem(tmp, "req", "-new"), "exactly one"),
    "garbage": (lambda _: "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", ""),
    "no CA": (lambda _: make_ca(ca=False), "CA:TRUE"),
    "not critical": (lambda _: make_ca(critical=False), "critical"),
    "no key id": (lambda _: make_ca(ski=False), "SubjectKeyIdentifier"),
    "no usage": (lambda _: make_ca(usage=None), "KeyUsage"),
    "may not sign": (lambda _: make_ca(usage=False), "keyCertSign"),
    "expired": (lambda _: make_ca(start=timedelta(days=-9), end=datetime.now(UTC) - timedelta(days=1)), "expired"),
    "too early": (lambda _: make_ca(start=timedelta(minutes=9)), "not valid yet"),
    "short RSA": (lambda _: make_ca(rsa_key(1024)), "2048"),
    "P-224": (lambda _: make_ca(ec.generate_private_key(ec.SECP224R1())), "P-256"),
    "Ed25519": (lambda _: make_ca(ed25519.Ed25519PrivateKey.generate()), "RSA or ECDSA"),
    "SHA-1": (lambda tmp: documented_ca(tmp, digest="sha1").read_text(), "SHA-256"),
    "version 1": (lambda tmp: version_1(tmp), "version 3"),
    "text before": (lambda _: "my CA\n" + make_ca(), "nothing but"),
}


def version_1(folder: Path) -> str:
    """A certificate of version 1, as openssl makes one without extensions."""
    request, key = folder / "v1.csr", folder / "v1.key"
    subject = ("-newkey", "rsa:2048", "-nodes", "-subj", "/CN=v1")
    openssl("req", "-new", *subject, "-keyout", str(key), "-out", str(request))
    return openssl("x509", "-req", "-in", str(request), "-key", str(key), "-days", "30")


@requirement("tunnels-api:19")
@pytest.mark.parametrize("name", FAILING)
def test_an_unfit_certificate_is_refused_with_its_reason(
    tenant: Tenant, tunnel: str, name: str, tmp_path: Path
) -> None:
    make, reason = FAILING[name]
    pem = make(tmp_path)
    response = register(tenant, tunnel, pem)
    message = response.json()["error"]["message"]
    assert response.status_code == 400
    assert message.startswith("ca_certificate_pem: ")
    assert reason in message
    assert len(message) < 200
    assert not str(pem)[30:60] or str(pem)[30:60] not in message


@requirement("tunnels-api:20")
@pytest.mark.parametrize(
    "make",
    [
        lambda: make_ca(rsa_key(2048)),
        pytest.param(lambda: make_ca(rsa_key(4096)), marks=pytest.mark.slow),
        lambda: make_ca(),
        lambda: make_ca(ec.generate_private_key(ec.SECP384R1())),
        lambda: make_ca(ec.generate_private_key(ec.SECP521R1())),
        lambda: make_ca(pathlen=0),
        lambda: make_ca(signer=ec.generate_private_key(ec.SECP256R1())),
        lambda: make_ca().replace("\n", "\r\n"),
        lambda: make_ca().strip(),
    ],
)
def test_a_fit_certificate_is_taken(tenant: Tenant, tunnel: str, make: Callable[[], str]) -> None:
    ok(register(tenant, tunnel, make()))


@requirement("tunnels-api:21")
def test_a_certificate_belongs_to_its_tunnel(tenant: Tenant, tunnel: str) -> None:
    client = anthropic.Anthropic(base_url=tenant.url, auth_token=tenant.mint())
    certificates, other = client.beta.tunnels.certificates, client.beta.tunnels.create().id
    made = certificates.create(tunnel, ca_certificate_pem=make_ca())
    assert certificates.retrieve(made.id, tunnel_id=tunnel) == made
    with pytest.raises(anthropic.NotFoundError):
        certificates.retrieve(made.id, tunnel_id=other)
    client.close()


@requirement("tunnels-api:22")
def test_without_its_last_certificate_a_tunnel_is_readable_but_trusts_nobody(tenant: Tenant, tunnel: str) -> None:
    pem = make_ca()
    made = ok(register(tenant, tunnel, pem))
    with tenant.http() as http, tenant.http(EDGE_KEY) as edge:
        shown = ok(http.get(f"/v1/tunnels/{tunnel}"))
        record = ok(edge.get("/internal/v1/tunnels", params={"domain": shown["domain"].upper()}))
        assert record["ca_certificates"] == [pem]
        ok(http.post(f"/v1/tunnels/{tunnel}/certificates/{made['id']}/archive"))
        assert ok(http.get(f"/v1/tunnels/{tunnel}")) == shown
        record = ok(edge.get("/internal/v1/tunnels", params={"uuid": record["uuid"]}))
    assert record["ca_certificates"] == []
    assert record["archived"] is False


def test_certificates_are_listed_newest_first_page_by_page(tenant: Tenant, tunnel: str) -> None:
    made = [ok(register(tenant, tunnel, make_ca()))["id"] for _ in range(2)]
    with tenant.http() as http:
        first = ok(http.get(f"/v1/tunnels/{tunnel}/certificates", params={"limit": "1"}))
        query = {"limit": "1", "page": first["next_page"]}
        second = ok(http.get(f"/v1/tunnels/{tunnel}/certificates", params=query))
    assert [first["data"][0]["id"], second["data"][0]["id"]] == made[::-1]
    assert second["next_page"] is None
