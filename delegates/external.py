"""
Any CNI plugin on CNI_PATH, behind the contract of a built-in one.

Its configuration is complete when it comes here (for a DEL with prevResult); all that is added
is what the plugin before it in the list answered.
"""

from collections.abc import Mapping

from meta_cni import invoke
from meta_cni.cni import result as results
from meta_cni.cni.config import PluginConfig
from meta_cni.cni.result import Result
from meta_cni.delegate import Attachment


class External:
    """One attachment by an executed plugin."""

    def __init__(
        self,
        config: PluginConfig,
        attachment: Attachment,
        binary: str,
        environment: Mapping[str, str],
        root: str = "",
    ) -> None:
        """`environment` is complete but for CNI_COMMAND; `root` is / for the plugin, if not ours."""
        self.config = config
        self.attachment = attachment
        self.binary = binary
        self.environment = environment
        self.root = root

    def add(self, previous: Result | None) -> Result:
        """Execute ADD; raises DelegateFailed or DelegateTimedOut."""
        printed = self._run("ADD", self._with(previous))
        return invoke.result(printed, self.config.cni_version, self.config.network, self.config.type)

    def check(self, previous: Result) -> None:
        """Execute CHECK."""
        self._run("CHECK", self._with(previous))

    def delete(self) -> None:
        """Execute DEL."""
        self._run("DEL", self.config)

    def _with(self, previous: Result | None) -> PluginConfig:
        if previous is None:
            return self.config
        return self.config.execution({"prevResult": results.to_json(previous, self.config.cni_version)})

    def _run(self, command: str, config: PluginConfig) -> bytes:
        return invoke.run(
            self.binary,
            config.raw.text().encode(),
            {**self.environment, "CNI_COMMAND": command},
            self.attachment.deadline_s,
            self.config.network,
            self.root,
        )
