"""Configurations: every byte kept, keys in any case, and each key checked once."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.cni.config import (
    COMMON_KEYS,
    DEEPEST,
    LIST_KEYS,
    PluginConfig,
    RawObject,
    Section,
    as_text,
    case_warnings,
    decode,
    encode,
    encode_compact,
    indented,
    kind_of,
    parse_network,
    parse_plugin,
)
from meta_cni.cni.errors import BadConfig, DecodeFailure, IncompatibleVersion

# JSON as people and generators write it: what json.dumps(json.loads(x)) would rewrite, and more.
SPACES = st.text(" \t\n\r", max_size=3)
NUMBERS = st.sampled_from(
    ["0", "-0", "1.10", "1E5", "1e-07", "-0.0", "1.0", "12345678901234567890123456789012345678901234567890"]
)
STRINGS = st.one_of(
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(['"\\u00e9"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\/"', '"a\\"}]b"', '"{"', '","']),
)
SCALARS = st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null"]))


def spaced(opening: str, items: list[str], closing: str, space: str) -> str:
    return opening + space + f"{space},{space}".join(items) + space + closing


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(spaced, st.just("["), st.lists(inner, max_size=3), st.just("]"), SPACES),
        st.builds(
            spaced,
            st.just("{"),
            st.lists(st.builds("{}:{}".format, STRINGS, inner), max_size=3),
            st.just("}"),
            SPACES,
        ),
    ),
    max_leaves=10,
)
MEMBERS = st.lists(st.tuples(st.text(max_size=6), VALUES), max_size=5)


def written(members: list[tuple[str, str]], space: str) -> str:
    items = [f"{json.dumps(key)}{space}:{space}{text}" for key, text in members]
    return space + spaced("{", items, "}", space) + space


@given(MEMBERS, SPACES)
def test_every_value_is_kept_byte_for_byte(members: list[tuple[str, str]], space: str):
    """A plugin gets 1.10 and 1E5 as the administrator wrote them, repeated keys included."""
    raw = RawObject.parse(written(members, space), "it")

    assert tuple(members) == raw.members
    assert raw == RawObject.parse(raw.text(), "it")
    assert raw == RawObject.parse(raw.text().encode(), "it")


@given(MEMBERS, SPACES)
def test_values_are_what_json_says(members: list[tuple[str, str]], space: str):
    """Of equal keys the last one counts."""
    text = written(members, space)

    assert json.loads(text) == RawObject.parse(text, "it").values()


@given(st.lists(VALUES, max_size=4), SPACES)
def test_elements_are_kept_byte_for_byte(elements: list[str], space: str):
    """The plugins of a list."""
    raw = RawObject.parse('{"plugins":' + spaced("[", elements, "]", space) + "}", "it")

    assert tuple(elements) == raw.elements_of("PLUGINS")
    assert () == raw.elements_of("delegates")


NAMES = st.sampled_from(["name", "Name", "NAME", "mtu", "MTU", "ipam", "é", "É"])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), NAMES, st.none() | st.integers() | st.text(max_size=5))
def test_put_sets_one_member_and_no_other(members: list[tuple[str, str]], key: str, value: object):
    """In whatever case it was written, and in its place; the others keep text and order."""
    before = RawObject.of(members)

    after = before.put(key, value)

    others = [member for member in members if member[0].casefold() != key.casefold()]
    places = [index for index, member in enumerate(members) if member[0].casefold() == key.casefold()]
    assert others == [member for member in after.members if member[0] != key]
    assert [value] == [json.loads(text) for name, text in after.members if name == key]
    index = [name for name, _ in after.members].index(key)
    assert (places[0] if places else len(others)) == index
    assert value == json.loads(after.text_of(key.swapcase()) or "")
    assert {name: json.loads(text) for name, text in after.members} == after.values()


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), NAMES, VALUES)
def test_a_text_that_is_written_late_is_the_same(members: list[tuple[str, str]], key: str, text: str):
    """An executed plugin gets the prevResult that ours had no use for as text."""
    before, value = RawObject.of([*members, ("last", "1")]), json.loads(text)

    after, late = before.put(key, value), before.put_late(key, value)

    assert (after.text(), after.members) == (late.text(), late.members)
    assert (after.values(), after.text_of(key)) == (late.values(), late.text_of(key))
    assert after.put(key, 1) == late.put(key, 1)
    assert late == before.put_late(key, json.loads(text))
    assert late != before.put_late(key, [value])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), NAMES)
def test_drop_takes_a_member_out_in_any_case(members: list[tuple[str, str]], key: str):
    """A leftover "PrevResult" would be read by every Go plugin."""
    after = RawObject.of(members).drop(key)

    assert [member for member in members if member[0].casefold() != key.casefold()] == list(after.members)
    assert after.text_of(key) is None
    assert {name: json.loads(text) for name, text in after.members} == after.values()


def test_a_key_as_written_wins_over_other_cases():
    """The last one of those; the text, not the value."""
    raw = RawObject.parse('{"MTU":1,"mtu":2.0,"mtu":3.0,"Mtu":4}', "it")

    assert ("3.0", "4", "4") == (raw.text_of("mtu"), raw.text_of("mTU"), raw.text_of("Mtu"))


def test_a_lone_surrogate_keeps_its_escape():
    """UTF-8 cannot write it, so that neither a key nor an injected value may bring it out as itself."""
    raw = RawObject.parse('{"\\ud800":1,"\u00e9":2}', "it").put("args", {"\udfff": "\u00e9"})

    assert '{"\\ud800":1,"\u00e9":2,"args":{"\\udfff":"\\u00e9"}}' == raw.text()
    assert raw.text().encode()


ANY_TEXT = st.one_of(st.text(), st.text('{}[]",:\\u0d8eE+-.1 \n\u00a0\ufefftrue'), st.binary())


@given(ANY_TEXT)
def test_any_text_is_a_network_or_a_cni_error(text: str | bytes):
    """Whatever stands in a NAD."""
    with suppress(DecodeFailure, BadConfig):
        parse_network(text, "it")


KEYS = st.sampled_from([*LIST_KEYS, *COMMON_KEYS, "DISABLEGC", "mtu", "Type"])
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
PLAIN |= st.sampled_from(["1.0.0", "0.4.0", "true", "bridge", "a/b", "net-a"])
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4)),
)


@given(DOCUMENTS)
def test_any_object_is_a_network_or_a_cni_error(document: dict[str, object]):
    """And one that is taken can be written for every plugin."""
    try:
        network = parse_network(json.dumps(document), "it", default_name="net")
    except (IncompatibleVersion, DecodeFailure, BadConfig):
        return

    for plugin in network.plugins:
        text = plugin.execution({"prevResult": None, "runtimeConfig": {"mac": "x"}}).raw.text()
        values = json.loads(text)
        assert (network.name, network.cni_version) == (values["name"], values["cniVersion"])


NOT_JSON = [
    ("", "decode it: Expecting value at line 1 column 1"),
    ("\n\n  {", "decode it: Expecting property name enclosed in double quotes at line 3 column 4"),
    ('\n{"a" 1}', "decode it: Expecting ':' delimiter at line 2 column 6"),
    ("{'a':1}", "decode it: Expecting property name"),
    ('{"a":1,}', "decode it: "),
    ('{"a":1}{"b":2}', "decode it: more than one JSON document"),
    ('{"a":1} trailing', "decode it: more than one JSON document"),
    ('{"a":NaN}', "decode it: NaN is not JSON"),
    ('{"a":-Infinity}', "decode it: -Infinity is not JSON"),
    ("\u00a0{}", "decode it: Expecting value at line 1 column 1"),
    ("{}\u00a0", "decode it: more than one JSON document"),
    ('{"a":"\n"}', "decode it: Invalid control character"),
    ('{"a":' + "1" * 5000 + "}", "decode it: Exceeds the limit"),
    ("[" * 100_000, "decode it: nested too deeply: expected at most 100 levels"),
    ("[" * 101 + "]" * 101, "decode it: nested too deeply: expected at most 100 levels"),
    (b"\xff\xfe{\x00}\x00", "decode it: byte 0 is not UTF-8"),
    (b'{"a":"\xe9"}', "decode it: byte 6 is not UTF-8"),
]


@pytest.mark.parametrize(("text", "expected"), NOT_JSON, ids=[ascii(row[0])[:20] for row in NOT_JSON])
def test_what_is_no_json_is_told_with_its_place(text: str | bytes, expected: str):
    """The line is that of the file, blank lines before it included."""
    with pytest.raises(DecodeFailure) as caught:
        decode(text, "it")

    assert caught.value.message.startswith(expected)
    assert 6 == caught.value.code


@pytest.mark.parametrize("depth", [1, DEEPEST - 1, DEEPEST])
def test_deep_nesting_is_allowed_within_reason(depth: int):
    """Python's own limit depends on who calls, so there is one of ours below it."""
    text = '{"a":' * depth + "1" + "}" * depth

    assert json.loads(text) == decode(text, "it")


