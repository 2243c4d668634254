"""What the commands that talk to the control plane share: whom to call, with what, and how to print the answer.

The credential comes from a file or the environment, never from an argument, which every user of the machine could
read. Options may stand before or after the subcommand.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from qanat.errors import ConfigInvalid, QanatError

TOKEN_VARIABLES = ("QANAT_TOKEN", "ANTHROPIC_AUTH_TOKEN", "API_TOKEN")
PAGE_SIZE = 100
_VALUED = ("--api-url", "--token-file", "--workspace-id", "--ca-file")
_FLAGS = ("--json", "--yes")


class APICommands(typer.Typer):
    """A command group whose common options may stand anywhere."""

    def __init__(self, help: str) -> None:
        super().__init__(
            help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, callback=remember
        )

    def __call__(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:
        return super().__call__(hoist(list(sys.argv[1:] if args is None else args)), **kwargs)


def hoist(arguments: list[str]) -> list[str]:
    """The common options moved to the front, where the parser expects them."""
    common: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument in _FLAGS or (argument.partition("=")[0] in _VALUED and "=" in argument):
            common.append(argument)
        elif argument in _VALUED:
            common += [argument, *(value for value in [next(waiting, None)] if value is not None)]
        elif argument == "--":
            rest += [argument, *waiting]
        else:
            rest.append(argument)
    return common + rest


@dataclass(frozen=True)
class Session:
    """Whom to call and how to answer."""

    api_url: str
    credential: str = field(repr=False)
    workspace_id: str
    ca_file: Path | None
    as_json: bool
    yes: bool


def remember(
    context: typer.Context,
    api_url: Annotated[
        str,
        typer.Option(envvar=["QANAT_API_URL", "ANTHROPIC_BASE_URL", "API_URL"], help="The control plane's address."),
    ] = "http://127.0.0.1:8787",
    token_file: Annotated[
        Path | None, typer.Option(envvar="QANAT_TOKEN_FILE", help="File with the credential. Else: $QANAT_TOKEN.")
    ] = None,
    workspace_id: Annotated[str, typer.Option(envvar="ANTHROPIC_WORKSPACE_ID", help="Act in this workspace.")] = "",
    ca_file: Annotated[
        Path | None, typer.Option(envvar="API_CA_FILE", help="CA certificates to trust for the API.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before what cannot be undone.")] = False,
) -> None:
    """Options of every command in the group."""
    credential = _credential(token_file)
    context.obj = Session(api_url, credential, workspace_id, ca_file, as_json, yes)


def _credential(token_file: Path | None) -> str:
    if token_file is not None:
        try:
            return token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            misused(f"--token-file {token_file}: {getattr(error, 'strerror', 'not text')}")
    return next((value for name in TOKEN_VARIABLES if (value := os.environ.get(name, "").strip())), "")


def misused(message: str) -> None:
    """Exit 2 with a sentence."""
    print(message, file=sys.stderr)
    raise typer.Exit(2)


def session_of(context: typer.Context) -> Session:
    session = context.obj
    assert isinstance(session, Session)
    if not session.credential:
        misused("no credential: give --token-file, or set QANAT_TOKEN")
    return session


def post(context: typer.Context, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer to a POST; values of None are left out of the body. Exits 1 when refused."""
    present = {name: value for name, value in (body or {}).items() if value is not None}
    return _call(session_of(context), "POST", path, present, None)


def get(context: typer.Context, path: str) -> dict[str, Any]:
    """The answer to a GET. Exits 1 when refused."""
    return _call(session_of(context), "GET", path, None, None)


def get_all(context: typer.Context, path: str, **query: str | None) -> list[dict[str, Any]]:
    """Every item of a list, page by page."""
    present: dict[str, str | int] = {name: value for name, value in query.items() if value is not None}
    items: list[dict[str, Any]] = []
    while True:
        page = _call(session_of(context), "GET", path, None, present | {"limit": PAGE_SIZE})
        items += page["data"]
        if not page.get("next_page"):
            return items
        present["page"] = page["next_page"]


def _call(
    session: Session, method: Any, path: str, body: dict[str, Any] | None, query: dict[str, str | int] | None
) -> dict[str, Any]:
    from qanat.api.credential import bearer
    from qanat.api.http import Call, JSONClient
    from qanat.api.tunnels import BETA, VERSION

    async def work() -> dict[str, Any]:
        headers = {
            "authorization": bearer(session.credential),
            "anthropic-version": VERSION,
            "anthropic-beta": BETA,
        } | ({"anthropic-workspace-id": session.workspace_id} if session.workspace_id else {})
        async with JSONClient(session.api_url, headers, trust=session.ca_file) as client:
            return await client.call(Call(method, path, body, query, idempotent=method == "GET"))

    try:
        return asyncio.run(work())
    except QanatError as error:
        print(str(error), file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, ConfigInvalid) else 1) from None


def confirm(context: typer.Context, question: str) -> None:
    """Ask a person before what cannot be undone; exit 1 unless they agree."""
    if not session_of(context).yes and not typer.confirm(question, err=True):
        raise typer.Exit(1)


def print_items(context: typer.Context, items: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """A table, or a JSON array."""
    if session_of(context).as_json:
        print(json.dumps(items, indent=2))
        return
    rows = [
        [column.upper() for column in columns],
        *([_text(item.get(column)) for column in columns] for item in items),
    ]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_item(context: typer.Context, item: dict[str, Any]) -> None:
    """One thing, a line per field, or a JSON object."""
    if session_of(context).as_json:
        print(json.dumps(item, indent=2))
        return
    shown = {name: value for name, value in item.items() if name != "type"}
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name.ljust(width)}  {_text(value)}")


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
