"""Injected credentials: read again when they change, closed when missing, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from qanat.config import validate
from qanat.errors import ConfigInvalid
from qanat.proxy.policy.credentials import CredentialUnavailable, HeaderInjector, HeaderRules


def rules(**set_: object) -> HeaderRules:
    return validate(HeaderRules, {"set": set_})


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    injector = HeaderInjector(rules(Authorization={"prefix": "Bearer ", "file": str(path)}))
    assert injector.values() == [("Authorization", "Bearer first")]
    path.write_text("second-value\n")
    assert injector.values() == [("Authorization", "Bearer second-value")]
    assert "second-value" not in repr(vars(injector))


@pytest.mark.parametrize("content", [None, "", "two\nlines", "ünï"])
def test_a_credential_that_cannot_be_read_closes_the_route(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CredentialUnavailable) as caught:
        HeaderInjector(rules(Authorization={"file": str(path)})).values()
    assert caught.value.status == 503
    assert "lines" not in str(caught.value)


def test_a_variable_and_a_plain_value_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIKI_TOKEN", "from-env")
    injector = HeaderInjector(rules(Authorization={"env": "WIKI_TOKEN"}, Accept={"value": "text/plain"}))
    assert injector.values() == [("Authorization", "from-env"), ("Accept", "text/plain")]
    assert injector.touched == {"authorization", "accept"}


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("Authorization", {"value": "Bearer x"}, "holds a secret"),
        ("X-Api-Key", {"value": "x"}, "holds a secret"),
        ("X-Wiki-Token", {"value": "x"}, "holds a secret"),
        ("Host", {"value": "x"}, "may not be set"),
        ("Mcp-Session-Id", {"value": "x"}, "may not be set"),
        ("X-Forwarded-For", {"value": "x"}, "may not be set"),
        ("bad name", {"value": "x"}, "not a header name"),
        ("X-Plain", {}, "exactly one of"),
        ("X-Plain", {"value": "x", "env": "Y"}, "exactly one of"),
    ],
)
def test_a_dangerous_rule_is_a_config_error(name: str, source: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigInvalid, match=problem):
        validate(HeaderRules, {"set": {name: source}})
