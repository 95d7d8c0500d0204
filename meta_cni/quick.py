"""
Frozen dataclasses that are made in a third of the time.

A frozen one sets each of its fields by `object.__setattr__`, which looks the name up and makes a
tuple of the arguments; an ADD makes hundreds of them, an eighth of its instructions. Here the
fields are set while the object is of a class that is not frozen, and laid out alike: what
Python documents as assignment to `__class__` (Data model, "Customizing class creation").
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def quick(cls: Class) -> Class:
    """
    The same class, of which instances are made by `__new__` alone; above @dataclass(frozen=True, slots=True).

    Raises TypeError for what it does not know: one that is not frozen, a base class, `__post_init__`,
    fields that are keyword-only or not given to the constructor.
    """
    own = fields(cls)
    is_plain = all(each.init and not each.kw_only for each in own) and not hasattr(cls, "__post_init__")
    is_laid_out = cls.__bases__ == (object,) and tuple(cls.__dict__.get("__slots__", ())) == _names(own)
    is_frozen = cls.__dict__["__dataclass_params__"].frozen
    if not (is_plain and is_laid_out and is_frozen):
        raise TypeError(f"make {cls.__name__} quickly: expected a plain frozen dataclass with slots")
    made = _constructor(cls, own)
    made.__qualname__ = f"{cls.__qualname__}.__new__"
    # copy and pickle make one with the fields, too.
    given = {"__new__": made, "__init__": object.__init__, "__getnewargs__": _values}
    for name, function in given.items():
        setattr(cls, name, function)
    return cls


def _constructor(cls: type, own: tuple[Field[Any], ...]) -> Callable[..., object]:
    """As dataclasses writes one, down to the default that stands for a factory."""
    thawed = type(cls.__name__, (), {"__slots__": _names(own)})
    scope: dict[str, Any] = {"thawed": thawed, "new": object.__new__, "made_anew": object()}
    parameters, lines = ["cls"], []
    for each in own:
        name, parameter, value = each.name, each.name, each.name
        if each.default is not MISSING:
            scope[f"default_{name}"] = each.default
            parameter = f"{name}=default_{name}"
        elif each.default_factory is not MISSING:
            scope[f"default_{name}"] = each.default_factory
            parameter = f"{name}=made_anew"
            value = f"default_{name}() if {name} is made_anew else {name}"
        parameters.append(parameter)
        lines.append(f"    self.{name} = {value}\n")
    text = f"def __new__({', '.join(parameters)}):\n    self = new(thawed)\n"
    exec(f"{text}{''.join(lines)}    self.__class__ = cls\n    return self\n", scope)
    made: Callable[..., object] = scope["__new__"]
    return made


def _names(own: tuple[Field[Any], ...]) -> tuple[str, ...]:
    return tuple(each.name for each in own)


def _values(self: Any) -> tuple[object, ...]:
    return tuple(getattr(self, each.name) for each in fields(self))
