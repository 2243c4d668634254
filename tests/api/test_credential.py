"""Which credential counts, wherever it stands: the control plane and the gateway ask the same function."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from qanat.api.control_client import ControlClient
from qanat.api.credential import bearer, presented_in
from qanat.api.tunnels import TunnelsClient
from qanat.errors import ConfigInvalid


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"x-api-key": " k "}, "k"),
        ({"authorization": "bearer  t "}, "t"),
        ({"authorization": "Bearer t", "x-api-key": "k"}, "t"),
        ({"authorization": "", "x-api-key": "k"}, "k"),
        ({"authorization": "Bearer", "x-api-key": "k"}, None),
        ({"authorization": "Basic dTpw", "x-api-key": "k"}, None),
    ],
)
def test_authorization_wins_and_is_never_passed_over(headers: dict[str, str], found: str | None) -> None:
    assert presented_in(headers) == found


@pytest.mark.parametrize("broken", ["sk-ant-se\ncret", "sk-ant-se\rcret", "sk-ant-se\0cret", "sk-ant-secrét"])
def test_a_credential_that_no_header_can_carry_is_refused_and_not_repeated(broken: str) -> None:
    for use in (
        lambda: bearer(broken),
        lambda: TunnelsClient("https://api.example.com", SecretStr(broken)),
        lambda: ControlClient("https://api.example.com", SecretStr(broken)),
    ):
        with pytest.raises(ConfigInvalid, match="holds a line break") as refused:
            use()
        assert "sk-ant" not in str(refused.value)
