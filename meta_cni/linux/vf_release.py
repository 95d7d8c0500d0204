"""
Giving a virtual function (VF) back: as its claim says that it was, wherever it is now.

It may be in the pod, under whatever name the pod gave it; back on the node under the pod's name or
dev%d, where the kernel puts a physical link whose namespace has ended (default_device_exit_net(),
net/core/dev.c); on its way there; or never have left. So nothing is assumed: what is found is
compared with what it was, and only what differs is changed. A second try goes on where the first
one was cut off.
"""

import errno
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from meta_cni.cni.errors import CNIError, KernelError, NetnsGone, TryAgainLater, join
from meta_cni.linux import link, netns, sriov, vf
from meta_cni.linux.device import SYSFS
from meta_cni.linux.link import Link
from meta_cni.linux.namespaces import Namespaces
from meta_cni.linux.netlink import Request, Socket, random_suffix
from meta_cni.linux.sriov import Function
from meta_cni.linux.vf import NO_MAC, NOT_YET, Settings, Target
from meta_cni.linux.vf_claims import Before, Claim

LOG = logging.getLogger("meta_cni")
RETURN_WAIT_S = 5.0
"""A namespace ends in the background, and a device of it is nowhere meanwhile."""
RETURN_POLL_S = 0.01
REFUSED = (*NOT_YET, errno.EADDRNOTAVAIL)
"""A VF whose card has not heard yet which address it may have."""


def target_of(function: Function, host: Socket) -> Target:
    """The VF as messages name it; raises KernelError when its PF has no link here."""
    parent = link.require(host, function.parent, f"physical function of VF {function.address}")
    return Target(parent.index, parent.name, function.number, function.parent_driver)


def vanished(claim: Claim) -> bool:
    """Has the namespace that the VF was given to ended?"""
    with Namespaces(claim.netns, claim.netns_identity) as namespaces:
        return namespaces.is_gone


def release(claim: Claim, sysfs: Path = SYSFS) -> None:
    """
    Make the VF as it was, and let its link be on the node under its own name.

    A VF that is gone is success. Whatever fails, the rest is done; raises one error with everything.
    """
    function = sriov.find(claim.address, sysfs)
    if function is None:
        return
    is_rebound = claim.link is not None and claim.wanted.node_guid is not None
    if is_rebound and not function.driver:  # a call was killed just then
        sriov.rebind(claim.address, sysfs)
        function = sriov.find(claim.address, sysfs) or function
    with Namespaces(claim.netns, claim.netns_identity) as namespaces:
        target = target_of(function, namespaces.host)
        has_link = claim.link is not None and bool(function.driver) and not function.is_userspace
        steps: list[Callable[[], object]] = [partial(_put_back, namespaces.host, target, claim)]
        if claim.link is not None and has_link:
            steps.insert(0, partial(_bring_home, claim, claim.link, namespaces, sysfs))
            if is_rebound:
                steps.append(partial(rebind, claim.address, namespaces.host, sysfs))
            steps.append(partial(_restore_link, claim, claim.link, namespaces.host, sysfs))
        steps.append(partial(_put_back_last, namespaces.host, target, claim))
        if claim.link is not None and has_link:
            steps.append(partial(_bring_up, claim, claim.link, namespaces.host, sysfs))
        _take(steps)


def _take(steps: Sequence[Callable[[], object]]) -> None:
    errors: list[CNIError] = []
    for step in steps:
        try:
            step()
        except CNIError as error:
            errors.append(error)
    if errors:
        raise join(errors)


def rebind(address: str, host: Socket, sysfs: Path = SYSFS) -> Link:
    """
    Let a VF's driver find its GUIDs, which it looks for when it is bound; its new link.

    Raises TryAgainLater when it makes none.
    """
    sriov.rebind(address, sysfs)
    deadline = time.monotonic() + RETURN_WAIT_S
    while (found := _link_of(address, host, sysfs)) is None:
        if time.monotonic() > deadline:
            raise TryAgainLater(f"bind VF {address} to its driver: it makes no link: expected one")
        time.sleep(RETURN_POLL_S)
    return found


def _bring_home(claim: Claim, before: Before, namespaces: Namespaces, sysfs: Path) -> None:
    """From the pod to the node, down; one that is there already stays."""
    try:
        inside = link.find_of_device(namespaces.pod, claim.address, claim.interface)
    except NetnsGone:
        inside = None
    if inside is None or _at_home(claim, namespaces.host, sysfs) is not None:
        _await_home(claim, namespaces.host, sysfs)
        return
    is_taken = link.find(namespaces.host, before.name) is not None
    name = f"dev{random_suffix()}" if is_taken else before.name
    with netns.opened_own() as descriptor:
        moving = link.move(inside.index, descriptor, name, alias=inside.alias)
        action = f"move {inside.name} to {name} on the node"
        namespaces.pod.request([link.set_link(inside.index, is_up=False), replace(moving, action=action)])


def _at_home(claim: Claim, host: Socket, sysfs: Path) -> Link | None:
    return _link_of(claim.address, host, sysfs)


def _link_of(address: str, host: Socket, sysfs: Path) -> Link | None:
    """A VF's link on the node; sysfs knows whose it is, whatever its name."""
    function = sriov.find(address, sysfs)
    return link.find(host, function.link) if function is not None and function.link else None


