"""The command-line client for people and scripts, against a real control plane."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from qanat.cli import certificates, issuers, keys, rules, service_accounts, tunnels
from qanat.cli.api_session import hoist
from tests.control.test_certificates import make_ca
from tests.support.control import Tenant
from tests.support.federation import INLINE, ISSUER

pytestmark = pytest.mark.slow

Run = Callable[..., Result]


@pytest.fixture
def run(tenant: Tenant, tmp_path: Path) -> Run:
    token = tmp_path / "token"
    token.write_text(tenant.operator + "\n")

    def invoke(app: Any, *arguments: str, code: int = 0) -> Result:
        given = hoist([*arguments, "--api-url", tenant.url, "--token-file", str(token)])
        result = CliRunner().invoke(app, given)
        assert result.exit_code == code, result.output
        return result

    return invoke


def read(result: Result) -> Any:
    return json.loads(result.stdout)


def test_tunnels_from_create_to_archive(run: Run) -> None:
    made = read(run(tunnels.app, "create", "staging", "--json"))
    table = run(tunnels.app, "list").stdout.splitlines()
    assert table[0].split() == ["ID", "DISPLAY_NAME", "DOMAIN", "CREATED_AT", "ARCHIVED_AT"]
    assert table[1].split()[:3] == [made["id"], "staging", made["domain"]]
    assert made["domain"] in run(tunnels.app, "show", made["id"]).stdout
    token = read(run(tunnels.app, "--json", "reveal-token", made["id"]))
    assert token["id"] in run(tunnels.app, "reveal-token", made["id"]).stdout
    assert read(run(tunnels.app, "rotate-token", made["id"], "--reason", "x", "--json"))["id"] != token["id"]
    run(tunnels.app, "archive", made["id"], code=1)  # nobody answered the question
    assert read(run(tunnels.app, "archive", made["id"], "--yes", "--json"))["archived_at"] is not None
    assert read(run(tunnels.app, "list", "--json")) == []
    assert len(read(run(tunnels.app, "list", "--all", "--json"))) == 1


def test_certificates_are_added_from_a_file(run: Run, tmp_path: Path) -> None:
    tunnel = read(run(tunnels.app, "create", "--json"))["id"]
    file = tmp_path / "ca.crt"
    file.write_text(make_ca())
    made = read(run(certificates.app, "add", tunnel, str(file), "--json"))
    assert made["fingerprint"] in run(certificates.app, "list", tunnel).stdout
    assert read(run(certificates.app, "show", tunnel, made["id"], "--json")) == made
    run(certificates.app, "archive", tunnel, made["id"], "--yes")
    run(certificates.app, "add", tunnel, str(tmp_path / "missing"), code=2)


def test_federation_from_issuer_to_rule(run: Run, tenant: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": INLINE["keys"]}))
    issuer = read(run(issuers.app, "create", "k8s", ISSUER, "--jwks-file", str(file), "--no-check-jti", "--json"))
    assert (issuer["check_jti"], len(issuer["jwks"]["keys"])) == (False, 2)
    account = read(run(service_accounts.app, "create", "setup", "--json"))["id"]
    run(service_accounts.app, "join", account, tenant.new_workspace())
    assert "yes" in run(service_accounts.app, "workspaces", account).stdout
    options = ["--issuer", issuer["id"], "--service-account", account, "--workspace", tenant.workspace_id]
    made = read(run(rules.app, "create", "setup", *options, "--subject", "ci", "--claim", "env=prod", "--json"))
    assert made["match"]["claims"] == {"env": "prod"}
    assert tenant.workspace_id in run(rules.app, "workspaces", made["id"]).stdout
    assert "setup" in run(rules.app, "list", "--issuer", issuer["id"]).stdout
    run(issuers.app, "archive", issuer["id"], "--yes", code=1)
    run(rules.app, "archive", made["id"], "--yes")
    run(issuers.app, "archive", issuer["id"], "--yes")
    run(service_accounts.app, "archive", account, "--yes")
    run(rules.app, "create", "x", *options, "--claim", "nonsense", code=2)
    run(issuers.app, "create", "x", ISSUER, "--jwks-url", "https://a", "--discovery-base", "https://b", code=2)


def test_keys_are_shown_once(run: Run) -> None:
    made = read(run(keys.app, "create", "app", "--json"))
    assert made["key"].startswith("sk-ant-api03-")
    assert made["key"] not in run(keys.app, "list").stdout
    assert read(run(keys.app, "set-status", made["id"], "inactive", "--json"))["status"] == "inactive"
    token = read(run(keys.app, "create-tunnels-key", "setup", "--json"))
    assert token["id"] in run(keys.app, "tokens").stdout
    assert read(run(keys.app, "revoke", token["id"], "--yes", "--json"))["revoked_at"] is not None


def test_a_refusal_is_one_line_and_exit_1(run: Run) -> None:
    refused = run(tunnels.app, "show", "tnl_01unknown", code=1)
    assert refused.stdout == ""
    assert refused.stderr.startswith("tunnel not found [404 not_found_error]")


def test_without_a_credential_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QANAT_TOKEN", "ANTHROPIC_AUTH_TOKEN", "API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(tunnels.app, ["list"])
    assert result.exit_code == 2
    assert "QANAT_TOKEN" in result.stderr
