"""The checks of `qanat doctor`, one function per hop; each is asked only when its input was given.

A check never raises for what it finds: it says `ok`, `warn` or `fail`, and what to do.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx2

from qanat.errors import ConfigInvalid, QanatError
from qanat.wire.addresses import join_host_port

if TYPE_CHECKING:
    from cryptography import x509

    from qanat.proxy.config import ProxyConfig

Verdict = Literal["ok", "warn", "fail"]
CONNECTOR_PORT, WSS_PORT = 7844, 443
TLS_NAME = "h2.cftunnel.com"
PROBE_VERSION = 0x1A2A3A4A
"""A QUIC version nobody speaks (RFC 9000 15): a server must answer such a packet with its own versions."""
SOON = timedelta(days=14)
SECRET_FILES = ("tunnel-token", "tls.key", "ca.key")


@dataclass(frozen=True)
class Finding:
    """What a check found at a hop."""

    hop: str
    verdict: Verdict
    text: str


@dataclass
class Place:
    """What is known about the deployment; an empty value skips the hops that need it."""

    data: Path | None = None
    config: Path | None = None
    tunnel_domain: str = ""
    edges: tuple[str, ...] = ()
    cacert: Path | None = None
    ready: str = ""
    api_url: str = ""
    api_token: str = field(default="", repr=False)
    api_ca: Path | None = None
    client_listener: str = ""
    client_files: tuple[Path, Path] | None = None
    client_ca: Path | None = None
    route: str = ""
    timeout: float = 5.0

    def domain(self) -> str:
        """The tunnel's domain as given, or as setup stored it."""
        stored = self.data / "tunnel-domain" if self.data else None
        if not self.tunnel_domain and stored and stored.is_file():
            return stored.read_text(errors="replace").strip()
        return self.tunnel_domain


Check = Callable[[Place], Awaitable[list[Finding]]]


async def check_files(place: Place) -> list[Finding]:
    """The folder that setup filled: what is there, and who may read it."""
    assert place.data is not None
    findings = []
    for name in ("tunnel-token", "tls.crt", "tls.key"):
        path = place.data / name
        if not path.is_file():
            findings.append(Finding("files", "fail", f"{path} is missing: run qanat setup init"))
        elif not os.access(path, os.R_OK):
            findings.append(Finding("files", "fail", f"{path} cannot be read by this user ({os.geteuid()})"))
    for name in SECRET_FILES:
        path = place.data / name
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o007:
            findings.append(Finding("files", "warn", f"{path} can be read by everybody on this host: chmod 600"))
    return findings or [Finding("files", "ok", f"{place.data} holds what it should")]


async def check_token(place: Place) -> list[Finding]:
    """Whether the tunnel token is one."""
    from qanat.wire.token import TokenInvalid, parse_token

    assert place.data is not None
    path = place.data / "tunnel-token"
    try:
        token = parse_token(path.read_text(errors="replace"))
    except OSError as error:
        return [Finding("token", "fail", f"{path}: {error.strerror}")]
    except TokenInvalid as error:
        return [Finding("token", "fail", f"{path}: {error} Fetch it again with qanat setup init")]
    return [Finding("token", "ok", f"for tunnel {token.tunnel_uuid}")]


async def check_certificate(place: Place) -> list[Finding]:
    """Whether callers will accept the server certificate."""
    from qanat.pki.judge import judge_server_certificate
    from qanat.pki.material import CertificateRefused, load_certificate, load_pair

    assert place.data is not None
    hop, advice = "certificate", "renew it with qanat setup renew-cert"
    try:
        pair = load_pair((place.data / "tls.crt").read_bytes(), (place.data / "tls.key").read_bytes())
        ca_file = place.data / "ca.crt"
        if not ca_file.is_file():
            return [Finding(hop, "warn", f"{ca_file} is missing: cannot tell whether callers accept tls.crt")]
        ca = load_certificate(ca_file.read_bytes())
        if not place.domain():
            return [Finding(hop, "warn", "the tunnel's domain is unknown: give --tunnel-domain")]
        judge_server_certificate(pair.certificate, [ca], f"any.{place.domain()}", datetime.now(UTC))
    except OSError as error:
        return [Finding(hop, "fail", f"{error.filename}: {error.strerror}")]
    except CertificateRefused as refusal:
        return [Finding(hop, "fail", f"{refusal}; {advice}")]
    end = pair.certificate.not_valid_after_utc
    if end - datetime.now(UTC) < SOON:
        return [Finding(hop, "warn", f"expires on {end:%Y-%m-%d}; {advice}")]
    return [Finding(hop, "ok", f"*.{place.domain()} until {end:%Y-%m-%d}")]