def _await_home(claim: Claim, host: Socket, sysfs: Path) -> None:
    deadline = time.monotonic() + RETURN_WAIT_S
    while _at_home(claim, host, sysfs) is None:
        if not sriov.path_of(claim.address, sysfs).exists():
            return
        if time.monotonic() > deadline:
            raise TryAgainLater(
                f"bring VF {claim.address} back: its link is neither on the node nor in {claim.netns}: "
                "expected it there, or the namespace that it is in to end"
            )
        time.sleep(RETURN_POLL_S)


def _put_back(host: Socket, target: Target, claim: Claim) -> None:
    """All settings but trust, the last one first: what was allowed only by another is undone before it."""
    now = vf.read(host, target)
    if now is None:
        return
    changed = back_from(claim, now)
    if changed.is_trusted:
        vf.apply(host, target, Settings(is_trusted=True))
    changed = replace(changed, is_trusted=None)
    _take([partial(vf.persist, host, each, NOT_YET) for each in reversed(vf.requests(target, changed))])


def _put_back_last(host: Socket, target: Target, claim: Claim) -> None:
    """
    Trust and the address, once the link is as it was.

    Some drivers let an untrusted VF change nothing.
    """
    now = vf.read(host, target)
    if now is not None:
        changed = back_from(claim, now)
        mac = None if _is_own(claim, now) else changed.mac
        vf.apply(host, target, Settings(mac=mac, is_trusted=changed.is_trusted))


def back_from(claim: Claim, now: Settings) -> Settings:
    """What is not as it was, of all that was asked for, and the MAC, which a pod may have changed."""
    ours = replace(claim.before.among(claim.wanted), mac=claim.before.mac)
    if claim.wanted.mac is None and _is_own(claim, now):
        ours = replace(ours, mac=now.mac)
    return ours.differing(now)


def _is_own(claim: Claim, now: Settings) -> bool:
    """
    Is the address one that the VF chose for itself, and nobody gave it another before?

    Some cards tell it as if it were given. To take it away would make the VF deaf: igb receives
    nothing for a VF without an address, and igbvf tells it none until its next reset.
    """
    return claim.link is not None and (claim.before.mac, claim.link.mac) == (NO_MAC, now.mac)


def _restore_link(claim: Claim, before: Before, host: Socket, sysfs: Path) -> None:
    """
    On the node: down, its address, its MTU, its flags, its name.

    With the address that was asked for, the card has forgotten the VF's own. Where the link has that
    all the time, its driver tells it when it stops: igbvf resets the VF then.
    """
    found = _at_home(claim, host, sysfs)
    if found is None:
        return
    if found.is_up and _differs(found, before):
        host.request([link.set_link(found.index, is_up=False)])
    label = f"{found.name} (VF {claim.address})"
    if claim.wanted.mac and before.mac == found.mac:
        host.request([link.set_link(found.index, is_up=True), link.set_link(found.index, is_up=False)])
    if before.mac and before.mac != found.mac:
        take_address(host, found, before.mac, label)
    host.request(_changes(found, before, label))
    _rename(found, before.name, host)


def take_address(socket: Socket, found: Link, mac: str, label: str) -> None:
    """
    Give a VF's link an address, which its card may have been told before.

    Some drivers ask their card for it when they are reset, and take no other until then: igb lets
    an untrusted VF choose none while it has one of the PF's. To go up resets igbvf.
    """
    change = replace(link.set_link(found.index, mac=mac), action=f"set mac {mac} of {label}")
    try:
        vf.persist(socket, change, NOT_YET)
    except KernelError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        up, down = (link.set_link(found.index, is_up=each) for each in (True, False))
        socket.request([up, down])
        now = link.find_index(socket, found.index)
        if now is not None and now.mac != mac:
            vf.persist(socket, change, REFUSED)


def _bring_up(claim: Claim, before: Before, host: Socket, sysfs: Path) -> None:
    found = _at_home(claim, host, sysfs)
    if found is not None and before.is_known and before.is_up and not found.is_up:
        host.request([link.set_link(found.index, is_up=True)])


def _changes(found: Link, before: Before, label: str) -> list[Request]:
    batch = []
    if before.mtu and before.mtu != found.mtu:
        change = link.set_link(found.index, mtu=before.mtu)
        batch.append(replace(change, action=f"set mtu {before.mtu} of {label}"))
    flags = (before.is_promiscuous, before.is_allmulti)
    if before.is_known and flags != (found.is_promiscuous, found.is_allmulti):
        change = link.set_link(found.index, is_promiscuous=flags[0], is_allmulti=flags[1])
        batch.append(replace(change, action=f"set flags of {label}"))
    return batch


def _differs(found: Link, before: Before) -> bool:
    return (found.name, found.mac, found.mtu) != (before.name, before.mac, before.mtu)


def _rename(found: Link, name: str, host: Socket) -> None:
    if found.name == name:
        return
    change = replace(link.set_link(found.index, name=name), action=f"rename {found.name} to {name}")
    try:
        host.request([change])
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        LOG.warning("VF link %s is back as %s: the node has another link of its name", name, found.name)
