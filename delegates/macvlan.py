"""
macvlan: a link of its own on a link of the node (containernetworking/plugins, main/macvlan).

Unlike the reference: nothing is left behind when addresses cannot be had or set, DNS of the
IPAM is kept, and IPv6 addresses work at once instead of after duplicate address detection.
"""

from functools import partial

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import CheckFailed
from meta_cni.cni.result import Result
from meta_cni.delegate import Attachment, Valid, attach, detach, requested_mac, unimplemented
from meta_cni.linux import configure, link, upper
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import Request

KEYS = ("master", "mode", "mtu", "mac", "linkInContainer", "bcqueuelen")
OF_ITS_MASTER = "passthru"
"""The mode in which the link has the MAC of its master."""


class Macvlan:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        self.master = upper.Master.parse(config, attachment.namespaces)
        self.mode, self.broadcast_queue_length = config.once(_keys)
        self.mac = requested_mac(config, attachment)

    def add(self, previous: Result | None) -> Result:
        """Create the link in the pod, with its addresses; what failed is removed by delete()."""
        master = self.master.find()
        addresses = self.attachment.addresses.acquire()
        # One of ours needs not be asked for; a link that gets its master's gets it whatever was asked for.
        own = "" if self.mode == OF_ITS_MASTER else self.mac or link.random_mac()
        made = self.master.make(self.attachment.interface, partial(self._request, master, own))
        return attach(self.config, self.attachment, made, addresses, mac=own)

    def _request(self, master: Link, mac: str, name: str) -> Request:
        return link.create_macvlan(
            name,
            master,
            self.mode,
            pod_fd=self.attachment.namespaces.pod_fd,
            mac=mac,
            mtu=self.master.mtu,
            group=self.attachment.group,
            broadcast_queue_length=self.broadcast_queue_length,
        )

    def check(self, previous: Result) -> None:
        """The link is a macvlan of this mode with the result's MAC, addresses and routes."""
        self.master.find()
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        mode = found.info.get("IFLA_MACVLAN_MODE")
        if found.kind != "macvlan" or mode != self.mode:
            raise CheckFailed(
                f"check {found.name}: it is {found.kind or 'a device'} in mode {mode}: "
                f"expected macvlan in mode {self.mode}"
            )
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """Delete the link, then give the addresses back; the master is not needed."""
        detach(self.attachment, upper.unfinished(self.attachment.interface))

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """The kernel must know the kind; the master, where one is named, must be there."""
        upper.require(config, "macvlan")

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """The links died with the pod's namespace; there is nothing else."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _keys(config: PluginConfig) -> tuple[str, int]:
    """Mode and length of the broadcast queue, for every pod of a network."""
    section = config.section
    mode = section.choice("mode", tuple(link.MODES), "bridge")
    return mode, section.integer("bcqueuelen", maximum=2**32 - 1)
