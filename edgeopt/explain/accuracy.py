"""The noise of each layer, and what the report says of other candidates → the causes of lost accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import onnx

from edgeopt.backends import Arrays
from edgeopt.explain import Cause, Noise
from edgeopt.explain.edits import QUANTIZE, keep_float
from edgeopt.explain.noise import measure_layers, measure_outputs, with_float
from edgeopt.gates import find, number
from edgeopt.quantization.wiring import Wiring
from edgeopt.report import CandidateResult, TargetResult

#: passes that change what the network computes before it is quantized → what to write, and how
CHANGING = {
    "prune_channels": ("prune_channels: {ratio: …}", "with a lower ratio than now"),
    "fine_tune": ("fine_tune: {epochs: …}", "with more epochs than now"),
}

#: a drop below this is none
LEAST_DROP_PP = 0.05

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: a layer stands out if it is so much noisier than the median layer; so many are named at most
STANDS_OUT_DB, MOST_NAMED = 6.0, 3

#: what an edit must gain at the output to be worth its name
LEAST_GAIN_DB = 1.0


def find_noise(
    exact: onnx.ModelProto, quantized: onnx.ModelProto, batches: Sequence[Arrays], inputs: str, threads: int
) -> tuple[Noise, tuple[Cause, ...]]:
    """The noise of a quantized graph, and what is to blame for it.

    Args:
        exact: the folded float graph that it was made from.
        inputs: what the batches are, for people.

    Raises:
        BackendError: ONNX Runtime cannot run one of the two.
    """
    layers = measure_layers(exact, quantized, batches, threads)
    noise = Noise(inputs=inputs, output_db=measure_outputs(exact, quantized, batches, threads), layers=layers)
    causes = [_per_tensor(quantized), _noisy_layers(noise, exact, quantized, batches, threads)]
    return noise, tuple(cause for cause in causes if cause is not None)


def lost_before(candidate: CandidateResult, target: TargetResult) -> Cause | None:
    """The drop of accuracy that is there before quantization: that of the candidate that is the same but for it."""
    passes = tuple(name for name in candidate.passes if name != QUANTIZE)
    twin = next((one for one in target.candidates if one.passes == passes and one.backend == candidate.backend), None)
    if twin is None or twin.error is not None:
        return None
    whole, before = (_drop(one) for one in (candidate, twin))
    changing = [name for name in CHANGING if name in passes]
    if whole is None or before is None or before < LEAST_DROP_PP or not changing:
        return None
    if twin.id == candidate.id:
        sentence = f"{before:.1f} pp are lost without any quantization, to {' and '.join(changing)}"
    else:
        sentence = f"`{twin.id}`, which is not quantized, has lost {before:.1f} of the {whole:.1f} pp already"
    edit, advice = CHANGING[changing[0]]
    return Cause(name="before_quantization", sentence=sentence, edit=edit, advice=advice)


def _noisy_layers(
    noise: Noise, exact: onnx.ModelProto, quantized: onnx.ModelProto, batches: Sequence[Arrays], threads: int
) -> Cause | None:
    """The layers that stand out, if keeping them in float, which is tried, helps."""
    weighted = [layer for layer in noise.layers if layer.operator in WEIGHTED]
    usual = statistics.median([layer.sqnr_db for layer in weighted] or [0.0])
    out = [layer for layer in weighted if layer.sqnr_db < usual - STANDS_OUT_DB][:MOST_NAMED]
    if not out:
        return None
    names = [layer.layer for layer in out]
    better = measure_outputs(exact, with_float(exact, quantized, names), batches, threads)
    told = ", ".join(f"`{layer.layer}` {layer.sqnr_db:.1f} dB" for layer in out)
    sentence = f"the noisiest by far: {told}; the median has {usual:.1f} dB"
    gain = f"{noise.output_db:.1f} → {better:.1f} dB at the output"
    if better - noise.output_db < LEAST_GAIN_DB:
        advice = f"their noise is not what the output suffers from: with them in float {gain}, measured here"
        return Cause(name="noisy_layers", sentence=sentence, advice=advice)
    return Cause(name="noisy_layers", sentence=sentence, edit=keep_float(names), advice=f"{gain}, measured here")


def _per_tensor(quantized: onnx.ModelProto) -> Cause | None:
    """Convolutions whose channels share one scale."""
    wiring, names = Wiring(quantized), []
    for node in quantized.graph.node:
        maker = wiring.producers.get(node.input[1]) if node.op_type == "Conv" else None
        scale = wiring.array(maker.input[1]) if maker is not None and maker.op_type == "DequantizeLinear" else None
        weight = wiring.constants.get(maker.input[0]) if maker is not None else None
        if scale is not None and weight is not None and scale.size == 1 < weight.dims[0]:
            names.append(node.name)
    if not names:
        return None
    sentence = f"all channels of a weight share one scale in {len(names)} convolutions, as in `{names[0]}`"
    return Cause(
        name="per_tensor_weights", sentence=sentence, edit=f"{QUANTIZE}: {{per_channel: true}}",
        advice="so that a channel of small weights has small steps",
    )  # fmt: skip


def _drop(candidate: CandidateResult) -> float | None:
    found = find(candidate.measurements, "accuracy.drop_pp")
    return None if found is None else number(found.value)
