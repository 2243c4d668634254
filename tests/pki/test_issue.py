"""What we issue: the profile, field by field, and openssl's opinion of it."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qanat.pki.issue import (
    CONNECTOR_LISTENER_NAMES,
    KeyType,
    generate_key,
    issue_ca,
    issue_client,
    issue_listener,
    issue_node,
    issue_server,
    key_type,
    serial_number,
)
from qanat.pki.judge import find, judge_ca, judge_server_certificate
from qanat.pki.material import CertificateRefused, Pair, load_pair
from tests.support.pki import DOMAIN, now, openssl, serial, throwaway_ca, throwaway_server
from tests.support.requirements import requirement

E = TypeVar("E", bound=x509.ExtensionType)


def value(pair: Pair, kind: type[E]) -> x509.Extension[E]:
    extension = find(pair.certificate, kind)
    assert extension is not None
    return extension


@requirement("setup:17")
def test_the_ca_follows_the_profile() -> None:
    moment = now()
    ca = issue_ca("mcp-tunnel-ca", moment, 7, organization="tnl_01abc")
    certificate = ca.certificate
    assert isinstance(ca.key, ec.EllipticCurvePrivateKey)
    assert isinstance(ca.key.curve, ec.SECP256R1)
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert certificate.serial_number == 7
    assert certificate.not_valid_after_utc == (moment + timedelta(days=1826)).replace(microsecond=0)
    assert certificate.not_valid_before_utc == (moment - timedelta(minutes=5)).replace(microsecond=0)
    assert certificate.subject.rfc4514_string() == "O=tnl_01abc,CN=mcp-tunnel-ca"
    constraints = value(ca, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    assert constraints.value.path_length == 0
    usage = value(ca, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert value(ca, x509.SubjectKeyIdentifier).value == x509.SubjectKeyIdentifier.from_public_key(ca.key.public_key())
    assert find(certificate, x509.ExtendedKeyUsage) is None
    assert len(ca.certificate_pem) < 8192
    assert judge_ca(ca.certificate_pem.decode(), moment) == certificate


@requirement("setup:18")
def test_the_server_certificate_follows_the_profile() -> None:
    moment, ca = now(), throwaway_ca()
    server = issue_server(ca, DOMAIN, moment, 9)
    certificate = server.certificate
    assert isinstance(server.key, ec.EllipticCurvePrivateKey)
    assert certificate.not_valid_after_utc == (moment + timedelta(days=90)).replace(microsecond=0)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == DOMAIN
    names = value(server, x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert names == [f"*.{DOMAIN}", DOMAIN]
    assert list(value(server, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = value(server, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_encipherment
    constraints = value(server, x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    authority = value(server, x509.AuthorityKeyIdentifier).value.key_identifier
    assert authority == value(ca, x509.SubjectKeyIdentifier).value.digest
    assert find(certificate, x509.SubjectKeyIdentifier) is not None
    assert judge_server_certificate(certificate, [ca.certificate], f"tickets.{DOMAIN}", moment) == ca.certificate


@pytest.mark.slow
@requirement("setup:18")
def test_an_rsa_4096_server_key_is_made_on_request() -> None:
    ca, key = throwaway_ca(), generate_key(KeyType.RSA_4096)
    server = issue_server(ca, DOMAIN, now(), serial(), key=key)
    assert isinstance(server.key, rsa.RSAPrivateKey)
    assert server.key.key_size == 4096
    assert key_type(server.key) is KeyType.RSA_4096
    judge_server_certificate(server.certificate, [ca.certificate], DOMAIN, now())


def test_a_domain_over_64_characters_is_left_out_of_the_subject() -> None:
    domain = f"{'a' * 63}.example.net"
    server = throwaway_server(throwaway_ca(), domain)
    assert not list(server.certificate.subject)
    assert value(server, x509.SubjectAlternativeName).critical  # RFC 5280 4.2.1.6: with an empty subject


def test_no_certificate_outlives_its_ca() -> None:
    ca = issue_ca("short", now(), serial(), lifetime=timedelta(days=10))
    assert throwaway_server(ca).certificate.not_valid_after_utc == ca.certificate.not_valid_after_utc


def test_an_expired_ca_issues_nothing() -> None:
    ca = issue_ca("old", now() - timedelta(days=20), serial(), lifetime=timedelta(days=10))
    with pytest.raises(CertificateRefused, match="expired"):
        throwaway_server(ca)


def test_a_serial_is_positive_and_takes_sixteen_bytes() -> None:
    assert serial_number(bytes(16)) == 1
    assert serial_number(b"\xff" * 16) == 2**128 - 1
    with pytest.raises(ValueError, match="16 random bytes"):
        serial_number(b"short")


@requirement("setup:19")
def test_openssl_accepts_the_chain_also_in_strict_mode(tmp_path: Path) -> None:
    ca = throwaway_ca()
    (tmp_path / "ca.crt").write_bytes(ca.certificate_pem)
    (tmp_path / "tls.crt").write_bytes(throwaway_server(ca).certificate_pem)
    for flags in ([], ["-x509_strict"], ["-partial_chain", "-purpose", "sslserver", "-verify_hostname", f"x.{DOMAIN}"]):
        assert "OK" in openssl("verify", *flags, "-CAfile", "ca.crt", "tls.crt", cwd=tmp_path)


def test_python_accepts_the_pair_in_strict_mode(tmp_path: Path) -> None:
    ca = throwaway_ca()
    server = throwaway_server(ca)
    (tmp_path / "pair.pem").write_bytes(server.certificate_pem + server.key_pem)
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(tmp_path / "pair.pem")
    calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    calling.verify_flags |= ssl.VERIFY_X509_STRICT
    calling.load_verify_locations(cadata=ca.certificate_pem.decode())
    left, right = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = calling.wrap_bio(left, right, server_hostname=f"tickets.{DOMAIN}")
    server_side = listening.wrap_bio(right, left, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in {client, server_side} - done:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
    assert client.version() == "TLSv1.3"


def test_the_connector_listener_answers_to_cloudflareds_three_names() -> None:
    listener = issue_listener(throwaway_ca(), CONNECTOR_LISTENER_NAMES, now(), serial())
    names = value(listener, x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert tuple(names) == ("h2.cftunnel.com", "quic.cftunnel.com", "probe.cftunnel.com")


def test_a_listener_may_be_an_address() -> None:
    listener = issue_listener(throwaway_ca(), ["127.0.0.1", "edge.example.net"], now(), serial())
    names = value(listener, x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["edge.example.net"]


def test_a_client_certificate_is_for_clients_only() -> None:
    client = issue_client(throwaway_ca(), "gateway-1", now(), serial())
    assert list(value(client, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert client.certificate.subject.rfc4514_string() == "CN=gateway-1"


def test_a_node_is_server_and_client() -> None:
    node = issue_node(throwaway_ca(), ["edge-1.internal"], now(), serial())
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert list(value(node, x509.ExtendedKeyUsage).value) == both


def test_a_pair_shows_no_key_and_survives_its_files() -> None:
    pair = throwaway_ca()
    assert "key" not in repr(pair).lower().replace("x509", "")
    assert load_pair(pair.certificate_pem, pair.key_pem).certificate == pair.certificate


def test_a_foreign_key_is_refused() -> None:
    with pytest.raises(CertificateRefused, match="does not belong"):
        load_pair(throwaway_ca().certificate_pem, throwaway_ca().key_pem)
