"""
Every error that may reach a runtime, with its CNI code.

The codes 0 to 99 are the specification's (CNI 1.1.0, section "Error"), 100 and above are
ours, as the specification allows. A class is chosen by whose fault it is: what a runtime
or a user does next depends on that, never on the text.
"""

import errno as _errno
import os
from collections.abc import Sequence


class CNIError(Exception):
    """An error with a CNI code, one line of text, and optional details (more lines)."""

    code = 999

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def to_json(self, cni_version: str) -> dict[str, object]:
        """The error object of the specification; `details` is left out when empty."""
        document: dict[str, object] = {
            "cniVersion": cni_version,
            "code": self.code,
            "msg": self.message,
        }
        if self.details:
            document["details"] = self.details
        return document


class IncompatibleVersion(CNIError):
    """The configuration asks for a CNI version that nobody here speaks."""

    code = 1


class UnsupportedField(CNIError):
    """A key of the configuration has a value that we do not support."""

    code = 2


class UnknownContainer(CNIError):
    """The container is not known; the runtime has nothing to clean up."""

    code = 3


class BadEnvironment(CNIError):
    """A CNI_* variable is missing or malformed."""

    code = 4


class IOFailure(CNIError):
    """Standard input or a file of ours cannot be read or written."""

    code = 5


class DecodeFailure(CNIError):
    """A document is not what it claims to be: no JSON, no version, no object."""

    code = 6


class BadConfig(CNIError):
    """A network configuration, annotation or object is wrong; the text says what would be right."""

    code = 7


class NetworkNotFound(BadConfig):
    """A pod names a network that is not there."""


class BadNetns(CNIError):
    """CNI_NETNS is no network namespace, or is the one we run in."""

    code = 8


class NetnsGone(BadNetns):
    """CNI_NETNS does not exist (any more); for a DEL that is no failure."""


class TryAgainLater(CNIError):
    """Nothing is wrong with the request; the runtime should repeat it."""

    code = 11


class NotAvailable(CNIError):
    """STATUS: an ADD cannot be served now."""

    code = 50


class LimitedConnectivity(CNIError):
    """STATUS: an ADD cannot be served, and running pods may have lost connectivity."""

    code = 51


class KernelError(CNIError):
    """The kernel refused an operation; `errno` tells why."""

    code = 100

    def __init__(self, action: str, errno: int, extack: str = "") -> None:
        """`extack` is the kernel's own explanation (NLMSGERR_ATTR_MSG), where it gave one."""
        word = os.strerror(errno) if errno else "unknown error"
        super().__init__(f"{action}: {extack + ': ' if extack else ''}{word}")
        self.errno = errno

    @property
    def is_gone(self) -> bool:
        """What was to be removed or read does not exist (any more)."""
        return self.errno in (_errno.ENODEV, _errno.ENOENT, _errno.ESRCH, _errno.EADDRNOTAVAIL)


class DelegateFailed(CNIError):
    """An executed plugin answered with an error; its own code is kept where it gave one."""

    code = 101

    def __init__(self, message: str, details: str = "", code: int | None = None) -> None:
        super().__init__(message, details)
        if code is not None:
            self.code = code


class DelegateTimedOut(CNIError):
    """A delegate did not answer within its deadline and was killed."""

    code = 102


class AddressesExhausted(CNIError):
    """No free address is left in a pool."""

    code = 103


class AlreadyAttached(CNIError):
    """ADD was called twice for the same container, network and interface without a DEL between."""

    code = 104


class CheckFailed(CNIError):
    """CHECK found something else than what ADD had left."""

    code = 105


class UndoFailed(CNIError):
    """Something could not be removed; what is left is kept in the ledger for the next DEL."""

    code = 106


class DamagedEntry(CNIError):
    """A ledger entry could not be trusted and was set aside."""

    code = 107


class ProgramFailed(CNIError):
    """A program of the node (iptables, nft) is missing or could not do what it was asked for."""

    code = 108

    def __init__(self, message: str, status: int | None = None) -> None:
        """`status` is its exit status, where it ended by itself."""
        super().__init__(message)
        self.status = status


class Several(CNIError):
    """Several errors told at once; the code is the first one's, every text is in the message."""

    def __init__(self, errors: Sequence[CNIError]) -> None:
        texts = "; ".join(error.message for error in errors)
        super().__init__(f"{len(errors)} errors: {texts}")
        self.details = "\n".join(error.details for error in errors if error.details)
        self.errors = tuple(errors)
        self.code = errors[0].code


def join(errors: Sequence[CNIError]) -> CNIError:
    """One error for several; a single one is returned as it is. `errors` must not be empty."""
    return errors[0] if len(errors) == 1 else Several(errors)
