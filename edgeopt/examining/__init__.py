"""What this machine can do, as `edgeopt doctor` shows it: each part is found, or what it lacks is named.

asking.py      backends and libraries, asked in processes that they may bring down
libraries.py   the runtime libraries, and what each finds here: what those processes run
hardware.py    instruction sets and what they mean for int8, GPUs, and what sets their pace
conflicts.py   what is installed and does not go together
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

from edgeopt import environment, registry
from edgeopt.counters import all_counters
from edgeopt.examining import hardware
from edgeopt.examining.asking import ask
from edgeopt.examining.conflicts import find_conflicts
from edgeopt.examining.libraries import LIBRARIES
from edgeopt.store import default_root


def examine() -> dict[str, Any]:
    """The machine, backends, runtime libraries, energy counters, what compiling needs, and conflicts, as plain data."""
    backends, libraries = ask(registry.names("backends"), LIBRARIES)
    finds = {found["name"]: found["finds"] for found in libraries}
    conflicts = find_conflicts(
        built_for=finds["onnxruntime"].get("cuda", ""),
        driver=finds["nvidia-driver"].get("cuda", ""),
        runs_cuda=any(found["name"] == "onnxruntime_cuda" and found["available"] for found in backends),
    )
    return {
        "machine": environment.fingerprint(),
        "integer_dot_product": environment.has_integer_dot_product(),
        "isa": hardware.describe_isa(),
        "gpus": hardware.list_gpus(finds["cuda-bindings"].get("gpus", ())),
        "power": hardware.describe_power(),
        "backends": backends,
        "libraries": libraries,
        "counters": _list_counters(),
        "compile": {name: environment.library_version(name) for name in _needed("compile")},
        "store": str(default_root()),
        "conflicts": [conflict._asdict() for conflict in conflicts],
    }


def _list_counters() -> list[dict[str, str | bool]]:
    """The energy counters: what each counts, and why it cannot be read here."""
    told = ((name, counter, counter.why()) for name, counter in all_counters().items())
    return [{"name": name, "available": not why, "missing": why, "what": one.what} for name, one, why in told]


def _needed(extra: str) -> list[str]:
    """The distributions that an extra of edgeopt brings; none where it is run from its sources and not installed."""
    try:
        requirements = importlib.metadata.requires("edgeopt") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    split = [requirement.partition(";") for requirement in requirements]
    chosen = [name for name, _, marker in split if re.search(rf"extra *== *['\"]{extra}['\"]", marker)]
    return [re.split(r"[^A-Za-z0-9._-]", name.strip())[0] for name in chosen]
