"""`qanat dev`: everything in one process, with sample MCP servers and a first request through the tunnel."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qanat.gateway.config import ModelSection

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
ANTHROPIC_MODEL = "claude-sonnet-4-5"


@app.command()
def dev(
    once: Annotated[bool, typer.Option("--once", help="Stop after the first request; fail unless all held.")] = False,
    listen: Annotated[str, typer.Option("--listen", help="Where the gateway listens.")] = "127.0.0.1:0",
    model: Annotated[
        str, typer.Option("--model", envvar="QANAT_MODEL", help="A model's name, where a real one is configured.")
    ] = "",
    openai_base_url: Annotated[
        str, typer.Option("--openai-base-url", envvar="OPENAI_BASE_URL", help="An OpenAI-compatible server.")
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every part's log.")] = False,
) -> None:
    """Run the whole tunnel on this machine and send a request through it.

    With ANTHROPIC_API_KEY, or an OpenAI-compatible server, a real model answers; otherwise the built-in qanat-demo.
    """
    import time

    started = time.monotonic()
    import asyncio

    import uvloop

    from qanat.config import split_address

    try:
        split_address(listen)
        name, models = choose_model(model, openai_base_url)
    except ValueError as error:
        print(f"qanat dev: {error}", file=sys.stderr)
        raise typer.Exit(2) from None

    from qanat.dev.session import Session

    session = Session(name, models, listen=listen, once=once, verbose=verbose, started=started)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        raise typer.Exit(runner.run(session.run()))


def choose_model(model: str, openai_base_url: str) -> tuple[str, dict[str, ModelSection]]:
    """The model to ask, and all that are on offer. Raises `ValueError` when a name is missing."""
    import os

    if openai_base_url and not model:
        raise ValueError("--model is required with an OpenAI-compatible server (or QANAT_MODEL)")
    with_anthropic = bool(os.environ.get("ANTHROPIC_API_KEY")) and not openai_base_url
    if model not in ("", "qanat-demo") and not openai_base_url and not with_anthropic:
        raise ValueError(f"no model {model!r}: set ANTHROPIC_API_KEY or --openai-base-url to reach one")

    from qanat.gateway.config import ModelSection
    from qanat.stack import DEMO_MODEL

    if openai_base_url:
        return model, {**DEMO_MODEL, model: ModelSection(upstream="openai", base_url=openai_base_url)}
    if with_anthropic and model != "qanat-demo":
        name = model or ANTHROPIC_MODEL
        return name, {**DEMO_MODEL, name: ModelSection(upstream="anthropic")}
    return "qanat-demo", dict(DEMO_MODEL)
