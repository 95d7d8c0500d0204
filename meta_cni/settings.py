"""
Our own configuration: every key, its default and its meaning, in one table.

A configuration written for Multus runs unchanged: its keys keep their names, defaults and
meaning (Multus 4, "Network configuration"). A wrong value is reported with its key and what
would be right, all of them at once; unknown keys are left alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

POLICIES = ("auto", "builtin", "exec")
RESULTS = ("merged", "default")
FORMATS = ("standard", "multus")
CAPABILITY_CHECKS = ("strict", "legacy")
LOG_LEVELS = ("panic", "error", "verbose", "debug")
MULTUS_TYPES = ("multus", "multus-shim")


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What may be set for one network; None where the general key counts."""

    delegate_policy: str | None = None
    delegate_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Rotation of the log file."""

    max_age_days: int = 5
    max_size_mb: int = 100
    max_backups: int = 5
    is_compressed: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration of one call; `delegates` holds JSON texts, byte for byte."""

    name: str = ""
    cni_version: str = ""
    type: str = "meta-cni"
    delegates: tuple[str, ...] = ()
    cluster_network: str = ""
    default_networks: tuple[str, ...] = ()
    conf_dir: str = "/etc/cni/multus/net.d"
    cni_dir: str = "/var/lib/cni/multus"
    bin_dir: str = "/opt/cni/bin"
    kubeconfig: str = ""
    kubelet_directory: str = "/var/lib/kubelet"
    kubelet_timeout_s: float = 10.0
    device_info_directory: str = "/var/run/k8s.cni.cncf.io/devinfo"
    store_directory: str = ""
    is_isolated: bool = False
    global_namespaces: tuple[str, ...] = ("default",)
    system_namespaces: tuple[str, ...] = ("kube-system",)
    multus_namespace: str = "kube-system"
    readiness_file: str = ""
    auxiliary_chain: str = ""
    log_file: str = ""
    log_level: str = "panic"
    is_logged_to_stderr: bool = True
    log_options: LogOptions = field(default_factory=LogOptions)
    result: str = "merged"
    network_status: str = "standard"
    capability_check: str = "strict"
    delegate_policy: str = "auto"
    type_policies: Mapping[str, str] = field(default_factory=dict)
    delegate_timeout_s: float = 60.0
    is_parallel: bool = False
    networks: Mapping[str, NetworkOptions] = field(default_factory=dict)

    def policy_for(self, network: str, plugin_type: str) -> str:
        """How a plugin of a network is run: the network's word, else the type's, else the general one."""
        options = self.networks.get(network)
        if options is not None and options.delegate_policy is not None:
            return options.delegate_policy
        return self.type_policies.get(plugin_type, self.delegate_policy)

    def timeout_for(self, network: str) -> float:
        """Seconds each delegate of a network has."""
        options = self.networks.get(network)
        if options is not None and options.delegate_timeout_s is not None:
            return options.delegate_timeout_s
        return self.delegate_timeout_s


class Wrong(ValueError):
    """A value is not what its key takes; the text is what would be right."""


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong("a string")
    return value


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise Wrong("an absolute path")
    return value


def _boolean(value: object) -> bool:
    if isinstance(value, str) and value.casefold() in ("true", "false"):
        return value.casefold() == "true"
    if not isinstance(value, bool):
        raise Wrong("true or false")
    return value


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise Wrong("a list of names")
    return tuple(value)


def _names_by_comma(value: object) -> tuple[str, ...]:
    names = tuple(name.strip() for name in _string(value).split(",") if name.strip())
    return names or ("default",)


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise Wrong(f"one of {', '.join(choices)}")
        return str(value)

    return parse


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 3600:
        raise Wrong("seconds, more than 0 and at most 3600")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Wrong("a whole number, 0 or more")
    return value


