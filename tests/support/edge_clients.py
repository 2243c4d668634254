"""Wrong clients, and the certificates they come with."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from qanat.edge import operator_pki
from qanat.pki.issue import issue_ca, issue_client
from qanat.pki.material import Pair, load_pair
from tests.support.edge import TIMEOUT, Client, OperatorFiles
from tests.support.pki import now, serial

Address = tuple[str, int]
WrongClient = Callable[[OperatorFiles, Address, str], Awaitable[str]]
"""Tries `host` at an edge and says how it went: a status and code, or `refused`."""


async def ask(
    files: OperatorFiles, address: Address, host: str, name: str | None, extra: str = "", local: str = "127.0.0.1"
) -> str:
    """One upgrade with the certificate `name`: `101`, `404 unknown_host`, or `refused` without an answer."""
    try:
        client = await Client.dial(address, files.client_context(name), local)
    except (OSError, ssl.SSLError):
        return "refused"
    try:
        answer = await client.upgrade(host, extra=extra)
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
        return "refused"
    finally:
        await client.close()
    return f"{answer.status} {answer.headers.get('x-qanat-error', '')}".strip()


async def speak(address: Address, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send `data`, over TLS with a context, and read until the edge closes."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(
            *address, ssl=context, server_hostname="x.a1b2c3d4.tunnel.example.net" if context else None
        )
        writer.write(data)
        received = b""
        with suppress(OSError, ssl.SSLError):
            while piece := await reader.read(65536):
                received += piece
        writer.close()
        with suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
    return received


def status_and_code(response: bytes) -> str:
    """`400 bad_request` of a raw response; `refused` when there is none."""
    if not response.startswith(b"HTTP/1.1 "):
        return "refused"
    head = response.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    code = next((line.split(": ")[1] for line in head if line.startswith("X-Qanat-Error")), "")
    return f"{head[0].split()[1]} {code}"


def other_ca_client(files: OperatorFiles) -> str:
    """A client of somebody else's CA; returns its name."""
    ca = issue_ca("somebody else", now(), serial())
    return _write(files, "stranger", issue_client(ca, "gateway.example.net", now(), serial()))


def expired_client(files: OperatorFiles) -> str:
    """A client whose certificate ended yesterday."""
    ca = _client_ca(files)
    then = datetime.now(UTC) - timedelta(days=10)
    ca_then = issue_client(ca, "gateway.example.net", then, serial(), lifetime=timedelta(days=9))
    return _write(files, "late", ca_then)


def unmapped_client(files: OperatorFiles) -> str:
    """A genuine client that no entry of the configuration speaks of."""
    return _write(files, "unmapped", issue_client(_client_ca(files), "unmapped.example.net", now(), serial()))


def revoked_client(files: OperatorFiles) -> tuple[str, Path]:
    """A genuine client that the CA has revoked since, and the revocation list."""
    ca = _client_ca(files)
    pair = issue_client(ca, "gateway.example.net", now(), serial())
    entry = (
        x509.RevokedCertificateBuilder().serial_number(pair.certificate.serial_number).revocation_date(now()).build()
    )
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(now() - timedelta(minutes=5))
        .next_update(now() + timedelta(days=1))
        .add_revoked_certificate(entry)
        .sign(ca.key, hashes.SHA256())
    )
    path = files.path("revoked-crl")
    path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
    return _write(files, "revoked", pair), path


def _client_ca(files: OperatorFiles) -> Pair:
    return load_pair(files.path("client-ca").read_bytes(), files.path("client-ca-key").read_bytes())


def _write(files: OperatorFiles, name: str, pair: Pair) -> str:
    for path in (files.path(name), files.path(f"{name}-key")):
        path.unlink(missing_ok=True)
    operator_pki.write_pair(pair, files.path(name), files.path(f"{name}-key"))
    return name


async def through_balancer(files: OperatorFiles, address: Address, header: bytes, host: str) -> str:
    """As `ask`, after a balancer's PROXY header."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(header)
        await writer.start_tls(files.client_context(), server_hostname="x.a1b2c3d4.tunnel.example.net")
        client = Client(reader, writer)
        answer = await client.upgrade(host)
        await client.close()
    return f"{answer.status} {answer.headers.get('x-qanat-error', '')}".strip()
