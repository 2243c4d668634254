"""`setup init` into a directory: what is created, kept, refused, and in how many calls."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from qanat.pki.issue import issue_ca, issue_server
from qanat.pki.judge import judge_server_certificate
from qanat.pki.material import fingerprint, load_certificate, load_pair
from tests.setup.conftest import Setup
from tests.support.pki import now, openssl, serial
from tests.support.requirements import requirement
from tests.support.tunnels_api import API_KEY, AUDIENCE, ORGANIZATION, RULE, Refusal, Request, TunnelsAPI

MODES = {
    "tunnel-id": 0o644,
    "tunnel-domain": 0o644,
    "tunnel-token": 0o600,
    "ca.crt": 0o644,
    "ca.key": 0o600,
    "tls.crt": 0o644,
    "tls.key": 0o600,
}
FEDERATION: dict[str, Any] = {
    "API_TOKEN": "",
    "ANTHROPIC_FEDERATION_RULE_ID": RULE,
    "ANTHROPIC_ORGANIZATION_ID": ORGANIZATION,
}


@requirement("setup:1")
def test_an_empty_directory_gets_the_seven_files(setup: Setup, api: TunnelsAPI) -> None:
    setup.init("--tunnel-name=staging")
    assert api.count()["create"] == 1
    assert set(setup.files()) == {*MODES, ".lock"}
    assert {name: stat.S_IMODE((setup.data / name).stat().st_mode) for name in MODES} == MODES
    ((identity, tunnel),) = api.tunnels.items()
    assert tunnel["display_name"] == "staging"
    assert setup.text("tunnel-id") == identity
    assert setup.text("tunnel-domain") == tunnel["domain"]
    assert setup.text("tunnel-token") == api.tokens[identity]
    ca = load_pair((setup.data / "ca.crt").read_bytes(), (setup.data / "ca.key").read_bytes())
    server = load_pair((setup.data / "tls.crt").read_bytes(), (setup.data / "tls.key").read_bytes())
    assert [record["fingerprint"] for record in api.live(identity)] == [fingerprint(ca.certificate)]
    judge_server_certificate(server.certificate, [ca.certificate], f"tickets.{tunnel['domain']}", now())
    assert "OK" in openssl("verify", "-x509_strict", "-CAfile", "ca.crt", "tls.crt", cwd=setup.data)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_writes_belongs_to_the_directorys_owner(setup: Setup) -> None:
    os.chown(setup.data, 65532, 65532)
    setup.init("--token-version=1")
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in setup.data.iterdir()}
    assert owners == dict.fromkeys([*MODES, "token-version", ".lock"], (65532, 65532))


@requirement("setup:2")
def test_a_second_run_changes_nothing(setup: Setup, api: TunnelsAPI) -> None:
    setup.init()
    before = setup.files()
    api.requests.clear()
    setup.init()
    assert setup.files() == before
    assert api.count() == {"get": 1, "certificates": 1, "reveal": 1}


@requirement("setup:3")
def test_a_given_tunnel_is_used(setup: Setup, api: TunnelsAPI) -> None:
    identity = api.add_tunnel("made in the console")
    setup.init(TUNNEL_ID=identity)
    assert api.count()["create"] == 0
    assert setup.text("tunnel-id") == identity
    assert setup.text("tunnel-domain") == api.tunnels[identity]["domain"]


@requirement("setup:4")
def test_another_tunnel_gets_another_ca(setup: Setup, api: TunnelsAPI) -> None:
    setup.init("--token-version=1")
    before, first = setup.files(), setup.text("tunnel-id")
    other = api.add_tunnel()
    printed = setup.init("--token-version=1", f"--tunnel-id={other}")
    after = setup.files()
    assert first in printed
    assert other in printed
    assert all(after[name] != before[name] for name in MODES)
    assert setup.text("tunnel-domain") == api.tunnels[other]["domain"]
    assert setup.text("tunnel-token") == api.tokens[other]
    assert setup.text("token-version") == "1"
    assert api.count()["rotate"] == 0
    assert len(api.live(other)) == 1


def test_the_same_id_given_again_keeps_the_ca(setup: Setup) -> None:
    setup.init()
    before = setup.files()
    setup.init(TUNNEL_ID=setup.text("tunnel-id"))
    assert setup.files() == before


@requirement("setup:5")
def test_two_used_slots_are_named_and_nothing_is_registered(setup: Setup, api: TunnelsAPI) -> None:
    identity = api.add_tunnel()
    for _ in range(2):
        pem = issue_ca("foreign", now(), serial()).certificate_pem.decode()
        api._register(identity, {"ca_certificate_pem": pem})
    printed = setup.init(TUNNEL_ID=identity, expect=1)
    assert all(record["fingerprint"] in printed for record in api.live(identity))
    assert all(record["expires_at"][:10] in printed for record in api.live(identity))
    assert api.count()["register"] == 0
    assert set(setup.files()) == {".lock"}


@requirement("setup:6")
def test_the_tunnel_limit_is_passed_on(setup: Setup, api: TunnelsAPI) -> None:
    for _ in range(10):
        api.add_tunnel()
    printed = setup.init(expect=1)
    assert "Organization already has the maximum of 10 non-archived Tunnels" in printed
    api.tunnels.popitem()
    setup.init()
    assert len(api.tunnels) == 10


@requirement("setup:8")
def test_the_same_token_version_does_not_rotate(setup: Setup, api: TunnelsAPI) -> None:
    setup.init("--token-version=1")
    assert "token version unchanged, not rotating" in setup.init("--token-version=1")
    assert api.count()["rotate"] == 0
    assert setup.text("token-version") == "1"


@requirement("setup:9")
def test_another_token_version_rotates_once(setup: Setup, api: TunnelsAPI) -> None:
    setup.init("--token-version=1")
    before = setup.text("tunnel-token")
    printed = setup.init("--token-version=2")
    assert api.count()["rotate"] == 1
    assert setup.text("tunnel-token") == api.tokens[setup.text("tunnel-id")] != before
    assert setup.text("token-version") == "2"
    assert "restart the connector" in printed
    setup.init("--token-version=2")
    assert api.count()["rotate"] == 1


def test_a_first_token_version_on_a_stored_token_rotates(setup: Setup, api: TunnelsAPI) -> None:
    setup.init()
    setup.init("--token-version=2")
    assert api.count()["rotate"] == 1


def test_leaving_the_token_version_out_keeps_it(setup: Setup, api: TunnelsAPI) -> None:
    setup.init("--token-version=1")
    setup.init()
    assert setup.text("token-version") == "1"
    assert api.count()["rotate"] == 0


@requirement("setup:10")
def test_a_token_rotated_elsewhere_is_fetched(setup: Setup, api: TunnelsAPI) -> None:
    setup.init("--token-version=1")
    rotated = api.rotate(setup.text("tunnel-id"))
    printed = setup.init("--token-version=1")
    assert setup.text("tunnel-token") == rotated
    assert "rotated elsewhere" in printed
    assert api.count()["rotate"] == 0


@requirement("setup:13")
def test_federation_works_without_a_service_account(setup: Setup, api: TunnelsAPI) -> None:
    setup.init(**FEDERATION, ANTHROPIC_IDENTITY_TOKEN=f"jwt for {AUDIENCE}", ANTHROPIC_WORKSPACE_ID="default")
    exchange = api.requests[0]
    assert exchange.body == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": f"jwt for {AUDIENCE}",
        "federation_rule_id": RULE,
        "organization_id": ORGANIZATION,
        "workspace_id": "default",
    }
    assert "authorization" not in exchange.headers
    assert set(MODES) <= set(setup.files())


def test_the_identity_token_may_be_in_a_file(setup: Setup, tmp_path: Path, api: TunnelsAPI) -> None:
    (tmp_path / "jwt").write_text(f"jwt for {AUDIENCE}\n")
    setup.init(
        **FEDERATION, ANTHROPIC_IDENTITY_TOKEN_FILE=str(tmp_path / "jwt"), ANTHROPIC_SERVICE_ACCOUNT_ID="svac_01abc"
    )
    assert api.requests[0].body["service_account_id"] == "svac_01abc"
    printed = setup.init(**FEDERATION, ANTHROPIC_IDENTITY_TOKEN_FILE="/nowhere/jwt", expect=1)
    assert "open /nowhere/jwt: no such file or directory" in printed


@requirement("setup:14", "setup:15")
def test_a_tunnels_api_key_is_sent_as_it_is(setup: Setup, api: TunnelsAPI) -> None:
    setup.init()
    assert api.count()["exchange"] == 0
    for request in api.requests:
        assert request.headers["authorization"] == f"Bearer {API_KEY}"
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert request.headers["anthropic-beta"] == "mcp-tunnels-2026-06-22"


@requirement("setup:16")
def test_a_wrong_audience_gets_the_hint(setup: Setup) -> None:
    printed = setup.init(**FEDERATION, ANTHROPIC_IDENTITY_TOKEN="jwt for api.example.com", expect=1)
    assert "authentication failed" in printed
    for cause in ("issuer", "audience", "subject", "lifetime", "JWKS", "byte for byte"):
        assert cause in printed


def test_a_revoked_key_is_explained(setup: Setup) -> None:
    printed = setup.init(API_TOKEN="sk-ant-oat01-revoked", expect=1)
    assert "API_TOKEN was refused" in printed
    assert "sk-ant-oat01-revoked" not in printed


def test_a_missing_scope_is_explained(setup: Setup, api: TunnelsAPI) -> None:
    def forbid(request: Request) -> None:
        if request.name != "exchange":
            raise Refusal(403, "permission_error", "not allowed")

    api.before = forbid
    printed = setup.init(**FEDERATION, ANTHROPIC_IDENTITY_TOKEN=f"jwt for {AUDIENCE}", expect=1)
    assert "workspace:manage_tunnels" in printed
    assert "not a member" in printed


def test_an_unknown_tunnel_is_explained(setup: Setup) -> None:
    assert "unknown in this workspace" in setup.init(TUNNEL_ID="tnl_01nobody", expect=1)


def test_an_archived_tunnel_is_refused(setup: Setup, api: TunnelsAPI) -> None:
    setup.init()
    before = setup.files()
    api.tunnels[setup.text("tunnel-id")]["archived_at"] = "2026-08-01T00:00:00Z"
    assert "was archived on 2026-08-01" in setup.init(expect=1)
    assert setup.files() == before


def test_a_ca_that_was_never_registered_is_registered(setup: Setup, api: TunnelsAPI) -> None:
    setup.init()
    before, identity = setup.files(), setup.text("tunnel-id")
    api.certificates[identity].clear()
    setup.init()
    assert setup.files() == before
    assert len(api.live(identity)) == 1


def test_a_revoked_ca_is_replaced_only_on_request(setup: Setup, api: TunnelsAPI) -> None:
    setup.init()
    before, identity = setup.files(), setup.text("tunnel-id")
    api.live(identity)[0]["archived_at"] = "2026-08-01T00:00:00Z"
    printed = setup.init(expect=1)
    assert f"stored CA was revoked on tunnel {identity}; pass --new-ca to replace it" in printed
    assert setup.files() == before
    setup.init("--new-ca")
    stored = load_certificate((setup.data / "ca.crt").read_bytes())
    assert [record["fingerprint"] for record in api.live(identity)] == [fingerprint(stored)]


@pytest.mark.parametrize("spoil", ["expired", "torn", "mixed", "half"])
def test_an_unusable_ca_is_replaced_only_on_request(setup: Setup, spoil: str) -> None:
    setup.init()
    if spoil == "expired":
        ca = issue_ca("old", now() - timedelta(days=9), serial(), lifetime=timedelta(days=3))
        (setup.data / "ca.crt").write_bytes(ca.certificate_pem)
        (setup.data / "ca.key").write_bytes(ca.key_pem)
    elif spoil == "torn":
        (setup.data / "ca.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA")
    elif spoil == "mixed":
        (setup.data / "ca.key").write_bytes(issue_ca("x", now(), serial()).key_pem)
    else:
        (setup.data / "ca.crt").unlink()
    assert "--new-ca" in setup.init(expect=1)
    setup.init("--new-ca")
    assert "OK" in openssl("verify", "-CAfile", "ca.crt", "tls.crt", cwd=setup.data)


def test_a_new_ca_is_registered_beside_the_old(setup: Setup, api: TunnelsAPI) -> None:
    setup.init()
    before, identity = setup.files(), setup.text("tunnel-id")
    old = api.live(identity)[0]
    printed = setup.init("--new-ca")
    after = setup.files()
    assert len(api.live(identity)) == 2
    assert old["id"] in printed
    assert {name for name in after if after[name] != before[name]} == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
    assert old["id"] in setup.init("--new-ca")  # done already: the same advice, nothing else
    assert setup.files() == after
    assert len(api.live(identity)) == 2


def test_a_certificate_near_its_end_is_reissued(setup: Setup) -> None:
    setup.init("--cert-duration=2160h")
    before = setup.files()
    ca = load_pair(before["ca.crt"], before["ca.key"])
    old = issue_server(ca, setup.text("tunnel-domain"), now() - timedelta(days=70), serial())
    (setup.data / "tls.crt").write_bytes(old.certificate_pem)
    (setup.data / "tls.key").write_bytes(old.key_pem)
    assert "expires on" in setup.init()
    assert load_certificate((setup.data / "tls.crt").read_bytes()) != old.certificate


def test_a_short_lived_certificate_is_not_reissued_at_every_run(setup: Setup) -> None:
    setup.init("--cert-duration=24h")
    before = setup.files()
    setup.init("--cert-duration=24h")
    assert setup.files() == before


def test_without_the_ca_key_only_what_needs_it_fails(setup: Setup) -> None:
    setup.init()
    (setup.data / "ca.key").unlink()
    setup.init()
    (setup.data / "tls.crt").unlink()
    assert "no ca.key" in setup.init(expect=1)


@pytest.mark.slow
def test_an_rsa_key_stays_rsa(setup: Setup) -> None:
    setup.init("--key-type=rsa-4096")
    assert "4096 bit" in openssl("x509", "-in", "tls.crt", "-noout", "-text", cwd=setup.data)
    setup.renew()
    assert "4096 bit" in openssl("x509", "-in", "tls.crt", "-noout", "-text", cwd=setup.data)


def test_a_dry_run_changes_nothing(setup: Setup, api: TunnelsAPI) -> None:
    assert "would create a tunnel" in setup.init("--dry-run")
    assert set(setup.files()) == {".lock"}
    setup.init()
    before = setup.files()
    api.requests.clear()
    printed = setup.init("--dry-run", "--new-ca", "--token-version=2")
    assert "would make a new CA and register it" in printed
    assert "would rotate the token" in printed
    assert setup.files() == before
    assert api.count() == {"get": 1, "certificates": 1}


def test_single_dashes_are_understood(setup: Setup, api: TunnelsAPI) -> None:
    setup("init", f"-api-url={api.url}", f"-output=dir:{setup.data}", "-token-version=1", API_URL="")
    assert setup.text("token-version") == "1"


def test_a_directory_that_cannot_be_written_is_explained(setup: Setup) -> None:
    printed = setup("init", "--output=dir:/nowhere/at/all", expect=1)
    assert "open /nowhere/at/all/.lock: no such file or directory" in printed


def test_no_secret_is_ever_printed(setup: Setup) -> None:
    printed = setup.init("--token-version=1") + setup.init("--token-version=2") + setup.init("--new-ca")
    for name in ("tunnel-token", "ca.key", "tls.key"):
        assert setup.text(name).strip() not in printed
    assert API_KEY not in printed
