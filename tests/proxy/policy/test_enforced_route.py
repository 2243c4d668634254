"""A route with sign-in, through the whole proxy: who gets in, what the upstream sees, what everybody else is told."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from mcp.shared.auth_utils import check_resource_allowed

from qanat.net.http1 import BodyReceived, MessageEnded
from qanat.proxy.policy import auth, keys
from qanat.proxy.policy.route_policy import RoutePolicy
from qanat.proxy.proxy import Proxy
from tests.proxy.policy.test_token import BAD_TOKENS
from tests.support.issuer import Issuer, issuer_running, lookup
from tests.support.oidc_provider import oidc_provider
from tests.support.proxy import Answer, Inner, Upstream, UpstreamPeer, echo, make_pki, proxy_running, upstream_running
from tests.support.requirements import requirement

PRM = "/.well-known/oauth-protected-resource"
AS_METADATA = "/.well-known/oauth-authorization-server"


@dataclass
class Place:
    """A proxy with one enforced route `wiki`."""

    issuer: Issuer
    upstream: Upstream
    inner: Inner
    proxy: Proxy

    async def get(self, path: str = "/mcp", method: str = "GET", **headers: str) -> Answer:
        lines = "\n".join(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())
        return await self.inner.ask(f"{method} {path} HTTP/1.1\nHost: wiki.t.example\n{lines}".rstrip())

    async def post(self, message: Any, **headers: str) -> Answer:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        lines = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in headers.items())
        head = f"POST /mcp HTTP/1.1\nHost: wiki.t.example\nContent-Length: {len(body)}\n{lines}"
        return await self.inner.ask(head, body)

    async def call(self, tool: str, token: str) -> Answer:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
        return await self.post(message, Authorization=f"Bearer {token}")


class Places:
    """Opens enforced routes with whatever options a test wants."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder

    async def open(self, script: Any = echo, **options: Any) -> Place:
        enter = self._stack.enter_async_context
        issuer = await enter(issuer_running(self._folder))
        upstream = await enter(upstream_running(script))
        pki = make_pki(self._folder)
        auth: dict[str, Any] = {"mode": "oauth", "authorization_servers": [issuer.url], "ca_file": str(issuer.ca_file)}
        auth |= {"required_scopes": ["wiki.read"], **options.pop("auth", {})}
        auth = {name: value(issuer) if callable(value) else value for name, value in auth.items()}
        route = {"upstream": upstream.url, "paths": ["/mcp"]}
        end = await enter(proxy_running(pki, {"wiki": {**route, "auth": auth, **options}}, lookup=lookup))
        return Place(issuer, upstream, await end.connect(sni="wiki.t.example"), end.proxy)


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Places]:
    async with AsyncExitStack() as stack:
        yield Places(stack, tmp_path)


@requirement("oauth:29")
async def test_without_a_token_the_caller_is_told_where_to_get_one(places: Places) -> None:
    place = await places.open()
    answer = await place.get()
    assert answer.status == 401
    challenge = answer.one("www-authenticate")
    assert challenge == f'Bearer resource_metadata="https://wiki.t.example{PRM}/mcp", scope="wiki.read"'
    assert place.upstream.connections == 0


@requirement("oauth:2")
async def test_the_metadata_is_served_at_both_places_and_never_by_the_upstream(places: Places) -> None:
    place = await places.open()
    for path in (PRM, f"{PRM}/mcp"):
        answer = await place.get(path)
        document = json.loads(answer.body)
        assert (answer.status, answer.one("access-control-allow-origin")) == (200, "*")
        assert document["resource"] == "https://wiki.t.example/mcp"
        assert document["authorization_servers"] == [place.issuer.url]
    assert place.upstream.connections == 0


