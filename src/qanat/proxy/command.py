"""What the `qanat proxy` command does once its flags are read. Each function returns an exit code."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from qanat import __version__
from qanat.errors import ConfigInvalid
from qanat.log import setup_logging
from qanat.logger import get_logger
from qanat.net.process import freeze_start, use_large_blocks
from qanat.proxy.certificate import Certificate, load_certificate
from qanat.proxy.config import ProxyConfig, parse_config, warnings
from qanat.proxy.dial import Dialler, Resolver, SystemLookup
from qanat.proxy.document import read_document
from qanat.proxy.route import build_route

log = get_logger("qanat.proxy")
DONE, FAILED, MISUSED = 0, 1, 2
HEALTH_TIMEOUT = 3.0


@dataclass(frozen=True)
class Options:
    """The flags that say which configuration."""

    path: Path
    tunnel_domain: str = ""
    allow_unknown_fields: bool = False


def version() -> str:
    """Program and version."""
    return f"qanat proxy {__version__}"


def load(options: Options) -> tuple[ProxyConfig, Certificate]:
    """The configuration and its certificate. Raises `ConfigInvalid` with every problem of both."""
    document = read_document(options.path)
    problems: list[str] = []
    config = certificate = None
    try:
        config = parse_config(document, options.tunnel_domain, options.allow_unknown_fields)
    except ConfigInvalid as error:
        problems += error.problems
    tls = document.data.get("tls") if isinstance(document.data, dict) else None
    files = [tls.get("cert_file"), tls.get("key_file")] if isinstance(tls, dict) else []
    paths = [Path(name) for name in files if isinstance(name, str)]
    if len(paths) == 2:
        try:
            certificate = load_certificate(*paths)
        except ConfigInvalid as error:
            problems += error.problems
    if problems or config is None or certificate is None:
        raise ConfigInvalid(problems)
    _try_routes(config)
    return config, certificate


def _try_routes(config: ProxyConfig) -> None:
    """Raises `ConfigInvalid` for every route whose files cannot be used."""
    lookup = SystemLookup()
    dialler = Dialler(Resolver(lookup))
    problems: list[str] = []
    for name in config.routes:
        try:
            build_route(config, name, dialler)
        except ConfigInvalid as error:
            problems += [problem for problem in error.problems if problem not in problems]
    lookup.close()
    if problems:
        raise ConfigInvalid(problems)


def _report(error: ConfigInvalid) -> int:
    setup_logging("error")
    for problem in error.problems:
        print(problem, file=sys.stderr)
    log.error("invalid configuration", errors=error.problems)
    return MISUSED


def check(options: Options) -> int:
    """Say whether the configuration would load, and where each route leads."""
    try:
        config, certificate = load(options)
    except ConfigInvalid as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return FAILED
    for name, route in config.routes.items():
        hostname = f"{name}.{config.tunnel_domain}" if config.tunnel_domain and "." not in name else name
        print(f"{hostname} -> {route.upstream}")
    print(f"certificate {', '.join(certificate.names)} until {certificate.not_after:%Y-%m-%d}")
    for sentence in warnings(config):
        print(f"warning: {sentence}", file=sys.stderr)
    return DONE


def healthcheck(options: Options) -> int:
    """Ask the readiness endpoint of the proxy that runs with this configuration."""
    try:
        config = parse_config(read_document(options.path), options.tunnel_domain, options.allow_unknown_fields)
    except ConfigInvalid as error:
        return _report(error)
    host, port = config.listen_addr
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=HEALTH_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except OSError as error:
        print(f"not ready: {error}", file=sys.stderr)
        return FAILED
    finally:
        connection.close()
    if status != 200:
        print(f"not ready: status {status}", file=sys.stderr)
        return FAILED
    print("ready")
    return DONE


def _reachable(host: str) -> str:
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def run(options: Options) -> int:
    """Serve until a signal says stop."""
    try:
        config, _ = load(options)
    except ConfigInvalid as error:
        return _report(error)
    setup_logging(config.log_level)
    import uvloop

    use_large_blocks()
    try:
        return uvloop.run(_serve(config, options))
    except OSError as error:
        log.error("cannot listen", error=str(error))
        return FAILED


async def _serve(config: ProxyConfig, options: Options) -> int:
    from qanat.proxy.server import serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(DONE)  # a second signal: at once, whatever is still going on
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with serve(config, config_path=options.path, tunnel_domain=options.tunnel_domain) as running:
        loop.add_signal_handler(signal.SIGHUP, running.reload_now.set)
        freeze_start()
        await stop.wait()
    return DONE
