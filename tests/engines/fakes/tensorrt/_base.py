"""The fake's classes are as strict as compiled ones: no attribute but the declared ones, no value of another type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fake_gpu import fake_gpu

VERSION = fake_gpu().version
MAJOR = int(VERSION.partition(".")[0])


class Setting(property):
    """An attribute that may be set, to a value of its default's type; of one major version only if `major` says so."""

    def __init__(self, default: Any = None, major: int = 0) -> None:
        self.major = major
        self._default = default
        super().__init__(self._get, self._set)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def _get(self, holder: Any) -> Any:
        return holder.__dict__.get(self._name, self._default)

    def _set(self, holder: Any, value: Any) -> None:
        if self._default is not None and not isinstance(value, type(self._default)):
            wanted = type(self._default).__name__
            raise TypeError(
                f"{type(holder).__name__}.{self._name}: incompatible function arguments: {wanted} is wanted"
            )
        holder.__dict__[self._name] = value


class ReadOnly(property):
    """A property of one major version only."""

    major = 0


def only(major: int) -> Callable[[Any], Any]:
    """Marks a method or a property as one that only this major version has."""

    def mark(member: Any) -> Any:
        if isinstance(member, property):
            member = ReadOnly(member.fget)
        member.major = major
        return member

    return mark


class Strict:
    """A class without the members of other versions; its objects refuse attributes that it does not declare."""

    def __init_subclass__(cls) -> None:
        for name, value in list(vars(cls).items()):
            if getattr(value, "major", 0) not in (0, MAJOR):
                delattr(cls, name)

    def __setattr__(self, name: str, value: Any) -> None:
        inside = type(self).__module__.partition(".")[0] == __name__.partition(".")[0]
        if inside and not name.startswith("_") and not isinstance(getattr(type(self), name, None), property):
            raise AttributeError(f"'tensorrt.{type(self).__name__}' object has no attribute '{name}'")
        super().__setattr__(name, value)


class Dims(Strict):
    """A shape: reads like a tuple, and is none."""

    def __init__(self, shape: Any = ()) -> None:
        if not isinstance(shape, (tuple, list, Dims)):
            raise TypeError(f"Dims: incompatible constructor arguments: {type(shape).__name__}")
        self._shape = tuple(int(length) for length in shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, arg0: Any, /) -> Any:
        return self._shape[arg0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (tuple, list, Dims)) and self._shape == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"({', '.join(map(str, self._shape))})"
