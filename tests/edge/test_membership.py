"""One node's picture of its cluster."""

from __future__ import annotations

import contextlib
import uuid

from hypothesis import given
from hypothesis import strategies as st

from qanat.edge.membership import Membership, Node, NodeSaid, RouteSaid, decode, encode
from qanat.errors import ProtocolError

TUNNEL = uuid.uuid4()


def node(name: str, accepting: bool = True) -> NodeSaid:
    return NodeSaid(name, Node(name, name, "192.0.2.1", 7845, accepting))


def picture() -> Membership:
    members = Membership("own", lifetime=6.0)
    for name, connections in (("a", 1), ("b", 3)):
        members.hear(node(name), 0.0)
        members.hear(RouteSaid(name, TUNNEL, connections), 0.0)
    return members


def holders(members: Membership, now: float = 1.0) -> list[str]:
    return [each.id for each in members.holders(TUNNEL, now)]


def test_the_node_with_the_most_connections_comes_first_unless_it_could_not_be_reached() -> None:
    members = picture()
    assert holders(members) == ["b", "a"]
    members.suspect("b", 1.0)
    assert holders(members) == ["a", "b"]
    assert holders(members, 4.0) == ["b", "a"]


def test_a_draining_node_gets_nothing_and_a_silent_one_is_forgotten() -> None:
    members = picture()
    members.hear(node("b", accepting=False), 5.0)
    assert holders(members) == ["a"]
    assert members.expire(7.0) == ["a"]
    assert holders(members) == []
    assert not members.others_up(7.0)


def test_what_a_node_says_of_itself_is_not_news_to_it() -> None:
    members = Membership("own", 6.0)
    members.hear(node("own"), 0.0)
    members.hear(RouteSaid("own", TUNNEL, 4), 0.0)
    assert not members.others_up(0.0)
    assert holders(members) == []


def test_a_route_of_a_node_not_yet_heard_of_counts_once_it_is() -> None:
    members = Membership("own", 6.0)
    members.hear(RouteSaid("late", TUNNEL, 1), 0.0)
    assert holders(members) == []
    members.hear(node("late"), 0.0)
    assert holders(members) == ["late"]
    members.hear(RouteSaid("late", TUNNEL, 0), 0.0)
    assert holders(members) == []


def test_messages_survive_the_journey() -> None:
    for said in (node("a"), NodeSaid("a", None), RouteSaid("a", TUNNEL, 2)):
        assert decode(encode(said)) == said


@given(st.text(max_size=40) | st.from_regex(r'\{"(tunnel|node|node_id)": ("x"|1|\{\}|null)\}', fullmatch=True))
def test_garbage_raises_only_a_protocol_error(text: str) -> None:
    with contextlib.suppress(ProtocolError):
        decode(text)
