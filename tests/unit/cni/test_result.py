"""A Result in every version: the reference library's own example, its conversion matrix, and merging."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_cni.cni.errors import CNIError, DecodeFailure, IncompatibleVersion
from meta_cni.cni.result import DNS, Interface, IPConfig, Result, Route, merge, parse, to_json
from meta_cni.cni.version import NEWEST, SUPPORTED

OLDEST = ("0.1.0", "0.2.0")  # ip4 and ip6
MIDDLE = ("0.3.0", "0.3.1", "0.4.0")  # lists, an address tells its version
NEW = ("1.0.0", "1.1.0")

GOLDEN = Result(
    interfaces=(
        Interface(
            name="eth0",
            mac="00:11:22:33:44:55",
            sandbox="/proc/3553/ns/net",
            mtu=1500,
            socket_path="/path/to/vhost/fd",
            pci_id="8086:9a01",
        ),
    ),
    ips=(
        IPConfig(ip_interface("1.2.3.30/24"), ip_address("1.2.3.1"), 0),
        IPConfig(ip_interface("abcd:1234:ffff::cdde/64"), ip_address("abcd:1234:ffff::1"), 0),
    ),
    routes=(
        Route(ip_network("15.5.6.0/24"), ip_address("15.5.6.8")),
        Route(ip_network("1111:dddd::/80"), ip_address("1111:dddd::aaaa")),
    ),
    dns=DNS(("1.2.3.4", "1::cafe"), "acompany.net", ("somedomain.net",), ("foo",)),
)

GOLDEN_DNS = {
    "nameservers": ["1.2.3.4", "1::cafe"],
    "domain": "acompany.net",
    "search": ["somedomain.net"],
    "options": ["foo"],
}
GOLDEN_ROUTES = [
    {"dst": "15.5.6.0/24", "gw": "15.5.6.8"},
    {"dst": "1111:dddd::/80", "gw": "1111:dddd::aaaa"},
]
OLD_INTERFACE = {"name": "eth0", "mac": "00:11:22:33:44:55", "sandbox": "/proc/3553/ns/net"}
NEW_INTERFACE = {**OLD_INTERFACE, "mtu": 1500, "socketPath": "/path/to/vhost/fd", "pciID": "8086:9a01"}
GOLDEN_IPS = [
    {"interface": 0, "address": "1.2.3.30/24", "gateway": "1.2.3.1"},
    {"interface": 0, "address": "abcd:1234:ffff::cdde/64", "gateway": "abcd:1234:ffff::1"},
]


def golden_document(version: str) -> dict[str, object]:
    """The golden pair as a version writes it."""
    if version in OLDEST:
        (v4, v6), (v4_route, v6_route) = GOLDEN_IPS, GOLDEN_ROUTES
        members: dict[str, object] = {
            "ip4": {"ip": v4["address"], "gateway": v4["gateway"], "routes": [v4_route]},
            "ip6": {"ip": v6["address"], "gateway": v6["gateway"], "routes": [v6_route]},
        }
    elif version in MIDDLE:
        ips = [{"version": family, **ip} for family, ip in zip("46", GOLDEN_IPS, strict=True)]
        members = {"interfaces": [OLD_INTERFACE], "ips": ips, "routes": GOLDEN_ROUTES}
    else:
        members = {"interfaces": [NEW_INTERFACE], "ips": GOLDEN_IPS, "routes": GOLDEN_ROUTES}
    return {"cniVersion": version, **members, "dns": GOLDEN_DNS}


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_golden_pair_is_written_as_the_reference_library_writes_it(version: str):
    """Every runtime and plugin in the field reads what that library writes."""
    assert golden_document(version) == to_json(GOLDEN, version)


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_golden_pair_is_read_in_every_version(version: str):
    """An old plugin's answer is as good as a new one's, apart from what its version cannot say."""
    assert expected_after(GOLDEN, version) == parse(golden_document(version), NEWEST)


def test_0_4_loses_exactly_mtu_socket_path_and_pci_id():
    """The one loss between 1.1.0 and 0.4.0."""
    bare = replace(GOLDEN.interfaces[0], mtu=0, socket_path="", pci_id="")

    assert replace(GOLDEN, interfaces=(bare,)) == parse(to_json(GOLDEN, "0.4.0"), "")


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@st.composite
def interface_addresses(draw: st.DrawFn):
    address = draw(addresses)
    return ip_interface(f"{address}/{draw(st.integers(0, address.max_prefixlen))}")


texts = st.text(max_size=8)
lists = st.lists(texts, max_size=3).map(tuple)
optional_u32 = st.none() | st.integers(0, 2**32 - 1)
interfaces = st.builds(Interface, texts, texts, texts, st.integers(0, 2**31 - 1), texts, texts)
routes = st.builds(
    Route,
    interface_addresses().map(lambda address: address.network),
    st.none() | addresses,
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    optional_u32,
    st.none() | st.integers(0, 255),
)


@st.composite
def made_results(draw: st.DrawFn) -> Result:
    links = draw(st.lists(interfaces, max_size=3))
    indexes = st.none() | st.integers(0, len(links) - 1) if links else st.none()
    ips = st.lists(st.builds(IPConfig, interface_addresses(), st.none() | addresses, indexes), max_size=4)
    return Result(
        tuple(links),
        tuple(draw(ips)),
        tuple(draw(st.lists(routes, max_size=4))),
        draw(st.builds(DNS, lists, texts, lists, lists)),
    )


def expected_after(result: Result, version: str) -> Result:
    """What the conversion matrix of the reference library leaves of a result."""
    if version in NEW:
        return result
    if version in MIDDLE:
        return replace(
            result, interfaces=tuple(Interface(i.name, i.mac, i.sandbox) for i in result.interfaces)
        )
    firsts = {ip.address.version: ip for ip in reversed(result.ips)}
    families = sorted(firsts)
    return Result(
        ips=tuple(replace(firsts[family], interface=None) for family in families),
        routes=tuple(
            Route(route.destination, route.gateway)
            for family in families
            for route in result.routes
            if route.destination.version == family
        ),
        dns=result.dns,
    )


@given(made_results(), st.sampled_from(SUPPORTED))
def test_a_version_loses_exactly_what_the_matrix_says(result: Result, version: str):
    """Nothing more, and a second conversion loses nothing at all."""
    if version in OLDEST and not result.ips:
        return

    once = parse(to_json(result, version), "")

    assert expected_after(result, version) == once
    assert once == parse(to_json(once, version), "")


@given(made_results(), st.sampled_from(SUPPORTED))
def test_what_is_written_is_json_that_says_something(result: Result, version: str):
    """Empty members are left out; an index, a table or a scope of 0 says something."""
    if version in OLDEST and not result.ips:
        return

    document = to_json(result, version)

    assert document == json.loads(json.dumps(document))
    assert version == document["cniVersion"]
    assert [] == [key for key, value in members_of(document) if value in ("", None, [], {}) and key != "name"]


def members_of(value: object):
    """The members of every object in a document."""
    if isinstance(value, dict):
        yield from value.items()
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from members_of(each)


@pytest.mark.parametrize("version", OLDEST)
def test_a_result_without_addresses_cannot_be_written_before_0_3(version: str):
    """Layer 2 networks cannot use these versions; the text is the reference library's."""
    with pytest.raises(DecodeFailure, match="cannot convert: no valid IP addresses") as caught:
        to_json(replace(GOLDEN, ips=()), version)

    assert 6 == caught.value.code


