"""No address is dialled that was not judged: a trap listens where nobody may knock."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.proxy.dial import Families, Resolver, look_up
from qanat.proxy.errors import ResolutionFailed
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.proxy import (
    LOOPBACK,
    Answer,
    TestPKI,
    UpstreamPeer,
    proxy_running,
    upstream_running,
    write_pair,
)
from tests.support.requirements import requirement

HOST = "Host: echo.t.example"


class Trap:
    """Listens on loopback and counts who comes."""

    port = 0
    visitors = 0


@asynccontextmanager
async def trap_set() -> AsyncIterator[Trap]:
    trap = Trap()

    class Visitor(Receiver):
        def connection_made(self, transport: Transport) -> None:
            trap.visitors += 1

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: as_protocol(Visitor()), "127.0.0.1", 0)
    trap.port = server.sockets[0].getsockname()[1]
    other = await loop.create_server(lambda: as_protocol(Visitor()), "::1", trap.port)
    try:
        yield trap
    finally:
        server.close()
        other.close()


class Names:
    """A resolver with given answers, one after the other; the last one stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked = 0
        self.families: Families = ()

    async def __call__(self, name: str, families: Families) -> list[str]:
        self.asked += 1
        self.families = families
        answers = self.answers.get(name)
        if not answers:
            raise OSError("Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def ask(
    pki: TestPKI, url: str, lookup: Names | None = None, upstream: Any = None, times: int = 1
) -> list[Answer]:
    route = {"upstream": url, "timeouts": {"connect": "300ms"}}
    async with proxy_running(pki, {"echo": route}, lookup=lookup, upstream=upstream or {}) as end:
        inner = await end.connect()
        return [await inner.ask(f"GET / HTTP/1.1\n{HOST}") for _ in range(times)]


def type_of(answer: Answer) -> str:
    kind: str = json.loads(answer.body)["error"]["data"]["type"]
    return kind


@requirement("proxy:13")
@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.169.254", "169.254.1.1", "100.64.0.1", "::ffff:127.0.0.1", "::1",
    "2130706433", "0177.0.0.1", "127.1", "224.0.0.1", "255.255.255.255", "8.8.8.8", "192.0.2.1", "fe80::1",
])  # fmt: skip
async def test_a_name_that_resolves_to_a_forbidden_address_is_never_dialled(
    pki: TestPKI, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with trap_set() as trap:
        answers = await ask(pki, f"http://tickets.corp:{trap.port}", Names(tickets_corp=[[address]]))
        assert trap.visitors == 0
    assert [answer.status for answer in answers] == [502]
    assert type_of(answers[0]) == "upstream_ip_denied"
    assert address.encode() not in answers[0].body
    assert f"IP validation failed: {address} is not a private address" in [r.getMessage() for r in caplog.records]


@requirement("proxy:13")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::]"])
async def test_an_upstream_written_as_a_forbidden_number_is_never_dialled(pki: TestPKI, host: str) -> None:
    async with trap_set() as trap:
        answers = await ask(pki, f"http://{host}:{trap.port}")
        assert trap.visitors == 0
    assert type_of(answers[0]) == "upstream_ip_denied"


@requirement("proxy:14")
async def test_a_custom_list_replaces_the_private_networks(pki: TestPKI) -> None:
    answers = await ask(pki, "http://10.0.0.1:1", upstream=LOOPBACK)
    assert type_of(answers[0]) == "upstream_ip_denied"


@requirement("proxy:16")
async def test_allowing_the_whole_internet_does_not_open_the_metadata_service(pki: TestPKI) -> None:
    answers = await ask(pki, "http://169.254.169.254:80", upstream={"allowed_ips": ["0.0.0.0/0"]})
    assert type_of(answers[0]) == "upstream_ip_denied"


@requirement("proxy:15")
async def test_a_name_that_changes_its_mind_is_judged_anew_and_the_new_address_is_not_dialled(pki: TestPKI) -> None:
    async with trap_set() as trap:
        names = Names(tickets_corp=[["10.255.255.1"], ["127.0.0.1"]])
        answers = await ask(pki, f"http://tickets.corp:{trap.port}", names, times=2)
        assert trap.visitors == 0
        assert names.asked == 2
    assert type_of(answers[0]) != "upstream_ip_denied"  # it was dialled, in vain
    assert type_of(answers[1]) == "upstream_ip_denied"


