"""
What Multus documents and tests, a row each: annotations, networks, configurations, what a runtime asks.

`@` is the test's directory, `up0` the link that Multus' examples call eth0 or eth1. What only its plugins
would see goes to `record`, which answers what its configuration says.
"""

from typing import Any

from tests.netns.beside_multus import DEFAULT, Row

HOW_TO_USE = "docs/how-to-use.md"
CONFIGURATION = "docs/configuration.md"
EXAMPLES = "examples/"
END_TO_END = "e2e/templates/"
TESTS = "pkg/"
POD_NETNS = "/run/netns/pod"


def host_local(subnet: str, **more: Any) -> dict[str, Any]:
    """An IPAM in the test's own directory."""
    return {"type": "host-local", "dataDir": "@/ipam", "subnet": subnet, **more}


def macvlan(number: int, **more: Any) -> dict[str, Any]:
    """As the documentation has it."""
    ipam = host_local(
        f"192.168.{number}.0/24", rangeStart=f"192.168.{number}.200", gateway=f"192.168.{number}.1"
    )
    return {"cniVersion": "0.3.0", "type": "macvlan", "master": "up0", "mode": "bridge", "ipam": ipam, **more}


def answer(*addresses: str, name: str = "net1", **more: Any) -> dict[str, Any]:
    """A result with one interface in the pod."""
    interface = {"name": name, "mac": "02:00:5e:00:53:01", "sandbox": POD_NETNS}
    ips = [{"address": each, "interface": 0} for each in addresses]
    return {"interfaces": [interface], "ips": ips, **more}


def record(*addresses: str, **more: Any) -> dict[str, Any]:
    """A network whose plugin tells what it was given."""
    told = answer(*(addresses or ("10.9.0.2/24",)))
    return {"cniVersion": "1.0.0", "type": "record", "answer": told, **more}


def capable(*names: str, **more: Any) -> dict[str, Any]:
    """One that declares capabilities."""
    return record(capabilities=dict.fromkeys(names, True), **more)


SIMPLE = record()
PRIMARY = record(name="primary", answer=answer("10.244.0.2/24", name="eth0"))
STATIC = {"type": "static"}
MACVLAN_LIST = {
    "cniVersion": "0.3.1",
    "plugins": [
        {
            "type": "macvlan",
            "capabilities": {"ips": True},
            "master": "up0",
            "mode": "bridge",
            "ipam": {"type": "static", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}]},
        },
        {"capabilities": {"mac": True}, "type": "tuning"},
    ],
}
ROUTED = macvlan(2)
ROUTED["ipam"] = {**ROUTED["ipam"], "routes": [{"dst": "0.0.0.0/0"}]}
TWO = {"telco/a": SIMPLE, "telco/b": record("10.9.1.2/24")}


def selecting(**keys: Any) -> list[dict[str, Any]]:
    """A selection of network `a`."""
    return [{"name": "a", **keys}]


def cluster(reference: str, **more: Any) -> dict[str, Any]:
    """A node's configuration with a clusterNetwork."""
    return {"delegates": None, "clusterNetwork": reference, **more}


