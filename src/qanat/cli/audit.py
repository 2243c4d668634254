"""`qanat audit`: check a proxy's audit log offline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Verify a proxy's audit log offline.", no_args_is_help=True, add_completion=False)


@app.callback()
def audit() -> None:
    """Verify a proxy's audit log offline."""


@app.command()
def verify(
    log: Annotated[Path, typer.Argument(help="The audit log; - for standard input.")],
    key_file: Annotated[Path | None, typer.Option(help="The key that `audit.key_file` names, if it does.")] = None,
    head: Annotated[
        str | None, typer.Option(help="A head noted earlier: finds out whether the end was cut off since.")
    ] = None,
) -> None:
    """Check every line against the one before it; name the first that was edited, removed, inserted or moved."""
    from qanat.proxy.policy.audit import AuditBroken
    from qanat.proxy.policy.audit import verify as verify_chain

    try:
        key = key_file.read_bytes().strip() if key_file else b""
        if str(log) == "-":
            found = verify_chain(sys.stdin.buffer, key, head)
        else:
            with log.open("rb") as lines:
                found = verify_chain(lines, key, head)
    except AuditBroken as broken:
        print(f"{log}: {broken}", file=sys.stderr)
        raise typer.Exit(1) from None
    except OSError as error:
        print(f"open {error.filename}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(f"{log}: {found.lines} lines, unbroken; head {found.head}")
