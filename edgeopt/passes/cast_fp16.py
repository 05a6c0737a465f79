"""Cast an ONNX graph to float16: for engines of TensorRT, whose networks are strongly typed.

There is no switch of the builder that makes a float16 engine; what the graph says is what is built. So weights and
activations become float16 here, all but those that would not fit. Inputs and outputs keep their types, and QDQ pairs
stay: what a quantized graph leaves in float32 becomes float16, around its integers.

ONNX Runtime's `convert_float_to_float16` is not used. Its graphs are out of order, so that ONNX's checker refuses them;
it gives pairs scales that their opset does not allow, or puts a Cast between each pair and what it belongs to; and it
cuts off weights that do not fit, without a word.
"""

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

    from edgeopt.quantization.calibration import Arrays
    from edgeopt.quantization.half import Choice
    from edgeopt.quantization.wiring import Wiring

#: samples, or random inputs where there are none, on which the two graphs are compared
COMPARED = 32


class CastFp16(Pass):
    """Compute in float16 wherever the values fit; inputs, outputs and integers stay what they are."""

    accepts: ClassVar[Form] = "onnx"
    produces: ClassVar[Form] = "onnx"
    halves: ClassVar[bool] = True
    may_read: ClassVar[tuple[str, ...]] = ("calibration",)

    keep_float: tuple[str, ...] = Field(default=(), description="names of nodes, or operators, that stay in float32")
    headroom: float = Field(
        default=4.0,
        ge=1,
        le=1000,
        description="an activation is float16 if so many times the largest value that calibration showed still fits",
    )

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.onnx_graph import load_graph, save_graph
        from edgeopt.quantization.half import choose
        from edgeopt.quantization.half_cast import cast_graph, opset_of, prepare
        from edgeopt.quantization.wiring import Wiring

        given = load_graph(model.path)
        graph = prepare(given, model.inputs)
        wiring, opset = Wiring(graph), opset_of(graph)
        peaks = _measure(graph, wiring, opset, model, context)
        choice = choose(wiring, opset, self.keep_float, peaks, self.headroom)
        cast = cast_graph(graph, choice) if choice.slots else given
        difference = _compare(given, cast, model, context)
        value = OnnxValue()
        save_graph(cast, context.folder / value.file)
        described = model.model_copy(update={"value": value, "folder": context.folder})
        facts = {**_describe(choice, wiring), "max_difference": difference}
        if opset_of(cast) != opset_of(given):
            facts["opset"] = f"{opset_of(given)} → {opset_of(cast)}"
        changed = (context.folder / value.file).read_bytes() != model.path.read_bytes()
        return PassResult(write_model(described, context.folder), changed, facts)


def _measure(
    graph: onnx.ModelProto, wiring: Wiring, opset: int, model: Model, context: Context
) -> dict[str, float] | None:
    """The largest magnitude of each activation over the calibration samples, if there are any."""
    from edgeopt.quantization.calibration import stream_batches
    from edgeopt.quantization.half import activations, candidates
    from edgeopt.quantization.half_values import measure_peaks

    if context.calibration is None:
        return None
    tensors = activations(wiring, candidates(wiring, opset))
    batches = stream_batches(context.calibration, model.inputs)
    return measure_peaks(graph, tensors, batches, environment.cpu_cores())


def _compare(given: onnx.ModelProto, cast: onnx.ModelProto, model: Model, context: Context) -> float:
    """The largest difference of the outputs, relative to the largest output.

    Raises:
        PassError: one of the two yields values that are not finite, where the other yields others.
    """
    from edgeopt.onnx_graph import make_session, max_difference, run_session
    from edgeopt.quantization.half_simulation import simulate

    cores = environment.cpu_cores()
    sessions = [make_session(each, cores, as_written=True) for each in (given, simulate(cast))]
    pairs = ([run_session(session, batch) for session in sessions] for batch in _inputs(model, context))
    difference = max(max_difference(before, after) for before, after in pairs)
    if difference == float("inf"):
        hint = "find the first node that overflows, and name it in `keep_float`"
        if context.calibration is None:
            hint = "give `data: calibration:`, so that what overflows is found, or name it in `keep_float`"
        raise PassError("the network yields values in float16 that are not finite", hint)
    return difference


def _inputs(model: Model, context: Context) -> Iterable[Arrays]:
    from edgeopt.onnx_graph import random_inputs
    from edgeopt.quantization.calibration import stream_batches

    if context.calibration is None:
        return [random_inputs(model.inputs, COMPARED, context.seed)]
    return stream_batches(context.calibration.spread(COMPARED), model.inputs)


def _describe(choice: Choice, wiring: Wiring) -> Facts:
    half, single = len(choice.slots), len(choice.reasons)
    facts: dict[str, str | int | float] = {
        "summary": f"{half} of {half + single} nodes in float16",
        "float16_nodes": half,
        "float32_nodes": single,
    }
    for name, reason in choice.reasons.items():
        facts[f"{wiring.nodes[name].op_type} `{name}` in float32"] = reason
    return facts
