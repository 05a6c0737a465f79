"""What every activation is like over the calibration samples, streamed: memory does not grow with their number.

The smallest and largest value of each tensor and sample are reduced inside the graph, so that only three numbers for
each leave a batch: minimum, maximum and sum; the sum is there because ONNX Runtime's minimum and maximum step over a
NaN, which its sum does not. Where a calibrator wants a histogram, a second pass counts values in bins that lie between
the extremes of the first, so no bin ever moves and the order of the samples does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeopt import keys
from edgeopt.context import Memo
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import TensorSpec
from edgeopt.onnx_graph import add_reduction, make_session, serialize
from edgeopt.quantization.arithmetic import Quantizer, Range
from edgeopt.quantization.seen import Extremes, Seen, pack_seen, unpack_seen

Arrays = dict[str, NDArray[Any]]
Batches = Callable[[], Iterable[Arrays]]

#: enough to keep two cores busy; more only takes more memory
BATCH_SIZE = 8

_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceSum")
_PREFIX = "edgeopt_range"


def stream_batches(samples: Samples, inputs: Sequence[TensorSpec], most: int = BATCH_SIZE) -> Iterator[Arrays]:
    """The samples in batches of a size that the graph takes; a short last batch is filled up with its own rows."""
    fixed = [spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)]
    size = int(fixed[0]) if fixed else most
    for batch in samples.batches(size):
        rows = np.arange(size if fixed else len(batch.indices)) % len(batch.indices)
        yield {name: array[rows] for name, array in batch.inputs.items()}


def observe(
    graph: onnx.ModelProto,
    tensors: Iterable[str],
    batches: Batches,
    *,
    bins: int = 0,
    threads: int = 1,
    on_batch: Callable[[int], None] = lambda count: None,
    memo: Memo | None = None,
) -> dict[str, Seen]:
    """What is seen of each of `tensors` (inputs of the graph or results in it) over all batches.

    Args:
        batches: called once for each pass over the samples.
        bins: of the histograms; 0 where none is wanted.
        on_batch: told the number of samples of each batch that is done.
        memo: where the result is kept, for the same graph, tensors and samples.

    Raises:
        PassError: a tensor takes a value that is not finite, or there are no batches.
    """
    names = list(tensors)
    parts = [hashlib.sha256(serialize(graph)).hexdigest(), names, bins, keys.code_parts([__name__])]
    kept = None if memo is None else memo.get(parts)
    if kept is not None:
        return unpack_seen(kept, names)
    extremes = Extremes(names)
    session = make_session(_with_reductions(graph, names), threads)
    outputs = [_output(index, reduction) for reduction in _REDUCTIONS for index in range(len(names))]
    for batch in batches():
        reduced = run_batch(session, outputs, batch)
        operators = np.repeat(_REDUCTIONS, len(names))
        rows = [_per_sample(row, operator, count_of(batch)) for row, operator in zip(reduced, operators, strict=True)]
        figures = np.stack(rows).reshape(len(_REDUCTIONS), len(names), -1)
        _require_finite(figures, names)
        extremes.add(figures)
        on_batch(count_of(batch))
    if not extremes.samples:
        raise PassError("there are no calibration samples", "give `data: calibration:` at least 100")
    seen = extremes.result()
    if bins:
        seen = _count_values(graph, seen, batches, bins, threads, on_batch)
    if memo is not None:
        memo.put(parts, pack_seen(seen))
    return seen


def _per_sample(row: NDArray[Any], reduction: str, samples: int) -> NDArray[np.float64]:
    """(samples,) figures from those along the first axis of a tensor, which a Reshape or Transpose may have changed."""
    apply = {"ReduceMin": np.minimum, "ReduceMax": np.maximum, "ReduceSum": np.add}[reduction]
    wide = row.astype(np.float64)
    if len(row) % samples:
        return np.full(samples, apply.reduce(wide))
    return np.asarray(apply.reduce(wide.reshape(samples, -1), axis=1))


def clipped_share(
    graph: onnx.ModelProto, quantizers: Mapping[str, Quantizer], batches: Iterable[Arrays], threads: int = 1
) -> float:
    """The share of the values of these tensors, from 0 to 1, that lie beyond what their quantizers hold.

    Of images like those of calibration next to none does; of others the ranges cut off what matters.
    """
    names = list(quantizers)
    ends = {name: _ends(quantizer) for name, quantizer in quantizers.items()}
    session = make_session(_with_outputs(graph, names), threads)
    inner = [name for name in names if name not in {value.name for value in graph.graph.input}]
    beyond = total = 0
    for batch in batches:
        values = dict(zip(inner, run_batch(session, inner, batch), strict=True)) | batch
        for name, (low, high) in ends.items():
            beyond += int(np.count_nonzero((values[name] < low) | (values[name] > high)))
            total += values[name].size
    return beyond / max(1, total)


def _ends(quantizer: Quantizer) -> tuple[float, float]:
    """The smallest and largest value that one step of rounding leaves within what the quantizer holds."""
    limits, scale = np.iinfo(quantizer.zero_point.dtype), float(quantizer.scale)
    zero_point = int(quantizer.zero_point)
    return (limits.min - zero_point - 1) * scale, (limits.max - zero_point + 1) * scale


def collect_minmax(
    graph: onnx.ModelProto,
    tensors: Iterable[str],
    batches: Iterable[Arrays],
    threads: int = 1,
    on_batch: Callable[[int], None] = lambda count: None,
) -> dict[str, Range]:
    """The smallest and largest value of each of `tensors`: see `observe`."""
    seen = observe(graph, tensors, lambda: batches, threads=threads, on_batch=on_batch)
    return {name: one.range for name, one in seen.items()}


def _count_values(
    graph: onnx.ModelProto, seen: dict[str, Seen], batches: Batches, bins: int, threads: int,
    on_batch: Callable[[int], None],
) -> dict[str, Seen]:  # fmt: skip
    """The same with histograms, from a second pass in which the tensors themselves leave the graph."""
    names = list(seen)
    counts = {name: np.zeros(bins, np.int64) for name in names}
    session = make_session(_with_outputs(graph, names), threads)
    inner = [name for name in names if name not in {value.name for value in graph.graph.input}]
    for batch in batches():
        # One sample at a time: what leaves the graph is all of its activations.
        for at in range(count_of(batch)):
            sample = {name: array[at : at + 1] for name, array in batch.items()} if _is_free(graph) else batch
            values = dict(zip(inner, run_batch(session, inner, sample), strict=True)) | sample
            for name in names:
                counts[name] += _histogram(values[name], seen[name], bins)
            if not _is_free(graph):
                break
        on_batch(count_of(batch))
    return {name: replace(one, counts=counts[name]) for name, one in seen.items()}


def _histogram(values: NDArray[Any], seen: Seen, bins: int) -> NDArray[np.int64]:
    width = seen.high - seen.low
    if width <= 0.0:
        return np.bincount([0], weights=[values.size], minlength=bins).astype(np.int64)
    places = ((values.ravel() - np.float32(seen.low)) * np.float32(bins / width)).astype(np.int32)
    return np.bincount(np.clip(places, 0, bins - 1, out=places), minlength=bins)


def _is_free(graph: onnx.ModelProto) -> bool:
    """Whether the graph takes batches of any size."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    shapes = [value.type.tensor_type.shape for value in graph.graph.input if value.name not in constants]
    return not any(shape.dim and shape.dim[0].HasField("dim_value") for shape in shapes)