async def check_api(place: Place) -> list[Finding]:
    """Whether the API knows this tunnel, trusts this CA, and would hand out this token."""
    from pydantic import SecretStr

    from qanat.api.tunnels import TunnelsClient
    from qanat.ids import TunnelID
    from qanat.pki.material import fingerprint, load_certificate

    assert place.data is not None
    try:
        tunnel_id = TunnelID((place.data / "tunnel-id").read_text(errors="replace").strip())
        ca = load_certificate((place.data / "ca.crt").read_bytes())
        stored = (place.data / "tunnel-token").read_text(errors="replace").strip()
        async with TunnelsClient(place.api_url, SecretStr(place.api_token), trust=place.api_ca) as client:
            tunnel = await client.get(tunnel_id)
            if tunnel.archived_at is not None:
                return [Finding("api", "fail", f"{tunnel_id} was archived: it never works again")]
            live = await client.list_certificates(tunnel_id)
            token = await client.reveal_token(tunnel_id)
    except OSError as error:
        return [Finding("api", "fail", f"{error.filename}: {error.strerror}")]
    except QanatError as error:
        return [Finding("api", "fail", str(error))]
    if fingerprint(ca) not in [record.fingerprint for record in live]:
        return [Finding("api", "fail", f"ca.crt is not registered on {tunnel_id}: run qanat setup init")]
    if token.tunnel_token.get_secret_value() != stored:
        return [Finding("api", "fail", "the token was rotated elsewhere: run qanat setup init, restart connectors")]
    return [Finding("api", "ok", f"{tunnel_id} is live, its CA registered, its token current")]


async def check_edge(place: Place) -> list[Finding]:
    """Whether connectors can reach each edge: TCP and UDP on the connector port, TCP 443 as a way out."""
    checks = [_check_one_edge(place, entry) for entry in place.edges]
    return [finding for findings in await asyncio.gather(*checks) for finding in findings]


async def _check_one_edge(place: Place, entry: str) -> list[Finding]:
    from qanat.connector.config import split_host_port

    try:
        host, port = split_host_port(entry, CONNECTOR_PORT)
    except ValueError as error:
        return [Finding("edge", "fail", str(error))]
    findings = [await _edge_tls(place, host, port), await _edge_quic(place, host, port)]
    if findings[0].verdict == "fail":
        problem = await _connect(host, WSS_PORT, place.timeout)
        way = (
            f"port {WSS_PORT} is closed too: {problem}" if problem else f"but port {WSS_PORT} is open (--protocol wss)"
        )
        findings.append(Finding("edge", "warn", f"{host}: {way}"))
    return findings


async def _edge_tls(place: Place, host: str, port: int) -> Finding:
    where = f"{host}:{port}/tcp"
    try:
        context = ssl.create_default_context(cafile=place.cacert)
    except OSError as error:
        return Finding("edge", "fail", f"--cacert {place.cacert}: {_reason(error)}")
    try:
        async with asyncio.timeout(place.timeout):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=TLS_NAME)
    except ssl.SSLCertVerificationError as error:
        cause = "give its CA with --cacert" if place.cacert is None else f"--cacert {place.cacert} is not its CA"
        return Finding("edge", "fail", f"{where}: certificate refused ({error.verify_message}); {cause}")
    except (OSError, TimeoutError) as error:
        return Finding("edge", "fail", f"{where}: {_reason(error)}; is the port open outwards?")
    writer.transport.abort()
    return Finding("edge", "ok", f"{where} answers with a certificate for {TLS_NAME}")


