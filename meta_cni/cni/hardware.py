"""
Hardware addresses as Go's net.ParseMAC reads them: with ':', with '-', or in fours with '.'.

Users write all three, and every reference plugin takes them.
"""

import re

SHAPE = re.compile(
    r"[0-9a-f]{2}(?P<mark>[:-])[0-9a-f]{2}(?:(?P=mark)[0-9a-f]{2})*|[0-9a-f]{4}(?:\.[0-9a-f]{4})+",
    re.IGNORECASE | re.ASCII,
)
ETHERNET, GUID, INFINIBAND = 6, 8, 20
"""Bytes of an address (ETH_ALEN, EUI64, INFINIBAND_ALEN)."""
LENGTHS = (ETHERNET, GUID, INFINIBAND)


def hardware_address(text: str, *lengths: int) -> str | None:
    """The address as lower-case hex with colons, of one of these lengths; None when it is none."""
    digits = re.sub("[:.-]", "", text).lower()
    if SHAPE.fullmatch(text) is None or len(digits) not in [2 * each for each in lengths]:
        return None
    return ":".join(digits[index : index + 2] for index in range(0, len(digits), 2))


def is_of_one_station(address: str) -> bool:
    """Is it neither a group's nor nobody's (is_valid_ether_addr(), <linux/etherdevice.h>)?"""
    return not int(address[:2], 16) & 1 and any(address.replace(":", "").strip("0"))
