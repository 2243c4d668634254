"""Tool policy, rate limits and the audit log of a route, through the whole proxy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.inbound import encode_header_value

from qanat.errors import ConfigInvalid
from qanat.proxy.policy.audit import Chain, verify
from tests.support.proxy import (
    Answer,
    Inner,
    Upstream,
    UpstreamPeer,
    make_config,
    make_pki,
    proxy_running,
    upstream_running,
)
from tests.support.requirements import requirement

TOOLS = {"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "get"}, {"name": "drop"}]}}


async def mcp(peer: UpstreamPeer) -> None:
    """A server with two tools; lists as JSON or, when only a stream is accepted, as events."""
    while True:
        request = await peer.request()
        text = json.dumps(TOOLS)
        if request.all("accept") == ["text/event-stream"]:
            data = f"event: message\ndata: {text}\n\n"
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (data[:20], data[20:]):
                peer.send(f"{len(piece):x}\r\n{piece}\r\n")
            peer.send("0\r\n\r\n")
        else:
            peer.answer(text.encode(), "Content-Type: application/json")


@asynccontextmanager
async def policed(folder: Path, script: Any = mcp, **options: Any) -> AsyncIterator[tuple[Inner, Upstream]]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstream_running(script))
        routes = {"echo": {"upstream": upstream.url, **options}}
        end = await stack.enter_async_context(proxy_running(make_pki(folder), routes))
        yield await end.connect(), upstream


async def post(inner: Inner, message: Any, **headers: str) -> Answer:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    lines = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in headers.items())
    head = f"POST /mcp?secret=query HTTP/1.1\nHost: echo.t.example\nContent-Length: {len(body)}\n{lines}"
    return await inner.ask(head, body)


def call(tool: str, request_id: int = 7, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@requirement("proxy:42")
async def test_a_denied_tool_cannot_be_called_seen_or_smuggled(tmp_path: Path) -> None:
    async with policed(tmp_path, tools={"deny": ["drop"]}) as (inner, upstream):
        denied = await post(inner, call("drop"))
        assert denied.status == 200
        assert json.loads(denied.body)["error"]["code"] == -32602
        assert json.loads(denied.body)["error"]["message"] == "Unknown tool: drop"
        assert json.loads(denied.body)["id"] == 7
        assert (await post(inner, call("drop"), MCP_Protocol_Version="2026-07-28")).status == 400
        doubled = b'{"id":1,"method":"tools/call","params":{"name":"get","name":"drop"}}'
        assert (await post(inner, doubled)).status == 400
        assert (await post(inner, [call("get"), call("drop")])).status == 200
        assert (await post(inner, call("get"), Mcp_Name="drop")).status == 400
        assert (await post(inner, call("get"), Content_Encoding="gzip")).status == 415
        assert (await post(inner, b" " * (4 * 1024 * 1024 + 1))).status == 413
        assert upstream.seen == []


async def test_a_name_that_had_to_be_encoded_is_understood_and_goes_on_as_it_came(tmp_path: Path) -> None:
    name = encode_header_value("Größe")
    async with policed(tmp_path, tools={"deny": ["drop"]}) as (inner, upstream):
        assert (await post(inner, call("Größe"), Mcp_Method="tools/call", Mcp_Name=name)).status == 200
        assert (await post(inner, call("drop"), Mcp_Name=name)).status == 400
        assert [seen.all("mcp-name") for seen in upstream.seen] == [[name]]


async def test_lists_lose_the_denied_tools_in_json_and_in_streams(tmp_path: Path) -> None:
    async with policed(tmp_path, tools={"deny": ["drop"]}) as (inner, upstream):
        answer = await post(inner, LIST, Accept_Encoding="gzip")
        assert json.loads(answer.body)["result"] == {"tools": [{"name": "get"}]}
        assert upstream.seen[0].all("accept-encoding") == []
        stream = await post(inner, LIST, Accept="text/event-stream")
        assert b"drop" not in stream.body
        assert stream.body.startswith(b"event: message\ndata: ")


async def test_what_is_allowed_arrives_byte_for_byte(tmp_path: Path) -> None:
    body = b'{ "jsonrpc":"2.0", "id":1,\n"method":"tools/call","params":{"name":"get","arguments":{"q":"\\u00fc"}} }'
    async with policed(tmp_path, tools={"allow": ["get"]}) as (inner, upstream):
        assert (await post(inner, body)).status == 200
        assert upstream.seen[0].body == body


async def test_a_rate_limit_says_when_to_come_back(tmp_path: Path) -> None:
    limit = {"requests": 1, "per": "1h", "burst": 2}
    async with policed(tmp_path, rate_limit=limit) as (inner, upstream):
        statuses = [(await post(inner, LIST)).status for _ in range(2)]
        refused = await post(inner, LIST)
        assert [*statuses, refused.status] == [200, 200, 429]
        assert int(str(refused.one("retry-after"))) > 1000
        assert len(upstream.seen) == 2


async def test_the_audit_log_tells_what_happened_and_nothing_more(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    audit = {"file": str(log), "include": ["tool", "arguments_hash", "subject"]}
    options = {"audit": audit, "tools": {"deny": ["drop"]}}
    for _ in range(2):  # the second proxy goes on with the first one's chain
        async with policed(tmp_path, **options) as (inner, _upstream):
            await post(inner, call("get", password="hunter2-secret"), Mcp_Session_Id="session-secret")
            await post(inner, call("drop"))
    lines = log.read_bytes().splitlines()
    assert verify(lines).lines == 4
    entries = [json.loads(line) for line in lines]
    assert [(entry["tool"], entry["decision"], entry["status"]) for entry in entries[:2]] == [
        ("get", "allowed", 200),
        ("drop", "denied", 200),
    ]
    assert len(entries[0]["arguments_hash"]) == 64
    assert len(entries[0]["session"]) == 12
    text = log.read_text()
    assert not any(secret in text for secret in ("hunter2-secret", "session-secret", "secret=query"))
    assert log.stat().st_mode & 0o777 == 0o600


async def test_a_required_log_that_cannot_be_written_closes_the_route(tmp_path: Path) -> None:
    audit = {"file": str(tmp_path / "gone" / "audit.log"), "required": True}
    async with policed(tmp_path, audit=audit) as (inner, upstream):
        assert (await post(inner, LIST)).status == 503
        assert upstream.seen == []
        (tmp_path / "gone").mkdir()
        assert (await post(inner, LIST)).status == 200
    assert verify((tmp_path / "gone" / "audit.log").read_bytes().splitlines()).lines == 2


async def test_a_second_proxy_on_one_audit_file_is_refused_and_told_why(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    other = tmp_path / "other"
    other.mkdir()
    async with policed(tmp_path, audit={"file": str(log)}) as (inner, _):
        await post(inner, LIST)
        with pytest.raises(ConfigInvalid, match=rf"echo.audit: {log}: another proxy writes to it.* a file of its own"):
            async with policed(other, audit={"file": str(log)}):
                raise AssertionError("it is not up")
        await post(inner, LIST)
    async with policed(other, audit={"file": str(log)}) as (inner, _):
        await post(inner, LIST)
    assert verify(log.read_bytes().splitlines()).lines == 3


async def test_two_names_of_one_audit_file_are_one_chain(tmp_path: Path) -> None:
    log, name = tmp_path / "audit.log", tmp_path / "name.log"
    name.symlink_to(log)
    async with upstream_running(mcp) as upstream:
        routes = {
            host: {"upstream": upstream.url, "audit": {"file": str(file)}}
            for host, file in (("echo", log), ("also", name))
        }
        async with proxy_running(make_pki(tmp_path), routes) as end:
            await post(await end.connect(), LIST)
            body = json.dumps(LIST).encode()
            head = f"POST /mcp HTTP/1.1\nHost: also.t.example\nContent-Length: {len(body)}\n"
            await (await end.connect(sni="also.t.example")).ask(head, body)
    assert verify(log.read_bytes().splitlines()).lines == 2


async def test_lines_kept_for_a_missing_folder_do_not_go_behind_somebody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    async with policed(tmp_path, audit={"file": str(folder / "audit.log"), "required": True}) as (inner, upstream):
        assert (await post(inner, LIST)).status == 503
        folder.mkdir()
        (folder / "audit.log").write_bytes(Chain().append({"tool": "other"}))
        assert (await post(inner, LIST)).status == 503
        assert upstream.seen == []
    assert verify((folder / "audit.log").read_bytes().splitlines()).lines == 1


async def test_a_stdio_server_is_an_upstream_like_any_other(tmp_path: Path) -> None:
    import sys

    child = Path(__file__).parents[1] / "stdio" / "child.py"
    routes = {"local": {"stdio": {"command": [sys.executable, str(child)]}}}
    async with proxy_running(make_pki(tmp_path), routes) as end:
        inner = await end.connect(sni="local.t.example")
        initialize = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize"}).encode()
        head = "POST /mcp HTTP/1.1\nHost: local.t.example\nContent-Type: application/json\nContent-Length: {}{}"
        begun = await inner.ask(head.format(len(initialize), ""), initialize)
        session = begun.one("mcp-session-id")
        body = json.dumps(call("log")).encode()
        answer = await inner.ask(head.format(len(body), f"\nMcp-Session-Id: {session}"), body)
        assert answer.one("content-type") == "text/event-stream"
        assert b"notifications/message" in answer.body


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ({}, "give either upstream or stdio"),
        ({"upstream": "http://h:1", "stdio": {"command": ["x"]}}, "give either upstream or stdio"),
        ({"upstream": "http://h:1", "auth": {"mode": "oauth"}}, "authorization_servers is required"),
        ({"upstream": "http://h:1", "auth": {"mode": "oauth", "authorization_servers": ["http://h"]}}, "https URL"),
        ({"upstream": "http://h:1", "auth": {"algorithms": ["HS256"]}}, "auth.algorithms"),
        ({"upstream": "http://h:1", "audit": {"file": "relative.log"}}, "absolute path"),
        ({"upstream": "http://h:1", "tols": {"deny": ["x"]}}, "unknown field"),
    ],
)
def test_a_wrong_policy_is_refused_at_start(tmp_path: Path, route: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigInvalid, match=problem):
        make_config(make_pki(tmp_path), {"r": route})


@pytest.mark.parametrize("method", ["post", "Post", "PUT", "PATCH", "GET", "DELETE"])
async def test_a_body_under_another_method_does_not_get_around_the_policy(tmp_path: Path, method: str) -> None:
    body = json.dumps(call("drop")).encode()
    async with policed(tmp_path, tools={"deny": ["drop"]}) as (inner, upstream):
        head = f"{method} /mcp HTTP/1.1\nHost: echo.t.example\nX-HTTP-Method-Override: POST\n"
        answer = await inner.ask(f"{head}Content-Length: {len(body)}\n", body)
        assert answer.status == 400
        assert upstream.seen == []
