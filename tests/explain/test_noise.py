"""Noise by layer: each is blamed for its own, and the kernels are those that run."""

from __future__ import annotations

import collections
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt.backends.onnxruntime_cpu import open_runtime
from edgeopt.explain.noise import find_stretches, measure_layers, measure_outputs, put_beside, with_float
from edgeopt.onnx_graph import run_session
from edgeopt.quantization.arithmetic import SQNR_LIMIT_DB
from edgeopt.quantization.fold import fold
from tests.explain.conftest import make_images, make_network, on_x86, quantize, spoil

LAYERS = ("conv0", "conv1", "conv2", "conv3", "head")


def make(residual: bool = True) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    network = make_network((16, 16, 24, 24), size=16, residual=residual)
    return fold(network), quantize(network)


def noise_of(exact: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, float]:
    return {one.layer: one.sqnr_db for one in measure_layers(exact, quantized, make_images(exact), threads=1)}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_spoilt_layer_is_the_noisiest_and_the_others_are_as_they_were(layer: str) -> None:
    exact, sound = make()
    before, after = noise_of(exact, sound), noise_of(exact, spoil(sound, layer))
    assert next(iter(after)) == layer
    assert after[layer] < before[layer] - 10
    others = {name: value for name, value in after.items() if name != layer}
    assert others == pytest.approx({name: before[name] for name in others}), "what comes before it is fed exactly"


def test_every_layer_and_the_input_are_told_by_their_names() -> None:
    exact, quantized = make()
    found = {one.layer: one.operator for one in measure_layers(exact, quantized, make_images(exact), threads=1)}
    assert found == {
        "image": "input", "conv0": "Conv", "conv1": "Conv", "add1": "Add", "conv2": "Conv", "conv3": "Conv",
        "add3": "Add", "pool": "GlobalAveragePool", "flat": "Flatten", "head": "Gemm",
    }  # fmt: skip


def test_noise_is_that_of_the_layer_run_by_hand() -> None:
    """The first layer: its image and its weight in the integers of the graph, the rest in float64."""
    exact, quantized = make(residual=False)
    (image,) = make_images(exact, count=1)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}

    def rounded(values: np.ndarray, name: str) -> np.ndarray:  # type: ignore[type-arg]
        scale, zero = arrays[f"{name}_scale"], arrays[f"{name}_zero_point"]
        return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero.astype(np.int64)) * np.float64(scale)

    weight = (arrays["conv0_weight_quantized"] * arrays["conv0_weight_scale"][:, None, None, None]).astype(np.float64)
    bias = arrays["conv0_bias_quantized"] * arrays["conv0_bias_scale"].astype(np.float64)
    padded = np.pad(rounded(image["image"], "image")[0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    made = np.maximum(np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None], 0.0)
    tapped = onnx.ModelProto()
    tapped.CopyFrom(exact)
    tapped.graph.output.append(onnx.ValueInfoProto(name="r0"))
    reference = run_session(open_runtime(tapped.SerializeToString(), 1), image)["r0"][0].astype(np.float64)
    error = np.square(reference - rounded(made, "r0")).sum()
    expected = 10 * math.log10(np.square(reference).sum() / error)
    found = {one.layer: one.sqnr_db for one in measure_layers(exact, quantized, [image], threads=1)}
    assert found["conv0"] == pytest.approx(expected, abs=0.05)


@on_x86
def test_the_layers_run_by_the_kernels_of_the_artifact(tmp_path: Path) -> None:
    exact, quantized = make()
    both = put_beside(exact, quantized, list(find_stretches(exact, quantized)))
    open_runtime(both.SerializeToString(), 1, optimized_model_filepath=str(tmp_path / "optimized.onnx"))
    ran = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (ran["QLinearConv"], ran["QLinearAdd"], ran["QGemm"]) == (4, 2, 1)
    assert ran["DequantizeLinear"] == 0


def test_outputs_carry_the_noise_of_all_layers() -> None:
    exact, quantized = make()
    images = make_images(exact)
    sound = measure_outputs(exact, quantized, images, threads=1)
    spoilt = measure_outputs(exact, spoil(quantized, "conv2"), images, threads=1)
    assert spoilt < sound - 3
    assert measure_outputs(exact, exact, images, threads=1) == SQNR_LIMIT_DB


def test_a_layer_with_its_float_weights_is_repaired() -> None:
    exact, quantized = make()
    images, spoilt = make_images(exact), spoil(quantized, "conv2")
    kept = with_float(exact, spoilt, ["conv2"])
    assert measure_outputs(exact, kept, images, threads=1) > measure_outputs(exact, spoilt, images, threads=1) + 3
    assert spoilt.SerializeToString() == spoil(quantized, "conv2").SerializeToString(), "the given graph is left alone"


def test_an_output_that_leaves_as_integers_is_told_too() -> None:
    text = """<ir_version: 9, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
        y = Conv <kernel_shape = [1, 1]> (a, v)
    }"""
    random, network = np.random.default_rng(0), onnx.parser.parse_model(text)
    for name, shape in (("w", (8, 3, 3, 3)), ("v", (4, 8, 1, 1))):
        array = random.standard_normal(shape).astype(np.float32)
        network.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in network.graph.node:
        node.name = f"{node.output[0]}_node"
    found = noise_of(fold(network), quantize(network))
    assert set(found) == {"x", "a_node", "y_node"}
    assert all(20 < value < 60 for value in found.values())
