"""CNI as data: versions, requests, configurations, results, errors."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.cni import request, version
from meta_cni.cni import result as results
from meta_cni.cni.config import RawObject, Section, as_text, decode, parse_network, parse_plugin
from meta_cni.cni.errors import (
    BadConfig,
    BadEnvironment,
    CNIError,
    DecodeFailure,
    IncompatibleVersion,
    KernelError,
    Several,
    join,
)
from meta_cni.cni.result import DNS, Interface, IPConfig, Result, Route, merge, parse, to_json

GOLDEN_PAIR = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {
            "name": "eth0",
            "mac": "00:11:22:33:44:55",
            "sandbox": "/proc/3553/ns/net",
            "mtu": 1500,
            "socketPath": "/path/to/vhost/fd",
            "pciID": "8086:9a01",
        }
    ],
    "ips": [
        {"interface": 0, "address": "1.2.3.30/24", "gateway": "1.2.3.1"},
        {"interface": 0, "address": "abcd:1234:ffff::cdde/64", "gateway": "abcd:1234:ffff::1"},
    ],
    "routes": [
        {"dst": "15.5.6.0/24", "gw": "15.5.6.8"},
        {"dst": "1111:dddd::/80", "gw": "1111:dddd::aaaa"},
    ],
    "dns": {
        "nameservers": ["1.2.3.4", "1::cafe"],
        "search": ["somedomain.com"],
        "options": ["foo"],
        "domain": "acompany.com",
    },
}


def test_newest_form_goes_through_the_older_one_unchanged():
    """1.0.0 and 1.1.0 are one type for the reference."""
    one = to_json(parse(GOLDEN_PAIR, ""), "1.0.0")

    assert GOLDEN_PAIR == to_json(parse(one, ""), "1.1.0")


def test_older_form_loses_exactly_what_it_cannot_say():
    """0.3.0 to 0.4.0: a version for each address; no MTU, socket, PCI id."""
    old = to_json(parse(GOLDEN_PAIR, ""), "0.4.0")

    assert [{"name": "eth0", "mac": "00:11:22:33:44:55", "sandbox": "/proc/3553/ns/net"}] == old["interfaces"]
    assert ["4", "6"] == [each["version"] for each in old["ips"]]  # type: ignore[attr-defined]
    assert GOLDEN_PAIR["routes"] == old["routes"]


@pytest.mark.parametrize("name", ["0.1.0", "0.2.0"])
def test_oldest_form_has_one_address_a_family(name: str):
    """Routes stand under their family; interfaces are lost."""
    old = to_json(parse(GOLDEN_PAIR, ""), name)

    assert {
        "cniVersion": name,
        "ip4": {"ip": "1.2.3.30/24", "gateway": "1.2.3.1", "routes": [GOLDEN_PAIR["routes"][0]]},  # type: ignore[index]
        "ip6": {
            "ip": "abcd:1234:ffff::cdde/64",
            "gateway": "abcd:1234:ffff::1",
            "routes": [GOLDEN_PAIR["routes"][1]],  # type: ignore[index]
        },
        "dns": GOLDEN_PAIR["dns"],
    } == old
    again = parse(old, "")
    assert ((), [None, None]) == (again.interfaces, [each.interface for each in again.ips])


def test_oldest_form_needs_an_address():
    """A layer 2 network cannot be told in 0.2.0."""
    with pytest.raises(DecodeFailure, match="no valid IP addresses"):
        to_json(Result(), "0.2.0")


def test_extended_route_attributes_are_kept():
    """Table, scope, priority, MTU, MSS; scope and table may be 0."""
    routes = [{"dst": "10.0.0.0/8", "mtu": 1400, "advmss": 1300, "priority": 5, "table": 0, "scope": 0}]

    assert routes == to_json(parse({"routes": routes}, "1.1.0"), "1.1.0")["routes"]


def test_index_zero_is_not_absent_and_a_negative_one_is():
    """Optional integers."""
    document = {
        "interfaces": [{"name": "a"}],
        "ips": [{"address": "1.1.1.1/8", "interface": n} for n in (0, -1)],
    }

    assert [0, None] == [each.interface for each in parse(document, "1.0.0").ips]


ADDRESSES = st.builds(
    lambda ip, length: f"{ip}/{length}", st.ip_addresses(v=4), st.integers(0, 32)
) | st.builds(lambda ip, length: f"{ip}/{length}", st.ip_addresses(v=6), st.integers(0, 128))
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8)


@st.composite
def results_of_any_kind(draw: st.DrawFn) -> Result:
    from ipaddress import ip_interface, ip_network

    interfaces = draw(
        st.lists(st.builds(Interface, TEXT, TEXT, TEXT, st.integers(0, 9000), TEXT, TEXT), max_size=3)
    )
    index = st.none() | (st.integers(0, len(interfaces) - 1) if interfaces else st.none())
    ips = draw(
        st.lists(
            st.builds(
                lambda a, g, i: IPConfig(ip_interface(a), g, i),
                ADDRESSES,
                st.none() | st.ip_addresses(),
                index,
            ),
            max_size=3,
        )
    )
    numbers = st.integers(0, 2**31 - 1)
    routes = draw(
        st.lists(
            st.builds(
                lambda d, g, m, a, p, t, s: Route(ip_network(d, strict=False), g, m, a, p, t, s),
                *(ADDRESSES, st.none() | st.ip_addresses(), numbers, numbers, numbers),
                *(st.none() | numbers, st.none() | st.integers(0, 255)),
            ),
            max_size=3,
        )
    )
    texts = st.lists(TEXT, max_size=2).map(tuple)
    dns = draw(st.builds(DNS, texts, TEXT, texts, texts))
    return Result(tuple(interfaces), tuple(ips), tuple(routes), dns)


@given(results_of_any_kind())
def test_newest_form_says_everything(result: Result):
    """Written and read again it is the same."""
    assert result == parse(json.loads(json.dumps(to_json(result, "1.1.0"))), "")


@given(results_of_any_kind(), st.sampled_from(version.SUPPORTED))
def test_what_a_version_can_say_it_says_again(result: Result, name: str):
    """A conversion loses once, not twice."""
    try:
        once = to_json(result, name)
    except DecodeFailure:
        assert name < "0.3.0"
        return
    assert once == to_json(parse(once, ""), name)


@given(st.lists(results_of_any_kind(), max_size=4))
def test_merging_keeps_everything_and_every_index_right(parts: list[Result]):
    """The n-th address still belongs to the same interface."""
    merged = merge(tuple(parts))

    owners = [
        part.interfaces[ip.interface] if ip.interface is not None else None
        for part in parts
        for ip in part.ips
    ]
    assert owners == [None if ip.interface is None else merged.interfaces[ip.interface] for ip in merged.ips]
    assert [r for part in parts for r in part.routes] == list(merged.routes)
    assert next((part.dns for part in parts if part.dns), DNS()) == merged.dns


@pytest.mark.parametrize(
    ("document", "fragment"),
    [
        ({"interfaces": {}}, "interfaces {}: expected a list"),
        ({"interfaces": [5]}, "expected a list of objects"),
        ({"interfaces": [{"name": 5}]}, "interfaces[0].name 5"),
        ({"interfaces": [{"name": "a", "mtu": "x"}]}, "interfaces[0].mtu"),
        ({"interfaces": [{"name": "a", "mtu": True}]}, "interfaces[0].mtu"),
        ({"ips": [{"address": "1.1.1.1"}]}, "ips[0].address"),
        ({"ips": [{"address": "x/8"}]}, "ips[0]"),
        ({"ips": [{"address": "1.1.1.1/8", "gateway": "x"}]}, "ips[0].gateway"),
        ({"ips": [{"address": "1.1.1.1/8", "version": "6"}]}, "ips[0].version"),
        ({"ips": [{"address": "1.1.1.1/8", "interface": 0}]}, "interface 0"),
        ({"routes": [{"dst": "x"}]}, "routes[0].dst"),
        ({"routes": [{}]}, "routes[0].dst"),
        ({"dns": []}, "dns []"),
        ({"dns": {"search": [5]}}, "expected a list of strings"),
        ({"dns": {"search": "x"}}, "expected a list"),
        ({"cniVersion": "0.2.0", "ip4": {"ip": "fd00::1/64"}}, "expected an IPv4 address"),
        ({"cniVersion": 5}, "cniVersion 5"),
    ],
)
def test_wrong_results_name_key_and_value(document: dict[str, object], fragment: str):
    """A delegate's mistake must be found before it is merged."""
    with pytest.raises(DecodeFailure) as caught:
        parse(document, "1.0.0")
    assert fragment in caught.value.message


