"""
Kubernetes objects as plain dicts behind seven verbs, wherever they are kept.

The verbs, their conflicts and their resource versions are the API server's, so that what works
on a directory of files works on a cluster.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from meta_cni.cni.errors import BadConfig, CNIError, TryAgainLater

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """Where objects of a kind live in the API."""

    kind: str
    group: str
    version: str
    plural: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As written in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version


class Kind(Enum):
    """The kinds we read and write."""

    POD = Resource("Pod", "", "v1", "pods")
    EVENT = Resource("Event", "", "v1", "events")
    NETWORK_ATTACHMENT_DEFINITION = Resource(
        "NetworkAttachmentDefinition", "k8s.cni.cncf.io", "v1", "network-attachment-definitions"
    )
    RESOURCE_CLAIM = Resource("ResourceClaim", "resource.k8s.io", "v1", "resourceclaims")
    RESOURCE_SLICE = Resource("ResourceSlice", "resource.k8s.io", "v1", "resourceslices", is_namespaced=False)


class NotFound(CNIError):
    """There is no object of this name."""


class NotServed(NotFound):
    """The API server does not know the kind: its CRD is not installed (404)."""


class Forbidden(TryAgainLater):
    """We may not do that (403), or the server does not know who we are (401)."""


class Expired(TryAgainLater):
    """The changes since a resource version are no longer known (410): list again."""


class Conflict(TryAgainLater):
    """The object changed since it was read (409)."""


class Replaced(Conflict):
    """Another object has this name by now: the UID that was asked for is not its own (422)."""


class AlreadyExists(BadConfig):
    """There is an object of this name already (409)."""


class Invalid(BadConfig):
    """The object breaks its schema, or its file cannot be read (422)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change that a watch tells: ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


@dataclass(frozen=True, slots=True)
class Selector:
    """The objects that have these values; a field is named by its path, as `spec.nodeName`."""

    fields: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether an object is one of them; a field that is not there is empty."""
        found = (document.get("metadata") or {}).get("labels") or {}
        return all(_at(document, path) == value for path, value in self.fields.items()) and all(
            found.get(name) == value for name, value in self.labels.items()
        )


EVERY = Selector()


class Store(Protocol):
    """Objects by kind, namespace and name; every method may raise TryAgainLater."""

    def get(self, kind: Kind, namespace: str, name: str, *, is_newest: bool = False) -> Object:
        """One object, not to be changed; `is_newest`: not as it was a moment ago. Raises NotFound."""
        ...

    def list(
        self, kind: Kind, namespace: str | None = None, selector: Selector = EVERY
    ) -> tuple[Sequence[Object], str]:
        """The objects of a namespace, or of all, and the resource version to watch from."""
        ...

    def watch(
        self,
        kind: Kind,
        namespace: str | None,
        resource_version: str,
        timeout_s: float,
        selector: Selector = EVERY,
    ) -> Iterator[Event]:
        """
        What changed after a resource version, until the time is over; raises Expired.

        An object that is no longer one of the selected is told as DELETED.
        """
        ...

    def create(self, kind: Kind, document: Object) -> Object:
        """Add an object; raises AlreadyExists or Invalid."""
        ...

    def replace(self, kind: Kind, document: Object) -> Object:
        """Replace an object; raises Conflict when its resourceVersion is given and old."""
        ...

    def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """
        Apply a JSON merge patch (RFC 7396); a resourceVersion in it is a condition, and so is a UID.

        Raises NotFound, Conflict where the version is another one, Replaced where the UID is.
        """
        ...

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Remove an object; raises NotFound."""
        ...


def _at(document: Mapping[str, Any], path: str) -> str:
    value: Any = document
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2: null removes, an object merges, anything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged
