"""
The command line: what would be done, what is wrong, what is attached; attach and detach by hand.

    meta-cni plan POD.yaml             step by step, without touching anything
    meta-cni plan POD -n NAMESPACE     the same for a pod of a cluster
    meta-cni validate FILE...          every mistake in NADs, pods and our configuration
    meta-cni validate --live           in those of a cluster
    meta-cni attach NETNS --pod FILE   as a container runtime would
    meta-cni detach NETNS
    meta-cni attachments [-o json|svg]
    meta-cni attachments --all-nodes   of a cluster, as the pods' network-status has them
    meta-cni install [--name multus]   the shim into the runtime's plugin directory
    meta-cni install --plugins DIR     the built-in delegates as plugins for any runtime
    meta-cni daemon [--conf-dir DIR]   serve the calls that shims hand on; generate our configuration
    meta-cni uninstall                 the node as it was before
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

CONFIG_DIRECTORY = "/etc/cni/net.d"
SOCKET = "/run/meta-cni/meta-cni.sock"
SPOOL = "/var/lib/meta-cni/spool"
INSTALLED = "/var/lib/meta-cni/installed"
HTTP = "127.0.0.1:9464"
PLUGIN_PATH = "/opt/cni/bin:/usr/lib/cni"


def command_line(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code (1 when something is wrong)."""
    return _run(_parser(), arguments)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 2
    from meta_cni.cni.errors import CNIError  # noqa: PLC0415 - not needed for --help

    try:
        code: int = parsed.run(parsed)
    except CNIError as error:
        print(f"meta-cni: {error.message}", file=sys.stderr)
        if error.details:
            print(error.details, file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meta-cni", description="Meta CNI plugin: several networks for one pod."
    )
    commands = parser.add_subparsers(title="commands")
    plan = _add_plan(commands)
    _add_validate(commands)
    attach = _command(commands, "attach", _attach, "attach a network namespace as a container runtime would")
    attach.add_argument("netns", metavar="NETNS", help="path, or name under /run/netns")
    attach.add_argument("--pod", metavar="POD.yaml", required=True)
    detach = _command(commands, "detach", _detach, "undo attach")
    detach.add_argument("netns", metavar="NETNS")
    attachments = _add_attachments(commands, "attachments", ("table", "json", "svg"))
    attachments.add_argument("--all-nodes", dest="is_live", action="store_true", help="of a cluster's pods")
    install = _command(commands, "install", _install, "the shim, or the plugins, for a container runtime")
    install.add_argument("--plugins", metavar="DIR", help="the built-in delegates there, as meta-bridge ...")
    install.add_argument("--name", metavar="NAME", action="append", help="of the shim; default: meta-cni")
    install.add_argument("--shim", metavar="FILE", help="shim.c compiled; else it is compiled here")
    uninstall = _command(commands, "uninstall", _uninstall, "the node as it was before install and daemon")
    uninstall.add_argument("--config", metavar="FILE", help="the daemon's; it says where things are")
    uninstall.add_argument("--conf-dir", metavar="DIR", help=f"default: {CONFIG_DIRECTORY}")
    uninstall.add_argument("--cni-dir", metavar="DIR", help="of the ledger; default: /var/lib/cni/multus")
    uninstall.add_argument("--socket", metavar="PATH", default=SOCKET, help="default: %(default)s")
    for command in (install, uninstall):
        command.add_argument("--bin-dir", metavar="DIR", help="the runtime's plugins; default: /opt/cni/bin")
        command.add_argument("--state", metavar="DIR", default=INSTALLED, help="default: %(default)s")
        command.add_argument("--spool", metavar="DIR", default=SPOOL, help="default: %(default)s")
    _add_daemon(commands)
    for command in (plan, attach, detach, attachments):
        command.add_argument(
            "--config", metavar="FILE", help=f"our configuration; else the first in {CONFIG_DIRECTORY}"
        )
    return parser


def kubectl_plugin(arguments: Sequence[str]) -> int:
    """`kubectl netattach`: what the command line does on a cluster, under the names of kubectl."""
    parser = argparse.ArgumentParser(prog="kubectl netattach", description="The networks of pods.")
    commands = parser.add_subparsers(title="commands")
    plan = _add_plan(commands)
    plan.add_argument(
        "--config", metavar="FILE", help=f"the nodes' configuration; else the first in {CONFIG_DIRECTORY}"
    )
    plan.set_defaults(is_live=True)
    _add_validate(commands).set_defaults(is_live=True)
    _add_attachments(commands, "list", ("table", "json")).set_defaults(is_live=True)
    return _run(parser, arguments)


