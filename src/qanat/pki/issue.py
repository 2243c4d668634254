"""Issue certificates: CAs, server certificates, client certificates, listener certificates.

`now` and the serial number are arguments; keys come from OpenSSL's random generator. The default key is ECDSA P-256:
a signature by RSA-4096 costs 160 times more, and a server signs once for each handshake.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qanat.pki.judge import find
from qanat.pki.material import CertificateRefused, Pair, PrivateKey

CA_LIFETIME = timedelta(days=1826)
SERVER_LIFETIME = timedelta(days=90)
BACKDATED = timedelta(minutes=5)
"""Certificates start this long before `now`: clocks of other machines may be behind."""
MAX_COMMON_NAME = 64
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
CONNECTOR_LISTENER_NAMES = ("h2.cftunnel.com", "quic.cftunnel.com", "probe.cftunnel.com")
"""The server names cloudflared asks for over HTTP/2, QUIC and its connectivity probe."""


class KeyType(StrEnum):
    """Kinds of key we generate."""

    ECDSA_P256 = "ecdsa-p256"
    RSA_4096 = "rsa-4096"


def generate_key(kind: KeyType = KeyType.ECDSA_P256) -> PrivateKey:
    """A fresh private key; RSA takes about a second."""
    if kind is KeyType.RSA_4096:
        return rsa.generate_private_key(public_exponent=65537, key_size=4096)
    return ec.generate_private_key(ec.SECP256R1())


def key_type(key: PrivateKey) -> KeyType:
    """The kind to generate when this key is to be replaced by one like it."""
    return KeyType.RSA_4096 if isinstance(key, rsa.RSAPrivateKey) else KeyType.ECDSA_P256


def serial_number(random_bytes: bytes) -> int:
    """A positive serial number from exactly 16 random bytes."""
    if len(random_bytes) != 16:
        raise ValueError("a serial number takes 16 random bytes")
    return int.from_bytes(random_bytes, "big") or 1


def issue_ca(
    name: str, now: datetime, serial: int, *, organization: str = "", lifetime: timedelta = CA_LIFETIME
) -> Pair:
    """A self-signed CA for leaf certificates only (path length 0)."""
    key = generate_key()
    subject = _name(name, organization)
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key, serial)
        .not_valid_before(_start(now))
        .not_valid_after(_whole(now + lifetime))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


@dataclass(frozen=True)
class _Leaf:
    common_name: str
    names: tuple[x509.GeneralName, ...]
    usages: tuple[x509.ObjectIdentifier, ...]


def issue_server(
    ca: Pair,
    domain: str,
    now: datetime,
    serial: int,
    *,
    lifetime: timedelta = SERVER_LIFETIME,
    key: PrivateKey | None = None,
) -> Pair:
    """The proxy's certificate: `*.<domain>` and `<domain>`, one label deep."""
    names = (x509.DNSName(f"*.{_dns_name(domain).value}"), _dns_name(domain))
    return _issue(ca, _Leaf(domain, names, (ExtendedKeyUsageOID.SERVER_AUTH,)), (now, lifetime), serial, key)


def issue_listener(
    ca: Pair, names: Sequence[str], now: datetime, serial: int, *, lifetime: timedelta = SERVER_LIFETIME
) -> Pair:
    """A server certificate for exactly `names` (DNS names or IP addresses), such as `CONNECTOR_LISTENER_NAMES`."""
    general = tuple(_general_name(name) for name in names)
    return _issue(ca, _Leaf(names[0], general, (ExtendedKeyUsageOID.SERVER_AUTH,)), (now, lifetime), serial)


def issue_client(ca: Pair, name: str, now: datetime, serial: int, *, lifetime: timedelta = SERVER_LIFETIME) -> Pair:
    """A client certificate for outer mTLS; `name` is the common name and the one DNS name."""
    leaf = _Leaf(name, (_dns_name(name),), (ExtendedKeyUsageOID.CLIENT_AUTH,))
    return _issue(ca, leaf, (now, lifetime), serial)


def issue_node(
    ca: Pair, names: Sequence[str], now: datetime, serial: int, *, lifetime: timedelta = SERVER_LIFETIME
) -> Pair:
    """For a node of a cluster, which is server and client to its peers."""
    usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    leaf = _Leaf(names[0], tuple(_general_name(name) for name in names), usages)
    return _issue(ca, leaf, (now, lifetime), serial)


def _issue(
    ca: Pair, leaf: _Leaf, period: tuple[datetime, timedelta], serial: int, key: PrivateKey | None = None
) -> Pair:
    key = key or generate_key()
    now, lifetime = period
    ca_end = ca.certificate.not_valid_after_utc
    if now >= ca_end:
        raise CertificateRefused("the CA certificate has expired")
    issuer = find(ca.certificate, x509.SubjectKeyIdentifier)
    if issuer is None:
        raise CertificateRefused("the CA certificate has no subject key identifier")
    encipher = isinstance(key, rsa.RSAPrivateKey) or ExtendedKeyUsageOID.SERVER_AUTH in leaf.usages
    usage = _key_usage(digital_signature=True, key_encipherment=encipher)
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer.value)
    certificate = (
        _builder(_name(leaf.common_name), ca.certificate.subject, key, serial)
        .not_valid_before(_start(now))
        .not_valid_after(_whole(now + min(lifetime, ca_end - now)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(leaf.usages), critical=False)
        .add_extension(authority, critical=False)
        .add_extension(x509.SubjectAlternativeName(leaf.names), critical=not _name(leaf.common_name).rdns)
        .sign(ca.key, hashes.SHA256())
    )
    return Pair(certificate, key)


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str, organization: str = "") -> x509.Name:
    attributes = []
    if len(common_name) <= MAX_COMMON_NAME:  # RFC 5280's upper bound; the names that count are in the SAN
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return _dns_name(name)


def _dns_name(name: str) -> x509.DNSName:
    """Raises `CertificateRefused` for what is no host name: nobody could be verified by it."""
    if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise CertificateRefused(f"not a host name: {name!r}")
    return x509.DNSName(name)


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _start(now: datetime) -> datetime:
    return _whole(now - BACKDATED)


def _whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
