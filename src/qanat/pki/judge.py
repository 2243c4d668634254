"""Judge certificates we are handed: CAs offered for registration, and server certificates seen in a handshake.

The rules for CAs are checked in a fixed order and the first failure is reported, so that the same mistake always gets
the same sentence. A CA need not be self-signed: whatever is registered is a trust anchor by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from qanat.pki.material import PARSE_ERRORS, CertificateRefused, parse_certificate

MAX_PEM_SIZE = 8192
LEEWAY = timedelta(minutes=5)
MIN_RSA_BITS = 2048
FIELD = "ca_certificate_pem"

_PRIVATE_KEY = re.compile(r"PRIVATE KEY\s*-----", re.IGNORECASE)
_LABEL = re.compile(r"-----BEGIN ([^\r\n]*?)-----")
_ONLY_BLOCK = re.compile(r"\s*-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----\s*", re.DOTALL)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# Those critical extensions that OpenSSL acts on when it verifies a chain.
_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
    x509.CertificatePolicies,
    x509.PolicyConstraints,
    x509.InhibitAnyPolicy,
)

E = TypeVar("E", bound=x509.ExtensionType)


def judge_ca(pem: object, now: datetime) -> x509.Certificate:
    """The CA certificate in `pem`, fit to be registered on a tunnel.

    Raises `CertificateRefused` whose text starts with `ca_certificate_pem: ` and never holds the input.
    """
    try:
        certificate = parse_certificate(_only_block(pem))
        if certificate.version is not x509.Version.v3:
            raise CertificateRefused("certificate must be X.509 version 3")
        _check_ca_extensions(certificate)
        _check_validity(certificate, now, LEEWAY)
        check_floors(certificate)
        _check_critical(certificate)
    except CertificateRefused as refusal:
        raise CertificateRefused(f"{FIELD}: {refusal.reason}") from None
    return certificate


def _only_block(pem: object) -> str:
    if pem is None:
        raise CertificateRefused("field is required")
    if not isinstance(pem, str):
        raise CertificateRefused("must be a string")
    if not pem.strip():
        raise CertificateRefused("must not be empty")
    if len(pem.encode(errors="surrogatepass")) > MAX_PEM_SIZE:
        raise CertificateRefused(f"must be at most {MAX_PEM_SIZE} bytes")
    if _PRIVATE_KEY.search(pem):
        raise CertificateRefused("must not contain a private key; upload the CA certificate alone")
    return _block_of(pem)


def _block_of(pem: str) -> str:
    labels: list[str] = _LABEL.findall(pem)
    count = labels.count("CERTIFICATE")
    if count != 1:
        raise CertificateRefused(f"must contain exactly one CERTIFICATE block, found {count}")
    if len(labels) > 1:
        raise CertificateRefused("must contain no PEM block other than the one CERTIFICATE")
    block = _ONLY_BLOCK.fullmatch(pem)
    if block is None:
        raise CertificateRefused("must contain nothing but one complete CERTIFICATE block")
    return block[1]


def _check_ca_extensions(certificate: x509.Certificate) -> None:
    constraints = find(certificate, x509.BasicConstraints)
    if constraints is None:
        raise CertificateRefused("BasicConstraints extension is missing")
    if not constraints.value.ca:
        raise CertificateRefused("BasicConstraints must say CA:TRUE; this is not a CA certificate")
    if not constraints.critical:
        raise CertificateRefused("BasicConstraints must be marked critical")
    if find(certificate, x509.SubjectKeyIdentifier) is None:
        raise CertificateRefused("SubjectKeyIdentifier extension is missing")
    usage = find(certificate, x509.KeyUsage)
    if usage is None:
        raise CertificateRefused("KeyUsage extension is missing")
    if not usage.value.key_cert_sign:
        raise CertificateRefused("KeyUsage must include keyCertSign")


def judge_server_certificate(
    leaf: x509.Certificate, cas: Iterable[x509.Certificate], hostname: str, now: datetime
) -> x509.Certificate:
    """The registered CA that vouches for a server certificate.

    The leaf must be signed directly by one of `cas` (intermediates do not count), name that CA's key, cover
    `hostname`, and be in validity. Raises `CertificateRefused`.
    """
    ca = _signer(leaf, cas)
    _check_authority(leaf, ca)
    _check_validity(ca, now, timedelta(), "the CA certificate")
    _check_validity(leaf, now, timedelta(), "the server certificate")
    if not covers(leaf, hostname):
        raise CertificateRefused(f"the server certificate does not cover {hostname}")
    usage = find(leaf, x509.ExtendedKeyUsage)
    if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage.value:
        raise CertificateRefused("ExtendedKeyUsage must include serverAuth")
    check_floors(leaf)
    _check_critical(leaf)
    return ca


def _signer(leaf: x509.Certificate, cas: Iterable[x509.Certificate]) -> x509.Certificate:
    for ca in cas:
        try:
            leaf.verify_directly_issued_by(ca)
        except (InvalidSignature, *PARSE_ERRORS):
            continue
        return ca
    raise CertificateRefused("the server certificate is not signed directly by a CA registered on this tunnel")


def _check_authority(leaf: x509.Certificate, ca: x509.Certificate) -> None:
    authority, subject = find(leaf, x509.AuthorityKeyIdentifier), find(ca, x509.SubjectKeyIdentifier)
    # openssl's "keyid,issuer" adds issuer and serial, which say nothing about the key: compare key ids only.
    if authority is None or authority.value.key_identifier is None:
        raise CertificateRefused("AuthorityKeyIdentifier extension is missing from the server certificate")
    if subject is None or authority.value.key_identifier != subject.value.digest:
        raise CertificateRefused("AuthorityKeyIdentifier does not match the CA's SubjectKeyIdentifier")


def covers(certificate: x509.Certificate, hostname: str) -> bool:
    """Whether a DNS name of the certificate's SAN matches; `*` stands for exactly one whole first label."""
    names = find(certificate, x509.SubjectAlternativeName)
    if names is None:
        return False
    wanted = hostname.rstrip(".").lower()
    label, _, parent = wanted.partition(".")
    for name in names.value.get_values_for_type(x509.DNSName):
        pattern = name.rstrip(".").lower()
        if pattern == wanted or (label and parent and pattern == f"*.{parent}"):
            return True
    return False


