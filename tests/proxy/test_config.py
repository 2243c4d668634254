"""The configuration file: what loads, and the words an operator gets for what does not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from qanat.errors import ConfigInvalid
from qanat.proxy.config import ProxyConfig, load_config, parse_config, warnings
from qanat.proxy.document import Document
from tests.support.requirements import requirement

DOCUMENTED = """\
listen_addr: ":8080"
log_level: info
shutdown_timeout: 30s
tunnel_domain: abc123.tunnel.example.com
tls:
  cert_file: /data/tls.crt
  key_file: /data/tls.key
routes:
  echo: http://hello-mcp:9000
  docs.internal.example.com: https://10.1.2.3:8443
upstream:
  allowed_ips: [10.0.0.0/8, 100.64.0.0/10, 192.168.1.5]
  tls:
    ca_file: /etc/ssl/internal-ca.pem
    include_system_cas: true
"""
MINIMAL = 'listen_addr: ":0"\ntls: {cert_file: c, key_file: k}\n'


def parse(text: str, **options: Any) -> ProxyConfig:
    return parse_config(Document(text.encode(), "config.yaml"), **options)


def problems(text: str, **options: object) -> list[str]:
    with pytest.raises(ConfigInvalid) as invalid:
        parse(text, **options)
    return invalid.value.problems


def test_the_documented_file_loads() -> None:
    config = parse(DOCUMENTED)
    assert config.listen_addr == ("", 8080)
    assert config.shutdown_timeout == timedelta(seconds=30)
    assert str(config.routes["echo"].upstream) == "http://hello-mcp:9000"
    assert config.upstream.guard.describe() == "10.0.0.0/8,100.64.0.0/10,192.168.1.5/32"


def test_the_defaults_are_the_documented_ones() -> None:
    config = parse(MINIMAL + "routes: {a.b: 'http://x:1'}")
    assert config.log_level == "info"
    assert config.shutdown_timeout == timedelta(seconds=30)
    assert config.upstream.ip_families == ("ipv4",)
    assert config.upstream.guard.describe() == "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"
    assert not config.upstream.tls.include_system_cas
    assert not config.reload.enabled
    assert config.admin is None


@requirement("proxy:2")
def test_routes_as_a_list_are_refused_in_gos_words() -> None:
    found = problems(MINIMAL + "tunnel_domain: t.example\nroutes:\n  - a: http://x:1\n")
    assert found[0] == "yaml: unmarshal errors:"
    assert found[1] == "  line 5: cannot unmarshal !!seq into map[string]string"


@pytest.mark.parametrize(("line", "message"), [
    ("log_level: [a]", "log_level: must be debug, info, warn or error, not \"['a']\""),
    ("upstream: {disable_ip_validation: maybe}", "cannot unmarshal !!str `maybe` into bool"),
    ("upstream: {allowed_ips: 10.0.0.0/8}", "cannot unmarshal !!str `10.0.0.0/8` into []string"),
    ("websocket: []", "cannot unmarshal !!seq into map[string]interface {}"),
    ("limits: {streams: many}", "cannot unmarshal !!str `many` into int"),
])  # fmt: skip
def test_other_wrong_types_are_refused_in_the_same_words(line: str, message: str) -> None:
    assert any(message in found for found in problems(f"{MINIMAL}routes: {{a.b: 'http://x:1'}}\n{line}\n"))


@requirement("proxy:3")
@pytest.mark.parametrize("value", [
    "http://h:80/mcp", "http://h", "h:80", "ftp://h:21", "http://h:80/", "http://u:p@h:80", "http://h:80?q",
    "http://h:80#f", "http://h:0", "http://h:65536", "http://h:080", "http://:80", "http://h:80 ", "HTTP://h:80",
    "http://2130706433:80", "http://0177.0.0.1:80", "http://0x7f000001:80", "http://127.1:80", "http://0x7f.1:80",
    "http://127.0.0.1.:80", "http://[::1:80", "http://[fe80::1%eth0]:80", "http://a..b:80", "http://-a:80",
    "http://a b:80", "http://é:80", "http://1.2.3.4.5:80", "http://256.1.1.1:80", "http://01.2.3.4:80",
])  # fmt: skip
def test_an_upstream_must_be_scheme_host_and_port(value: str) -> None:
    found = problems(f"{MINIMAL}tunnel_domain: t.example\nroutes: {{echo: {value!r}}}\n")
    assert len(found) == 1
    assert "invalid upstream (must be scheme://host:port)" in found[0]
    assert "routes.echo" in found[0]
    assert value in found[0]


@pytest.mark.parametrize("value", [
    "http://hello-mcp:9000", "https://a_b.c:1", "http://10.0.0.5:65535", "http://[2001:db8::1]:80", "http://H.Example:80",
])  # fmt: skip
def test_good_upstreams_load(value: str) -> None:
    parse(f"{MINIMAL}tunnel_domain: t.example\nroutes: {{echo: {value!r}}}\n")


@requirement("proxy:5")
def test_an_allow_list_and_disabled_validation_exclude_each_other() -> None:
    text = MINIMAL + "routes: {a.b: 'http://x:1'}\nupstream: {allowed_ips: [10.0.0.0/8], disable_ip_validation: true}\n"
    assert problems(text) == ["upstream.allowed_ips and upstream.disable_ip_validation are mutually exclusive"]


@requirement("proxy:6", "proxy:7", "proxy:8")
def test_bare_keys_need_a_tunnel_domain_from_the_file_or_the_flag() -> None:
    bare = MINIMAL + "routes: {echo: 'http://x:1'}\n"
    assert problems(bare) == ["tunnel_domain is required when routes keys are bare subdomains"]
    assert parse(bare, tunnel_domain="t.example").tunnel_domain == "t.example"
    assert parse(bare + "tunnel_domain: other\n", tunnel_domain="t.example").tunnel_domain == "t.example"
    assert parse(MINIMAL + "routes: {echo.t.example: 'http://x:1'}\n").tunnel_domain == ""


@pytest.mark.parametrize(("line", "message"), [
    ("upstream: {allowed_ips: [10.0.0.0/8, 10.0.0.0/33]}", 'upstream.allowed_ips[1]: invalid IP or CIDR "10.0.0.0/33"'),
    ("upstream: {allowed_ips: ['fc00::/129']}", 'upstream.allowed_ips[0]: invalid IP or CIDR "fc00::/129"'),
    ("upstream: {allowed_ips: [10.0.0.0/8, 'fd00::/8']}",
     "upstream.allowed_ips[1]: fd00::/8 is IPv6: add ipv6 to upstream.ip_families"),
    ("upstream: {ip_families: []}", "upstream.ip_families: "),
    ("upstream: {host_header: 'bücher.example'}", "upstream.host_header: must be upstream, preserve or a host name"),
    ("upstream: {host_header: \"a\\r\\nX: y\"}", "upstream.host_header: must be upstream, preserve or a host name"),
    ("log_level: !!int secret", "not a valid int"),
    ("log_level: !!int", "not a valid int"),
    ("log_level: !!bool secret", "not a valid bool"),
    ('upstream: {tls: {ca_file: "/a\\0b"}}', "yaml: line 4: a zero character or half a pair is no text"),
    ('log_level: "\\ud800"', "is no text"),
    ('"\\ud800": x', "is no text"),
    ("shutdown_timeout: 99999999999999h", "shutdown_timeout: invalid duration"),
    ("upstream: {ip_families: [ipv6, ipv6]}", "upstream.ip_families: each family once"),
    ("upstream: {ip_families: [ipv5]}", "upstream.ip_families.0: Input should be 'ipv4' or 'ipv6'"),
    ("upstreem: {}", 'unknown field "upstreem" (did you mean "upstream"?)'),
    ("upstream: {alowed_ips: []}", 'unknown field "upstream.alowed_ips" (did you mean "allowed_ips"?)'),
    ("shutdown_timeout: 30", "shutdown_timeout: invalid duration \"30\""),
    ("shutdown_timeout: -1s", "shutdown_timeout: invalid duration \"-1s\""),
    ("log_level: loud", "log_level: must be debug, info, warn or error"),
    ("listen_addr2: x", 'unknown field "listen_addr2"'),
    ("tunnel_domain: 'not a name'", "tunnel_domain: invalid hostname"),
    ("x: !!python/object:os.system {}", "is not allowed"),
])  # fmt: skip
def test_a_wrong_value_names_its_key(line: str, message: str) -> None:
    assert any(message in found for found in problems(f"{MINIMAL}routes: {{a.b: 'http://x:1'}}\n{line}\n"))


def test_every_problem_is_reported_at_once() -> None:
    found = problems("routes: {echo: bad, ECHO: 'http://x:1'}\nupstream: {allowed_ips: [nonsense]}\nwhat: 1\n")
    text = "\n".join(found)
    for message in (
        "listen_addr is required", "tls is required", "invalid upstream", "invalid IP or CIDR", 'unknown field "what"',
        'duplicate route "ECHO"', "tunnel_domain is required",
    ):  # fmt: skip
        assert message in text


@pytest.mark.parametrize(("text", "message"), [
    ("a: 1\na: 2\n", 'yaml: line 2: key "a" already set in map'),
    ("a: 1\n---\nb: 2\n", "yaml: line"),
    ("a: [1\n", "yaml: line"),
    ("\xff", "config.yaml: not UTF-8"),
])  # fmt: skip
def test_a_file_that_is_not_one_plain_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        Document(text.encode("latin-1"), "config.yaml")
    assert message in invalid.value.problems[0]


def test_a_document_of_aliases_upon_aliases_does_not_grow_without_end() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 14)]
    with pytest.raises(ConfigInvalid):
        Document("\n".join(lines).encode(), "config.yaml")


def test_anchors_may_be_used() -> None:
    config = parse(MINIMAL + "routes: {a.b: &u 'http://x:1', c.d: *u}\n")
    assert config.routes["c.d"].upstream.host == "x"


def test_keys_are_read_as_they_are_written() -> None:
    config = parse(
        MINIMAL + "tunnel_domain: t.example\nroutes: {on: 'http://x:1', 10: 'http://x:2', null: 'http://x:3'}\n"
    )
    assert list(config.routes) == ["on", "10", "null"]


def test_unknown_fields_can_be_allowed() -> None:
    config = parse(MINIMAL + "routes: {a.b: 'http://x:1'}\nnew: 1\nupstream: {newer: 2}\n", allow_unknown_fields=True)
    assert "a.b" in config.routes


def test_the_object_form_loads_beside_the_short_one() -> None:
    config = parse(
        MINIMAL
        + """
