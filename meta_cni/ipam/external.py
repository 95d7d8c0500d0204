"""
Any other IPAM plugin, executed by the delegation rules (CNI specification, "Delegated Plugins").

It gets the environment and the whole standard input of the plugin that delegates, with nothing
but CNI_COMMAND set for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from meta_cni import invoke
from meta_cni.cni import result as results
from meta_cni.cni.config import PluginConfig
from meta_cni.cni.errors import CNIError
from meta_cni.cni.result import Result
from meta_cni.cni.version import at_least


@dataclass(frozen=True, slots=True)
class External:
    """The addresses of one attachment, from a plugin on CNI_PATH."""

    config: PluginConfig
    binary: str
    environment: Mapping[str, str]
    deadline_s: float
    root: str = ""
    """What is / for the plugin, if not ours."""

    @property
    def is_none(self) -> bool:
        """An IPAM plugin is configured."""
        return False

    def acquire(self) -> Result:
        """ADD; whatever a failing one left is asked back with a DEL."""
        try:
            printed = self._run("ADD", self.config)
            version, network, name = self.config.cni_version, self.config.network, self.config.ipam_type
            return invoke.result(printed, version, network, name, is_of_addresses=True)
        except CNIError as error:
            self._take_back(error)
            raise

    def _take_back(self, error: CNIError) -> None:
        """DEL after a failed ADD; when that fails too, the ADD's error tells of both."""
        try:
            self.release()
        except CNIError as undo:
            told = f"and releasing what it may have left: {undo.message}"
            error.details = f"{error.details}\n{told}" if error.details else told

    def release(self) -> None:
        """DEL."""
        self._run("DEL", self.config)

    def check(self, previous: Result) -> None:
        """CHECK, for configurations of 0.4.0 and newer."""
        version = self.config.cni_version
        if at_least(version, "0.4.0"):
            document = results.to_json(previous, version)
            self._run("CHECK", self.config.execution({"prevResult": document}))

    def status(self) -> None:
        """STATUS, for configurations of 1.1.0 and newer; raises the plugin's own error."""
        if at_least(self.config.cni_version, "1.1.0"):
            self._run("STATUS", self.config)

    def reclaim(self, valid: frozenset[tuple[str, str]]) -> None:
        """GC of all but the valid (container id, interface), for 1.1.0 and newer."""
        if not at_least(self.config.cni_version, "1.1.0"):
            return
        listed = [{"containerID": container_id, "ifname": name} for container_id, name in sorted(valid)]
        keys = ("cni.dev/valid-attachments", "cni.dev/attachments")  # libcni writes both
        self._run("GC", self.config.execution(dict.fromkeys(keys, listed)))

    def _run(self, command: str, config: PluginConfig) -> bytes:
        variables = {**self.environment, "CNI_COMMAND": command}
        return invoke.run(
            self.binary,
            config.raw.text().encode(),
            variables,
            self.deadline_s,
            self.config.network,
            self.root,
        )