@pytest.mark.parametrize("version", OLDEST)
def test_routes_of_a_family_without_address_are_lost_before_0_3(version: str):
    """There is no place for them."""
    document = to_json(replace(GOLDEN, ips=GOLDEN.ips[:1]), version)

    assert ["cniVersion", "ip4", "dns"] == list(document)


@pytest.mark.parametrize("version", OLDEST)
def test_route_attributes_do_not_exist_before_0_3(version: str):
    """The reference library carries destination and gateway over, nothing else."""
    route = {"dst": "10.0.0.0/8", "mtu": 9000, "table": 5}
    document = {"cniVersion": version, "ip4": {"ip": "10.1.2.3/8", "routes": [route]}}

    assert (Route(ip_network("10.0.0.0/8")),) == parse(document, "").routes
    full = replace(parse(document, ""), routes=(Route(ip_network("10.0.0.0/8"), mtu=9000, table=5),))
    assert {"ip": "10.1.2.3/8", "routes": [{"dst": "10.0.0.0/8"}]} == to_json(full, version)["ip4"]


@pytest.mark.parametrize("version", [version for version in SUPPORTED if version not in OLDEST])
def test_route_attributes_are_kept_from_0_3_on(version: str):
    """0.x does not define them, but the reference library reads and writes them there."""
    written = {"dst": "0.0.0.0/0", "mtu": 1400, "advmss": 1360, "priority": 7, "table": 0, "scope": 0}
    route = Route(ip_network("0.0.0.0/0"), None, 1400, 1360, 7, 0, 0)

    assert (route,) == parse({"cniVersion": version, "routes": [written]}, "").routes
    assert [written] == to_json(Result(routes=(route,)), version)["routes"]


