"""Hardware addresses, in every notation that Go reads."""

import pytest

from meta_cni.cni.hardware import ETHERNET, LENGTHS, hardware_address, is_of_one_station


@pytest.mark.parametrize(
    ("text", "lengths", "expected"),
    [
        ("02:00:5E:00:53:01", (ETHERNET,), "02:00:5e:00:53:01"),
        ("02-00-5e-00-53-01", (ETHERNET,), "02:00:5e:00:53:01"),
        ("0200.5e00.5301", (ETHERNET,), "02:00:5e:00:53:01"),
        ("02:00:5e:00:00:00:53:01", LENGTHS, "02:00:5e:00:00:00:53:01"),
        ("02:00:5e:00:00:00:53:01", (ETHERNET,), None),
        ("80" + "-00" * 19, LENGTHS, "80" + ":00" * 19),
        ("02:00-5e:00:53:01", (ETHERNET,), None),
        ("02:00:5e:00:53", (ETHERNET,), None),
        ("02005e005301", (ETHERNET,), None),
        ("02:00:5e:00:53:0\u0661", (ETHERNET,), None),
        ("02:00:5e:00:53:01\n", (ETHERNET,), None),
        ("", LENGTHS, None),
    ],
)
def test_hardware_addresses_are_read_in_every_notation(
    text: str, lengths: tuple[int, ...], expected: str | None
):
    """Users write all three, and each reference plugin reads them."""
    assert expected == hardware_address(text, *lengths)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("02:00:5e:00:53:01", True), ("01:00:5e:00:53:01", False), ("00:00:00:00:00:00", False)],
)
def test_a_link_has_the_address_of_one_station(address: str, expected: bool):
    """The kernel gives it no other."""
    assert expected == is_of_one_station(address)
