"""What the daemon is put together with."""

import resource

import pytest

from meta_cni import node

INFINITE = resource.RLIM_INFINITY
CASES = [
    # soft, hard; callers, soft limit afterwards
    ((1024, 4096), (1064, 2408)),
    ((1024, INFINITE), (1064, 2408)),
    ((65536, 65536), (1064, 65536)),
    ((1024, 2000), (656, 2000)),
    ((100, 100), (8, 100)),
]


@pytest.mark.parametrize(("limits", "expected"), CASES)
def test_workers_have_descriptors_left_whoever_calls(
    mocker, limits: tuple[int, int], expected: tuple[int, int]
):
    """An ADD that cannot open a socket fails; one that waits to be accepted does not."""
    mocker.patch.object(node.resource, "getrlimit", return_value=limits)
    raised = mocker.patch.object(node.resource, "setrlimit")

    connections = node._connections(workers=8, queue=1000)

    soft = raised.call_args.args[1][0] if raised.called else limits[0]
    assert expected == (connections, soft)
