"""
sriov: a virtual function (VF) of a network card for a pod (k8snetworkplumbingwg/sriov-cni).

Its settings are made through the physical function (PF), which the pod cannot reach; then its link
is moved into the pod. A VF of a userspace driver has no link: it is set up and stays where it is.

What the VF was before is written down first, in the reference plugin's files and its format
(meta_cni/linux/vf_claims.py), and is what delete() goes back to, wherever the VF is by then. Unlike the
reference: a VF whose holder's namespace ended is made as it was before the next pod gets it; a DEL
without a namespace, or one that fails half-way, forgets nothing; userspace VFs are remembered as such;
values the driver refuses, or that mean nothing, are errors; CHECK looks; mtu and all_multicast can be set.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from meta_cni.cni.config import PluginConfig, Section
from meta_cni.cni.errors import (
    AlreadyAttached,
    BadConfig,
    CheckFailed,
    CNIError,
    DamagedEntry,
    DelegateFailed,
    IOFailure,
    KernelError,
    NotAvailable,
    TryAgainLater,
    join,
)
from meta_cni.cni.hardware import GUID, hardware_address
from meta_cni.cni.result import Interface, Result
from meta_cni.delegate import Attachment, Valid, requested_mac, unimplemented
from meta_cni.linux import configure, link, sriov, sysctl, vf, vf_release
from meta_cni.linux.device import SYSFS
from meta_cni.linux.link import Link
from meta_cni.linux.sriov import Function
from meta_cni.linux.vf import ANY_GUID, NO_GUIDS, NO_MAC, Rate, Settings, Target, Vlan
from meta_cni.linux.vf_claims import DIRECTORY, Before, Claim, Claims

KEYS = (
    *("deviceID", "pciBusID", "vlan", "vlanQoS", "vlanProto", "mac", "spoofchk", "trust", "link_state"),
    *("min_tx_rate", "max_tx_rate", "mtu", "all_multicast", "logLevel", "logFile", "dataDir", "sysfs"),
)
"""pciBusID says the same as deviceID; mtu, all_multicast, dataDir and sysfs are ours."""
SWITCH = {"on": True, "off": False}
PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
SMALLEST_MTU, LARGEST_MTU = 68, 65535  # RFC 791; of Ethernet devices, ETH_MAX_MTU, <linux/if_ether.h>
FASTEST_MBPS = 2**31 - 1
CARRIER_WAIT_S = 0.2  # as the reference plugin
SYSCTLS = (
    *("ipv4/conf/{}/arp_notify", "ipv6/conf/{}/ndisc_notify"),
    "ipv6/conf/{}/optimistic_dad",
)
"""All 1: neighbours are told of a new address, and an address can be used at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a configuration asks for."""

    address: str
    settings: Settings
    mtu: int = 0
    is_allmulti: bool | None = None


class Sriov:
    """One attachment."""

    def __init__(self, config: PluginConfig, attachment: Attachment) -> None:
        self.config = config
        self.attachment = attachment
        self.wanted = _wanted(config, attachment)
        self.claims = Claims(_directory(config))
        self.sysfs = _sysfs(config)

    def add(self, previous: Result | None) -> Result:
        """Set the VF up and give it to the pod; what failed is put back by delete()."""
        with self.claims.locked(self.wanted.address, self.attachment.deadline_s):
            self._take_over()
            function = _found(self.config, self.wanted.address, self.sysfs)
            target = vf_release.target_of(function, self.attachment.namespaces.host)
            own = self._own_link(function)
            self._refuse_other_fabric(target)
            self._claim(function, target, own)
            vf.apply(self.attachment.namespaces.host, target, self.wanted.settings)
            if own is None:
                return self._left(function, target)
            if self.wanted.settings.node_guid is not None:
                own = vf_release.rebind(function.address, self.attachment.namespaces.host, self.sysfs)
            return self._moved(function, own)

    def _take_over(self) -> None:
        """A VF is one pod's; what a pod that vanished left is first made as it was."""
        attachment, address = self.attachment, self.wanted.address
        for claim in self.claims.of_device(address):
            if self.claims.is_anothers(claim):
                continue
            holder = f"container {claim.container_id} as {claim.interface}"
            if claim.container_id == attachment.container_id:
                raise AlreadyAttached(
                    f"{self.config.where}: VF {address} is attached to {holder}: "
                    "expected a DEL first, or another VF"
                )
            if not vf_release.vanished(claim):
                raise TryAgainLater(
                    f"{self.config.where}: VF {address} is attached to {holder}: expected its DEL"
                )
            vf_release.release(claim, self.sysfs)
            self.claims.remove(claim)
        holder = self.claims.holder(address)
        if holder and os.path.exists(holder):
            raise TryAgainLater(f"{self.config.where}: VF {address} is given to {holder}: expected its DEL")

    def _own_link(self, function: Function) -> Link | None:
        """The VF's link on the node; None for one that a program drives."""
        if function.is_userspace:
            return None
        found = link.find(self.attachment.namespaces.host, function.link) if function.link else None
        if found is None:
            driver = f"driver {function.driver}" if function.driver else "no driver"
            raise TryAgainLater(
                f"{self.config.where}: VF {function.address} has {driver} and no link on the node: "
                "expected a link, or a userspace driver like vfio-pci"
            )
        return found

    def _refuse_other_fabric(self, target: Target) -> None:
        """A GUID is for InfiniBand, where nobody chooses a MAC."""
        parent = link.require(self.attachment.namespaces.host, target.parent, "physical function")
        mac, guid = self.wanted.settings.mac, self.wanted.settings.node_guid
        if guid and not parent.is_infiniband:
            raise BadConfig(
                f"{self.config.where}: infinibandGUID {guid}: {target} is not on InfiniBand: "
                "expected a VF that is, or no GUID"
            )
        if mac and parent.is_infiniband:
            raise BadConfig(
                f"{self.config.where}: mac {mac}: {target} is on InfiniBand: "
                "expected runtimeConfig.infinibandGUID instead"
            )

    def _claim(self, function: Function, target: Target, own: Link | None) -> None:
        """Write down what the VF is, before anything of it is changed."""
        attachment, namespaces = self.attachment, self.attachment.namespaces
        if self.claims.find(attachment.container_id, attachment.interface) is not None:
            raise AlreadyAttached(
                f"{self.config.where}: container {attachment.container_id} has a VF as "
                f"{attachment.interface}: expected a DEL first"
            )
        if own is not None and link.find(namespaces.pod, attachment.interface) is not None:
            raise AlreadyAttached(
                f"{self.config.where}: the pod has a link {attachment.interface}: expected a free name"
            )
        before = vf.read(namespaces.host, target)
        if before is not None and self.wanted.settings.node_guid is not None:
            before = vf.with_guids(before)
        if before is None and self.wanted.settings != Settings():
            raise BadConfig(
                f"{self.config.where}: {target} has no settings: expected a driver that tells them, "
                "or a configuration without any"
            )
        self.claims.write(
            Claim(
                container_id=attachment.container_id,
                interface=attachment.interface,
                address=function.address,
                parent=function.parent,
                number=function.number,
                wanted=self.wanted.settings,
                before=before or Settings(),
                link=_before(own) if own is not None else None,
                network=self.config.network,
                netns=namespaces.path,
                netns_identity=namespaces.identity,
                config=_kept(self.config),
            )
        )

    def _left(self, function: Function, target: Target) -> Result:
        """The result for a VF that a program in the pod drives: nothing of it is in the pod's namespace."""
        host = self.attachment.namespaces.host
        now = vf.read(host, target)
        told = now.mac if now is not None and now.mac not in (None, NO_MAC) else ""
        parent = link.require(host, function.parent, "physical function")
        interface = Interface(
            self.attachment.interface,
            self.wanted.settings.mac or told or "",
            self.attachment.netns,
            mtu=parent.mtu,
            pci_id=function.address,
        )
        self._tell_device(function)
        return self._addressed(interface)

    def _moved(self, function: Function, own: Link) -> Result:
        """Its link in the pod, set up, with its addresses."""
        namespaces, name = self.attachment.namespaces, self.attachment.interface
        moving = link.move(own.index, namespaces.pod_fd, name, alias=own.alias)
        namespaces.host.request([replace(moving, action=f"move {own.name} to {name} in the pod")])
        inside = link.require(namespaces.pod, name, "VF")
        namespaces.run(partial(_notify, name))
        self._set_up(inside, f"{name} (VF {function.address}, {function.driver})")
        self._tell_device(function)
        found = link.require(namespaces.pod, name, "VF")
        result = self._addressed(
            Interface(name, found.mac, self.attachment.netns, mtu=found.mtu, pci_id=function.address)
        )
        configure.configure(namespaces, found.index, name, result)
        if not found.is_infiniband:  # there the kernel does it, by arp_notify
            configure.announce(namespaces, name, result.ips, carrier_wait_s=CARRIER_WAIT_S)
        return result

    def _set_up(self, inside: Link, label: str) -> None:
        """
        Address, MTU and flags of the link, and up.

        It may not have heard from its PF yet which address it has; some drivers never ask.
        """
        pod, wanted = self.attachment.namespaces.pod, self.wanted
        if wanted.settings.mac and wanted.settings.mac != inside.mac:
            vf_release.take_address(pod, inside, wanted.settings.mac, label)
        if wanted.mtu:
            change = link.set_link(inside.index, mtu=wanted.mtu)
            pod.request([replace(change, action=f"set mtu {wanted.mtu} of {label}")])
        change = link.set_link(inside.index, is_up=True, is_allmulti=wanted.is_allmulti)
        pod.request([replace(change, action=f"bring up {label}")])

    def _addressed(self, interface: Interface) -> Result:
        """The result with what the IPAM gives; a DHCP client needs the link to be up."""
        addresses = self.attachment.addresses.acquire()
        if not (self.attachment.addresses.is_none or addresses.ips):
            raise DelegateFailed(f"{self.config.where}: ipam gave no address: expected at least one")
        return replace(configure.of_the_pod(self.config, addresses), interfaces=(interface,))

    def _tell_device(self, function: Function) -> None:
        """The device-info file that the runtime asks for, unless a device plugin has written one."""
        runtime = self.config.section.section("runtimeConfig")
        path = runtime.string("CNIDeviceInfoFile") if runtime is not None else ""
        if not path:
            return
        told = {
            "pci-address": function.address,
            "pf-pci-address": function.parent_address,
            "rdma-device": sriov.rdma_device_of(function, self.sysfs),
            "representor-device": sriov.representor_of(function, self.sysfs),
        }
        known = {key: value for key, value in told.items() if value}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), open(path, "x") as file:
                json.dump({"type": "pci", "version": "1.1.0", "pci": known}, file)
        except OSError as error:
            raise IOFailure(f"write {path}: {error.strerror}") from None

    def check(self, previous: Result) -> None:
        """The VF is this attachment's, with its settings, its link, its addresses and routes."""
        attachment = self.attachment
        claim = self.claims.find(attachment.container_id, attachment.interface)
        if claim is None or self.claims.is_anothers(claim):
            raise CheckFailed(f"check {attachment.interface}: VF {self.wanted.address} is not claimed for it")
        function = _found(self.config, claim.address, self.sysfs)
        target = vf_release.target_of(function, attachment.namespaces.host)
        now = vf.read(attachment.namespaces.host, target) or Settings()
        differing = self.wanted.settings.differing(now)
        if differing.among(self.wanted.settings) != Settings():
            (first, *_) = vf.requests(target, differing)
            raise CheckFailed(f"check {attachment.interface}: it is not so any more: {first}")
        if claim.link is not None:
            self._check_link(previous)
        attachment.addresses.check(previous)

    def _check_link(self, previous: Result) -> None:
        found = configure.check(self.attachment.namespaces, self.attachment.interface, previous)
        device = found.device or self.wanted.address
        if device != self.wanted.address:
            raise CheckFailed(f"check {found.name}: it is of {device}: expected VF {self.wanted.address}")
        if self.wanted.mtu not in (0, found.mtu):
            raise CheckFailed(f"check {found.name}: its MTU is {found.mtu}: expected {self.wanted.mtu}")
        if self.wanted.is_allmulti not in (None, found.is_allmulti):
            raise CheckFailed(f"check {found.name}: all_multicast is not {self.wanted.is_allmulti}")

    def delete(self) -> None:
        """Make the VF as it was and bring its link back, and then give the addresses back."""
        self._give_back()
        self.attachment.addresses.release()

    def _give_back(self) -> None:
        container_id, interface = self.attachment.container_id, self.attachment.interface
        self.claims.clear(container_id, interface)
        try:
            claim = self.claims.find(container_id, interface)
        except DamagedEntry as error:
            aside = self.claims.set_aside(container_id, interface)
            raise DamagedEntry(
                f"{error.message}: set aside as {aside}; what the VF was is not known"
            ) from None
        if claim is not None:
            _give_back(self.claims, claim, self.sysfs, self.attachment.deadline_s)

    @classmethod
    def status(cls, config: PluginConfig) -> None:
        """Claims can be written; a VF that is named is there."""
        directory = _directory(config)
        there = next((each for each in (directory, *directory.parents) if each.exists()), directory)
        if not os.access(there, os.W_OK):
            raise NotAvailable(f"{config.where}: directory {directory}: expected one that can be written")
        address = config.section.string("deviceID")
        try:
            if address and sriov.find(address.lower(), _sysfs(config)) is None:
                raise NotAvailable(f"{config.where}: device {address} is not there")
        except BadConfig as error:
            raise NotAvailable(error.message) from None

    @classmethod
    def collect(cls, config: PluginConfig, valid: Valid) -> None:
        """Give back this network's VFs of attachments that are not listed; others' claims are left alone."""
        claims, errors = Claims(_directory(config)), list[CNIError]()
        for each in claims.all():
            if each.network == config.network and (each.container_id, each.interface) not in valid:
                try:
                    _give_back(claims, each, _sysfs(config), vf_release.RETURN_WAIT_S)
                except CNIError as error:
                    errors.append(error)
        if errors:
            raise join(errors)

    @classmethod
    def refuses(cls, config: PluginConfig) -> str:
        """Keys that only the binary knows."""
        return unimplemented(config, KEYS)


