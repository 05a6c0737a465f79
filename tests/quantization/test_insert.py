"""What is written: a graph that ONNX Runtime computes in integers, and that means what the float one meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgeopt.model import QuantizationProfile
from edgeopt.onnx_graph import make_session, run_session, serialize
from edgeopt.quantization.arithmetic import Range, sqnr_db
from edgeopt.quantization.calibration import collect_minmax
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.profiles import LITERT
from edgeopt.quantization.scheme import make_scheme

Make = Callable[..., Any]


def images(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def quantize(
    given: onnx.ModelProto, profile: QuantizationProfile, inputs: dict[str, np.ndarray], **options: Any
) -> onnx.ModelProto:
    graph = fold(given)
    placement = make_placement(graph, profile, **options)
    ranges = collect_minmax(graph, [pair.tensor for pair in placement.pairs], [inputs])
    quantized = insert_pairs(graph, make_scheme(graph, placement, ranges, profile))
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def fidelity(one: onnx.ModelProto, other: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> float:
    return sqnr_db(run_session(make_session(one), inputs), run_session(make_session(other), inputs))


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def optimized(graph: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4  # it warns that such a file suits one machine only, which is meant
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return operators(onnx.load(folder / "optimized.onnx"))


def arrays(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


@pytest.fixture
def residual(make_graph: Make, weights: Make) -> onnx.ModelProto:
    body = """
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b) r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b) s = Add (c2, r1) r2 = Relu (s)
        g = GlobalAveragePool (r2) f = Flatten (g) y = Gemm (f, v, b)
    """
    given = {"w1": weights(8, 3, 3, 3), "w2": weights(8, 8, 3, 3, seed=1), "v": weights(8, 8, seed=2), "b": weights(8)}
    return make_graph(body, **given)


def test_a_residual_network_computes_in_integers_from_end_to_end(
    residual: onnx.ModelProto, profile: QuantizationProfile, tmp_path: Path
) -> None:
    inputs = images(8, 3, 8, 8)
    quantized = quantize(residual, profile, inputs)
    found = optimized(quantized, tmp_path)
    assert found["QLinearConv"] == 2
    assert found["QLinearAdd"] == found["QLinearGlobalAveragePool"] == found["QGemm"] == 1
    assert not {"Conv", "Add", "Relu", "Gemm", "DequantizeLinear"} & set(found)
    assert found["QuantizeLinear"] == 1, "that of the input"
    assert fidelity(residual, quantized, inputs) > 25


def test_the_relu_stays_in_the_graph_between_operator_and_pair(
    residual: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    quantized = quantize(residual, profile, images(8, 3, 8, 8))
    makers = {name: node for node in quantized.graph.node for name in node.output}
    relu = makers["r1"]
    assert makers[relu.input[0]].op_type == "Conv"
    assert [node.op_type for node in quantized.graph.node if "r1" in node.input] == ["QuantizeLinear"]
    assert arrays(quantized)["r1_zero_point"] == 0


def test_a_clipped_activation_is_fused_too(
    make_graph: Make, weights: Make, profile: QuantizationProfile, tmp_path: Path
) -> None:
    body = "c = Conv (x, w) r = Clip (c, low, high) y = Conv (r, v)"
    bounds = {"low": np.float32(0), "high": np.float32(2)}
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(4, 4, 1, 1), **bounds)
    found = optimized(quantize(graph, profile, images(8, 3, 8, 8)), tmp_path)
    assert found["QLinearConv"] == 2
    assert "Clip" not in found


def test_padding_moves_integers_and_its_zero_stays_zero(
    make_graph: Make, weights: Make, profile: QuantizationProfile, tmp_path: Path
) -> None:
    body = "c = Conv (x, w) d = Pad (c, p) y = Conv (d, v)"
    pads = np.array([0, 2, 0, 0, 0, 1, 0, 0])
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(5, 7, 1, 1), p=pads)
    inputs = images(8, 3, 8, 8)
    quantized = quantize(graph, profile, inputs)
    assert arrays(quantized)["c_zero_point"] > 0, "so that padding with 0 would be wrong"
    assert fidelity(graph, quantized, inputs) > 30
    assert optimized(quantized, tmp_path)["QuantizeLinear"] == 1


def test_moved_tensors_share_one_scale(make_graph: Make, weights: Make, profile: QuantizationProfile) -> None:
    body = "c = Conv (x, w) m = MaxPool <kernel_shape = [2, 2]> (c) y = Conv (m, v)"
    quantized = quantize(make_graph(body, w=weights(4, 3, 1, 1), v=weights(4, 4, 1, 1)), profile, images(8, 3, 8, 8))
    scales = {
        node.input[1] for node in quantized.graph.node if node.name.endswith(("c_QuantizeLinear", "m_QuantizeLinear"))
    }
    assert scales == {"c_scale"}


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_stored_as_integers_with_their_scales(
    make_graph: Make, weights: Make, profile: QuantizationProfile, per_channel: bool
) -> None:
    graph = make_graph("y = Conv (x, w, b)", w=weights(4, 3, 3, 3), b=weights(4))
    quantized = quantize(graph, profile, images(8, 3, 8, 8), per_channel=per_channel)
    stored = arrays(quantized)
    assert stored["y_weight_quantized"].dtype == np.int8
    assert stored["y_weight_scale"].shape == ((4,) if per_channel else ())
    assert stored["y_bias_quantized"].dtype == np.int32
    assert stored["y_bias_scale"] == pytest.approx(stored["x_scale"] * np.broadcast_to(stored["y_weight_scale"], 4))
    assert "w" not in stored


def test_the_bias_stays_in_float_where_the_profile_says_so(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    graph = make_graph("y = Conv (x, w, b)", w=weights(4, 3, 3, 3), b=weights(4))
    quantized = quantize(graph, profile.model_copy(update={"quantize_bias": False}), images(8, 3, 8, 8))
    assert "b" in arrays(quantized)
    assert "y_bias_quantized" not in arrays(quantized)


def test_per_channel_beats_per_tensor_where_channels_differ(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    spread = np.asarray([0.01, 0.1, 1.0, 10.0], np.float32).reshape(4, 1, 1, 1)
    graph = make_graph("y = Conv (x, w)", w=weights(4, 3, 3, 3) * spread)
    # Behind the convolution each channel is brought back to one size, as a network does that was trained like this.
    graph.graph.initializer.append(numpy_helper.from_array((1 / spread).reshape(4, 1, 1), "back"))
    graph.graph.node[0].name = graph.graph.node[0].output[0] = "c"
    graph.graph.node.append(helper.make_node("Mul", ["c", "back"], ["y"], name="y"))
    exact = profile.model_copy(update={"float_output_ops": ("Conv",)})
    inputs = images(8, 3, 8, 8)
    fine, coarse = (quantize(graph, exact, inputs, per_channel=each) for each in (True, False))
    assert fidelity(graph, fine, inputs) > fidelity(graph, coarse, inputs) + 20


def test_a_dead_channel_gives_its_bias(make_graph: Make, weights: Make, profile: QuantizationProfile) -> None:
    weight = weights(3, 3, 1, 1)
    weight[1] = 0
    graph = make_graph("y = Conv (x, w, b)", w=weight, b=np.float32([0.5, -0.75, 0.25]))
    inputs = images(8, 3, 8, 8)
    quantized = quantize(graph, profile, inputs)
    assert (arrays(quantized)["y_weight_scale"] > 0).all()
    result = run_session(make_session(quantized), inputs)["y"][:, 1]
    assert result == pytest.approx(np.full(result.shape, -0.75), abs=float(arrays(quantized)["y_scale"]))


def test_a_bias_far_larger_than_its_weights_does_not_overflow(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    weight = weights(2, 3, 1, 1)
    weight[1] *= 1e-7
    graph = make_graph("y = Conv (x, w, b)", w=weight, b=np.float32([0.0, 900.0]))
    inputs = images(8, 3, 8, 8)
    result = run_session(make_session(quantize(graph, profile, inputs)), inputs)["y"][:, 1]
    assert result == pytest.approx(np.full(result.shape, 900.0), rel=0.005)


def test_constant_and_negative_activations_survive(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    body = "r = Relu (x) n = Neg (r) d = Conv (n, w) z = Mul (x, none) e = Add (z, five) c = Conv (e, w) y = Sub (c, d)"
    graph = make_graph(body, w=weights(3, 3, 1, 1), none=np.float32(0), five=np.float32(5))
    inputs = images(8, 3, 8, 8)
    quantized = quantize(graph, profile, inputs)
    stored = arrays(quantized)
    assert stored["n_zero_point"] == 255
    assert (stored["e_zero_point"], stored["e_scale"]) == (0, pytest.approx(5 / 255))
    assert fidelity(graph, quantized, inputs) > 30


def test_an_output_that_a_convolution_makes_keeps_its_name(
    make_graph: Make, weights: Make, profile: QuantizationProfile, tmp_path: Path
) -> None:
    graph = make_graph("c = Conv (x, w) y = Relu (c)", w=weights(4, 3, 1, 1))
    quantized = quantize(graph, profile, images(8, 3, 8, 8))
    assert quantized.graph.node[-1].op_type == "DequantizeLinear"
    assert quantized.graph.node[-1].output[0] == "y"
    assert optimized(quantized, tmp_path)["QLinearConv"] == 1


def test_a_weight_that_two_nodes_share_suits_each_of_them(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    graph = make_graph("a = Conv (x, w, b) c = Conv (a, w, b) y = Conv (c, w)", w=weights(3, 3, 1, 1), b=weights(3))
    inputs = images(8, 3, 8, 8)
    quantized = quantize(graph, profile, inputs)
    assert {"a_bias_scale", "c_bias_scale"} <= set(arrays(quantized))
    assert fidelity(graph, quantized, inputs) > 25


def test_a_weight_that_a_float_node_reads_too_stays(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    graph = make_graph("c = Conv (x, w) k = ReduceSum <keepdims = 0> (w) y = Mul (c, k)", w=weights(3, 3, 1, 1))
    stored = arrays(quantize(graph, profile, images(8, 3, 8, 8)))
    assert {"w", "c_weight_quantized"} <= set(stored)


def test_names_that_are_taken_are_not_taken_again(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    graph = make_graph(
        "x_quantized = Conv (x, w) x_scale = Relu (x_quantized) y = Conv (x_scale, w)", w=weights(3, 3, 1, 1)
    )
    inputs = images(8, 3, 8, 8)
    assert fidelity(graph, quantize(graph, profile, inputs), inputs) > 20


def test_the_same_graph_gives_the_same_bytes_and_is_left_as_it_was(
    residual: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    before = residual.SerializeToString()
    one, two = (serialize(quantize(residual, profile, images(8, 3, 8, 8))) for _ in range(2))
    assert one == two
    assert residual.SerializeToString() == before


def test_int8_activations_with_a_zero_in_the_middle(residual: onnx.ModelProto, profile: QuantizationProfile) -> None:
    symmetric = profile.model_copy(update={"activation_dtype": "int8", "activation_symmetric": True})
    inputs = images(8, 3, 8, 8)
    quantized = quantize(residual, symmetric, inputs)
    points = [array for name, array in arrays(quantized).items() if name.endswith("zero_point")]
    assert all(point.dtype in (np.int8, np.int32) and not point.any() for point in points)
    assert fidelity(residual, quantized, inputs) > 25


def test_tensors_with_one_root_share_the_range_that_holds_all(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    body = "c = Conv (x, w) m = MaxPool <kernel_shape = [2, 2]> (c) y = Conv (m, w)"
    graph = make_graph(body, w=weights(3, 3, 1, 1))
    placement = make_placement(graph, profile)
    ranges = {pair.tensor: Range(0, 1) for pair in placement.pairs} | {"c": Range(-1, 2), "m": Range(0, 3)}
    scheme = make_scheme(graph, placement, ranges, profile)
    assert scheme.activations["c"] is scheme.activations["m"]
    known = scheme.activation_ranges()["c"]
    assert known.scale == (pytest.approx(4 / 255),)
    assert known.zero_point == (64,)
    assert known.axis is None


@pytest.mark.parametrize("integer_moves", [(), ("Pad",)])
@pytest.mark.parametrize("outputs", ["float[] y", "float[] y, float[N, 4, 8, 8] s"])
def test_a_prescribed_range_is_requantized_for_what_is_moved_with_others(
    make_graph: Make, weights: Make, integer_moves: tuple[str, ...], outputs: str
) -> None:
    body = "c = Conv (x, w) s = Sigmoid (c) p = Pad (s, z) q = Pad (c, z) t = Concat <axis = 1> (p, q) y = Conv (t, v)"
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    graph = make_graph(body, outputs=outputs, w=weights(4, 3, 1, 1), v=weights(4, 8, 1, 1, seed=1), z=pads)
    inputs, profile = images(8, 3, 8, 8), LITERT.model_copy(update={"weight_bits": 7, "integer_moves": integer_moves})
    quantized = quantize(graph, profile, inputs)
    stored, nodes = arrays(quantized), {node.name: node for node in quantized.graph.node}
    assert (stored["s_scale"], stored["s_zero_point"]) == (1 / 256, -128)
    second = nodes["s_QuantizeLinear_2"]
    assert second.input[:] == [nodes["s_DequantizeLinear"].output[0], *nodes["t_QuantizeLinear"].input[1:]]
    assert nodes["p"].input[0] == (second if integer_moves else nodes["s_DequantizeLinear_2"]).output[0]
    assert fidelity(graph, quantized, inputs) > 30