def test_unknown_version_is_incompatible():
    """Code 1, in both directions."""
    for call in (lambda: parse({"cniVersion": "9.9.9"}, ""), lambda: to_json(Result(), "9.9.9")):
        with pytest.raises(IncompatibleVersion):
            call()


def test_missing_parts_are_empty():
    """null and absent, as Go reads them."""
    assert Result() == parse({"interfaces": None, "ips": None, "routes": None, "dns": None}, "1.0.0")


@pytest.mark.parametrize(
    ("several", "one", "expected"),
    [
        (["1.0.0", "1.1.0"], "0.4.0", "1.1.0"),
        (["1.0.0", "7.0.0"], "", "1.0.0"),
        (["7.0.0"], "0.4.0", "0.4.0"),
        (["7.0.0"], "", "7.0.0"),
    ],
)
def test_newest_common_version_is_chosen(several: list[str], one: str, expected: str):
    """cniVersions of 1.1.0."""
    assert expected == version.choose(several, one)


@pytest.mark.parametrize("text", ["1", "1.0", "1.0.x", "1.0.0.0", "a.b.c", "1.0.٣"])
def test_versions_have_three_numbers(text: str):
    """Everything else is code 6."""
    with pytest.raises(DecodeFailure, match="MAJOR"):
        version.parse(text)