def _add_plan(commands: Any) -> argparse.ArgumentParser:
    plan = _command(commands, "plan", _plan, "what would be done for a pod, or for the pods in a file")
    plan.add_argument("pod", metavar="POD", help="a file; with --live, -n or --kubeconfig a pod's name")
    plan.add_argument("-o", "--output", choices=("text", "json"), default="text")
    _add_cluster(plan)
    return plan


def _add_validate(commands: Any) -> argparse.ArgumentParser:
    validate = _command(commands, "validate", _validate, "every mistake in NADs, pods and configurations")
    validate.add_argument("files", metavar="FILE", nargs="*")
    validate.add_argument("-o", "--output", choices=("text", "json"), default="text")
    _add_cluster(validate)
    return validate


def _add_attachments(commands: Any, name: str, outputs: tuple[str, ...]) -> argparse.ArgumentParser:
    attachments = _command(commands, name, _attachments, "what is attached, on this node or on all")
    attachments.add_argument("-o", "--output", choices=outputs, default="table")
    _add_cluster(attachments, has_live=False)
    return attachments


def _add_cluster(command: argparse.ArgumentParser, *, has_live: bool = True) -> None:
    """Which cluster, and which namespace of it."""
    if has_live:
        command.add_argument("--live", dest="is_live", action="store_true", help="what is in a cluster")
    command.add_argument("-n", "--namespace", metavar="NAMESPACE", help="of a cluster")
    command.add_argument(
        "--kubeconfig", metavar="FILE", help="else KUBECONFIG, in a pod its own, ~/.kube/config"
    )


def _is_live(parsed: argparse.Namespace) -> bool:
    return bool(parsed.is_live or parsed.namespace or parsed.kubeconfig)


def _add_daemon(commands: Any) -> None:
    daemon = _command(commands, "daemon", _daemon, "serve the calls that shims hand on, until SIGTERM")
    daemon.add_argument("--socket", metavar="PATH", default=SOCKET, help="default: %(default)s")
    daemon.add_argument("--spool", metavar="DIR", default=SPOOL, help="default: %(default)s")
    daemon.add_argument("--workers", metavar="N", type=_positive, default=4 * (os.cpu_count() or 1))
    daemon.add_argument("--queue", metavar="N", type=_positive, default=1000, help="calls that may wait")
    daemon.add_argument(
        "--http",
        metavar="ADDRESS:PORT",
        default=HTTP,
        help="/metrics, /healthz and /readyz; '' for none; default: %(default)s, for this node alone",
    )
    daemon.add_argument("--log-level", choices=("panic", "error", "verbose", "debug"))
    daemon.add_argument(
        "--config", metavar="FILE", help="what to put into our configuration, as the file of Multus' daemon"
    )
    daemon.add_argument(
        "--conf-dir", metavar="DIR", help=f"generate our configuration here, like {CONFIG_DIRECTORY}"
    )
    daemon.add_argument(
        "--type", metavar="NAME", default="", help="of the shim in our configuration, unless --config says it"
    )
    daemon.add_argument("--remove-configuration-on-stop", action="store_true")


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def _positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _daemon(parsed: argparse.Namespace) -> int:
    from meta_cni import node  # noqa: PLC0415
    from meta_cni.daemon.configuration import open_options  # noqa: PLC0415

    options = open_options(
        parsed.config,
        parsed.conf_dir,
        is_removed_on_stop=parsed.remove_configuration_on_stop,
        plugin_type=parsed.type,
    )
    log_level = parsed.log_level or (options.log_level if options else "") or "verbose"
    wanted = node.Wanted(
        socket=Path(parsed.socket),
        spool=Path(parsed.spool),
        log_level=log_level,
        workers=parsed.workers,
        queue=parsed.queue,
        http=parsed.http,
        options=options,
    )
    return 0 if node.run(wanted) else 1


