"""An ONNX file: one graph of standard operators with its tensors inside, for networks that are not there as torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeopt.errors import MissingError, PassError, SourceError, did_you_mean
from edgeopt.model import Facts, Model, OnnxValue, TensorSpec, write_model
from edgeopt.sources import Source, SourceRequest

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 13
STANDARD_DOMAINS = ("", "ai.onnx")
BATCH = "batch"
FIRST_AXIS = "the first axis of each input and output must be the batch: symbolic, or fixed at 1"


class OnnxFile(Source):
    """Loads `onnx:`."""

    def load(self, request: SourceRequest, folder: Path) -> tuple[Model, Facts]:
        """Load the graph into `folder`; a symbolic first axis is the batch, other symbolic axes need `inputs:`.

        It is run once on zeros where ONNX Runtime is installed; elsewhere the outputs are those that ONNX infers.
        """
        from edgeopt import onnx_graph

        if request.onnx is None:
            raise SourceError("there is no `onnx:` to load", "add it to `model:`")
        path = request.onnx
        if not path.is_file():
            raise SourceError(f"there is no file `{path}`", did_you_mean(path.name, _neighbours(path)))
        graph = onnx_graph.load_graph(path)
        _check(graph, path)
        _settle_inputs(graph, request.inputs, path)
        inputs = onnx_graph.input_specs(graph)
        outputs = _find_outputs(graph, inputs, path)
        _settle_outputs(graph, outputs)
        model = Model(value=OnnxValue(), inputs=inputs, outputs=outputs, folder=folder, sources=request.root)
        onnx_graph.save_graph(graph, model.path)
        return write_model(model, folder), _describe(graph)


def read_inputs(path: Path) -> tuple[TensorSpec, ...]:
    """What a worker runs: the inputs as the file declares them, its open axes by their symbols.

    Raises:
        SourceError: it is no ONNX file, or not one that edgeopt takes.
    """
    from edgeopt import onnx_graph

    graph = onnx_graph.load_graph(path)
    _check(graph, path)
    return onnx_graph.input_specs(graph)


def _check(graph: onnx.ModelProto, path: Path) -> None:
    """Refuse what does not follow the standard, and what no edge backend runs."""
    import onnx

    nodes = graph.graph.node
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in STANDARD_DOMAINS})
    if foreign:
        raise SourceError(f"`{path}` uses operators beyond the standard: {', '.join(foreign)}", "export without them")
    control = sorted({node.op_type for node in nodes if any(map(_is_graph, node.attribute))})
    if control:
        raise SourceError(f"`{path}` has control flow: {', '.join(control)}", "export the network for one fixed path")
    try:
        onnx.checker.check_model(graph)
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SourceError(f"`{path}` is not a sound ONNX graph: {reason}", "export the network again") from error
    for value in (*graph.graph.input, *graph.graph.output):
        if not value.type.HasField("tensor_type"):
            raise SourceError(f"`{value.name}` of `{path}` is not a tensor", "export the network with tensors only")
    opset = max((entry.version for entry in graph.opset_import if entry.domain in STANDARD_DOMAINS), default=0)
    if opset < OLDEST_OPSET:
        hint = f"export it again, or use `onnx.version_converter.convert_version(graph, {OLDEST_OPSET})`"
        raise SourceError(f"`{path}` has opset {opset}, at least {OLDEST_OPSET} is needed", hint)


def _is_graph(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("g") or len(attribute.graphs) > 0


def _settle_inputs(graph: onnx.ModelProto, wanted: Sequence[TensorSpec], path: Path) -> None:
    """Give every axis but the batch a size, from the recipe where the file leaves it open, and compare the two."""
    from edgeopt import onnx_graph

    given = {spec.name: spec for spec in onnx_graph.input_specs(graph)}
    if not given:
        raise SourceError(f"`{path}` has no inputs", "export the network again, with its input open")
    named = {spec.name: spec for spec in wanted}
    for name in named.keys() - given.keys():
        raise SourceError(f"`{path}` has no input `{name}`", did_you_mean(name, given))
    for name in given.keys() - named.keys():
        if named:
            raise SourceError(f"the recipe's `inputs:` lack `{name}` of `{path}`", "name all inputs, or none")
    for value in graph.graph.input:
        if value.name in given:
            _settle_input(value.type.tensor_type.shape.dim, given[value.name], named.get(value.name), path)


def _settle_input(dims: Any, given: TensorSpec, wanted: TensorSpec | None, path: Path) -> None:
    called = f"the input `{given.name}` of `{path}`"
    if not given.shape or not (isinstance(given.shape[0], str) or given.shape[0] == 1):
        raise SourceError(f"{called} has shape {_show(given.shape)}", FIRST_AXIS)
    if wanted is not None and not _agree(given, wanted):
        said = f"{wanted.dtype} {_show(wanted.shape)}"
        message = f"{called} is {given.dtype} {_show(given.shape)}, the recipe says {said}"
        raise SourceError(message, "the recipe's shapes are without the batch axis")
    if wanted is None and any(isinstance(axis, str) for axis in given.shape[1:]):
        raise SourceError(f"{called} leaves sizes open: {_show(given.shape)}", "say in `inputs:` which sizes it has")
    if given.shape[0] != 1:
        dims[0].dim_param = BATCH
    for dim, size in zip(list(dims)[1:], [] if wanted is None else wanted.shape, strict=False):
        dim.dim_value = size


def _agree(given: TensorSpec, wanted: TensorSpec) -> bool:
    sizes = given.shape[1:]
    alike = all(isinstance(one, str) or one == other for one, other in zip(sizes, wanted.shape, strict=False))
    return given.dtype == wanted.dtype and len(sizes) == len(wanted.shape) and alike


def _find_outputs(graph: onnx.ModelProto, inputs: Sequence[TensorSpec], path: Path) -> tuple[TensorSpec, ...]:
    """What comes out for a batch of zeros of two images, or of one where the batch is fixed."""
    import numpy as np

    from edgeopt import onnx_graph

    fixed = inputs[0].shape[0] == 1
    batch = 1 if fixed else 2
    zeros = {spec.name: np.zeros(spec.with_batch(batch), np.dtype(spec.dtype)) for spec in inputs}
    try:
        results = onnx_graph.run_session(onnx_graph.make_session(graph), zeros)
    except MissingError:
        return _infer_outputs(graph, path)
    except Exception as error:  # the runtime's own exceptions have no base but Exception
        reason = error.message if isinstance(error, PassError) else " ".join(str(error).split())[:300]
        raise SourceError(f"`{path}` cannot be run: {reason}", "export the network again") from error
    for name, array in results.items():
        if array.ndim == 0 or array.shape[0] != batch:
            message = f"the output `{name}` of `{path}` has shape {_show(array.shape)} for a batch of {batch}"
            raise SourceError(message, FIRST_AXIS)
    return tuple(
        TensorSpec(name=name, dtype=array.dtype.name, shape=(1 if fixed else BATCH, *array.shape[1:]))
        for name, array in results.items()
    )


def _infer_outputs(graph: onnx.ModelProto, path: Path) -> tuple[TensorSpec, ...]:
    import onnx

    from edgeopt import onnx_graph

    outputs = onnx_graph.output_specs(onnx.shape_inference.infer_shapes(graph, data_prop=True))
    for spec in outputs:
        if not spec.shape or any(isinstance(axis, str) for axis in spec.shape[1:]):
            message = f"the output `{spec.name}` of `{path}` has an unknown shape {_show(spec.shape)}"
            raise SourceError(message, "install `edgeopt[cpu]`, so that the network can be run")
    return tuple(
        spec.model_copy(update={"shape": (BATCH if isinstance(spec.shape[0], str) else spec.shape[0], *spec.shape[1:])})
        for spec in outputs
    )


def _settle_outputs(graph: onnx.ModelProto, outputs: Sequence[TensorSpec]) -> None:
    """Write the found shapes into the graph, in place of open or wrong ones."""
    for value, spec in zip(graph.graph.output, outputs, strict=True):
        shape = value.type.tensor_type.shape
        shape.Clear()
        for axis in spec.shape:
            shape.dim.add(**({"dim_param": axis} if isinstance(axis, str) else {"dim_value": axis}))


def _describe(graph: onnx.ModelProto) -> Facts:
    # Integers are shapes and indices, but for the 8-bit ones of a network that is quantized already.
    import onnx

    kinds = onnx.TensorProto
    counted = (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE, kinds.INT8, kinds.UINT8)
    parameters = sum(math.prod(tensor.dims) for tensor in graph.graph.initializer if tensor.data_type in counted)
    nodes = len(graph.graph.node)
    summary = f"{nodes} nodes, {parameters / 1e6:.2f} M parameters"
    return {"parameters": parameters, "nodes": nodes, "summary": summary}


def _show(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(str(axis) for axis in shape) + "]"


def _neighbours(path: Path) -> list[str]:
    return [file.name for file in path.parent.glob("*.onnx")] if path.parent.is_dir() else []
