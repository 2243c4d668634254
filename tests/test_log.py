"""Log lines: their shape, that nothing breaks out of one, and that none is lost."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import logging
import os
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from qanat.log import setup_logging
from qanat.logger import get_logger
from tests.support.requirements import requirement

logger = get_logger("qanat.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Logging set up on a stream, and put back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("qanat")
    before = root.handlers[:], root.level, ours.level
    stream = io.StringIO()
    setup_logging("info", "json", stream)
    yield stream
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_a_json_object_with_the_phrase_and_its_fields(stream: io.StringIO) -> None:
    logger.info("route configured", route="tickets", port=80)
    logger.debug("too quiet")
    (line,) = lines(stream)
    assert (line["level"], line["msg"], line["logger"]) == ("info", "route configured", "qanat.test")
    assert (line["route"], line["port"]) == ("tickets", 80)
    assert str(line["time"]).endswith("Z")
    assert len(str(line["time"])) == len("2026-08-01T09:30:00.123456Z")


def test_fields_that_come_encoded_make_the_same_line(stream: io.StringIO) -> None:
    logger.members("request started", '"route": "tickets", "port": 80')
    logger.info("request started", route="tickets", port=80)
    first, second = lines(stream)
    assert list(first) == list(second)
    assert (first["route"], first["port"]) == ("tickets", 80)
    setup_logging("info", "text", stream)
    logger.members("request started", '"route": "tickets"')
    assert stream.getvalue().endswith("INF request started route=tickets\n")


def test_nothing_a_peer_says_breaks_out_of_its_line(stream: io.StringIO) -> None:
    logger.warn("client refused", reason='a\r\n{"msg": "forged"}\x1b[31m')
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_a_secret_prints_as_stars_and_any_object_as_text(stream: io.StringIO) -> None:
    logger.info("x", secret=SecretStr("hunter2"), error=ValueError("why"))
    assert "hunter2" not in stream.getvalue()
    assert lines(stream)[0]["error"] == "why"


async def test_the_lines_of_one_tick_are_written_together_and_in_order(stream: io.StringIO) -> None:
    for number in range(3):
        logger.info("line", number=number)
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    assert [line["number"] for line in lines(stream)] == [0, 1, 2]


async def test_the_lines_of_requests_wait_for_others_until_one_comes_that_cannot(stream: io.StringIO) -> None:
    setup_logging("info", "json", stream)  # nobody else listens
    logger.members("request started", '"number": 0')
    await asyncio.sleep(0)
    assert stream.getvalue() == ""
    logger.info("line", number=1)
    logger.members("request started", '"number": 2')
    await asyncio.sleep(0)
    assert [line["number"] for line in lines(stream)] == [0, 1, 2]


async def test_the_lines_of_requests_come_by_themselves(stream: io.StringIO) -> None:
    written = asyncio.Event()

    class Heard(io.StringIO):
        def flush(self) -> None:
            written.set()

    heard = Heard()
    setup_logging("info", "json", heard)
    logger.members("request started", '"number": 0')
    logger.members("request finished", '"number": 1')
    async with asyncio.timeout(10):
        await written.wait()
    assert [line["number"] for line in lines(heard)] == [0, 1]


def test_the_lines_of_requests_survive_the_end_of_their_loop(stream: io.StringIO) -> None:
    setup_logging("info", "json", stream)  # nobody else listens

    async def request() -> None:
        logger.members("request started", '"number": 0')

    asyncio.run(request())
    logging.getLogger().handlers[0].flush()  # as at exit
    assert [line["number"] for line in lines(stream)] == [0]


async def test_an_error_takes_everything_before_it_along_at_once(stream: io.StringIO) -> None:
    logger.info("before")
    logger.error("broken")
    assert [line["msg"] for line in lines(stream)] == ["before", "broken"]


def test_a_traceback_and_other_libraries_lines_have_the_same_shape(stream: io.StringIO) -> None:
    try:
        raise KeyError("bug")
    except KeyError:
        logger.exception("internal error", part="proxy")
    logging.getLogger("library").warning("careful with %s", "that")
    logging.getLogger("library").info("https://host/?secret=1")
    first, second = lines(stream)
    assert "KeyError: 'bug'" in str(first["traceback"])
    assert (second["msg"], second["level"]) == ("careful with that", "warn")


def test_text_for_people(stream: io.StringIO) -> None:
    setup_logging("info", "text", stream)
    logger.info("Registered tunnel connection", connIndex=0, location="edge one")
    assert stream.getvalue().split(" ", 1)[1] == 'INF Registered tunnel connection connIndex=0 location="edge one"\n'


@requirement("join:log")
async def test_where_others_write_too_whole_lines_go_in_groups_that_a_pipe_takes_at_once(stream: io.StringIO) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps what each system call wrote apart
    with ours, theirs, ours.makefile("w") as shared:
        setup_logging("info", "json", shared, shared=True)
        for size in (100, 3000, 1500, 9000, 10, 10):
            logger.members("line", f'"text": "{"x" * size}"')
        logging.getLogger().handlers[0].flush()
        assert stream.getvalue() == ""
        ours.shutdown(socket.SHUT_WR)
        groups = list(iter(lambda: theirs.recv(65536), b""))
    texts = [[len(json.loads(line)["text"]) for line in group.splitlines()] for group in groups]
    assert texts == [[100, 3000], [1500], [9000], [10, 10]]
    assert all(group.endswith(b"\n") for group in groups)


@requirement("join:log")
async def test_a_file_takes_all_of_them_at_once(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = os.write

    def counted(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    with (tmp_path / "log").open("w") as shared:
        setup_logging("info", "json", shared, shared=True)
        for _ in range(20):
            logger.members("line", f'"text": "{"x" * 1000}"')
        logging.getLogger().handlers[0].flush()
    lines = (tmp_path / "log").read_bytes()
    assert sizes == [len(lines)]
    assert [len(json.loads(line)["text"]) for line in lines.splitlines()] == [1000] * 20


WRITES_MANY = """
import asyncio
from qanat.log import setup_logging
from qanat.logger import get_logger

async def write() -> None:
    for tick in range(40):
        for number in range(50):
            logger.members("request finished", f'"text": "{"x" * (7 * number)}"')
        logger.info("tick", number=tick)
        await asyncio.sleep(0)

setup_logging("info", "json", shared=True)
logger = get_logger("qanat.test")
print("ready", flush=True)
asyncio.run(write())
"""


def read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as pipe:
        return pipe.read()


@pytest.mark.slow
@requirement("join:log")
async def test_lines_of_two_processes_on_one_pipe_never_cut_each_other() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8192)  # nearly always full: only then are writes cut
    try:
        command = (sys.executable, "-c", WRITES_MANY)
        processes = [await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=writing) for _ in range(2)]
    finally:
        os.close(writing)
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()  # it writes: only now is anything read
    written = await asyncio.to_thread(read_all, reading)
    assert [(await process.communicate(), process.returncode)[1] for process in processes] == [0, 0]
    found = [json.loads(line) for line in written.splitlines()]
    assert len(found) == 2 * 40 * 51
