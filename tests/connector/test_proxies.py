"""Which proxy the environment asks for."""

from __future__ import annotations

import pytest

from qanat.connector.proxies import proxy_for
from qanat.tunnel.wss import parse_proxy
from tests.support.requirements import requirement

PROXY = "http://proxy.example:3128"


@requirement("connector:proxy-env")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        ({"ALL_PROXY": PROXY}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "edge.example"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": ".example"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*.example"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "EXAMPLE, other"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "ge.example"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "edge.example:443"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "edge.example:8443"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": ",,"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, PROXY),
    ],
)
def test_the_environment_decides(environment: dict[str, str], expected: str | None) -> None:
    assert proxy_for("edge.example", 443, environment) == expected


def test_networks_are_matched_by_address() -> None:
    environment = {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8,2001:db8::/32"}
    assert proxy_for("10.1.2.3", 443, environment) is None
    assert proxy_for("[2001:db8::1]", 443, environment) is None
    assert proxy_for("192.0.2.1", 443, environment) == PROXY


@requirement("connector:proxy-env")
def test_a_proxys_credentials_become_basic_authentication_and_stay_out_of_its_repr() -> None:
    proxy = parse_proxy("http://user:p%40ss@proxy.example:3128")
    assert (proxy.host, proxy.port, proxy.is_https) == ("proxy.example", 3128, False)
    assert proxy.authorization == "Basic dXNlcjpwQHNz"
    assert "dXNlcjpwQHNz" not in repr(proxy)
    assert parse_proxy("proxy.example:3128").port == 3128
    assert parse_proxy("https://proxy.example").port == 443


@pytest.mark.parametrize("url", ["socks5://proxy:1080", "http://", "http://proxy:port"])
def test_a_proxy_of_another_kind_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"proxy|Port"):
        parse_proxy(url)
