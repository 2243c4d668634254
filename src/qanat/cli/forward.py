"""`qanat forward`: a local port that leads through a tunnel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def run(
    host: Annotated[str, typer.Argument(help="The server's name: <route>.<tunnel domain>.")],
    edge: Annotated[str, typer.Option(help="The edge's client listener, host:port.", envvar="QANAT_EDGE")],
    cert: Annotated[Path, typer.Option(help="This client's certificate (PEM).", envvar="QANAT_CLIENT_CERT")],
    key: Annotated[Path, typer.Option(help="Its key (PEM).", envvar="QANAT_CLIENT_KEY")],
    ca: Annotated[Path, typer.Option(help="The tunnel's CA certificate (PEM).", envvar="QANAT_TUNNEL_CA")],
    edge_ca: Annotated[
        Path | None, typer.Option(help="CA of the edge; the system's roots when empty.", envvar="QANAT_EDGE_CA")
    ] = None,
    port: Annotated[int, typer.Option(help="The loopback port; 0 takes a free one.", min=0, max=65535)] = 0,
) -> None:
    """Open a port on 127.0.0.1 for clients that are not Python; prints its URL and stays until Ctrl-C."""
    import asyncio
    import ssl
    import sys

    from qanat.client.dial import Edge, outer_context
    from qanat.log import setup_logging
    from qanat.pki.material import CertificateRefused, load_certificates

    setup_logging("info", "text")
    name, colon, number = edge.rpartition(":")
    if not colon or not number.isdecimal():
        raise typer.BadParameter("must be host:port", param_hint="--edge")
    try:
        access = Edge(name.strip("[]"), int(number), outer_context(cert, key, edge_ca))
        asyncio.run(_forward(access, host, load_certificates(ca.read_bytes()), port))
    except (OSError, ssl.SSLError, CertificateRefused) as error:
        print(f"qanat forward: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


async def _forward(access: object, host: str, anchors: object, port: int) -> None:
    import asyncio
    import signal
    from typing import Any, cast

    from qanat.client.forward import serve_forward

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve_forward(cast(Any, access), host, cast(Any, anchors), port=port) as forward:
        print(f"{forward.url} -> https://{host}", flush=True)
        await stop.wait()