def test_a_byte_order_mark_is_passed_over():
    """Files edited on Windows begin with one."""
    assert (("a", "1"),) == RawObject.parse(b'\xef\xbb\xbf{"a":1}\r\n', "it").members
    assert "é" == as_text("é".encode(), "it")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[]", "a list"),
        ('"a"', "a string"),
        ("1", "a number"),
        ("1.5", "a number"),
        ("null", "null"),
        ("true", "a boolean"),
    ],
)
def test_a_configuration_is_an_object(text: str, kind: str):
    """Anything else is named."""
    with pytest.raises(DecodeFailure, match=f"^decode it: expected a JSON object, got {kind}$"):
        RawObject.parse(text, "it")

    assert "an object" == kind_of({})


# Section: each reader, values it takes and values it refuses

TAKEN = [
    (Section.string, None, ""),
    (Section.string, "", ""),
    (Section.string, "x", "x"),
    (Section.boolean, None, False),
    (Section.boolean, True, True),
    (Section.boolean, False, False),
    (Section.integer, None, 0),
    (Section.integer, 0, 0),
    (Section.integer, 2**31 - 1, 2**31 - 1),
    (Section.strings, None, ()),
    (Section.strings, [], ()),
    (Section.strings, ["a", ""], ("a", "")),
    (Section.section, None, None),
    (Section.section, {"a": 1}, Section("it: key", {"a": 1})),
    (Section.sections, None, ()),
    (Section.sections, [{}, {"a": 1}], (Section("it: key[0]", {}), Section("it: key[1]", {"a": 1}))),
    (Section.address, None, None),
    (Section.address, "", None),
]