@pytest.mark.parametrize("version", MIDDLE)
def test_what_1_0_added_is_an_unknown_key_before(version: str):
    """So a wrong value there is no mistake either."""
    interface = {"name": "net1", "mtu": "big", "socketPath": 5, "pciID": "0000:00:00.0"}

    assert (Interface("net1"),) == parse({"cniVersion": version, "interfaces": [interface]}, "").interfaces


@pytest.mark.parametrize(
    ("stated", "default", "is_old"),
    [
        (None, "0.2.0", True),
        ("", "0.2.0", True),
        (None, "1.0.0", False),
        (None, "", True),
        ("0.4.0", "0.1.0", False),
    ],
)
def test_a_missing_version_is_the_configurations(stated: str | None, default: str, is_old: bool):
    """Old plugins do not say it; without any it is 0.1.0 (specification)."""
    document = {"cniVersion": stated, "ip4": {"ip": "10.0.0.1/8"}, "ips": [{"address": "10.0.0.2/8"}]}

    address = "10.0.0.1/8" if is_old else "10.0.0.2/8"
    assert (IPConfig(ip_interface(address)),) == parse(document, default).ips


@pytest.mark.parametrize("version", ["0.5.0", "1.2.0", "2.0.0"])
def test_a_version_nobody_speaks_is_refused(version: str):
    """Guessing at a format could lose an address."""
    with pytest.raises(IncompatibleVersion) as caught:
        parse({"cniVersion": version}, NEWEST)
    with pytest.raises(IncompatibleVersion):
        to_json(GOLDEN, version)

    assert caught.value.details.startswith(f'result is "{version}", meta-cni supports 0.1.0, ')


TOLERATED = [
    ({}, Result()),
    ({"interfaces": None, "ips": None, "routes": None, "dns": None}, Result()),
    ({"interfaces": [], "ips": [], "routes": [], "dns": {}}, Result()),
    ({"dns": {"nameservers": None, "domain": None, "search": None, "options": None}}, Result()),
    ({"ip4": {"ip": "garbage"}, "code": 0, "anything": [1]}, Result()),
    ({"interfaces": [{"name": "a", "altnames": ["b"]}]}, Result(interfaces=(Interface("a"),))),
    ({"interfaces": [{}]}, Result(interfaces=(Interface(""),))),
    ({"Interfaces": [{"NAME": "a", "pciId": "b"}]}, Result(interfaces=(Interface("a", pci_id="b"),))),
    (
        {"ips": [{"address": "10.1.2.3/24", "gateway": ""}]},
        Result(ips=(IPConfig(ip_interface("10.1.2.3/24")),)),
    ),
    (
        {"ips": [{"address": "10.1.2.3/24", "interface": -1}]},
        Result(ips=(IPConfig(ip_interface("10.1.2.3/24")),)),
    ),
    ({"ips": [{"address": "::1/128", "version": ""}]}, Result(ips=(IPConfig(ip_interface("::1/128")),))),
    ({"routes": [{"dst": "10.1.2.3/24", "gw": None}]}, Result(routes=(Route(ip_network("10.1.2.0/24")),))),
]


@pytest.mark.parametrize(("document", "expected"), TOLERATED, ids=[json.dumps(row[0]) for row in TOLERATED])
def test_what_the_reference_library_tolerates_is_tolerated(document: dict[str, object], expected: Result):
    """null for nothing, unknown keys, keys in any case, a negative index, a route with host bits."""
    assert expected == parse(document, NEWEST)


@pytest.mark.parametrize("version", OLDEST)
def test_an_empty_family_is_none(version: str):
    """Some 0.1.0 plugins print both, one of them empty."""
    document = {"ip4": {}, "ip6": {"ip": "fd00::2/64"}}

    assert (IPConfig(ip_interface("fd00::2/64")),) == parse(document, version).ips


def ip(**members: object) -> dict[str, object]:
    return {
        "interfaces": [{"name": "a"}],
        "ips": [{"address": "10.1.2.3/24"}, {"address": "10.1.2.3/24", **members}],
    }


def route(**members: object) -> dict[str, object]:
    return {"routes": [{"dst": "10.0.0.0/8", **members}]}


