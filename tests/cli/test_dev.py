"""Which model `qanat dev` asks."""

from __future__ import annotations

import pytest

from qanat.cli.dev import ANTHROPIC_MODEL, app, choose_model


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)


def test_without_a_key_the_demo_model_answers() -> None:
    name, models = choose_model("", "")
    assert name == "qanat-demo"
    assert [(section.upstream) for section in models.values()] == ["demo"]


def test_with_a_key_the_real_one_does_and_the_demo_model_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
    name, models = choose_model("", "")
    assert name == ANTHROPIC_MODEL
    assert models[name].upstream == "anthropic"
    assert choose_model("claude-x", "")[0] == "claude-x"
    assert choose_model("qanat-demo", "")[0] == "qanat-demo"
    assert "qanat-demo" in models


def test_an_openai_compatible_server_needs_a_models_name() -> None:
    name, models = choose_model("llama", "http://127.0.0.1:11434/v1")
    assert (name, models[name].upstream, models[name].base_url) == ("llama", "openai", "http://127.0.0.1:11434/v1")
    with pytest.raises(ValueError, match="--model is required"):
        choose_model("", "http://127.0.0.1:11434/v1")


def test_a_model_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="set ANTHROPIC_API_KEY"):
        choose_model("claude-x", "")


def test_an_address_that_is_none_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["--listen", "8788"])
    assert ended.value.code == 2
    assert 'invalid address "8788"' in capsys.readouterr().err