REFUSED = [
    (Section.string, 1, "it: key 1: expected a string"),
    (Section.string, ["a"], 'it: key ["a"]: expected a string'),
    (Section.boolean, "true", 'it: key "true": expected true or false'),
    (Section.boolean, 1, "it: key 1: expected true or false"),
    (Section.integer, True, "it: key true: expected a whole number from 0 to 2147483647"),
    (Section.integer, "1500", 'it: key "1500": expected a whole number'),
    (Section.integer, 1500.0, "it: key 1500.0: expected a whole number"),
    (Section.integer, -1, "it: key -1: expected a whole number"),
    (Section.integer, 2**31, "it: key 2147483648: expected a whole number"),
    (Section.strings, "a", 'it: key "a": expected a list of strings'),
    (Section.strings, ["a", 1], 'it: key ["a", 1]: expected a list of strings'),
    (Section.section, [], "it: key []: expected an object"),
    (Section.sections, {}, "it: key {}: expected a list of objects"),
    (Section.sections, [{}, None], "it: key [{}, null]: expected a list of objects"),
    (Section.address, "10.1.2.300", 'it: key "10.1.2.300": expected an IP address'),
    (Section.address, "fe80::1%eth0", 'it: key "fe80::1%eth0": expected an IP address'),
    (Section.interface_address, None, "it: key null: expected an IP address in CIDR notation"),
    (Section.interface_address, "10.1.2.3", 'it: key "10.1.2.3": expected an IP address in CIDR notation'),
    (Section.interface_address, "10.1.2.3/33", "it: key"),
    (Section.interface_address, "10.1.2.3/255.255.255.0", "it: key"),
    (Section.network, "10.1.2.0", 'it: key "10.1.2.0": expected a network in CIDR notation'),
    (Section.network, "fd00::/129", "it: key"),
    (Section.string, ["x" * 100], 'it: key ["' + "x" * 55 + "...: expected a string"),
]


@pytest.mark.parametrize(("read", "value", "expected"), TAKEN)
def test_a_right_value_is_read(read, value: object, expected: object):
    """null counts as absent, as in Go, and keys are found in any case."""
    assert expected == read(Section("it", {"key": value}), "key")
    assert expected == read(Section("it", {"KEY": value}), "key")