WRONG = [
    ("1.1.0", ip(address="x"), 'result: ips[1].address "x": expected an IP address in CIDR notation'),
    ("1.1.0", ip(address=None), "result: ips[1].address null: expected an IP address in CIDR notation"),
    ("1.1.0", ip(address="10.1.2.3"), 'result: ips[1].address "10.1.2.3": expected'),
    ("1.1.0", ip(address="10.1.2.3/33"), 'result: ips[1].address "10.1.2.3/33": expected'),
    ("1.1.0", ip(address="10.1.2.3/255.255.255.0"), "result: ips[1].address"),
    ("1.1.0", ip(address="fe80::1%eth0/64"), "result: ips[1].address"),
    ("1.1.0", ip(address="010.1.2.3/24"), "result: ips[1].address"),
    ("1.1.0", ip(address=["10.1.2.3/24"]), 'result: ips[1].address ["10.1.2.3/24"]: expected a string'),
    ("1.1.0", ip(gateway="10.1.2.1/24"), 'result: ips[1].gateway "10.1.2.1/24": expected an IP address'),
    ("1.1.0", ip(gateway="fe80::1%eth0"), "result: ips[1].gateway"),
    ("1.1.0", ip(gateway=167837953), "result: ips[1].gateway 167837953: expected a string"),
    ("1.1.0", ip(interface=1), "result: ips[1].interface 1: expected an index of the 1 interfaces"),
    ("1.1.0", ip(interface="0"), 'result: ips[1].interface "0": expected a whole number'),
    ("1.1.0", ip(interface=True), "result: ips[1].interface true: expected a whole number"),
    ("1.1.0", ip(interface=0.0), "result: ips[1].interface 0.0: expected a whole number"),
    ("0.4.0", ip(version="6"), 'result: ips[1].version "6": expected "4" for 10.1.2.3/24'),
    ("0.3.1", ip(version=4), "result: ips[1].version 4: expected a string"),
    ("1.0.0", {"ips": {}}, "result: ips {}: expected a list of objects"),
    ("1.0.0", {"ips": [None]}, "result: ips [null]: expected a list of objects"),
    ("1.0.0", {"interfaces": "eth0"}, 'result: interfaces "eth0": expected a list of objects'),
    ("1.0.0", {"interfaces": ["eth0"]}, 'result: interfaces ["eth0"]: expected a list of objects'),
    ("1.0.0", {"interfaces": [{"name": 1}]}, "result: interfaces[0].name 1: expected a string"),
    ("1.0.0", {"interfaces": [{"mtu": -1}]}, "result: interfaces[0].mtu -1: expected a whole number from 0"),
    ("1.0.0", route(dst="default"), 'result: routes[0].dst "default": expected a network in CIDR notation'),
    ("1.0.0", route(dst=None), "result: routes[0].dst null: expected a network"),
    ("1.0.0", route(dst="10.0.0.0"), 'result: routes[0].dst "10.0.0.0": expected a network'),
    ("1.0.0", route(dst="10.0.0.0/255.0.0.0"), "result: routes[0].dst"),
    ("1.0.0", route(gw="gateway"), 'result: routes[0].gw "gateway": expected an IP address'),
    ("1.0.0", route(priority=2**32), "result: routes[0].priority 4294967296: expected a whole number"),
    ("1.0.0", route(table="main"), 'result: routes[0].table "main": expected a whole number'),
    ("1.0.0", route(scope=256), "result: routes[0].scope 256: expected a whole number from 0 to 255"),
    ("1.0.0", {"dns": []}, "result: dns []: expected an object"),
    ("1.0.0", {"dns": {"nameservers": "8.8.8.8"}}, 'result: dns.nameservers "8.8.8.8": expected a list'),
    ("1.0.0", {"dns": {"search": [1]}}, "result: dns.search [1]: expected a list of strings"),
    ("0.2.0", {"dns": {"domain": {}}}, "result: dns.domain {}: expected a string"),
    ("0.2.0", {"ip4": "10.1.2.3/24"}, 'result: ip4 "10.1.2.3/24": expected an object'),
    ("0.2.0", {"ip4": {"gateway": "10.1.2.1"}}, "result: ip4.ip null: expected an IP address in CIDR"),
    ("0.2.0", {"ip4": {"ip": "fd00::1/64"}}, 'result: ip4.ip "fd00::1/64": expected an IPv4 address'),
    ("0.1.0", {"ip6": {"ip": "10.1.2.3/24"}}, 'result: ip6.ip "10.1.2.3/24": expected an IPv6 address'),
    ("0.1.0", {"ip6": {"ip": "::1/128", "routes": [{}]}}, "result: ip6.routes[0].dst null: expected"),
    ("1.0.0", {"cniVersion": 1}, "result: cniVersion 1: expected a string"),
    ("1.0.0", {"cniVersion": "one"}, "cniVersion 'one': expected MAJOR.MINOR.PATCH"),
    ("1.0.0", {"dns": {"domain": ["x" * 90]}}, 'result: dns.domain ["' + "x" * 55 + "...: expected a string"),
]


