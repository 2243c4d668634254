"""`setup renew-cert`: when it renews, when not, and that it needs no network at all."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from qanat.pki.issue import issue_ca, issue_server
from qanat.pki.material import load_certificate, load_pair
from tests.setup.conftest import Setup
from tests.support.pki import DOMAIN, documented_ca, documented_server, now, openssl, serial
from tests.support.requirements import requirement


def with_days_left(setup: Setup, days: int) -> None:
    """Put a server certificate in place that expires in so many days."""
    setup.init()
    files = setup.files()
    ca = load_pair(files["ca.crt"], files["ca.key"])
    made = now() - timedelta(days=90 - days, seconds=-60)
    server = issue_server(ca, setup.text("tunnel-domain"), made, serial())
    (setup.data / "tls.crt").write_bytes(server.certificate_pem)
    (setup.data / "tls.key").write_bytes(server.key_pem)


@requirement("setup:22")
def test_plenty_of_time_left_means_nothing_to_do(setup: Setup) -> None:
    with_days_left(setup, 60)
    before = setup.files()
    printed = setup.renew("--renew-before=720h")
    assert "certificate valid until" in printed
    assert "nothing to do" in printed
    assert setup.files() == before


@requirement("setup:22")
def test_little_time_left_means_a_new_pair(setup: Setup) -> None:
    with_days_left(setup, 20)
    before = setup.files()
    setup.renew("--renew-before=720h")
    after = setup.files()
    assert {name for name in after if after[name] != before[name]} == {"tls.crt", "tls.key"}
    load_pair(after["tls.crt"], after["tls.key"])


def test_without_renew_before_it_always_renews(setup: Setup) -> None:
    setup.init()
    before = setup.files()
    setup.renew()
    assert setup.files()["tls.key"] != before["tls.key"]


def test_a_certificate_for_another_domain_is_renewed_at_once(setup: Setup) -> None:
    setup.init()
    (setup.data / "tunnel-domain").write_text("other.tunnel.example.net")
    setup.renew("--renew-before=720h")
    assert "DNS:*.other.tunnel.example.net" in openssl("x509", "-in", "tls.crt", "-noout", "-text", cwd=setup.data)


@requirement("setup:23")
def test_a_ca_near_its_end_caps_the_certificate(setup: Setup) -> None:
    setup.init()
    ca = issue_ca("short", now(), serial(), lifetime=timedelta(days=10))
    (setup.data / "ca.crt").write_bytes(ca.certificate_pem)
    (setup.data / "ca.key").write_bytes(ca.key_pem)
    assert "warning: shortened, because the CA expires then" in setup.renew()
    renewed = load_certificate((setup.data / "tls.crt").read_bytes())
    assert renewed.not_valid_after_utc == ca.certificate.not_valid_after_utc


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("ca.key", "there is no ca.key"),
        ("ca.crt", "ca.key is there but ca.crt is not"),
        ("tunnel-domain", "--tunnel-domain"),
    ],
)
def test_what_is_missing_is_named(setup: Setup, missing: str, said: str) -> None:
    setup.init()
    (setup.data / missing).unlink()
    assert said in setup.renew(expect=1)


def test_an_expired_ca_renews_nothing(setup: Setup) -> None:
    setup.init()
    ca = issue_ca("old", now() - timedelta(days=9), serial(), lifetime=timedelta(days=3))
    (setup.data / "ca.crt").write_bytes(ca.certificate_pem)
    (setup.data / "ca.key").write_bytes(ca.key_pem)
    assert "the CA expired on" in setup.renew(expect=1)


@pytest.mark.slow
@requirement("setup:20")
def test_a_directory_made_by_hand_is_renewed_and_keeps_its_modes(setup: Setup) -> None:
    documented_ca(setup.data)
    documented_server(setup.data)
    (setup.data / "tls.key").chmod(0o644)
    setup.renew(f"--tunnel-domain={DOMAIN}")
    assert "OK" in openssl("verify", "-CAfile", "ca.crt", "tls.crt", cwd=setup.data)
    assert (setup.data / "tls.key").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("domain", "said"), [("other.example.net", "the tunnel-domain stored is"), ("bad domain", "not a host name")]
)
def test_a_wrong_domain_replaces_nothing(setup: Setup, domain: str, said: str) -> None:
    setup.init()
    before = setup.files()
    if said == "not a host name":
        (setup.data / "tunnel-domain").unlink()
    assert said in setup.renew(f"--tunnel-domain={domain}", expect=1)
    assert setup.files()["tls.crt"] == before["tls.crt"]


def test_a_life_beyond_the_calendar_ends_with_the_ca(setup: Setup) -> None:
    setup.init()
    assert "warning: shortened" in setup.renew("--cert-duration=99999999h")
    leaf, ca = (load_certificate(setup.files()[name]) for name in ("tls.crt", "ca.crt"))
    assert leaf.not_valid_after_utc == ca.not_valid_after_utc
    assert "warning" not in setup.renew("--cert-duration=2160h")


def test_a_ca_without_a_key_identifier_is_refused(setup: Setup) -> None:
    extensions = "[req]\ndistinguished_name=d\n[d]\n[v]\nbasicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=none\n"
    (setup.data / "ca.cnf").write_text(extensions)
    new = ("req", "-config", "ca.cnf", "-extensions", "v", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=own")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.crt", cwd=setup.data)
    printed = setup.renew(f"--tunnel-domain={DOMAIN}", expect=1)
    assert "the CA certificate has no subject key identifier" in printed


@requirement("setup:11")
def test_outside_a_pod_the_output_must_be_named(setup: Setup) -> None:
    assert "--output is required" in setup("init", expect=2)
    assert "--output is required" in setup("renew-cert", expect=2)


@pytest.mark.slow
@requirement("setup:21")
def test_it_works_with_the_network_removed(setup: Setup) -> None:
    setup.init()
    before = setup.files()
    command = [str(Path(sys.executable).with_name("qanat")), "setup", "renew-cert", f"--output=dir:{setup.data}"]
    no_network = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    done = subprocess.run([*no_network, *command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert setup.files()["tls.key"] != before["tls.key"]
    assert "OK" in openssl("verify", "-CAfile", "ca.crt", "tls.crt", cwd=setup.data)