def _give_back(claims: Claims, claim: Claim, sysfs: Path, deadline_s: float) -> None:
    """Release a VF, unless it is another's by now, and then forget the claim."""
    with claims.locked(claim.address, deadline_s):
        if claims.find(claim.container_id, claim.interface) is None:
            return
        if not claims.is_anothers(claim):
            vf_release.release(claim, sysfs)
        claims.remove(claim)


def _found(config: PluginConfig, address: str, sysfs: Path) -> Function:
    function = sriov.find(address, sysfs)
    if function is None:
        raise BadConfig(
            f"{config.where}: device {address} is not there: expected a virtual function of this node"
        )
    return function


def _before(own: Link) -> Before:
    """On InfiniBand the MAC comes back with the GUID."""
    mac = "" if own.is_infiniband else own.mac
    return Before(own.name, mac, own.mtu, own.is_up, own.is_promiscuous, own.is_allmulti)


def _kept(config: PluginConfig) -> dict[str, object]:
    """What the reference plugin needs for a DEL; nothing that may be secret."""
    names = (*("cniVersion", "name", "type"), *KEYS)
    kept = {name: config.section.value(name) for name in names if config.section.value(name) is not None}
    return {**kept, "ipam": {"type": config.ipam_type}} if config.ipam_type else kept


