"""
One built-in delegate as an ordinary CNI plugin, for any runtime and any list.

The checks come in the reference skeleton's order with its codes, but all of them before
anything is touched: one JSON document is printed, whatever happens.
"""

import errno
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import delegates
from meta_cni import ipam
from meta_cni.cni import request as requests
from meta_cni.cni import result as results
from meta_cni.cni import version as versions
from meta_cni.cni.config import PluginConfig, Section, decode, encode, encode_compact, parse_plugin
from meta_cni.cni.errors import (
    AlreadyAttached,
    BadConfig,
    BadNetns,
    CNIError,
    DecodeFailure,
    IncompatibleVersion,
    KernelError,
    join,
)
from meta_cni.cni.request import NAME, Request
from meta_cni.cni.result import Result
from meta_cni.configuration import GC_KEYS, valid_attachments
from meta_cni.delegate import Attachment, BuiltIn
from meta_cni.linux import device, link, netns
from meta_cni.linux.namespaces import Namespaces

DEADLINE_S = 60.0
SCRIPT = """#!{interpreter}
import sys
from meta_cni.__main__ import plugin
sys.exit(plugin({plugin_type!r}))
"""
LONGEST_INTERPRETER = 253
"""BINPRM_BUF_SIZE (256, <linux/binfmts.h>) less "#!" and the end of the line."""
UNDOING = ("dataDir", "sysfs", "ipMasq", "macspoofchk")
"""The keys that some delegate's delete() reads."""
REQUIRED = (
    *("links", "linksInContainer", "miimon", "mode", "vrfname", "master"),
    *("device", "hwaddr", "kernelpath"),
)
"""Those that some delegate cannot do without, or that say what its delete() is to leave alone."""
NEEDS = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


