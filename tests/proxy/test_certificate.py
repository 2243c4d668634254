"""Inner TLS: what is agreed on, what is logged, and how certificates are taken up while running."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from os import environ
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from qanat.errors import ConfigInvalid
from qanat.net.errors import TLSFailed
from qanat.proxy import reload
from qanat.proxy.certificate import load_certificate
from qanat.proxy.reload import CertificateWatch
from tests.support.pki import documented_ca, documented_server, throwaway_ca, throwaway_server
from tests.support.proxy import (
    DOMAIN,
    WAIT,
    TestPKI,
    TunnelEnd,
    UpstreamPeer,
    make_pki,
    proxy_running,
    until,
    upstream_running,
    write_pair,
)
from tests.support.requirements import requirement

NOWHERE = {"echo": "http://10.0.0.1:1"}
FAST = 0.01
"""Seconds between two looks at the certificate."""


async def serial_shown(end: TunnelEnd) -> int:
    inner = await end.connect()
    der = inner.tls.get_extra_info("peercert_der")
    inner.abort()
    return x509.load_der_x509_certificate(der).serial_number


async def until_serial_changes(end: TunnelEnd, old: int) -> int:
    async with asyncio.timeout(WAIT):
        while (serial := await serial_shown(end)) == old:
            pass
    return serial


def messages(caplog: pytest.LogCaptureFixture, phrase: str) -> list[dict[str, object]]:
    return [vars(record)["fields"] for record in caplog.records if record.getMessage() == phrase]


@requirement("proxy:25")
async def test_a_caller_that_trusts_another_ca_is_logged_with_its_alert(
    pki: TestPKI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_pki(tmp_path)
    async with proxy_running(pki, NOWHERE) as end:
        with pytest.raises(TLSFailed):
            await end.connect(context=other.context())
        await until(lambda: bool(messages(caplog, "tls handshake failed")))
        assert end.proxy.metrics.handshakes.labels("failed")._value.get() == 1
    assert messages(caplog, "tls handshake failed")[0]["error"] == "unknown certificate authority"


@pytest.mark.parametrize(("version", "accepted"), [
    (ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True),
])  # fmt: skip
async def test_only_current_versions_of_tls_are_spoken(pki: TestPKI, version: ssl.TLSVersion, accepted: bool) -> None:
    context = pki.context("http/1.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # naming an old version is deprecated, and the point
        context.minimum_version = version
        context.maximum_version = version
    async with proxy_running(pki, NOWHERE) as end:
        if accepted:
            inner = await end.connect(context=context)
            assert inner.tls.get_extra_info("alpn_protocol") == "http/1.1"
        else:
            with pytest.raises(TLSFailed):
                await end.connect(context=context)


async def test_tls_1_2_offers_only_forward_secret_aead_suites(pki: TestPKI) -> None:
    context = pki.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:AES128-GCM-SHA256")
    async with proxy_running(pki, NOWHERE) as end:
        with pytest.raises(TLSFailed):
            await end.connect(context=context)


@pytest.mark.parametrize(("offered", "agreed"), [
    (["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None),
])  # fmt: skip
async def test_h2_is_preferred_and_no_alpn_means_http_1_1(pki: TestPKI, offered: list[str], agreed: str | None) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect(*offered)
        assert inner.tls.get_extra_info("alpn_protocol") == agreed
        if agreed != "h2":
            assert (await inner.ask(f"GET / HTTP/1.1\nHost: echo.{DOMAIN}")).status == 200


async def test_a_client_that_offers_only_unknown_protocols_hears_so(
    pki: TestPKI, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy_running(pki, NOWHERE) as end:
        with pytest.raises(TLSFailed) as failed:
            await end.connect("spdy/3", "imap")
        assert failed.value.reason == "no application protocol"
        assert end.proxy.websockets == 0
    assert messages(caplog, "tls handshake failed")[0]["error"] == "no application protocol"


async def test_a_name_the_certificate_does_not_cover_is_left_to_the_client(pki: TestPKI) -> None:
    context = pki.context()
    context.check_hostname = False
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect(sni="elsewhere.example", context=context)
        assert (await inner.ask(f"GET / HTTP/1.1\nHost: echo.{DOMAIN}")).status == 421


async def test_files_of_the_documented_openssl_recipe_work(tmp_path: Path, pki: TestPKI) -> None:
    documented_ca(tmp_path)
    documented_server(tmp_path, DOMAIN)
    context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    tls = {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}, tls=tls) as end:
        inner = await end.connect(context=context)
        assert (await inner.ask(f"GET / HTTP/1.1\nHost: echo.{DOMAIN}")).status == 200


@requirement("proxy:19")
async def test_a_renewed_certificate_is_shown_without_a_restart_and_open_streams_live_on(own_pki: TestPKI) -> None:
    go_on = asyncio.Event()

    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbe")
        await go_on.wait()
        peer.send("gun")
        await peer.head()

    async with (
        upstream_running(script) as upstream,
        proxy_running(own_pki, {"echo": upstream.url}, certificate_interval=FAST) as end,
    ):
        inner = await end.connect()
        inner.send(f"GET / HTTP/1.1\nHost: echo.{DOMAIN}")
        assert (await inner.head()).status == 200
        old = await serial_shown(end)
        own_pki.renew()
        assert await until_serial_changes(end, old) != old
        go_on.set()
        body = b"".join([getattr(event, "data", b"") async for event in inner.rest()])
        assert body == b"begun"


@requirement("proxy:20")
async def test_a_mismatched_pair_changes_nothing_and_is_logged_once(
    own_pki: TestPKI, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy_running(own_pki, NOWHERE) as end:
        old = end.proxy.certificate
        watch = CertificateWatch(end.proxy, 0.0)
        own_pki.cert_file.write_bytes(throwaway_server(throwaway_ca(), DOMAIN).certificate_pem)
        for now in (10.0, 20.0, 30.0):
            watch.look(now)
        assert end.proxy.certificate is old
        failures = messages(caplog, "certificate reload failed")
        assert [failure["error"] for failure in failures] == ["tls: private key does not match public key"]
        own_pki.key_file.unlink()
        watch.look(90.0)
        assert "no such file or directory" in str(messages(caplog, "certificate reload failed")[1]["error"])
        own_pki.renew()
        watch.look(100.0)
        assert end.proxy.certificate.serial != old.serial


async def test_whatever_fails_at_a_look_the_next_pair_is_taken_up(
    own_pki: TestPKI, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy_running(own_pki, NOWHERE) as end:
        old = end.proxy.certificate
        watch = CertificateWatch(end.proxy, 0.0)
        own_pki.renew()
        with monkeypatch.context() as broken:
            broken.setattr(reload, "load_certificate", lambda cert, key: environ["secret"])
            watch.look(100.0)
        assert [failure["error"] for failure in messages(caplog, "certificate reload failed")] == [
            "internal error: KeyError"
        ]
        assert end.proxy.certificate is old
        watch.look(110.0)
        assert end.proxy.certificate.serial != old.serial


def test_names_that_cannot_be_read_are_a_problem_of_the_file(own_pki: TestPKI) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    begin = datetime.now(UTC)
    name = "münchen.example".encode("latin-1")  # openssl makes such ones
    names = bytes([0x30, len(name) + 2, 0x82, len(name)]) + name
    builder = x509.CertificateBuilder(who, who, key.public_key(), 5, begin, begin + timedelta(days=30))
    odd = x509.UnrecognizedExtension(x509.oid.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names)
    certificate = builder.add_extension(odd, critical=False).sign(key, hashes.SHA256())
    own_pki.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    own_pki.key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(ConfigInvalid, match="alternative names cannot be read"):
        load_certificate(own_pki.cert_file, own_pki.key_file)


def test_a_key_that_goes_while_it_is_loaded_is_a_problem_of_the_file(
    own_pki: TestPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(self: ssl.SSLContext, *_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", vanish)
    with pytest.raises(ConfigInvalid, match="changed while they were read"):
        load_certificate(own_pki.cert_file, own_pki.key_file)


@requirement("proxy:21")
async def test_a_pair_swapped_by_symbolic_link_is_taken_up(tmp_path: Path) -> None:
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
    first, second = make_pki(tmp_path / "..1"), make_pki(tmp_path / "..2")
    (tmp_path / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    linked = TestPKI(first.ca, tmp_path / "tls.crt", tmp_path / "tls.key")
    write_pair(throwaway_server(first.ca, DOMAIN), second.cert_file, second.key_file)
    async with proxy_running(linked, NOWHERE, certificate_interval=FAST) as end:
        old = await serial_shown(end)
        (tmp_path / "..tmp").symlink_to("..2")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        await until_serial_changes(end, old)


async def test_a_certificate_that_ends_soon_is_logged_daily_and_then_hourly(
    own_pki: TestPKI, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy_running(own_pki, NOWHERE) as end:
        watch = CertificateWatch(end.proxy, 0.0)
        watch.look(1.0)
        assert messages(caplog, "certificate expires soon") == []
        object.__setattr__(end.proxy.certificate, "not_after", end.proxy.certificate.not_after.replace(year=2000))
        for hour in range(20):
            watch.look(hour * 3600.0 + 2.0)
        assert len(messages(caplog, "certificate expires soon")) == 20
        assert not end.proxy.ready


@pytest.mark.parametrize(("cert", "key", "problem"), [
    (None, "good", "open {cert}: no such file or directory"), ("good", None, "open {key}: no such file or directory"),
    (b"x", "good", "tls.cert_file: {cert}: no PEM certificate found"),
    ("good", b"x", "tls.key_file: {key}: no PEM private key found"),
    ("good", "other", "tls: private key does not match public key"),
])  # fmt: skip
def test_files_that_cannot_be_used_are_named(
    own_pki: TestPKI, cert: bytes | str | None, key: bytes | str | None, problem: str
) -> None:
    for given, path in ((cert, own_pki.cert_file), (key, own_pki.key_file)):
        if given is None:
            path.unlink()
        elif given == "other":
            path.write_bytes(throwaway_server(own_pki.ca, DOMAIN).key_pem)
        elif isinstance(given, bytes):
            path.write_bytes(given)
    with pytest.raises(ConfigInvalid) as invalid:
        load_certificate(own_pki.cert_file, own_pki.key_file)
    assert invalid.value.problems == [problem.format(cert=own_pki.cert_file, key=own_pki.key_file)]
