"""Quantize an ONNX graph to 8 bits: static ranges from calibration samples, written as QDQ pairs.

What the graph should look like depends on the runtime (one QDQ file is fast here and slower than float there), so the
pass follows the quantization profile of the target's backend and runs once per candidate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from edgeopt import environment
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model, OnnxValue, QuantizationProfile, write_model
from edgeopt.passes import Pass, PassResult

if TYPE_CHECKING:
    import onnx

    from edgeopt.quantization.arithmetic import Range
    from edgeopt.quantization.placement import Placement

#: below this many samples the ranges depend on which images were taken
FEWEST_SAMPLES = 100

#: samples on which the quantized graph is compared with the float one
COMPARED_SAMPLES = 32

_METHOD_TEXT = {"minmax": "min-max"}


class QuantizeInt8(Pass):
    """Quantize weights and activations to 8-bit integers, as the target's backend wants them."""

    accepts: ClassVar[Form] = "onnx"
    produces: ClassVar[Form] = "onnx"
    needs_profile: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("calibration", "profile")

    method: Literal["minmax"] = Field(default="minmax", description="how activation ranges follow from the samples")
    per_channel: bool = Field(default=True, description="a scale for each output channel of a weight, or one for all")
    keep_float: tuple[str, ...] = Field(default=(), description="names of nodes, or operators, that stay in float")

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.onnx_graph import load_graph, save_graph
        from edgeopt.quantization.fold import fold
        from edgeopt.quantization.insert import insert_pairs
        from edgeopt.quantization.placement import make_placement
        from edgeopt.quantization.scheme import make_scheme

        assert context.profile is not None
        assert context.calibration is not None
        graph = fold(load_graph(model.path))
        placement = make_placement(graph, context.profile, self.keep_float, self.per_channel)
        _require_work(placement, context.profile)
        ranges = _calibrate(graph, placement, model, context.calibration, context)
        scheme = make_scheme(graph, placement, ranges, context.profile)
        quantized = insert_pairs(graph, scheme)
        fidelity = _compare(graph, quantized, model, context.calibration.first(COMPARED_SAMPLES))
        value = OnnxValue()
        save_graph(quantized, context.folder / value.file)
        known = {"value": value, "ranges": scheme.activation_ranges(), "folder": context.folder}
        result = model.model_copy(update=known)
        facts = {**self._facts(graph, placement, len(context.calibration)), "sqnr_db": round(fidelity, 2)}
        return PassResult(write_model(result, context.folder), True, facts)

    def _facts(self, graph: onnx.ModelProto, placement: Placement, images: int) -> Facts:
        weighted = {each.node for each in placement.weighted}
        convolutions = [node.name for node in graph.graph.node if node.op_type in ("Conv", "ConvTranspose")]
        done = sum(name in weighted for name in convolutions)
        method = _METHOD_TEXT[self.method]
        facts: dict[str, str | int | float] = {
            "summary": f"{images} images; {method}; {done} of {len(convolutions)} convolutions",
            "images": images,
            "method": method,
            "convolutions": f"{done} of {len(convolutions)}",
            "integer_nodes": len(placement.integer_nodes),
            "float_nodes": len(placement.float_nodes),
        }
        if placement.float_nodes:
            operators = {node.name: node.op_type for node in graph.graph.node}
            facts["left_in_float"] = ", ".join(f"{operators[name]} `{name}`" for name in placement.float_nodes)
        if images < FEWEST_SAMPLES:
            facts["warning"] = f"{images} calibration images; ranges are steady from about {FEWEST_SAMPLES}"
        return facts


def _require_work(placement: Placement, profile: QuantizationProfile) -> None:
    if not placement.weighted:
        raise PassError(
            f"the graph has nothing to quantize: no {', '.join(profile.weight_axes)} with a constant float32 weight",
            "leave `quantize_int8` out, or take names out of `keep_float`",
        )


def _calibrate(
    graph: onnx.ModelProto, placement: Placement, model: Model, samples: Samples, context: Context
) -> dict[str, Range]:
    from edgeopt.quantization.calibration import collect_minmax, stream_batches

    done, total = 0, len(samples)

    def tell(count: int) -> None:
        nonlocal done
        done = min(total, done + count)
        context.progress("calibrate", done / total)

    tensors = [pair.tensor for pair in placement.pairs]
    return collect_minmax(graph, tensors, stream_batches(samples, model.inputs), environment.cpu_cores(), tell)


def _compare(graph: onnx.ModelProto, quantized: onnx.ModelProto, model: Model, samples: Samples) -> float:
    """SQNR of the worst output in dB.

    Raises:
        PassError: the quantized graph yields values that are not finite.
    """
    import numpy as np

    from edgeopt.onnx_graph import make_session, run_session
    from edgeopt.quantization.arithmetic import sqnr_db
    from edgeopt.quantization.calibration import stream_batches

    sessions = [make_session(each, environment.cpu_cores()) for each in (graph, quantized)]
    batches = list(stream_batches(samples, model.inputs))
    exact, coarse = (
        {
            name: np.concatenate([run_session(session, batch)[name].ravel() for batch in batches])
            for name in (spec.name for spec in model.outputs)
        }
        for session in sessions
    )
    for name, values in coarse.items():
        if not np.isfinite(values).all():
            raise PassError(f"the quantized network yields values that are not finite in `{name}`")
    return sqnr_db(exact, coarse)
