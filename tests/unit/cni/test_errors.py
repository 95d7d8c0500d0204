"""Errors as a runtime reads them."""

import errno
import inspect

import pytest

from meta_cni.cni import errors
from meta_cni.cni.errors import BadConfig, CNIError, DelegateFailed, KernelError, NetnsGone, Several, join

CODES = {
    "CNIError": 999,
    "IncompatibleVersion": 1,
    "UnsupportedField": 2,
    "UnknownContainer": 3,
    "BadEnvironment": 4,
    "IOFailure": 5,
    "DecodeFailure": 6,
    "BadConfig": 7,
    "NetworkNotFound": 7,
    "BadNetns": 8,
    "NetnsGone": 8,
    "TryAgainLater": 11,
    "NotAvailable": 50,
    "LimitedConnectivity": 51,
    "KernelError": 100,
    "DelegateFailed": 101,
    "DelegateTimedOut": 102,
    "AddressesExhausted": 103,
    "AlreadyAttached": 104,
    "CheckFailed": 105,
    "UndoFailed": 106,
    "DamagedEntry": 107,
    "ProgramFailed": 108,
}


def test_every_class_has_its_code():
    """Codes below 100 are the specification's; those above are documented, so they never change."""
    classes = inspect.getmembers(errors, lambda each: inspect.isclass(each) and issubclass(each, CNIError))

    assert CODES == {name: each.code for name, each in classes if each is not Several}


def test_an_error_object_is_the_specifications():
    """Details are left out when there are none."""
    expected = {"cniVersion": "1.1.0", "code": 7, "msg": "name is missing"}

    assert expected == BadConfig("name is missing").to_json("1.1.0")
    assert {**expected, "details": "more"} == BadConfig("name is missing", "more").to_json("1.1.0")


def test_the_message_is_the_text():
    """What is logged is what is answered."""
    assert "name is missing" == str(BadConfig("name is missing", "more"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            KernelError("create macvlan net1 on eth0", errno.EEXIST),
            "create macvlan net1 on eth0: File exists",
        ),
        (
            KernelError("create net1", errno.EINVAL, "no such mode"),
            "create net1: no such mode: Invalid argument",
        ),
        (KernelError("create net1", 0), "create net1: unknown error"),
    ],
)
def test_the_kernels_word_comes_last(error: KernelError, text: str):
    """Its own explanation before it, where it gave one."""
    assert text == error.message


@pytest.mark.parametrize(
    ("number", "is_gone"),
    [
        (errno.ENODEV, True),
        (errno.ENOENT, True),
        (errno.ESRCH, True),
        (errno.EADDRNOTAVAIL, True),
        (errno.EPERM, False),
        (errno.EBUSY, False),
    ],
)
def test_gone_is_told_apart_from_refused(number: int, is_gone: bool):
    """DEL succeeds on the one and keeps the ledger entry on the other."""
    assert is_gone == KernelError("delete net1", number).is_gone


def test_a_netns_that_is_gone_is_a_bad_one_for_everyone_but_del():
    """ADD and CHECK answer code 8 for both."""
    assert isinstance(NetnsGone("open netns /run/netns/x"), errors.BadNetns)


@pytest.mark.parametrize(("own", "code"), [(None, 101), (11, 11), (120, 120)])
def test_a_delegates_own_code_is_kept(own: int | None, code: int):
    """try again later must reach the runtime as that."""
    assert code == DelegateFailed("plugin x: busy", code=own).code
    assert 101 == DelegateFailed.code


def test_a_single_error_is_not_wrapped():
    """Its class is what the caller matches."""
    error = BadConfig("one")

    assert error is join([error])


def test_several_errors_are_told_at_once():
    """The code is the first one's; no text and no details are lost."""
    found = (BadConfig("one", "first"), KernelError("two", errno.EPERM), DelegateFailed("three", "third"))

    joined = join(found)

    expected = {
        "cniVersion": "1.0.0",
        "code": 7,
        "msg": "3 errors: one; two: Operation not permitted; three",
        "details": "first\nthird",
    }
    assert expected == joined.to_json("1.0.0")
    assert isinstance(joined, Several)
    assert found == joined.errors
