"""
Bad input: a CNI error with the right code that says what and where, and nothing touched.

Every row is one mistake. After each, links, addresses, routes, files and ledger are as before.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from meta_cni.linux import link
from tests.netns.conftest import Node

Change = Callable[[Node], dict[str, Any] | None]
"""Makes the mistake; may return arguments for the call."""


def env(**variables: str) -> Change:
    return lambda _: variables


def stdin(text: str | bytes) -> Change:
    return lambda _: {"stdin": text.encode() if isinstance(text, str) else text}


def setting(**keys: Any) -> Change:
    return lambda node: node.settings.update(keys)


def default(**keys: Any) -> Change:
    return lambda node: node.settings.update(delegates=[{**node.bridge("default", 244), **keys}])


def networks(value: Any) -> Change:
    return lambda node: node.annotate(value)


def nad(config: Any, **annotations: str) -> Change:
    def change(node: Node) -> None:
        node.nad("bad", config(node) if callable(config) else config, **annotations)
        node.annotate("bad")

    return change


def bridge(**keys: Any) -> Change:
    return nad(lambda node: node.bridge("", 11) | keys)


def ipam(**keys: Any) -> Change:
    return nad(lambda node: {**node.bridge("", 11), "ipam": {**node.ipam(11), **keys}})


def static(**keys: Any) -> Change:
    return nad(lambda node: {**node.bridge("", 11), "ipam": {"type": "static", **keys}})


def macvlan(**keys: Any) -> Change:
    return nad(lambda node: {"cniVersion": "1.1.0", "type": "macvlan", "ipam": node.ipam(11), **keys})


def prints(text: str, code: int = 0) -> Change:
    def change(node: Node) -> None:
        node.script("odd", f"[ $CNI_COMMAND = ADD ] || exit 0\ncat <<'EOF'\n{text}\nEOF\nexit {code}")
        node.nad("bad", {"cniVersion": "1.1.0", "type": "odd"})
        node.annotate("bad")

    return change


def runs(script: str) -> Change:
    def change(node: Node) -> None:
        node.script("odd", f"[ $CNI_COMMAND = ADD ] || exit 0\n{script}")
        node.nad("bad", {"cniVersion": "1.1.0", "type": "odd"})
        node.annotate("bad")

    return change


def hangs(script: str) -> Change:
    def change(node: Node) -> None:
        runs(script)(node)
        node.settings["networks"] = {"telco/bad": {"delegateTimeout": 2}}

    return change


def file_in_store(text: str) -> Change:
    def change(node: Node) -> None:
        (node.root / "objects" / "NetworkAttachmentDefinition-bad.json").write_text(text)
        node.annotate("bad")

    return change


def not_a_bridge(node: Node) -> None:
    node.host.request([link.create_pair("br11", "peer11")])
    node.nad("bad", node.bridge("", 11))
    node.annotate("bad")


def no_netns_file(node: Node) -> dict[str, str]:
    path = node.root / "file"
    path.write_text("")
    return {"CNI_NETNS": str(path)}


def taken_name(node: Node) -> None:
    node.pod.socket.request([link.create_pair("net1", "other")])
    node.annotate("one")


def full_range(node: Node) -> None:
    node.nad("bad", {**node.bridge("", 11), "ipam": node.ipam(11, ranges=[[{"subnet": "10.11.0.0/30"}]])})
    directory = node.root / "ipam" / "bad"
    directory.mkdir(parents=True)
    (directory / "10.11.0.2").write_text("somebody\r\neth0")
    node.annotate("bad")


def isolated(value: Any, **more: Any) -> Change:
    def change(node: Node) -> None:
        node.settings.update(namespaceIsolation=True, **more)
        node.annotate(value)

    return change


def default_network(value: str, **more: Any) -> Change:
    def change(node: Node) -> None:
        node.settings.update(more)
        node.annotate(**{"v1.multus-cni.io/default-network": value})

    return change


def by_name(files: dict[str, str]) -> Change:
    def change(node: Node) -> None:
        for name, text in files.items():
            (node.root / "conf" / name).write_text(text)
        node.nad("bad", "")
        node.annotate("bad")

    return change


ROWS: list[tuple[str, Change, int, str]] = [
    # environment
    ("no command", env(CNI_COMMAND=""), 4, "CNI_COMMAND"),
    ("unknown command", env(CNI_COMMAND="FROB"), 4, "unknown CNI_COMMAND 'FROB'"),
    ("no container id", env(CNI_CONTAINERID=""), 4, "CNI_CONTAINERID"),
    ("bad container id", env(CNI_CONTAINERID="a/b"), 4, "CNI_CONTAINERID 'a/b'"),
    ("container id begins with a dot", env(CNI_CONTAINERID=".."), 4, "CNI_CONTAINERID '..'"),
    ("no netns", env(CNI_NETNS=""), 4, "CNI_NETNS"),
    ("no interface", env(CNI_IFNAME=""), 4, "CNI_IFNAME"),
    ("several missing", env(CNI_IFNAME="", CNI_NETNS=""), 4, "[CNI_NETNS,CNI_IFNAME]"),
    ("no path", env(CNI_PATH=""), 4, "CNI_PATH"),
    ("interface too long", env(CNI_IFNAME="a" * 16), 4, "at most 15 bytes"),
    ("interface with slash", env(CNI_IFNAME="a/b"), 4, "without '/'"),
    ("interface with colon", env(CNI_IFNAME="a:b"), 4, "without '/', ':'"),
    ("interface with space", env(CNI_IFNAME="a b"), 4, "white space"),
    ("interface is dot", env(CNI_IFNAME="."), 4, "other than '.'"),
    ("interface is dot dot", env(CNI_IFNAME=".."), 4, "other than '.'"),
    ("interface in wide characters", env(CNI_IFNAME="ü" * 8), 4, "got 16"),
    ("args without value", env(CNI_ARGS="K8S_POD_NAME"), 4, "KEY=VALUE"),
    ("args without key", env(CNI_ARGS="=x"), 4, "KEY=VALUE"),
    ("netns missing", env(CNI_NETNS="/run/netns/nope"), 8, "does not exist"),
    ("netns below a file", env(CNI_NETNS="/proc/self/status/net"), 8, "does not exist"),
    ("netns is a directory", env(CNI_NETNS="/proc/self"), 8, "it is none"),
    ("netns is a file", no_netns_file, 8, "it is none"),
    ("netns of another kind", env(CNI_NETNS="/proc/self/ns/uts"), 8, "it is none"),
    ("netns is our own", env(CNI_NETNS="/proc/self/ns/net"), 8, "own network namespace"),
    ("pod unknown", env(CNI_ARGS="K8S_POD_NAMESPACE=telco;K8S_POD_NAME=nope"), 11, "pod telco/nope"),
    (
        "pod of another uid",
        env(CNI_ARGS="K8S_POD_NAMESPACE=telco;K8S_POD_NAME=p;K8S_POD_UID=x"),
        11,
        "expected UID x",
    ),
    # standard input
    ("stdin empty", stdin(""), 6, "standard input"),
    ("stdin is no JSON", stdin("{"), 6, "line 1"),
    ("stdin is a list", stdin("[]"), 6, "expected a JSON object"),
    ("stdin twice", stdin("{}{}"), 6, "more than one"),
    ("stdin is not UTF-8", stdin(b'{"name":"\xff"}'), 6, "UTF-8"),
    ("stdin has NaN", stdin('{"name":"x","a":NaN}'), 6, "NaN"),
    ("stdin nested too deeply", stdin("[" * 200000), 6, "nested too deeply"),
    ("no name", stdin('{"cniVersion":"1.0.0","type":"meta-cni"}'), 7, "missing network name"),
    ("bad name", stdin('{"cniVersion":"1.0.0","name":"a b","type":"meta-cni"}'), 7, 'name "a b"'),
    ("name is a number", stdin('{"cniVersion":"1.0.0","name":5}'), 7, "name 5: expected a string"),
    ("version is a number", setting(cniVersion=1), 7, "cniVersion 1"),
    ("version is no version", setting(cniVersion="one"), 6, "MAJOR.MINOR.PATCH"),
    ("version from the future", setting(cniVersion="9.0.0"), 1, "incompatible CNI versions"),
    ("prevResult is no object", setting(prevResult=[]), 7, "prevResult"),
    ("prevResult is wrong", setting(prevResult={"ips": [{"address": "x"}]}), 6, "prevResult"),
    ("runtimeConfig is no object", setting(runtimeConfig=[]), 7, "runtimeConfig"),
    # our configuration
    ("no default network", setting(delegates=[]), 7, "no default network"),
    ("delegates is no list", setting(delegates={}), 7, "delegates an object"),
    ("delegate is no object", setting(delegates=[5]), 6, "delegates[0]"),
    ("delegate without type", setting(delegates=[{"name": "x"}]), 6, "no plugin configurations"),
    ("delegate with empty plugins", setting(delegates=[{"name": "x", "plugins": []}]), 7, "at least one"),
    (
        "delegate with null plugin",
        setting(delegates=[{"name": "x", "plugins": [None]}]),
        7,
        "list of objects",
    ),
    ("clusterNetwork nowhere", setting(clusterNetwork="nope"), 7, "no network named 'nope'"),
    ("clusterNetwork path missing", setting(clusterNetwork="/nope/x.conf"), 7, "/nope/x.conf does not exist"),
    (
        "clusterNetwork empty directory",
        setting(clusterNetwork="/proc/self/fdinfo/.."),
        7,
        "no network configuration",
    ),
    ("clusterNetwork is a number", setting(clusterNetwork=7), 7, "clusterNetwork 7: expected a string"),
    ("confDir is relative", setting(confDir="conf"), 7, "confDir 'conf': expected an absolute path"),
    ("unknown log level", setting(logLevel="loud"), 7, "panic, error, verbose, debug"),
    ("unknown result", setting(result="all"), 7, "merged, default"),
    ("unknown status format", setting(networkStatus="xml"), 7, "standard, multus"),
    (
        "unknown policy",
        setting(delegatePolicy="never"),
        7,
        "delegatePolicy 'never': expected one of auto, builtin, exec",
    ),
    ("unknown policy of a type", setting(delegatePolicy={"bridge": "never"}), 7, "auto, builtin, exec"),
    ("timeout of zero", setting(delegateTimeout=0), 7, "seconds, more than 0"),
    ("timeout in words", setting(networks={"x": {"delegateTimeout": "5s"}}), 7, "seconds"),
    ("unknown network option", setting(networks={"x": {"timeout": 5}}), 7, "not 'timeout'"),
    ("isolation in words", setting(namespaceIsolation="maybe"), 7, "true or false"),
    ("store without directory", setting(store={}), 7, "directory"),
    ("kubeconfig", setting(store=None, kubeconfig="/etc/k"), 11, "read /etc/k: No such file"),
    ("two mistakes at once", setting(result="all", delegateTimeout=-1), 7, "2 errors"),
    ("auxiliary chain without a path", setting(auxiliaryCNIChainName="x"), 7, "expected clusterNetwork"),
    # the default network's configuration
    ("default: bridge name is a number", default(bridge=5), 7, "bridge 5: expected a string"),
    ("default: mtu is negative", default(mtu=-1), 7, "mtu -1"),
    ("default: type with a slash", default(type="../bridge"), 7, "without '/'"),
    ("default: type not installed", default(type="nope"), 101, "find plugin 'nope'"),
    ("default: bad version", default(cniVersion="7.0.0"), 1, "incompatible"),
    # annotation, short form
    ("network unknown", networks("nope"), 7, "no NetworkAttachmentDefinition nope"),
    ("network of another namespace unknown", networks("other/one"), 7, "namespace other"),
    ("three parts", networks("a/b/c"), 7, "[namespace/]name[@interface]"),
    ("two interfaces", networks("one@a@b"), 7, "[namespace/]name[@interface]"),
    ("empty item", networks("one,,two"), 7, "[1]: ''"),
    ("no name before @", networks("@net5"), 7, "[namespace/]name"),
    ("no name after /", networks("telco/"), 7, "[namespace/]name"),
    ("upper case", networks("One"), 7, "DNS-1123"),
    ("bad namespace", networks("Te.lco/one"), 7, "DNS-1123 label"),
    ("interface too long", networks("one@abcdefghijklmnop"), 7, "at most 15 bytes"),
    ("all mistakes of a list", networks("One,nope,one@a:b"), 7, "2 errors"),
    # annotation, JSON form
    ("JSON is broken", networks('[{"name":"one"'), 6, "annotation"),
    ("JSON is one object", networks({"name": "one"}), 6, "expected a JSON list"),
    ("element is a string", networks(["one"]), 7, "expected an object"),
    ("no name", networks([{"namespace": "telco"}]), 7, "name null"),
    ("name is a number", networks([{"name": 5}]), 7, "name 5"),
    ("namespace in upper case", networks([{"name": "one", "namespace": "X"}]), 7, "DNS-1123 label"),
    ("interface with slash", networks([{"name": "one", "interface": "a/b"}]), 7, "interface 'a/b'"),
    ("ips is a string", networks([{"name": "one", "ips": "10.11.0.5"}]), 7, "a list of strings"),
    ("ips is no address", networks([{"name": "one", "ips": ["10.11.0.500"]}]), 7, "10.11.0.500"),
    ("mac is no address", networks([{"name": "one", "mac": "02:00"}]), 7, "unicast Ethernet"),
    ("mac is multicast", networks([{"name": "one", "mac": "01:00:5e:00:00:01"}]), 7, "unicast Ethernet"),
    ("mac is zero", networks([{"name": "one", "mac": "00:00:00:00:00:00"}]), 7, "unicast Ethernet"),
    ("guid too short", networks([{"name": "one", "infiniband-guid": "02:00:5e:00:53:01"}]), 7, "8-byte GUID"),
    (
        "port too large",
        networks([{"name": "one", "portMappings": [{"hostPort": 70000}]}]),
        7,
        "hostPort 70000",
    ),
    (
        "no container port",
        networks([{"name": "one", "portMappings": [{"hostPort": 80}]}]),
        7,
        "containerPort",
    ),
    (
        "unknown protocol",
        networks(
            [{"name": "one", "portMappings": [{"hostPort": 8, "containerPort": 8, "protocol": "ICMP"}]}]
        ),
        7,
        "TCP, UDP, SCTP",
    ),
    ("bandwidth of zero", networks([{"name": "one", "bandwidth": {"ingressRate": 0}}]), 7, "ingressRate 0"),
    ("burst without rate", networks([{"name": "one", "bandwidth": {"egressBurst": 9}}]), 7, "egressRate"),
    ("empty bandwidth", networks([{"name": "one", "bandwidth": {}}]), 7, "at least one of"),
    ("cni-args is a list", networks([{"name": "one", "cni-args": []}]), 7, "cni-args []: expected an object"),
    (
        "default-route is a string",
        networks([{"name": "one", "default-route": "10.1.1.1"}]),
        7,
        "default-route",
    ),
    (
        "default-route with prefix",
        networks([{"name": "one", "default-route": ["10.1.1.1/24"]}]),
        7,
        "without prefix",
    ),
    (
        "two default routes of a family",
        networks(
            [{"name": "one", "default-route": ["10.11.0.3"]}, {"name": "two", "default-route": ["10.12.0.3"]}]
        ),
        7,
        "expected it in one selection only",
    ),
    (
        "ips and claim",
        networks([{"name": "one", "ips": ["10.11.0.5"], "ipam-claim-reference": "c"}]),
        7,
        "expected only one of them",
    ),
    # what a selection asks for
    (
        "no capability ips",
        networks([{"name": "two", "ips": ["10.12.0.5"]}]),
        7,
        '"capabilities": {"ips": true}',
    ),
    ("no capability mac", networks([{"name": "two", "mac": "02:00:5e:00:53:01"}]), 7, '{"mac": true}'),
    (
        "no capability portMappings",
        networks([{"name": "one", "portMappings": [{"hostPort": 80, "containerPort": 80}]}]),
        7,
        '{"portMappings": true}',
    ),
    ("no capability bandwidth", networks([{"name": "one", "bandwidth": {"ingressRate": 9}}]), 7, "bandwidth"),
    (
        "no capability infinibandGUID",
        networks([{"name": "one", "infiniband-guid": "c2:11:22:33:44:55:66:77"}]),
        7,
        "infinibandGUID",
    ),
    (
        "device is not there",
        networks([{"name": "one", "deviceID": "0000:ff:1f.7"}]),
        7,
        "0000:ff:1f.7 is not there",
    ),
    ("device is a path", networks([{"name": "one", "deviceID": "../x"}]), 7, "is not there"),
    ("same name twice", networks("one@data0,two@data0"), 7, "interface 'data0'"),
    ("name of the default network", networks("one@eth0"), 7, "interface 'eth0'"),
    ("name collides with a numbered one", networks("one@net2,two"), 7, "interface 'net2'"),
    ("name taken in the pod", taken_name, 7, "net1 already exists"),
    ("name of all sysctls", networks("one@all"), 7, "interface all: a name of sysctls"),
    ("name of the default sysctls", networks("one,two@default"), 7, "[1] (telco/two): interface default"),
    ("name of the loopback link", networks("one@lo"), 7, "interface lo: every pod has it"),
    ("address outside the ranges", networks([{"name": "one", "ips": ["10.99.0.5"]}]), 7, "10.99.0.5"),
    ("address is the gateway", networks([{"name": "one", "ips": ["10.11.0.1"]}]), 7, "subnet's gateway"),
    ("isolation", isolated("other/one"), 7, "namespaceIsolation is on"),
    ("isolation and its list", isolated("default/one", globalNamespaces="x,y"), 7, "telco, x, y"),
    ("default network unknown", default_network("nope"), 7, "namespace kube-system"),
    ("two default networks", default_network("telco/one,telco/two"), 7, "expected one default network"),
    (
        "isolation of the default network",
        default_network("other/one", namespaceIsolation=True),
        7,
        "namespaceIsolation is on",
    ),
    # networks
    ("NAD is no JSON", nad("{x}"), 6, "NetworkAttachmentDefinition telco/bad"),
    ("NAD is cut off", nad("{"), 7, "NetworkAttachmentDefinition telco/bad"),
    ("NAD is a list", nad("[]"), 7, "as JSON text"),
    ("NAD without type", nad({"cniVersion": "1.0.0"}), 6, "no plugin configurations"),
    ("NAD with plugins as object", nad({"plugins": {}}), 7, "plugins"),
    ("NAD with bad name", nad({"name": "a b", "type": "bridge"}), 7, "name 'a b'"),
    ("NAD with capabilities as list", bridge(capabilities=["ips"]), 7, "capabilities"),
    ("NAD with capability in words", bridge(capabilities={"ips": "yes"}), 7, "true or false"),
    ("NAD with args as text", bridge(args="x"), 7, "args"),
    (
        "NAD asks for a resource",
        nad({"type": "bridge"}, **{"k8s.v1.cni.cncf.io/resourceName": "a/b"}),
        11,
        "resource a/b: no device of pod telco/p is known (yet)",
    ),
    ("NAD without config and no file", by_name({}), 7, "no network named 'bad'"),
    ("NAD by name, file is broken", by_name({"a.conflist": "{"}), 7, "no network named 'bad'"),
    ("NAD breaks YAML", file_in_store("{"), 7, "line"),
    (
        "NAD without name",
        file_in_store('{"kind":"NetworkAttachmentDefinition","metadata":{}}'),
        7,
        "metadata.name",
    ),
    # bridge
    ("bridge that is none", not_a_bridge, 7, "it is veth: expected a bridge"),
    ("bridge: hairpin and promiscuous", bridge(hairpinMode=True, promiscMode=True), 7, "only one of them"),
    ("bridge: down with addresses", bridge(disableContainerInterface=True), 7, "expected no ipam"),
    ("bridge: flag in words", bridge(isGateway="yes"), 7, "isGateway"),
    ("bridge: mtu too large", bridge(mtu=70000), 7, "mtu 70000"),
    ("bridge: bad mac", bridge(mac="xx"), 7, "mac 'xx'"),
    ("bridge: mtu refused by the kernel", bridge(mtu=10), 100, "Invalid argument"),
    ("bridge: name too long", bridge(bridge="a-bridge-name-too-long"), 7, "expected at most 15 bytes"),
    ("bridge: name with NUL", bridge(bridge="br\0"), 7, 'bridge "br\\u0000": expected text'),
    ("bridge: name with half a character", bridge(bridge="\ud800"), 7, "expected text, without NUL"),
    ("bridge: dns as list", bridge(dns=[]), 7, "dns"),
    ("ipam: directory with NUL", ipam(dataDir="/a\0b"), 7, 'dataDir "/a\\u0000b": expected text'),
    ("ipam: resolv.conf with NUL", ipam(resolvConf="/a\0b"), 7, 'resolvConf "/a\\u0000b": expected text'),
    ("bridge: one name server", bridge(dns={"nameservers": "::1"}), 7, 'dns: nameservers "::1": expected'),
    # macvlan
    ("macvlan: master missing", macvlan(master="nope"), 7, "master 'nope'"),
    ("macvlan: no master, no default route", macvlan(), 7, "master is missing"),
    ("macvlan: unknown mode", macvlan(master="lo", mode="open"), 7, "private, vepa, bridge, passthru"),
    ("macvlan: mtu above the master's", macvlan(master="br244", mtu=9000), 7, "invalid MTU 9000"),
    # addresses
    ("ipam: type not installed", ipam(type="nope"), 101, "find plugin 'nope'"),
    ("ipam: no ranges", ipam(ranges=None), 7, "no IP ranges specified"),
    ("ipam: ranges flat", ipam(ranges=[{"subnet": "10.11.0.0/24"}]), 7, "list of range sets"),
    ("ipam: subnet is no subnet", ipam(ranges=[[{"subnet": "10.11.0.0"}]]), 7, "CIDR notation"),
    ("ipam: host bits", ipam(ranges=[[{"subnet": "10.11.0.5/24"}]]), 7, "network address is 10.11.0.0"),
    ("ipam: too small", ipam(ranges=[[{"subnet": "10.11.0.0/31"}]]), 7, "too small"),
    (
        "ipam: start outside",
        ipam(ranges=[[{"subnet": "10.11.0.0/24", "rangeStart": "10.12.0.1"}]]),
        7,
        "RangeStart",
    ),
    (
        "ipam: start after end",
        ipam(ranges=[[{"subnet": "10.11.0.0/24", "rangeStart": "10.11.0.9", "rangeEnd": "10.11.0.3"}]]),
        7,
        "is after RangeEnd",
    ),
    (
        "ipam: sets overlap",
        ipam(ranges=[[{"subnet": "10.11.0.0/24"}], [{"subnet": "10.11.0.0/25"}]]),
        7,
        "overlaps",
    ),
    (
        "ipam: families mixed",
        ipam(ranges=[[{"subnet": "10.11.0.0/24"}, {"subnet": "fd00::/64"}]]),
        7,
        "mixed",
    ),
    (
        "ipam: gateway is no address",
        ipam(ranges=[[{"subnet": "10.11.0.0/24", "gateway": "x"}]]),
        7,
        "gateway",
    ),
    ("ipam: route without destination", ipam(routes=[{"gw": "10.11.0.1"}]), 7, "dst"),
    ("ipam: route via nowhere", ipam(routes=[{"dst": "10.0.0.0/8", "gw": "192.0.2.1"}]), 100, "192.0.2.1"),
    ("ipam: resolvConf missing", ipam(resolvConf="/nope"), 7, "resolvConf /nope"),
    ("ipam: full", full_range, 103, "no IP addresses available in range set: 10.11.0.1-10.11.0.2"),
    ("static: without prefix", static(addresses=[{"address": "10.11.0.5"}]), 7, "CIDR notation"),
    ("static: bad gateway", static(addresses=[{"address": "10.11.0.5/24", "gateway": "x"}]), 7, "gateway"),
    ("static: address twice", static(addresses=[{"address": "10.11.0.5/24"}] * 2), 100, "File exists"),
    # executed plugins
    ("plugin hangs", hangs("sleep 60"), 102, "no answer within 2 s"),
    ("plugin ignores its end", hangs("trap '' TERM; sleep 60 & wait; sleep 60"), 102, "it was killed"),
    ("plugin is killed", runs("kill -9 $$"), 101, "killed by SIGKILL"),
    ("plugin exits without a word", runs("exit 3"), 101, "exit status 3 with no error message"),
    ("plugin complains on stderr", runs("echo broken >&2; exit 1"), 101, "broken"),
    ("plugin prints garbage", prints("hello"), 101, "it printed 'hello'"),
    ("plugin prints two documents", prints("{}\n{}"), 101, "more than one"),
    ("plugin prints a list", prints("[]"), 101, "expected a CNI Result"),
    ("plugin prints a wrong address", prints('{"ips":[{"address":"x"}]}'), 101, "ips[0]"),
    (
        "plugin prints a wrong index",
        prints('{"ips":[{"address":"10.1.1.1/8","interface":3}]}'),
        101,
        "interface 3",
    ),
    ("plugin fails in garbage", prints("oops", 1), 101, "no CNI error but 'oops'"),
    ("plugin fails in JSON", prints('{"a":1}', 1), 101, "no CNI error"),
    ("plugin fails with its code", prints('{"code":7,"msg":"no"}', 1), 7, "plugin odd: no"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "fragment"),
    [row[1:] for row in ROWS],
    ids=[f"{n}-{row[0]}" for n, row in enumerate(ROWS)],
)
def test_bad_input_is_refused_and_leaves_nothing(node: Node, change: Change, code: int, fragment: str):
    """What is wrong, where, and nothing touched."""
    node.nad("one", node.bridge("", 11) | {"capabilities": {"ips": True, "mac": True}})
    node.nad("two", node.bridge("", 12))
    given = change(node) or {}
    before = node.traces()

    error = node.fail(**given)

    assert (code, fragment in error["msg"]) == (error["code"], True), json.dumps(error, indent=1)
    assert before == node.traces()


def test_there_are_enough_rows():
    """At least 120 mistakes, each its own."""
    assert 120 <= len({row[0] for row in ROWS})
