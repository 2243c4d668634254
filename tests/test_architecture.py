"""Who may import whom, and why not more: the table is the architecture, the tests hold the code to it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support.requirements import requirement

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/qanat"
MAX_LINES = 500
LEAVES = frozenset({"errors", "ids", "clock", "log", "log_lines", "logger", "config", "__version__"})
PARTS = frozenset({"edge", "connector", "proxy", "control", "gateway", "setup"})


@dataclass(frozen=True)
class Rule:
    """What a folder may import besides itself and the leaves, and why nothing else."""

    may: frozenset[str]
    because: str


def rule(*may: str, because: str) -> Rule:
    return Rule(frozenset(may), because)


RULES: dict[str, Rule] = {
    "asgi": rule(because="serves whatever ASGI application it is given; for operators, so neither in api nor in net"),
    "wire": rule(because="codecs are the ground: bytes in, events out, usable by anybody"),
    "pki": rule(because="judging a certificate needs no network and no protocol of ours"),
    "api": rule(because="the control plane's nouns are shared by all who ask it; they must not drag a part along"),
    "net": rule("wire", because="layers know transports and codecs; what a tunnel or a tenant is, they do not"),
    "tunnel": rule("net", "wire", because="a connection carries streams; whose they are is the edge's business"),
    "client": rule("net", "wire", "pki", because="a library for other programs: it must not bring a server along"),
    "edge": rule("tunnel", "net", "wire", "api", "pki", because="asks the control plane over HTTP, never in-process"),
    "connector": rule("tunnel", "net", "wire", because="holds no key and no tenant data, so needs neither pki nor api"),
    "proxy": rule("tunnel", "net", "wire", "pki", because="works without our control plane: the reference's too"),
    "control": rule("asgi", "api", "pki", "wire", because="never in the path of a request, so no transport of ours"),
    "gateway": rule("asgi", "client", "net", "wire", "api", "pki", because="reaches servers as any other client would"),
    "setup": rule("api", "pki", "wire", because="speaks the public API only: it must work against any control plane"),
    "samples": rule("asgi", because="MCP servers as their owners write them know nothing of tunnels"),
    "stack": rule(*PARTS, "samples", "api", because="the one place that knows every part; knows no internals below"),
    "dev": rule(*PARTS, "stack", "samples", "client", "net", "wire", because="looks over the parts' shoulders"),
    "cli": rule(*PARTS, "stack", "dev", "client", "api", "pki", "net", "wire", because="calls one part, as people do"),
    "__main__": rule("cli", because="python -m qanat is the command"),
    "errors": rule(because="leaf"),
    "ids": rule(because="leaf"),
    "clock": rule(because="leaf"),
    "log": rule("log_lines", "logger", because="leaf"),
    "log_lines": rule(because="leaf"),
    "logger": rule("log_lines", because="leaf"),
    "config": rule(because="leaf; names the error it raises"),
    "__init__": rule(because="holds the version and nothing that takes time to import"),
}

WAITING = frozenset(
    {"asyncio", "socket", "selectors", "ssl", "time", "os", "random", "secrets", "threading", "subprocess", "anyio"}
)
"""What a pure module must not import: it takes `now` and random bytes as arguments, and owns no socket."""

PURE = (
    "wire",
    "pki",
    "connector/backoff.py",
    "connector/config.py",
    "connector/http1.py",
    "connector/ladder.py",
    "connector/spread.py",
    "control/config.py",
    "control/errors.py",
    "control/nouns.py",
    "edge/admission.py",
    "edge/directory.py",
    "edge/errors.py",
    "edge/frames.py",
    "edge/proxy_protocol.py",
    "edge/request.py",
    "client/upgrade.py",
    "gateway/chat_request.py",
    "gateway/chat_stream.py",
    "gateway/demo_model.py",
    "gateway/history.py",
    "gateway/names.py",
    "gateway/request.py",
    "gateway/results.py",
    "gateway/sse.py",
    "gateway/tools.py",
    "gateway/turn.py",
    "proxy/guard.py",
    "proxy/headers.py",
    "proxy/rewrite.py",
    "proxy/routes.py",
    "proxy/upstream_url.py",
    "proxy/policy/audit.py",
    "proxy/policy/inspect.py",
    "proxy/policy/ratelimit.py",
    "proxy/policy/tools.py",
    "setup/options.py",
    "setup/plan.py",
    "setup/state.py",
)

SERVER_ONLY = frozenset(
    {"fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "aiosqlite", "asyncpg", "redis", "mcp", "jinja2"}
)
"""What the install of a customer's network does not have."""
CUSTOMER = ("wire", "pki", "api", "net", "tunnel", "client", "connector", "proxy", "setup")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[tuple[str, bool]]:
    """Every module a file imports, with whether that happens when the file itself is imported."""
    found: set[tuple[str, bool]] = set()

    def visit(node: ast.AST, at_once: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inside = at_once and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.Import):
                found.update((name.name, at_once) for name in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                assert child.module is not None
                if child.module == "qanat":
                    found.update((f"qanat.{name.name}", at_once) for name in child.names)
                else:
                    found.add((child.module, at_once))
            visit(child, inside)

    visit(tree(path), True)
    return frozenset(found)


def files(*where: str) -> list[Path]:
    """The Python files of folders or single modules below the package."""
    found: list[Path] = []
    for name in where:
        path = SOURCE / name
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@requirement("stack:imports")
@pytest.mark.parametrize("part", sorted({part_of(path) for path in SOURCE.rglob("*.py")}))
def test_a_folder_imports_only_what_the_table_allows(part: str) -> None:
    assert part in RULES, f"src/qanat/{part} is not in the table: say what it may import, and why nothing else"
    allowed = RULES[part].may | LEAVES | {part}
    for path in (path for path in SOURCE.rglob("*.py") if part_of(path) == part):
        for name, _ in imports(path):
            if name == "qanat" or name.startswith("qanat."):
                target = name.split(".")[1]
                where = path.relative_to(ROOT)
                assert target in allowed, f"{where} imports qanat.{target}; {part} must not: {RULES[part].because}"


@requirement("stack:imports")
def test_no_part_may_import_another() -> None:
    for part in PARTS:
        assert not RULES[part].may & PARTS


@requirement("stack:imports")
def test_the_table_allows_no_way_round() -> None:
    """Following it, nobody can come back to where he started."""

    def reach(part: str, seen: tuple[str, ...]) -> None:
        assert part not in seen, " -> ".join([*seen, part])
        for target in RULES[part].may if part in RULES else ():
            reach(target, (*seen, part))

    for part in RULES:
        reach(part, ())


@requirement("stack:imports")
@pytest.mark.parametrize("where", PURE)
def test_a_pure_module_imports_nothing_that_waits(where: str) -> None:
    found = files(where)
    assert found, f"{where} is gone: take it from the list"
    for path in found:
        waiting = {name for name, _ in imports(path) if name.split(".")[0] in WAITING}
        assert not waiting, f"{path.relative_to(ROOT)} imports {sorted(waiting)}: take `now` and random bytes instead"


@requirement("stack:imports")
def test_the_customers_parts_need_no_server_package() -> None:
    for path in files(*CUSTOMER):
        needed = {name.split(".")[0] for name, _ in imports(path)} & SERVER_ONLY
        assert not needed, (
            f"{path.relative_to(ROOT)} imports {sorted(needed)}, which `pip install qanat` does not bring"
        )


@requirement("stack:imports")
def test_commands_import_parts_only_when_they_run() -> None:
    """`qanat --help` must be quick, and must work where the server packages are missing."""
    for path in files("cli"):
        for name, at_once in imports(path):
            part = name.split(".")[1] if name.startswith("qanat.") else ""
            heavy = name.split(".")[0] in SERVER_ONLY or part in ("control", "gateway", "edge", "stack", "dev")
            guarded = "TYPE_CHECKING" in path.read_text(encoding="utf-8")
            assert not (heavy and at_once and not guarded), f"{path.relative_to(ROOT)} imports {name} at once"


@requirement("stack:size")
def test_no_file_is_longer_than_anybody_wants_to_read() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts]
    ours = [*SOURCE.rglob("*.py"), *(ROOT / "bench").rglob("*.py"), *tests]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ours}
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


@requirement("stack:imports")
def test_every_module_says_what_it_is() -> None:
    silent = [path for path in SOURCE.rglob("*.py") if path.stat().st_size and not documented(path)]
    assert [str(path.relative_to(ROOT)) for path in silent] == []


def documented(path: Path) -> bool:
    return ast.get_docstring(tree(path)) is not None
