"""From a name in a recipe to the class in the file of that name, or to an entry point of a third party.

There is no list of names anywhere: `passes/quantize_int8.py` holds class `QuantizeInt8`, and that is what makes
`quantize_int8` known. Third parties add one by an entry point in group `edgeopt.passes`, `edgeopt.backends` and so on.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from typing import Any

from edgeopt.errors import MissingError, UsageError, did_you_mean

#: folder of the package → the interface, defined in that folder's `__init__`, that its classes implement
INTERFACES = {
    "sources": "Source",
    "data": "DataFormat",
    "metrics": "Metric",
    "passes": "Pass",
    "backends": "Backend",
    "quantization.calibrators": "Calibrator",
    "pruning.importance": "Importance",
    "counters": "EnergyCounter",
    "report": "ReportFormat",
    "transports": "Transport",
}


def class_name(name: str) -> str:
    """`quantize_int8` → `QuantizeInt8`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def resolve(kind: str, name: str) -> type[Any]:
    """The class that `name` stands for.

    Raises:
        UsageError: no file or entry point has that name; names the closest one.
        MissingError: a third party's entry point has that name and does not work.
    """
    found = _own(kind, name) or _foreign(kind, name)
    if found is None:
        raise UsageError(f"unknown {_singular(kind)} `{name}`", did_you_mean(name, names(kind)))
    return found


@functools.cache
def names(kind: str) -> tuple[str, ...]:
    """All names of one kind, own and third-party, sorted."""
    package = importlib.import_module(f"edgeopt.{kind}")
    own = {module.name for module in pkgutil.iter_modules(package.__path__) if _own(kind, module.name)}
    return tuple(sorted(own | set(_entry_points(kind))))


def module_of(kind: str, name: str) -> str:
    """The dotted name of the module that `name` is defined in."""
    return str(resolve(kind, name).__module__)


def _own(kind: str, name: str) -> type[Any] | None:
    package = importlib.import_module(f"edgeopt.{kind}")
    if not name.isidentifier() or name not in {module.name for module in pkgutil.iter_modules(package.__path__)}:
        return None
    found = getattr(importlib.import_module(f"edgeopt.{kind}.{name}"), class_name(name), None)
    return found if _implements(kind, found) else None


def _foreign(kind: str, name: str) -> type[Any] | None:
    # Loaded one at a time and only when named: a third party's broken package must not stop those who do not use it.
    point = _entry_points(kind).get(name)
    if point is None:
        return None
    try:
        found = point.load()
    except Exception as error:
        raise MissingError(f"`{name}` from `{point.value}` cannot be loaded: {error}", "mend its package") from error
    if not _implements(kind, found):
        raise MissingError(f"`{name}` from `{point.value}` is no {INTERFACES[kind]}", "mend its package")
    return found  # type: ignore[no-any-return]


@functools.cache
def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"edgeopt.{kind}")}


def _implements(kind: str, found: object) -> bool:
    interface = getattr(importlib.import_module(f"edgeopt.{kind}"), INTERFACES[kind])
    return isinstance(found, type) and issubclass(found, interface)


def _singular(kind: str) -> str:
    return {"passes": "pass", "data": "data format", "report": "report format"}.get(
        kind, kind.rpartition(".")[2].removesuffix("s")
    )
