"""
tap: a device in the pod for a virtual machine's network card (containernetworking/plugins, main/tap).

Unlike the reference: no `ip` is run unless a SELinux context is asked for, the key `mac` works
with owner and group as well, DNS of the IPAM is kept, a failing ADD leaves nothing, and CHECK
looks at the device, too.
"""

from dataclasses import dataclass, replace
from functools import partial

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CheckFailed, NotAvailable
from meta_cni.cni.result import Result
from meta_cni.delegate import Attachment, Valid, attach, detach, requested_mac, unimplemented
from meta_cni.linux import configure, link, tuntap
from meta_cni.linux.link import Link

KEYS = ("multiQueue", "mtu", "mac", "owner", "group", "selinuxContext", "bridge")
LARGEST_ID = 2**32 - 2
"""Of a user or group; the one above stands for none (chown(2))."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a configuration asks for, for every pod of its network."""

    is_multi_queue: bool
    mtu: int
    owner: int | None
    group: int | None
    label: str
    bridge: str

    @classmethod
    def parse(cls, config: PluginConfig) -> "Keys":
        """Read and check them; raises BadConfig."""
        section = config.section
        return cls(
            is_multi_queue=section.boolean("multiQueue"),
            mtu=section.integer("mtu", maximum=65535),
            owner=_id(config, "owner"),
            group=_id(config, "group"),
            label=section.string("selinuxContext"),
            bridge=section.string("bridge"),
        )


class Tap:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        self.keys = config.once(Keys.parse)
        self.mac = requested_mac(config, attachment)

    def add(self, previous: Result | None) -> Result:
        """Create the device in the pod, with its addresses; what failed is removed by delete()."""
        bridge = self._bridge()
        addresses = self.attachment.addresses.acquire()
        mac = self.mac or link.random_mac()
        return attach(self.config, self.attachment, self._create(bridge, mac), addresses, mac=mac)

    def _bridge(self) -> Link | None:
        """The bridge that the device is to be a port of; it is in the pod."""
        name = self.keys.bridge
        if not name:
            return None
        found = link.find(self.attachment.namespaces.pod, name)
        if found is None or found.kind != "bridge":
            raise BadConfig(f"{self.config.where}: bridge {name!r}: expected a bridge in the pod")
        return found

    def _create(self, bridge: Link | None, mac: str) -> Link:
        namespaces, name, keys = self.attachment.namespaces, self.attachment.interface, self.keys
        make = (
            partial(tuntap.create_labelled, name, keys.label) if keys.label else partial(tuntap.create, name)
        )
        namespaces.run(partial(make, is_multi_queue=keys.is_multi_queue, owner=keys.owner, group=keys.group))
        made = Link(link.require_index(namespaces.pod, name, "tap"), name)
        master = bridge.index if bridge is not None else None
        change = link.set_link(made.index, mac=mac, mtu=keys.mtu, master=master)
        batch = [replace(change, action=f"set up tap {name}")]
        if self.attachment.group:
            batch.append(link.set_group(made.index, self.attachment.group))
        namespaces.pod.request(batch)
        return made

    def check(self, previous: Result) -> None:
        """The device is a tap with the result's MAC, addresses and routes, in its bridge."""
        pod = self.attachment.namespaces.pod
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        if found.kind != "tun":
            raise CheckFailed(f"check {found.name}: it is {found.kind or 'a device'}: expected tap")
        if self.keys.bridge:
            bridge = link.find(pod, self.keys.bridge)
            if bridge is None or found.master != bridge.index:
                raise CheckFailed(f"check {found.name}: it is not a port of bridge {self.keys.bridge}")
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """Delete the device, then give the addresses back."""
        detach(self.attachment)

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """The node must be able to make such devices."""
        reason = tuntap.unavailable()
        if reason:
            raise NotAvailable(f"{config.where}: {reason}")

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """The devices died with the pod's namespace; there is nothing else."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _id(config: PluginConfig, key: str) -> int | None:
    """A user or a group; None when it is not given, for 0 is root."""
    if config.section.value(key) is None:
        return None
    return config.section.integer(key, maximum=LARGEST_ID)
