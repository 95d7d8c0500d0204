"""The namespaces that a test process moves into, once, whichever of its tests comes first."""

from functools import cache

from meta_cni.linux import netns
from tests.guest.boots import FUNCTIONS


@cache
def enter() -> netns.Private:
    """
    Move the whole process, before it has a second thread.

    An ordinary user's process could not do it again. A guest with virtual functions is a private
    node itself.
    """
    if FUNCTIONS.is_running:
        return netns.Private(is_root=True, used_user_namespace=False)
    return netns.enter_private()
