"""Golden samples: a few raw inputs and what the winner made of them, for a device to see that it computes the same.

One `.npz` file with the arrays `<sample>/input/<name>`, as raw as the data format gave them (images may differ in
size), and `<sample>/output/<name>`, without the batch axis.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.archive import pack_members
from edgeopt.errors import TrustError


@dataclass(frozen=True)
class Golden:
    """One sample: raw inputs before preprocessing, and outputs, both by name and without the batch axis."""

    inputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)


def pack_golden(samples: Sequence[Golden]) -> bytes:
    """The bytes of the file; the same samples give the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, sample in enumerate(samples):
        arrays |= {f"{number}/input/{name}": array for name, array in sample.inputs.items()}
        arrays |= {f"{number}/output/{name}": array for name, array in sample.outputs.items()}
    return pack_members([(f"{name}.npy", _to_npy(arrays[name])) for name in sorted(arrays)])


def load_golden(path: Path) -> tuple[Golden, ...]:
    """The samples of a file, in order.

    Raises:
        TrustError: the file holds something else, such as pickled objects.
    """
    samples: dict[int, Golden] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                number, kind, name = key.split("/", 2)
                sample = samples.setdefault(int(number), Golden())
                {"input": sample.inputs, "output": sample.outputs}[kind][name] = arrays[key]
    except (ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise TrustError(f"`{path}` holds no golden samples: {error}", "make the bundle again") from error
    return tuple(samples[number] for number in sorted(samples))


def _to_npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()