def check_floors(certificate: x509.Certificate) -> None:
    """RSA of 2048 bits or ECDSA on P-256 at least, SHA-256 at least. Raises `CertificateRefused`."""
    try:
        key = certificate.public_key()
        algorithm = certificate.signature_hash_algorithm
    except PARSE_ERRORS:
        raise CertificateRefused("key or signature algorithm is not supported") from None
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise CertificateRefused(f"RSA key must have at least {MIN_RSA_BITS} bits, this one has {key.key_size}")
    elif not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateRefused("key must be RSA or ECDSA")
    elif not isinstance(key.curve, _CURVES):
        raise CertificateRefused("ECDSA key must be on P-256, P-384 or P-521")
    if not isinstance(algorithm, _HASHES):
        raise CertificateRefused("signature must use SHA-256, SHA-384 or SHA-512")


def _check_validity(certificate: x509.Certificate, now: datetime, leeway: timedelta, what: str = "certificate") -> None:
    if certificate.not_valid_before_utc > now + leeway:
        raise CertificateRefused(f"{what} is not valid yet")
    if now > certificate.not_valid_after_utc:
        raise CertificateRefused(f"{what} has expired")


def _check_critical(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise CertificateRefused(f"critical extension {extension.oid.dotted_string} is not understood")


def find(certificate: x509.Certificate, kind: type[E]) -> x509.Extension[E] | None:
    """The certificate's extension of that kind, if it has one."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