def _object(value: object, keys: Mapping[str, tuple[str, Callable[[object], Any]]]) -> dict[str, Any]:
    """The attributes for an object's keys; raises Wrong naming the key inside."""
    if not isinstance(value, dict):
        raise Wrong("an object")
    attributes: dict[str, Any] = {}
    for key, item in value.items():
        if key not in keys:
            raise Wrong(f"an object with the keys {', '.join(keys)}, not {key!r}")
        attribute, parse = keys[key]
        try:
            attributes[attribute] = parse(item)
        except Wrong as wrong:
            raise Wrong(f"{wrong} in {key}") from None
    return attributes


def _store(value: object) -> str:
    directory = _object(value, {"directory": ("directory", _path)}).get("directory")
    if not directory:
        raise Wrong('an object like {"directory": "/etc/meta-cni/objects"}')
    return str(directory)


def _log_options(value: object) -> LogOptions:
    keys: Mapping[str, tuple[str, Callable[[object], Any]]] = {
        "maxAge": ("max_age_days", _count),
        "maxSize": ("max_size_mb", _count),
        "maxBackups": ("max_backups", _count),
        "compress": ("is_compressed", _boolean),
    }
    return LogOptions(**_object(value, keys))


def _policies(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise Wrong(f"one of {', '.join(POLICIES)}, or an object of plugin types with one of them each")
    return {key: _one_of(*POLICIES)(item) for key, item in value.items()}


def _networks(value: object) -> Mapping[str, NetworkOptions]:
    if not isinstance(value, dict):
        raise Wrong('an object like {"telco/media": {"delegateTimeout": 10}}')
    keys: Mapping[str, tuple[str, Callable[[object], Any]]] = {
        "delegatePolicy": ("delegate_policy", _one_of(*POLICIES)),
        "delegateTimeout": ("delegate_timeout_s", _seconds),
    }
    return {key: NetworkOptions(**_object(item, keys)) for key, item in value.items()}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the configuration, for reading it and for documenting it."""

    name: str
    attribute: str
    parse: Callable[[object], Any]
    default: str
    meaning: str


KEYS = (
    Key("clusterNetwork", "cluster_network", _string, "", "the default network: a NAD's name, a network name"
        " in `confDir`, or the path of a file or directory; wins over `delegates`"),
    Key("defaultNetworks", "default_networks", _strings, "[]", "more networks for every pod outside"
        " `systemNamespaces`; read where `clusterNetwork` is set"),
    Key("confDir", "conf_dir", _path, "/etc/cni/multus/net.d", "where networks without `spec.config` are"
        " looked up by name"),
    Key("cniDir", "cni_dir", _path, "/var/lib/cni/multus", "where the ledger is kept; to be changed on"
        " a drained node only"),
    Key("binDir", "bin_dir", _path, "/opt/cni/bin", "searched for plugins before `CNI_PATH`"),
    Key("kubeletDir", "kubelet_directory", _path, "/var/lib/kubelet", "the kubelet's directory; its socket"
        " `pod-resources/kubelet.sock` tells a pod's devices, `device-plugins/kubelet_internal_checkpoint`"
        " where nobody listens"),
    Key("kubeletTimeout", "kubelet_timeout_s", _seconds, "10", "seconds the kubelet has to tell them"),
    Key("deviceInfoDir", "device_info_directory", _path, "/var/run/k8s.cni.cncf.io/devinfo", "device-info"
        " files: `dp/` of device plugins, `cni/` of attachments"),
    Key("kubeconfig", "kubeconfig", _string, "", "the Kubernetes API server and who we are there; in a"
        " pod without it, the pod's service account"),
    Key("namespaceIsolation", "is_isolated", _boolean, "false", "pods may select only networks of their own"
        " namespace and of `globalNamespaces`"),
    Key("globalNamespaces", "global_namespaces", _names_by_comma, "default", "comma list; replaces the"
        " default"),
    Key("systemNamespaces", "system_namespaces", _strings, "[kube-system]", "pods there get no"
        " `defaultNetworks`"),
    Key("multusNamespace", "multus_namespace", _string, "kube-system", "where networks of `clusterNetwork`,"
        " `defaultNetworks` and the default-network annotation live when no namespace is named"),
    Key("readinessindicatorfile", "readiness_file", _string, "", "ADD waits up to 45 s for this file, STATUS"
        " answers 50 without it"),
    Key("auxiliaryCNIChainName", "auxiliary_chain", _string, "", "a chain of `*.conf` files in this directory"
        " beside the `clusterNetwork` file, attached last"),
    Key("logFile", "log_file", _string, "", "log file"),
    Key("logLevel", "log_level", _one_of(*LOG_LEVELS), "panic", "panic, error, verbose or debug"),
    Key("logToStderr", "is_logged_to_stderr", _boolean, "true", "log to standard error too"),
    Key("logOptions", "log_options", _log_options, "5 days, 100 MB, 5 files, compressed", "`maxAge`,"
        " `maxSize`, `maxBackups`, `compress`"),
    Key("store", "store_directory", _store, "", '`{"directory": PATH}`: NADs and pods as YAML files instead'
        " of an API server"),
    Key("result", "result", _one_of(*RESULTS), "merged (`default` for type multus)", "what the runtime is"
        " told: every attachment, or the default network alone"),
    Key("networkStatus", "network_status", _one_of(*FORMATS), "standard (`multus` for type multus)", "form of"
        " the network-status annotation"),
    Key("capabilityCheck", "capability_check", _one_of(*CAPABILITY_CHECKS), "strict (`legacy` for type"
        " multus)", "`strict`: a request that no plugin declares a capability for fails; `legacy`: `ips` and"
        " `mac` may go by CNI_ARGS alone"),
    Key("delegatePolicy", "delegate_policy", _string, "auto", "`auto`, `builtin` or `exec`; or an object of"
        " plugin types"),
    Key("delegateTimeout", "delegate_timeout_s", _seconds, "60", "seconds each delegate has"),
    Key("parallelAttachments", "is_parallel", _boolean, "false", "run executed secondary networks side by"
        " side, behind all others; not those that bring a default route, nor those that name one another's"
        " interface"),
    Key("networks", "networks", _networks, "{}", "`delegatePolicy` and `delegateTimeout` by network"
        " (`namespace/name`, or the name in the configuration)"),
)  # fmt: skip
"""Every key we read, beside those of every CNI configuration and `delegates`."""

IGNORED = ("retryDeleteOnError", "daemonSocketDir", "cniConfigDir", "multusConfigFile", "socketDir")
"""Multus' keys that need no meaning here: DEL always keeps what could not be undone."""


def parse(values: Mapping[str, object], delegates: tuple[str, ...]) -> tuple[Settings, tuple[str, ...]]:
    """
    Read a decoded configuration; `delegates` are the JSON texts of its `delegates` list.

    Returns the settings and every problem found; with problems the settings are the defaults
    for the keys concerned, which is enough for a DEL.
    """
    attributes: dict[str, Any] = {"delegates": delegates}
    problems: list[str] = []
    for name, attribute in (("name", "name"), ("cniVersion", "cni_version"), ("type", "type")):
        if isinstance(values.get(name), str):
            attributes[attribute] = values[name]
    if attributes.get("type") in MULTUS_TYPES:
        attributes.update(result="default", network_status="multus", capability_check="legacy")
    folded = {key.casefold(): value for key, value in values.items()}
    for key in KEYS:
        value = values.get(key.name, folded.get(key.name.casefold()))
        if value is None:
            continue
        try:
            attributes.update(_read(key, value))
        except Wrong as wrong:
            if key.name == "logLevel" and attributes.get("type") in MULTUS_TYPES:
                continue  # as Multus, which goes on with its default
            problems.append(f"{key.name} {value!r}: expected {wrong}")
    return Settings(**attributes), tuple(problems)


def _read(key: Key, value: object) -> dict[str, Any]:
    if key.name == "delegatePolicy" and not isinstance(value, str):
        return {"type_policies": _policies(value)}
    if key.name == "delegatePolicy":
        return {key.attribute: _one_of(*POLICIES)(value)}
    return {key.attribute: key.parse(value)}