tunnel_domain: t.example
routes:
  wiki: http://wiki:8080
  search:
    upstream: https://search.corp:8443
    host_header: preserve
    allowed_ips: [10.20.0.0/16]
    tls: {ca_file: /pki/ca.pem, server_name: search.corp}
    timeouts: {connect: 3s, response_header: 0s, stream_idle: 0s}
    paths: [/mcp, /.well-known/]
    sse_keepalive: 15s
    max_in_flight: 10
"""
    )
    assert config.routes["search"].timeouts.connect == timedelta(seconds=3)
    assert config.routes["search"].paths == ("/mcp", "/.well-known/")


def test_what_is_allowed_but_seldom_meant_is_warned_about() -> None:
    wide = parse(
        MINIMAL + "tunnel_domain: t.example\nroutes: {a.b: 'https://x:1'}\nupstream: {allowed_ips: [0.0.0.0/0]}\n"
    )
    text = "\n".join(warnings(wide))
    assert "0.0.0.0/0 is very wide" in text
    assert "no CA is trusted" in text
    assert "more than one label" in text
    assert "leads to an address" not in text
    off = parse(MINIMAL + "routes: {a.b: 'http://x:1'}\nupstream: {disable_ip_validation: true}\n")
    assert any("DISABLED" in sentence for sentence in warnings(off))


@pytest.mark.parametrize(("families", "private"), [
    ("[ipv4]", "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"),
    ("[ipv6]", "fc00::/7"),
    ("[ipv4, ipv6]", "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"),
])  # fmt: skip
def test_the_private_networks_are_those_of_the_families(families: str, private: str) -> None:
    config = parse(f"{MINIMAL}routes: {{a.b: 'http://x:1'}}\nupstream: {{ip_families: {families}}}\n")
    assert config.upstream.guard.describe() == private


@pytest.mark.parametrize("where", ["allowed_ips: ['fd00::/8']", "auth: {allowed_ips: ['fd00::/8']}"])
def test_a_routes_list_names_no_family_that_is_not_looked_up(where: str) -> None:
    route = f"routes: {{a.b: {{upstream: 'http://x:1', {where}}}}}\n"
    (found,) = problems(MINIMAL + route)
    assert found.startswith("routes.a.b.")
    assert found.endswith("allowed_ips[0]: fd00::/8 is IPv6: add ipv6 to upstream.ip_families")
    parse(MINIMAL + route + "upstream: {ip_families: [ipv6]}\n")


@pytest.mark.parametrize(("upstream", "settings", "warned"), [
    ("http://[fd00::1]:80", "", True),
    ("http://[fd00::1]:80", "upstream: {ip_families: [ipv4, ipv6]}", False),
    ("http://[::ffff:10.0.0.1]:80", "", False),
    ("http://10.0.0.1:80", "", False),
    ("http://127.0.0.1:80", "", True),
    ("http://127.0.0.1:80", "upstream: {disable_ip_validation: true}", False),
    ("http://wiki:80", "upstream: {allowed_ips: []}", False),
])  # fmt: skip
def test_a_route_to_a_number_that_may_not_be_dialled_is_warned_about(
    upstream: str, settings: str, warned: bool
) -> None:
    text = "\n".join(warnings(parse(f"{MINIMAL}routes: {{a.b: {upstream!r}}}\n{settings}\n")))
    assert ('route "a.b" leads to an address that' in text) is warned


@pytest.mark.parametrize(("network", "warned"), [("fc00::/7", False), ("2001:db8::/32", False), ("2000::/3", True)])
def test_a_wide_ipv6_network_is_warned_about(network: str, warned: bool) -> None:
    settings = f"upstream: {{ip_families: [ipv6], allowed_ips: ['{network}']}}"
    found = warnings(parse(f"{MINIMAL}routes: {{a.b: 'http://x:1'}}\n{settings}\n"))
    assert any(f"{network} is very wide" in sentence for sentence in found) is warned


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        load_config(tmp_path / "none.yaml")
    assert invalid.value.problems == [f"open {tmp_path / 'none.yaml'}: no such file or directory"]
