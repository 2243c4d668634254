"""`qanat connector`: flags and environment as `cloudflared tunnel run` has them, where they mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

app = typer.Typer(add_completion=False)

Level = Literal["debug", "info", "warn", "error"]
Style = Literal["text", "json"]
LogLevel = Annotated[Level, typer.Option("--loglevel", envvar="TUNNEL_LOGLEVEL", help="debug, info, warn or error.")]
LogFormat = Annotated[Style, typer.Option("--log-format", envvar="TUNNEL_LOG_FORMAT", help="text or json.")]


def _split(values: list[str] | None) -> tuple[str, ...]:
    """Repeated options and comma lists alike."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


@app.command()
def run(
    action: Annotated[Literal["run"], typer.Argument(hidden=True)] = "run",
    token: Annotated[
        str | None,
        typer.Option(envvar="TUNNEL_TOKEN", help="Tunnel token. Visible to other users of the machine: prefer a file."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="TUNNEL_TOKEN_FILE", help="File with the tunnel token; re-read on change.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the same settings; options win.")] = None,
    edge: Annotated[
        list[str] | None,
        typer.Option(envvar="TUNNEL_EDGE", help="Edge as host:port, or srv:NAME; repeatable, or a comma list."),
    ] = None,
    edge_wss: Annotated[
        list[str] | None, typer.Option(envvar="TUNNEL_EDGE_WSS", help="URL of the WebSocket rung: wss://host[:port].")
    ] = None,
    cacert: Annotated[
        Path | None, typer.Option(envvar="TUNNEL_CACERT", help="PEM roots that replace the system's for the edge.")
    ] = None,
    wss_cacert: Annotated[
        Path | None, typer.Option(envvar="TUNNEL_WSS_CACERT", help="The same for the WebSocket rung.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(envvar="TUNNEL_TRANSPORT_PROTOCOL", help="auto, http2, quic or wss.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(envvar="TUNNEL_URL", help="Upstream: http://, https://, tcp:// or unix: address.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(envvar="TUNNEL_METRICS", help="host:port for /metrics and /ready.")
    ] = None,
    grace_period: Annotated[
        str | None, typer.Option(envvar="TUNNEL_GRACE_PERIOD", help="For running streams at shutdown, at most 3m.")
    ] = None,
    retries: Annotated[int | None, typer.Option(envvar="TUNNEL_RETRIES", help="Caps the back-off exponent.")] = None,
    ha_connections: Annotated[int | None, typer.Option(help="How many connections to keep.")] = None,
    edge_ip_version: Annotated[str | None, typer.Option(envvar="TUNNEL_EDGE_IP_VERSION", help="auto, 4 or 6.")] = None,
    edge_bind_address: Annotated[
        str | None, typer.Option(envvar="TUNNEL_EDGE_BIND_ADDRESS", help="Local address to dial from.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(envvar="TUNNEL_REGION", help="Prefixes the SRV name; without effect with --edge.")
    ] = None,
    loglevel: LogLevel = "info",
    log_format: LogFormat = "text",
) -> None:
    """Keep connections to an edge, and hand each request that arrives to the proxy at --url.

    Runs until SIGTERM or SIGINT, then lets running streams finish.
    """
    given: dict[str, Any] = {
        "token": token,
        "token_file": token_file,
        "edge": _split(edge),
        "edge_wss": _split(edge_wss),
        "cacert": cacert,
        "wss_cacert": wss_cacert,
        "protocol": protocol,
        "url": url,
        "metrics": metrics,
        "grace_period": grace_period,
        "retries": retries,
        "ha_connections": ha_connections,
        "edge_ip_version": edge_ip_version,
        "edge_bind_address": edge_bind_address,
        "region": region,
    }
    _start({key: value for key, value in given.items() if value not in (None, ())}, config, loglevel, log_format)


def _start(given: dict[str, Any], file: Path | None, loglevel: Level, log_format: Style) -> None:
    from qanat.config import read_yaml, validate
    from qanat.connector.config import ConnectorConfig
    from qanat.connector.process import run_until_stopped
    from qanat.errors import ConfigInvalid, QanatError
    from qanat.log import setup_logging

    setup_logging(loglevel, log_format)
    try:
        settings = (read_yaml(file) or {}) if file is not None else {}
        if not isinstance(settings, dict):
            raise ConfigInvalid([f"{file}: must hold keys and values"])
        if "token" in given or "token_file" in given:  # one place for the token, and the command line's wins
            settings.pop("token", None)
            settings.pop("token_file", None)
        config = validate(ConnectorConfig, settings | given)
    except ConfigInvalid as error:
        _fail(str(error), 2)
    try:
        run_until_stopped(config)
    except QanatError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"cannot start: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
