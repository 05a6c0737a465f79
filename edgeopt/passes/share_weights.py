"""Weight sharing: each layer makes do with a few values, so that the network is smaller once it is compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from edgeopt import environment
from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model, OnnxValue, write_model
from edgeopt.passes import Pass, PassResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

    from edgeopt.gain import Gain
    from edgeopt.onnx_graph import Arrays
    from edgeopt.sparsity.codebooks import Shared

#: samples, or random inputs where there are none, on which the two graphs are compared
COMPARED = 32


class ShareWeights(Pass):
    """Let the weights of each layer share a few values, found by k-means; of a quantized graph, its integers.

    What it gains is the compressed download (`edgeopt bundle compress`): the device runs the same dense graph with
    these values in it, byte for byte, and no faster. Put it behind `quantize_int8`, at the end of the list.
    """

    accepts: ClassVar[Form] = "onnx"
    produces: ClassVar[Form] = "onnx"
    may_read: ClassVar[tuple[str, ...]] = ("calibration",)

    bits: int = Field(
        default=4, ge=2, le=8, description="a layer has two to the power of this many values; at most 7 after int8"
    )
    ignore: tuple[str, ...] = Field(default=(), description="names of nodes that keep their weights")
    keep_without_gain: bool = Field(
        default=False, description="keep the shared values even where the compressed download is no smaller"
    )

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.gain import download_gain
        from edgeopt.onnx_graph import load_graph, serialize
        from edgeopt.sparsity.codebooks import find_weights, share

        given, graph = load_graph(model.path), load_graph(model.path)
        weights = find_weights(graph, self.ignore)
        if not weights:
            raise PassError("no layer of the graph has constant weights", "take `share_weights` out of `passes:`")
        shared = []
        for number, weight in enumerate(weights):
            context.progress("looking for values to share", number / len(weights))
            shared.append(share(weight, self.bits))
        gain = download_gain(serialize(given), serialize(graph))
        fidelity = _compare(given, graph, model, context)
        facts = _describe(shared, gain, fidelity)
        if not gain.worth and not self.keep_without_gain:
            facts = {**facts, "summary": f"{gain.tell()}; left as it was"}
            return PassResult(write_model(model, context.folder), False, facts)
        return self._write(graph, model, context, facts)

    def _write(self, graph: onnx.ModelProto, model: Model, context: Context, facts: Facts) -> PassResult:
        from edgeopt.onnx_graph import save_graph

        value = OnnxValue()
        save_graph(graph, context.folder / value.file)
        result = write_model(model.model_copy(update={"value": value, "folder": context.folder}), context.folder)
        return PassResult(result, result.digest() != model.digest(), facts)


def _describe(shared: list[Shared], gain: Gain, fidelity: float) -> Facts:
    values = max(each.values for each in shared)
    summary = f"{len(shared)} layers of at most {values} values, outputs {fidelity:.1f} dB; {gain.tell()}"
    facts: dict[str, str | int | float] = {f"layer {each.node}": each.tell() for each in shared}
    return facts | {**gain.facts(), "layers_shared": len(shared), "sqnr_db": fidelity, "summary": summary}


def _compare(given: onnx.ModelProto, graph: onnx.ModelProto, model: Model, context: Context) -> float:
    """SQNR in dB of the worst output.

    Raises:
        PassError: the graph yields values that are not finite.
    """
    import numpy as np

    from edgeopt.onnx_graph import make_session, run_session
    from edgeopt.quantization.arithmetic import sqnr_db

    sessions = [make_session(each, environment.cpu_cores()) for each in (given, graph)]
    batches = list(_inputs(model, context))
    exact, coarse = (
        {
            spec.name: np.concatenate([run_session(session, batch)[spec.name].ravel() for batch in batches])
            for spec in model.outputs
        }
        for session in sessions
    )
    for name, values in coarse.items():
        if not np.isfinite(values).all():
            raise PassError(f"the network yields values that are not finite in `{name}` with shared weights")
    return round(sqnr_db(exact, coarse), 2)


def _inputs(model: Model, context: Context) -> Iterable[Arrays]:
    from edgeopt.onnx_graph import random_inputs
    from edgeopt.quantization.calibration import stream_batches

    if context.calibration is None:
        return [random_inputs(model.inputs, COMPARED, context.seed)]
    return stream_batches(context.calibration.spread(COMPARED), model.inputs)
