"""Energy counters that machines have: one file per kind, each read as joules that only ever grow.

To add one, write `counters/<name>.py` with a class of that name in CamelCase, or an entry point `edgeopt.counters`. A
counter tells which rails or packages it counts: what it leaves out, no figure of it holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple

from edgeopt import registry
from edgeopt.errors import MissingError


class Reading(NamedTuple):
    """Joules since the counter was opened or longer ago, and the seconds of the monotonic clock when it was read: two
    readings tell what was consumed between their times."""

    joules: float
    seconds: float

    def since(self, earlier: Reading) -> Reading:
        """The joules and the seconds between two readings."""
        return Reading(self.joules - earlier.joules, self.seconds - earlier.seconds)


class EnergyCounter(ABC):
    """One source of energy figures, read inside a `with` block, which holds whatever reading takes."""

    #: the processors whose energy it holds: `cpu`, `gpu`; work on others is invisible to it
    covers: ClassVar[frozenset[str]]
    #: what is counted, for people: which rails or packages, and what is left out
    what: str

    @abstractmethod
    def why(self) -> str:
        """Why it cannot be read on this machine and what would change that; empty if it can. Raises nothing."""

    def available(self) -> bool:
        """Whether it can be read on this machine."""
        return not self.why()

    @abstractmethod
    def read(self) -> Reading:
        """The state of the counter.

        Raises:
            MissingError: it cannot be read.
        """

    def __enter__(self) -> EnergyCounter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


def all_counters() -> dict[str, EnergyCounter]:
    """Every counter that edgeopt knows, by name, whether this machine has it or not."""
    return {name: registry.resolve("counters", name)() for name in registry.names("counters")}


def read_number(path: Path) -> int:
    """The number in a file of the kernel.

    Raises:
        MissingError: it cannot be read, or holds no number.
    """
    try:
        return int(path.read_text(encoding="ascii"))
    except PermissionError as error:
        hint = f"`sudo chmod a+r {path}` lets everybody read it until the next start of the machine"
        raise MissingError(f"`{path}` is only for root to read", hint) from error
    except OSError as error:
        raise MissingError(f"`{path}` cannot be read: {(error.strerror or type(error).__name__).lower()}") from error
    except ValueError as error:
        raise MissingError(f"`{path}` holds no number") from error


def described(error: MissingError) -> str:
    """An error as one line for `why`."""
    return f"{error.message}; {error.hint}" if error.hint else error.message
