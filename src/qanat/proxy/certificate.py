"""The server certificate of inner TLS: loaded, judged, and taken up anew when its files change.

Sessions that exist go on with what they have; only new handshakes see the new pair.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from qanat.errors import ConfigInvalid

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class SNIObject(ssl.SSLObject):
    """A session that remembers which name its client asked for."""

    sni: str | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A pair that fits together."""

    context: ssl.SSLContext
    names: tuple[str, ...]
    serial: str
    not_after: datetime
    fingerprint: str
    """SHA-256, lower-case hex."""
    digest: bytes
    """Over both files: whether they have changed."""

    def covers(self, hostname: str) -> bool:
        """Whether a client that asks for this name would accept the certificate."""
        wildcard = "*." + hostname.partition(".")[2]
        return any(name.lower() in (hostname, wildcard) for name in self.names)

    def fields(self) -> dict[str, object]:
        """What the log says of it."""
        return {
            "san": list(self.names),
            "serial": self.serial,
            "not_after": self.not_after.isoformat(),
            "sha256": self.fingerprint,
        }


def digest_files(cert_file: Path, key_file: Path) -> bytes:
    """A hash over both files' contents. Raises `ConfigInvalid` when one cannot be read."""
    return hashlib.sha256(_read(cert_file) + b"\0" + _read(key_file)).digest()


def load_certificate(cert_file: Path, key_file: Path) -> Certificate:
    """Load the pair. Raises `ConfigInvalid` with what an operator can act on."""
    pem, key = _read(cert_file), _read(key_file)
    try:
        leaf = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise ConfigInvalid([f"tls.cert_file: {cert_file}: no PEM certificate found"]) from None
    _check_key(leaf, key, key_file)
    context = _context(cert_file, key_file)
    return Certificate(
        context=context,
        names=_names(leaf),
        serial=format(leaf.serial_number, "x"),
        not_after=leaf.not_valid_after_utc,
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        digest=hashlib.sha256(pem + b"\0" + key).digest(),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigInvalid([f"open {path}: {(error.strerror or str(error)).lower()}"]) from error


def _check_key(leaf: x509.Certificate, pem: bytes, path: Path) -> None:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise ConfigInvalid([f"tls.key_file: {path}: the key is encrypted"]) from None
    except Exception as error:
        raise ConfigInvalid([f"tls.key_file: {path}: no PEM private key found"]) from error
    if _spki(key.public_key()) != _spki(leaf.public_key()):
        raise ConfigInvalid(["tls: private key does not match public key"])


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    except ValueError as error:
        raise ConfigInvalid(["tls.cert_file: the certificate's alternative names cannot be read"]) from error
    return tuple(extension.value.get_values_for_type(x509.DNSName))


def _context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # unlike create_default_context this ignores SSLKEYLOGFILE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.sslobject_class = SNIObject
    context.sni_callback = _remember_sni
    try:
        context.load_cert_chain(cert_file, key_file, password="")
    except ssl.SSLError as error:
        raise ConfigInvalid([f"tls: {(error.reason or str(error)).replace('_', ' ').lower()}"]) from error
    except OSError as error:  # they were there a moment ago
        raise ConfigInvalid([f"tls: the files changed while they were read: {error.strerror}"]) from error
    return context


def _remember_sni(session: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    if isinstance(session, SNIObject):
        session.sni = name.lower().removesuffix(".") if name else None


def days_left(certificate: Certificate) -> float:
    """Days until the certificate ends; negative once it has."""
    return (certificate.not_after - datetime.fromtimestamp(time.time(), UTC)).total_seconds() / 86400