NEEDED = {
    "ADD": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"},
    "CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"},
    "DEL": {"CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"},
    "GC": {"CNI_PATH"},
    "STATUS": {"CNI_PATH"},
    "VERSION": set(),
}
VARIABLES = {"CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0", "CNI_PATH": "/a:/b:"}


@pytest.mark.parametrize("command", sorted(NEEDED))
@pytest.mark.parametrize("missing", sorted(VARIABLES))
def test_each_verb_needs_its_variables(command: str, missing: str):
    """The specification's table."""
    given_ = {**VARIABLES, "CNI_COMMAND": command, missing: ""}

    if missing in NEEDED[command]:
        with pytest.raises(BadEnvironment, match=missing):
            request.parse(given_, b"")
    else:
        assert command == request.parse(given_, b"").command


def test_request_tells_pod_and_path():
    """What Kubernetes' runtimes send in CNI_ARGS."""
    text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u;X=a=b;"

    parsed = request.parse({**VARIABLES, "CNI_COMMAND": "ADD", "CNI_ARGS": text}, b"in")

    assert ("ns", "p", "u", "a=b", ("/a", "/b"), b"in") == (
        parsed.pod_namespace,
        parsed.pod_name,
        parsed.pod_uid,
        parsed.args["X"],
        parsed.path,
        parsed.stdin,
    )
    assert text.rstrip(";") == request.format_args(parsed.args)


VALUES = st.recursive(
    st.sampled_from(["null", "true", "1.10", "1E5", "-0", "12345678901234567890", '"\\u00e9"', '"é"', '""']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: "[ " + " ,".join(each) + "]")
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda each: "{\t" + ",\n".join(f'"{key}" : {value}' for key, value in each.items()) + " }"
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["a", "Name", "é", "x y"]), VALUES, max_size=4))
def test_every_value_keeps_its_bytes(members: dict[str, str]):
    """Number formats, spacing and escapes belong to the administrator."""
    text = "{" + " , ".join(f"{json.dumps(key)} : {value}" for key, value in members.items()) + "}"

    raw = RawObject.parse(text, "w").put("new", 1).drop("NEW")

    assert tuple(members.items()) == raw.members
    assert members == dict(RawObject.parse(raw.text(), "w").members)
    assert json.loads(text) == raw.values()


def test_members_are_put_and_dropped_in_any_case():
    """Go takes keys in any case, so the injected one must be the only one."""
    raw = RawObject.parse('{"CniVersion":"x","b":[1, 2.0],"CNIVERSION":"y"}', "w")

    assert '{"cniVersion":"1.0.0","b":[1, 2.0]}' == raw.put("cniVersion", "1.0.0").text()
    assert '{"b":[1, 2.0]}' == raw.drop("cniversion").text()
    assert (("1", "2.0"), ()) == (raw.elements_of("b"), raw.elements_of("none"))
    assert ('"y"', None) == (raw.text_of("cniVersion"), raw.text_of("none"))


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "line 1"),
        ("{} {}", "more than one"),
        ('{"a":Infinity}', "Infinity"),
        ("[" * 100000, "nested too deeply"),
        (b"\xff", "byte 0 is not UTF-8"),
    ],
)
def test_broken_documents_are_told(text: str | bytes, fragment: str):
    """Where it breaks."""
    with pytest.raises(DecodeFailure) as caught:
        decode(text, "it")
    assert fragment in caught.value.message