@pytest.mark.parametrize(("read", "value", "text"), REFUSED)
def test_a_wrong_value_is_refused(read, value: object, text: str):
    """Where, key, value, and what would be right; a value of any length in one line."""
    with pytest.raises(BadConfig) as caught:
        read(Section("it", {"key": value}), "key")

    assert caught.value.message.startswith(text)
    assert 7 == caught.value.code


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"key": "a", "KEY": "b"}, "a"),
        ({"Key": "a", "KEY": "b"}, "b"),
        ({"other": "a"}, ""),
        ({"key": None}, ""),
    ],
)
def test_a_key_is_found_in_any_case(values: dict[str, object], expected: str):
    """As written wins, then the last."""
    assert expected == Section("it", values).string("key")


def test_addresses_and_networks_are_read():
    """Host bits stay in an address and are cut from a network, as Go's parser does."""
    section = Section("it", {"a": "10.1.2.3/24", "b": "fd00::3"})

    assert "10.1.2.3/24" == str(section.interface_address("a"))
    assert "10.1.2.0/24" == str(section.network("a"))
    assert "fd00::3" == str(section.address("b"))


@pytest.mark.parametrize(
    ("value", "expected"), [("TRUE", True), ("False", False), (True, True), (None, False)]
)
def test_a_boolean_may_be_text_where_the_library_takes_it(value: object, expected: bool):
    """disableCheck and its like."""
    assert expected == Section("it", {"key": value}).boolean("key", is_text_allowed=True)


def test_a_boolean_as_text_is_true_or_false():
    """Neither is yes."""
    with pytest.raises(BadConfig, match=r'^it: key "yes": expected true or false$'):
        Section("it", {"key": "yes"}).boolean("key", is_text_allowed=True)


@pytest.mark.parametrize(("value", "expected"), [(None, "l2"), ("", "l2"), ("l3", "l3")])
def test_a_choice_has_a_default(value: str | None, expected: str):
    """An empty one is the default."""
    assert expected == Section("it", {"mode": value}).choice("mode", ("l2", "l3"), "l2")


def test_a_wrong_choice_names_the_right_ones():
    """So nobody has to look them up."""
    with pytest.raises(BadConfig, match=r'^it: mode "l4": expected one of l2, l3$'):
        Section("it", {"mode": "l4"}).choice("mode", ("l2", "l3"), "l2")


# Plugins


def test_a_plugin_is_read():
    """Common keys are checked, the others kept."""
    plugin = parse_plugin(
        '{"type":"bridge","capabilities":{"mac":true,"ips":false,"Aliases":"True"},"ipam":{"type":"static"},"mtu":1.50E3}',
        "here",
        network="net-a",
        cni_version="1.0.0",
    )

    assert ("net-a", "1.0.0", "bridge", "here: bridge") == (
        plugin.network,
        plugin.cni_version,
        plugin.type,
        plugin.where,
    )
    assert {"mac", "Aliases"} == plugin.capabilities
    assert plugin.ipam is not None
    assert "static" == plugin.ipam.string("type")
    assert "1.50E3" == plugin.raw.text_of("mtu")


def test_a_plugin_alone_names_its_network_and_version():
    """Standard input of one that is executed."""
    plugin = parse_plugin('{"type":"bridge","name":"net-a","cniVersion":"0.4.0"}', "standard input")
    old = parse_plugin('{"type":"bridge"}', "standard input")

    assert ("net-a", "0.4.0") == (plugin.network, plugin.cni_version)
    assert ("", "0.1.0") == (old.network, old.cni_version)


@pytest.mark.parametrize(
    "ipam", ["", ',"ipam":null', ',"ipam":{}', ',"ipam":{"type":""}', ',"ipam":{"subnet":"x"}']
)
def test_without_an_ipam_type_there_is_no_ipam(ipam: str):
    """The reference plugins take this for layer 2 only."""
    assert parse_plugin('{"type":"bridge"' + ipam + "}", "it").ipam is None


def test_keys_that_nobody_knows_are_found():
    """They decide whether a built-in delegate may run; the runtime's own are none of them."""
    plugin = parse_plugin(
        '{"type":"bridge","MTU":1,"vlan":2,"Vlan2":3,"cni.dev/valid-attachments":[],"IPAM":{},"prevResult":{}}',
        "it",
    )

    assert ("vlan", "Vlan2") == plugin.keys_outside(["mtu"])


