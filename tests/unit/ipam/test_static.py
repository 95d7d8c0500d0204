"""static: which source of addresses counts, and the reference's words for bad ones."""

import json

import pytest

from meta_cni.cni.config import parse_plugin
from meta_cni.cni.errors import BadConfig, CheckFailed
from meta_cni.cni.result import Result, parse, to_json
from meta_cni.ipam import static
from meta_cni.ipam.static import Static


def opened(ipam: dict[str, object], arguments: dict[str, str] | None = None, **config: object) -> Static:
    document = {"cniVersion": "1.1.0", "name": "blue", "type": "macvlan", **config}
    plugin = parse_plugin(json.dumps(document | {"ipam": {"type": "static", **ipam}}), "network blue")
    return Static(static.parse(plugin, arguments or {}))


def ips(addresses: Static) -> list[tuple[str, str]]:
    return [(str(each.address), str(each.gateway or "")) for each in addresses.acquire().ips]


CONFIGURED = {"addresses": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}]}
ARGS = {"cni": {"ips": ["10.0.0.7/24"]}}
RUNTIME = {"ips": ["10.0.0.8/24", "fd00::8/64"]}


def test_everything_configured_is_answered():
    """Routes and DNS too."""
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0", "gw": "10.0.0.2", "priority": 4000000000}]
    dns = {"nameservers": ["10.0.0.3"], "domain": "d", "search": ["s"], "options": ["o"]}

    answer = opened({**CONFIGURED, "routes": routes, "dns": dns}).acquire()

    document = to_json(answer, "1.1.0")
    assert [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}] == document["ips"]
    assert routes == document["routes"]
    assert dns == document["dns"]


def test_no_address_at_all_is_no_error():
    """As the reference: routes and DNS may be all that is wanted."""
    assert Result() == opened({}).acquire()


def test_cni_args_add():
    """With the last gateway of their network, as the reference."""
    arguments = {"IP": "10.0.0.6/24, fd00::6/64,", "GATEWAY": "10.0.0.2,10.0.0.3,fd00::1"}

    assert [
        ("10.0.0.5/24", "10.0.0.1"),
        ("10.0.0.6/24", "10.0.0.3"),
        ("fd00::6/64", "fd00::1"),
    ] == ips(opened(CONFIGURED, arguments))


def test_args_replace_and_the_capability_replaces_again():
    """The more particular source counts."""
    arguments = {"IP": "10.0.0.6/24"}

    assert [("10.0.0.7/24", "")] == ips(opened(CONFIGURED, arguments, args=ARGS))
    assert [("10.0.0.8/24", ""), ("fd00::8/64", "")] == ips(
        opened(CONFIGURED, arguments, args=ARGS, runtimeConfig=RUNTIME)
    )


def test_an_empty_request_is_none():
    """`"ips": []` is what runtimes write when nobody asked."""
    assert [("10.0.0.5/24", "10.0.0.1")] == ips(opened(CONFIGURED, runtimeConfig={"ips": []}))


BAD = {
    "configured": (
        {"addresses": [{"address": "10.0.0.5"}]},
        {},
        {},
        r"addresses\[0\]: the 'address' field is expected to be in CIDR notation, got: '10.0.0.5'$",
    ),
    "missing": (
        {"addresses": [{"gateway": "10.0.0.5"}]},
        {},
        {},
        "the 'address' field is expected to be in CIDR notation, got: ''$",
    ),
    "a zone": ({"addresses": [{"address": "fe80::1%eth0/64"}]}, {}, {}, "got: 'fe80::1%eth0/64'$"),
    "a netmask": ({"addresses": [{"address": "10.0.0.7/255.255.255.0"}]}, {}, {}, "got: '10.0.0.7/255"),
    "gateway": (
        {"addresses": [{"address": "10.0.0.5/24", "gateway": "x"}]},
        {},
        {},
        'gateway "x": expected an IP',
    ),
    "CNI_ARGS": (
        {},
        {"IP": "10.0.0.6"},
        {},
        "CNI_ARGS IP: the 'ip' field is expected to be in CIDR notation, got: '10.0.0.6'$",
    ),
    "CNI_ARGS gateway": (
        {},
        {"IP": "10.0.0.6/24", "GATEWAY": "zz"},
        {},
        "CNI_ARGS GATEWAY 'zz': expected an IP address$",
    ),
    "args": (
        {},
        {},
        {"args": {"cni": {"ips": ["10.0.0.7"]}}},
        "args: cni: an entry in the 'ips' field is NOT in CIDR notation, got: '10.0.0.7'$",
    ),
    "capability": (
        {},
        {},
        {"runtimeConfig": {"ips": [""]}},
        "runtimeConfig: an entry in the 'ips' field is NOT in CIDR notation, got: ''$",
    ),
    "no strings": ({}, {}, {"runtimeConfig": {"ips": [1]}}, "expected a list of strings"),
    "a route": (
        {"routes": [{"dst": "0.0.0.0"}]},
        {},
        {},
        r"routes\[0\]: dst \"0.0.0.0\": expected a network",
    ),
    "two of a family": (
        {"addresses": [{"address": "10.0.0.5/24"}, {"address": "10.0.0.6/24"}]},
        {},
        {"cniVersion": "0.2.0"},
        "CNI version 0.2.0 does not support more than 1 address per family$",
    ),
}


@pytest.mark.parametrize(("ipam", "arguments", "config", "message"), BAD.values(), ids=BAD)
def test_bad_addresses_are_refused(
    ipam: dict[str, object], arguments: dict[str, str], config: dict[str, object], message: str
):
    """Before anything is touched, and with the place where they were written."""
    with pytest.raises(BadConfig, match=message):
        opened(ipam, arguments, **config)


def previous(*addresses: dict[str, str]) -> Result:
    return parse({"cniVersion": "1.1.0", "ips": list(addresses)}, "1.1.0")


def test_check_finds_the_addresses_again():
    """Other addresses are somebody else's business; a gateway that was taken out is the plan's."""
    addresses = opened(CONFIGURED)

    addresses.check(previous({"address": "10.0.0.5/24", "gateway": "10.0.0.1"}, {"address": "10.9.0.1/24"}))
    addresses.check(previous({"address": "10.0.0.5/24"}))


def test_check_misses_an_address_or_its_gateway():
    """Somebody changed the configuration of a running pod."""
    addresses = opened(CONFIGURED)

    with pytest.raises(CheckFailed, match=r"check static address 10.0.0.5/24: it is not in prevResult"):
        addresses.check(previous({"address": "10.0.0.6/24"}))
    with pytest.raises(CheckFailed, match=r"expected gateway 10.0.0.1, got 10.0.0.9"):
        addresses.check(previous({"address": "10.0.0.5/24", "gateway": "10.0.0.9"}))


def test_release_is_always_possible():
    """There is nothing to give back."""
    addresses = opened(CONFIGURED)

    addresses.release()

    assert not addresses.is_none
