"""The `qanat` command: one module per subcommand, imported only when it is called.

A customer's install has no server packages, so `qanat --help` must not import what `qanat control` needs.
"""

from __future__ import annotations

import importlib
import sys

import click
import typer

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


class LazyGroup(typer.core.TyperGroup):
    """A group that imports a subcommand's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(importlib.import_module(COMMANDS[cmd_name][0]).app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


app = typer.Typer(
    name="qanat",
    cls=LazyGroup,
    help="Self-hosted MCP tunnels.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def root() -> None:
    """Self-hosted MCP tunnels."""


def main() -> None:
    """Entry point of the `qanat` script."""
    app(sys.argv[1:], prog_name="qanat")
