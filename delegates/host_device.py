"""
host-device: a link of the node, moved into the pod (containernetworking/plugins, main/host-device).

The link's alias keeps its own name meanwhile, as the reference has it, so that either of the two
can bring back what the other moved. A device is never lost: whatever fails, it is back on the
node under its name, up if it was. Unlike the reference: one message moves, names and marks it,
a DEL brings back what there is to be brought back and releases the addresses in any case, a link
in the pod that nobody moved there is left alone, and DNS of the IPAM is kept.

With `useInterfaceNetwork` its addresses and routes on the node, and the rules by these addresses,
come along. A DEL brings none of it back, as the reference does not: whoever set it up on the node
does so again. Unlike the reference: it is on the node again where an ADD fails, the rules go with
DEL, IPv6 needs not be on in the pod, a route never comes before the way to its gateway.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import AlreadyAttached, BadConfig, CNIError, KernelError, NetnsGone
from meta_cni.cni.hardware import LENGTHS, hardware_address
from meta_cni.cni.result import Interface, Result
from meta_cni.delegate import Attachment, Valid, undo, unimplemented
from meta_cni.linux import configure, device, layer3, link, netns
from meta_cni.linux.layer3 import Layer3
from meta_cni.linux.link import Link
from meta_cni.linux.netlink import random_suffix

LOG = logging.getLogger("meta_cni")
KEYS = ("device", "hwaddr", "kernelpath", "pciBusID", "deviceID", "useInterfaceNetwork")
"""deviceID is what a meta plugin puts beside pciBusID; it says the same."""
KERNEL_PATHS = "/sys/devices/"


class HostDevice:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        section = config.section
        runtime = section.section("runtimeConfig")
        self.config = config
        self.attachment = attachment
        self.name = section.string("device")
        self.mac = hardware_address(section.string("hwaddr"), *LENGTHS) or ""
        self.kernel_path = section.string("kernelpath")
        handed = runtime.string("deviceID") if runtime is not None else ""
        self.address = handed or section.string("pciBusID")
        self.takes_network = section.boolean("useInterfaceNetwork")
        if section.string("hwaddr") and not self.mac:
            raise section.wrong("hwaddr", "an Ethernet address like 02:00:5e:00:53:01")
        if not (self.name or self.mac or self.kernel_path or self.address):
            raise BadConfig(
                f'{config.where}: specify either "device", "hwaddr", "kernelpath" or "pciBusID": '
                "expected one of them, or the capability deviceID"
            )
        if self.kernel_path and not os.path.normpath(self.kernel_path).startswith(KERNEL_PATHS):
            raise section.wrong("kernelpath", f"a path below {KERNEL_PATHS}")

    def add(self, previous: Result | None) -> Result:
        """Move the link into the pod, with its addresses; one that is driven by a program stays."""
        found = None if self._is_driven_by_program() else self._find()
        taken = self._taken(found)
        addresses = self.attachment.addresses.acquire()
        result = configure.of_the_pod(self.config, addresses)
        interface = Interface(self.attachment.interface, "", self.attachment.netns)
        if found is None:
            return result.of(interface)
        namespaces = self.attachment.namespaces
        with self._brought_back(found, taken):
            moved = self._move_in(found)
            mac = configure.configure(namespaces, moved.index, moved.name, result, taken=taken)
        namespaces.undoing[self.attachment.interface] = partial(self._bring_back_as, found, taken)
        if not found.is_infiniband:  # there the kernel does it, by arp_notify
            configure.announce(namespaces, moved.name, result.ips)
        return taken.told_in(result.of(replace(interface, mac=mac)))

    def _taken(self, found: Link | None) -> Layer3:
        """What the link brings along from the node."""
        if not self.takes_network:
            return layer3.NOTHING
        if found is None:
            raise BadConfig(
                f"{self.config.where}: useInterfaceNetwork true: expected a device with a link on the node, "
                f"{self.address} is driven by a program"
            )
        return Layer3.read(self.attachment.namespaces.host, found.index)

    def _is_driven_by_program(self) -> bool:
        path = device.path_of(self.address) if not (self.name or self.mac or self.kernel_path) else None
        return path is not None and device.driver_of(path) in device.USERSPACE_DRIVERS

    def _find(self) -> Link:
        """The link on the node, by the first key that is given."""
        host = self.attachment.namespaces.host
        if self.mac and not self.name:
            key, value = "hwaddr", self.mac
            found = next((each for each in link.dump(host) if each.mac == self.mac), None)
        else:
            key, value, name = self._named()
            found = link.find(host, name) if name else None
        if found is None:
            self._refuse_second()
            raise BadConfig(
                f"{self.config.where}: {key} {value!r}: expected a device with a link on the node"
            )
        return found

    def _refuse_second(self) -> None:
        """An ADD before has moved a device to this interface; what fails now must not bring it back."""
        inside = link.find(self.attachment.namespaces.pod, self.attachment.interface)
        if inside is not None and _is_name(inside.alias):
            raise AlreadyAttached(
                f"{self.config.where}: {inside.name} in the pod is device {inside.alias}: "
                "expected a DEL first"
            )

    def _named(self) -> tuple[str, str, str]:
        """(key, its value, the link's name); the name is empty where there is no link."""
        if self.name:
            return "device", self.name, self.name
        if self.kernel_path:
            return "kernelpath", self.kernel_path, device.link_of(Path(self.kernel_path))
        path = device.path_of(self.address)
        return "pciBusID", self.address, device.link_of(path) if path is not None else ""

    def _move_in(self, found: Link) -> Link:
        """The link in the pod under its new name, down; its alias keeps the old one."""
        namespaces, name = self.attachment.namespaces, self.attachment.interface
        if link.find(namespaces.pod, name) is not None:
            self._refuse_second()
            raise KernelError(f"move {found.name} to {name} in the pod", errno.EEXIST)
        action = f"move {found.name} to {name} in the pod"
        moving = link.move(found.index, namespaces.pod_fd, name, alias=found.name)
        namespaces.host.request([replace(moving, action=action)])
        return link.require(namespaces.pod, name, "device")

    @contextmanager
    def _brought_back(self, found: Link, taken: Layer3) -> Iterator[None]:
        """Whatever fails, the link is on the node again as it was."""
        try:
            yield
        except CNIError as error:
            try:
                self._restore(found, taken)
            except CNIError as undone:
                error.message += f"; and bringing {found.name} back: {undone.message}"
            raise

    def _restore(self, before: Link, taken: Layer3) -> None:
        """A move that failed half-way may have left it in the pod under either name."""
        pod = self.attachment.namespaces.pod
        for name in (self.attachment.interface, before.name):
            inside = link.find(pod, name)
            if inside is not None and _is_same(inside, before):
                self._move_out(inside, before.name, before.alias)
        self._set_up_again(before, taken)

    def _set_up_again(self, before: Link, taken: Layer3) -> None:
        """On the node the link is what it was."""
        host = self.attachment.namespaces.host
        back = link.find(host, before.name)
        if back is not None and _is_same(back, before):
            master = before.master or None
            up = link.set_link(back.index, is_up=before.is_up or None, master=master)
            host.request([up, *taken.addresses_on(back.index), *taken.routes_by(back.index)])

    def check(self, previous: Result) -> None:
        """The link is in the pod with the result's MAC, addresses and routes."""
        if not self._is_driven_by_program():
            configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        self.attachment.addresses.check(previous)

    def delete(self) -> None:
        """
        Bring the link back to the node, down, under its own name, and then give the addresses back.

        Where a later network has failed the ADD that moved it, the link is what it was before.
        """
        bring_back = self.attachment.namespaces.undoing.pop(self.attachment.interface, self._bring_back)
        bring_back()
        undo(self._remove_rules, self.attachment.addresses.release)

    def _remove_rules(self) -> None:
        """Those that came along, once nobody in the pod has their addresses."""
        if self.takes_network:
            with suppress(NetnsGone):
                layer3.remove_rules(self.attachment.namespaces.pod, configure.RTPROT_TAKEN)

    def _bring_back_as(self, before: Link, taken: Layer3) -> None:
        self._bring_back(before.alias)
        self._set_up_again(before, taken)

    def _bring_back(self, alias: str = "") -> None:
        try:
            inside = link.find(self.attachment.namespaces.pod, self.attachment.interface)
        except NetnsGone:
            self._rename_returned()
            return
        if inside is not None and _is_name(inside.alias):
            self._move_out(inside, inside.alias, alias)

    def _move_out(self, inside: Link, name: str, alias: str = "") -> None:
        """
        To the node; where somebody has taken its name meanwhile, under a free one.

        Its alias then goes on to say what its name was, and so does the log.
        """
        namespaces = self.attachment.namespaces
        is_taken = link.find(namespaces.host, name) is not None
        outside = f"dev{random_suffix()}" if is_taken else name
        with netns.opened_own() as descriptor:
            moving = link.move(inside.index, descriptor, outside, alias=name if is_taken else alias)
            namespaces.pod.request([replace(moving, action=f"move {inside.name} to {outside} on the node")])
        if is_taken:
            LOG.warning("device %s is back as %s: the node has another link of its name", name, outside)

    def _rename_returned(self) -> None:
        """
        A physical device that came back by itself when its namespace ended, under the pod's name.

        The kernel knows no better (default_device_exit_net(), net/core/dev.c); its alias does.
        """
        host = self.attachment.namespaces.host
        for each in link.dump(host):
            is_returned = each.name == self.attachment.interface or each.name.startswith("dev")
            if (
                is_returned
                and _is_name(each.alias)
                and self._is_ours(each)
                and not link.find(host, each.alias)
            ):
                named = replace(
                    link.rename(each.index, each.alias, alias=""),
                    action=f"rename {each.name} to {each.alias}",
                )
                host.request([link.set_link(each.index, is_up=False), named])

    def _is_ours(self, returned: Link) -> bool:
        """Is it the device of this configuration?"""
        if self.name:
            named = link.find(self.attachment.namespaces.host, self.name)  # it keeps its other names
            return returned.alias == self.name or (named is not None and named.index == returned.index)
        if self.mac:
            return returned.mac == self.mac
        return returned.name == self._named()[2]

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """A device that is not there is in a pod: nothing can be said before an ADD."""

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """Nothing but the device itself is on the node."""

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _is_same(one: Link, other: Link) -> bool:
    """One device at two places: its index may change on the way, its alias may have been set."""
    return (one.mac, one.kind) == (other.mac, other.kind) and one.alias in (other.alias, other.name)


def _is_name(alias: str) -> bool:
    """Can it be the name of a link (dev_valid_name(), net/core/dev.c)?"""
    return 0 < len(alias.encode()) < 16 and alias not in (".", "..") and not set(alias) & set("/: \t\n")