def _stdin_of(path: str | None) -> bytes:
    """Our plugin's standard input out of a configuration file, as a runtime would derive it."""
    from meta_cni.cni.config import parse_network  # noqa: PLC0415
    from meta_cni.cni.errors import BadConfig  # noqa: PLC0415
    from meta_cni.configuration import NoConfiguration  # noqa: PLC0415
    from meta_cni.settings import MULTUS_TYPES  # noqa: PLC0415

    candidates = [Path(path)] if path else sorted(Path(CONFIG_DIRECTORY).glob("*.conf*"))
    for candidate in candidates:
        try:
            text = candidate.read_bytes()
        except OSError as error:
            raise BadConfig(f"read {candidate}: {error.strerror}") from None
        network = parse_network(text, str(candidate))
        for plugin in network.plugins:
            if path or plugin.type in ("meta-cni", *MULTUS_TYPES):
                return plugin.execution({}).raw.text().encode()
    raise NoConfiguration(f"no configuration of meta-cni in {CONFIG_DIRECTORY}: expected --config FILE")


def _pods_in(path: str) -> list[dict[str, Any]]:
    from meta_cni.cni.errors import BadConfig  # noqa: PLC0415
    from meta_cni.k8s.file_store import documents  # noqa: PLC0415

    pods = [each for each in documents(Path(path)) if each.get("kind") == "Pod"]
    if not pods:
        raise BadConfig(f"read {path}: expected at least one Pod")
    return pods


def _environment(command: str, container_id: str, netns: str, pod: dict[str, Any] | None) -> dict[str, str]:
    """The variables of a runtime's call."""
    metadata = pod["metadata"] if pod else {}
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={metadata.get('namespace') or 'default'}"
    args += f";K8S_POD_NAME={metadata.get('name', '')}"
    beside = os.path.dirname(os.path.realpath(sys.argv[0]))
    return {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": args if pod else "",
        "CNI_PATH": os.environ.get("CNI_PATH") or f"{PLUGIN_PATH}:{beside}",
    }


def _plan(parsed: argparse.Namespace) -> int:
    from meta_cni.cni.errors import CNIError  # noqa: PLC0415

    code = 0
    for make in _plans_live(parsed) if _is_live(parsed) else _plans_of_file(parsed):
        try:
            plan = make()
        except CNIError as error:
            _print_errors(error)
            code = 1
            continue
        print(json.dumps(plan, indent=4) if parsed.output == "json" else _plan_text(plan))
    return code


def _plans_of_file(parsed: argparse.Namespace) -> Iterator[Callable[[], dict[str, Any]]]:
    from meta_cni import explain  # noqa: PLC0415

    stdin = _stdin_of(parsed.config)
    for pod in _pods_in(parsed.pod):
        with tempfile.TemporaryDirectory() as scratch:
            environment = _environment("ADD", "plan", "/", pod)
            beside = Path(parsed.pod).parent
            yield partial(explain.plan_of, pod, stdin, environment, beside, Path(scratch))


def _plans_live(parsed: argparse.Namespace) -> Iterator[Callable[[], dict[str, Any]]]:
    from meta_cni import cluster, explain  # noqa: PLC0415
    from meta_cni.configuration import NoConfiguration  # noqa: PLC0415

    kubeconfigs = cluster.kubeconfigs_of(parsed.kubeconfig, os.environ)
    store, namespace = cluster.open_store(kubeconfigs, os.environ)
    pod = cluster.pod(store, parsed.namespace or namespace, parsed.pod)
    node = pod.get("spec", {}).get("nodeName", "")
    is_here = node in (os.environ.get("NODE_NAME"), os.uname().nodename)
    notes = [] if is_here else [f"programs and devices are those of node {node or '(none yet)'}"]
    try:
        stdin = _stdin_of(parsed.config)
    except NoConfiguration as error:
        stdin = explain.CHAINED
        notes.append(f"the default network and the policy are not known here: {error.message}")
    environment = _environment("ADD", "plan", "/", pod)

    def make() -> dict[str, Any]:
        plan = explain.plan_of_live(pod, stdin, environment, store, is_here=is_here)
        return {**plan, "node": node, "notes": notes}

    yield make


def _print_errors(error: Any) -> None:
    for each in getattr(error, "errors", (error,)):
        print(f"meta-cni: {each.message}", file=sys.stderr)


