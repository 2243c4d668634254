"""Streamable HTTP over a real child process: both eras, one child per session or one for all."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qanat.config import validate
from qanat.proxy.stdio import process
from qanat.proxy.stdio.route import StdioConfig, StdioRequest, StdioRoute
from qanat.proxy.stdio.session import MAX_BACKLOG, Backlog, Call, Style
from tests.support.proxy import until

CHILD = Path(__file__).parent / "child.py"


class Recorder:
    """An HTTP exchange that keeps what it is given."""

    def __init__(self) -> None:
        self.status = self.starts = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.finished = False
        self.changed = asyncio.Event()

    def start(self, status: int, headers: list[tuple[str, str]], length: int | None) -> None:
        self.starts += 1
        self.status, self.headers = status, {name.lower(): value for name, value in headers}
        self.changed.set()

    def write(self, data: bytes) -> None:
        self.body += data
        self.changed.set()

    def finish(self) -> None:
        self.finished = True
        self.changed.set()

    def queued(self) -> int:
        return 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        return [json.loads(line[6:]) for line in self.body.split(b"\n") if line.startswith(b"data: ")]

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(20):
            while text not in self.body:
                self.changed.clear()
                await self.changed.wait()


class Client:
    """Sends requests to a route the way an MCP client would."""

    def __init__(self, route: StdioRoute, version: str = "2025-11-25") -> None:
        self.route = route
        self.headers = {"content-type": "application/json", "mcp-protocol-version": version}

    async def request(self, method: str, body: Any = None, **headers: str) -> Recorder:
        recorder = Recorder()
        fields = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        async with asyncio.timeout(30):
            await self.route.handle(StdioRequest(method, "/mcp", fields, data), recorder)
        return recorder

    async def post(self, method: str, request_id: Any = 1, **params: Any) -> Recorder:
        return await self.request("POST", {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})

    async def call(self, tool: str, request_id: Any = 1, **arguments: Any) -> Recorder:
        return await self.post("tools/call", request_id, name=tool, arguments=arguments)

    async def begin(self) -> Client:
        answer = await self.post("initialize")
        self.headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        await self.request("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self


def text_of(answer: Recorder) -> Any:
    return json.loads(answer.json["result"]["content"][0]["text"])


def make_route(*arguments: str, **options: Any) -> StdioRoute:
    command = [sys.executable, str(CHILD), *arguments]
    return StdioRoute(validate(StdioConfig, {"command": command, **options}))


@pytest.fixture
async def route() -> AsyncIterator[StdioRoute]:
    route = make_route(env={"LOG": "warn"}, max_instances=2)
    yield route
    await route.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rsplit(")", 1)[1].split()[0] == "Z"


async def test_a_call_reaches_the_program_and_its_answer_the_caller(route: StdioRoute) -> None:
    client = await Client(route).begin()
    answer = await client.call("echo", request_id="mine", q="x; $(reboot)")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json["id"] == "mine"
    seen = text_of(answer)
    assert seen["q"] == "x; $(reboot)"
    assert seen["argv"] == []
    assert {name for name in seen["env"] if name != "LC_CTYPE"} == {"LOG"}  # Python sets LC_CTYPE itself


async def test_each_session_has_a_child_of_its_own(route: StdioRoute) -> None:
    first, second = await Client(route).begin(), await Client(route).begin()
    assert text_of(await first.call("echo"))["pid"] != text_of(await second.call("echo"))["pid"]
    refused = await Client(route).post("initialize")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")


async def test_a_batch_whose_program_dies_after_its_stream_began_is_answered_once(route: StdioRoute) -> None:
    client = await Client(route).begin()
    long = {"name": "echo", "arguments": {"long": "x" * 2**20}}
    batch = [
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        for number, params in enumerate([{"name": "deaf"}, long, long])
    ]
    recorder = Recorder()
    request = StdioRequest("POST", "/mcp", client.headers, json.dumps(batch).encode())
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(route.handle(request, recorder))
        await recorder.until(b"pid ")
        os.kill(int(recorder.events[0]["params"]["data"].split()[1].rstrip(".")), signal.SIGKILL)
    assert (recorder.starts, recorder.finished) == (1, True)
    assert [message["id"] for message in recorder.events[1:]] == [0, 1, 2]
    assert all(message["error"]["code"] == -32603 for message in recorder.events[1:])


def test_a_call_that_fails_says_so_in_the_stream_that_began_and_otherwise_leaves_it_to_the_front() -> None:
    recorder = Recorder()
    call = Call(recorder, [1, 2, 3], Style(batch=True, stateless=False))
    assert call.fail({1: "a", 2: "b", 3: "c"}, "gone") is False
    call.notify({"method": "notifications/message"})
    call.answer(2, {"id": "b", "result": {}})
    assert call.fail({1: "a", 2: "b", 3: "c"}, "gone") is True
    call.answer(3, {"id": "c", "result": {}})
    assert [message.get("id") for message in recorder.events] == [None, "b", "a", "c"]
    assert (recorder.starts, recorder.finished, recorder.events[-1]["error"]["message"]) == (1, True, "gone")


async def test_notifications_get_202_and_unknown_sessions_404(route: StdioRoute) -> None:
    client = await Client(route).begin()
    answer = await client.request("POST", {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
    assert (answer.status, answer.body) == (202, b"")
    assert (await Client(route).call("echo")).status == 400
    client.headers["mcp-session-id"] = "guess"
    assert (await client.call("echo")).status == 404


async def test_progress_and_logs_turn_the_answer_into_a_stream(route: StdioRoute) -> None:
    client = await Client(route).begin()
    answer = await client.post("tools/call", 5, name="progress", arguments={}, _meta={"progressToken": "t1"})
    assert answer.headers["content-type"] == "text/event-stream"
    progress, result = answer.events
    assert progress["params"] == {"progressToken": "t1", "progress": 1}
    assert result["id"] == 5
    assert answer.finished
    assert [item.get("method") for item in (await client.call("log")).events] == ["notifications/message", None]


async def test_the_server_may_ask_and_the_client_answer_on_the_get_stream(route: StdioRoute) -> None:
    client = await Client(route).begin()
    stream = Recorder()
    listening = asyncio.create_task(
        route.handle(StdioRequest("GET", "/mcp", {**client.headers, "accept": "text/event-stream"}), stream)
    )
    async with asyncio.timeout(20):
        await stream.changed.wait()
    calling = asyncio.create_task(client.call("ask"))
    await stream.until(b"sampling/createMessage")
    assert (await client.request("GET", accept="text/event-stream")).status == 409
    answer = await client.request("POST", {"jsonrpc": "2.0", "id": "q1", "result": {"text": "yes"}})
    assert answer.status == 202
    await stream.until(b'"text":"yes"')
    calling.cancel()
    deleted = await client.request("DELETE")
    assert deleted.status == 200
    async with asyncio.timeout(20):
        await listening
    assert stream.finished
    assert (await client.call("echo")).status == 404


async def test_a_caller_who_leaves_cancels_its_request(route: StdioRoute) -> None:
    client = await Client(route).begin()
    stream = Recorder()
    body = {"jsonrpc": "2.0", "id": 41, "method": "tools/call", "params": {"name": "hang"}}
    request = StdioRequest("POST", "/mcp", client.headers, json.dumps(body).encode())
    call = asyncio.create_task(route.handle(request, stream))
    await stream.until(b"hanging")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    seen = (await client.post("seen")).json["result"]["seen"]
    hang = next(message for message in seen if message.get("params", {}).get("name") == "hang")
    cancelled = next(message for message in seen if message["method"] == "notifications/cancelled")
    assert cancelled["params"]["requestId"] == hang["id"]


async def test_a_dead_child_fails_its_calls_and_ends_its_session(route: StdioRoute) -> None:
    client = await Client(route).begin()
    answer = await client.call("die")
    assert answer.json["error"]["code"] == -32603
    assert (await client.call("echo")).status == 404


async def test_a_program_that_cannot_start_is_a_502() -> None:
    route = StdioRoute(validate(StdioConfig, {"command": ["/no/such/program"]}))
    answer = await Client(route).post("initialize")
    assert answer.status == 502
    assert "no such file" in answer.json["error"]["message"]
    await route.close()


@pytest.mark.parametrize(
    ("method", "body", "headers", "status"),
    [
        ("PUT", None, {}, 405),
        ("POST", b"{", {}, 400),
        ("POST", b"[]", {}, 400),
        ("POST", {"id": 1, "method": "x"}, {"content_type": "text/plain"}, 415),
        ("GET", None, {}, 406),
        ("GET", None, {"mcp_protocol_version": "2026-07-28"}, 405),
    ],
)
async def test_bad_requests_get_their_own_answers(
    route: StdioRoute, method: str, body: Any, headers: dict[str, str], status: int
) -> None:
    assert (await Client(route).request(method, body, **headers)).status == status


async def test_the_stateless_era_shares_one_child_and_has_statuses_for_errors(route: StdioRoute) -> None:
    one, two = Client(route, "2026-07-28"), Client(route, "2026-07-28")
    answers = await asyncio.gather(one.call("echo", 1, who="one"), two.call("echo", 1, who="two"))
    assert [text_of(answer)["who"] for answer in answers] == ["one", "two"]
    assert text_of(answers[0])["pid"] == text_of(answers[1])["pid"]
    assert "mcp-session-id" not in answers[0].headers
    assert (await one.post("no/such")).status == 404


async def test_a_shared_child_shakes_hands_once_and_is_asked_nothing_back() -> None:
    route = make_route(instances="shared")
    one, two = Client(route), Client(route)
    first, second = await one.post("initialize", 1), await two.post("initialize", 2)
    assert first.json["result"]["pid"] == second.json["result"]["pid"]
    assert (first.json["id"], second.json["id"]) == (1, 2)
    asking = asyncio.create_task(one.call("ask"))
    while True:
        seen = (await two.post("seen")).json["result"]["seen"]
        if any(message.get("id") == "q1" and "error" in message for message in seen):
            break
    asking.cancel()
    assert sum(message.get("method") == "initialize" for message in seen) == 1
    await route.close()


async def test_a_session_is_idle_from_the_end_of_its_stream_on(route: StdioRoute) -> None:
    client = await Client(route).begin()
    (slot,) = route._sessions.values()
    listening = asyncio.create_task(client.request("GET", accept="text/event-stream"))
    await until(lambda: slot.session.listening)
    slot.last_used -= 3600.0
    before = slot.last_used
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert slot.last_used > before + 3000.0


async def test_what_a_shared_child_refuses_one_caller_is_nobody_elses_answer() -> None:
    route = make_route(instances="shared")
    bad, good, other = Client(route), Client(route), Client(route)
    answers = await asyncio.gather(
        bad.post("initialize", 1, refuse=True), good.post("initialize", 2), bad.post("initialize", 3, refuse=True)
    )
    assert answers[0].json["error"]["code"] == -32602
    assert [answer.json["id"] for answer in answers] == [1, 2, 3]
    assert "result" in answers[1].json
    assert "result" in (await other.post("initialize", 4)).json
    seen = (await other.post("seen")).json["result"]["seen"]
    methods = [message.get("method") for message in seen]
    assert methods[:-1] == ["initialize", "initialize", "notifications/initialized"]
    await route.close()


async def test_a_handshake_that_could_not_be_sent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    route = make_route(instances="shared")
    send = process.ChildProcess.send
    turned_away: list[object] = []

    async def full_at_first(self: process.ChildProcess, message: dict[str, Any]) -> None:
        if not turned_away:
            turned_away.append(message)
            await asyncio.sleep(0)
            raise process.ProgramBusy
        await send(self, message)

    monkeypatch.setattr(process.ChildProcess, "send", full_at_first)
    first, *others = await asyncio.gather(*(Client(route).post("initialize", number) for number in range(3)))
    assert first.status == 503
    assert [answer.json["id"] for answer in others if "result" in answer.json] == [1, 2]
    await route.close()


async def test_a_program_that_does_not_read_stops_its_callers_and_refuses_what_is_too_much(
    route: StdioRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_UNREAD", 1024 * 1024)
    client = await Client(route).begin()
    deaf = Recorder()
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "deaf"}}
    request = StdioRequest("POST", "/mcp", client.headers, json.dumps(message).encode())
    tasks = [asyncio.create_task(route.handle(request, deaf))]
    await deaf.until(b"pid ")
    child = int(deaf.events[0]["params"]["data"][4:-1])
    large = [asyncio.create_task(client.call("echo", n, text="x" * 500_000)) for n in range(4)]
    refused, waiting = await asyncio.wait(large, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    (answer,) = [task.result() for task in refused]  # one is on its way, two wait, and this is the fourth
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "does not read its input" in answer.json["error"]["message"]
    os.kill(child, signal.SIGKILL)
    for task in waiting:
        assert "error" in (await task).json
    await asyncio.gather(*tasks)


def test_what_nobody_hears_is_kept_within_bounds_and_the_newest_of_it() -> None:
    backlog = Backlog()
    for number in range(20):
        backlog.add(b"%02d" % number + b"x" * (MAX_BACKLOG // 8 - 2))
    kept = list(backlog.take_all())
    assert [int(event[:2]) for event in kept] == list(range(12, 20))
    assert list(backlog.take_all()) == []
    backlog.add(b"x" * (MAX_BACKLOG + 1))
    assert list(backlog.take_all()) == []


@pytest.mark.slow
async def test_children_are_reaped_with_all_they_started() -> None:
    route = make_route("--stubborn")
    client = await Client(route).begin()
    pids = [text_of(await client.call("echo"))["pid"], text_of(await client.call("grandchild"))["pid"]]
    assert not any(map(gone, pids))
    handles = [os.pidfd_open(pid) for pid in pids]
    await route.close()
    assert gone(pids[0]), "the child itself has been reaped"
    for handle in handles:  # what it started is killed with it, and dies when the kernel gets round to it
        exited, _, _ = await asyncio.to_thread(select.select, [handle], [], [], 20)
        os.close(handle)
        assert exited


@pytest.mark.slow
async def test_an_idle_session_is_ended() -> None:
    route = make_route(idle_timeout="1ms")
    client = await Client(route).begin()
    async with asyncio.timeout(20):
        await route._sessions[client.headers["mcp-session-id"]].session.ended.wait()
    assert (await client.call("echo")).status == 404
    await route.close()
