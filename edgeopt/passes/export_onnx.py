"""From torch to ONNX: one file with all tensors inside, and proof that it computes the same."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from edgeopt.context import Context
from edgeopt.model import Form, Model, OnnxValue, write_model
from edgeopt.passes import Pass, PassResult


class ExportOnnx(Pass):
    """Export the network as ONNX, and compare the two on random inputs."""

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "onnx"

    opset: int = Field(default=18, ge=17, le=21, description="ONNX operator set of the graph")
    tolerance: float = Field(
        default=1e-4, gt=0, lt=1, description="largest difference between graph and network, relative to the outputs"
    )

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.exporting import export
        from edgeopt.network import make_network
        from edgeopt.onnx_graph import save_graph

        graph, facts = export(make_network(model), model, context.seed, self.opset, self.tolerance)
        path = context.folder / "model.onnx"
        save_graph(graph, path)
        exported = model.model_copy(update={"value": OnnxValue(file=path.name), "folder": context.folder})
        return PassResult(write_model(exported, context.folder), True, facts)
