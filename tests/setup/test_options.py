"""Flags and environment: what wins, what is misuse, what each refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest

from qanat.setup import options as asked
from qanat.setup.errors import Misused
from tests.setup.conftest import Setup
from tests.support.requirements import requirement

RULE = {"ANTHROPIC_FEDERATION_RULE_ID": "fdrl_01a", "ANTHROPIC_ORGANIZATION_ID": "o"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no credentials"),
        ({"API_TOKEN": ""}, "no credentials"),
        ({"API_TOKEN": "k", **RULE}, "set either API_TOKEN or ANTHROPIC_FEDERATION_RULE_ID, not both"),
        ({"API_TOKEN": "k", "ANTHROPIC_IDENTITY_TOKEN": "j"}, "not both"),
        ({"ANTHROPIC_FEDERATION_RULE_ID": "fdrl_01a"}, "ANTHROPIC_ORGANIZATION_ID is required"),
        ({"ANTHROPIC_ORGANIZATION_ID": "o"}, "ANTHROPIC_FEDERATION_RULE_ID is required"),
        (RULE, "neither is set"),
        ({**RULE, "ANTHROPIC_IDENTITY_TOKEN": "j", "ANTHROPIC_IDENTITY_TOKEN_FILE": "/f"}, "both are set"),
    ],
)
@requirement("setup:12")
def test_there_is_exactly_one_way_to_sign_in(environment: dict[str, str], said: str) -> None:
    with pytest.raises(Misused) as refused:
        asked.sign_in(environment)
    assert said in str(refused.value)
    if "is set" in said or "are set" in said:
        assert "ANTHROPIC_IDENTITY_TOKEN and ANTHROPIC_IDENTITY_TOKEN_FILE" in str(refused.value)


def test_empty_variables_are_unset() -> None:
    found = asked.sign_in({**RULE, "API_TOKEN": "", "ANTHROPIC_IDENTITY_TOKEN": "j", "ANTHROPIC_WORKSPACE_ID": ""})
    assert found.kind == "federation"
    assert found.workspace_id is None
    assert asked.setting("", {"X": ""}, "X") is None
    assert asked.setting("flag", {"X": "variable"}, "X") == "flag"


def test_credentials_are_not_in_a_repr() -> None:
    found = asked.sign_in({**RULE, "ANTHROPIC_IDENTITY_TOKEN": "eyJsecret"})
    assert "eyJsecret" not in repr(found)
    assert "sk-secret" not in repr(asked.sign_in({"API_TOKEN": "sk-secret"}))


@pytest.mark.parametrize("url", ["https://api.example.com", "https://api.example.com/", "http://127.0.0.1:8080"])
def test_a_base_url_is_https_or_loopback(url: str) -> None:
    assert asked.api_url(url, {}) == url.rstrip("/")
    assert asked.api_url("", {"API_URL": url}) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "https://api.example.com/v1",
        "ftp://x",
        "api.example.com",
        "https://u:p@x",
        "",
        "https://",
    ],
)
def test_any_other_base_url_is_misuse(url: str) -> None:
    with pytest.raises(Misused, match="--api-url"):
        asked.api_url(url, {})


def test_durations_and_ids_are_checked() -> None:
    for wrong in ("90", "-1h", "0", "soon", "1s"):
        with pytest.raises(Misused, match="--cert-duration"):
            asked.cert_duration(wrong)
    with pytest.raises(Misused, match="--tunnel-id"):
        asked.tunnel_id("../../etc", {})
    with pytest.raises(Misused, match="255"):
        asked.tunnel_name("x" * 256, {}, "host")
    assert asked.tunnel_name("", {}, "vm-1") == "mcp-tunnel-vm-1"


def test_a_pod_is_recognised_and_has_a_default_output(tmp_path: Path) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert not asked.in_pod(environment, tmp_path)
    (tmp_path / "token").write_text("t")
    assert asked.in_pod(environment, tmp_path)
    assert not asked.in_pod({"KUBERNETES_SERVICE_HOST": ""}, tmp_path)
    assert asked.output(None, in_pod=True) == "k8s-secret:mcp-tunnel"
    assert asked.output("dir:/data", in_pod=True) == "dir:/data"


def test_unknown_flags_and_outputs_are_misuse(setup: Setup) -> None:
    setup.init("--no-such-flag", expect=2)
    setup.init("-no-such-flag", expect=2)
    for spec in ("tar:/x", "dir:", "/data"):
        assert "neither dir:/path nor k8s-secret:NAME" in setup("init", f"--output={spec}", expect=2)
