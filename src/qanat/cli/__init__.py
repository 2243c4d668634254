"""The `qanat` command: one module per subcommand, imported only when it is called.

A customer's install has no server packages, so `qanat --help` must not import what `qanat control` needs.
"""

from __future__ import annotations

import difflib
import importlib
import sys

from qanat import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "join": ("qanat.cli.join", "Connector and proxy in one process: the shortest way in."),
    "connector": ("qanat.cli.connector", "The connector alone; flags and environment as cloudflared's."),
    "proxy": ("qanat.cli.proxy", "The proxy alone; takes the reference proxy's config file."),
    "setup": ("qanat.cli.setup", "Provision a stack: init, renew-cert, archive."),
    "doctor": ("qanat.cli.doctor", "Check a deployment hop by hop and name the failing one."),
    "forward": ("qanat.cli.forward", "A local port that leads through a tunnel."),
    "audit": ("qanat.cli.audit", "Verify a proxy's audit log offline."),
    "edge": ("qanat.cli.edge", "The edge: meets connectors and clients."),
    "control": ("qanat.cli.control", "The control plane: Tunnels API, workload identity, console."),
    "gateway": ("qanat.cli.gateway", "The Messages API with the MCP connector."),
    "dev": ("qanat.cli.dev", "Everything in one process, with sample MCP servers."),
    "tunnels": ("qanat.cli.tunnels", "List, create, show, archive tunnels; rotate and reveal tokens."),
    "certificates": ("qanat.cli.certificates", "CA certificates registered on a tunnel."),
    "issuers": ("qanat.cli.issuers", "Federation issuers."),
    "rules": ("qanat.cli.rules", "Federation rules."),
    "service-accounts": ("qanat.cli.service_accounts", "Service accounts."),
    "keys": ("qanat.cli.keys", "API keys and Tunnels API keys."),
}


def main() -> None:
    """Entry point of the `qanat` script: find the subcommand's module, let its `app` do the rest."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(overview())
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name in ("--version", "-V"):
        print(f"qanat {__version__}")
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        print(f"qanat: no command {name!r}{hint}; see qanat --help", file=sys.stderr)
        sys.exit(2)
    try:  # commands import their part only when they run
        module = importlib.import_module(COMMANDS[name][0])
        module.app(arguments[1:], prog_name=f"qanat {name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("qanat"):
            raise
        print(f"qanat {name} needs the package {error.name!r}: pip install 'qanat[server]'", file=sys.stderr)
        sys.exit(1)


def overview() -> str:
    """What `qanat --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items()]
    more = "`qanat COMMAND --help` tells its options, `qanat --version` the version."
    return "\n".join(
        ["Usage: qanat COMMAND [options]", "", "Self-hosted MCP tunnels.", "", "Commands:", *lines, "", more]
    )