def install(directory: Path) -> list[Path]:
    """
    Write an executable for every built-in, named meta-bridge and so on; each is replaced whole.

    Raises KernelError with the path that could not be written.
    """
    interpreter = _interpreter()
    written = [directory / f"meta-{plugin_type}" for plugin_type in sorted(delegates.BUILTIN)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in written:
            text = SCRIPT.format(interpreter=interpreter, plugin_type=path.name.removeprefix("meta-"))
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(text)
            temporary.chmod(0o755)
            temporary.replace(path)
    except OSError as error:
        raise KernelError(f"write plugins to {directory}", error.errno or errno.EIO) from None
    return written


def _interpreter() -> str:
    """The Python that runs now; a path that the kernel cannot take from a script is refused."""
    path = sys.executable
    if len(path) > LONGEST_INTERPRETER or any(each.isspace() for each in path):
        raise BadConfig(
            f"Python {path!r}: expected a path without white space, of at most {LONGEST_INTERPRETER} "
            "characters: the kernel takes no other from a script"
        )
    return path


def serve(plugin_type: str, environment: Mapping[str, str], stdin: bytes) -> tuple[bytes, int]:
    """Answer one call of the plugin: what to print, and the exit code. Never raises."""
    version = versions.NEWEST
    try:
        request = requests.parse(environment, stdin)
        if request.command == "VERSION":
            return encode({"cniVersion": version, "supportedVersions": list(versions.SUPPORTED)}), 0
        config = _config(stdin)
        version = versions.require_supported(config.cni_version)
        answer = _serve(delegates.load(plugin_type), request, config)
        return (b"", 0) if answer is None else (encode_compact(results.to_json(answer, version)), 0)
    except CNIError as error:
        return encode(error.to_json(version)), 1
    except Exception as error:  # noqa: BLE001 - a bug must still be one CNI error
        return encode(CNIError(f"a bug in meta-cni: {error!r}").to_json(version)), 1


def _config(stdin: bytes) -> PluginConfig:
    value = decode(stdin, "standard input")
    if not isinstance(value, dict):
        raise DecodeFailure("decode standard input: expected a JSON object")
    section = Section("configuration", value)
    name = section.string("name")
    if not name:
        raise BadConfig("configuration: missing network name: expected name")
    if not NAME.match(name):
        raise section.wrong("name", "a letter or digit, then letters, digits, '_', '.' or '-'")
    return parse_plugin(stdin, f"network {name}")


def _serve(kind: type[BuiltIn], request: Request, config: PluginConfig) -> Result | None:
    needed = NEEDS.get(request.command)
    if needed is not None and not versions.at_least(config.cni_version, needed):
        raise IncompatibleVersion(f"config version does not allow {request.command}")
    if request.command == "GC":
        _collect(kind, config, request)
        return None
    if request.command == "STATUS":
        kind.status(config)
        ipam.status(config, environment=request.environment, deadline_s=DEADLINE_S)
        return None
    if request.command == "ADD":
        _refuse(kind, config)
    with Namespaces(request.netns) as namespaces:
        if not namespaces.is_gone and netns.is_own(namespaces.pod_fd):
            raise BadNetns("plugin's netns and netns from CNI_NETNS should not be the same")
        if request.command == "DEL":
            _delete(kind, request, config, namespaces)
            return None
        addresses = _addresses(request, config)
        delegate = kind(config, _attachment(request, namespaces, addresses))
        if request.command == "ADD" and kind.__name__ in delegates.MAKING.values():
            _require_free(namespaces, request, config)
        return _act(delegate, request, config)


def _require_free(namespaces: Namespaces, request: Request, config: PluginConfig) -> None:
    """What has the name is another attachment's, or an ADD's before; undoing this one would take it away."""
    if link.find(namespaces.pod, request.interface) is not None:
        raise AlreadyAttached(
            f"{config.where}: interface {request.interface} already exists in {request.netns}: "
            "expected a free name, or a DEL first"
        )


def _refuse(kind: type[BuiltIn], config: PluginConfig) -> None:
    """There is no binary to run instead: a key that would be passed over is an error."""
    refusal = kind.refuses(config)
    if refusal:
        raise BadConfig(f"{config.where}: {refusal}: expected only keys that {config.type} has here")


def _delete(kind: type[BuiltIn], request: Request, config: PluginConfig, namespaces: Namespaces) -> None:
    """
    Remove what an ADD made, though the configuration may have become wrong since then.

    What is wrong is left out; what then cannot be released is told after everything else is gone.
    """
    errors: list[CNIError] = []
    addresses: ipam.Addresses = ipam.Nothing()
    try:
        addresses = _addresses(request, config)
    except CNIError as error:
        if config.ipam_type != "static":  # holds nothing on the node
            errors.append(error)
    attachment = _attachment(request, namespaces, addresses)
    delegate, wrong = _reduced(kind, config, attachment)
    errors.extend(wrong)
    try:
        delegate.delete()
    except CNIError as error:
        errors.append(error)
    if errors:
        raise join(errors)


def _reduced(
    kind: type[BuiltIn], config: PluginConfig, attachment: Attachment
) -> tuple[BuiltIn, list[CNIError]]:
    """The delegate without the keys that a DEL does not read; if need be without the others, as errors."""
    bare = replace(attachment, cni_args={})
    errors: list[CNIError] = []
    try:
        return kind(config, attachment), errors
    except BadConfig:
        dropped = (*config.keys_outside(UNDOING), "args", "runtimeConfig")
    required = [each for each in dropped if each not in REQUIRED]
    for keys in (dropped, required):
        try:
            return kind(config.execution({**dict.fromkeys(keys), "deviceID": device.ANY}), bare), []
        except BadConfig as error:
            errors = [error]
    every = dict.fromkeys((*dropped, *config.keys_outside(())))
    stand_in = dict.fromkeys(("deviceID", "pciBusID"), device.ANY)
    return kind(config.execution({**every, **stand_in}), bare), errors


def _act(delegate: BuiltIn, request: Request, config: PluginConfig) -> Result | None:
    previous = _previous(config)
    if request.command == "CHECK":
        if previous is None:
            raise BadConfig(f"{config.where}: prevResult is missing: CHECK needs it")
        delegate.check(previous)
        return None
    try:
        return delegate.add(previous)
    except AlreadyAttached:  # nothing was made yet: what delete() would find is the first ADD's
        raise
    except CNIError as error:
        try:
            delegate.delete()
        except CNIError as undo:
            raise join([error, undo]) from None
        raise


def _previous(config: PluginConfig) -> Result | None:
    section = config.section.section("prevResult")
    return results.parse(section.values, config.cni_version) if section is not None else None


def _addresses(request: Request, config: PluginConfig) -> ipam.Addresses:
    return ipam.open_addresses(
        config,
        container_id=request.container_id,
        interface=request.interface,
        cni_args=request.args,
        environment=request.environment,
        deadline_s=DEADLINE_S,
    )


def _attachment(request: Request, namespaces: Namespaces, addresses: ipam.Addresses) -> Attachment:
    return Attachment(
        container_id=request.container_id,
        interface=request.interface,
        netns=request.netns,
        namespaces=namespaces,
        addresses=addresses,
        cni_args=request.args,
        deadline_s=DEADLINE_S,
    )


def _collect(kind: type[BuiltIn], config: PluginConfig, request: Request) -> None:
    """GC of what the delegate has on the node, and of its addresses; links die with their namespace."""
    valid = valid_attachments(config.section)
    if valid is None:
        raise BadConfig(f"{config.where}: {GC_KEYS[0]} is missing: expected a list")
    kind.collect(config, valid)
    ipam.reclaim(config, valid, environment=request.environment, deadline_s=DEADLINE_S)