class _Probe(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _edge_quic(place: Place, host: str, port: int) -> Finding:
    where, loop = f"{host}:{port}/udp", asyncio.get_running_loop()
    head = bytes([0xC0]) + PROBE_VERSION.to_bytes(4, "big") + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    try:
        transport, probe = await loop.create_datagram_endpoint(_Probe, remote_addr=(host, port))
    except OSError as error:
        return Finding("edge", "warn", f"{where}: {_reason(error)}")
    try:
        async with asyncio.timeout(place.timeout):
            transport.sendto(head.ljust(1200, b"\0"))
            answer = await probe.answer
    except (OSError, TimeoutError) as error:
        return Finding("edge", "warn", f"{where}: {_reason(error)}; no QUIC, HTTP/2 is used instead")
    finally:
        transport.close()
    if len(answer) < 7 or not answer[0] & 0x80 or answer[1:5] != bytes(4):
        return Finding("edge", "warn", f"{where}: answers, but not in QUIC")
    return Finding("edge", "ok", f"{where} speaks QUIC")


async def check_connector(place: Place) -> list[Finding]:
    """Whether the connector has connections to the edge."""
    status, text = await _get(place.ready, place.timeout)
    if status == 200:
        return [Finding("connector", "ok", f"{place.ready}: {text}")]
    if status is None:
        return [Finding("connector", "fail", f"{place.ready}: {text}; is the connector running?")]
    return [Finding("connector", "fail", f"{place.ready}: no connection to an edge ({text}); see its log")]


def load_proxy(place: Place) -> ProxyConfig:
    """The proxy's configuration, also out of `qanat join`'s file. Raises `ConfigInvalid`."""
    from qanat.proxy.config import parse_config
    from qanat.proxy.document import read_document

    assert place.config is not None
    document = read_document(place.config)
    if not isinstance(document.data, dict):
        raise ConfigInvalid([f"{place.config}: must hold keys and values"])
    if document.data.pop("connector", None) is not None:  # the file of qanat join, which listens nowhere
        document.data["listen_addr"] = "127.0.0.1:0"
    document.data.setdefault("listen_addr", "127.0.0.1:0")
    if place.data and "tls" not in document.data:
        files = {"cert_file": str(place.data / "tls.crt"), "key_file": str(place.data / "tls.key")}
        document.data["tls"] = files
    return parse_config(document, place.domain())


async def check_proxy(place: Place) -> list[Finding]:
    """Whether the proxy's file loads, and the proxy that runs with it is ready."""
    try:
        config = load_proxy(place)
    except ConfigInvalid as error:
        return [Finding("proxy", "fail", problem) for problem in error.problems]
    host, port = config.listen_addr
    if port == 0:
        return [Finding("proxy", "ok", f"{place.config} loads; it runs inside qanat join")]
    url = f"http://{_loopback(host)}:{port}/readyz"
    status, text = await _get(url, place.timeout)
    if status == 200:
        return [Finding("proxy", "ok", f"{url} is ready")]
    return [Finding("proxy", "fail", f"{url}: {text if status is None else f'status {status}'}; is the proxy running?")]


def _loopback(host: str) -> str:
    known = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - compared, not bound
    return known.get(host, f"[{host}]" if ":" in host else host)


async def check_upstreams(place: Place) -> list[Finding]:
    """Whether each route's upstream has an address the proxy may dial, and listens there."""
    from qanat.proxy.dial import look_up
    from qanat.proxy.route import guard_for
    from qanat.proxy.upstream_url import STDIO

    try:
        config = load_proxy(place)
    except ConfigInvalid:
        return []  # said at the proxy's hop
    findings = []
    for name, route in config.routes.items():
        if route.upstream is STDIO:
            continue
        host, port = route.upstream.host, route.upstream.port
        try:
            addresses = await asyncio.to_thread(look_up, host, config.upstream.ip_families)
        except OSError as error:
            findings.append(Finding("upstream", "fail", f"{name}: {host} has no address ({_reason(error)})"))
            continue
        permitted = guard_for(config, name, route).permitted(addresses)
        if not permitted:
            text = f"{name}: {', '.join(addresses)} may not be dialled; see upstream.allowed_ips"
            findings.append(Finding("upstream", "fail", text))
            continue
        problem = await _connect(permitted[0], port, place.timeout)
        text = f"{name}: {join_host_port(permitted[0], port)} " + (problem or "listens")
        findings.append(Finding("upstream", "fail" if problem else "ok", text))
    return findings


async def check_call(place: Place) -> list[Finding]:
    """One request the whole way: outer TLS, edge, connector, proxy, upstream."""
    from qanat.client.dial import Edge, dial, outer_context
    from qanat.connector.config import split_host_port

    assert place.data is not None
    assert place.client_files is not None
    hostname = f"{place.route}.{place.domain()}"
    try:
        host, port = split_host_port(place.client_listener, 443)
        edge = Edge(host, port, outer_context(*place.client_files, place.client_ca))
        stream = await dial(edge, hostname, _anchors(place.data), 2 * place.timeout)
    except (OSError, ValueError, QanatError) as error:
        return [Finding("call", "fail", f"https://{hostname}: {error}")]
    try:
        await stream.write(f"GET / HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n".encode(), place.timeout)
        line = (await stream.read(4096, 2 * place.timeout)).split(b"\r\n")[0].decode("ascii", "replace")
    except httpx2.TransportError as error:
        return [Finding("call", "fail", f"https://{hostname}: no answer ({error})")]
    finally:
        await stream.aclose()
    status = line.split(" ")[1] if line.count(" ") else ""
    if not status.isdigit() or status in ("502", "503", "504"):
        return [Finding("call", "fail", f"https://{hostname}: {line!r}; the proxy's log says why")]
    return [Finding("call", "ok", f"https://{hostname} answered {status}")]


def _anchors(data: Path) -> list[x509.Certificate]:
    from qanat.pki.material import load_certificates

    return load_certificates((data / "ca.crt").read_bytes())


async def _connect(host: str, port: int, timeout: float) -> str | None:
    """Why no connection can be made; None when one can."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        return _reason(error)
    writer.close()
    return None


async def _get(url: str, timeout: float) -> tuple[int | None, str]:
    try:
        async with httpx2.AsyncClient(trust_env=False, timeout=timeout) as client:
            response = await client.get(url)
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        return None, str(error) or type(error).__name__
    return response.status_code, response.text.strip()[:200]


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return (getattr(error, "strerror", None) or str(error)).lower()