def test_the_execution_configuration_keeps_what_it_does_not_set():
    """`name` and `cniVersion` are the list's; a member injected as None is taken out."""
    plugin = parse_plugin(
        '{"type":"bridge", "CNIVersion":"0.3.0", "mtu": 1.50E3, "PrevResult":{}, "args": {"a" : 1}}',
        "it",
        network="net-a",
        cni_version="1.0.0",
    )

    executed = plugin.execution({"prevResult": None, "runtimeConfig": {"mac": "é"}})

    assert (
        '{"type":"bridge","cniVersion":"1.0.0","mtu":1.50E3,"args":{"a" : 1},"name":"net-a",'
        '"runtimeConfig":{"mac":"é"}}'
    ) == executed.raw.text()
    assert "net-a" == executed.section.string("name")
    assert executed.section.value("prevResult") is None


# Networks

PLUGIN = {"type": "bridge"}


def network(**members: object):
    return parse_network(json.dumps(members), "nad", default_name="default")


def test_a_single_plugin_is_a_list_of_one():
    """Most configurations in the field."""
    found = network(name="net-a", cniVersion="0.4.0", type="bridge", capabilities={"mac": True})

    assert ("net-a", "0.4.0", ["bridge"]) == (
        found.name,
        found.cni_version,
        [plugin.type for plugin in found.plugins],
    )
    assert {"mac"} == found.capabilities
    assert "nad: bridge" == found.plugins[0].where
    assert (False, False, False) == (found.is_check_disabled, found.is_gc_disabled, found.is_only_inlined)


def test_a_list_hands_its_name_and_version_down():
    """And every plugin is named by its place."""
    found = network(cniVersion="1.0.0", plugins=[PLUGIN, {"type": "tuning", "capabilities": {"mac": True}}])

    assert ["nad: plugins[0]: bridge", "nad: plugins[1]: tuning"] == [
        plugin.where for plugin in found.plugins
    ]
    assert {("default", "1.0.0")} == {(plugin.network, plugin.cni_version) for plugin in found.plugins}
    assert {"mac"} == found.capabilities


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("TRUE", True), ("false", False), (None, False)]
)
def test_the_three_switches_may_be_text(value: object, expected: bool):
    """The reference library takes both."""
    found = network(disableCheck=value, disableGC=value, loadOnlyInlinedPlugins=value, plugins=[PLUGIN])

    assert {expected} == {found.is_check_disabled, found.is_gc_disabled, found.is_only_inlined}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, "0.1.0"),
        ({"cniVersion": ""}, "0.1.0"),
        ({"cniVersion": None}, "0.1.0"),
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersion": "0.3.1", "cniVersions": []}, "0.3.1"),
        ({"cniVersion": "0.3.1", "cniVersions": ["1.0.0", "9.0.0"]}, "1.0.0"),
        ({"cniVersions": ["0.4.0"]}, "0.4.0"),
    ],
)
def test_the_version_is_the_newest_both_speak(members: dict[str, object], expected: str):
    """Absent is 0.1.0, as for the reference library."""
    assert expected == network(type="bridge", **members).cni_version


@pytest.mark.parametrize("members", [{"cniVersion": "1.2.0"}, {"cniVersions": ["2.0.0"]}])
def test_a_version_that_nobody_speaks_is_code_1(members: dict[str, object]):
    """The version asked for is named."""
    with pytest.raises(IncompatibleVersion) as caught:
        network(type="bridge", **members)

    assert caught.value.details.startswith('config is "')


@pytest.mark.parametrize("members", [{}, {"plugins": None}, {"cniVersion": "1.0.0"}])
def test_a_list_may_leave_its_plugins_to_a_directory(members: dict[str, object]):
    """Who loads that directory checks that there is one."""
    found = network(**members)

    assert () == found.plugins
    assert frozenset() == found.capabilities


def test_plugins_from_the_directory_come_last():
    """CNI 1.1.0, loadOnlyInlinedPlugins."""
    more = parse_plugin('{"type":"sbr"}', "it")

    found = network(plugins=[PLUGIN]).with_plugins([more])

    assert ["bridge", "sbr"] == [plugin.type for plugin in found.plugins]