@requirement("oauth:3", "oauth:4", "oauth:5")
@pytest.mark.parametrize("paths", [None, ["/mcp"], ["/mcp/"]])
async def test_clients_accept_the_resource_that_a_route_has_by_default(places: Places, paths: list[str] | None) -> None:
    place = await places.open(paths=paths)
    resource = json.loads((await place.get(PRM)).body)["resource"]
    assert resource == "https://wiki.t.example" + ("/mcp" if paths else "")
    assert check_resource_allowed(requested_resource="https://wiki.t.example/mcp", configured_resource=resource)
    for other in ("https://mail.t.example/mcp", "http://wiki.t.example/mcp"):
        assert not check_resource_allowed(requested_resource=other, configured_resource=resource)
    alike = check_resource_allowed(requested_resource="https://wiki.t.example/mcp123", configured_resource=resource)
    assert alike is (paths is None)


async def test_a_key_set_that_has_moved_is_not_looked_for_elsewhere(places: Places) -> None:
    async def trap(peer: UpstreamPeer) -> None:
        raise AssertionError("a redirect was followed")

    async with upstream_running(trap) as elsewhere:
        place = await places.open()
        place.issuer.moved_to = elsewhere.url
        answer = await place.get(Authorization=f"Bearer {place.issuer.token()}")
        assert (answer.status, elsewhere.connections) == (503, 0)


@requirement("oauth:31")
async def test_a_good_token_gets_in_and_the_upstream_learns_who_it_was(places: Places) -> None:
    place = await places.open()
    forged = {"X_Mcp_Subject": "root", "x_mcp_client": "evil"}
    answer = await place.get(Authorization=f"Bearer {place.issuer.token()}", **forged)
    assert answer.status == 200
    seen = place.upstream.seen[0]
    assert seen.all("authorization") == []
    assert seen.all("x-mcp-subject") == ["alice"]
    assert seen.all("x-mcp-client") == ["claude"]
    assert seen.all("x-mcp-scopes") == ["wiki.read"]


@requirement("oauth:30")
async def test_every_bad_token_gets_the_same_answer(places: Places, caplog: pytest.LogCaptureFixture) -> None:
    place = await places.open()
    issuer = place.issuer
    now = int(time.time())
    good = {"kid": "k1", "typ": "at+jwt"}
    key = issuer.keys["k1"]
    bad = dict(BAD_TOKENS) | {
        "wrong audience, right key": issuer.token(aud="https://mail.t.example/mcp"),
        "wrong issuer, right key": issuer.token(iss="https://evil.example"),
        "expired, right key": issuer.token(exp=now - 60),
        "id token, right key": issuer.token(nonce="n"),
        "unknown key": jwt.encode(issuer.claims(), key, "ES256", {**good, "kid": "other"}),
    }
    bad.pop("empty")
    answers = [await place.get(Authorization=f"Bearer {token}") for token in bad.values()]
    assert {(answer.status, answer.body, answer.one("www-authenticate")) for answer in answers} == {
        (401, answers[0].body, answers[0].one("www-authenticate"))
    }
    assert 'error="invalid_token"' in str(answers[0].one("www-authenticate"))
    assert len(answers) >= 30
    assert place.upstream.connections == 0
    assert not any(token in caplog.text for token in bad.values() if len(token) > 20)


async def test_an_ambiguous_credential_is_a_bad_request(places: Places) -> None:
    place = await places.open()
    token = place.issuer.token()
    assert (await place.get(f"/mcp?access_token={token}")).status == 400
    again = await places.open()
    head = f"GET /mcp HTTP/1.1\nHost: wiki.t.example\nAuthorization: Bearer {token}\nAuthorization: Bearer {token}"
    assert (await again.inner.ask(head)).status == 400


@requirement("oauth:32")
async def test_an_injected_credential_replaces_the_callers(places: Places, tmp_path: Path) -> None:
    (tmp_path / "wiki-token").write_text("injected-credential\n")
    source = {"prefix": "Bearer ", "file": str(tmp_path / "wiki-token")}
    place = await places.open(headers={"set": {"Authorization": source}}, auth={"forward": "pass"})
    assert (await place.get(Authorization=f"Bearer {place.issuer.token()}")).status == 200
    assert place.upstream.seen[0].all("authorization") == ["Bearer injected-credential"]
    (tmp_path / "wiki-token").unlink()
    closed = await place.get(Authorization=f"Bearer {place.issuer.token()}")
    assert (closed.status, len(place.upstream.seen)) == (503, 1)


