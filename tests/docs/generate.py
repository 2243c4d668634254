"""Writes the part of each reference page that the code knows best: `make docs`.

What a page says above its marker is written by people and left alone; below it stand the configuration keys, errors,
metrics and log phrases of that part, and on the page of commands every option.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import typer.main
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import qanat
from qanat.cli import COMMANDS
from qanat.errors import QanatError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"
DOCS = ROOT / "docs"
FOLDERS = {
    "tutorial": "Tutorial: learn by doing",
    "howto": "How-to: one task each",
    "reference": "Reference: every key, option, error and metric",
    "explanation": "Explanation: why it is as it is",
    "decisions": "Decisions: context, choice, consequence",
}
MARKER = "<!-- Below this line the page is written by `make docs`, from the code. -->"
_TYPES = {
    "Path": "path", "Duration": "duration", "SecretStr": "secret", "str": "text", "int": "number", "bool": "yes or no",
    "float": "number", "Bool": "yes or no", "Count": "number", "ListenAddress": "host:port", "Networks": "networks",
    "HostHeader": "text",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What one reference page covers."""

    name: str
    title: str
    packages: tuple[str, ...]
    """Errors and log phrases are looked for here."""
    config: str = ""
    metrics: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


PAGES = (
    Page(
        "edge", "Edge", ("qanat.edge",), "qanat.edge.config:EdgeConfig", ("qanat.edge.metrics:Metrics",), ("edge",)
    ),
    Page(
        "connector", "Connector", ("qanat.connector", "qanat.tunnel"),
        "qanat.connector.config:ConnectorConfig", ("qanat.connector.metrics:Metrics",), ("connector", "join"),
    ),
    Page(
        "proxy", "Proxy", ("qanat.proxy",), "qanat.proxy.config:ProxyConfig", ("qanat.proxy.metrics:ProxyMetrics",),
        ("proxy", "join", "audit"),
    ),
    Page(
        "control", "Control plane", ("qanat.control",), "qanat.control.config:ControlConfig",
        ("qanat.control.metrics:Metrics",), ("control",),
    ),
    Page(
        "gateway", "Gateway", ("qanat.gateway",), "qanat.gateway.config:GatewayConfig",
        ("qanat.gateway.metrics:Metrics",), ("gateway",),
    ),
    Page("setup", "Setup", ("qanat.setup",), "", (), ("setup",)),
    Page("client", "Client library", ("qanat.client",), "", (), ("forward",)),
    Page(
        "errors", "Errors of the floors",
        ("qanat.errors", "qanat.wire", "qanat.net", "qanat.pki", "qanat.api", "qanat.stack", "qanat.dev"),
    ),
)  # fmt: skip

TITLES = {page.name: page.title for page in PAGES} | {"commands": "Commands", "README": "Documentation"}
REFERENCE_NAMES = set(TITLES) - {"README"}


def sections(page: Page) -> Iterator[str]:
    """The generated part of a page."""
    if page.config:
        yield "## Configuration\n\n" + table(
            ("key", "type", "default", "meaning"), list(config_rows(load(page.config)))
        )
    if errors := list(error_rows(page.packages)):
        yield "## Errors\n\n" + table(("code", "status", "retry", "meaning"), errors)
    if metrics := [row for where in page.metrics for row in metric_rows(load(where)())]:
        yield "## Metrics\n\n" + table(("name", "type", "labels", "meaning"), metrics)
    if phrases := sorted(set(log_rows(page.packages))):
        yield "## Log phrases\n\n" + table(("phrase", "level", "logger"), phrases)


def command_sections() -> Iterator[str]:
    """Every command with its options."""
    for name, (module, text) in COMMANDS.items():
        if importlib.util.find_spec(module) is None:
            continue
        command = typer.main.get_command(load(f"{module}:app"))
        yield f"## `qanat {name}`\n\n{text}" + "".join(options_of(f"qanat {name}", command, top=True))


def options_of(name: str, command: Any, *, top: bool = False) -> Iterator[str]:
    rows = list(option_rows(command))
    if not top:
        yield f"\n\n### `{name}`\n\n{first_sentence(command.help)}"
    if rows:
        yield "\n\n" + table(("option", "environment", "meaning"), rows)
    for child, subcommand in sorted(getattr(command, "commands", {}).items()):
        yield from options_of(f"{name} {child}", subcommand)


def option_rows(command: Any) -> Iterator[tuple[str, ...]]:
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        names = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
        environment = parameter.envvar or ""
        variables = [environment] if isinstance(environment, str) else list(environment)
        yield names, ", ".join(f"`{each}`" for each in variables if each), getattr(parameter, "help", "") or ""


def config_rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, ...]]:
    """A row for each key, sections taken apart."""
    notes = field_notes(model)
    for name, field in model.model_fields.items():
        annotation, note = notes.get(name, ("", ""))
        path = f"{prefix}{field.alias or name}"
        nested, suffix = nested_model(field.annotation)
        if nested is None:
            yield f"`{path}`", choices(field.annotation) or type_words(annotation), default_words(field), note
            continue
        yield f"`{path}`", "section" + suffix, default_words(field), note or first_sentence(nested.__doc__)
        yield from config_rows(nested, f"{path}{'[]' if suffix == ', list of' else '.<name>' if suffix else ''}.")


def choices(annotation: Any) -> str:
    """The values of a `Literal`, wherever it was given a name."""
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    found = [choices(argument) for argument in typing.get_args(annotation)]
    return next((words for words in found if words), "")


