"""Who is to blame for lost accuracy, and what keeping a layer in float would gain."""

from __future__ import annotations

import onnx

from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.explain.accuracy import find_noise, lost_before
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import make_scheme
from edgeopt.report import CandidateResult
from tests.explain.conftest import make_images, make_network, quantize, spoil
from tests.report.conftest import make_candidate, make_target, measure


def find(quantized: onnx.ModelProto, network: onnx.ModelProto) -> dict[str, tuple[str, str, str]]:
    _, causes = find_noise(fold(network), quantized, make_images(network), "4 images", threads=1)
    return {cause.name: (cause.sentence, cause.edit, cause.advice) for cause in causes}


def test_a_spoilt_layer_is_named_with_what_it_gains_to_keep_it_in_float() -> None:
    network = make_network((16, 16, 24, 24), size=16)
    noise, (cause,) = find_noise(
        fold(network), spoil(quantize(network), "conv2"), make_images(network), "4 images", threads=1
    )
    assert noise.layers[0].layer == "conv2"
    assert cause.name == "noisy_layers"
    assert cause.sentence.startswith("the noisiest by far: `conv2` ")
    assert cause.edit == "quantize_int8: {keep_float: [conv2]}"
    assert f"{noise.output_db:.1f} → " in cause.advice
    assert "measured here" in cause.advice


def test_a_sound_graph_has_nobody_to_blame() -> None:
    network = make_network((16, 16, 24, 24), size=16, residual=True)
    assert find(quantize(network), network) == {}
    assert find(quantize(network, ["conv1"]), network) == {}


def test_a_noisy_layer_that_the_output_does_not_suffer_from_is_told_without_an_edit() -> None:
    """Its float weights repair nothing, where it is what it makes that is rounded too coarsely."""
    network = make_network((16, 16, 24, 24), size=16)
    coarse = quantize(network, weight_bits=7)  # the same on every CPU
    for tensor in coarse.graph.initializer:
        if tensor.name == "r3_scale":
            scale = onnx.numpy_helper.to_array(tensor) * 8
            tensor.CopyFrom(onnx.numpy_helper.from_array(scale, tensor.name))
    sentence, edit, advice = find(coarse, network)["noisy_layers"]
    assert "`conv3`" in sentence
    assert edit == ""
    assert advice.startswith("their noise is not what the output suffers from")


def test_weights_of_one_scale_are_named() -> None:
    network = make_network((16, 16), size=16)
    folded, profile = fold(network), OnnxruntimeCpu().profile()
    placement = make_placement(folded, profile, per_channel=False)
    ranges = {pair.tensor: Range(-4, 4) for pair in placement.pairs}
    found = find(insert_pairs(folded, make_scheme(folded, placement, ranges, profile)), network)
    sentence, edit, _ = found["per_tensor_weights"]
    assert "in 2 convolutions, as in `conv0`" in sentence
    assert edit == "quantize_int8: {per_channel: true}"


# what the report says of other candidates


def candidate(variant: str, drop: float | None, *passes: str, error: str | None = None) -> CandidateResult:
    found = () if drop is None else measure((1.0, 1.0), 1000, drop=(drop, drop - 1, drop + 1))
    return make_candidate(variant, measurements=found, error=error).model_copy(update={"passes": passes})


def test_what_was_lost_before_quantization_is_told_by_the_twin_without_it() -> None:
    pruned = ("prune_channels", "fine_tune", "export_onnx")
    fp32, int8 = candidate("fp32", 1.9, *pruned), candidate("int8", 2.1, *pruned, "quantize_int8")
    cause = lost_before(int8, make_target(fp32, int8))
    assert cause is not None
    assert cause.sentence == "`onnxruntime_cpu/fp32`, which is not quantized, has lost 1.9 of the 2.1 pp already"
    assert cause.edit.startswith("prune_channels:")
    alone = lost_before(fp32, make_target(fp32, int8))
    assert alone is not None
    assert alone.sentence == "1.9 pp are lost without any quantization, to prune_channels and fine_tune"


def test_nothing_was_lost_before_where_nothing_changed_or_nothing_was_measured() -> None:
    pruned, plain = ("prune_channels", "export_onnx"), ("export_onnx",)
    for drop, passes in ((0.0, pruned), (-0.4, pruned), (None, pruned), (1.9, plain)):
        fp32, int8 = candidate("fp32", drop, *passes), candidate("int8", 2.1, *passes, "quantize_int8")
        assert lost_before(int8, make_target(fp32, int8)) is None
    int8 = candidate("int8", 2.1, *pruned, "quantize_int8")
    assert lost_before(int8, make_target(int8)) is None
    crashed = candidate("fp32", None, *pruned, error="it broke")
    assert lost_before(int8, make_target(crashed, int8)) is None
