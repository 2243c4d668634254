"""What a broken session means: the hop that the edge named, or the one the end itself betrays."""

from __future__ import annotations

import pickle

import pytest

from qanat.client.errors import TunnelFailed, TunnelLost, to_lost
from qanat.net.errors import TLSTruncated, WebSocketClosed
from tests.support.requirements import requirement


@requirement("edge:in-flight")
@pytest.mark.parametrize(
    ("error", "closed", "expected"),
    [
        (TLSTruncated(), WebSocketClosed(1014, "connection_lost at connector"), ("connection_lost", "connector", True)),
        (TLSTruncated(), WebSocketClosed(1014, "connection_lost at edge"), ("connection_lost", "edge", True)),
        (TLSTruncated(), WebSocketClosed(1013, "edge_draining at edge"), ("edge_draining", "edge", True)),
        (TLSTruncated(), WebSocketClosed(1008, "tunnel_archived at edge"), ("tunnel_archived", "edge", False)),
        (TLSTruncated(), WebSocketClosed(1006), ("connection_lost", "edge", True)),
        (TLSTruncated(), WebSocketClosed(1011, "Whatever at <edge>"), ("connection_lost", "edge", True)),
        (ConnectionResetError(), None, ("connection_lost", "edge", True)),
        (TLSTruncated(), None, ("connection_lost", "proxy", True)),
    ],
)
def test_a_broken_session_names_its_hop(
    error: Exception, closed: WebSocketClosed | None, expected: tuple[str, str, bool]
) -> None:
    lost = to_lost(error, closed)
    assert (lost.reason, lost.hop, lost.may_retry) == expected
    assert expected[0] in str(lost)


def test_errors_survive_a_change_of_process() -> None:
    for kind in (TunnelLost, TunnelFailed):
        error = pickle.loads(pickle.dumps(kind("connection_lost", "edge", "x", may_retry=True)))
        assert (type(error), error.hop, error.may_retry) == (kind, "edge", True)
