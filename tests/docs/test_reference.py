"""The reference compared with the code: every key, option, error, metric and log phrase."""

from __future__ import annotations

from pathlib import Path

import pytest

from qanat.cli import COMMANDS
from tests.docs.generate import GENERATED, MARKER, PAGES, REFERENCE, load, nested_model
from tests.support.requirements import requirement


@requirement("stack:docs")
@pytest.mark.parametrize("path", sorted(GENERATED), ids=lambda path: path.stem)
def test_a_reference_page_says_what_the_code_does(path: Path) -> None:
    assert path.exists(), "make docs"
    _, marker, below = path.read_text(encoding="utf-8").partition(MARKER)
    written, wanted = (marker + below).splitlines(), GENERATED[path]().splitlines()
    stale = [line for line in written if line not in wanted]
    missing = [line for line in wanted if line not in written]
    assert (missing, stale) == ([], []), "make docs"


@requirement("stack:docs")
@pytest.mark.parametrize("page", [page for page in PAGES if page.config], ids=lambda page: page.name)
def test_every_configuration_key_stands_in_its_page(page: object) -> None:
    """Counted apart from the generator's own walk: by name, section after section."""
    assert hasattr(page, "name")
    assert hasattr(page, "config")
    text = (REFERENCE / f"{page.name}.md").read_text(encoding="utf-8")
    models = [load(page.config)]
    while models:
        for name, field in models.pop().model_fields.items():
            assert f"{field.alias or name}`" in text, f"{name} is missing"
            nested, _ = nested_model(field.annotation)
            models += [nested] if nested else []


@requirement("stack:docs")
def test_every_command_is_described() -> None:
    text = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## `qanat {name}`" in text
