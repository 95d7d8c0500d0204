"""What a pod asks for, in both forms of the standard."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.cni.errors import BadConfig, CNIError
from meta_cni.engine.selection import Selection, parse, unknown_keys

LABELS = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?\Z")
INTERFACES = st.from_regex(r"\A[a-zA-Z0-9_.-]{1,15}\Z").filter(lambda name: name not in (".", ".."))


def test_empty_annotation_selects_nothing():
    """A pod without the annotation is the common case, and no error."""
    assert () == parse("", "ns", "w")
    assert () == parse("  ", "ns", "w")
    assert () == parse("[]", "ns", "w")


@given(st.lists(st.tuples(st.none() | LABELS, LABELS, st.none() | INTERFACES), min_size=1, max_size=6))
def test_short_form_says_what_it_says(items):
    """[namespace/]name[@interface], blanks around items."""
    text = " , ".join(
        (f"{namespace}/" if namespace else "") + name + (f"@{interface}" if interface else "")
        for namespace, name, interface in items
    )

    parsed = parse(text, "own", "w")

    expected = [(namespace or "own", name, interface or "") for namespace, name, interface in items]
    assert expected == [(each.namespace, each.name, each.interface) for each in parsed]


@given(st.lists(st.tuples(st.none() | LABELS, LABELS, st.none() | INTERFACES), min_size=1, max_size=6))
def test_both_forms_mean_the_same(items):
    """A short form is its JSON form with nothing else asked for."""
    short = ",".join((f"{ns}/" if ns else "") + name + (f"@{i}" if i else "") for ns, name, i in items)
    elements = [
        {"name": name} | ({"namespace": ns} if ns else {}) | ({"interface": i} if i else {})
        for ns, name, i in items
    ]

    assert parse(short, "own", "w") == parse(json.dumps(elements), "own", "w")


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_cni_error(text):
    """Users write this by hand; nothing may crash."""
    try:
        parse(text, "ns", "w")
    except CNIError as error:
        assert error.code in (6, 7)  # noqa: PT017 - both outcomes are right


def test_every_key_of_the_json_form_is_read():
    """The standard's keys and Multus' own."""
    element = {
        "name": "media",
        "namespace": "telco",
        "interface": "media0",
        "ips": ["10.1.1.5/24", "fd00::5"],
        "mac": "02-00-5E-00-53-01",
        "infiniband-guid": "c211.2233.4455.6677",
        "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "sctp", "hostIP": "10.0.0.1"}],
        "bandwidth": {"ingressRate": 10, "ingressBurst": 20, "egressRate": 30},
        "cni-args": {"a": {"b": 1}},
        "default-route": ["10.1.1.1", "fd00::1"],
        "deviceID": "0000:01:10.0",
        "cni.example.org/own": True,
    }

    (parsed,) = parse(json.dumps([element]), "ns", "w")

    assert ("telco/media", "media0", "0000:01:10.0") == (parsed.reference, parsed.interface, parsed.device_id)
    assert ["10.1.1.1", "fd00::1"] == [str(each) for each in parsed.default_route or ()]
    assert {"a": {"b": 1}} == parsed.cni_args
    assert {
        "ips": ["10.1.1.5/24", "fd00::5"],
        "mac": "02:00:5e:00:53:01",
        "infinibandGUID": "c2:11:22:33:44:55:66:77",
        "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "sctp", "hostIP": "10.0.0.1"}],
        "bandwidth": {"ingressRate": 10, "ingressBurst": 20, "egressRate": 30},
    } == parsed.requests


def test_claim_and_deprecated_interface_key_are_read():
    """ipam-claim-reference is for the IPAM; interfaceRequest is Multus' old name."""
    (parsed,) = parse('[{"name":"a","ipam-claim-reference":"c","interfaceRequest":"x0"}]', "ns", "w")

    assert ("c", "x0", None) == (parsed.ipam_claim, parsed.interface, parsed.default_route)


def test_all_mistakes_are_told_at_once():
    """Kubelet's event is read once, not after every repair."""
    elements = [{"name": "A", "mac": "x"}, {"name": "b", "interface": "a/b", "ips": ["x"]}]

    with pytest.raises(CNIError) as caught:
        parse(json.dumps(elements), "ns", "w")

    for fragment in ("w[0]: name", "w[0]: mac", "w[1]: interface", "w[1]: ips"):
        assert fragment in caught.value.message
    assert 7 == caught.value.code


def test_short_form_tells_every_mistake_of_an_item():
    """Namespace, name and interface are each looked at."""
    with pytest.raises(CNIError, match="3 errors"):
        parse("A.b/C@x:y", "ns", "w")


def test_empty_default_route_is_not_the_same_as_none():
    """`[]` asks for the route that the network itself brings."""
    (parsed,) = parse('[{"name":"a","default-route":[]}]', "ns", "w")

    assert () == parsed.default_route


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('[{"name":"a","interace":"x"}]', ("interace",)),
        ('[{"name":"a","own.example/x":1}]', ()),
        ("a,b", ()),
        ('{"name":"a"}', ()),
        ("[1]", ()),
    ],
)
def test_typing_errors_in_keys_are_found(text: str, keys: tuple[str, ...]):
    """P-25: a key nobody reads is most likely misspelt."""
    assert keys == unknown_keys(text)


def test_selection_without_requests_asks_for_nothing():
    """Nothing must be verified for a plain selection."""
    assert {} == Selection("a", "ns", "w").requests


def test_port_mapping_needs_both_ports():
    """S-15."""
    with pytest.raises(BadConfig, match="containerPort"):
        parse('[{"name":"a","portMappings":[{"hostPort":1}]}]', "ns", "w")
