"""
The command line: what would be done, what is wrong, what is attached; attach and detach by hand.

    meta-cni plan POD.yaml             step by step, without touching anything
    meta-cni validate FILE...          every mistake in NADs, pods and our configuration
    meta-cni attach NETNS --pod FILE   as a container runtime would
    meta-cni detach NETNS
    meta-cni attachments [-o json|svg]
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
from collections.abc import Iterable, Sequence
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
    parsed = _parser().parse_args(arguments)
    if not hasattr(parsed, "run"):
        _parser().print_help()
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
    plan = _command(commands, "plan", _plan, "what would be done for the pods in a file")
    plan.add_argument("file", metavar="POD.yaml")
    plan.add_argument("-o", "--output", choices=("text", "json"), default="text")
    validate = _command(commands, "validate", _validate, "every mistake in NADs, pods and configurations")
    validate.add_argument("files", metavar="FILE", nargs="+")
    attach = _command(commands, "attach", _attach, "attach a network namespace as a container runtime would")
    attach.add_argument("netns", metavar="NETNS", help="path, or name under /run/netns")
    attach.add_argument("--pod", metavar="POD.yaml", required=True)
    detach = _command(commands, "detach", _detach, "undo attach")
    detach.add_argument("netns", metavar="NETNS")
    attachments = _command(commands, "attachments", _attachments, "what is attached on this node")
    attachments.add_argument("-o", "--output", choices=("table", "json", "svg"), default="table")
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
    raise BadConfig(f"no configuration of meta-cni in {CONFIG_DIRECTORY}: expected --config FILE")


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
    from meta_cni import explain  # noqa: PLC0415
    from meta_cni.cni.errors import CNIError  # noqa: PLC0415

    stdin = _stdin_of(parsed.config)
    code = 0
    for pod in _pods_in(parsed.file):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                lines = explain.plan_of(
                    pod, stdin, _environment("ADD", "plan", "/", pod), Path(parsed.file).parent, Path(scratch)
                )
            except CNIError as error:
                _print_errors(error)
                code = 1
                continue
        print(json.dumps(lines, indent=4) if parsed.output == "json" else _plan_text(lines))
    return code


def _print_errors(error: Any) -> None:
    for each in getattr(error, "errors", (error,)):
        print(f"meta-cni: {each.message}", file=sys.stderr)


def _plan_text(plan: dict[str, Any]) -> str:
    lines = [f"pod {plan['pod']}"]
    for n, step in enumerate(plan["steps"], 1):
        lines.append(
            f"  {n}. {step['interface']}  network {step['network']}  (at most {step['deadline_s']:g} s)"
        )
        if step["deviceSource"]:
            resource = f" of {step['resource']}" if step["resource"] else ""
            lines.append(f"       device {step['device'] or '?'}{resource} ({step['deviceSource']})")
        for each in step["plugins"]:
            how = "built in" if each["builtin"] else f"executed, {each['binary']}"
            lines.append(f"       {each['type']}: {how} ({each['reason']}); addresses: {each['ipam']}")
            if each["runtimeConfig"]:
                lines.append(f"       runtimeConfig {json.dumps(each['runtimeConfig'])}")
        lines.extend(f"       warning: {each}" for each in step["warnings"])
    lines.extend(f"  default route IPv{each['family']}: {each['owner']}" for each in plan["defaultRoutes"])
    return "\n".join(lines)


def _validate(parsed: argparse.Namespace) -> int:
    from meta_cni import validate  # noqa: PLC0415

    path = tuple((os.environ.get("CNI_PATH") or PLUGIN_PATH).split(":"))
    problems = [line for name in parsed.files for line in validate.problems_of_file(Path(name), path)]
    for line in problems:
        print(line)
    print(f"{len(problems)} problems in {len(parsed.files)} files", file=sys.stderr)
    return 1 if problems else 0


def _netns_path(name: str) -> str:
    return name if "/" in name else f"/run/netns/{name}"


def _container_id(netns: str) -> str:
    """The same for the same namespace, as cnitool does it."""
    return "attach-" + hashlib.sha256(netns.encode()).hexdigest()[:20]


def _call(command: str, netns: str, pod: dict[str, Any] | None, stdin: bytes) -> int:
    from meta_cni import compose  # noqa: PLC0415

    variables = _environment(command, _container_id(netns), netns, pod)
    answer, code = compose.serve(variables, stdin)
    sys.stdout.write(answer.decode())
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
