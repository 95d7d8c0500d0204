"""
The one table of what is meant to be different from the reference.

An entry is a pattern, searched in lines like `bridge-plain 1.0.0: 0.ADD.answer.dns: {} -> '(absent)'`.
A difference that no entry knows fails the test of its scenario; an entry that no scenario needs
any more fails the run.
"""

import re
from dataclasses import dataclass, field

from tests.netns.features import VLAN_FILTERING


@dataclass(frozen=True)
class Difference:
    """What differs, for which plugin ("" for all), why that is meant, and what its scenarios need."""

    pattern: str
    plugin: str
    reason: str
    needs: str = ""
    until: str = ""
    """The first reference that does the same as we."""

    def knows(self, plugin: str, line: str) -> bool:
        """Is this line such a difference?"""
        return self.plugin in ("", plugin) and re.search(self.pattern, line) is not None


GONE = r"'\(absent\)'"

INTENDED: tuple[Difference, ...] = (
    # Errors.
    Difference(rf"-failed\.answer\.cniVersion: {GONE} -> ", "", "the specification wants it in an error"),
    Difference(r"-failed\.answer\.(msg|details): ", "", "other words; what both must say is in the scenario"),
    # What a failing ADD leaves.
    Difference(
        r"\.ADD-failed\.(node\.links\.(br0|veth#\d)|pod\.links\.(eth\d|net1|veth#\?))"
        rf"\.is: 'there' -> {GONE}$",
        "",
        "a failing ADD leaves no link",
    ),
    Difference(
        rf"^call-own-netns .*\.ADD-failed\.node\.links\.eth0\.is: 'there' -> {GONE}$",
        "bridge",
        "the same in a pod that is the node",
    ),
    Difference(r"-failed\.node\.links\.br0\.address: 'MAC.*' -> '00:", "bridge", "so the bridge has no port"),
    Difference(
        rf"\.ADD-failed(-here)?\.files\.ipam\S*: \S+.* -> {GONE}$", "", "a failing first ADD leaves no file"
    ),
    Difference(
        rf"\.DEL(-failed)?\.files\.ipam(/net(/lock|/last_reserved_ip\.\d)?)?: \S+.* -> {GONE}$",
        "",
        "and a DEL after it, or before any, makes none",
    ),
    Difference(
        rf"^host-device-del-(netns-gone|without-netns-first) .*\.files\.ipam/net/10\.1\.0\.2: .* -> {GONE}$",
        "host-device",
        "the address is released, wherever the namespace is",
    ),
    Difference(
        rf"-(interface-exists|netns-gone|in-use) .*(-failed|1\.DEL)\.files\.ipam\S*: {GONE} -> ",
        "",
        "we have the addresses before anything is made; they are given back",
    ),
    Difference(
        r"^(bridge-(bad-mac|interface-exists|masquerade-unknown-backend|mtu-negative)|"
        r"static-(args-no-prefix|bad-args-gateway|bad-gateway|ips-no-prefix|no-address|no-prefix|"
        r"runtime-no-prefix|two-of-a-family-in-0\.2\.0)|"
        r"host-local-(bad-request|empty-set|end-outside|gateway-outside|host-bits|mixed-families|no-network|"
        r"no-ranges|overlap-in-a-set|overlapping-sets|start-after-(end|the-last)|start-outside|too-small)) "
        rf".*\.DEL(-failed)?\.node\.links\.br0\.is: 'there' -> {GONE}$",
        "bridge",
        "an ADD that was refused made no bridge, either",
    ),
    # Links.
    Difference(r"\.num_[rt]x_queues: \d+ -> 1$", "", "one queue a veth: made four times as fast"),
    Difference(
        rf"\.links\.veth#\d\.txqlen: {GONE} -> 1000$",
        "",
        "the kernel's own length; with 0 whatever is queued there later has room for one packet",
    ),
    Difference(r"/arp_notify: '1' -> '0'$", "", "we announce the addresses, not the kernel"),
    Difference(r"/ndisc_notify: '1' -> '0'$", "macvlan", "we announce the addresses, not the kernel"),
    Difference(
        r"/ndisc_notify: '1' -> '0'$", "ipvlan", "we announce the addresses, not the kernel", "ipvlan"
    ),
    Difference(r"/accept_dad: '0' -> '1'$", "", "told by address, not for those that come later"),
    Difference(
        rf'\.addresses\.\S+ fd\S+ {{"nodad": true, "scope": "global"}}: {GONE} -> True$',
        "",
        "an IPAM's address is nobody else's: it works at once",
    ),
    Difference(
        rf'\.addresses\.\S+ fd\S+ {{"scope": "global"}}: True -> {GONE}$', "", "the other half of the same"
    ),
    Difference(
        r"\.node\.sysctls\.ipv6/conf/br0/accept_ra: '0' -> '1'$",
        "bridge",
        "a bridge that was there before keeps what the node may need",
    ),
    Difference(
        r"\.DEL\.node\.links\.br0\.address: '00:.*' -> 'MAC",
        "bridge",
        "a bridge keeps its MAC that never had a port, or is a gateway",
    ),
    Difference(
        r'^bridge-route-mtu-and-advmss .*"metrics": \[{"advmss": 1200, "mtu": 1300}\]',
        "bridge",
        "mtu and advmss of a route are set",
    ),
    Difference(
        rf"^bridge-route-mtu-and-advmss .*\.routes\.10\.9\.0\.0/16 .*: True -> {GONE}$",
        "bridge",
        "the other half of the same",
    ),
    Difference(
        r'^macvlan-route-on-the-link .*\.routes\.10\.[89]\.0\.0/16 dev eth0 .*"scope": "(global|link)"',
        "macvlan",
        "a network on the link is of scope link, so that a route may have its gateway there",
    ),
    # tuning.
    Difference(
        rf"^tuning-del-(netns-gone|after-the-link-went) .*\.files\.tuning/c1_eth0\.json: .* -> {GONE}$",
        "tuning",
        "no file is left when the link or the pod went first",
    ),
    Difference(
        rf"^tuning-(mtu-too-big|bad-mac) .*\.files\.tuning(/c1_eth0\.json)?: .* -> {GONE}$",
        "tuning",
        "a failing ADD leaves no file, and one that is wrong in itself not even the directory",
    ),
    Difference(
        r"\.files\.tuning: '40600 ' -> '40700 '$",
        "tuning",
        "a directory that cannot be entered but by who may do everything helps nobody",
    ),
    Difference(
        r"\.files\.tuning/c1_eth0\.json: .* -> .*\"network\": \"net\"",
        "tuning",
        "the file says whose it is, so that a GC leaves other networks' alone",
    ),
    # host-device.
    Difference(
        rf"^host-device-static-with-dns .*\.answer\.dns\.nameservers\[0\]: {GONE}",
        "host-device",
        "DNS of the IPAM is kept",
    ),
    Difference(
        rf"^host-device-(ipam-fails|unreachable-gateway) .*\.links\.(sw|up)0\."
        rf"(is: {GONE} -> 'there'|flags: '' -> 'UP')$",
        "host-device",
        "a device that cannot be set up is on the node again, up as it was",
    ),
    Difference(
        r"^host-device-(del-twice|del-netns-gone|name-taken-meanwhile) .*\.DEL-failed-there\.",
        "host-device",
        "DEL brings back what there is, under another name where its own is taken; gone is success",
    ),
    Difference(
        r"^host-device-network-\S+ .*\.pod\.sysctls\.ipv6/conf/eth0/keep_addr_on_down: '0' -> '1'$",
        "host-device",
        "IPv6 addresses outlive a link that goes down, as those of an IPAM do",
    ),
    Difference(
        r"^host-device-network-\S+ .*\.pod\.rules\.{[^}]*}: 'unspec' -> '1(09|10)'$",
        "host-device",
        "a protocol says whose rule it is",
    ),
    Difference(
        rf"^host-device-network-\S+ .*\.DEL\.pod\.rules\.{{[^}}]*}}: 'unspec' -> {GONE}$",
        "host-device",
        "so no rule is left in the pod",
    ),
    Difference(
        r"^host-device-network-(interface-exists|unreachable-gateway) .*\.node\."
        rf"(links\.up0\.is: {GONE} -> 'there'|links\.up0\.flags: '' -> 'UP'|"
        rf"addresses\.up0 .*: {GONE} -> True|routes\..* dev up0 .*: {GONE} -> True)$",
        "host-device",
        "and so is its network, which no DEL of a device that never came away takes",
    ),
    Difference(
        r"^host-device-network-(several-addresses|check-of-a-table|steered) .*CHECK-failed-there",
        "host-device",
        "an address needs no gateway, and the route's table is looked into",
    ),
    Difference(
        r"^host-device-network-(ipv6-off-in-the-pod|peer|way-to-the-gateway) .*ADD-failed-there",
        "host-device",
        "IPv6 is turned on, an address keeps its peer, the way to a gateway comes before the routes by it",
    ),
    # loopback.
    Difference(
        r"^loopback-(plain|down) 0\.[1-4]\.\d: 0\.ADD\.answer\.(ips?[46]?|interfaces)[.\[]",
        "loopback",
        "the reference prints the form of 1.0.0 in every version",
    ),
    Difference(
        r"^loopback-other-address .*\.ADD-failed\.pod\.(links\.lo\.flags|addresses\.lo ::1/128)",
        "loopback",
        "a failing ADD takes it down again",
    ),
    # route-override.
    Difference(
        rf"\.answer\.ips\[\d\]\.gateway: '(0\.0\.0\.0|::)' -> {GONE}$",
        "route-override",
        "no gateway is told as none, not as the address that is none",
    ),
    Difference(
        rf"^route-override-delroutes-default .*\.routes\.default dev eth0 .*: True -> {GONE}$",
        "route-override",
        "a default route is deleted like any other; the reference deletes it from the result alone",
    ),
    Difference(
        rf"^route-override-delroutes-of-the-kernel .*\.routes\.10\.1\.0\.0/24 dev eth0 .*: True -> {GONE}$",
        "route-override",
        "what is to be deleted is deleted, told by the result or not",
    ),
    Difference(
        r"^route-override-addroutes-on-the-link .*(\.routes\[\d\]\.scope: '\(absent\)' -> 253$|"
        r"\.routes\.10\.50\.0\.0/16 dev eth0 )",
        "route-override",
        "a route on the link says so; in a result without a gateway it would mean another's",
    ),
    Difference(
        r"^route-override-addroutes-unreachable .*\.ADD-failed-here\.",
        "route-override",
        "what cannot be set up is an error; the reference tells a route that is not there",
    ),
    # tap.
    Difference(
        r"^tap-.*\.data\.(vnet_hdr: False -> True|pi: True -> False)$",
        "tap",
        "who opens the device says it (TUNSETIFF); the reference does it one way by ip, another by netlink",
    ),
    Difference(
        r"^tap-mac-with-owner-and-group .*'MAC in the pod' -> '02:00:5e:00:53:01'$",
        "tap",
        "the key works with owner and group, too",
    ),
    Difference(rf"^tap-ipam-dns .*\.answer\.dns\.nameservers\[0\]: {GONE}", "tap", "DNS of the IPAM is kept"),
    Difference(
        rf"^tap-bad-mac .*\.DEL\.pod\.links\.veth#\?\.is: 'there' -> {GONE}$",
        "tap",
        "the reference leaves the device under its temporary name",
    ),
    Difference(
        r"^bridge-vlan-trunk-has-the-native .*\.vlans\.veth#0 100: 'in it' -> 'in it PVID Egress Untagged'$",
        "bridge",
        "a VLAN that is asked for as untagged stays so, whatever the trunk has",
        VLAN_FILTERING,
    ),
    # Results.
    Difference(
        rf"\.answer\.(ip[46]\.)?routes\[\d+\]\.gw: {GONE} -> ", "", "the next hop that was set is told"
    ),
    Difference(rf"\.answer\.dns: {{}} -> {GONE}$", "", "empty DNS says nothing"),
    Difference(
        rf"^macvlan-ipam-dns .*\.answer\.dns\.nameservers\[0\]: {GONE}", "macvlan", "DNS of the IPAM is kept"
    ),
    Difference(
        r"^bridge-key-mac .*'MAC in the pod' -> '02:00:", "bridge", "the key works here as in macvlan"
    ),
    Difference(
        r"\.node\.sysctls\.ipv6/conf/veth#\d/accept_dad: '1' -> '0'$",
        "ptp",
        "the node's end is alone on its link, and usable at once",
    ),
    # Masquerade and MAC check.
    Difference(
        rf"\.iptables\.ip6?tables nat / CNI-\w+ \[2\]: {GONE} -> '-s \S+ -m comment --comment \"if: eth0\"'$",
        "",
        "each address tells its interface, so that two of a pod in one network keep each other's rules",
    ),
    Difference(
        rf"\.nftables\.table ip6? nat / chain CNI-\w+ \[2\]: {GONE} -> 'ip6? saddr \S+  counter'$",
        "",
        "the same as nft tells it",
    ),
    Difference(
        rf"\.DEL\.node\.nftables\.table ip6? nat is: 'there' -> {GONE}$",
        "",
        "a DEL makes no table of iptables to look for a rule in it",
    ),
    Difference(
        rf"^(bridge|ptp)-\S*del-(netns-gone|after-the-link-went) .*\.DEL\.node\.(ip|nf)tables\..*-> {GONE}$",
        "",
        "no rule is left when the link went first",
    ),
    Difference(
        rf"\.nftables\.table bridge nat / chain \S+-mac \[2\]: {GONE} -> 'return comment \"\w+, net: net\"'$",
        "bridge",
        "a rule that no frame comes to tells the network, for a GC",
    ),
    # Policy rules.
    Difference(r"\.pod\.rules\.{[^}]*}: 'unspec' -> '109'$", "sbr", "a protocol says whose rule it is"),
    Difference(
        r"\.pod\.sysctls\.ipv6/conf/\w+/accept_dad: '0' -> '1'$",
        "sbr",
        "the interface is the bridge plugin's",
    ),
    Difference(
        r"^sbr-(dual-stack|tables-in-use|gateways|source-hints) .*"
        rf"\.routes\.fd00:1::/64 dev eth0 table 10[01] .*: True -> {GONE}$",
        "sbr",
        "the table of an IPv4 address has no IPv6 routes",
    ),
    Difference(
        r"^sbr-source-hints .*\.routes\.(10\.1\.0\.0/24|fd00:1::/64) dev eth0 table main "
        r'.*"prefsrc": "(10\.1\.0\.2|fd00:1::2)", "protocol": "(boot|kernel)"',
        "sbr",
        "the hint is put into the kernel's own route, which stays the kernel's",
    ),
    Difference(
        r"^macvlan-unreachable-gateway .*\.node\.links\.up0\.promiscuity: 1 -> 0$",
        "macvlan",
        "as no macvlan is left on it",
    ),
    Difference(
        rf"^sbr-gateway-outside .*\.routes\.10\.9\.0\.0/16 dev eth0 table 100 .*: {GONE} -> True$",
        "sbr",
        "what left the main table is in that of an address",
    ),
    Difference(
        r'^sbr-table-of-others-routes .*\.pod\.(routes|rules)\..*table"?:? "?10[01]',
        "sbr",
        "a table that has routes is not free",
    ),
    Difference(
        rf"^sbr-unreachable-gateway .*\.ADD-failed\.pod\.rules\..*: 'unspec' -> {GONE}$",
        "sbr",
        "a failing ADD leaves no rule",
    ),
    Difference(
        rf"^sbr-(del-after-\S+-went|check-without-link) .*\.DEL\.pod\.rules\..*: 'unspec' -> {GONE}$",
        "sbr",
        "no rule is left when link or address went first",
    ),
    Difference(r"^sbr-bad-table .*DEL-failed-there", "sbr", "what is wrong is left out, the rest removed"),
    Difference(
        rf"^sbr-table-has-the-rule .*\.DEL\.pod\.rules\..*: {GONE} -> 'unspec'$",
        "sbr",
        "it is somebody else's",
    ),
    Difference(r"^sbr-check-without-\w+ .*CHECK-failed-here", "sbr", "CHECK looks"),
    Difference(
        r"^sbr-del-(netns-gone|without-netns) .*DEL-failed-there", "sbr", "a netns that is gone has no rules"
    ),
    Difference(
        r"^sbr-chain-check .*CHECK-failed-there",
        "sbr",
        "routes that steering took from the main table are looked for where they are",
    ),
    # GC and STATUS.
    Difference(
        r"^(bond|bridge|dummy|host-device|ipvlan|macvlan|ptp|tap|vlan)-gc .*"
        rf"\.GC\.files\.ipam/net/10\.1\.0\.2: .* -> {GONE}$",
        "",
        "a GC reaches the IPAM; the reference's main plugins hand it to none",
    ),
    Difference(
        rf"^(bridge|ptp)-gc-masquerade .*\.GC\.(files\.ipam/net/10\.|node\.(ip|nf)tables\.).* -> {GONE}$",
        "",
        "and no rule is left of a pod that is gone",
    ),
    Difference(
        rf"^tuning-gc .*\.(GC|DEL)\.files\.tuning/c1_eth0\.json: .* -> {GONE}$",
        "tuning",
        "nor the file of its link",
    ),
    Difference(
        rf"^host-local-gc-no-directory .*\.GC\.files\.ipam\S*: .* -> {GONE}$",
        "bridge",
        "where there is nothing to release, nothing is made",
    ),
    Difference(
        rf"^host-local-gc-other-files .*\.GC\.files\.ipam/net/note: {GONE} -> ",
        "bridge",
        "what is no address is somebody else's; the reference removes it",
    ),
    Difference(
        r"^host-local-gc-without-list .*\.GC-failed-here\.",
        "bridge",
        "no list is not an empty one: the reference gives every address in use to the next pod",
    ),
    Difference(
        rf"^host-local-gc-older-key .*\.GC\.files\.ipam/net/10\.1\.0\.2: {GONE} -> ",
        "bridge",
        "the list's older name counts where the new one is not there",
    ),
    Difference(
        r"^host-local-status-(full|bad-range) .*\.STATUS-failed-here\.",
        "bridge",
        "STATUS says that no address can be had; the reference's does not look",
    ),
    Difference(
        r"^macvlan-status-without-master .*\.STATUS-failed-here\.",
        "macvlan",
        "nor does it look for the master",
    ),
    Difference(
        r"^route-override-(gc|status) .*\.(GC|STATUS)-failed-there\.",
        "route-override",
        "the reference has neither verb",
    ),
    # Files.
    Difference(
        r"\.files\.ipam/net/[^/]+: \"100600 (b'.*')\" -> \"100644 \1\"$",
        "",
        "readable, as the reference's were",
    ),
    Difference(
        r"^macvlan-second-passthru .*/last_reserved_ip\.0: .*10\.1\.0\.2.* -> .*10\.1\.0\.3",
        "macvlan",
        "we have the addresses before anything is made; the next ADD goes on behind them",
    ),
    # Where one fails and the other does not.
    Difference(
        r"^(bridge|ptp)-mtu-negative .*ADD-failed-here", "", "the reference takes less than 0 for the default"
    ),
    Difference(
        r"^bridge-default-gateway-beside-a-route .*ADD-failed-there|"
        r"^bridge-default-gateway-beside-a-route .*DEL\.node\.(addresses|sysctls|routes)",
        "bridge",
        "a default route without a gateway is one, too; the reference adds another and fails",
    ),
    Difference(
        r"^bridge-bad-mtu-type .*DEL-failed-there",
        "bridge",
        "what is wrong is left out, the rest removed",
    ),
    Difference(
        r"^ptp-(no-gateway|interface-exists|\w+-unknown-backend|mtu-negative) "
        r".*\.sysctls\.ipv4/.*forward\w*: '1' -> '0'$",
        "ptp",
        "nothing is touched for a configuration that is wrong",
    ),
    Difference(
        r"^ptp-(host-address|two-of-a-network) .*ADD-failed-there",
        "ptp",
        "an address needs no network of its own; two may share a gateway",
    ),
    Difference(
        r"^ptp-address-routed-elsewhere .*ADD-failed-here",
        "ptp",
        "the reference's pod cannot be reached: its address is routed to another link",
    ),
    Difference(
        r"^(bridge|ptp)-check-without-(node-route|masquerade|mac-check) .*CHECK-failed-here",
        "",
        "CHECK looks at the node's side, too",
    ),
    Difference(
        r"^bridge-vlan-on-a-bridge-that-does-not-filter .*ADD-failed-here|"
        r"^bridge-vlan-on-a-bridge-that-does-not-filter .*\.links\.br0\.flags: 'UP' -> ''$",
        "bridge",
        "VLANs without effect connect pods that are to be apart",
        VLAN_FILTERING,
    ),
    Difference(
        r"^bridge-vlan-taken-away .*CHECK-failed-here",
        "bridge",
        "the reference looks at no VLAN of the port",
        VLAN_FILTERING,
    ),
    Difference(r"^static-nothing .*ADD-failed-there", "bridge", "no address is layer 2, as without IPAM"),
    Difference(r"^bridge-layer-2-check .*CHECK-failed-there", "bridge", "CHECK without IPAM", until="1.10.0"),
    Difference(
        r"^host-local-gateway-outside .*DEL-failed-there",
        "bridge",
        "an older reference allowed it, and what it gave is to be given back",
    ),
    Difference(
        r"^tuning-sysctl-by-args-alone .*ADD-failed-there", "tuning", "the reference crashes, we set it"
    ),
    Difference(
        r"^host-device-(alias-gone|went-meanwhile) .*DEL-failed-there",
        "host-device",
        "DEL releases what there is to be released",
    ),
    Difference(
        r"^bridge-route-table-and-metric .*CHECK-failed-there", "bridge", "the route's table is looked into"
    ),
    # ipvlan, vlan, dummy, vrf, bond: on the guest's kernel.
    Difference(
        r"^ipvlan-mtu-above-master .*(ADD-failed-here|\.DEL\.)",
        "ipvlan",
        "what is longer would be lost",
        "ipvlan",
    ),
    Difference(
        r"^ipvlan-prevresult .*CHECK-failed-there", "ipvlan", "CHECK does without the master's name", "ipvlan"
    ),
    Difference(r"^ipvlan-layer-2 .*-failed-there", "ipvlan", "layer 2 needs no addresses", "ipvlan"),
    Difference(r"^ipvlan-no-default-route .*DEL-failed-there", "ipvlan", "a DEL needs no master", "ipvlan"),
    Difference(
        r"^vlan-(master-gone|in-container-netns-gone) .*DEL-failed-there",
        "vlan",
        "a DEL needs no master",
        "vlan",
    ),
    Difference(
        r"^vrf-table-in-use .*\.ADD\.pod\.(links\.blue\.data\.table: |routes\..* table [12] )",
        "vrf",
        "a table that has somebody's routes is not free",
        "vrf",
    ),
    Difference(
        r"^bond-(no-ipam-)?of-the-node .*\.links\.m[12]\.(ifalias|flags): ",
        "bond",
        "a member's alias says meanwhile how it was, so that it is so again; the reference leaves it down",
        "bond",
    ),
    Difference(
        r"^bond-del-after-the-bond-went .*\.DEL\.pod\.links\.m[12]\.flags: '' -> 'UP'$",
        "bond",
        "members are up again, whoever took the bond away",
        "bond",
    ),
    Difference(
        rf"^bond-interface-exists .*\.DEL\.pod\.links\.(eth0|sw3)\.is: {GONE} -> 'there'$",
        "bond",
        "what has the bond's name and is none is somebody else's",
        "bond",
    ),
    Difference(
        r"^bond-one-mac-of-two .*\.DEL\.pod\.links\.m2\.address: 'MAC in the pod' -> '02:00:5e:00:53:01'$",
        "bond",
        "a member gets its own MAC back, though another one has the same",
        "bond",
    ),
    Difference(
        r"^bond-monitor .*\.data\.miimon: 0 -> 100$",
        "bond",
        "a mode that needs to know its members' carriers gets the kernel's default for 0",
        "bond",
    ),
    Difference(r"^bond-check-without-member .*CHECK-failed-here", "bond", "CHECK looks", "bond"),
    Difference(
        r"^bond-unreachable-gateway .*ADD-failed\.pod\.links\.m[12]\.(master|address|port\.state): ",
        "bond",
        "a failing ADD leaves nothing",
        "bond",
    ),
    Difference(
        r"^bond-netns-gone .*DEL-failed-there", "bond", "a namespace that is gone has no bond", "bond"
    ),
)


@dataclass
class Applied:
    """Which entries some scenario needed, and which scenarios have been run."""

    entries: set[Difference] = field(default_factory=set)
    scenarios: set[tuple[str, str]] = field(default_factory=set)

    def unlisted(self, plugin: str, lines: list[str]) -> list[str]:
        """The lines that no entry knows."""
        left = []
        for line in lines:
            known = [each for each in INTENDED if each.knows(plugin, line)]
            self.entries.update(known)
            if not known:
                left.append(line)
        return left