def test_byte_order_mark_is_passed_over():
    """Windows editors write it."""
    assert "{}" == as_text(b"\xef\xbb\xbf{}", "it")


def test_known_keys_are_found_in_any_case_with_a_warning():
    """The reference tests themselves write RuntimeConfig."""
    config = parse_network(
        '{"CNIVersion":"1.0.0","NAME":"n","Plugins":[{"type":"bridge","VlanID":5}],"disableCheck":"True"}',
        "w",
    )

    assert ("n", "1.0.0", True, 3) == (
        config.name,
        config.cni_version,
        config.is_check_disabled,
        len(config.warnings),
    )
    assert 5 == config.plugins[0].section.integer("vlanId")


def test_list_uses_the_newest_version_both_know():
    """cniVersions, and every boolean as text or not."""
    config = parse_network(
        '{"name":"n","cniVersions":["0.4.0","1.1.0","2.0.0"],"type":"x","disableGC":true}', "w"
    )

    assert ("1.1.0", True, 1) == (config.cni_version, config.is_gc_disabled, len(config.plugins))


def test_plugin_gets_name_and_version_of_its_list_and_what_is_injected():
    """Specification, section 4; null takes a member out."""
    (plugin,) = parse_network(
        '{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"x","runtimeConfig":{}}]}', "w"
    ).plugins

    given_ = plugin.execution({"runtimeConfig": None, "prevResult": {"a": 1}})

    assert '{"type":"x","cniVersion":"1.0.0","name":"n","prevResult":{"a":1}}' == given_.raw.text()
    assert ("x", ()) == (given_.type, plugin.keys_outside(()))


def test_capabilities_are_those_that_are_on():
    """A capability that is false is none."""
    plugin = parse_plugin(
        '{"type":"x","capabilities":{"a":true,"b":false,"c":"true"},"mine":1,"cni.dev/x":2}', "w"
    )

    assert ({"a", "c"}, ("mine",)) == (plugin.capabilities, plugin.keys_outside(("other",)))


SECTION = Section(
    "w",
    {
        "s": "x",
        "n": 5,
        "f": 1.5,
        "b": True,
        "l": ["a"],
        "o": {"k": 1},
        "os": [{"k": 1}],
        "ip": "10.0.0.1",
        "null": None,
        "long": "y" * 99,
    },
)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda s: s.string("S"), "x"),
        (lambda s: s.string("null", "d"), "d"),
        (lambda s: s.choice("none", ("a", "b"), "b"), "b"),
        (lambda s: s.boolean("B"), True),
        (lambda s: s.boolean("none", True), True),
        (lambda s: s.integer("n"), 5),
        (lambda s: s.integer("none", 3), 3),
        (lambda s: s.strings("l"), ("a",)),
        (lambda s: s.strings("none"), ()),
        (lambda s: s.section("o").values, {"k": 1}),
        (lambda s: s.section("none"), None),
        (lambda s: s.sections("os")[0].where, "w: os[0]"),
        (lambda s: s.sections("none"), ()),
        (lambda s: str(s.address("ip")), "10.0.0.1"),
        (lambda s: s.address("none"), None),
    ],
)
def test_keys_are_read_in_their_types(read, expected: object):
    """null and absent are the default."""
    assert expected == read(SECTION)


@pytest.mark.parametrize(
    ("read", "fragment"),
    [
        (lambda s: s.string("n"), "n 5: expected a string"),
        (lambda s: s.choice("s", ("a", "b"), "a"), 's "x": expected one of a, b'),
        (lambda s: s.boolean("s", is_text_allowed=True), "true or false"),
        (lambda s: s.integer("b"), "a whole number"),
        (lambda s: s.integer("f"), "a whole number"),
        (lambda s: s.integer("n", maximum=4), "from 0 to 4"),
        (lambda s: s.strings("os"), "a list of strings"),
        (lambda s: s.section("l"), "an object"),
        (lambda s: s.sections("l"), "a list of objects"),
        (lambda s: s.address("s"), "an IP address"),
        (lambda s: s.interface_address("ip"), "CIDR"),
        (lambda s: s.network("ip"), "CIDR"),
        (lambda s: s.integer("long"), "yyy..."),
    ],
)
def test_wrong_values_name_place_key_and_what_would_be_right(read, fragment: str):
    """Users see nothing but this line."""
    with pytest.raises(BadConfig) as caught:
        read(SECTION)
    assert caught.value.message.startswith("w: ")
    assert fragment in caught.value.message


def test_networks_and_addresses_are_read():
    """Host bits of a network are cut, as Go does."""
    section = Section("w", {"a": "10.1.2.3/24"})

    assert ("10.1.2.3/24", "10.1.2.0/24") == (str(section.interface_address("a")), str(section.network("a")))


def test_errors_are_told_together():
    """The first one's code, every text, every detail."""
    one, two = BadConfig("one", "d1"), KernelError("two", 2, "because")

    joined = join([one, two])

    assert isinstance(joined, Several)
    assert (7, "2 errors: one; two: because: No such file or directory", "d1") == (
        joined.code,
        joined.message,
        joined.details,
    )
    assert one is join([one])
    assert {"cniVersion": "1.0.0", "code": 7, "msg": "one", "details": "d1"} == one.to_json("1.0.0")
    assert "details" not in CNIError("x").to_json("1.0.0")
    assert (True, False) == (two.is_gone, KernelError("x", 0).is_gone)


def test_default_routes_are_known_by_table():
    """A default route in another table is another matter."""
    document = {
        "routes": [
            {"dst": "0.0.0.0/0"},
            {"dst": "::/0", "table": 254},
            {"dst": "::/0", "table": 100},
            {"dst": "10.0.0.0/8"},
        ]
    }

    assert [True, True, False, False] == [each.is_default for each in results.parse(document, "1.0.0").routes]


@pytest.mark.parametrize(
    ("variables", "fragment"),
    [
        ({"CNI_COMMAND": "FROB"}, "unknown CNI_COMMAND 'FROB'"),
        ({"CNI_CONTAINERID": "a/b"}, "CNI_CONTAINERID 'a/b'"),
        ({"CNI_IFNAME": "a" * 16}, "at most 15 bytes"),
        ({"CNI_IFNAME": ".."}, "other than"),
        ({"CNI_IFNAME": "a:b"}, "without '/', ':'"),
        ({"CNI_ARGS": "x"}, "KEY=VALUE"),
        ({"CNI_ARGS": "=x"}, "KEY=VALUE"),
    ],
)
def test_wrong_variables_are_named(variables: dict[str, str], fragment: str):
    """Code 4, before anything runs."""
    with pytest.raises(BadEnvironment, match=re.escape(fragment)):
        request.parse({**VARIABLES, "CNI_COMMAND": "ADD", **variables}, b"")


def test_empty_interface_name_is_no_name():
    """For selections, where it may come from a template."""
    assert request.interface_name_problem("")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[]", "expected a JSON object"),
        ('{"type":"x"}', "missing network name"),
        ('{"name":"a b","type":"x"}', "expected a letter or digit"),
        ('{"name":"n","plugins":[]}', "at least one plugin"),
        ('{"name":"n","plugins":[null]}', "list of objects"),
        ('{"name":"n","plugins":[{}]}', "type is missing"),
        ('{"name":"n","type":"a/b"}', "without '/'"),
        ('{"name":"n","type":"x","cniVersion":"8.0.0"}', "incompatible"),
        ('{"name":"n","type":"x","capabilities":{"a":5}}', "true or false"),
    ],
)
def test_wrong_networks_are_told(text: str, fragment: str):
    """What an administrator gets wrong most."""
    with pytest.raises(CNIError, match=re.escape(fragment)):
        parse_network(text, "w")


def test_list_may_leave_its_plugins_to_its_directory():
    """Then somebody else must see that there is one."""
    config = parse_network('{"name":"n"}', "w")

    assert 1 == len(config.with_plugins([parse_plugin('{"type":"x"}', "w")]).plugins)
    assert frozenset() == config.capabilities


def test_ipam_without_content_is_none():
    """Layer 2 only."""
    plugins = [
        parse_plugin(text, "w")
        for text in ('{"type":"x","ipam":{}}', '{"type":"x"}', '{"type":"x","ipam":{"type":"a"}}')
    ]

    assert [False, False, True] == [plugin.ipam is not None for plugin in plugins]
    assert "w: x" == plugins[0].where
