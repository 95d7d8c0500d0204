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
from meta_cni.cni.result import Result
from meta_cni.cni.version import at_least


@dataclass(frozen=True, slots=True)
class External:
    """The addresses of one attachment, from a plugin on CNI_PATH."""

    config: PluginConfig
    binary: str
    environment: Mapping[str, str]
    deadline_s: float

    @property
    def is_none(self) -> bool:
        """An IPAM plugin is configured."""
        return False

    def acquire(self) -> Result:
        """ADD; whatever a failing one left is asked back with a DEL."""
        try:
            printed = self._run("ADD", self.config)
            return invoke.result(printed, self.config.cni_version, self.config.network, self._type)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """DEL."""
        self._run("DEL", self.config)

    def check(self, previous: Result) -> None:
        """CHECK, for configurations of 0.4.0 and newer."""
        version = self.config.cni_version
        if at_least(version, "0.4.0"):
            document = results.to_json(previous, version)
            self._run("CHECK", self.config.execution({"prevResult": document}))

    @property
    def _type(self) -> str:
        section = self.config.ipam
        return section.string("type") if section else ""

    def _run(self, command: str, config: PluginConfig) -> bytes:
        variables = {**self.environment, "CNI_COMMAND": command}
        return invoke.run(
            self.binary, config.raw.text().encode(), variables, self.deadline_s, self.config.network
        )