@pytest.mark.parametrize(("version", "document", "text"), WRONG, ids=[row[2][:40] for row in WRONG])
def test_a_wrong_value_is_named(version: str, document: dict[str, object], text: str):
    """A delegate's bug must not be merged, and its author wants to know where it is."""
    with pytest.raises(DecodeFailure) as caught:
        parse(document, version)

    assert text in caught.value.message
    assert 6 == caught.value.code


KEYS_OF_1_1 = [key for key, _ in members_of(golden_document("1.1.0"))] + ["table", "scope"]
KEYS = st.sampled_from(["cniVersion", "ip4", "ip6", "ip", "version", "IPS", *KEYS_OF_1_1])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | texts
SCALARS |= st.sampled_from(["1.0.0", "0.4.0", "0.1.0", "4", "10.1.2.3/24", "10.1.2.3", "fd00::/64", "::1", 0])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, VALUES), st.sampled_from(SUPPORTED))
def test_any_document_is_a_result_or_a_cni_error(document: dict[str, object], version: str):
    """No plugin's output may look like a bug of ours, and what is taken can be kept in the ledger."""
    try:
        result = parse(document, version)
    except CNIError:
        return

    assert result == parse(to_json(result, NEWEST), "")


def test_merging_shifts_indexes_and_appends():
    """The default network first; an index still means the same interface."""
    host, eth0 = Interface("veth1"), Interface("eth0", sandbox="/ns")
    first = Result(
        (host, eth0), (IPConfig(ip_interface("10.0.0.2/24"), interface=1),), (Route(ip_network("0.0.0.0/0")),)
    )
    net1 = Interface("net1", sandbox="/ns")
    second = Result(
        (net1,),
        (IPConfig(ip_interface("fd00::2/64"), interface=0), IPConfig(ip_interface("10.9.0.2/24"))),
        (Route(ip_network("10.9.0.0/16")),),
        DNS(("10.9.0.1",)),
    )

    merged = merge((first, second))

    expected = Result(
        (host, eth0, net1),
        (first.ips[0], replace(second.ips[0], interface=2), second.ips[1]),
        (*first.routes, *second.routes),
        second.dns,
    )
    assert expected == merged


def test_dns_is_the_first_that_says_anything():
    """Later networks do not change where a pod resolves names."""
    asked = [DNS(), DNS(domain="first"), DNS(("10.0.0.1",))]

    assert DNS(domain="first") == merge(tuple(Result(dns=dns) for dns in asked)).dns


@settings(max_examples=30)
@given(st.lists(made_results(), max_size=4).map(tuple))
def test_a_merged_address_stays_on_its_interface(results: tuple[Result, ...]):
    """Shifting must never move an address."""
    merged = merge(results)

    def with_interfaces(result: Result):
        return [
            (
                each.address,
                each.gateway,
                None if each.interface is None else result.interfaces[each.interface],
            )
            for each in result.ips
        ]

    assert [pair for result in results for pair in with_interfaces(result)] == with_interfaces(merged)
    assert tuple(each for result in results for each in result.interfaces) == merged.interfaces
    assert tuple(each for result in results for each in result.routes) == merged.routes


@settings(max_examples=30)
@given(made_results(), made_results(), made_results())
def test_merging_is_associative(first: Result, second: Result, third: Result):
    """So it does not matter in which steps a list of networks is merged."""
    assert merge((merge((first, second)), third)) == merge((first, merge((second, third))))
    assert merge((first,)) == first


@pytest.mark.parametrize(
    ("destination", "table", "is_default"),
    [
        ("0.0.0.0/0", None, True),
        ("::/0", 254, True),
        ("::/0", 0, True),
        ("0.0.0.0/0", 100, False),
        ("0.0.0.0/1", None, False),
    ],
)
def test_a_default_route_is_one_of_the_main_table(destination: str, table: int | None, is_default: bool):
    """One in another table, as source based routing makes it, takes no traffic from the default network."""
    assert is_default == Route(ip_network(destination), table=table).is_default


@pytest.mark.parametrize("dns", [DNS(("1.1.1.1",)), DNS(domain="a"), DNS(search=("a",)), DNS(options=("a",))])
def test_any_part_of_dns_says_something(dns: DNS):
    """A result with only search domains must not lose them to an empty test."""
    assert dns
    assert not DNS()