def _plan_text(plan: dict[str, Any]) -> str:
    lines = [f"pod {plan['pod']}" + (f" on {plan['node']}" if plan.get("node") else "")]
    for n, step in enumerate(plan["steps"], 1):
        lines.append(
            f"  {n}. {step['interface']}  network {step['network']}  (at most {step['deadline_s']:g} s)"
        )
        if step["deviceSource"]:
            resource = f" of {step['resource']}" if step["resource"] else ""
            lines.append(f"       device {step['device'] or '?'}{resource} ({step['deviceSource']})")
        for each in step["plugins"]:
            how = "built in" if each["builtin"] else f"executed, {each['binary'] or each['type']}"
            lines.append(f"       {each['type']}: {how} ({each['reason']}); addresses: {each['ipam']}")
            if each["runtimeConfig"]:
                lines.append(f"       runtimeConfig {json.dumps(each['runtimeConfig'])}")
        lines.extend(f"       warning: {each}" for each in step["warnings"])
    lines.extend(f"  default route IPv{each['family']}: {each['owner']}" for each in plan["defaultRoutes"])
    lines.extend(f"  note: {each}" for each in plan.get("notes", ()))
    return "\n".join(lines)


def _validate(parsed: argparse.Namespace) -> int:
    from meta_cni.cni.errors import BadConfig  # noqa: PLC0415

    if not parsed.files and not _is_live(parsed):
        raise BadConfig("validate: expected FILE..., or --live for what is in a cluster")
    path = tuple((os.environ.get("CNI_PATH") or PLUGIN_PATH).split(":"))
    found = [
        *_problems_of_files(parsed.files, path),
        *(_problems_live(parsed, path) if _is_live(parsed) else ()),
    ]
    problems = [(where, each) for where, several in found for each in several]
    if parsed.output == "json":
        print(json.dumps([{"where": where, "problem": each} for where, each in problems], indent=4))
    else:
        for where, each in problems:
            print(f"{where}: {each}")
    what = "objects and files" if _is_live(parsed) else "files"
    print(f"{len(problems)} problems in {len(found)} {what}", file=sys.stderr)
    return 1 if problems else 0


Problems = tuple[str, list[str]]
"""Where: a file or an object; and what."""


def _problems_of_files(names: Sequence[str], path: tuple[str, ...]) -> Iterator[Problems]:
    from meta_cni import validate  # noqa: PLC0415

    for name in names:
        lines = validate.problems_of_file(Path(name), path)
        yield name, [line.removeprefix(f"{Path(name)}: ") for line in lines]


def _problems_live(parsed: argparse.Namespace, path: tuple[str, ...]) -> Iterator[Problems]:
    from meta_cni import cluster, validate  # noqa: PLC0415

    kubeconfigs = cluster.kubeconfigs_of(parsed.kubeconfig, os.environ)
    store, _ = cluster.open_store(kubeconfigs, os.environ)
    documents = list(cluster.objects(store, parsed.namespace))
    names = cluster.Names(store, documents)
    for each in documents:
        problems = validate.problems_of_object(each, path)
        yield cluster.reference(each), [*problems, *names.missing(each)]


def _netns_path(name: str) -> str:
    return name if "/" in name else f"/run/netns/{name}"


def _container_id(netns: str) -> str:
    """The same for the same namespace, as cnitool does it."""
    return "attach-" + hashlib.sha256(netns.encode()).hexdigest()[:20]


def _call(command: str, netns: str, pod: dict[str, Any] | None, stdin: bytes) -> int:
    from meta_cni import compose  # noqa: PLC0415
    from meta_cni.cni.config import decode, indented  # noqa: PLC0415

    variables = _environment(command, _container_id(netns), netns, pod)
    answer, code = compose.serve(variables, stdin)
    if answer:
        text = indented(decode(answer, "answer"))
        print(text.encode(errors="backslashreplace").decode())
    return code


def _attach(parsed: argparse.Namespace) -> int:
    from meta_cni.cni.errors import BadConfig  # noqa: PLC0415

    pods = _pods_in(parsed.pod)
    if len(pods) != 1:
        raise BadConfig(f"read {parsed.pod}: {len(pods)} pods: expected one")
    stdin = _with_store(_stdin_of(parsed.config), Path(parsed.pod).parent)
    return _call("ADD", _netns_path(parsed.netns), pods[0], stdin)


