"""What the connector may be told, and how it says no."""

from __future__ import annotations

from datetime import timedelta

import pytest

from qanat.config import validate
from qanat.connector.config import ConnectorConfig, UpstreamAddress, parse_upstream, split_host_port
from qanat.errors import ConfigInvalid
from tests.support.requirements import requirement


def problems(**settings: object) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        validate(ConnectorConfig, {"token": "x"} | settings)
    return caught.value.problems


def test_the_defaults_are_cloudflareds() -> None:
    config = validate(ConnectorConfig, {"token": "x"})
    assert (config.protocol, config.ha_connections, config.retries) == ("auto", 4, 5)
    assert config.grace_period == timedelta(seconds=30)
    assert config.url is None


@requirement("connector:config")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"token": None}, "a tunnel token is required: --token-file, TUNNEL_TOKEN or TUNNEL_TOKEN_FILE"),
        ({"edge": ["edge:port"]}, "edge.0: "),
        ({"edge": ["https://edge"]}, 'edge.0: "https://edge" is not host:port'),
        ({"edge_wss": ["http://edge"]}, "edge_wss.0: a WebSocket edge must be written wss://host[:port][/path]"),
        ({"url": "ftp://x"}, "url: the upstream URL must begin with http://, https://, tcp:// or unix:"),
        ({"url": "http://x/path"}, "url: the upstream URL may hold only scheme, host and port"),
        ({"url": "tcp://x"}, "url: a tcp:// URL needs a port"),
        ({"protocol": "h3"}, "protocol: "),
        ({"grace_period": "4m"}, "grace_period: at most 3m"),
        ({"ha_connections": 0}, "ha_connections: "),
        ({"no_such": 1}, 'unknown field "no_such"'),
    ],
)
def test_a_wrong_value_names_its_key(settings: dict[str, object], expected: str) -> None:
    (problem,) = problems(**settings)
    assert problem.startswith(expected)


def test_the_token_is_in_no_repr_and_no_error() -> None:
    config = validate(ConnectorConfig, {"token": "very-secret"})
    assert "very-secret" not in repr(config)
    assert "very-secret" not in str(problems(token="very-secret", protocol="nonsense"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edge.example", ("edge.example", 7844)),
        ("edge.example:1", ("edge.example", 1)),
        ("192.0.2.1:2", ("192.0.2.1", 2)),
        ("[2001:db8::1]:3", ("2001:db8::1", 3)),
        ("[2001:db8::1]", ("2001:db8::1", 7844)),
    ],
)
def test_hosts_and_ports_are_taken_apart(text: str, expected: tuple[str, int]) -> None:
    assert split_host_port(text, 7844) == expected


def test_upstreams_are_taken_apart() -> None:
    assert parse_upstream("http://localhost") == UpstreamAddress("http", "localhost", 80)
    assert parse_upstream("https://proxy:8443/") == UpstreamAddress("https", "proxy", 8443)
    assert parse_upstream("unix:/run/proxy.sock") == UpstreamAddress("unix", "localhost", 0, "/run/proxy.sock")
    assert parse_upstream("http://[::1]:8080").authority == "[::1]:8080"