def test_keys_in_another_case_are_read_with_a_warning():
    """Go plugins read them, so we must; the next reader may not."""
    text = (
        '{"Name":"net-a","CNIVersion":"1.0.0","Plugins":[{"Type":"bridge","IPAM":{"type":"static"},"MTU":1}]}'
    )

    found = parse_network(text, "nad")

    expected = (
        "nad: key 'Name' is read as 'name'",
        "nad: key 'CNIVersion' is read as 'cniVersion'",
        "nad: key 'Plugins' is read as 'plugins'",
        "nad: plugins[0]: bridge: key 'Type' is read as 'type'",
        "nad: plugins[0]: bridge: key 'IPAM' is read as 'ipam'",
    )
    assert expected == found.warnings
    assert ("net-a", "1.0.0", "bridge") == (found.name, found.cni_version, found.plugins[0].type)


def test_a_single_plugin_is_warned_about_once():
    """It is list and plugin at the same time."""
    assert ("nad: bridge: key 'Name' is read as 'name'",) == parse_network(
        '{"Name":"a","type":"bridge"}', "nad"
    ).warnings
    assert () == case_warnings(Section("it", {"name": 1, "MTU": 2}), ["name"])


def test_a_plugin_config_is_frozen():
    """A step of the plan is what the ledger wrote."""
    plugin = parse_plugin('{"type":"bridge"}', "it")

    assert isinstance(plugin, PluginConfig)
    with pytest.raises(AttributeError):
        plugin.type = "macvlan"  # type: ignore[misc]


def test_what_a_configuration_says_is_looked_for_once():
    """Pods come by the thousand, networks by the dozen; a refusal is no finding, it is raised each time."""
    plugin = parse_plugin('{"type": "bridge"}', "here")
    asked: list[str] = []

    def find(config: PluginConfig) -> str:
        asked.append(config.type)
        if len(asked) == 1:
            raise BadConfig("not yet")
        return "found"

    with pytest.raises(BadConfig):
        plugin.once(find)

    assert ["found", "found"] == [plugin.once(find) for _ in range(2)]
    assert ["bridge", "bridge"] == asked
    assert {"type": "bridge", "mtu": 9, "cniVersion": "0.1.0", "name": ""} == plugin.execution(
        {"mtu": 9}
    ).raw.values()


def test_a_previous_result_changes_nothing_that_was_found():
    """A DEL puts it into what the ADD had; it is in what is given on all the same."""
    plugin = parse_plugin('{"type": "bridge", "ipam": {"type": "static"}}', "here").execution({"mtu": 9})
    plugin.once(type_of)
    assert plugin is plugin.execution({})

    ready = plugin.execution({"prevResult": {"ips": []}})
    other = plugin.execution({"type": "ptp"})

    assert ("bridge", "static", "ptp") == (ready.once(type_of), ready.ipam_type, other.once(type_of))
    assert {"ips": []} == ready.execution({}).raw.values()["prevResult"]


def test_a_plugin_of_a_list_is_made_ready_once():
    """Most pods put nothing in; what was found in the plugin for one of them is there for the next."""
    plugin = parse_plugin('{"type": "bridge"}', "here", network="n", cni_version="1.0.0")

    ready = plugin.execution({})

    assert {"type": "bridge", "cniVersion": "1.0.0", "name": "n"} == ready.raw.values()
    assert ready is plugin.execution({"runtimeConfig": None}) is ready.execution({})
    assert {"mtu": 9} == plugin.execution({"args": {"mtu": 9}}).section.value("args")
    for each in (plugin, ready):
        assert "prevResult" in each.execution({"prevResult": {}}).execution({}).raw.values()


@given(VALUES)
def test_people_get_json_by_lines_and_programs_on_one(text: str):
    """Errors and network-status are read by people, the latter as Multus writes it; a result is not."""
    value = json.loads(text)

    printed = encode_compact({"it": value})

    assert json.dumps(value, indent=4, ensure_ascii=False) == indented(value)
    assert ({"it": value}, 1) == (json.loads(printed), printed.count(b"\n"))
    assert json.loads(printed) == json.loads(encode({"it": value}))


def type_of(config: PluginConfig) -> object:
    return config.section.value("type")