def _notify(interface: str) -> None:
    """As far as the kernel knows them."""
    for each in SYSCTLS:
        with suppress(KernelError):
            sysctl.write(f"net/{each.format(interface)}", "1")


def _directory(config: PluginConfig) -> Path:
    return Path(_path(config.section, "dataDir") or DIRECTORY)


def _sysfs(config: PluginConfig) -> Path:
    return Path(_path(config.section, "sysfs") or SYSFS)


def _path(section: Section, key: str) -> str:
    text = section.string(key)
    if text and (not text.startswith("/") or "\0" in text):
        raise section.wrong(key, "an absolute path")
    return text


def _wanted(config: PluginConfig, attachment: Attachment) -> Wanted:
    section = config.section
    mtu = section.integer("mtu", maximum=LARGEST_MTU)
    if 0 < mtu < SMALLEST_MTU:
        raise section.wrong("mtu", f"a whole number from {SMALLEST_MTU} to {LARGEST_MTU}")
    guid = _guid(config)
    settings = Settings(
        vlan=_vlan(section),
        mac=requested_mac(config, attachment) or None,
        rate=_rate(section),
        is_spoof_checked=_switch(section, "spoofchk"),
        is_trusted=_switch(section, "trust"),
        link_state=section.choice("link_state", vf.LINK_STATES, "auto")
        if section.string("link_state")
        else None,
        node_guid=guid,
        port_guid=guid,
    )
    return Wanted(_address(config), settings, mtu, _switch(section, "all_multicast"))


