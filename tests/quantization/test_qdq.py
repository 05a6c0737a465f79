"""Graphs that others have written are read as they are meant: names, constants, weights and defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgeopt.errors import SourceError
from edgeopt.model import QuantizationProfile
from edgeopt.quantization.lint import Violation, lint
from edgeopt.quantization.profiles import LITERT, TENSORRT
from tests.quantization.linted import CPU, PLAIN, Graph, Make, network, node, put, quantize, said, tensor

__all__ = ["network"]

VNNI = CPU.model_copy(update={"name": "cpu with integer dot product", "weight_bits": 8})


def hide_names_and_initializers(graph: Graph) -> None:
    for each in graph.graph.node:
        each.name = ""
    constants = [
        helper.make_node("Constant", [], [each.name], value=numpy_helper.from_array(numpy_helper.to_array(each)))
        for each in graph.graph.initializer
    ]
    del graph.graph.initializer[:]
    for each in reversed(constants):
        graph.graph.node.insert(0, each)


def test_constants_may_be_nodes_and_nodes_may_have_no_name(network: Make) -> None:
    graph = quantize(network("residual"), CPU)
    hide_names_and_initializers(graph)
    assert said(lint(graph, CPU)) == ""
    graph = quantize(network(PLAIN), CPU)
    put(graph, y_weight_quantized=tensor(graph, "y_weight_quantized") * 2)
    hide_names_and_initializers(graph)
    assert [(each.rule, each.node) for each in lint(graph, CPU)] == [("weight_bits", "y_float")]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_weight_may_be_float_behind_a_pair_and_transposed(network: Make, transposed: bool) -> None:
    graph = quantize(network("moved"), CPU)
    dequantize = node(graph, "y_weight_DequantizeLinear")
    weight = (tensor(graph, "y_weight_quantized") * tensor(graph, "y_weight_scale")).astype(np.float32)
    put(graph, m=weight.T if transposed else weight)
    given = ["m", *dequantize.input[1:]]
    place = list(graph.graph.node).index(dequantize)
    quantizing = helper.make_node("QuantizeLinear", given, ["m_integers"], name="m_QuantizeLinear", axis=1 - transposed)
    graph.graph.node.insert(place, quantizing)
    dequantize = node(graph, "y_weight_DequantizeLinear")
    dequantize.input[0] = "m_integers"
    dequantize.attribute[0].i = 1 - transposed
    if transposed:
        result = dequantize.output[0]
        dequantize.output[0] = "m_floats"
        turned = helper.make_node("Transpose", ["m_floats"], [result], name="turned")
        graph.graph.node.insert(place + 2, turned)
    onnx.checker.check_model(graph, full_check=True)
    assert said(lint(graph, CPU)) == ""
    put(graph, m=tensor(graph, "m") * 1.5)
    assert [(each.rule, each.node) for each in lint(graph, CPU)] == [("weight_bits", "y")]


def test_an_old_graph_without_zero_points_is_read_as_the_operators_say(weights: Make) -> None:
    body = """
        q = QuantizeLinear (x, s) d = DequantizeLinear (q, s) k = DequantizeLinear (w, s)
        c = Conv (d, k) p = QuantizeLinear (c, s) y = DequantizeLinear (p, s)
    """
    text = f'<ir_version: 5, opset_import: ["": 10]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) {{ {body} }}'
    graph = onnx.parser.parse_model(text)
    put(graph, s=np.float32(0.1), w=np.zeros((3, 3, 1, 1), np.int8))
    onnx.checker.check_model(graph, full_check=True)
    assert said(lint(graph, CPU)) == ""
    assert {each.rule for each in lint(graph, LITERT)} == {"activation_dtype"}


class Images(CalibrationDataReader):  # type: ignore[misc]
    """Eight images for ONNX Runtime's own quantizer."""

    def __init__(self) -> None:
        images = np.random.default_rng(0).standard_normal((8, 1, 3, 8, 8)).astype(np.float32)
        self.batches: Iterator[dict[str, Any]] = iter([{"x": image} for image in images])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def quantize_elsewhere(graph: Graph, folder: Path, **options: Any) -> Graph:
    onnx.save(graph, folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "int8.onnx", Images(), quant_format=QuantFormat.QDQ, **options)
    return onnx.load(folder / "int8.onnx")


def rules(violations: tuple[Violation, ...], severity: str) -> set[str]:
    return {each.rule for each in violations if each.severity == severity}


@pytest.fixture
def elsewhere(network: Make, tmp_path: Path) -> Make:
    """Quantizes `PLAIN` by ONNX Runtime's own tool."""
    return lambda **options: quantize_elsewhere(network(PLAIN), tmp_path, **options)


@pytest.mark.parametrize("profile", [CPU, VNNI], ids=lambda profile: profile.name)
def test_the_default_types_of_onnxruntime_are_not_those_of_its_fast_kernels(
    elsewhere: Make, profile: QuantizationProfile
) -> None:
    assert "activation_dtype" in rules(lint(elsewhere(), profile), "illegal")


@pytest.mark.parametrize("profile", [CPU, VNNI], ids=lambda profile: profile.name)
def test_unsigned_weights_are_found(elsewhere: Make, profile: QuantizationProfile) -> None:
    graph = elsewhere(activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8)
    assert {"weight_dtype", "weight_symmetric"} <= rules(lint(graph, profile), "illegal")


def test_unsigned_activations_and_signed_weights_are_legal_unless_they_saturate(elsewhere: Make) -> None:
    options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    graph = elsewhere(**options)
    assert said(lint(graph, VNNI)) == ""
    assert [each.rule for each in lint(graph, CPU)] == ["weight_bits", "weight_bits"]
    assert said(lint(elsewhere(**options, reduce_range=True), CPU)) == ""


def test_what_onnxruntime_writes_for_tensorrt_is_read_too(elsewhere: Make) -> None:
    extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": True}
    found = lint(elsewhere(per_channel=True, extra_options=extra), TENSORRT)
    assert rules(found, "illegal") == set()
    assert rules(found, "slow") == {"few_channels", "pair_before_activation", "wasted_pair"}


def test_a_graph_out_of_order_or_without_its_inputs_is_refused(network: Make) -> None:
    graph = quantize(network(PLAIN), CPU)
    graph.graph.node.append(graph.graph.node[0])
    del graph.graph.node[0]
    with pytest.raises(SourceError, match="reads `x_quantized`, which `x_QuantizeLinear` makes behind it"):
        lint(graph, CPU)
    graph = quantize(network(PLAIN), CPU)
    del node(graph, "r").input[:]
    with pytest.raises(SourceError, match="no sound ONNX graph"):
        lint(graph, CPU)