def _with_store(stdin: bytes, directory: Path) -> bytes:
    """The configuration with the pod's directory as store, where it names none."""
    from meta_cni.cni.config import RawObject  # noqa: PLC0415

    raw = RawObject.parse(stdin, "configuration")
    if raw.text_of("store") is None and raw.text_of("kubeconfig") is None:
        raw = raw.put("store", {"directory": str(directory.resolve())})
    return raw.text().encode()


def _detach(parsed: argparse.Namespace) -> int:
    return _call("DEL", _netns_path(parsed.netns), None, _stdin_of(parsed.config))


def _attachments(parsed: argparse.Namespace) -> int:
    from meta_cni import explain  # noqa: PLC0415

    if _is_live(parsed):
        return _attachments_live(parsed)
    found, damaged = explain.attachments(_stdin_of(parsed.config))
    if parsed.output == "json":
        print(json.dumps(found, indent=4))
    elif parsed.output == "svg":
        from meta_cni.picture import draw  # noqa: PLC0415

        print(draw(explain.topology(found)), end="")
    else:
        print(_table(("POD", "INTERFACE", "NETWORK", "MAC", "ADDRESSES", "HOW"), _rows(found)))
    for path in damaged:
        print(f"meta-cni: damaged entry set aside: {path}", file=sys.stderr)
    return 0


def _attachments_live(parsed: argparse.Namespace) -> int:
    from meta_cni import cluster  # noqa: PLC0415
    from meta_cni.cni.errors import BadConfig  # noqa: PLC0415

    if parsed.output == "svg":
        raise BadConfig("attachments -o svg: expected a node's own: leave out --all-nodes")
    kubeconfigs = cluster.kubeconfigs_of(parsed.kubeconfig, os.environ)
    store, _ = cluster.open_store(kubeconfigs, os.environ)
    found, unreadable = cluster.attachments(store, parsed.namespace)
    if parsed.output == "json":
        print(json.dumps(found, indent=4))
    else:
        print(_table(ALL_NODES, [_row_of_cluster(each) for each in found]))
    for each in unreadable:
        print(f"meta-cni: {each}", file=sys.stderr)
    return 1 if unreadable else 0


ALL_NODES = ("NODE", "POD", "INTERFACE", "NETWORK", "MAC", "ADDRESSES", "DEFAULT", "DEVICE")


def _row_of_cluster(each: dict[str, Any]) -> tuple[str, ...]:
    start = tuple(each[key] or "-" for key in ("node", "pod", "interface", "network", "mac"))
    is_default = "yes" if each["isDefault"] else ""
    return (*start, " ".join(each["addresses"]), is_default, each["device"])


def _install(parsed: argparse.Namespace) -> int:
    from meta_cni import standalone  # noqa: PLC0415
    from meta_cni.daemon import install  # noqa: PLC0415

    if parsed.plugins:
        for path in standalone.install(Path(parsed.plugins)):
            print(path)
    if not parsed.plugins or parsed.bin_dir or parsed.name or parsed.shim:
        shim = install.find_shim(Path(parsed.shim) if parsed.shim else None)
        for line in install.install(_places(parsed), shim, parsed.name or ["meta-cni"]):
            print(line)
    return 0


def _uninstall(parsed: argparse.Namespace) -> int:
    from meta_cni.daemon import install  # noqa: PLC0415

    outcome = install.uninstall(_places(parsed))
    for line in outcome.done:
        print(line)
    for line in (*outcome.told, *(each.message for each in outcome.errors)):
        print(f"meta-cni: {line}", file=sys.stderr)
    return 1 if outcome.errors else 0


def _places(parsed: argparse.Namespace) -> Any:
    """Where things are: of the command line, else of the daemon's file, else where they always are."""
    from meta_cni.daemon.configuration import Options, open_options  # noqa: PLC0415
    from meta_cni.daemon.install import Places  # noqa: PLC0415

    given = vars(parsed)
    options = open_options(given.get("config"), given.get("conf_dir")) or Options()
    return Places(
        directory=Path(parsed.bin_dir or options.bin_dir),
        configurations=options.directory,
        state=Path(parsed.state),
        spool=Path(parsed.spool),
        cni_dir=Path(given.get("cni_dir") or options.cni_dir),
        socket=Path(given.get("socket") or SOCKET),
    )


def _rows(found: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    keys = ("pod", "interface", "network", "mac")
    return [(*(each[key] for key in keys), " ".join(each["addresses"]), each["how"]) for each in found]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)