def _address(config: PluginConfig) -> str:
    """What the runtime says, else the configuration."""
    runtime = config.section.section("runtimeConfig")
    handed = runtime.string("deviceID") if runtime is not None else ""
    address = (handed or config.section.string("deviceID") or config.section.string("pciBusID")).lower()
    if not address:
        raise BadConfig(
            f"{config.where}: deviceID is missing: expected the PCI address of a VF, which comes of the "
            "resource that the network's annotation k8s.v1.cni.cncf.io/resourceName names"
        )
    if not PCI_ADDRESS.fullmatch(address):
        raise BadConfig(f"{config.where}: deviceID {address!r}: expected a PCI address like 0000:03:02.1")
    return address


def _vlan(section: Section) -> Vlan | None:
    """0 is none, where nothing leaves it as it is."""
    is_given = section.value("vlan") is not None
    for key in ("vlanQoS", "vlanProto"):
        if section.value(key) is not None and not is_given:
            raise section.wrong(key, "a vlan with it")
    if not is_given:
        return None
    found = section.integer("vlan", maximum=4094)
    qos = section.integer("vlanQoS", maximum=7)
    protocol = section.string("vlanProto", "802.1q").lower()
    if protocol not in vf.PROTOCOLS:
        raise section.wrong("vlanProto", f"one of {', '.join(vf.PROTOCOLS)}")
    if not found and qos:
        raise section.wrong("vlanQoS", "a vlan that is not 0 with it")
    if not found and protocol != "802.1q":
        raise section.wrong("vlanProto", "a vlan that is not 0 with it")
    return Vlan(found, qos, protocol)


