"""`qanat setup init | renew-cert | archive`. Flags win over environment variables; both dash styles are understood."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qanat.errors import QanatError
from qanat.pki.issue import KeyType
from qanat.setup import options as asked
from qanat.setup.errors import Misused

_LONG = re.compile(r"-[a-z][a-z-]+(=.*)?", re.DOTALL)


class DashTolerant(typer.Typer):
    """Takes `-output=…` for `--output=…`, as the reference's flags are often written."""

    def __call__(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:
        given = sys.argv[1:] if args is None else args
        return super().__call__([f"-{a}" if _LONG.fullmatch(a) else a for a in given], **kwargs)


app = DashTolerant(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

OutputFlag = Annotated[str, typer.Option(help="dir:/path or k8s-secret:NAME; in a pod k8s-secret:mcp-tunnel.")]
CertDuration = Annotated[str, typer.Option(help="Life of the server certificate.")]
KeyTypeFlag = Annotated[KeyType | None, typer.Option(help="Server key; ecdsa-p256 unless a stored one says otherwise.")]
APIURL = Annotated[str, typer.Option(help="Base URL of the Tunnels API. [env: API_URL]")]
TunnelIDFlag = Annotated[str, typer.Option(help="Use this tunnel instead of creating one. [env: TUNNEL_ID]")]
CAFile = Annotated[str, typer.Option(help="CA certificates to trust for the API. [env: API_CA_FILE]")]


@app.command()
def init(
    api_url: APIURL = "",
    tunnel_id: TunnelIDFlag = "",
    output: OutputFlag = "",
    cert_duration: CertDuration = asked.DEFAULT_CERT_DURATION,
    token_version: Annotated[str, typer.Option(help="Any new value rotates the token.")] = "",
    tunnel_name: Annotated[str, typer.Option(help="Name of a created tunnel. [env: TUNNEL_NAME]")] = "",
    ca_file: CAFile = "",
    key_type: KeyTypeFlag = None,
    new_ca: Annotated[bool, typer.Option("--new-ca", help="Make a new CA beside the registered one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, change nothing.")] = False,
    timeout: Annotated[str, typer.Option(help="For the whole run.")] = asked.DEFAULT_TIMEOUT,
) -> None:
    """Attach to a tunnel or create one, and write certificates and token."""

    async def work() -> None:
        from qanat.clock import SystemClock
        from qanat.setup.init import run_init
        from qanat.setup.output import open_output

        where = asked.output(output or None, in_pod=asked.in_pod(os.environ))
        settings = asked.InitOptions(
            api_url=asked.api_url(api_url, os.environ),
            sign_in=asked.sign_in(os.environ),
            tunnel_id=asked.tunnel_id(tunnel_id, os.environ),
            tunnel_name=asked.tunnel_name(tunnel_name, os.environ, _place()),
            token_version=token_version or None,
            cert_duration=asked.cert_duration(cert_duration),
            key_type=key_type,
            new_ca=new_ca,
            trust=_trust(ca_file),
        )
        async with open_output(where, os.environ) as opened:
            await run_init(settings, opened, SystemClock(), _say, dry_run=dry_run)

    _run(work, timeout)


@app.command("renew-cert")
def renew_cert(
    output: OutputFlag = "",
    cert_duration: CertDuration = asked.DEFAULT_CERT_DURATION,
    renew_before: Annotated[str, typer.Option(help="Do nothing while more than this remains.")] = "0",
    tunnel_domain: Annotated[str, typer.Option(help="For a directory that stores no tunnel-domain.")] = "",
    key_type: KeyTypeFlag = None,
    timeout: Annotated[str, typer.Option(help="For the whole run.")] = asked.DEFAULT_TIMEOUT,
) -> None:
    """Issue a new server certificate from the stored CA; no API is called."""

    async def work() -> None:
        from qanat.clock import SystemClock
        from qanat.setup.output import open_output
        from qanat.setup.renew import RenewOptions, run_renew

        where = asked.output(output or None, in_pod=asked.in_pod(os.environ))
        settings = RenewOptions(
            cert_duration=asked.cert_duration(cert_duration),
            renew_before=asked.duration("renew-before", renew_before),
            key_type=key_type,
            tunnel_domain=tunnel_domain or None,
        )
        async with open_output(where, os.environ) as opened:
            await run_renew(settings, opened, SystemClock(), _say)

    _run(work, timeout)


@app.command()
def archive(
    api_url: APIURL = "",
    tunnel_id: TunnelIDFlag = "",
    confirm: Annotated[str, typer.Option(help="The tunnel id again; asked for on a terminal.")] = "",
    ca_file: CAFile = "",
    timeout: Annotated[str, typer.Option(help="For the whole run.")] = asked.DEFAULT_TIMEOUT,
) -> None:
    """Retire a tunnel for good: token, certificates and domain."""

    async def work() -> None:
        from qanat.setup.archive import run_archive

        wanted = asked.tunnel_id(tunnel_id, os.environ)
        if wanted is None:
            raise Misused("--tunnel-id (or TUNNEL_ID) is required")
        url, credentials = asked.api_url(api_url, os.environ), asked.sign_in(os.environ)
        _confirm(wanted, confirm)
        await run_archive(url, credentials, wanted, _say, trust=_trust(ca_file))

    _run(work, timeout)


def _confirm(wanted: str, confirm: str) -> None:
    if not confirm and sys.stdin.isatty():
        confirm = typer.prompt(f"This cannot be undone. Type {wanted} to archive it")
    if confirm != wanted:
        raise Misused(f"nothing was archived: confirm with --confirm={wanted}")


def _place() -> str:
    """The namespace in a pod, else the host's short name."""
    if asked.in_pod(os.environ):
        return (asked.SERVICE_ACCOUNT / "namespace").read_text().strip()
    return socket.gethostname().partition(".")[0]


def _trust(ca_file: str) -> Path | None:
    found = asked.setting(ca_file, os.environ, "API_CA_FILE")
    return Path(found) if found else None


def _say(line: str) -> None:
    print(line, flush=True)


def _run(work: Callable[[], Awaitable[None]], timeout: str) -> None:
    """Do the work in bounded time; every failure is one message and an exit code."""

    async def bounded() -> None:
        async with asyncio.timeout(asked.duration("timeout", timeout).total_seconds()):
            await work()

    try:
        asyncio.run(bounded())
    except Misused as error:
        _fail(str(error), 2)
    except QanatError as error:
        _fail(str(error), 1)
    except TimeoutError:
        _fail(f"gave up after {timeout} (--timeout); run again to go on from here", 1)


def _fail(text: str, code: int) -> None:
    print(f"setup: {text}", file=sys.stderr)
    raise typer.Exit(code)
