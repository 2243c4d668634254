"""`qanat join`: connector and proxy in one process; tunnel streams go from one to the other in memory.

The file is the proxy's own, with one more section, `connector`. Everything can be said with flags instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from qanat.cli.workers import Settings

app = typer.Typer(add_completion=False)

Style = Literal["text", "json"]
NOWHERE = "127.0.0.1:0"
"""Stands for `listen_addr`: there is no listener here."""


@app.command()
def join(
    config: Annotated[Path | None, typer.Option("--config", "-config", help="One YAML file for both parts.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="TUNNEL_TOKEN_FILE", help="File with the tunnel token; re-read on change.")
    ] = None,
    route: Annotated[
        list[str] | None, typer.Option(help="NAME=http://HOST:PORT, a route by subdomain or hostname; repeatable.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that `qanat setup` filled; by default the token file's own.")
    ] = None,
    tunnel_domain: Annotated[str | None, typer.Option(help="By default the one in the data folder.")] = None,
    allow_ip: Annotated[
        list[str] | None, typer.Option(help="Network that upstreams may be in; replaces RFC 1918; repeatable.")
    ] = None,
    edge: Annotated[list[str] | None, typer.Option(envvar="TUNNEL_EDGE", help="Edge as host:port; repeatable.")] = None,
    cacert: Annotated[
        Path | None, typer.Option(envvar="TUNNEL_CACERT", help="PEM roots that replace the system's for the edge.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(envvar="TUNNEL_TRANSPORT_PROTOCOL", help="auto, http2, quic or wss.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(envvar="TUNNEL_METRICS", help="host:port for the connector's /metrics and /ready.")
    ] = None,
    loglevel: Annotated[str | None, typer.Option(help="debug, info, warn or error.")] = None,
    log_format: Annotated[Style, typer.Option(help="json or text.")] = "json",
    workers: Annotated[int, typer.Option(min=1, max=16, help="Processes to run, each a replica of its own.")] = 1,
) -> None:
    """Join this network to a tunnel: keep connections to the edge, and forward what arrives to the routes' upstreams.

    `qanat join --token-file data/tunnel-token --route tickets=http://10.0.0.5:8080`
    """
    import asyncio

    from qanat.cli.workers import for_worker
    from qanat.errors import ConfigInvalid, QanatError
    from qanat.log import setup_logging
    from qanat.net.workers import supervise, this_worker

    connector = {
        "token_file": token_file,
        "edge": _split(edge),
        "cacert": cacert,
        "protocol": protocol,
        "metrics": metrics,
    }
    proxy = {"tunnel_domain": tunnel_domain, "log_level": loglevel}
    try:
        worker = this_worker()
        folder = data or (token_file.parent if token_file else None)

        def load() -> Settings:
            settings = _settings(config, _given(connector), _given(proxy), _routes(route), allow_ip, folder)
            if worker is not None:
                return for_worker(settings, worker.index, worker.count)
            if workers > 1:
                for_worker(settings, workers - 1, workers)  # what no worker could use; the last has the highest ports
            return settings

        settings = load()
        setup_logging(settings[0].log_level, log_format, shared=workers > 1)
        if worker is None and workers > 1:
            patience = max(settings[0].shutdown_timeout, settings[1].grace_period).total_seconds()
            raise typer.Exit(asyncio.run(supervise(workers, patience, reloads=True)))
        _run(load, settings, config, worker.lifeline if worker else None)
    except ConfigInvalid as error:
        _fail("\n".join(error.problems), 2)
    except QanatError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"cannot start: {error.strerror or error}", 1)


def _split(values: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value not in (None, ())}


def _routes(values: list[str] | None) -> dict[str, str]:
    from qanat.errors import ConfigInvalid

    routes: dict[str, str] = {}
    for value in values or ():
        name, equals, url = value.partition("=")
        if not equals or not name or name in routes:
            raise ConfigInvalid([f"--route {value}: must be NAME=http://HOST:PORT, each name once"])
        routes[name] = url
    return routes


def _settings(
    file: Path | None,
    connector: dict[str, Any],
    proxy: dict[str, Any],
    routes: dict[str, str],
    allow_ip: list[str] | None,
    folder: Path | None,
) -> Settings:
    """Both parts' configuration: the file, then the flags, then what the data folder holds."""
    from qanat.config import validate
    from qanat.connector.config import ConnectorConfig
    from qanat.errors import ConfigInvalid
    from qanat.proxy.config import parse_config
    from qanat.proxy.document import Document, read_document

    document = read_document(file) if file else Document(b"{}", "flags")
    if not isinstance(document.data, dict):
        raise ConfigInvalid([f"{file}: must hold keys and values"])
    settings = document.data
    section = _section(settings, "connector")
    settings.pop("connector", None)
    if connector.get("token_file"):  # one place for the token, and the command line's wins
        section.pop("token", None)
    section |= connector
    settings |= proxy
    settings.setdefault("listen_addr", NOWHERE)
    if routes:
        settings["routes"] = {**_section(settings, "routes"), **routes}
    if allow_ip:
        settings["upstream"] = {**_section(settings, "upstream"), "allowed_ips": list(allow_ip)}
    if folder is not None:
        _fill_from(folder, settings, section)
    return parse_config(document), validate(ConnectorConfig, section)


def _section(settings: dict[str, Any], key: str) -> dict[str, Any]:
    from qanat.errors import ConfigInvalid

    section = settings.get(key) or {}
    if not isinstance(section, dict):
        raise ConfigInvalid([f"{key}: must hold keys and values"])
    return section


def _fill_from(folder: Path, settings: dict[str, Any], section: dict[str, Any]) -> None:
    """What `qanat setup` has put into its folder, where nothing else was said."""
    from qanat.errors import ConfigInvalid

    if not folder.is_dir():
        raise ConfigInvalid([f"open {folder}: no such directory"])
    certificate, key = folder / "tls.crt", folder / "tls.key"
    if "tls" not in settings:
        settings["tls"] = {"cert_file": str(certificate), "key_file": str(key)}
    domain = folder / "tunnel-domain"
    if "tunnel_domain" not in settings and domain.is_file():
        settings["tunnel_domain"] = domain.read_text().strip()
    token = folder / "tunnel-token"
    if "token" not in section and "token_file" not in section and token.is_file():
        section["token_file"] = token


def _run(load: Callable[[], Settings], settings: Settings, file: Path | None, lifeline: int | None) -> None:
    import uvloop

    from qanat.net.process import use_large_blocks

    use_large_blocks()
    uvloop.run(_serve(load, settings, file, lifeline))


async def _serve(load: Callable[[], Settings], settings: Settings, file: Path | None, lifeline: int | None) -> None:
    """Serve until a signal, or the end of the worker's parent. `load` reads the settings anew."""
    import asyncio
    import signal

    from qanat.connector.server import Connector
    from qanat.net.process import freeze_start
    from qanat.net.workers import hear_reloads, stop_with_parent
    from qanat.proxy.server import serve

    proxy, connector = settings
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        stop_with_parent(lifeline, stop.set)
    async with serve(proxy, listen=False, config_path=file, load=lambda: load()[0]) as running:
        hear_reloads(running.reload_now.set)
        joined = Connector(connector, running.proxy)
        await joined.start()
        freeze_start()
        waits = [loop.create_task(stop.wait()), loop.create_task(joined.wait_stopped())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        # The edge is told first; then both sides let what is going on finish, at the same time.
        stopping = loop.create_task(joined.stop())
        await running.proxy.drain(proxy.shutdown_timeout.total_seconds())
        await stopping


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
