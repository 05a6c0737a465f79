"""ONNX graphs: read and written as files, run for comparison, compared.

What every pass over graphs shares. Graphs are `onnx.ModelProto`s with all tensors inside; written ones are canonical:
equal graphs give equal bytes, and nothing in them tells of the machine or the source lines that they came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from edgeopt import files
from edgeopt.errors import MissingError, PassError, SourceError
from edgeopt.model import TensorSpec

if TYPE_CHECKING:
    import onnxruntime

Arrays = dict[str, NDArray[Any]]

#: quantizes again what a graph keeps in float; turned off as in the backend, for the same results
TURNED_OFF = ["WeightBiasQuantization"]

#: reduction → the opset from which its axes are an input
AXES_AS_INPUT = {"ReduceMin": 18, "ReduceMax": 18, "ReduceMean": 18, "ReduceSum": 13}

SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph; tensors in other files are refused, since a model is one file.

    Raises:
        SourceError: the file does not hold an ONNX graph, or some of its tensors lie elsewhere.
    """
    try:
        graph = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise SourceError(f"cannot read `{path}`: {error.strerror}") from error
    except DecodeError as error:
        raise SourceError(f"`{path}` does not parse as ONNX", "export the network again") from error
    if not graph.graph.node:
        raise SourceError(f"`{path}` does not parse as ONNX: it has no nodes", "export the network again")
    outside = [tensor.name for tensor in _tensors(graph.graph) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise SourceError(
            f"`{path}` keeps {len(outside)} tensors in other files, `{outside[0]}` among them",
            "save it with its tensors inside: `onnx.save(onnx.load(path), path)`",
        )
    return graph


def save_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write `graph` in canonical form; the given one is left as it is.

    Raises:
        PassError: the graph is larger than the 2 GB that one file can hold.
    """
    files.write_bytes(path, serialize(graph))


def serialize(graph: onnx.ModelProto) -> bytes:
    """The canonical bytes of a graph: no doc strings, no metadata, fixed order inside messages."""
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    del bare.metadata_props[:]
    bare.producer_name = "edgeopt"
    bare.ClearField("producer_version")
    bare.ClearField("doc_string")
    for each in [bare.graph, *_subgraphs(bare.graph)]:
        _strip(each)
    try:
        content: bytes = bare.SerializeToString(deterministic=True)
    except (ValueError, DecodeError) as error:
        raise PassError(f"the graph cannot be written as one ONNX file: {error}") from error
    return content


def input_specs(graph: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """What a caller feeds: graph inputs that are not initializers."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    return tuple(_spec(value) for value in graph.graph.input if value.name not in constants)


def output_specs(graph: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value) for value in graph.graph.output)


def inline_identities(graph: onnx.ModelProto) -> None:
    """Let the readers of every `Identity` read its input instead, in place; those that name a graph output stay.

    Exporters write one where two tensors are equal, and runtimes fuse no convolution whose bias comes out of a node.
    """
    kept = {value.name for value in graph.graph.output}
    renamed: dict[str, str] = {}
    for node in graph.graph.node:
        if node.op_type == "Identity" and not node.domain and node.output[0] not in kept:
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
    remaining = [node for node in graph.graph.node if not (node.output and node.output[0] in renamed)]
    for each in [graph.graph, *_subgraphs(graph.graph)]:
        for node in each.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.graph.node[:]
    graph.graph.node.extend(remaining)


#: what turns operators between pairs into integer kernels
FUSING = ("QDQSelectorActionTransformer", "QDQFinalCleanupTransformer", "QDQPropagationTransformer")


def add_reduction(
    graph: onnx.ModelProto, operator: str, tensor: str, result: str, axes: Sequence[int], *, keep: bool = False
) -> None:
    """Add, in place, `operator` (ReduceMin, ReduceMean …) over the axes of a tensor, with its result as an output.

    Args:
        keep: the axes, with a length of 1.
    """
    opset = next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    node = onnx.helper.make_node(operator, [tensor], [result], name=result, keepdims=int(keep))
    if opset >= AXES_AS_INPUT[operator]:
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(axes, np.int64), f"{result}_axes"))
        node.input.append(f"{result}_axes")
    else:
        node.attribute.append(onnx.helper.make_attribute("axes", axes))
    graph.graph.node.append(node)
    graph.graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None))


def make_session(
    graph: onnx.ModelProto | bytes, threads: int = 1, *, as_written: bool = False
) -> onnxruntime.InferenceSession:
    """A quiet ONNX Runtime session on the CPU, for passes that must know what a graph computes.

    Args:
        as_written: each pair rounds in float, and nothing saturates that the graph does not say.

    Raises:
        MissingError: ONNX Runtime is not installed.
        PassError: ONNX Runtime refuses the graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("ONNX Runtime is not installed", "pip install `edgeopt[cpu]`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    try:
        return onnxruntime.InferenceSession(
            content,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[*TURNED_OFF, *(FUSING if as_written else ())],
        )
    except Exception as error:  # the runtime's own exceptions have no base but Exception
        raise PassError(f"ONNX Runtime refuses the graph: {_first_line(error)}") from error


def run_session(session: onnxruntime.InferenceSession, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """All outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def random_inputs(specs: Sequence[TensorSpec], batch: int, seed: int) -> Arrays:
    """Standard normal floats, or 0 and 1 for other dtypes, in the shapes of `specs`."""
    generator = np.random.default_rng(seed)
    return {spec.name: _random_array(spec, batch, generator) for spec in specs}


def max_difference(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> float:
    """The largest difference between outputs of the same names, relative to the largest magnitude of each in `one`.

    Infinite where shapes differ, or where one has a NaN or infinity and the other another value.
    """
    return max((_difference(array, other[name]) for name, array in one.items()), default=0.0)


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    if one.shape != other.shape:
        return float("inf")
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return float("inf")
    a, b = one[finite].astype(np.float64), other[finite].astype(np.float64)
    scale = float(np.abs(a).max(initial=0.0))
    return float(np.abs(a - b).max(initial=0.0)) / (scale or 1.0)


def _random_array(spec: TensorSpec, batch: int, generator: np.random.Generator) -> NDArray[Any]:
    shape, dtype = spec.with_batch(batch), np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    )
    return TensorSpec(name=value.name, dtype=onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape=shape)


def _strip(graph: onnx.GraphProto) -> None:
    named: Iterable[Any] = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info]
    for message in named:
        message.ClearField("doc_string")
        del message.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")


def _subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside control-flow nodes, at any depth."""
    for attribute in (attribute for node in graph.node for attribute in node.attribute if attribute.type in SUBGRAPHS):
        for inner in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            yield inner
            yield from _subgraphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for each in [graph, *_subgraphs(graph)]:
        yield from each.initializer
        for attribute in (attribute for node in each.node for attribute in node.attribute):
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
