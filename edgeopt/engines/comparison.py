"""The outputs of a built engine beside those that ONNX Runtime gives for the same graph, all of them.

TensorRT fuses layers into kernels that it makes up, and some have given NaN or nonsense; so no engine ships unseen.
What is expected was computed where the plan was written, pair by pair and with nothing fused.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import files
from edgeopt.engines.lane import Arrays
from edgeopt.engines.plan import EXPECTED_FILE, BuildPlan
from edgeopt.errors import BackendError, UsageError

INPUT, OUTPUT = "input/", "output/"


def write_expected(inputs: Arrays, outputs: Arrays, folder: Path) -> None:
    content = io.BytesIO()
    named = {INPUT + name: array for name, array in inputs.items()}
    named |= {OUTPUT + name: array for name, array in outputs.items()}
    np.savez_compressed(content, **named)  # type: ignore[arg-type]
    files.write_bytes(folder / EXPECTED_FILE, content.getvalue())


def load_expected(folder: Path) -> tuple[Arrays, Arrays]:
    """Inputs, and the outputs that they should give.

    Raises:
        UsageError: they are not there, or cannot be read.
    """
    path = folder / EXPECTED_FILE
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"`{path}` cannot be read: {error}", "compile again") from error
    inputs, outputs = ({name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}
                       for kind in (INPUT, OUTPUT))  # fmt: skip
    return inputs, outputs


def compare_outputs(run: Callable[[Arrays], Arrays], plan: BuildPlan, folder: Path) -> float:
    """Run an engine on what was written beside its plan; returns the largest relative error of an output.

    Raises:
        BackendError: an output is missing, not finite, or too far from what is expected.
    """
    inputs, expected = load_expected(folder)
    found = run(inputs)
    errors = {name: _error(name, array, found.get(name)) for name, array in expected.items()}
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > plan.tolerance():
        what = f"output `{worst}` of the engine differs from ONNX Runtime's by {errors[worst]:.1%} of its norm"
        advice = "lower `optimization_level`, or allow it by `tolerance`, if the accuracy that is measured is good"
        raise BackendError(f"{what}, allowed is {plan.tolerance():.1%}", advice)
    return errors[worst]


def _error(name: str, expected: NDArray[Any], found: NDArray[Any] | None) -> float:
    """The norm of the difference as a share of that of what is expected."""
    if found is None or found.shape != expected.shape:
        shape = "nothing" if found is None else f"shape {list(found.shape)}"
        raise BackendError(f"output `{name}` of the engine has {shape}, expected was {list(expected.shape)}")
    wanted, given = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(given)):
        wrong = int((np.isfinite(given) != finite).sum())
        what = f"output `{name}` of the engine is NaN or infinite in {wrong} places where ONNX Runtime's is not"
        raise BackendError(what, "lower `optimization_level`, or run the network in another precision")
    norm = float(np.linalg.norm(wanted[finite]))
    return float(np.linalg.norm((given - wanted)[finite])) / (norm or 1.0)
