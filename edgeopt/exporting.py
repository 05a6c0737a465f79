"""From torch to ONNX: one file with all tensors inside, and proof that it computes the same.

Two exporters are tried in this order, and the first whose graph agrees with the network is taken:

- `trace` (TorchScript) runs the network once. Its graphs are the cleaner ones, and it takes 0.2 s: a global pooling
  stays one. It cannot see control flow that depends on values, so a warning of it counts as a failure here.
- `capture` (torch.export) is sound about control flow and knows newer operators; it takes 3 to 9 s and writes a global
  pooling as a mean, which ONNX Runtime does not compute in integers.

Both fold normalization into the convolutions and give the same bytes each time.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import torch
from torch.jit._trace import TracerWarning
from torch.utils.hooks import RemovableHandle

from edgeopt import onnx_graph
from edgeopt.errors import MissingError, PassError
from edgeopt.model import Facts, Model
from edgeopt.network import name_outputs

#: traced with one batch size, compared with others, so that a batch baked into the graph is found
TRACED_BATCH = 2
COMPARED_BATCHES = (1, 3)
REMEDY = "check that the network computes the same for every batch size, and without `if` on values"

OPSET, TOLERANCE = 18, 1e-4


def export(
    network: torch.nn.Module, model: Model, seed: int = 0, opset: int = OPSET, tolerance: float = TOLERANCE
) -> tuple[onnx.ModelProto, Facts]:
    """The first graph that agrees with the network, and what there is to tell of it. The network is left as it was.

    Args:
        model: promises the inputs and outputs that the graph must have.
        tolerance: largest difference between graph and network on random inputs, relative to the outputs.

    Raises:
        PassError: no exporter gives such a graph.
    """
    handle = _flatten_outputs(network, model)
    try:
        return _export(network, model, seed, opset, tolerance)
    finally:
        handle.remove()


def export_graph(network: torch.nn.Module, model: Model, seed: int = 0) -> onnx.ModelProto:
    """As `export`, for those who want the graph alone."""
    return export(network, model, seed)[0]


def _export(
    network: torch.nn.Module, model: Model, seed: int, opset: int, tolerance: float
) -> tuple[onnx.ModelProto, Facts]:
    failures: list[str] = []
    for name, exporter in EXPORTERS.items():
        try:
            graph = _run_exporter(exporter, network, model, opset)
            difference = _compare(network, graph, model, seed)
        except MissingError:
            raise
        except Exception as error:  # exporters raise anything; it is told in the facts, or in the error below
            failures.append(f"`{name}` failed: {_first_line(error)}")
            continue
        if difference <= tolerance:
            facts: dict[str, str | int | float] = {"exporter": name, "max_difference": difference}
            facts["summary"] = f"max difference {difference:.0e}"
            if failures:
                facts["exporter_reason"] = failures[0]
            return graph, facts
        failures.append(f"by `{name}` outputs differ by {difference:.0e}, allowed is {tolerance:.0e}")
    raise PassError(f"the network cannot be exported: {'; '.join(failures)}", REMEDY)


Exporter = Callable[[torch.nn.Module, Model, int], onnx.ModelProto]


def _run_exporter(exporter: Exporter, network: torch.nn.Module, model: Model, opset: int) -> onnx.ModelProto:
    """The graph with the names and shapes that the model promises."""
    with _quiet():
        graph = exporter(network, model, opset)
    onnx_graph.inline_identities(graph)
    if onnx_graph.input_specs(graph) != model.inputs or onnx_graph.output_specs(graph) != model.outputs:
        found = onnx_graph.input_specs(graph) + onnx_graph.output_specs(graph)
        described = ", ".join(f"`{spec.name}` {list(spec.shape)}" for spec in found)
        raise PassError(f"inputs and outputs became {described}")
    written = {each.domain: each.version for each in graph.opset_import}
    if written[""] != opset:
        raise PassError(f"the graph has opset {written['']}, not {opset}")
    return graph


def _trace(network: torch.nn.Module, model: Model, opset: int) -> onnx.ModelProto:
    specs = [*model.inputs, *model.outputs]
    axes = {spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in specs}
    content = io.BytesIO()
    options: dict[str, Any] = {"opset_version": opset, "dynamic_axes": axes, **_names(model)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", TracerWarning)
        torch.onnx.export(network, _example(model), content, dynamo=False, **options)  # type: ignore[arg-type]
    doubts = [str(warning.message) for warning in told if issubclass(warning.category, TracerWarning)]
    if doubts:
        raise PassError(doubts[0].partition(". ")[0])
    return onnx.load_model_from_string(content.getvalue())


def _capture(network: torch.nn.Module, model: Model, opset: int) -> onnx.ModelProto:
    symbols = {size: torch.export.Dim(size) for spec in model.inputs for size in spec.shape if isinstance(size, str)}
    shapes = tuple(
        {axis: symbols[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in model.inputs
    )
    options: dict[str, Any] = {"opset_version": opset, "dynamic_shapes": shapes, **_names(model)}
    program = torch.onnx.export(network, _example(model), dynamo=True, verbose=False, **options)
    assert program is not None
    return program.model_proto


EXPORTERS: dict[str, Exporter] = {"trace": _trace, "capture": _capture}


def _names(model: Model) -> dict[str, Any]:
    return {"input_names": [spec.name for spec in model.inputs], "output_names": [spec.name for spec in model.outputs]}


def _example(model: Model) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros(spec.with_batch(TRACED_BATCH), dtype=getattr(torch, spec.dtype)) for spec in model.inputs)


def _flatten_outputs(network: torch.nn.Module, model: Model) -> RemovableHandle:
    """Let the network return its tensors in the order of the model's outputs, whatever structure it returns."""
    names = [spec.name for spec in model.outputs]

    def flatten(_module: torch.nn.Module, _inputs: object, result: object) -> tuple[torch.Tensor, ...]:
        named = name_outputs(result)
        return tuple(named[name] for name in names)

    return network.register_forward_hook(flatten)


def _compare(network: torch.nn.Module, graph: onnx.ModelProto, model: Model, seed: int) -> float:
    """The largest relative difference between network and graph, over random inputs of several batch sizes."""
    session = onnx_graph.make_session(onnx_graph.serialize(graph))
    names = [spec.name for spec in model.outputs]
    differences = []
    for batch in COMPARED_BATCHES:
        inputs = onnx_graph.random_inputs(model.inputs, batch, seed + batch)
        with torch.inference_mode():
            tensors = network(*(torch.from_numpy(array) for array in inputs.values()))
        expected = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        differences.append(onnx_graph.max_difference(expected, onnx_graph.run_session(session, inputs)))
    return max(differences)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what exporters tell: deprecations, optional libraries that they did not find."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    if isinstance(error, PassError):
        return error.message
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
