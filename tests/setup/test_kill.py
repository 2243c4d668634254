"""Kill `setup init` at every change to a file and after every call: the next run ends up where it should."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from qanat.pki.judge import judge_server_certificate
from qanat.pki.material import fingerprint, load_pair
from tests.setup.conftest import SETTINGS, Setup
from tests.support.pki import now
from tests.support.requirements import requirement
from tests.support.tunnels_api import API_KEY, Request

ROOT = Path(__file__).parents[2]
FILES = {"tunnel-id", "tunnel-domain", "tunnel-token", "ca.crt", "ca.key", "tls.crt", "tls.key", "token-version"}
NEVER = 0
KILLED = -signal.SIGKILL


class Killer:
    """`tests/support/killer.py` as a process."""

    def __init__(self) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        command = [sys.executable, "-m", "tests.support.killer"]
        self.running: queue.Queue[int] = queue.Queue()
        """The process id of the run that is under way."""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=clean
        )

    def __call__(self, setup: Setup, arguments: list[str], kill_before: int = NEVER) -> int:
        environment = {"API_URL": setup.api.url, "API_TOKEN": API_KEY}
        command = ["setup", "init", f"--output=dir:{setup.data}", *arguments]
        task = {"arguments": command, "environment": environment, "kill_before": kill_before}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(task), file=self.process.stdin, flush=True)
        self.running.put(int(self.process.stdout.readline()))
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = Killer()
    yield process
    process.close()


def empty(setup: Setup) -> list[str]:
    return ["--token-version=1"]


def switch(setup: Setup) -> list[str]:
    setup.init("--token-version=1")
    return ["--token-version=1", f"--tunnel-id={setup.api.add_tunnel()}"]


def new_ca(setup: Setup) -> list[str]:
    setup.init("--token-version=1")
    return ["--token-version=1", "--new-ca"]


def rotate(setup: Setup) -> list[str]:
    setup.init("--token-version=1")
    return ["--token-version=2"]


SCENARIOS = {"empty": empty, "switch": switch, "new CA": new_ca, "rotate": rotate}
LIVE = {"empty": 1, "switch": 1, "new CA": 2, "rotate": 1}


def check(setup: Setup, scenario: str, calls: Counter[str], undisturbed: Counter[str]) -> None:
    """The state after the second run is the one an undisturbed run leaves, at one more call of each kind at most."""
    files = setup.files()
    assert set(files) == {*FILES, ".lock"}
    identity = files["tunnel-id"].decode()
    assert files["tunnel-domain"].decode() == setup.api.tunnels[identity]["domain"]
    assert files["tunnel-token"].decode() == setup.api.tokens[identity]
    ca, server = load_pair(files["ca.crt"], files["ca.key"]), load_pair(files["tls.crt"], files["tls.key"])
    domain = files["tunnel-domain"].decode()
    judge_server_certificate(server.certificate, [ca.certificate], f"any.{domain}", now())
    live = [record["fingerprint"] for record in setup.api.live(identity)]
    assert fingerprint(ca.certificate) in live
    assert len(live) == LIVE[scenario]
    for name in ("create", "register", "rotate"):
        assert calls[name] <= undisturbed[name] + 1
    assert calls["create"] == undisturbed["create"]


def start_over(setup: Setup) -> None:
    for path in setup.data.iterdir():
        path.unlink()
    setup.api.tunnels.clear()
    setup.api.requests.clear()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", SCENARIOS)
@requirement("setup:7")
def test_killed_before_any_change_to_a_file(setup: Setup, killer: Killer, scenario: str) -> None:
    arguments = SCENARIOS[scenario](setup)
    setup.api.requests.clear()
    assert killer(setup, arguments) == 0
    undisturbed = setup.api.count()
    for change in range(1, 100):
        start_over(setup)
        arguments = SCENARIOS[scenario](setup)
        setup.api.requests.clear()
        ended = killer(setup, arguments, kill_before=change)
        if ended == 0:
            assert change > 4
            return
        assert ended == KILLED
        setup.init(*arguments)
        check(setup, scenario, setup.api.count(), undisturbed)
    raise AssertionError("the run never came to its end")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", SCENARIOS)
@requirement("setup:7")
def test_killed_after_any_call(setup: Setup, killer: Killer, scenario: str) -> None:
    arguments = SCENARIOS[scenario](setup)
    setup.api.requests.clear()
    assert killer(setup, arguments) == 0
    undisturbed = setup.api.count()
    for last in range(1, sum(undisturbed.values()) + 1):
        start_over(setup)
        arguments = SCENARIOS[scenario](setup)
        setup.api.requests.clear()
        killer.running = queue.Queue()

        def kill(_: Request, last: int = last) -> bool:
            if len(setup.api.requests) == last:
                os.kill(killer.running.get(timeout=30), signal.SIGKILL)
            return True

        setup.api.after = kill
        assert killer(setup, arguments) == KILLED
        setup.api.after = lambda _: True
        setup.init(*arguments)
        check(setup, scenario, setup.api.count(), undisturbed)


def test_a_created_tunnel_whose_answer_got_lost_is_found(setup: Setup) -> None:
    setup.api.after = lambda request: request.name != "create"
    setup.init("--tunnel-name=staging")
    assert list(setup.api.tunnels) == [setup.text("tunnel-id")]


def test_the_lost_tunnel_is_found_among_others_of_its_name(setup: Setup) -> None:
    older = setup.api.add_tunnel("staging")
    setup.api.after = lambda request: request.name != "create"
    setup.init("--tunnel-name=staging")
    assert len(setup.api.tunnels) == 2
    assert setup.text("tunnel-id") != older


def test_two_that_could_be_the_lost_tunnel_are_named(setup: Setup) -> None:
    def confuse(request: Request) -> bool:
        if request.name == "create":
            setup.api.add_tunnel("staging")
        return request.name != "create"

    setup.api.after = confuse
    printed = setup.init("--tunnel-name=staging", expect=1)
    assert all(identity in printed for identity in setup.api.tunnels)
    assert "--tunnel-id" in printed
