"""The one table of what is meant to be different from Multus; README tells the same to users."""

import re
from dataclasses import dataclass

GONE = r"'\(absent\)'"


@dataclass(frozen=True)
class Difference:
    """A pattern, searched in `row: line`, and why that is meant."""

    pattern: str
    reason: str


def rows(*names: str) -> str:
    """The beginning of a pattern for these rows alone."""
    return rf"^({'|'.join(re.escape(each) for each in names)}): "


INTENDED: tuple[Difference, ...] = (
    # Errors.
    Difference(
        r"\.answer\.code: 999 -> \d+$", "the code says what kind of error it is, and whether later is better"
    ),
    Difference(
        rows(
            "an object instead of a list",
            "too many slashes",
            "too many at signs",
            "a name with capitals",
            "an interface's name that is too long",
            "a bad mac",
            "a bad address",
            "two default-routes",
            "JSON that is none",
            "a network that is not there",
            "the second of three is not there",
            "a file of another name",
            "no file",
            "a configuration that is no JSON",
            "a configuration without a type",
            "two default networks",
            "a default network that is not there",
            "namespaceIsolation",
            "globalNamespaces without default",
            "another UID",
            "an interface's name that is taken",
            "a plugin that is not there",
            "a namespace that is not there",
            "a plugin that fails",
            "a plugin that crashes",
            "a plugin that asks to try again",
            "DEL twice",
            "DEL that was never added",
        )
        + r"\d\.(ADD|CHECK|DEL)\.calls\.order: '[^']*' -> ''$",
        "nothing is touched when anything is wrong; what was never attached, or undone, is not detached",
    ),
    Difference(r"\.node\.cbr0: 'bridge' -> '\(absent\)'$", "nor is a bridge made for it"),
    Difference(
        rows(
            "another UID",
            "two default-routes",
            "a plugin that is not there",
            "an interface's name that is taken",
            "a delegate that fails",
            "clusterNetwork that is not there",
            "an auxiliary chain without a path",
            "a kubeconfig that is not there",
        )
        + r"\d\.CHECK\.exit: 0 -> 1",
        "what is not attached is not as ADD left it",
    ),
    Difference(
        rows("no delegates", "delegates of another name", "a plugin that is not there", "bad JSON")
        + r"\d\.DEL\.exit: 1 -> 0",
        "a DEL of what is not attached succeeds, whatever the configuration",
    ),
    Difference(rows("plugins: []") + r"0\.ADD\.exit: 2 -> 1", "Multus crashes"),
    Difference(
        rows("two of one interface's name") + r"0\.ADD\.exit: 0 -> 1",
        "two interfaces of one name cannot be; the recording plugin makes none, so Multus does not see it",
    ),
    Difference(
        rows("ports that no plugin declares") + r"0\.ADD\.exit: 0 -> 1",
        "README: what no plugin declares a capability for",
    ),
    Difference(
        rows("deviceID of a selection") + r"0\.ADD\.exit: 0 -> 1",
        "README: a deviceID that nobody handed out is a device of the node",
    ),
    Difference(rows("no device left") + r"0\.ADD\.exit: 0 -> 1", "README: no device of a resourceName left"),
    Difference(
        rows("namespaceIsolation and a default network of another namespace") + r"0\.ADD\.exit: 0 -> 1",
        "README: namespaceIsolation counts for the default-network annotation, too",
    ),
    Difference(rows("ADD of a pod that is not there") + r"0\.ADD\.exit: 0 -> 1", "README: pod not found"),
    Difference(rows("a bad file beside") + r"0\.ADD\.exit: 1 -> 0", "README: a bad file in confDir"),
    Difference(
        rows("a delegate without a name") + r"0\.ADD\.exit: 1 -> 0", "it has the name of the configuration"
    ),
    Difference(
        rows("more CNI_ARGS") + r"0\.ADD\.exit: 1 -> 0", "arguments that we need not know are handed on"
    ),
    # CHECK.
    Difference(
        r"\.CHECK\.calls\.order: '(?P<theirs>[^']*)' -> '(?P=theirs)(, )?CHECK ",
        "README: CHECK looks at what ADD attached; Multus at the delegates of its configuration alone",
    ),
    Difference(
        rows("a default-network annotation") + r"\d\.CHECK\.calls\.",
        "README: and not at what is attached instead",
    ),
    Difference(
        rows(
            "a default-network annotation with a namespace",
            "the default network asked for an address",
            "a device of the default network",
        )
        + r"\d\.CHECK\.exit: 1 -> 0",
        "Multus looks for the network that the annotation replaced",
    ),
    Difference(
        rows("an auxiliary chain of tuning") + r"1\.CHECK\.exit: 0 -> 1",
        "README: it looks at that chain, too; the reference's tuning asks for an interface of it",
    ),
    # DEL.
    Difference(
        rows("an auxiliary chain of tuning") + r"2\.DEL\.exit: 1 -> 0",
        "README: keys of a list that Multus does not know get lost on their way to a DEL: its bridge fails",
    ),
    Difference(
        rf"\.DEL\.calls\.DEL .*\.variables\.CNI_ARGS\.(IP|MAC): {GONE} -> ",
        "README: DEL gives plugins what ADD gave them",
    ),
    Difference(
        rf"\.DEL\.calls\.DEL .*\.stdin\.runtimeConfig\.(portMappings|bandwidth)\S*: {GONE} -> ",
        "README: DEL gives plugins what ADD gave them",
    ),
    Difference(
        rf"\.(DEL|STATUS)\.calls\..*\.stdin\.(answer\S*: {GONE} -> |ipam: {{}} -> {GONE}$)",
        "README: keys of a list that Multus does not know get lost on their way to DEL and STATUS",
    ),
    Difference(
        rows("DEL after its namespace went") + rf".*\.variables\.CNI_NETNS: '/run/netns/pod' -> {GONE}$",
        "a path may be somebody else's by now; the specification wants none then",
    ),
    Difference(
        rows("DEL that fails", "DEL that fails, with retryDeleteOnError") + r"2\.DEL\.calls\.order: ",
        "README: what could be undone is not undone again",
    ),
    # Default routes.
    Difference(
        rows(
            "default-route1",
            "default-route of the guide",
            "an empty default-route",
            "default-routes of both families",
        )
        + r"\d\.\w+\.(answer\.routes|status\[\d\]\.gateway|pod\.routes\.default )",
        "README: the default route is where it was asked for, and told so; Multus leaves the old one",
    ),
    Difference(
        rows(
            "ips and mac of the example",
            "a default route that nobody asked for",
            "a default route in a result",
        )
        + r"\d\.\w+\.(status\[1\]\.gateway\[0\]|pod\.routes\.default dev net1 .*|.*\.prevResult\.routes.*): "
        rf".* -> {GONE}$",
        "README: a default route that nobody asked for",
    ),
    # What plugins get.
    Difference(rf"\.stdin\.prevResult\.dns: {{}} -> {GONE}$", "empty DNS says nothing"),
    Difference(rf"\.runtimeConfig\.bandwidth\.\w+: 0 -> {GONE}$", "no limit is not a limit of 0"),
    Difference(rf"\.portMappings\[0\]\.protocol: {GONE} -> 'tcp'$", "the standard's default"),
    Difference(
        rows("runtimeConfig of the pod")
        + rf".*(ADD|DEL) net1 record\.stdin\.runtimeConfig\.portMappings.* -> {GONE}$",
        "README: the pod's runtimeConfig",
    ),
    Difference(
        rows("runtimeConfig that Multus does not know")
        + rf".*\.stdin\.runtimeConfig\.(dns|cgroupPath)\S*: {GONE} -> ",
        "README: every capability that the runtime sends is handed on",
    ),
    Difference(
        rf"\.stdin\.runtimeConfig\.CNIDeviceInfoFile: {GONE} -> ",
        "README: CNIDeviceInfoFile wherever it is declared",
    ),
    Difference(
        rows("a network without cniVersion", "a list without cniVersion")
        + r"\d\.\w+\.calls\..*\.stdin\.(cniVersion|prevResult\.cniVersion): ",
        "no cniVersion is 0.1.0, as the specification says",
    ),
    Difference(
        rows("keys of nobody's, and numbers") + r".*\.stdin\.big: 9007199254740992 -> 9007199254740993$",
        "numbers stay as they are",
    ),
    Difference(
        rows("an auxiliary chain", "an auxiliary chain of tuning") + r"\d\.\w+\.calls\.order: ",
        "a plugin that does nothing need not be executed",
    ),
    # What is told.
    Difference(
        rows(
            "an older cniVersion",
            "a newer cniVersion",
        )
        + r"0\.ADD\.answer\.(cniVersion|ips\[0\]\.version): ",
        "README: the result is of the version that the configuration is of",
    ),
    Difference(
        rf"\.status\[\d\]\.(name|dns|ips\[0\]|default): {GONE} -> ",
        "README: a network whose plugins tell no interface has an entry, too",
    ),
    Difference(
        rows("prevResult") + r"",
        "README: behind other plugins, theirs is the default network",
    ),
    Difference(
        rows("GC")
        + r"1\.GC\.calls\.(order: 'GC  record' -> 'GC  record, GC  record'$|.*attachments\[\d\]\.)",
        "README: GC of every network, each by its own list",
    ),
)


def unlisted(name: str, lines: list[str], needed: set[Difference]) -> list[str]:
    """The lines that no entry knows."""
    left = []
    for line in lines:
        known = [each for each in INTENDED if re.search(each.pattern, f"{name}: {line}")]
        needed.update(known)
        if not known:
            left.append(line)
    return left