def _rate(section: Section) -> Rate | None:
    """Both go together; the one that is not given is no bound."""
    if section.value("min_tx_rate") is None and section.value("max_tx_rate") is None:
        return None
    low = section.integer("min_tx_rate", maximum=FASTEST_MBPS)
    high = section.integer("max_tx_rate", maximum=FASTEST_MBPS)
    if high and low > high:
        raise section.wrong("min_tx_rate", f"at most max_tx_rate {high}")
    return Rate(low, high)


def _switch(section: Section, key: str) -> bool | None:
    return SWITCH[section.choice(key, SWITCH, "off")] if section.string(key) else None


def _guid(config: PluginConfig) -> str | None:
    """What the runtime says, else the network's own: as in ib-sriov-cni, one for node and port."""
    runtime, args = config.section.section("runtimeConfig"), config.section.section("args")
    cni = args.section("cni") if args is not None else None
    candidates = (runtime and runtime.string("infinibandGUID"), cni and cni.string("guid"))
    text = next((each for each in candidates if each), "")
    guid = hardware_address(text, GUID)
    if text and guid in (*NO_GUIDS, ANY_GUID):
        raise BadConfig(
            f"{config.where}: infinibandGUID {text!r}: expected 8 bytes like c2:11:22:33:44:55:66:77, "
            "neither all 0 nor all ff"
        )
    return guid
