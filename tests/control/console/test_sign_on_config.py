"""What `console` in the control plane's file may say, and that the guide says what works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qanat.control.config import Console
from qanat.errors import ConfigInvalid
from tests.support.control import ControlThread
from tests.support.helm import render

HOWTO = Path(__file__).parents[3] / "docs" / "howto" / "single-sign-on.md"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"operator_sign_in": False}, "nobody could get in"),
        ({"single_sign_on": {"issuer": "https://a.example", "client_id": "x"}}, "set manage or read_only"),
        (
            {"single_sign_on": {"issuer": "https://a.example", "client_id": "x", "manage": ["a"], "scopes": ["email"]}},
            "scopes must have openid",
        ),
    ],
)
def test_a_configuration_that_lets_nobody_in_is_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Console.model_validate(section)


def test_a_secret_that_cannot_be_read_stops_the_start(
    start_control: Callable[..., ControlThread], tmp_path: Path
) -> None:
    settings = {"issuer": "https://a.example", "client_id": "x", "manage": ["a"], "client_secret_file": tmp_path / "no"}
    with pytest.raises(ConfigInvalid, match="client_secret_file"):
        start_control({"console": {"single_sign_on": settings}})


@pytest.mark.parametrize("url", ["http://gateway:8788", "ftp://x", "gateway:8788", "https://"])
def test_a_gateway_is_asked_by_tls_unless_it_is_on_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        Console.model_validate({"playground": {"gateway_url": url}})
    Console.model_validate({"playground": {"gateway_url": "http://127.0.0.1:8788"}})


def test_what_the_guide_shows_can_be_used() -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", HOWTO.read_text(), re.DOTALL)]
    *files, values = blocks
    assert len(files) == 2
    for document in files:
        assert Console.model_validate(document["console"]).single_sign_on is not None
    minimal = {"image": {"digest": f"sha256:{'c' * 64}"}, "baseDomain": "t.example.net"}
    control = {"publicUrl": "https://api.example.net", **values["control"]}
    rendered = str(render("qanat", {**minimal, **values, "control": control}))
    assert "qanat-console-client" in rendered
    assert "/etc/qanat/console-client/client-secret" in rendered
