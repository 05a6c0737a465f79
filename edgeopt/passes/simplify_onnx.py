"""Clean an ONNX graph: constants folded, what computes nothing removed, shapes inferred anew, outputs unchanged.

onnxslim does the folding and the known rewrites. Around it stands what later passes rely on: no `Identity` before a
convolution, no shapes left over from another pass, canonical bytes, and proof that the graph computes what it did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model, OnnxValue, write_model
from edgeopt.passes import Pass, PassResult

if TYPE_CHECKING:
    import onnx

COMPARED_BATCHES = (1, 3)
REMEDY = "take `simplify_onnx` out of `passes:`"


class SimplifyOnnx(Pass):
    """Fold constants and remove what computes nothing; the outputs on random inputs stay the same."""

    accepts: ClassVar[Form] = "onnx"
    produces: ClassVar[Form] = "onnx"

    tolerance: float = Field(
        default=1e-4, gt=0, lt=1, description="largest difference of the outputs, relative to the largest output"
    )

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt import onnx_graph

        given = onnx_graph.load_graph(model.path)
        graph = _simplify(given)
        _check_interface(graph, model)
        difference = _compare(given, graph, model, context.seed)
        if difference > self.tolerance:
            found, allowed = f"{difference:.0e}", f"{self.tolerance:.0e}"
            raise PassError(f"the simplified graph's outputs differ by {found}, allowed is {allowed}", REMEDY)
        path = context.folder / "model.onnx"
        onnx_graph.save_graph(graph, path)
        simplified = model.model_copy(update={"value": OnnxValue(file=path.name), "folder": context.folder})
        before, after = len(given.graph.node), len(graph.graph.node)
        facts: Facts = {
            "summary": f"{before} → {after} nodes",
            "nodes_before": before,
            "nodes_after": after,
            "max_difference": difference,
        }
        changed = path.read_bytes() != model.path.read_bytes()
        return PassResult(write_model(simplified, context.folder), changed, facts)


def _simplify(given: onnx.ModelProto) -> onnx.ModelProto:
    import onnx
    import onnxslim

    from edgeopt import onnx_graph

    graph = onnx.ModelProto()
    graph.CopyFrom(given)
    # Shapes of an earlier pass may be stale; onnxslim and shape inference would both believe them.
    del graph.graph.value_info[:]
    onnx_graph.inline_identities(graph)
    try:
        graph = onnxslim.slim(graph)
        del graph.graph.value_info[:]
        return onnx.shape_inference.infer_shapes(graph, data_prop=True)
    except Exception as error:  # onnxslim raises anything
        raise PassError(f"the graph cannot be simplified: {type(error).__name__}: {error}", REMEDY) from error


def _check_interface(graph: onnx.ModelProto, model: Model) -> None:
    from edgeopt import onnx_graph

    found = onnx_graph.input_specs(graph), onnx_graph.output_specs(graph)
    if found != (model.inputs, model.outputs):
        described = ", ".join(f"`{spec.name}` {list(spec.shape)}" for specs in found for spec in specs)
        raise PassError(f"simplifying changed inputs and outputs to {described}", REMEDY)


def _compare(given: onnx.ModelProto, graph: onnx.ModelProto, model: Model, seed: int) -> float:
    """The largest relative difference between the outputs of two graphs, on random inputs of several batch sizes."""
    from edgeopt import onnx_graph

    sessions = [onnx_graph.make_session(each) for each in (given, graph)]
    differences = []
    for batch in COMPARED_BATCHES:
        inputs = onnx_graph.random_inputs(model.inputs, batch, seed + batch)
        before, after = (onnx_graph.run_session(session, inputs) for session in sessions)
        differences.append(onnx_graph.max_difference(before, after))
    return max(differences)
