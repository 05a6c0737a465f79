"""Whether this device is what a bundle was proven on: its board, its CPU, its runtime.

What an engine is bound to beyond that (driver, GPU, compute capability) is looked at when it is opened.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping

from edgeopt import environment

#: runtime → the distributions that bring it
RUNTIMES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",), "torch": ("torch",),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
}  # fmt: skip

#: what runs a graph runs those that were made for an older release, too; an engine is of one release
EXACT = ("tensorrt",)


def find_differences(compatible: Mapping[str, str], board: str | None) -> Iterator[str]:
    """What this device is not, a few words each.

    Args:
        compatible: what the manifest asks for, name → value.
        board: what this device says that it is.
    """
    for name, wanted in sorted(compatible.items()):
        if name == "board" and wanted != board:
            yield f"it is for the board `{wanted}`, and this is `{board or 'none'}`"
        elif name == "machine" and wanted != platform.machine():
            yield f"it is for {wanted}, and this is {platform.machine()}"
        elif name == "isa":
            yield from _isa_differences(wanted)
        elif name in RUNTIMES:
            yield from _runtime_differences(name, wanted)


def _isa_differences(wanted: str) -> Iterator[str]:
    machine, *extensions = wanted.split()
    if machine != platform.machine():
        yield f"it is for {machine}, and this is {platform.machine()}"
    if "vnni" in extensions and not environment.has_integer_dot_product():
        yield "its weights need a CPU with VNNI, and this one has none"
    if "amx" in extensions and "amx_int8" not in environment.cpu()[1]:
        yield "it needs a CPU with AMX, and this one has none"


def _runtime_differences(name: str, wanted: str) -> Iterator[str]:
    found = next(filter(None, map(environment.library_version, RUNTIMES[name])), None)
    if found is None:
        yield f"it needs {name} {wanted}, which is not installed"
        return
    have, need = _release(found), _release(wanted)
    if have < need or (name in EXACT and have != need):
        yield f"it needs {name} {wanted}, and {found} is installed"


def _release(version: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
