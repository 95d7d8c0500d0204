"""
What users, runtimes and plugins get wrong, each with the code and the words it is answered with.

Three doors: the environment, the configuration on standard input or in a NAD, and what a plugin
printed. Nothing here touches anything, so a refused request has changed nothing.
"""

import json
from collections.abc import Callable

import pytest

from meta_cni.cni import request, result
from meta_cni.cni.config import parse_network
from meta_cni.cni.errors import CNIError

ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}


def environment(**changes: str) -> Callable[[], object]:
    """A request with variables (without their CNI_) changed; empty ones are left out."""
    changed = {**ADD, **{f"CNI_{name}": value for name, value in changes.items()}}
    return lambda: request.parse({name: value for name, value in changed.items() if value}, b"")


def configuration(text: str | bytes, **members: object) -> Callable[[], object]:
    """A configuration as text, or as a right one with members changed."""
    right = {"cniVersion": "1.0.0", "name": "net-a", "type": "bridge"}
    return lambda: parse_network(text or json.dumps({**right, **members}), "nad telco/net-a")


def plugins(*plugin: object, **members: object) -> Callable[[], object]:
    """A list of plugin objects."""
    document = {"cniVersion": "1.0.0", "name": "net-a", "plugins": plugin, **members}
    return lambda: parse_network(json.dumps(document), "nad telco/net-a")


def answer(**members: object) -> Callable[[], object]:
    """What a plugin printed."""
    return lambda: result.parse({"cniVersion": "1.0.0", **members}, "1.0.0")