ANNOTATIONS: dict[str, Row] = {
    "no annotation": Row(f"{END_TO_END}simple-pod.yml.j2"),
    "an empty annotation": Row(TESTS + "k8sclient", selected=""),
    "an empty list": Row(TESTS + "k8sclient", selected="[]"),
    "two names": Row(
        HOW_TO_USE,
        networks={"telco/macvlan-conf-1": macvlan(1), "telco/macvlan-conf-2": None},
        files={"conf/macvlan2.conf": macvlan(3, name="macvlan-conf-2")},
        selected="macvlan-conf-1, macvlan-conf-2",
    ),
    "a name without blanks": Row(TESTS + "k8sclient", networks=TWO, selected="a,b"),
    "the same network twice": Row(
        "docs/quickstart.md",
        networks={"telco/macvlan-conf": macvlan(1)},
        selected="macvlan-conf,macvlan-conf",
    ),
    "another namespace": Row(
        HOW_TO_USE, networks={"testns1/macvlan-conf-3": macvlan(4)}, selected="testns1/macvlan-conf-3"
    ),
    "an interface's name": Row(
        HOW_TO_USE, networks={"telco/macvlan-conf-1": macvlan(1)}, selected="macvlan-conf-1@macvlan1"
    ),
    "all of the short form": Row(
        TESTS + "k8sclient", networks={"other/a": SIMPLE, "telco/b": SIMPLE}, selected="other/a@foo,b"
    ),
    "JSON": Row(HOW_TO_USE, networks=TWO, selected=[{"name": "a"}, {"name": "b"}]),
    "JSON with a namespace": Row(
        HOW_TO_USE, networks={"testns1/a": SIMPLE}, selected=selecting(namespace="testns1")
    ),
    "JSON with an interface": Row(
        HOW_TO_USE, networks=TWO, selected=[{"name": "a", "interface": "macvlan1"}, {"name": "b"}]
    ),
    "interfaceRequest": Row(TESTS + "types", networks=TWO, selected=selecting(interfaceRequest="if1")),
    "ips and mac of the example": Row(
        f"{EXAMPLES}macvlan-pod.yml",
        networks={"telco/macvlan-conf": MACVLAN_LIST},
        selected=[
            {
                "name": "macvlan-conf",
                "ips": ["10.1.1.101/24"],
                "mac": "c2:b0:57:49:47:f1",
                "gateway": ["10.1.1.1"],
            }
        ],
    ),
    "simple-macvlan1": Row(
        f"{END_TO_END}simple-macvlan1.yml.j2",
        networks={
            "telco/macvlan1-config": {
                "cniVersion": "1.0.0",
                "plugins": [
                    {
                        "type": "macvlan",
                        "capabilities": {"ips": True},
                        "master": "up0",
                        "mode": "bridge",
                        "ipam": STATIC,
                    },
                    {"type": "tuning"},
                ],
            }
        },
        selected=[{"name": "macvlan1-config", "ips": ["10.1.1.11/24"]}],
    ),
    "default-route1": Row(
        f"{END_TO_END}default-route1.yml.j2",
        networks={
            "telco/default-route-config": {
                "cniVersion": "1.0.0",
                "plugins": [
                    {
                        "type": "macvlan",
                        "master": "up0",
                        "mode": "bridge",
                        "ipam": STATIC,
                    }
                ],
            }
        },
        selected=[{"name": "default-route-config", "ips": ["10.1.1.21/24"], "default-route": ["10.1.1.254"]}],
    ),
    "default-route2": Row(
        f"{END_TO_END}default-route1.yml.j2",
        networks={
            "telco/default-route-config": {
                "cniVersion": "1.0.0",
                "plugins": [{"type": "macvlan", "master": "up0", "mode": "bridge", "ipam": STATIC}],
            }
        },
        selected=[{"name": "default-route-config", "ips": ["10.1.1.22/24"]}],
    ),
    "default-route of the guide": Row(
        HOW_TO_USE,
        networks={"telco/macvlan-conf": ROUTED},
        selected=[{"name": "macvlan-conf", "default-route": ["192.168.2.1"]}],
    ),
    "a default route that nobody asked for": Row(
        "docs/quickstart.md", networks={"telco/macvlan-conf": ROUTED}, selected="macvlan-conf"
    ),
    "an empty default-route": Row(
        TESTS + "types",
        networks={"telco/a": ROUTED},
        selected=[{"name": "a", "default-route": []}],
    ),
    "two default-routes": Row(
        TESTS + "k8sclient",
        networks=TWO,
        selected=[{"name": "a", "default-route": ["10.9.0.1"]}, {"name": "b", "default-route": ["10.9.1.1"]}],
    ),
    "default-routes of both families": Row(
        TESTS + "types",
        networks={"telco/a": {**macvlan(2), "capabilities": {"ips": True}, "ipam": STATIC}},
        selected=selecting(
            ips=["192.168.2.9/24", "fd00:2::9/64"], **{"default-route": ["192.168.2.1", "fd00:2::1"]}
        ),
    ),
    "a static pod": Row(
        "e2e/static-pod-nad.yml",
        networks={
            "telco/bridge-nad": {
                "cniVersion": "0.3.1",
                "name": "testnet",
                "type": "bridge",
                "bridge": "testnet0",
                "ipam": host_local("10.10.0.0/16"),
            }
        },
        selected="bridge-nad",
        pod={"annotations": {"kubernetes.io/config.source": "file"}},
        arguments=";K8S_POD_UID=another",
    ),
    "another UID": Row(TESTS + "k8sclient", arguments=";K8S_POD_UID=another"),
    "capabilities in a network": Row(
        TESTS + "multus: runtimeConfigs",
        networks={"telco/a": capable("ips", "mac", "portMappings", "bandwidth", "infinibandGUID")},
        selected=selecting(
            ips=["10.9.0.7/24"],
            mac="02:00:5e:00:53:99",
            portMappings=[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            bandwidth={"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 1000, "egressBurst": 2000},
        ),
    ),
    "one bandwidth": Row(
        TESTS + "types",
        networks={"telco/a": capable("bandwidth")},
        selected=selecting(bandwidth={"ingressRate": 1000, "ingressBurst": 2000}),
    ),
    "a port without its protocol": Row(
        TESTS + "types",
        networks={"telco/a": capable("portMappings")},
        selected=selecting(portMappings=[{"hostPort": 8080, "containerPort": 80}]),
    ),
    "an InfiniBand GUID": Row(
        TESTS + "types",
        networks={"telco/a": capable("infinibandGUID")},
        selected=selecting(**{"infiniband-guid": "24:8a:07:03:00:8d:ae:2e"}),
    ),
    "mac that no plugin declares": Row(
        TESTS + "types", networks=TWO, selected=selecting(mac="02:00:5e:00:53:99")
    ),
    "ips that no plugin declares": Row(
        TESTS + "types", networks=TWO, selected=selecting(ips=["10.9.0.7/24"])
    ),
    "ports that no plugin declares": Row(
        TESTS + "types",
        networks=TWO,
        selected=selecting(portMappings=[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]),
    ),
    "capabilities of one plugin of a list": Row(
        TESTS + "types",
        networks={
            "telco/a": {
                "cniVersion": "1.0.0",
                "plugins": [capable("ips"), {"type": "other", "capabilities": {"mac": True}}],
            }
        },
        selected=selecting(ips=["10.9.0.7/24", "fd00:9::7/64"], mac="02:00:5e:00:53:99"),
    ),
    "a capability that is false": Row(
        TESTS + "types",
        networks={
            "telco/a": {
                "cniVersion": "1.0.0",
                "plugins": [
                    record(capabilities={"ips": False, "mac": True}),
                    {"type": "other", "capabilities": {"ips": True}},
                ],
            }
        },
        selected=selecting(ips=["10.9.0.7/24"], mac="02:00:5e:00:53:99"),
    ),
    "cni-args": Row(
        TESTS + "types",
        networks=TWO,
        selected=selecting(**{"cni-args": {"foo": "bar", "n": 1, "list": ["x"]}}),
    ),
    "cni-args beside those of the network": Row(
        TESTS + "types",
        networks={"telco/a": record(args={"cni": {"foo": "network", "kept": True}, "labels": []})},
        selected=selecting(**{"cni-args": {"foo": "pod"}}),
    ),
    "cni-args of a list": Row(
        TESTS + "types",
        networks={"telco/a": {"cniVersion": "1.0.0", "name": "l", "plugins": [SIMPLE, {"type": "other"}]}},
        selected=selecting(**{"cni-args": {"foo": "bar"}}),
    ),
    "deviceID of a selection": Row(
        TESTS + "types",
        networks={"telco/a": capable("deviceID")},
        selected=selecting(deviceID="0000:03:02.0"),
    ),
    "keys that nobody knows": Row(TESTS + "k8sclient", networks=TWO, selected=selecting(unknown="x")),
    "ipam-claim-reference": Row(
        TESTS + "types", networks=TWO, selected=selecting(**{"ipam-claim-reference": "claim"})
    ),
    "a network that is not there": Row(TESTS + "k8sclient", selected="missing"),
    "the second of three is not there": Row(TESTS + "k8sclient", networks=TWO, selected="a,missing,b"),
    "JSON that is none": Row(TESTS + "k8sclient", networks=TWO, selected='[{"name": "a"'),
    "an object instead of a list": Row(TESTS + "k8sclient", networks=TWO, selected='{"name": "a"}'),
    "too many slashes": Row(TESTS + "k8sclient", networks=TWO, selected="root/someIP/x"),
    "too many at signs": Row(TESTS + "k8sclient", networks=TWO, selected="a@if1@if2"),
    "a name with capitals": Row(TESTS + "k8sclient", networks=TWO, selected="A"),
    "an interface's name that is too long": Row(
        TESTS + "k8sclient", networks=TWO, selected="a@abcdefghijklmnop"
    ),
    "a bad mac": Row(TESTS + "types", networks={"telco/a": capable("mac")}, selected=selecting(mac="xx")),
    "a bad address": Row(
        TESTS + "types", networks={"telco/a": capable("ips")}, selected=selecting(ips=["x"])
    ),
    "two of one interface's name": Row(TESTS + "k8sclient", networks=TWO, selected="a@if1,b@if1"),
    "an interface's name that is taken": Row(TESTS + "k8sclient", networks=TWO, selected="a@eth0"),
}

NETWORKS: dict[str, Row] = {
    "a network without a name": Row(TESTS + "k8sclient: injects network name", networks=TWO, selected="a"),
    "a network with a name": Row(
        TESTS + "types: DelegateConf Name", networks={"telco/a": record(name="mine")}, selected="a"
    ),
    "a list without a name": Row(
        TESTS + "k8sclient",
        networks={"telco/a": {"cniVersion": "1.0.0", "plugins": [SIMPLE, {"type": "other", "x": 1}]}},
        selected="a",
    ),
    "a list with a name": Row(
        TESTS + "types: DelegateConfList Name",
        networks={"telco/a": {"cniVersion": "1.0.0", "name": "mine", "plugins": [SIMPLE]}},
        selected="a",
    ),
    "a network without cniVersion": Row(
        TESTS + "types",
        networks={"telco/a": {"type": "record", "answer": answer("10.9.0.2/24")}},
        selected="a",
    ),
    "a list without cniVersion": Row(
        "pkg/multus/multus.go: CmdDel",
        networks={"telco/a": {"plugins": [{"type": "record", "answer": answer("10.9.0.2/24")}]}},
        selected="a",
    ),
    "an older cniVersion": Row(
        TESTS + "multus: 0.4.0",
        networks={"telco/a": record(cniVersion="0.3.1")},
        selected="a",
        config={"cniVersion": "0.3.1"},
    ),
    "a newer cniVersion": Row(
        TESTS + "multus",
        networks={"telco/a": record(cniVersion="1.1.0")},
        selected="a",
        config={"cniVersion": "1.1.0"},
    ),
    "keys of nobody's, and numbers": Row(
        TESTS + "types",
        networks={
            "telco/a": record(big=9007199254740993, small=0.1, nested={"b": [1, None, {"c": ""}]}, vlan=1000)
        },
        selected="a",
    ),
    "a network in a file": Row(
        TESTS + "k8sclient: on-disk config files",
        networks={"telco/a": None},
        files={"conf/10-a.conf": record(name="a")},
        selected="a",
    ),
    "a list in a file": Row(
        TESTS + "k8sclient: on-disk config files",
        networks={"telco/a": None},
        files={
            "conf/10-a.conflist": {"cniVersion": "1.0.0", "name": "a", "plugins": [SIMPLE, {"type": "other"}]}
        },
        selected="a",
    ),
    "a file ending in json": Row(
        TESTS + "k8sclient", networks={"telco/a": None}, files={"conf/a.json": record(name="a")}, selected="a"
    ),
    "a file of another name": Row(
        TESTS + "k8sclient", networks={"telco/a": None}, files={"conf/a.conf": record(name="b")}, selected="a"
    ),
    "no file": Row(TESTS + "k8sclient: bad confdir", networks={"telco/a": None}, selected="a"),
    "a bad file beside": Row(
        TESTS + "k8sclient: on-disk config file is not valid",
        networks={"telco/a": None},
        files={"conf/05-bad.conf": "{", "conf/10-a.conf": record(name="a")},
        selected="a",
    ),
    "an empty spec.config": Row(
        TESTS + "k8sclient",
        networks={"telco/a": ""},
        files={"conf/10-a.conf": record(name="a")},
        selected="a",
    ),
    "a configuration that is no JSON": Row(TESTS + "k8sclient", networks={"telco/a": "{"}, selected="a"),
    "a configuration without a type": Row(
        TESTS + "types", networks={"telco/a": {"cniVersion": "1.0.0"}}, selected="a"
    ),
    "a plugin that is not there": Row(
        TESTS + "multus", networks={"telco/a": {"cniVersion": "1.0.0", "type": "missing"}}, selected="a"
    ),
    "a plugin that fails": Row(
        TESTS + "multus: cleans up on failure",
        networks={**TWO, "telco/b": record(fails={"ADD": {"code": 101, "msg": "no"}})},
        selected="a,b",
        steps=("ADD", "DEL"),
    ),
    "a plugin that crashes": Row(
        TESTS + "multus: cleans up on failure",
        networks={**TWO, "telco/b": record(fails={"ADD": None})},
        selected="a,b",
        steps=("ADD", "DEL"),
    ),
    "a plugin that asks to try again": Row(
        TESTS + "multus",
        networks={"telco/a": record(fails={"ADD": {"code": 11, "msg": "later"}})},
        selected="a",
        steps=("ADD", "DEL"),
    ),
    "a plugin without an interface": Row(
        TESTS + "multus: plugin without interface", networks={"telco/a": record(answer={})}, selected="a"
    ),
    "a result without a sandbox": Row(
        "docs/quickstart.md",
        networks={"telco/a": record(answer={"ips": [{"address": "10.9.0.2/24"}]})},
        selected="a",
    ),
    "a result of several interfaces": Row(
        "net-attach-def-client: CreateNetworkStatuses",
        networks={
            "telco/a": record(
                answer={
                    "interfaces": [
                        {"name": "br0", "mac": "02:00:5e:00:53:02"},
                        {"name": "net1", "mac": "02:00:5e:00:53:01", "sandbox": POD_NETNS},
                    ],
                    "ips": [
                        {"address": "10.9.0.2/24", "interface": 1, "gateway": "10.9.0.1"},
                        {"address": "fd00:9::2/64", "interface": 1},
                    ],
                    "routes": [{"dst": "10.8.0.0/16", "gw": "10.9.0.1"}],
                    "dns": {"nameservers": ["10.9.0.3"], "domain": "d", "search": ["s"], "options": ["o"]},
                }
            )
        },
        selected="a",
    ),
    "two interfaces in the pod": Row(
        "net-attach-def-client: CreateNetworkStatuses",
        networks={
            "telco/a": record(
                answer={
                    "interfaces": [
                        {"name": "net1", "mac": "02:00:5e:00:53:01", "sandbox": POD_NETNS},
                        {"name": "extra", "mac": "02:00:5e:00:53:02", "sandbox": POD_NETNS},
                    ],
                    "ips": [
                        {"address": "10.9.0.2/24", "interface": 0},
                        {"address": "10.8.0.2/24", "interface": 1},
                    ],
                }
            )
        },
        selected="a",
    ),
    "a default route in a result": Row(
        "net-attach-def-client: CreateNetworkStatuses",
        networks={
            "telco/a": record(answer=answer("10.9.0.2/24", routes=[{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]))
        },
        selected="a",
    ),
    "a bridge": Row(
        "e2e/static-pod-nad.yml",
        networks={
            "telco/a": {
                "cniVersion": "0.3.1",
                "type": "bridge",
                "bridge": "testnet0",
                "ipam": host_local("10.10.0.0/16"),
            }
        },
        selected="a",
    ),
    "a ptp": Row(
        TESTS + "multus",
        networks={"telco/a": {"cniVersion": "0.4.0", "type": "ptp", "ipam": host_local("10.11.0.0/24")}},
        selected="a",
    ),
    "a macvlan with a tuning behind": Row(
        HOW_TO_USE,
        networks={
            "telco/a": {"cniVersion": "0.4.0", "plugins": [macvlan(1), {"type": "tuning", "mtu": 1400}]}
        },
        selected="a",
    ),
}

NODES: dict[str, Row] = {
    "several delegates": Row(
        CONFIGURATION + " (Using delegates)",
        config={"delegates": [PRIMARY, {**record("10.9.4.2/24"), "name": "second"}]},
    ),
    "several delegates and a network": Row(
        CONFIGURATION + " (Using delegates)",
        config={"delegates": [PRIMARY, {**record("10.9.4.2/24"), "name": "second"}]},
        networks=TWO,
        selected="a",
    ),
    "a list as delegate": Row(
        CONFIGURATION,
        config={
            "delegates": [{"cniVersion": "1.0.0", "name": "list", "plugins": [PRIMARY, {"type": "other"}]}],
        },
    ),
    "a delegate without a name": Row(
        TESTS + "multus: missing name field",
        config={"delegates": [record(answer=answer("10.244.0.2/24", name="eth0"))]},
    ),
    "a delegate that fails": Row(
        TESTS + "multus: cleans up on failure",
        config={"delegates": [record(name="primary", fails={"ADD": {"code": 101, "msg": "no"}})]},
    ),
    "no delegates": Row(TESTS + "types", config={"delegates": None}),
    "delegates of another name": Row(TESTS + "types", config={"delegates": None, "commoneffects": [PRIMARY]}),
    "clusterNetwork by a network": Row(
        CONFIGURATION, config=cluster("net1"), networks={"kube-system/net1": PRIMARY, **TWO}, selected="a"
    ),
    "clusterNetwork by a name in a file": Row(
        CONFIGURATION, config=cluster("net1"), files={"conf/10-net1.conf": {**PRIMARY, "name": "net1"}}
    ),
    "clusterNetwork by a directory": Row(
        CONFIGURATION,
        config=cluster("@/net.d"),
        files={"net.d/20-b.conf": record(name="b"), "net.d/10-a.conf": {**PRIMARY, "name": "a"}},
    ),
    "clusterNetwork by a file": Row(
        CONFIGURATION, config=cluster("@/net.d/99-flannel.conf"), files={"net.d/99-flannel.conf": PRIMARY}
    ),
    "clusterNetwork by a list in a file": Row(
        CONFIGURATION,
        config=cluster("@/net.d/10-l.conflist"),
        files={
            "net.d/10-l.conflist": {
                "cniVersion": "1.0.0",
                "name": "list",
                "plugins": [{**PRIMARY, "capabilities": {"portMappings": True}}, {"type": "other"}],
            }
        },
    ),
    "clusterNetwork that is not there": Row(TESTS + "k8sclient: CRD not found", config=cluster("net1")),
    "clusterNetwork beside delegates": Row(
        CONFIGURATION,
        config={"clusterNetwork": "net1"},
        networks={"kube-system/net1": PRIMARY},
    ),
    "defaultNetworks": Row(
        CONFIGURATION,
        config=cluster("net1", defaultNetworks=["net2", "net3"]),
        networks={
            "kube-system/net1": PRIMARY,
            "kube-system/net2": SIMPLE,
            "kube-system/net3": record("10.9.3.2/24"),
            **TWO,
        },
        selected="a",
    ),
    "defaultNetworks of a system namespace": Row(
        TESTS + "k8sclient: ignore default networks",
        config=cluster("net1", defaultNetworks=["net2"]),
        networks={"kube-system/net1": PRIMARY, "kube-system/net2": SIMPLE},
        pod={"namespace": "kube-system"},
    ),
    "systemNamespaces": Row(
        CONFIGURATION,
        config=cluster("net1", defaultNetworks=["net2"], systemNamespaces=["kube-system", "admin"]),
        networks={"kube-system/net1": PRIMARY, "kube-system/net2": SIMPLE},
        pod={"namespace": "admin"},
    ),
    "multusNamespace": Row(
        CONFIGURATION,
        config=cluster("net1", defaultNetworks=["net2"], multusNamespace="admin"),
        networks={"admin/net1": PRIMARY, "admin/net2": SIMPLE},
    ),
    "a default-network annotation": Row(
        CONFIGURATION,
        config={"delegates": [PRIMARY]},
        networks={"kube-system/calico-conf": record(answer=answer("10.244.7.2/24", name="eth0")), **TWO},
        default="calico-conf",
        selected="a",
    ),
    "a default-network annotation beside a clusterNetwork": Row(
        TESTS + "k8sclient: overwrite cluster network",
        config=cluster("net1"),
        networks={
            "kube-system/net1": PRIMARY,
            "kube-system/net2": record(answer=answer("10.244.7.2/24", name="eth0")),
        },
        default="net2",
    ),
    "a default-network annotation with a namespace": Row(
        CONFIGURATION,
        networks={"telco/d": record(answer=answer("10.244.7.2/24", name="eth0"))},
        default="telco/d",
    ),
    "two default networks": Row(
        TESTS + "k8sclient", networks={"kube-system/a": PRIMARY, "kube-system/b": PRIMARY}, default="a,b"
    ),
    "a default network that is not there": Row(TESTS + "k8sclient", default="missing"),
    "the default network asked for an address": Row(
        "docs/how-to-use.md",
        networks={"kube-system/d": capable("ips", "mac", answer=answer("10.244.7.2/24", name="eth0"))},
        default='[{"name": "d", "ips": ["10.244.7.9/24"], "mac": "02:00:5e:00:53:99"}]',
    ),
    "namespaceIsolation": Row(
        CONFIGURATION,
        config={"namespaceIsolation": True},
        networks={"privileged/macvlan-conf": macvlan(1)},
        selected="privileged/macvlan-conf",
    ),
    "namespaceIsolation in its own namespace": Row(
        CONFIGURATION,
        config={"namespaceIsolation": True},
        networks={"telco/macvlan-conf": macvlan(1)},
        selected="macvlan-conf",
    ),
    "namespaceIsolation and the default namespace": Row(
        CONFIGURATION,
        config={"namespaceIsolation": True},
        networks={"default/foo": SIMPLE},
        selected="default/foo",
    ),
    "globalNamespaces": Row(
        CONFIGURATION,
        config={"namespaceIsolation": True, "globalNamespaces": "default,namespace-a,namespace-b"},
        networks={"namespace-b/foo": SIMPLE},
        selected="namespace-b/foo",
    ),
    "globalNamespaces without default": Row(
        CONFIGURATION,
        config={"namespaceIsolation": True, "globalNamespaces": "namespace-a, namespace-b"},
        networks={"default/foo": SIMPLE, "namespace-b/foo": SIMPLE},
        selected="default/foo",
    ),
    "namespaceIsolation and a default network of another namespace": Row(
        "pkg/k8sclient: TryLoadPodDelegates",
        config={"namespaceIsolation": True, "delegates": [PRIMARY]},
        networks={"other/d": record(answer=answer("10.244.7.2/24", name="eth0"))},
        default="other/d",
    ),
    "readinessindicatorfile": Row(
        CONFIGURATION, config={"readinessindicatorfile": "@/ready"}, files={"ready": ""}
    ),
    "runtimeConfig of the pod": Row(
        TESTS + "multus: portmap runtime config",
        config={
            "capabilities": {"portMappings": True, "bandwidth": True},
            "delegates": [{**PRIMARY, "capabilities": {"portMappings": True, "bandwidth": True}}],
            "runtimeConfig": {
                "portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "10.0.0.1"}
                ],
                "bandwidth": {"ingressRate": 1000, "ingressBurst": 1000},
            },
        },
        networks={"telco/a": capable("portMappings")},
        selected="a",
    ),
    "runtimeConfig that Multus does not know": Row(
        "containerd: capabilities",
        config={
            "capabilities": {"dns": True, "cgroupPath": True},
            "delegates": [{**PRIMARY, "capabilities": {"dns": True, "cgroupPath": True}}],
            "runtimeConfig": {"dns": {"servers": ["10.0.0.1"]}, "cgroupPath": "/kubepods/x"},
        },
    ),
    "logging": Row(
        CONFIGURATION,
        config={
            "logFile": "@/multus.log",
            "logLevel": "debug",
            "logOptions": {"maxAge": 5, "maxSize": 100, "maxBackups": 5, "compress": True},
        },
    ),
    "a log level that nobody knows": Row(TESTS + "logging", config={"logLevel": "XXXX"}),
    "keys of the documentation that do nothing": Row(
        CONFIGURATION,
        config={
            "allowTryDeleteOnErr": False,
            "defaultnetworkwaitseconds": 3,
            "defaultnetworkfile": "",
            "cniConf": "/x",
        },
    ),
    "an auxiliary chain": Row(
        CONFIGURATION,
        config=cluster("@/net.d/10-l.conflist", auxiliaryCNIChainName="cni-chain-config"),
        files={
            "net.d/10-l.conflist": {"cniVersion": "1.0.0", "name": "list", "plugins": [PRIMARY]},
            "net.d/cni-chain-config/mytuning.conf": {"name": "mytuning", "type": "record", "answer": {}},
        },
        networks=TWO,
        selected="a",
    ),
    "an auxiliary chain of tuning": Row(
        f"{END_TO_END}subdirectory-chaining-passthru.yml.j2",
        config=cluster("@/net.d/10-kindnet.conflist", auxiliaryCNIChainName="vendor-cni-chain"),
        files={
            "net.d/10-kindnet.conflist": {
                "cniVersion": "1.0.0",
                "name": "kindnet",
                "plugins": [
                    {key: text for key, text in DEFAULT.items() if key not in ("name", "cniVersion")}
                ],
            },
            "net.d/vendor-cni-chain/sysctltwiddle.conf": {
                "cniVersion": "1.0.0",
                "name": "sysctltwiddle",
                "type": "tuning",
                "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"},
            },
        },
    ),
    "an auxiliary chain without files": Row(
        CONFIGURATION,
        config=cluster("@/net.d/10-l.conf", auxiliaryCNIChainName="cni-chain-config"),
        files={"net.d/10-l.conf": PRIMARY},
    ),
    "an auxiliary chain without a path": Row(
        CONFIGURATION,
        config=cluster("net1", auxiliaryCNIChainName="cni-chain-config"),
        networks={"kube-system/net1": PRIMARY},
    ),
    "a directory of chained plugins": Row(
        f"{END_TO_END}subdirectory-chaining.yml.j2",
        config=cluster("@/net.d/10-kindnet.conflist"),
        files={
            "net.d/10-kindnet.conflist": {
                "cniVersion": "1.0.0",
                "name": "kindnet",
                "plugins": [
                    {key: text for key, text in PRIMARY.items() if key not in ("name", "cniVersion")}
                ],
            },
            "net.d/kindnet/sysctltwiddle.conf": {
                "cniVersion": "1.0.0",
                "name": "sysctltwiddle",
                "type": "other",
            },
        },
    ),
    "loadOnlyInlinedPlugins": Row(
        CONFIGURATION,
        config=cluster("@/net.d/10-kindnet.conflist"),
        files={
            "net.d/10-kindnet.conflist": {
                "cniVersion": "1.0.0",
                "name": "kindnet",
                "loadOnlyInlinedPlugins": True,
                "plugins": [
                    {key: text for key, text in PRIMARY.items() if key not in ("name", "cniVersion")}
                ],
            },
            "net.d/kindnet/sysctltwiddle.conf": {
                "cniVersion": "1.0.0",
                "name": "sysctltwiddle",
                "type": "other",
            },
        },
    ),
    "more CNI_ARGS": Row(
        TESTS + "types: K8s args passed via CNI_ARGS",
        networks=TWO,
        selected="a",
        config={"delegates": [PRIMARY]},
        arguments=";FOO=bar=baz;K8S_POD_INFRA_CONTAINER_ID_2=x",
    ),
    "CNI_ARGS that nobody may send": Row(
        TESTS + "k8sclient: GetK8sArgs", arguments=";novalue", config={"delegates": [PRIMARY]}
    ),
    "without a kubeconfig": Row(
        TESTS + "k8sclient: no kubeclient and no kubeconfig",
        config={"kubeconfig": None, "delegates": [PRIMARY]},
        networks=TWO,
        selected="a",
    ),
    "a kubeconfig that is not there": Row(
        TESTS + "k8sclient: invalid kubeconfig", config={"kubeconfig": "/missing", "delegates": [PRIMARY]}
    ),
    "prevResult": Row(
        TESTS + "types: prevResult",
        config={
            "delegates": [PRIMARY],
            "prevResult": {"cniVersion": "1.0.0", **answer("10.5.0.2/24", name="eth0")},
        },
    ),
}

DEVICES: dict[str, Row] = {
    "a device": Row(
        f"{EXAMPLES}sriov-pod.yml",
        networks={"telco/sriov-net-a": record(vlan=1000, ipam=host_local("10.56.217.0/24"))},
        resources={"telco/sriov-net-a": "intel.com/sriov"},
        devices={"intel.com/sriov": ["vf-1"]},
        selected="sriov-net-a",
    ),
    "devices of one resource": Row(
        TESTS + "types: deviceID",
        networks=TWO,
        resources={"telco/a": "intel.com/sriov", "telco/b": "intel.com/sriov"},
        devices={"intel.com/sriov": ["vf-3", "vf-1"]},
        selected="a,b",
    ),
    "the same network twice, with two devices": Row(
        TESTS + "kubeletclient",
        networks=TWO,
        resources={"telco/a": "intel.com/sriov"},
        devices={"intel.com/sriov": ["vf-1", "vf-3"]},
        selected="a,a",
    ),
    "a device for a list": Row(
        TESTS + "types: deviceID in delegated conf list multiple plugins",
        networks={"telco/a": {"cniVersion": "1.0.0", "plugins": [capable("deviceID"), {"type": "other"}]}},
        resources={"telco/a": "intel.com/sriov"},
        devices={"intel.com/sriov": ["vf-1"]},
        selected="a",
    ),
    "a device, and one that is asked for": Row(
        TESTS + "types",
        networks={"telco/a": capable("deviceID")},
        resources={"telco/a": "intel.com/sriov"},
        devices={"intel.com/sriov": ["vf-1"]},
        selected=selecting(deviceID="vf-1"),
    ),
    "no device left": Row(
        TESTS + "k8sclient",
        networks=TWO,
        resources={"telco/a": "intel.com/sriov"},
        devices={"intel.com/other": ["vf-1"]},
        selected="a",
    ),
    "device information of a device plugin": Row(
        "device-info-spec",
        networks={"telco/a": capable("deviceID", "CNIDeviceInfoFile")},
        resources={"telco/a": "intel.com/sriov"},
        devices={"intel.com/sriov": ["vf-1"]},
        selected="a",
        config={"delegates": [PRIMARY]},
        steps=("device information", "ADD", "CHECK", "DEL"),
    ),
    "device information of a plugin": Row(
        "device-info-spec",
        networks={
            "telco/a": capable(
                "CNIDeviceInfoFile",
                writes={
                    "type": "vdpa",
                    "version": "1.0.0",
                    "vdpa": {"parent-device": "v", "driver": "vhost", "path": "p"},
                },
            )
        },
        resources={"telco/a": "intel.com/sriov"},
        devices={"intel.com/sriov": ["vf-1"]},
        selected="a",
    ),
    "device information without a device": Row(
        "device-info-spec", networks={"telco/a": capable("CNIDeviceInfoFile")}, selected="a"
    ),
    "a device of the default network": Row(
        TESTS + "k8sclient",
        networks={"kube-system/d": record(answer=answer("10.244.7.2/24", name="eth0"))},
        resources={"kube-system/d": "intel.com/sriov"},
        devices={"intel.com/sriov": ["vf-1"]},
        default="d",
    ),
    "dra-net": Row(
        f"{END_TO_END}dra-integration.yml.j2",
        networks={
            "telco/dra-net": {
                "cniVersion": "1.0.0",
                "plugins": [{"name": "mynet", "type": "record", "answer": answer("10.1.2.2/24")}],
            }
        },
        resources={"telco/dra-net": "single-gpu"},
        devices={"single-gpu": ["gpu-0"]},
        selected="dra-net",
    ),
}

FAILING = record(fails={"DEL": {"code": 11, "msg": "busy"}})
MORE: dict[str, Row] = {
    "DEL after the pod went": Row(
        TESTS + "multus: delete it after pod removal",
        networks=TWO,
        selected="a,b",
        steps=("ADD", "the pod goes", "DEL"),
    ),
    "DEL after another pod came": Row(
        TESTS + "multus", networks=TWO, selected="a", steps=("ADD", "another pod of its name comes", "DEL")
    ),
    "DEL after its networks went": Row(
        TESTS + "multus", networks=TWO, selected="a", steps=("ADD", "its networks go", "DEL")
    ),
    "DEL after its namespace went": Row(
        TESTS + "multus", networks=TWO, selected="a", steps=("ADD", "its namespace goes", "DEL")
    ),
    "DEL of an interface that went": Row(
        TESTS + "multus", networks={"telco/a": macvlan(1)}, selected="a", steps=("ADD", "net1 goes", "DEL")
    ),
    "DEL twice": Row(TESTS + "multus", networks=TWO, selected="a", steps=("ADD", "DEL", "DEL")),
    "DEL without the API server": Row(
        TESTS + "multus", networks=TWO, selected="a", steps=("ADD", "the API server goes", "DEL")
    ),
    "DEL that was never added": Row(
        TESTS + "multus: Delete pod without cache", networks=TWO, selected="a", steps=("DEL",)
    ),
    "DEL that fails": Row(
        CONFIGURATION + " (retryDeleteOnError)",
        networks={**TWO, "telco/b": FAILING},
        selected="a,b",
        steps=("ADD", "DEL", "DEL"),
    ),
    "DEL that fails, with retryDeleteOnError": Row(
        CONFIGURATION + " (retryDeleteOnError)",
        config={"retryDeleteOnError": True},
        networks={**TWO, "telco/b": FAILING},
        selected="a,b",
        steps=("ADD", "DEL", "DEL"),
    ),
    "ADD of a pod that is not there": Row(
        TESTS + "multus: pod is not found", pod={"absent": True}, steps=("ADD", "DEL")
    ),
    "CHECK of delegates": Row(
        TESTS + "multus: CNI Check",
        config={
            "delegates": [
                {**record(name="weave1"), "answer": {"ips": [{"address": "1.1.1.2/24"}]}},
                {**record(name="other1"), "answer": {"ips": [{"address": "1.1.1.5/24"}]}},
            ]
        },
        steps=("ADD", "CHECK", "DEL"),
    ),
    "CHECK of a delegate that fails": Row(
        TESTS + "multus: CNI Check",
        config={"delegates": [{**PRIMARY, "fails": {"CHECK": {"code": 101, "msg": "gone"}}}]},
    ),
    "a namespace that is not there": Row(
        TESTS + "multus: faulty namespace",
        config={"delegates": [PRIMARY]},
        variables={"CNI_NETNS": "/run/netns/fsdadfad"},
        steps=("ADD", "DEL"),
    ),
    "STATUS": Row(
        TESTS + "multus: STATUS",
        config={"cniVersion": "1.1.0", "delegates": [{**PRIMARY, "cniVersion": "1.1.0"}]},
        steps=("STATUS",),
    ),
    "STATUS that fails": Row(
        TESTS + "multus: propagates delegate STATUS errors",
        config={
            "cniVersion": "1.1.0",
            "delegates": [
                {**PRIMARY, "cniVersion": "1.1.0", "fails": {"STATUS": {"code": 51, "msg": "limited"}}}
            ],
        },
        steps=("STATUS",),
    ),
    "STATUS of an older network": Row(
        TESTS + "multus: STATUS", config={"cniVersion": "1.1.0", "delegates": [PRIMARY]}, steps=("STATUS",)
    ),
    "STATUS of a clusterNetwork": Row(
        TESTS + "multus: STATUS",
        config=cluster("@/net.d/10-l.conflist", cniVersion="1.1.0"),
        files={"net.d/10-l.conflist": {"cniVersion": "1.1.0", "name": "l", "plugins": [PRIMARY]}},
        steps=("STATUS",),
    ),
    "GC": Row(
        TESTS + "multus: CNI GC",
        config={
            "cniVersion": "1.1.0",
            "delegates": [{**PRIMARY, "cniVersion": "1.1.0"}],
            "cni.dev/valid-attachments": [{"containerID": "sandbox", "ifname": "eth0"}],
        },
        networks={"telco/a": record(cniVersion="1.1.0")},
        selected="a",
        steps=("ADD", "GC", "CHECK", "DEL"),
    ),
    "VERSION": Row("CNI", steps=("VERSION",)),
    "bad JSON": Row(TESTS + "multus: bad json", config={"delegates": "x"}),
    "plugins: []": Row(TESTS + "types", config={"delegates": [{"name": "x", "plugins": []}]}, steps=("ADD",)),
}

ROWS: dict[str, Row] = {**ANNOTATIONS, **NETWORKS, **NODES, **DEVICES, **MORE}