@requirement("proxy:15")
async def test_of_several_addresses_only_a_permitted_one_is_dialled(pki: TestPKI) -> None:
    async with trap_set() as trap:
        names = Names(tickets_corp=[["::1", "127.0.0.1", "127.0.0.9"]])
        answers = await ask(pki, f"http://tickets.corp:{trap.port}", names, {"allowed_ips": ["127.0.0.9/32"]})
        assert trap.visitors == 0
    assert type_of(answers[0]) == "upstream_connect"  # nobody listens on 127.0.0.9


BOTH: dict[str, Any] = {"ip_families": ["ipv6", "ipv4"], "allowed_ips": ["127.0.0.0/8", "::1"]}


@pytest.mark.parametrize("families", [["ipv4"], ["ipv6", "ipv4"]])
async def test_names_are_looked_up_for_the_families_of_the_file(pki: TestPKI, families: list[str]) -> None:
    names = Names(tickets_corp=[["127.0.0.1"]])
    await ask(pki, "http://tickets.corp:1", names, {"ip_families": families})
    assert names.families == tuple(families)


@pytest.mark.parametrize("host", ["tickets.corp", "[::1]", "[0:0:0:0:0:0:0:1]"])
async def test_an_ipv6_upstream_answers(pki: TestPKI, host: str) -> None:
    async with upstream_running(host="::1") as upstream:
        answers = await ask(pki, f"http://{host}:{upstream.port}", Names(tickets_corp=[["::1"]]), BOTH)
        assert [answer.status for answer in answers] == [200]
        assert upstream.connections == 1


async def test_a_mapped_address_is_dialled_as_the_ipv4_address_it_is(pki: TestPKI) -> None:
    async with upstream_running() as upstream:
        answers = await ask(pki, f"http://[::ffff:127.0.0.1]:{upstream.port}", upstream=LOOPBACK)
        assert [answer.status for answer in answers] == [200]


@pytest.mark.parametrize(("host", "addresses"), [
    ("127.0.0.1", ["::1", "127.0.0.1"]),
    ("127.0.0.1", ["fd00::1", "::1", "127.0.0.1"]),
    ("::1", ["127.0.0.1", "::1"]),
])  # fmt: skip
async def test_where_one_family_does_not_answer_the_other_one_is_tried(
    pki: TestPKI, host: str, addresses: list[str]
) -> None:
    async with upstream_running(host=host) as upstream:
        answers = await ask(pki, f"http://tickets.corp:{upstream.port}", Names(tickets_corp=[addresses]), BOTH)
        assert [answer.status for answer in answers] == [200]


async def test_where_neither_answers_the_caller_hears_it_once(pki: TestPKI, caplog: pytest.LogCaptureFixture) -> None:
    async with trap_set() as trap:
        port = trap.port
    answers = await ask(pki, f"http://tickets.corp:{port}", Names(tickets_corp=[["127.0.0.1", "::1"]]), BOTH)
    assert (answers[0].status, type_of(answers[0])) == (502, "upstream_connect")
    logged = [vars(record).get("fields", {}).get("error") for record in caplog.records]
    assert f"dial tcp [::1]:{port}: connect: connection refused" in logged


def test_the_systems_resolver_gives_the_preferred_family_first() -> None:
    assert look_up("localhost", ("ipv4",)) == ["127.0.0.1"]
    for families in (("ipv4", "ipv6"), ("ipv6", "ipv4")):
        found = look_up("localhost", families)  # what /etc/hosts has: perhaps no IPv6 address
        kinds = ["ipv6" if ":" in address else "ipv4" for address in found]
        assert kinds == sorted(kinds, key=families.index)
        assert "127.0.0.1" in found


