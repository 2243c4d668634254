"""Links in our papers lead somewhere, and code in them is code."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.requirements import requirement

ROOT = Path(__file__).parents[2]
PAPERS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")


def prose(path: Path) -> str:
    return _CODE.sub("", _FENCED.sub("", path.read_text(encoding="utf-8")))


def anchors(path: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@requirement("stack:docs")
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        where, _, anchor = unquote(link).partition("#")
        target = (path.parent / where).resolve() if where else path
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


@requirement("stack:docs")
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_papers_is_valid_and_imports_what_exists(path: Path) -> None:
    for language, code in _FENCED.findall(path.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module} has no {name.name}"
            elif isinstance(node, ast.Import):
                for name in node.names:
                    importlib.import_module(name.name)


@requirement("stack:docs")
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_shown_in_a_paper_is_the_one_in_its_folder(path: Path) -> None:
    """A block that begins with the name of a file under `examples/` is that file."""
    for _, code in _FENCED.findall(path.read_text(encoding="utf-8")):
        first, _, rest = code.partition("\n")
        if found := re.match(r"(?:#|//) (examples/\S+)", first):
            assert rest.strip() == (ROOT / found[1]).read_text(encoding="utf-8").strip(), f"{found[1]} has changed"


@requirement("stack:docs")
def test_every_page_of_the_docs_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in seen or path.suffix != ".md" or not path.exists():
            continue
        seen.add(path)
        links = [link.partition("#")[0] for link in _LINK.findall(prose(path)) if not re.match(r"[a-z]+:", link)]
        waiting += [(path.parent / unquote(link)).resolve() for link in links if link]
    lost = [str(path.relative_to(ROOT)) for path in PAPERS if path not in seen and "decisions" not in path.parts]
    assert lost == []
