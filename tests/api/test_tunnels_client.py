"""The client of the Tunnels API over a real socket: paging, what is repeated and what is not, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from qanat.api.http import ATTEMPTS, APIRefused, APIUnreachable, Call, JSONClient, check_base_url, pause
from qanat.api.tunnels import Federation, TunnelsClient, exchange
from qanat.errors import ConfigInvalid
from tests.support.pki import throwaway_ca
from tests.support.tunnels_api import (
    API_KEY,
    AUDIENCE,
    ORGANIZATION,
    RULE,
    JSONHandler,
    Request,
    TunnelsAPI,
    serving,
    tunnels_api,
)

Answer = Callable[[Request], tuple[int, dict[str, Any]] | None]


@contextmanager
def answering(reply: Answer) -> Iterator[str]:
    """A server that answers as told; its base URL."""

    class Handler(JSONHandler):
        def answer(self, request: Request) -> tuple[int, dict[str, Any]] | None:
            return reply(request)

    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


class Pauses:
    """Stands in for sleeping; remembers for how long."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@pytest.fixture
def api() -> Iterator[TunnelsAPI]:
    with tunnels_api() as running:
        yield running


def client(api: TunnelsAPI) -> TunnelsClient:
    return TunnelsClient(api.url, SecretStr(API_KEY))


async def test_every_operation_speaks_the_api(api: TunnelsAPI) -> None:
    async with client(api) as tunnels:
        made = await tunnels.create("staging")
        assert (await tunnels.get(made.id)) == made
        assert [t.id for t in await tunnels.list_tunnels()] == [made.id]
        record = await tunnels.register_certificate(made.id, throwaway_ca().certificate_pem.decode())
        assert await tunnels.list_certificates(made.id) == [record]
        first = await tunnels.reveal_token(made.id)
        second = await tunnels.rotate_token(made.id, "leak")
        assert first.id != second.id
        assert api.requests[-1].body == {"reason": "leak"}
        assert first.tunnel_token.get_secret_value() not in repr(first)
        assert (await tunnels.archive(made.id)).archived_at is not None


async def test_lists_follow_their_pages() -> None:
    pages = {None: (["a", "b"], "page_1"), "page_1": ([], "page_2"), "page_2": (["c"], None)}
    seen: list[dict[str, list[str]]] = []

    def reply(request: Request) -> tuple[int, dict[str, Any]]:
        seen.append(request.query)
        names, following = pages[request.query.get("page", [None])[0]]
        data = [{"id": f"tnl_{n}", "domain": n, "created_at": "2026-08-01T09:30:00.123456Z"} for n in names]
        return 200, {"data": data, "next_page": following}

    with answering(reply) as url:
        async with TunnelsClient(url, SecretStr("k")) as tunnels:
            found = await tunnels.list_tunnels(include_archived=True)
    assert [tunnel.domain for tunnel in found] == ["a", "b", "c"]
    assert all(query["limit"] == ["100"] and query["include_archived"] == ["true"] for query in seen)


@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_harmless_calls_are_repeated(status: int) -> None:
    asked: list[str] = []

    def reply(request: Request) -> tuple[int, dict[str, Any]]:
        asked.append(request.path)
        return (status, {}) if len(asked) < 3 else (200, {"ok": True})

    pauses = Pauses()
    with answering(reply) as url:
        async with JSONClient(url, {}, sleep=pauses) as http:
            assert await http.call(Call("GET", "/x", idempotent=True)) == {"ok": True}
    assert len(asked) == 3
    assert len(pauses.taken) == 2


async def test_repeating_has_an_end() -> None:
    asked: list[str] = []

    def reply(request: Request) -> tuple[int, dict[str, Any]]:
        asked.append(request.path)
        return 503, {"error": {"type": "api_error", "message": "storage down"}}

    with answering(reply) as url:
        async with JSONClient(url, {}, sleep=Pauses()) as http:
            with pytest.raises(APIRefused, match="storage down"):
                await http.call(Call("GET", "/x", idempotent=True))
    assert len(asked) == ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
