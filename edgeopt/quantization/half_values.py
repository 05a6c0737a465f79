"""What a float16 holds: constants, scales of pairs, and activations by the largest of them that samples showed.

It reaches from 2⁻¹⁴ with all of its 11 bits to 65504. A tensor fits if its largest value does: what is so much smaller
that it loses bits, or becomes zero, is then no more wrong than the largest value beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeopt.onnx_graph import make_session
from edgeopt.quantization.calibration import Arrays, run_batch

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_normal)

#: a scale may be rounded by half a step of 128
SCALE_TOLERANCE = 2.0**-8

#: steps that the scale of a pair is multiplied by, at most
MOST_STEPS = 255

_PREFIX = "edgeopt_peak"


def misfit(peak: float, headroom: float = 1.0) -> str:
    """Why a tensor whose largest magnitude is `peak` cannot be float16, as the end of a sentence; empty if it can."""
    if peak * headroom > LARGEST:
        return f"reaches {peak:.3g}"
    return f"holds nothing above {peak:.3g}" if 0 < peak < SMALLEST else ""


def largest(array: NDArray[Any]) -> float:
    """The largest finite magnitude: infinity and NaN are the same in float16."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def round_scale(scale: NDArray[Any], unused: NDArray[np.bool_] | None = None) -> NDArray[np.float32] | None:
    """The scale of a pair as float16 holds it, or None where it holds it too badly.

    Args:
        unused: of the shape of `scale`: where all integers are zero, so that any scale will do.
    """
    given = scale.astype(np.float32)
    if unused is not None:
        given = np.where(unused, np.maximum(given, np.float32(SMALLEST)), given)
    if not (given * MOST_STEPS <= LARGEST).all():
        return None
    rounded: NDArray[np.float32] = given.astype(np.float16).astype(np.float32)
    return rounded if bool((np.abs(rounded - given) <= SCALE_TOLERANCE * given).all()) else None


def measure_peaks(
    graph: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[Arrays], threads: int = 1
) -> dict[str, float]:
    """The largest magnitude of each of these tensors over the samples; infinite where one is.

    Raises:
        PassError: the network does not run on them.
    """
    reduced = onnx.ModelProto()
    reduced.CopyFrom(graph)
    del reduced.graph.output[:]
    names = [f"{_PREFIX}_{index}_{operator}" for index in range(len(tensors)) for operator in ("Min", "Max")]
    for name, tensor in zip(names, np.repeat(list(tensors), 2).tolist(), strict=True):
        operator = f"Reduce{name.rpartition('_')[2]}"
        reduced.graph.node.append(onnx.helper.make_node(operator, [tensor], [name], name=name, keepdims=0))
        reduced.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ()))
    peaks = np.zeros(len(tensors))
    session = make_session(reduced, threads, as_written=True)
    for batch in batches:
        ends = np.abs(np.asarray(run_batch(session, names, batch), np.float64)).reshape(-1, 2)
        peaks = np.fmax(peaks, ends.max(axis=1))
    return dict(zip(tensors, peaks.tolist(), strict=True))
