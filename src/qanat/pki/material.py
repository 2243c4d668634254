"""Certificates and keys as PEM text and back.

Certificates arrive from strangers: whatever is wrong with one ends as `CertificateRefused`, with a reason that says
what to change and never repeats the input.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from qanat.errors import QanatError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

NO_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280 4.1.2.5: the notAfter of a certificate that has no well-defined end."""

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
# What the parser raises on hostile input; UnsupportedGeneralNameType and DuplicateExtension are no ValueErrors.
PARSE_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(eq=False)
class CertificateRefused(QanatError):
    """A certificate or key breaks a rule; `reason` is a sentence for whoever made it."""

    code = "certificate_refused"
    status = 400
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """PKCS #8, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def load_certificate(pem: bytes | str) -> x509.Certificate:
    """The first certificate in a PEM text. Raises `CertificateRefused`."""
    text = pem.decode("ascii", "replace") if isinstance(pem, bytes) else pem
    block = _BLOCK.search(text)
    if block is None:
        raise CertificateRefused("no PEM certificate found")
    return parse_certificate(block[1])


def load_certificates(pem: bytes | str) -> list[x509.Certificate]:
    """Every certificate in a PEM text, in order; at least one. Raises `CertificateRefused`."""
    text = pem.decode("ascii", "replace") if isinstance(pem, bytes) else pem
    blocks = _BLOCK.findall(text)
    if not blocks:
        raise CertificateRefused("no PEM certificate found")
    return [parse_certificate(block) for block in blocks]


def parse_certificate(body: str) -> x509.Certificate:
    """The certificate in the base64 of a PEM block; extensions parsed too. Raises `CertificateRefused`."""
    try:
        der = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise CertificateRefused("certificate is not valid base64") from None
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.not_valid_after_utc  # parsed on first use otherwise
    except PARSE_ERRORS:
        raise CertificateRefused("certificate is not valid DER") from None
    return certificate


def load_key(pem: bytes) -> PrivateKey:
    """An unencrypted RSA or EC private key. Raises `CertificateRefused`."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except PARSE_ERRORS:
        raise CertificateRefused("no unencrypted PEM private key found") from None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise CertificateRefused("private key is neither RSA nor ECDSA")
    return key


def load_pair(certificate_pem: bytes, key_pem: bytes) -> Pair:
    """A certificate and its key, checked to belong together. Raises `CertificateRefused`."""
    pair = Pair(load_certificate(certificate_pem), load_key(key_pem))
    if not belong_together(pair.certificate, pair.key):
        raise CertificateRefused("private key does not belong to the certificate")
    return pair


def belong_together(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether the certificate is for this key."""
    try:
        return bool(certificate.public_key() == key.public_key())
    except PARSE_ERRORS:
        return False


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 over the DER, as 64 lowercase hex digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def expiry(certificate: x509.Certificate) -> datetime | None:
    """The certificate's notAfter; None when it has none (RFC 5280's year 9999)."""
    not_after = certificate.not_valid_after_utc
    return None if not_after == NO_EXPIRY else not_after
