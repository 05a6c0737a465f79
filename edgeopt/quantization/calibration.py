"""The range of each activation over the calibration samples, streamed: memory does not grow with their number.

The smallest and largest value of a tensor are reduced inside the graph, so that only three numbers per tensor leave a
batch. They are its minimum, its maximum and its sum: the sum is there because ONNX Runtime's minimum and maximum step
over a NaN, which its sum does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import TensorSpec
from edgeopt.onnx_graph import make_session
from edgeopt.quantization.arithmetic import Range

Arrays = dict[str, NDArray[Any]]

#: enough to keep two cores busy; more only takes more memory
BATCH_SIZE = 8

_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceSum")
_PREFIX = "edgeopt_range"


def stream_batches(samples: Samples, inputs: Sequence[TensorSpec]) -> Iterator[Arrays]:
    """The samples in batches of a size that the graph takes; a short last batch is filled up with its own rows."""
    fixed = [spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)]
    size = int(fixed[0]) if fixed else BATCH_SIZE
    for batch in samples.batches(size):
        rows = np.arange(size if fixed else len(batch.indices)) % len(batch.indices)
        yield {name: array[rows] for name, array in batch.inputs.items()}


def collect_minmax(
    graph: onnx.ModelProto,
    tensors: Iterable[str],
    batches: Iterable[Arrays],
    threads: int = 1,
    on_batch: Callable[[int], None] = lambda count: None,
) -> dict[str, Range]:
    """The smallest and largest value of each of `tensors` (inputs of the graph or results in it) over all batches.

    `on_batch` is told the number of samples of each batch that is done.

    Raises:
        PassError: a tensor takes a value that is not finite, or there are no batches.
    """
    names = list(tensors)
    session = make_session(_with_reductions(graph, names), threads)
    outputs = [f"{_PREFIX}_{index}_{reduction}" for reduction in _REDUCTIONS for index in range(len(names))]
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for batch in batches:
        count = len(next(iter(batch.values())))
        try:
            reduced = np.asarray(session.run(outputs, batch), np.float64).reshape(len(_REDUCTIONS), len(names))
        except Exception as error:  # the runtime's own exceptions have no base but Exception
            raise PassError(f"the float network does not run on {count} calibration samples: {error}") from error
        _require_finite(reduced, names)
        low, high = np.minimum(low, reduced[0]), np.maximum(high, reduced[1])
        on_batch(count)
    if names and math.isinf(low[0]):
        raise PassError("there are no calibration samples", "give `data: calibration:` at least 100")
    return {name: Range(float(low[index]), float(high[index])) for index, name in enumerate(names)}


def _with_reductions(graph: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The graph with the reductions as its only outputs; the tensors themselves stay inside, where memory is reused."""
    reduced = onnx.ModelProto()
    reduced.CopyFrom(graph)
    del reduced.graph.output[:]
    for index, name in enumerate(names):
        for reduction in _REDUCTIONS:
            result = f"{_PREFIX}_{index}_{reduction}"
            reduced.graph.node.append(onnx.helper.make_node(reduction, [name], [result], name=result, keepdims=0))
            reduced.graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, []))
    return reduced


def _require_finite(reduced: NDArray[np.float64], names: Sequence[str]) -> None:
    finite = np.isfinite(reduced).all(axis=0)
    if not finite.all():
        raise PassError(
            f"the float network yields values that are not finite in `{names[int(np.argmin(finite))]}`",
            "look for NaN or infinity in the calibration images, the preprocessing and the weights",
        )
