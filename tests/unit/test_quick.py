"""Frozen dataclasses that are made in a third of the time are what they were."""

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace

import pytest

from meta_cni.quick import quick


@quick
@dataclass(frozen=True, slots=True)
class Made:
    """With every kind of field."""

    name: str
    number: int = 7
    more: list[str] = field(default_factory=list)
    message: bytes = field(default=b"", repr=False, compare=False)

    @classmethod
    def of(cls, name: str) -> "Made":
        """By the class that it is asked of."""
        return cls(name)

    @property
    def doubled(self) -> int:
        """Of the number."""
        return 2 * self.number


@dataclass(frozen=True, slots=True)
class Usual:
    """As dataclasses makes them."""

    name: str
    number: int = 7


def test_it_is_given_by_place_by_name_or_not_at_all():
    """A factory makes one for each."""
    one, other = Made("a"), Made(name="b", number=8, more=["x"], message=b"m")

    assert ("a", 7, [], b"") == (one.name, one.number, one.more, one.message)
    assert ("b", 8, ["x"], b"m") == (other.name, other.number, other.more, other.message)
    assert one.more is not Made("c").more
    assert (Made, "a", 14) == (type(Made.of("a")), Made.of("a").name, one.doubled)


def test_nothing_can_be_changed():
    """Neither what is there, nor with what is not."""
    one = Made("a")

    for name in ("name", "other", "__class__"):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(one, name, "b")
    with pytest.raises(FrozenInstanceError):
        del one.name  # type: ignore[misc]
    assert not hasattr(one, "__dict__")


def test_it_is_compared_and_shown_as_before():
    """What is not compared is not."""
    assert Made("a", message=b"m") == Made("a")
    assert Made("a") != Made("b")
    assert Usual("a") != quick_usual()("a")
    assert "Made(name='a', number=7, more=[])" == repr(Made("a"))
    assert hash(quick_usual()("a", 1)) == hash(("a", 1)) == hash(Usual("a", 1))


def quick_usual() -> type[Usual]:
    """As Usual."""

    @quick
    @dataclass(frozen=True, slots=True)
    class Other:
        name: str
        number: int = 7

    return Other  # type: ignore[return-value]


def test_what_dataclasses_copy_and_pickle_do_with_it_is_done():
    """A copy is one of the class, and frozen."""
    one = Made("a", 8, ["x"], b"m")

    copies = [copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), replace(one)]

    assert [one] * 4 == copies
    assert [b"m"] * 4 == [each.message for each in copies]
    assert {Made} == {type(each) for each in copies}
    assert copies[1].more is not one.more
    assert Made("b", 8, ["x"]) == replace(one, name="b")
    assert {"name": "a", "number": 8, "more": ["x"], "message": b"m"} == asdict(one)


def test_a_wrong_call_is_told_by_the_class_s_name():
    """Else nobody finds it."""
    with pytest.raises(TypeError, match=r"Made.__new__\(\) missing 1 required positional argument: 'name'"):
        Made()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Made.__new__\(\) got an unexpected keyword argument 'x'"):
        Made("a", x=1)  # type: ignore[call-arg]
    assert ["name", "number", "more", "message"] == list(inspect.signature(Made).parameters)


def with_post_init() -> type:
    @dataclass(frozen=True, slots=True)
    class Wrong:
        name: str

        def __post_init__(self) -> None: ...

    return Wrong


def with_keywords() -> type:
    return dataclass(frozen=True, slots=True, kw_only=True)(type("W", (), {"__annotations__": {"a": int}}))


def with_a_base() -> type:
    fields = {"__annotations__": {"a": int}, "a": 3}
    return dataclass(frozen=True, slots=True)(type("W", (Usual,), fields))


def without_slots() -> type:
    return dataclass(frozen=True)(type("W", (), {"__annotations__": {"a": int}}))


def not_frozen() -> type:
    return dataclass(slots=True)(type("W", (), {"__annotations__": {"a": int}}))


def with_a_field_of_its_own() -> type:
    fields = {"__annotations__": {"a": int}, "a": field(init=False, default=3)}
    return dataclass(frozen=True, slots=True)(type("W", (), fields))


@pytest.mark.parametrize(
    "wrong",
    [with_post_init, with_keywords, with_a_base, without_slots, not_frozen, with_a_field_of_its_own],
)
def test_what_it_does_not_know_is_refused(wrong):
    """When the class is made, not when it is used."""
    with pytest.raises(TypeError, match="expected a plain frozen dataclass with slots"):
        quick(wrong())
