"""The parent of several workers, with shell scripts in their place."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qanat.net import workers
from qanat.net.workers import Supervisor
from tests.support.proxy import WAIT, until
from tests.support.requirements import requirement

READY = ": > $0/ready-$$; "
STUBBORN = f"trap '' TERM; {READY} exec sleep 600"
UNTRAPPED = f"{READY} exec sleep 600"
UNTIL = "until [ -e $0/{} ]; do sleep 0.01; done; "
FIRST_GIVES_UP = f"case $QANAT_WORKER in 0/*) {UNTIL.format('trapped')} exit 3; esac; "
BAD_FOR_A_WHILE = (
    "case $QANAT_WORKER in 0/*) "
    "[ -e $0/killed ] || { : > $0/killed; kill -9 $$; }; "
    "[ -e $0/refused ] || { : > $0/refused; exit 2; }; "
    ": > $0/mended;; esac; "
)
LINGERING = f"trap ': > $0/asked; {UNTIL.format('go')} exit 0' TERM; : > $0/trapped; {UNTIL.format('go')}"


class Running:
    """A supervisor of two scripts, and what it logged."""

    def __init__(self, script: str, folder: Path, caplog: pytest.LogCaptureFixture, patience: float) -> None:
        self._folder, self._caplog = folder, caplog
        self.supervisor = Supervisor(("/bin/sh", "-c", script, str(folder)), 2, patience)
        self.task = asyncio.create_task(self.supervisor.run())

    async def ready(self) -> None:
        """Both scripts are under way."""
        await until(lambda: len(list(self._folder.glob("ready-*"))) == 2)

    async def code(self) -> int:
        async with asyncio.timeout(WAIT):
            return await self.task

    def logged(self, phrase: str) -> list[dict[str, Any]]:
        """The fields of the lines that said so."""
        return [vars(record)["fields"] for record in self._caplog.records if record.getMessage() == phrase]

    @property
    def killed(self) -> int:
        return len(self.logged("worker did not stop, killing it"))


@asynccontextmanager
async def running(
    script: str, folder: Path, caplog: pytest.LogCaptureFixture, patience: float = WAIT
) -> AsyncIterator[Running]:
    caplog.set_level("INFO", "qanat")
    found = Running(script, folder, caplog, patience)
    try:
        yield found
    finally:
        found.task.cancel()
        await asyncio.gather(found.task, return_exceptions=True)


@requirement("join:impatience")
@pytest.mark.parametrize(("patience", "signals"), [(0.01, 1), (1e6, 2)], ids=["in time", "at a second signal"])
async def test_workers_that_do_not_stop_are_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, patience: float, signals: int
) -> None:
    async with running(STUBBORN, tmp_path, caplog, patience) as scripts:
        await scripts.ready()
        for _ in range(signals):
            scripts.supervisor.stop()
        assert (await scripts.code(), scripts.killed) == (1, 2)


@requirement("join:stop")
async def test_a_worker_that_did_not_listen_yet_has_stopped_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(UNTRAPPED, tmp_path, caplog) as scripts:
        await scripts.ready()
        scripts.supervisor.stop()
        assert (await scripts.code(), scripts.killed) == (0, 0)


def test_a_worker_that_does_not_hear_of_reloads_yet_survives_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def reload() -> None:
        async with running(UNTRAPPED, tmp_path, caplog) as scripts:
            await scripts.ready()
            scripts.supervisor.reload()
            scripts.supervisor.stop()
            assert (await scripts.code(), scripts.logged("worker died, starting another")) == (0, [])

    asyncio.run(reload())  # as the parent runs


async def test_a_reload_that_came_before_it_could_be_heard_is_heard() -> None:
    heard = asyncio.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))  # as a worker is started
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # a worker has no other thread yet: we may
    workers.hear_reloads(heard.set)
    try:
        async with asyncio.timeout(WAIT):
            await heard.wait()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


@requirement("join:give-up")
async def test_others_stop_gracefully_when_one_gives_up_even_if_a_signal_comes_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(FIRST_GIVES_UP + LINGERING, tmp_path, caplog) as scripts:
        await until((tmp_path / "asked").exists)
        scripts.supervisor.stop()
        (tmp_path / "go").touch()
        assert (await scripts.code(), scripts.killed) == (3, 0)
        (ended,) = scripts.logged("worker ended, stopping the others")
        assert (ended["worker"], ended["code"]) == (0, 3)


@requirement("join:restart")
async def test_one_that_comes_back_to_a_configuration_it_must_refuse_is_tried_again_while_the_others_run_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    async with running(BAD_FOR_A_WHILE + LINGERING, tmp_path, caplog) as scripts:
        await until((tmp_path / "mended").exists)
        died = scripts.logged("worker died, starting another")
        assert [line.get("signal") or line["code"] for line in died] == [9, 2]
        (tmp_path / "go").touch()
        scripts.supervisor.stop()
        assert (await scripts.code(), scripts.killed) == (0, 0)


async def test_no_worker_outlives_a_cancelled_supervisor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(STUBBORN, tmp_path, caplog) as scripts:
        await scripts.ready()
    for started in scripts.logged("worker started"):
        with pytest.raises(ProcessLookupError):
            os.kill(started["pid"], 0)


@requirement("join:restart")
async def test_the_pause_before_a_restart_doubles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 1000.0)
    waits = await pauses("kill -9 $$", tmp_path, caplog, 3)
    assert waits == [0.01, 0.02, 0.04]


@requirement("join:restart")
async def test_the_pause_is_short_again_for_one_that_has_lived_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 0.02)
    waits = await pauses("sleep 0.05; kill -9 $$", tmp_path, caplog, 3)
    assert waits == [0.01, 0.01, 0.01]


async def pauses(script: str, folder: Path, caplog: pytest.LogCaptureFixture, count: int) -> list[float]:
    """What worker 0 waited before its first restarts."""
    async with running(script, folder, caplog) as scripts:

        def waits() -> list[float]:
            killed = scripts.logged("worker died, starting another")
            return [line["wait"] for line in killed if line["worker"] == 0]

        await until(lambda: len(waits()) >= count)
        return waits()[:count]


async def test_a_worker_that_cannot_be_started_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    program = tmp_path / "program"
    caplog.set_level("INFO", "qanat")
    supervisor = Supervisor((str(program),), 1, WAIT)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: any(record.getMessage() == "worker cannot be started" for record in caplog.records))
    (tmp_path / "ready").write_text("#!/bin/sh\nexit 4\n")
    (tmp_path / "ready").chmod(0o700)
    (tmp_path / "ready").rename(program)
    async with asyncio.timeout(WAIT):
        assert await task == 4


@requirement("join:restart")
async def test_only_what_counts_as_giving_up_ends_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    caplog.set_level("INFO", "qanat")
    script = "[ -e $0/died ] && exit 3; : > $0/died; exit 1"
    supervisor = Supervisor(("/bin/sh", "-c", script, str(tmp_path)), 1, WAIT, lambda code: code == 3)
    async with asyncio.timeout(WAIT):
        assert await supervisor.run() == 3
    (died,) = [record for record in caplog.records if record.getMessage() == "worker died, starting another"]
    assert vars(died)["fields"]["code"] == 1
