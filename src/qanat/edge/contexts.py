"""TLS contexts made from files, and made again when a file changes: certificates are renewed under a running edge."""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Callable
from pathlib import Path

from qanat.edge.config import CertificateFiles, ClientListener, Cluster
from qanat.errors import ConfigInvalid
from qanat.logger import get_logger

_log = get_logger("qanat.edge")
_server_names: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()


class FreshContext:
    """A context that follows its files. `current` looks at their times; a broken file keeps the old context."""

    def __init__(self, build: Callable[[], ssl.SSLContext], files: tuple[Path, ...]) -> None:
        self._build, self._files = build, files
        self._stamps = self._read_stamps()
        try:
            self._context = build()
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(map(str, files))
            raise ConfigInvalid([f"cannot use {names}: {getattr(error, 'strerror', None) or error}"]) from error

    def current(self) -> ssl.SSLContext:
        """The context to use for the next handshake."""
        stamps = self._read_stamps()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = self._build()
                _log.info("certificate files read again", files=[str(file) for file in self._files])
            except (OSError, ssl.SSLError) as error:
                _log.error("certificate files are broken, going on with the old ones", error=str(error))
        return self._context

    def _read_stamps(self) -> tuple[int, ...]:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _server(files: CertificateFiles, minimum: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.num_tickets = 0  # a resumed session would skip the check of the client's certificate
    context.load_cert_chain(files.certificate_file, files.key_file)
    return context


def for_clients(config: ClientListener) -> FreshContext:
    """Outer mTLS: TLS 1.3, certificate required, judged by the client CA and, if given, its revocation lists."""

    def build() -> ssl.SSLContext:
        context = _server(config.tls, ssl.TLSVersion.TLSv1_3)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(config.client_ca_file)
        if config.client_crl_file is not None:
            context.load_verify_locations(config.client_crl_file)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        context.set_alpn_protocols(["http/1.1"])
        return context

    files = (config.tls.certificate_file, config.tls.key_file, config.client_ca_file)
    return FreshContext(build, files if config.client_crl_file is None else (*files, config.client_crl_file))


def for_connectors(files: CertificateFiles) -> FreshContext:
    """cloudflared's outer TLS: no client certificate, no ALPN; the name asked for tells a probe from the real thing."""

    def build() -> ssl.SSLContext:
        context = _server(files, ssl.TLSVersion.TLSv1_2)
        context.sni_callback = _remember_name
        return context

    return FreshContext(build, (files.certificate_file, files.key_file))


def for_websocket_connectors(files: CertificateFiles) -> FreshContext:
    """The connectors' last way in, on the client port: an ordinary server certificate and no client certificate."""

    def build() -> ssl.SSLContext:
        context = _server(files, ssl.TLSVersion.TLSv1_2)
        context.set_alpn_protocols(["http/1.1"])
        return context

    return FreshContext(build, (files.certificate_file, files.key_file))


def for_nodes(config: Cluster, *, server: bool) -> FreshContext:
    """mTLS between nodes: each shows the same kind of certificate, signed by the cluster's CA."""

    def build() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(config.tls.certificate_file, config.tls.key_file)
        context.load_verify_locations(config.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    return FreshContext(build, (config.tls.certificate_file, config.tls.key_file, config.ca_file))


def _remember_name(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    _server_names[tls] = name or ""


def server_name(tls: ssl.SSLObject) -> str:
    """The name the peer asked for (SNI); empty when it asked for none."""
    return _server_names.get(tls, "")
