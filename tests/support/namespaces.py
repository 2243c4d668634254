"""Networks of a test's own: namespaces, links between them, and cuts. Needs root.

None has a name or an address outside: the test's thread moves into a fresh namespace and back, the others live as long
as a `cat` that ends with the test's process. So nothing is left over, however a test ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Literal

import pytest

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

Cut = Literal["packets are dropped", "the link is down"]
CUTS: tuple[Cut, ...] = ("packets are dropped", "the link is down")

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft", "nsenter", "unshare"))),
    reason="makes network namespaces: needs root, iproute2 and nftables",
)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


class Namespace:
    """A network of its own, with nothing in it but loopback and what `link` adds."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(b"\n")
        self._keeper.stdin.flush()
        self._keeper.stdout.readline()  # it runs, so the namespace is there
        self.run("ip", "link", "set", "lo", "up")

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with to run in here."""
        return ("nsenter", f"--net=/proc/{self._keeper.pid}/ns/net")

    def run(self, *command: str) -> None:
        run(*self.prefix, *command)

    def take(self, interface: str) -> None:
        """Move an interface of the test's own network in here."""
        run("ip", "link", "set", interface, "netns", str(self._keeper.pid))

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.communicate()


class Link:
    """A cable from the test (or from `near`) to a namespace: `.1` and `.2` of `10.77.<number>.0/24`."""

    def __init__(self, number: int, far: Namespace, near: Namespace | None = None) -> None:
        self._far, self._interface = far, f"far{number}"
        self.near_address, self.far_address = f"10.77.{number}.1", f"10.77.{number}.2"
        run("ip", "link", "add", f"near{number}", "type", "veth", "peer", "name", self._interface)
        far.take(self._interface)
        here: tuple[str, ...] = ()
        if near is not None:
            near.take(f"near{number}")
            here = near.prefix
        for prefix, name, address in (
            (here, f"near{number}", self.near_address),
            (far.prefix, self._interface, self.far_address),
        ):
            run(*prefix, "ip", "address", "add", f"{address}/24", "dev", name)
            run(*prefix, "ip", "link", "set", name, "up")

    def cut(self, how: Cut) -> None:
        """Nothing gets through any more, and nobody is told."""
        if how == "the link is down":
            self._far.run("ip", "link", "set", self._interface, "down")
            return
        self._far.run("nft", "add", "table", "inet", self._interface)
        for hook, side in (("input", "iifname"), ("output", "oifname")):
            chain = f"{{ type filter hook {hook} priority 0 ; }}"
            self._far.run("nft", "add", "chain", "inet", self._interface, hook, chain)
            self._far.run("nft", "add", "rule", "inet", self._interface, hook, side, self._interface, "drop")

    def mend(self, how: Cut) -> None:
        """As before the cut."""
        if how == "the link is down":
            self._far.run("ip", "link", "set", self._interface, "up")
        else:
            self._far.run("nft", "delete", "table", "inet", self._interface)


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a fresh namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _check(_libc.unshare(CLONE_NEWNET))
        try:
            run("ip", "link", "set", "lo", "up")
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET))
    finally:
        os.close(home)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """So many networks."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            namespace = Namespace()
            stack.callback(namespace.close)
            made.append(namespace)
        yield made
