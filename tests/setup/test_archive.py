"""`setup archive`: one command ends a tunnel, but only when the id is said twice."""

from __future__ import annotations

from tests.setup.conftest import Setup
from tests.support.tunnels_api import TunnelsAPI


def test_a_confirmed_archive_ends_the_tunnel_and_repeats_harmlessly(setup: Setup, api: TunnelsAPI) -> None:
    identity = api.add_tunnel()
    first = setup("archive", f"--tunnel-id={identity}", f"--confirm={identity}")
    assert api.tunnels[identity]["domain"] in first
    assert setup("archive", f"--tunnel-id={identity}", f"--confirm={identity}") == first


def test_without_confirmation_nothing_happens(setup: Setup, api: TunnelsAPI) -> None:
    identity = api.add_tunnel()
    assert f"--confirm={identity}" in setup("archive", f"--tunnel-id={identity}", expect=2)
    assert f"--confirm={identity}" in setup("archive", f"--tunnel-id={identity}", "--confirm=yes", expect=2)
    assert "--tunnel-id" in setup("archive", expect=2)
    assert api.tunnels[identity]["archived_at"] is None
