"""Fetching from an authorization server: a connection serves no other name than the one it was verified for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qanat.proxy.guard import AddressGuard
from qanat.proxy.policy.fetch import Fetcher, FetchFailed
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.proxy import UpstreamPeer, upstream_running, write_pair

TRUSTED, UNTRUSTED = "sso.one.example", "keys.two.example"


async def resolve(name: str) -> list[str]:
    return ["127.0.0.1"]


async def say_host(peer: UpstreamPeer) -> None:
    while True:
        request = await peer.request()
        peer.answer(request.all("host")[0].encode())


@asynccontextmanager
async def two_names(folder: Path) -> AsyncIterator[tuple[Fetcher, int]]:
    """A fetcher that trusts one of two names, and the port of both."""
    good, bad = throwaway_ca("good"), throwaway_ca("bad")
    contexts = {}
    for name, ca in ((TRUSTED, good), (UNTRUSTED, bad)):
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        write_pair(throwaway_server(ca, name), certificate, key)
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        contexts[name].load_cert_chain(certificate, key)

    def choose(tls: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        tls.context = contexts[name]

    contexts[TRUSTED].sni_callback = choose
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(cadata=good.certificate_pem.decode())
    fetcher = Fetcher(resolve, AddressGuard(None), True, trust)
    async with upstream_running(say_host, contexts[TRUSTED]) as upstream:
        try:
            yield fetcher, upstream.port
        finally:
            await fetcher.close()


async def test_a_name_is_verified_though_another_one_has_a_connection_to_the_same_address(tmp_path: Path) -> None:
    async with two_names(tmp_path) as (fetcher, port):
        trusted, untrusted = f"https://{TRUSTED}:{port}/", f"https://{UNTRUSTED}:{port}/"
        for _ in range(2):
            assert await fetcher.get(trusted) == f"{TRUSTED}:{port}".encode()
            with pytest.raises(FetchFailed, match=UNTRUSTED):
                await fetcher.get(untrusted)


async def test_that_holds_among_many_at_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qanat.proxy.policy.fetch.MAX_CONNECTIONS", 2)  # so that most have to wait for another's end
    async with two_names(tmp_path) as (fetcher, port):
        names = [TRUSTED, UNTRUSTED, TRUSTED] * 5
        asked = [fetcher.get(f"https://{name}:{port}/") for name in names]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(answer, FetchFailed) for answer in answers] == [name == UNTRUSTED for name in names]
