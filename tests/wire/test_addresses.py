"""Every spelling of an IPv4 host as an IPv6 address is seen through."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from qanat.wire.addresses import reached


@pytest.mark.parametrize(
    ("address", "ends_at"),
    [
        ("::ffff:169.254.169.254", "169.254.169.254"),
        ("::169.254.169.254", "169.254.169.254"),
        ("::ffff:0:169.254.169.254", "169.254.169.254"),
        ("64:ff9b::169.254.169.254", "169.254.169.254"),
        ("64:ff9b:1::10.0.0.1", "10.0.0.1"),
        ("2002:a9fe:a9fe::1", "169.254.169.254"),
        ("64:ff9b::8.8.8.8", "8.8.8.8"),
        ("2606:4700::1111", "2606:4700::1111"),
        ("::1", "::1"),
        ("::", "::"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_an_address_is_taken_for_the_one_it_leads_to(address: str, ends_at: str) -> None:
    assert reached(ip_address(address)) == ip_address(ends_at)
