"""
vlan: a VLAN of a link of the node, for one pod (containernetworking/plugins, main/vlan).

The kernel has one link for a VLAN of a master, in whatever namespace. Unlike the reference: the
ipam is not mandatory, nothing is left behind when addresses cannot be had or set, a DEL needs no
master, DNS of the IPAM is kept, IPv6 addresses work at once and the neighbours are told of them.
"""

import errno
from functools import partial

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import BadConfig, CheckFailed, KernelError
from meta_cni.cni.result import Result
from meta_cni.delegate import Attachment, Valid, attach, detach, unimplemented
from meta_cni.linux import configure, link, upper
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Request

KEYS = ("master", "vlanId", "mtu", "linkInContainer")


class Vlan:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        section = config.section
        self.config = config
        self.attachment = attachment
        self.master = upper.Master.parse(config, attachment.namespaces)
        self.vlan = section.integer("vlanId", maximum=upper.LARGEST_VLAN)
        if not self.master.name:
            raise BadConfig(f'{config.where}: "master" field is required: expected the name of a link')

    def add(self, previous: Result | None) -> Result:
        """Create the link in the pod, with its addresses; what failed is removed by delete()."""
        master = self.master.find()
        if not master.is_up:
            raise BadConfig(
                f"{self.config.where}: master {master.name!r} is down: expected a link that is up"
            )
        addresses = self.attachment.addresses.acquire()
        made = self._create(master)
        return attach(self.config, self.attachment, made, addresses)

    def _create(self, master: Link) -> Link:
        """The kernel says "exists" of a name as of a VLAN; raises KernelError with what it is."""
        name = self.attachment.interface
        try:
            return self.master.make(name, partial(self._request, master))
        except KernelError as error:
            if error.errno != errno.EEXIST or link.find(self.attachment.namespaces.pod, name):
                raise
            action = f"create vlan {name}: VLAN {self.vlan} of {master.name} is in use by another link"
            raise KernelError(action, errno.EEXIST) from None

    def _request(self, master: Link, name: str) -> Request:
        return upper.create_vlan(
            name,
            master,
            self.vlan,
            pod_fd=self.attachment.namespaces.pod_fd,
            mtu=self.master.mtu,
            group=self.attachment.group,
        )

    def check(self, previous: Result) -> None:
        """The link is this VLAN of its master, with the result's MAC, addresses and routes."""
        master = self.master.find()
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        told = f"check {found.name}: it is"
        if upper.vlan_id(found) != self.vlan:
            raise CheckFailed(f"{told} {_shown(found)}: expected VLAN {self.vlan}")
        if found.parent != master.index:
            raise CheckFailed(f"{told} on another link than {master.name}")
        mtu = self.master.mtu
        if mtu and found.mtu != mtu:
            raise CheckFailed(f"{told} of MTU {found.mtu}: expected {mtu}")
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """Delete the link, then give the addresses back; the master is not needed."""
        detach(self.attachment, upper.unfinished(self.attachment.interface))

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """The kernel must know the kind, the master must be there."""
        upper.require(config, "vlan")

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """The links died with the pod's namespace; there is nothing else."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _shown(found: Link) -> str:
    vlan = upper.vlan_id(found)
    return (found.kind or "a device") if vlan is None else f"VLAN {vlan}"