async def test_redirects_are_handed_back_and_never_followed(pki: TestPKI) -> None:
    async with trap_set() as trap:

        async def script(peer: UpstreamPeer) -> None:
            await peer.request()
            peer.answer(b"", f"Location: http://127.0.0.1:{trap.port}/latest/meta-data", status="302 Found")

        async with upstream_running(script) as upstream:
            answers = await ask(pki, upstream.url, upstream=LOOPBACK)
        assert answers[0].status == 302
        assert trap.visitors == 0


async def test_proxies_in_the_environment_are_ignored(pki: TestPKI, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trap_set() as trap, upstream_running() as upstream:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
        answers = await ask(pki, upstream.url, upstream=LOOPBACK)
        assert answers[0].status == 200
        assert trap.visitors == 0


async def test_a_route_may_narrow_the_list(pki: TestPKI) -> None:
    async with trap_set() as trap:
        route = {"upstream": f"http://127.0.0.1:{trap.port}", "allowed_ips": ["127.0.0.9/32"]}
        async with proxy_running(pki, {"echo": route}) as end:
            answer = await (await end.connect()).ask(f"GET / HTTP/1.1\n{HOST}")
        assert type_of(answer) == "upstream_ip_denied"
        assert trap.visitors == 0


async def test_names_and_connections_that_fail_are_told_apart(pki: TestPKI, caplog: pytest.LogCaptureFixture) -> None:
    answers = await ask(pki, "http://nowhere.corp:1", Names(), times=2)
    assert [(answer.status, type_of(answer)) for answer in answers] == [(502, "upstream_dns")] * 2
    async with trap_set() as trap:
        port = trap.port
    answers = await ask(pki, f"http://127.0.0.1:{port}", upstream=LOOPBACK)
    assert (answers[0].status, type_of(answers[0])) == (502, "upstream_connect")
    logged = [vars(record).get("fields", {}).get("error") for record in caplog.records]
    assert f"dial tcp 127.0.0.1:{port}: connect: connection refused" in logged


async def test_those_who_ask_at_once_share_a_lookup_and_a_failure_is_remembered() -> None:
    names = Names(a=[["10.0.0.1"]])
    resolver = Resolver(names)
    assert await asyncio.gather(*[resolver.resolve("a") for _ in range(50)]) == [["10.0.0.1"]] * 50
    assert names.asked == 1
    for _ in range(3):
        with pytest.raises(ResolutionFailed):
            await resolver.resolve("b")
    assert names.asked == 2
    await resolver.close()


@pytest.fixture(scope="module")
def tls_upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's context for `*.corp.example`, and the file of the CA that signed it."""
    folder = tmp_path_factory.mktemp("upstream")
    ca = throwaway_ca()
    write_pair(throwaway_server(ca, "corp.example"), folder / "crt", folder / "key")
    (folder / "ca").write_bytes(ca.certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return context, str(folder / "ca")


@requirement("proxy:17", "proxy:18")
async def test_an_https_upstream_must_be_trusted_and_have_the_right_name(
    pki: TestPKI, tls_upstream: tuple[ssl.SSLContext, str]
) -> None:
    context, ca_file = tls_upstream
    names = Names(wiki_corp_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])
    trusting = {**LOOPBACK, "tls": {"ca_file": ca_file}}
    async with upstream_running(context=context) as upstream:
        good = f"https://wiki.corp.example:{upstream.port}"
        answers = await ask(pki, good, names, trusting, times=3)
        assert [answer.status for answer in answers] == [200] * 3
        assert upstream.connections == 1
        for url, policy in (
            (good, LOOPBACK),
            (f"https://other.example:{upstream.port}", trusting),
            (f"https://127.0.0.1:{upstream.port}", trusting),
        ):
            refused = (await ask(pki, url, names, policy))[0]
            assert (refused.status, type_of(refused)) == (502, "upstream_tls")
        route = {"upstream": f"https://127.0.0.1:{upstream.port}", "tls": {"server_name": "wiki.corp.example"}}
        async with proxy_running(pki, {"echo": route}, upstream=trusting) as end:
            assert (await (await end.connect()).ask(f"GET / HTTP/1.1\n{HOST}")).status == 200