BAD = [
    # the environment
    (
        environment(COMMAND=""),
        4,
        "unknown CNI_COMMAND ''",
        "expected one of ADD, CHECK, DEL, GC, STATUS, VERSION",
    ),
    (environment(COMMAND="add"), 4, "unknown CNI_COMMAND 'add'", "expected one of ADD"),
    (environment(COMMAND="UPDATE"), 4, "unknown CNI_COMMAND 'UPDATE'", "VERSION"),
    (environment(CONTAINERID=""), 4, "required env variables [CNI_CONTAINERID] missing"),
    (environment(NETNS=""), 4, "required env variables [CNI_NETNS] missing"),
    (environment(IFNAME=""), 4, "required env variables [CNI_IFNAME] missing"),
    (environment(PATH=""), 4, "required env variables [CNI_PATH] missing"),
    (environment(NETNS="", IFNAME=""), 4, "required env variables [CNI_NETNS,CNI_IFNAME] missing"),
    (environment(COMMAND="GC", PATH=""), 4, "required env variables [CNI_PATH] missing"),
    (environment(COMMAND="DEL", NETNS="", IFNAME=""), 4, "required env variables [CNI_IFNAME] missing"),
    (environment(CONTAINERID="../etc"), 4, "CNI_CONTAINERID '../etc'", "expected a letter or digit"),
    (environment(CONTAINERID="c0ffee\n"), 4, "CNI_CONTAINERID 'c0ffee\\n'", "expected a letter or digit"),
    (environment(CONTAINERID="\udcff"), 4, "CNI_CONTAINERID '\\udcff'", "expected a letter or digit"),
    (environment(IFNAME="a-very-long-name"), 4, "CNI_IFNAME 'a-very-long-name'", "at most 15 bytes, got 16"),
    (environment(IFNAME=".."), 4, "CNI_IFNAME '..'", "expected a name other than '.' and '..'"),
    (environment(IFNAME="eth/0"), 4, "CNI_IFNAME 'eth/0'", "without '/', ':', '%', white space"),
    (environment(IFNAME="eth 0"), 4, "CNI_IFNAME 'eth 0'", "white space or control characters"),
    (environment(IFNAME="eth%d"), 4, "CNI_IFNAME 'eth%d'", "without '/', ':', '%'"),
    (environment(IFNAME="\udcff"), 4, "CNI_IFNAME '\\udcff'", "control characters"),
    (environment(IFNAME="à"), 4, "CNI_IFNAME 'à'", "white space for the kernel"),
    (environment(ARGS="K8S_POD_NAME"), 4, "CNI_ARGS: 'K8S_POD_NAME'", "expected KEY=VALUE pairs"),
    (environment(ARGS="A=1;=2"), 4, "CNI_ARGS: '=2'", "joined by ';'"),
    (environment(IFNAME="a/b", CONTAINERID="a b"), 4, "CNI_CONTAINERID 'a b'", "CNI_IFNAME 'a/b'"),
    # no configuration at all
    (configuration("\n"), 6, "decode nad telco/net-a: Expecting value", "line 2 column 1"),
    (configuration('{"type":"bridge"'), 6, "decode nad telco/net-a", "line 1 column 17"),
    (configuration('{"type":bridge}'), 6, "decode nad telco/net-a: Expecting value", "column 9"),
    (configuration('{"type":"bridge"}{}'), 6, "decode nad telco/net-a: more than one JSON document"),
    (configuration('[{"type":"bridge"}]'), 6, "expected a JSON object, got a list"),
    (configuration('"bridge"'), 6, "expected a JSON object, got a string"),
    (configuration("null"), 6, "expected a JSON object, got null"),
    (configuration('{"mtu":Infinity}'), 6, "Infinity is not JSON"),
    (configuration(b'{"type":"\xff"}'), 6, "byte 9 is not UTF-8"),
    (configuration('{"a":' * 9999), 6, "nested too deeply", "expected at most 100 levels"),
    # a configuration with a mistake
    (configuration("", cniVersion="1.0"), 6, "cniVersion '1.0'", "expected MAJOR.MINOR.PATCH"),
    (configuration("", cniVersion="2.0.0"), 1, "incompatible CNI versions", 'config is "2.0.0"', "1.1.0"),
    (configuration("", cniVersion=1.0), 7, "nad telco/net-a: cniVersion 1.0", "expected a string"),
    (configuration("", cniVersions="1.0.0"), 7, 'cniVersions "1.0.0"', "expected a list of strings"),
    (configuration("", cniVersions=["1.0.0", "new"]), 6, "cniVersion 'new'", "expected MAJOR.MINOR.PATCH"),
    (configuration("", name=None), 7, "nad telco/net-a: missing network name", "expected a name like"),
    (configuration("", name="-net"), 7, "name '-net'", "expected a letter or digit"),
    (configuration("", name="net/a"), 7, "name 'net/a'", "expected a letter or digit"),
    (configuration("", name="net-a\n"), 7, "name 'net-a\\n'", "expected a letter or digit"),
    (configuration("", name=5), 7, "name 5", "expected a string"),
    (configuration("", type=""), 7, "type is missing", "expected the file name of a CNI plugin"),
    (configuration("", type="../bridge"), 7, 'type "../bridge"', "expected a file name without '/'"),
    (configuration("", type=".."), 7, 'type ".."', "expected a file name"),
    (configuration("", type="bridge\0"), 7, 'type "bridge\\u0000"', "expected a file name"),
    (configuration("", type=["bridge"]), 7, 'type ["bridge"]', "expected a string"),
    (configuration("", capabilities=["mac"]), 7, 'capabilities ["mac"]', "expected an object"),
    (configuration("", capabilities={"mac": 1}), 7, "capabilities: mac 1", "expected true or false"),
    (configuration("", ipam="host-local"), 7, 'ipam "host-local"', "expected an object"),
    (configuration("", dns=["8.8.8.8"]), 7, 'dns ["8.8.8.8"]', "expected an object"),
    (configuration("", args="a=b"), 7, 'args "a=b"', "expected an object"),
    (configuration("", runtimeConfig=[]), 7, "runtimeConfig []", "expected an object"),
    (configuration("", disableCheck="yes"), 7, 'disableCheck "yes"', "expected true or false"),
    (configuration("", disableGC=1), 7, "disableGC 1", "expected true or false"),
    (configuration("", loadOnlyInlinedPlugins=[]), 7, "loadOnlyInlinedPlugins []", "expected true or false"),
    (plugins(), 7, "plugins []", "expected a list with at least one plugin object"),
    (plugins("bridge"), 7, 'plugins ["bridge"]', "expected a list of objects"),
    (plugins({"type": "bridge"}, {}), 7, "plugins[1]: type is missing"),
    (plugins({"type": "a/b"}), 7, 'plugins[0]: type "a/b"', "expected a file name without '/'"),
    (plugins({"type": "bridge"}, plugins={"type": "bridge"}), 7, "plugins {", "expected a list of objects"),
    # what a plugin printed
    (answer(cniVersion="3.0.0"), 1, "incompatible CNI versions", 'result is "3.0.0"'),
    (answer(cniVersion="new"), 6, "cniVersion 'new'", "expected MAJOR.MINOR.PATCH"),
    (answer(ips=[{"address": "10.1.2.3"}]), 6, 'ips[0].address "10.1.2.3"', "in CIDR notation"),
    (answer(ips=[{"address": "10.1.2.3/8", "interface": 0}]), 6, "ips[0].interface 0", "index of the 0"),
    (answer(ips=[{"address": "10.1.2.3/8", "version": "6"}]), 6, 'ips[0].version "6"', 'expected "4"'),
    (answer(ips={"address": "10.1.2.3/8"}), 6, 'ips {"address": "10.1.2.3/8"}', "expected a list of objects"),
    (answer(interfaces=["eth0"]), 6, 'interfaces ["eth0"]', "expected a list of objects"),
    (answer(routes=[{"dst": "default"}]), 6, 'routes[0].dst "default"', "expected a network"),
    (answer(routes=[{"dst": "::/0", "gw": "a"}]), 6, 'routes[0].gw "a"', "expected an IP address"),
    (answer(dns={"nameservers": "1.1.1.1"}), 6, 'dns.nameservers "1.1.1.1"', "expected a list of strings"),
]


@pytest.mark.parametrize(
    ("ask", "code", "fragments"),
    [(row[0], row[1], row[2:]) for row in BAD],
    ids=[ascii(row[2]) for row in BAD],
)
def test_bad_input_is_answered_with_what_would_be_right(
    ask: Callable[[], object], code: int, fragments: tuple[str, ...]
):
    """One line, with its place, its value and what was expected, that any runtime can print."""
    with pytest.raises(CNIError) as caught:
        ask()

    error = caught.value
    text = f"{error.message} {error.details}"
    assert (code, list(fragments)) == (error.code, [each for each in fragments if each in text])
    assert "\n" not in error.message
    assert json.loads(json.dumps(error.to_json("1.0.0")))