def run_batch(session: Any, outputs: Sequence[str], batch: Arrays, **others: NDArray[Any]) -> list[NDArray[Any]]:
    """These outputs of a session for a batch of samples, and other inputs that it has.

    Raises:
        PassError: the network does not run on it.
    """
    if not outputs:
        return []
    try:
        found: list[NDArray[Any]] = session.run(list(outputs), {**batch, **others})
    except Exception as error:  # the runtime's own exceptions have no base but Exception
        raise PassError(f"the network does not run on {count_of(batch)} calibration samples: {error}") from error
    return found


def count_of(batch: Arrays) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))


def _output(index: int, reduction: str) -> str:
    return f"{_PREFIX}_{index}_{reduction}"


def _with_reductions(graph: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The graph with the reductions, (samples,) each, as its only outputs; the tensors themselves stay inside, where
    memory is reused."""
    reduced = onnx.ModelProto()
    reduced.CopyFrom(graph)
    del reduced.graph.output[:]
    for index, name in enumerate(names):
        flat = f"{_PREFIX}_{index}_flat"
        reduced.graph.node.append(onnx.helper.make_node("Flatten", [name], [flat], name=flat, axis=1))
        for reduction in _REDUCTIONS:
            add_reduction(reduced, reduction, flat, _output(index, reduction), [1])
    return reduced


def _with_outputs(graph: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The graph with these tensors as its only outputs, but for those that are its inputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    del opened.graph.output[:]
    inputs = {value.name for value in graph.graph.input}
    kinds = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    opened.graph.output.extend(kind for kind in kinds if kind.name not in inputs)
    return opened


def _require_finite(reduced: NDArray[np.float64], names: Sequence[str]) -> None:
    finite = np.isfinite(reduced).all(axis=(0, 2))
    if not finite.all():
        raise PassError(
            f"the float network yields values that are not finite in `{names[int(np.argmin(finite))]}`",
            "look for NaN or infinity in the calibration images, the preprocessing and the weights",
        )
