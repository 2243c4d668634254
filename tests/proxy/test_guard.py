"""Which addresses may be dialled. Pure judgement; `test_dial.py` proves that it is obeyed."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.proxy.guard import AddressGuard, InvalidNetwork, parse_network, private

REFUSED_BY_DEFAULT = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255",
    "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "8.8.8.8",
    "172.15.255.255", "172.32.0.0", "11.0.0.0", "9.255.255.255", "192.167.255.255", "192.169.0.0",
    "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
    "2002:7f00:1::", "0177.0.0.1", "2130706433", "0x7f.0.0.1", "127.1", "10.0.0.1%eth0", "", "localhost", "10.0.0.1 ",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED_BY_DEFAULT)
def test_only_private_addresses_are_permitted_by_default(address: str) -> None:
    assert not AddressGuard().permits(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "172.16.0.0", "172.31.255.255", "192.168.255.255", "::ffff:10.0.0.1"])
def test_private_addresses_are_permitted(address: str) -> None:
    assert AddressGuard().permits(address)


def guard(*networks: str) -> AddressGuard:
    return AddressGuard(tuple(map(parse_network, networks)))


def test_a_list_replaces_the_default() -> None:
    assert guard("127.0.0.0/8").permits("127.0.0.1")
    assert not guard("127.0.0.0/8").permits("10.0.0.1")


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255"])
def test_a_wide_list_does_not_open_the_guarded_blocks_but_a_narrow_one_does(address: str) -> None:
    assert guard("0.0.0.0/0").permits("8.8.8.8")
    assert not guard("0.0.0.0/0").permits(address)
    assert not guard("0.0.0.0/0", "128.0.0.0/1", "0.0.0.0/1", "169.0.0.0/8").permits(address)
    assert guard("0.0.0.0/0", f"{address}/32").permits(address)


def test_switched_off_everything_passes_that_is_an_address() -> None:
    off = AddressGuard(None)
    assert off.permits("169.254.169.254")
    assert off.permits("::1")
    assert not off.permits("localhost")


def test_a_route_can_only_narrow() -> None:
    assert guard("10.0.0.0/8").covers(parse_network("10.20.0.0/16"))
    assert not guard("10.0.0.0/8").covers(parse_network("11.0.0.0/8"))
    assert not guard("10.20.0.0/16").covers(parse_network("10.0.0.0/8"))


PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


@pytest.mark.parametrize("address", ["fd00::1", "fc00::", "fdff:ffff::1", "10.0.0.1", "::ffff:10.0.0.1"])
def test_with_ipv6_unique_local_addresses_are_private_too(address: str) -> None:
    assert AddressGuard(private(("ipv4", "ipv6"))).permits(address)


@pytest.mark.parametrize("address", [
    "::1", "::", "fe80::1", "fe80::1%eth0", "ff02::1", "2001:db8::1", "fbff:ffff::1", "fe00::1", "127.0.0.1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "2002:a00:1::", "::10.0.0.1",
    "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
])  # fmt: skip
def test_with_ipv6_nothing_else_is_and_no_metadata_service(address: str) -> None:
    assert not AddressGuard(private(("ipv4", "ipv6"))).permits(address)


@pytest.mark.parametrize("address", [
    "::", "fe80::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe", "64:ff9b::808:808", "2002:a9fe:a9fe::1", "2002:7f00:1::", "::169.254.169.254",
    "::ffff:0:169.254.169.254", "64:ff9b::7f00:1",
])  # fmt: skip
def test_a_wide_ipv6_list_does_not_open_what_is_guarded_but_a_narrow_one_does(address: str) -> None:
    wide = guard(*PRIVATE, "::/0", "64:ff9b::/96", "fe80::/64", "2002::/16", "fd00:ec2::/64")
    assert wide.permits("2001:db8::1")
    assert wide.permits("::1")
    assert not wide.permits(address)
    assert guard("::/0", f"{address}/128").permits(address)
    assert guard(f"{address}/112").permits(address)


@pytest.mark.parametrize("address", ["64:ff9b::a00:1", "64:ff9b::c0a8:101", "2002:a00:1::1"])
def test_an_ipv6_address_that_leads_to_a_permitted_ipv4_host_passes_if_itself_is_allowed(address: str) -> None:
    assert guard(*PRIVATE, "64:ff9b::/96", "2002::/16").permits(address)
    assert not guard(*PRIVATE).permits(address)
    assert not guard("64:ff9b::/96", "2002::/16").permits(address)


@given(st.ip_addresses(v=6))
def test_an_ipv4_list_permits_no_ipv6_address_but_a_mapped_one(address: IPv6Address) -> None:
    assert guard("0.0.0.0/0").permits(str(address)) is (
        address.ipv4_mapped is not None and guard("0.0.0.0/0").permits(str(address.ipv4_mapped))
    )


def test_what_is_permitted_is_dialled_as_what_it_is() -> None:
    found = guard(*PRIVATE).permitted(["::1", "FD00:0:0::1", "::ffff:10.0.0.1", "8.8.8.8", "localhost", "10.0.0.2"])
    assert found == ["fd00::1", "10.0.0.1", "10.0.0.2"]


def test_a_route_narrows_each_family_by_itself() -> None:
    assert guard("10.0.0.0/8", "fc00::/7").covers(parse_network("fd00::/8"))
    assert not guard("10.0.0.0/8", "fd00::/8").covers(parse_network("fc00::/7"))
    assert not guard("0.0.0.0/0").covers(parse_network("::/96"))
    assert not guard("::/0").covers(parse_network("10.0.0.0/8"))


@pytest.mark.parametrize("text", ["", "10", "10.0.0.0/33", "fc00::/129", "a", "10.0.0.0/8/8", "010.0.0.0/8"])
def test_an_entry_that_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(InvalidNetwork):
        parse_network(text)


@given(st.ip_addresses(v=4))
def test_the_default_is_exactly_rfc_1918(address: object) -> None:
    octets = [int(part) for part in str(address).split(".")]
    private = octets[0] == 10 or (octets[0] == 172 and 16 <= octets[1] < 32) or octets[:2] == [192, 168]
    assert AddressGuard().permits(str(address)) is private