async def test_an_upstream_that_refuses_the_injected_credential_is_not_the_callers_fault(
    places: Places, tmp_path: Path
) -> None:
    async def refuse(peer: UpstreamPeer) -> None:
        while True:
            await peer.request()
            peer.answer(b"no", "WWW-Authenticate: Bearer", status="401 Unauthorized")

    (tmp_path / "wiki-token").write_text("stale")
    place = await places.open(refuse, headers={"set": {"Authorization": {"file": str(tmp_path / "wiki-token")}}})
    answer = await place.get(Authorization=f"Bearer {place.issuer.token()}")
    assert (answer.status, answer.one("x-mcp-proxy-error")) == (502, "upstream_auth")


@requirement("oauth:33")
async def test_a_tool_may_ask_for_scopes_of_its_own(places: Places) -> None:
    place = await places.open(auth={"tool_scopes": {"delete_*": ["wiki.write"]}})
    assert (await place.call("get_page", place.issuer.token())).status == 200
    refused = await place.call("delete_page", place.issuer.token())
    assert refused.status == 403
    assert 'error="insufficient_scope"' in str(refused.one("www-authenticate"))
    assert 'scope="wiki.read wiki.write"' in str(refused.one("www-authenticate"))
    assert (await place.call("delete_page", place.issuer.token(scope="wiki.read wiki.write"))).status == 200
    assert (await place.get(Authorization=f"Bearer {place.issuer.token(scope='x')}")).status == 403


@requirement("oauth:34")
async def test_a_dead_issuer_closes_the_route_at_start_and_changes_nothing_later(places: Places) -> None:
    place = await places.open()
    place.issuer.down = True
    answer = await place.get(Authorization=f"Bearer {place.issuer.token()}")
    assert (answer.status, answer.one("retry-after")) == (503, "5")
    again = await places.open()
    assert (await again.get(Authorization=f"Bearer {again.issuer.token()}")).status == 200
    again.issuer.down = True
    assert (await again.get(Authorization=f"Bearer {again.issuer.token()}")).status == 200


@requirement("oauth:36")
async def test_a_session_belongs_to_the_one_who_opened_it(places: Places) -> None:
    async def begin(peer: UpstreamPeer) -> None:
        while True:
            await peer.request()
            peer.answer(b"{}", "Mcp-Session-Id: s1", "Content-Type: application/json")

    place = await places.open(begin)
    initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
    assert (await place.post(initialize, Authorization=f"Bearer {place.issuer.token()}")).status == 200
    mine = {"Authorization": f"Bearer {place.issuer.token()}", "Mcp_Session_Id": "s1"}
    theirs = {"Authorization": f"Bearer {place.issuer.token(sub='mallory')}", "Mcp_Session_Id": "s1"}
    assert (await place.get(**mine)).status == 200
    assert (await place.get(**theirs)).status == 404
    assert len(place.upstream.seen) == 2


async def test_a_session_still_belongs_to_the_one_who_opened_it_when_the_route_is_made_anew(places: Places) -> None:
    place = await places.open()
    mine, theirs = (f"Bearer {place.issuer.token(sub=name)}" for name in ("alice", "mallory"))
    assert (await place.get(Authorization=mine, Mcp_Session_Id="s1")).status == 200
    route, config = place.proxy.routes["wiki"], place.proxy.config
    place.proxy.use_config(config.model_copy(update={"limits": config.limits.model_copy(update={"requests": 7})}))
    assert place.proxy.routes["wiki"] is not route
    assert (await place.get(Authorization=theirs, Mcp_Session_Id="s1")).status == 404
    assert (await place.get(Authorization=mine, Mcp_Session_Id="s1")).status == 200


async def test_what_a_reload_has_replaced_is_let_go_of(places: Places) -> None:
    place = await places.open()
    for requests in (7, 8, 9):
        route = place.proxy.routes["wiki"]
        assert isinstance(route.filter, RoutePolicy)
        replaced = weakref.ref(route.filter._auth)
        config = place.proxy.config
        limits = config.limits.model_copy(update={"requests": requests})
        place.proxy.use_config(config.model_copy(update={"limits": limits}))
        del route
        gc.collect()
        assert replaced() is None
    assert place.proxy._closing_pools == []