async def test_refusals_are_not_repeated(status: int) -> None:
    asked: list[str] = []
    error = {"type": "conflict_error", "message": "no", "details": {"error_code": "some_code"}}

    def reply(request: Request) -> tuple[int, dict[str, Any]]:
        asked.append(request.path)
        return status, {"type": "error", "error": error}

    with answering(reply) as url:
        async with JSONClient(url, {}, sleep=Pauses()) as http:
            with pytest.raises(APIRefused) as refused:
                await http.call(Call("GET", "/x", idempotent=True))
    assert len(asked) == 1
    assert (refused.value.http_status, refused.value.error_code) == (status, "some_code")
    assert "req_01test" in str(refused.value)


async def test_creating_is_tried_once_and_a_lost_answer_says_so(api: TunnelsAPI) -> None:
    api.after = lambda _: False
    async with client(api) as tunnels:
        with pytest.raises(APIUnreachable) as lost:
            await tunnels.create()
    assert lost.value.sent
    assert len(api.requests) == 1


async def test_a_server_that_is_not_there_was_sent_nothing() -> None:
    async with JSONClient("http://127.0.0.1:1", {}) as http:
        with pytest.raises(APIUnreachable) as unreachable:
            await http.call(Call("POST", "/x", {}))
    assert not unreachable.value.sent


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((307, {}), "redirect"),
        ((200, []), "not a JSON object"),
        ((200, {"x": "y" * 1024 * 1024}), "larger than 1 MiB"),
        ((418, {}), "HTTP 418 without an explanation"),
        ((400, {"error": "text"}), "HTTP 400 without an explanation"),
    ],
)
async def test_strange_answers_are_refused(answer: tuple[int, Any], said: str) -> None:
    with answering(lambda _: answer) as url:
        async with JSONClient(url, {}) as http:
            with pytest.raises((APIRefused, APIUnreachable), match=said):
                await http.call(Call("POST", "/x", {}))


async def test_an_object_of_the_wrong_shape_is_refused() -> None:
    with answering(lambda _: (200, {"id": 5})) as url:
        async with TunnelsClient(url, SecretStr("k")) as tunnels:
            with pytest.raises(APIUnreachable, match="no Tunnel: id, domain, created_at"):
                await tunnels.create()


async def test_the_exchange_yields_a_bearer_token(api: TunnelsAPI) -> None:
    found = await exchange(api.url, Federation(RULE, ORGANIZATION, SecretStr(f"jwt for {AUDIENCE}")))
    assert found.access_token.get_secret_value() in api.keys
    assert api.requests[0].headers["anthropic-beta"] == "oauth-2025-04-20,oidc-federation-2026-04-01"


async def test_a_token_of_another_kind_is_refused() -> None:
    mac = {"access_token": "x", "token_type": "mac", "expires_in": 60}
    with answering(lambda _: (200, mac)) as url, pytest.raises(APIUnreachable, match="'mac' token"):
        await exchange(url, Federation(RULE, ORGANIZATION, SecretStr("j")))


def test_pauses_grow_and_obey_the_server() -> None:
    assert 0.25 <= pause(0, None) <= 0.5
    assert 4.0 <= pause(9, None) <= 8.0
    assert pause(0, "7") == 7.0
    assert pause(0, "86400") == 60.0
    assert pause(0, "Wed, 21 Oct 2026 07:28:00 GMT") <= 0.5


def test_a_base_url_is_https_or_loopback() -> None:
    assert check_base_url("https://api.example.com/") == "https://api.example.com"
    assert check_base_url("http://[::1]:8080") == "http://[::1]:8080"
    with pytest.raises(ConfigInvalid, match="loopback"):
        check_base_url("http://10.0.0.1")


def test_a_wrong_trust_file_is_named() -> None:
    with pytest.raises(ConfigInvalid, match="ca-file: /nowhere"):
        TunnelsClient("https://api.example.com", SecretStr("k"), trust=Path("/nowhere/ca.pem"))
