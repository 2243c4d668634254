"""Routes taken up while running, and what happens to what is going on."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from os import environ
from pathlib import Path
from typing import Any

import pytest
import yaml

from qanat.net.http1 import MessageEnded
from qanat.pki.material import Pair
from qanat.proxy.route import files_of
from qanat.proxy.stdio import process
from qanat.proxy.stdio.upstream import StdioPool
from tests.proxy.stdio.test_route import CHILD, gone
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.proxy import (
    LOOPBACK,
    Answer,
    Inner,
    TestPKI,
    TunnelEnd,
    UpstreamPeer,
    config_data,
    echo,
    make_config,
    proxy_running,
    until,
    upstream_running,
    write_pair,
)
from tests.support.requirements import requirement

RELOAD = {"enabled": True, "interval": "10ms"}


def write(path: Path, pki: TestPKI, routes: dict[str, Any], **changes: Any) -> None:
    changes = {"reload": RELOAD, **changes}
    path.write_text(yaml.safe_dump(config_data(pki, routes, **changes)))


async def status(end: TunnelEnd, name: str) -> int:
    inner = await end.connect()
    answer = await inner.ask(f"GET / HTTP/1.1\nHost: {name}.t.example\nConnection: close")
    inner.abort()
    return answer.status


@requirement("proxy:41")
async def test_edited_routes_are_served_without_a_restart_and_a_broken_file_changes_nothing(
    pki: TestPKI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "qanat")
    path = tmp_path / "config.yaml"
    async with upstream_running() as upstream:
        routes: dict[str, Any] = {"a": upstream.url, "b": upstream.url}
        write(path, pki, routes)
        async with proxy_running(pki, routes, reload=RELOAD, config_path=path) as end:
            kept = end.proxy.routes["b"]
            write(path, pki, {"b": upstream.url, "c": upstream.url})
            await until(lambda: "c" in end.proxy.routes)
            assert [await status(end, name) for name in "abc"] == [502, 200, 200]
            assert end.proxy.routes["b"] is kept
            path.write_text("routes: [broken")
            await until(lambda: end.proxy.metrics.reload_success._value.get() == 0)
            assert [await status(end, name) for name in "abc"] == [502, 200, 200]
            write(path, pki, {"a": upstream.url}, listen_addr="127.0.0.1:1")
            await until(lambda: "a" in end.proxy.routes)
            assert end.proxy.metrics.reload_success._value.get() == 1
    said = {(record.getMessage(), vars(record)["fields"].get("route")) for record in caplog.records}
    assert {("route added", "c"), ("route removed", "a"), ("config reload failed", None)} <= said
    assert ("restart required", None) in said


async def test_whatever_fails_at_a_reload_the_next_file_is_taken_up(
    pki: TestPKI, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    routes: dict[str, Any] = {"a": "http://127.0.0.1:1"}
    write(path, pki, routes)
    async with proxy_running(pki, routes, reload=RELOAD, config_path=path) as end:
        with monkeypatch.context() as broken:
            broken.setattr(end.proxy, "use_config", lambda config: environ["secret"])
            write(path, pki, {**routes, "b": "http://127.0.0.1:1"})
            await until(lambda: end.proxy.metrics.reload_success._value.get() == 0)
        await until(lambda: set(end.proxy.routes) == {"a", "b"})
        assert end.proxy.metrics.reload_success._value.get() == 1
        write(path, pki, {**routes, "c": "http://127.0.0.1:1"})
        await until(lambda: set(end.proxy.routes) == {"a", "c"})
        assert end.proxy.metrics.reload_success._value.get() == 1
    failed = [vars(record)["fields"] for record in caplog.records if record.getMessage() == "config reload failed"]
    assert failed == [{"errors": ["internal error: KeyError"]}]


async def test_a_file_that_could_not_be_used_is_tried_again_until_it_can_or_is_as_it_was(
    pki: TestPKI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, bundle = tmp_path / "config.yaml", tmp_path / "ca.pem"
    routes: dict[str, Any] = {"a": "http://127.0.0.1:1"}
    secure = {"b": {"upstream": "https://127.0.0.1:1", "tls": {"ca_file": str(bundle)}}}
    write(path, pki, routes)
    async with proxy_running(pki, routes, reload=RELOAD, config_path=path) as end:
        took_up = end.proxy.metrics.reload_success._value.get
        for _ in range(2):
            write(path, pki, {**routes, **secure}, listen_addr="127.0.0.1:1")
            await until(lambda: took_up() == 0)
            write(path, pki, routes)
            await until(lambda: took_up() == 1)
        write(path, pki, {**routes, **secure})
        await until(lambda: took_up() == 0)
        bundle.write_bytes(pki.ca.certificate_pem)
        await until(lambda: set(end.proxy.routes) == {"a", "b"})
        assert took_up() == 1
    warned = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    said = [(record.getMessage(), vars(record)["fields"].get("errors")) for record in warned]
    assert said == [("config reload failed", [f"open {bundle}: no such file or directory"])] * 3


async def test_a_request_finishes_on_the_route_it_began_on(pki: TestPKI, tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbe")
        await go_on.wait()
        peer.send("gun")
        await peer.head()

    path = tmp_path / "config.yaml"
    async with upstream_running(script) as old, upstream_running() as new:
        write(path, pki, {"echo": old.url})
        async with proxy_running(pki, {"echo": old.url}, reload=RELOAD, config_path=path) as end:
            inner = await end.connect()
            inner.send("GET / HTTP/1.1\nHost: echo.t.example")
            await inner.head()
            before = end.proxy.routes["echo"]
            write(path, pki, {"echo": new.url})
            await until(lambda: end.proxy.routes["echo"] is not before)
            go_on.set()
            assert b"".join([getattr(event, "data", b"") async for event in inner.rest()]) == b"begun"
            assert (await inner.ask("GET /x HTTP/1.1\nHost: echo.t.example")).body == b"GET /x "


async def test_connections_that_a_new_list_forbids_are_closed(pki: TestPKI, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    async with upstream_running(echo) as upstream:
        patient = {**LOOPBACK, "idle_timeout": "1h"}
        write(path, pki, {"echo": upstream.url}, upstream=patient)
        async with proxy_running(pki, {"echo": upstream.url}, reload=RELOAD, config_path=path, upstream=patient) as end:
            assert await status(end, "echo") == 200
            write(path, pki, {"echo": upstream.url}, upstream={"allowed_ips": ["10.0.0.0/8"]})
            await upstream.idle()
            assert await status(end, "echo") == 502


async def test_a_signal_looks_at_the_file_even_when_watching_is_off(pki: TestPKI, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write(path, pki, {"echo": "http://10.0.0.1:1"})
    async with proxy_running(pki, {"echo": "http://10.0.0.1:1"}, config_path=path) as end:
        write(path, pki, {"other": "http://10.0.0.1:1"})
        end.running.reload_now.set()
        await until(lambda: "other" in end.proxy.routes)


def secure_context(ca: Pair, folder: Path) -> ssl.SSLContext:
    """That of an upstream `up.example` whose certificate `ca` has signed."""
    cert_file, key_file = folder / "upstream.crt", folder / "upstream.key"
    write_pair(throwaway_server(ca, "up.example"), cert_file, key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context


@pytest.mark.parametrize("watched", [True, False])
async def test_a_bundle_of_cas_with_other_content_is_taken_up(pki: TestPKI, tmp_path: Path, watched: bool) -> None:
    path, bundle, ca = tmp_path / "config.yaml", tmp_path / "ca.pem", throwaway_ca()
    bundle.write_bytes(throwaway_ca().certificate_pem)
    changes: dict[str, Any] = {"reload": {**RELOAD, "enabled": watched}}
    changes["upstream"] = {**LOOPBACK, "tls": {"ca_file": str(bundle)}}
    async with upstream_running(echo, secure_context(ca, tmp_path)) as upstream:
        secure = {"upstream": upstream.url.replace("http:", "https:"), "tls": {"server_name": "x.up.example"}}
        routes = {"plain": "http://127.0.0.1:1", "secure": secure}
        write(path, pki, routes, **changes)
        async with proxy_running(pki, routes, config_path=path, **changes) as end:
            before = end.proxy.routes
            took_up = end.proxy.metrics.reload_success._value.get

            async def put(content: bytes, done: Callable[[], bool]) -> None:
                bundle.write_bytes(content)
                if not watched:
                    end.running.reload_now.set()
                await until(done)

            assert await status(end, "secure") == 502
            old = bundle.read_bytes()
            await put(ca.certificate_pem[:40], lambda: took_up() == 0)
            await put(old, lambda: took_up() == 1)
            assert end.proxy.routes == before
            await put(ca.certificate_pem, lambda: end.proxy.routes["secure"] is not before["secure"])
            assert await status(end, "secure") == 200
            assert end.proxy.routes["plain"] is before["plain"]


def test_a_route_is_made_anew_for_its_own_files_only(pki: TestPKI) -> None:
    sign_in = {"mode": "oauth", "authorization_servers": ["https://sso.example"], "ca_file": "/sso"}
    client = {"client_cert_file": "/cert", "client_key_file": "/key"}
    options: dict[tuple[str, ...], dict[str, Any]] = {
        (): {"upstream": "http://10.0.0.1:1", "tls": client},
        ("/all",): {"upstream": "https://10.0.0.1:1"},
        ("/own", "/cert", "/key"): {"upstream": "https://10.0.0.1:1", "tls": {"ca_file": "/own", **client}},
        ("/all", "/sso"): {"upstream": "http://10.0.0.1:1", "auth": sign_in},
    }
    for files, route in options.items():
        config = make_config(pki, {"a": route}, upstream={"tls": {"ca_file": "/all"}})
        assert tuple(map(str, files_of(config, config.routes["a"]))) == files


class Program:
    """A session of the stdio route `local`, and a call in it that ends once `ready` is there."""

    def __init__(self, end: TunnelEnd, inner: Inner, folder: Path) -> None:
        self.end, self.inner, self.ready = end, inner, folder / "ready"
        self.session = ""
        self.pid = 0

    async def begin(self) -> None:
        answer = await self.inner.ask(*self.post("initialize", 1))
        self.session, self.pid = answer.one("mcp-session-id") or "", json.loads(answer.body)["result"]["pid"]

    def post(self, method: str, number: int, **params: Any) -> tuple[str, bytes]:
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()
        session = f"\nMcp-Session-Id: {self.session}" if self.session else ""
        head = f"POST /mcp HTTP/1.1\nHost: local.t.example\nContent-Type: application/json\nContent-Length: {len(body)}"
        return head + session, body

    async def call(self) -> Answer:
        self.inner.send(*self.post("tools/call", 2, name="wait", arguments={"file": str(self.ready)}))
        await until(lambda: self.end.proxy.forwarder.in_flight > 0)
        return await self.inner.answer("POST")

    async def listen(self) -> Inner:
        inner = await self.end.connect(sni="local.t.example")
        head = "GET /mcp HTTP/1.1\nHost: local.t.example\nAccept: text/event-stream"
        inner.send(f"{head}\nMcp-Session-Id: {self.session}")
        assert (await inner.head()).status == 200
        return inner


def local(**options: Any) -> dict[str, Any]:
    return {"local": {"stdio": {"command": [sys.executable, str(CHILD)], **options}}, "other": "http://127.0.0.1:1"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_STEP", 0.05)


@asynccontextmanager
async def program_running(pki: TestPKI, folder: Path, **changes: Any) -> AsyncIterator[Program]:
    path = folder / "config.yaml"
    write(path, pki, local(), **changes)
    async with proxy_running(pki, local(), reload=RELOAD, config_path=path, **changes) as end:
        program = Program(end, await end.connect(sni="local.t.example"), folder)
        await program.begin()
        yield program


async def test_a_program_that_stays_the_same_goes_on_with_its_sessions_and_calls(pki: TestPKI, tmp_path: Path) -> None:
    async with program_running(pki, tmp_path) as program:
        route, stream = program.end.proxy.routes["local"], await program.listen()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(program.call())
            await until(lambda: route.pool.in_flight == 2)
            routes = local()
            routes["local"] |= {"paths": ["/mcp"], "max_in_flight": 5}
            write(
                tmp_path / "config.yaml", pki, routes, limits={"requests": 5}, upstream={"allowed_ips": ["10.0.0.0/8"]}
            )
            await until(lambda: program.end.proxy.routes["local"] is not route)
            assert program.end.proxy.routes["local"].pool.in_flight == 2
            program.ready.touch()
        assert (call.result().status, json.loads(call.result().body)["id"]) == (200, 2)
        assert json.loads((await program.inner.ask(*program.post("tools/call", 3, name="x"))).body)["id"] == 3
        stream.abort()
    assert gone(program.pid)


@pytest.mark.parametrize(
    "routes", [local(env={"NEW": "1"}), {"other": "http://127.0.0.1:1"}], ids=["changed", "removed"]
)
async def test_a_program_ends_once_the_calls_that_it_has_are_answered(
    pki: TestPKI, tmp_path: Path, routes: dict[str, Any]
) -> None:
    async with program_running(pki, tmp_path, shutdown_timeout="1h") as program:
        route, stream = program.end.proxy.routes["local"], await program.listen()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(program.call())
            await until(lambda: route.pool.in_flight == 2)
            write(tmp_path / "config.yaml", pki, routes, shutdown_timeout="1h")
            assert [type(event) async for event in stream.rest()] == [MessageEnded]
            assert program.end.proxy.routes.get("local") is not route
            answer = await (await program.end.connect(sni="local.t.example")).ask(*program.post("tools/list", 3))
            assert answer.status == (404 if "local" in routes else 502)
            assert not gone(program.pid)
            program.ready.touch()
        assert (call.result().status, json.loads(call.result().body)["id"]) == (200, 2)
        await until(lambda: gone(program.pid))


@pytest.mark.usefixtures("impatient")
async def test_a_program_that_is_not_wanted_any_more_ends_when_patience_does(pki: TestPKI, tmp_path: Path) -> None:
    async with program_running(pki, tmp_path, shutdown_timeout="50ms") as program:
        pool = program.end.proxy.routes["local"].pool
        call = asyncio.create_task(program.call())
        await until(lambda: pool.in_flight == 1)
        write(tmp_path / "config.yaml", pki, local(env={"NEW": "1"}), shutdown_timeout="50ms")
        with pytest.raises(EOFError):
            await call
        await pool.wait_closed()
        assert gone(program.pid)


@pytest.mark.usefixtures("impatient")
async def test_a_program_that_still_had_its_time_ends_with_the_proxy(pki: TestPKI, tmp_path: Path) -> None:
    async with program_running(pki, tmp_path) as program:
        route = program.end.proxy.routes["local"]
        call = asyncio.create_task(program.call())
        await until(lambda: route.pool.in_flight == 1)
        write(tmp_path / "config.yaml", pki, {"other": "http://127.0.0.1:1"}, shutdown_timeout="1s")
        await until(lambda: "local" not in program.end.proxy.routes)
        assert not gone(program.pid)
    assert gone(program.pid)
    with pytest.raises(EOFError):
        await call


async def change(end: TunnelEnd, path: Path, pki: TestPKI, url: str, statuses: list[int]) -> None:
    """Change route and certificate, and see twenty more calls answered."""
    route, serial = end.proxy.routes["echo"], end.proxy.certificate.serial
    write(path, pki, {"echo": url})
    pki.renew()
    await until(lambda: end.proxy.routes["echo"] is not route and end.proxy.certificate.serial != serial)
    seen = len(statuses)
    await until(lambda: len(statuses) > seen + 20)


async def test_routes_and_certificates_change_under_load_without_a_failed_call(
    own_pki: TestPKI, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    statuses: list[int] = []
    async with upstream_running() as one, upstream_running() as two:
        write(path, own_pki, {"echo": one.url})
        routes = {"echo": one.url}
        async with proxy_running(own_pki, routes, reload=RELOAD, config_path=path, certificate_interval=0.01) as end:
            done = asyncio.Event()

            async def call() -> None:
                while not done.is_set():
                    inner = await end.connect()
                    for _ in range(10):
                        answer = await inner.ask("POST / HTTP/1.1\nHost: echo.t.example\nContent-Length: 2", b"hi")
                        statuses.append(answer.status)
                    inner.abort()

            callers = [asyncio.create_task(call()) for _ in range(8)]
            for turn in range(10):
                await change(end, path, own_pki, (two if turn % 2 == 0 else one).url, statuses)
            done.set()
            await asyncio.gather(*callers)
        assert one.seen
        assert two.seen
    print(f"\n{len(statuses)} calls over 10 changes of route and certificate, {statuses.count(200)} answered 200")
    assert set(statuses) == {200}


PROGRAM = """
import json, os, sys, time
for line in sys.stdin:
    message = json.loads(line)
    name = message.get("params", {}).get("name")
    if name == "hold":
        open(sys.argv[1], "w").close()
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.01)
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"of": name}}), flush=True)
"""


def ask(name: str, session: str | None = None) -> tuple[str, bytes]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": name, "method": "tools/call", "params": {"name": name}}
    if session is None:
        message |= {"method": "initialize", "params": {}}
    body = json.dumps(message).encode()
    head = f"POST /mcp HTTP/1.1\nHost: local.t.example\nContent-Type: application/json\nContent-Length: {len(body)}"
    return head + (f"\nMcp-Session-Id: {session}" if session else ""), body


@pytest.mark.parametrize(("what", "status"), [("limits", 200), ("program", 404), ("removed", 502)])
async def test_calls_of_a_program_finish_and_its_sessions_outlive_what_does_not_concern_it(
    pki: TestPKI, tmp_path: Path, what: str, status: int
) -> None:
    program, path = tmp_path / "program.py", tmp_path / "config.yaml"
    held, release = tmp_path / "held", tmp_path / "release"
    program.write_text(PROGRAM)
    stdio: dict[str, Any] = {"command": [sys.executable, str(program), str(held), str(release)]}
    routes: dict[str, Any] = {"local": {"stdio": stdio}, "other": "http://127.0.0.1:1"}
    changed: dict[str, Any] = {
        "limits": routes,
        "program": {**routes, "local": {"stdio": {**stdio, "env": {"A": "b"}}}},
        "removed": {"other": routes["other"]},
    }
    write(path, pki, routes, shutdown_timeout="60s")
    async with proxy_running(pki, routes, reload=RELOAD, config_path=path, shutdown_timeout="60s") as end:
        one, two = await end.connect(), await end.connect()
        session = (await one.ask(*ask("begin"))).one("mcp-session-id")
        one.send(*ask("hold", session))
        await until(held.exists)
        old = end.proxy.routes["local"]
        write(path, pki, changed[what], limits={"requests": 4097}, shutdown_timeout="60s")
        await until(lambda: end.proxy.routes.get("local") is not old)
        release.touch()
        assert json.loads((await one.answer("POST")).body)["result"] == {"of": "hold"}
        assert (await two.ask(*ask("next", session))).status == status
        if status != 200:
            child = old.pool
            assert isinstance(child, StdioPool)
            await child.wait_closed()