async def test_an_event_stream_ends_cleanly_with_its_token(places: Places) -> None:
    async def stream(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.send("9\r\ndata: 1\n\n\r\n")
        await peer.reader.read()

    place = await places.open(stream, auth={"leeway": "30s"})
    await place.get(Authorization=f"Bearer {place.issuer.token(scope='x')}")  # the keys are there from now on
    end = time.time() + 1
    token = place.issuer.token(exp=end - 30)
    answer = await place.get(Authorization=f"Bearer {token}", Accept="text/event-stream")
    assert (answer.status, answer.body) == (200, b"data: 1\n\n")
    assert time.time() >= end - 0.1


async def test_a_call_that_is_let_in_within_the_leeway_gets_its_result(places: Places) -> None:
    begun = asyncio.Event()

    async def stream(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await begun.wait()
        peer.send("9\r\ndata: 1\n\n\r\n0\r\n\r\n")
        await peer.head()

    place = await places.open(stream, auth={"leeway": "30s"})
    token = place.issuer.token(exp=int(time.time()) - 5)
    head = f"POST /mcp HTTP/1.1\nHost: wiki.t.example\nContent-Length: 2\nAuthorization: Bearer {token}"
    place.inner.send(head, b"{}")
    assert (await place.inner.head("POST")).status == 200
    begun.set()
    assert [event async for event in place.inner.rest()] == [BodyReceived(b"data: 1\n\n"), MessageEnded()]


async def test_an_event_stream_of_known_length_does_not_pass_for_complete_when_its_token_ends(places: Places) -> None:
    async def stream(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 18\r\n\r\ndata: 1\n\n")
        await peer.reader.read()

    place = await places.open(stream, auth={"leeway": "30s"})
    await place.get(Authorization=f"Bearer {place.issuer.token(scope='x')}")  # the keys are there from now on
    token = place.issuer.token(exp=time.time() + 1 - 30)
    with pytest.raises(EOFError):
        await place.get(Authorization=f"Bearer {token}", Accept="text/event-stream")


async def test_opaque_tokens_are_introspected_and_the_answer_kept_for_a_while(places: Places, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("proxy-secret")
    introspection = {"client_id": "proxy", "client_secret_file": str(tmp_path / "secret")}
    place = await places.open(
        auth={"introspection": lambda issuer: {"url": f"{issuer.url}/introspect", **introspection}}
    )
    place.issuer.active["opaque"] = {"active": True, **place.issuer.claims()}
    for _ in range(3):
        assert (await place.get(Authorization="Bearer opaque")).status == 200
    assert place.issuer.seen == ["/introspect"]
    assert (await place.get(Authorization="Bearer unknown")).status == 401
    place.issuer.down = True
    assert (await place.get(Authorization="Bearer other")).status == 503


async def test_the_authorization_servers_metadata_is_lent_to_clients_that_look_here(places: Places) -> None:
    place = await places.open(auth={"legacy_as_metadata": True})
    answer = await place.get(AS_METADATA)
    assert json.loads(answer.body)["issuer"] == place.issuer.url


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "FROBNICATE"])
async def test_what_sign_in_needs_passes_the_paths_and_never_reaches_the_upstream(places: Places, method: str) -> None:
    place = await places.open(auth={"legacy_as_metadata": True})
    bearer = f"Bearer {place.issuer.token()}"
    for path in (PRM, f"{PRM}/mcp", f"{PRM}?x", AS_METADATA):
        assert (await place.get(path, method, Authorization=bearer)).status in (200, 204)
    for path in (f"{PRM}/", f"{PRM}/mcp/", f"{PRM}/other", f"{AS_METADATA}/mcp", "/.well-known/", "/admin"):
        assert (await place.get(path, method, Authorization=bearer)).status == 403
    assert place.upstream.connections == 0


async def test_the_authorization_servers_metadata_is_not_let_through_unasked(places: Places) -> None:
    place = await places.open()
    assert (await place.get(AS_METADATA, Authorization=f"Bearer {place.issuer.token()}")).status == 403
    assert place.upstream.connections == 0


async def test_a_preflight_needs_no_token(places: Places) -> None:
    place = await places.open()
    answer = await place.get(method="OPTIONS", Origin="https://inspector.example")
    assert (answer.status, answer.one("access-control-allow-origin")) == (204, "*")
    assert place.upstream.connections == 0


async def test_the_issuer_is_never_looked_for_at_a_refused_address(
    places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    place = await places.open(auth={"allowed_ips": ["10.0.0.0/8"]})
    assert (await place.get(Authorization=f"Bearer {place.issuer.token()}")).status == 503
    assert place.issuer.upstream.connections == 0


@pytest.mark.slow
@requirement("oauth:35")
async def test_a_real_providers_tokens_open_the_route_and_its_rotated_key_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "REFETCH_AFTER", 0.0)  # the half minute between fetches is tested with a clock of its own
    resource = "https://wiki.t.example/mcp"
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(oidc_provider(tmp_path, {resource: "wiki.read wiki.write"}))
        upstream = await stack.enter_async_context(upstream_running(echo))
        auth = {
            "mode": "oauth",
            "authorization_servers": [provider.issuer],
            "ca_file": str(provider.ca_file),
            "resource": resource,
            "required_scopes": ["wiki.read"],
        }
        route = {"upstream": upstream.url, "auth": auth}
        end = await stack.enter_async_context(proxy_running(make_pki(tmp_path), {"wiki": route}, lookup=lookup))
        inner = await end.connect(sni="wiki.t.example")
        head = "GET /mcp HTTP/1.1\nHost: wiki.t.example\nAuthorization: Bearer {}"
        first = await provider.token(resource, "wiki.read")
        assert (await inner.ask(head.format(first))).status == 200
        assert upstream.seen[0].all("x-mcp-client") == ["agent"]
        await provider.start("k2")
        second = await provider.token(resource, "wiki.read")
        assert (await inner.ask(head.format(second))).status == 200
        assert (await inner.ask(head.format(first))).status == 401
        unscoped = await provider.token(resource, "wiki.write")
        assert (await inner.ask(head.format(unscoped))).status == 403


@pytest.mark.parametrize("name", ["X_Mcp_Subject", "x-mcp_subject", "X_MCP_SUBJECT"])
async def test_an_identity_spelled_with_underscores_does_not_pass(places: Places, name: str) -> None:
    place = await places.open()  # CGI, WSGI and their heirs hand both spellings to the program as one
    request = f"GET /mcp HTTP/1.1\nHost: wiki.t.example\nAuthorization: Bearer {place.issuer.token()}\n{name}: root"
    assert (await place.inner.ask(request)).status == 200
    assert [value for key, value in place.upstream.seen[0].headers if b"ubject" in key.lower()] == [b"alice"]


async def test_an_identity_in_a_trailer_does_not_pass(places: Places) -> None:
    place = await places.open()
    head = f"POST /mcp HTTP/1.1\nHost: wiki.t.example\nAuthorization: Bearer {place.issuer.token()}"
    answer = await place.inner.ask(
        f"{head}\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\nX-Mcp-Subject: root\r\n\r\n"
    )
    assert answer.status == 200
    assert place.upstream.seen[0].body == b"{}"
    assert place.upstream.seen[0].trailers == ()


async def test_made_up_session_ids_are_not_remembered_without_end(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "MAX_SESSIONS", 1)
    place = await places.open()
    alice, bob = (f"Bearer {place.issuer.token(sub=name)}" for name in ("alice", "bob"))
    assert (await place.get(Authorization=alice, Mcp_Session_Id="first")).status == 200
    assert (await place.get(Authorization=bob, Mcp_Session_Id="first")).status == 404
    assert (await place.get(Authorization=alice, Mcp_Session_Id="second")).status == 200
    assert (await place.get(Authorization=bob, Mcp_Session_Id="first")).status == 200  # forgotten: there was room for 1