def nested_model(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section a field holds, and how many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin = typing.get_origin(annotation)
    suffix = {tuple: ", list of", list: ", list of", dict: ", by name"}.get(origin, "") if origin else ""
    for argument in typing.get_args(annotation):
        found, _ = nested_model(argument)
        if found is not None:
            return found, suffix
    return None, ""


@cache
def field_notes(model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Each field's annotation as written, and the text below it."""
    notes: dict[str, tuple[str, str]] = {}
    for base in reversed(model.__mro__):
        if base is BaseModel or not issubclass(base, BaseModel):
            continue
        (body,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                text = ""
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    text = " ".join(str(after.value.value).split())
                notes[node.target.id] = (annotation_text(node.annotation), text)
    return notes


def annotation_text(node: ast.expr) -> str:
    """An annotation without its validators."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Annotated":
        assert isinstance(node.slice, ast.Tuple)
        return annotation_text(node.slice.elts[0])
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in ("tuple", "list"):
        inner = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
        return f"list of {annotation_text(inner)}"
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
        elements = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return ", ".join(f"`{element.value!s}`" for element in elements if isinstance(element, ast.Constant))
    if isinstance(node, ast.BinOp):
        sides = [annotation_text(side) for side in (node.left, node.right)]
        return " or ".join(side for side in sides if side != "None")
    return ast.unparse(node)


def type_words(annotation: str) -> str:
    head, joiner, rest = annotation.partition("list of ")
    return f"{joiner}{_TYPES.get(rest, rest)}" if joiner and not head else _TYPES.get(annotation, annotation)


def default_words(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if field.default_factory is None else field.default
    if field.is_required():
        return "required"
    if value is PydanticUndefined or isinstance(value, BaseModel) or value is None or value in ((), "", {}):
        return ""
    if isinstance(value, dict | SecretStr):
        return "see below"
    return f"`{value_words(value)}`"


def value_words(value: Any) -> str:
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        for unit, size in (("h", 3600), ("m", 60)):
            if seconds and seconds % size == 0:
                return f"{seconds / size:.0f}{unit}"
        return f"{seconds:g}s"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


def error_rows(packages: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """A row for each error with a code of its own."""
    import_all()
    rows = {}
    for error in subclasses(QanatError):
        if belongs(error.__module__, packages) and "code" in vars(error):
            retry = "yes" if error.retryable else "no"
            rows[error.code, error.__name__] = (
                f"`{error.code}`", str(error.status), retry, describe(error)
            )  # fmt: skip
    yield from (rows[key] for key in sorted(rows))


def describe(error: type[QanatError]) -> str:
    """What an error is about: its docstring, or the sentence its receiver is told."""
    written = first_sentence(error.__doc__)
    return str(getattr(error, "message", "")) if not written or written.startswith(f"{error.__name__}(") else written


def subclasses(kind: type[QanatError]) -> Iterator[type[QanatError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def metric_rows(metrics: Any) -> Iterator[tuple[str, ...]]:
    registry: CollectorRegistry = metrics.registry
    found = {}
    for collector in registry._collector_to_names:
        labels = ", ".join(f"`{label}`" for label in label_names(collector))
        for family in collector.describe() if hasattr(collector, "describe") else collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = (f"`{name}`", family.type, labels, family.documentation)
    yield from (found[name] for name in sorted(found))


def label_names(collector: Any) -> tuple[str, ...]:
    """Of a counter of prometheus-client, or of one of ours."""
    return tuple(getattr(collector, "_labelnames", getattr(collector, "label_names", ())))


LOG_LEVELS = {level: level for level in ("debug", "info", "warn", "error")} | {"exception": "error", "members": "info"}
"""By a logger's method."""


def log_rows(packages: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every fixed phrase that is logged, by a call or on behalf of an error."""
    import_all()
    for error in subclasses(QanatError):
        if belongs(error.__module__, packages) and "log_phrase" in vars(error):
            level = str(getattr(error, "log_level", "warn"))
            yield str(vars(error)["log_phrase"]), level, f"`{'.'.join(error.__module__.split('.')[:2])}`"
    for path in sorted((ROOT / "src/qanat").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        if not belongs(module, packages):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LOG_LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("log", "_log")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                yield str(node.args[0].value), LOG_LEVELS[node.func.attr], f"`{'.'.join(module.split('.')[:2])}`"


def belongs(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@cache
def import_all() -> None:
    """Import every module, so that every error class is known."""
    for module in pkgutil.walk_packages(qanat.__path__, "qanat."):
        if "migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def load(where: str) -> Any:
    """The object that `module:name` names."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def first_sentence(text: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def generated(page: Page) -> str:
    return "\n\n".join([MARKER, *sections(page)]) + "\n"


def generated_commands() -> str:
    return "\n\n".join([MARKER, *command_sections()]) + "\n"


def generated_index() -> str:
    """A list of every page, folder by folder, by its title."""
    parts = [MARKER]
    for folder, title in FOLDERS.items():
        pages = sorted((DOCS / folder).glob("*.md"))
        names = {page.stem for page in pages} | (REFERENCE_NAMES if folder == "reference" else set())
        lines = [f"- [{title_of(DOCS / folder / f'{name}.md')}]({folder}/{name}.md)" for name in sorted(names)]
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def title_of(path: Path) -> str:
    """A page's first heading."""
    if not path.exists():
        return TITLES[path.stem]
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").strip()


GENERATED: dict[Path, Callable[[], str]] = {
    **{REFERENCE / f"{page.name}.md": partial(generated, page) for page in PAGES},
    REFERENCE / "commands.md": generated_commands,
    DOCS / "README.md": generated_index,
}
"""Page to what makes the text that must stand in it from the marker on."""


def write() -> None:
    """Bring every page up to date; a missing one begins with its title."""
    for path, make in GENERATED.items():
        text = make()
        old = path.read_text(encoding="utf-8") if path.exists() else f"# {TITLES[path.stem]}\n"
        above = old.partition(MARKER)[0].rstrip()
        new = f"{above}\n\n{text}"
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    write()
