"""From the nodes of a running session back to those of the graph that was built."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.explain.layers import Source
from edgeopt.explain.profile import take_profile
from tests.explain.conftest import make_network, on_x86, quantize, write_artifact


@on_x86
@pytest.mark.parametrize("quantized", [False, True])
def test_every_layer_is_found_again_in_what_the_runtime_made_of_it(quantized: bool, tmp_path: Path) -> None:
    network = make_network((32, 32, 20, 20, 33), residual=True)
    source = Source(quantize(network) if quantized else network)
    nodes = take_profile(write_artifact(source.graph, tmp_path), source.graph, cores=2).nodes
    found = source.origins({node.name: node.operator for node in nodes})
    convolutions = [found[node.name] for node in nodes if node.operator.endswith("Conv")]
    assert convolutions == ["conv0", "conv1", "conv2", "conv3", "conv4"]
    assert {"add1", "add3", "head"} <= set(found.values())


@on_x86
def test_a_sum_that_was_folded_into_a_convolution_leads_to_the_one_that_is_not_found_otherwise(tmp_path: Path) -> None:
    """As in a residual network: the shortcut has a convolution too, and either could make the sum."""
    random = {"w": (16, 3, 3, 3), "v": (16, 16, 3, 3), "s": (16, 16, 1, 1)}
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [0.01] * (shape[0] * shape[1] * shape[2] * shape[3]))
        for name, shape in random.items()
    ]
    text = """<ir_version: 9, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,16,8,8] y) {
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
        b = Relu (a)
        main = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, v)
        short = Conv <kernel_shape = [1, 1]> (b, s)
        sum = Add (main, short)
        y = Relu (sum)
    }"""
    graph = onnx.parser.parse_model(text)
    graph.graph.initializer.extend(constants)
    for node in graph.graph.node:
        node.name = f"{node.output[0]}_node"
    source = Source(graph)
    nodes = take_profile(write_artifact(source.graph, tmp_path), source.graph, cores=2).nodes
    found = source.origins({node.name: node.operator for node in nodes})
    convolutions = [found[node.name] for node in nodes if node.operator == "Conv"]
    assert sorted(convolutions) == ["a_node", "main_node", "short_node"]


def test_nodes_get_names_of_their_own() -> None:
    network = make_network((8, 8))
    for node in network.graph.node:
        node.name = "same" if node.op_type == "Conv" else ""
    names = list(Source(network).nodes)
    assert len(set(names)) == len(names) == 7
    assert "same" in names


def test_a_layer_has_the_channels_that_it_was_given_and_its_products() -> None:
    layers = Source(quantize(make_network((20, 36), size=16))).layers
    assert {(layer.channels_in, layer.channels_out, layer.from_input) for layer in layers.values()} == {
        (3, 20, True),
        (20, 36, False),
    }
    assert layers["conv1"].macs == 20 * 36 * 9 * 16 * 16


def test_a_size_that_is_not_known_gives_no_products() -> None:
    network = make_network((8,))
    for axis in (2, 3):
        network.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    assert Source(network).layers["conv0"].macs is None


def test_what_a_name_does_not_lead_to_has_no_origin() -> None:
    made = {"ReorderOutput": "ReorderOutput", "Transpose_token_4": "Transpose", "x_nchwc": "Conv", "conv0": "Conv"}
    found = Source(make_network((8,))).origins(made)
    assert found == {"ReorderOutput": "", "Transpose_token_4": "", "x_nchwc": "", "conv0": "conv0"}


def test_integers_are_known_by_their_zero_point_and_of_a_weight_by_who_reads_it() -> None:
    s8 = Source(quantize(make_network((8, 8)), activation_dtype="int8"))
    assert s8.integers_of("r0_QuantizeLinear") == "int8"
    assert s8.reads_integers("conv1") == "int8"
    assert s8.activation_dtype("conv1_weight_DequantizeLinear") == "int8"
    u8 = Source(quantize(make_network((8, 8))))
    assert u8.activation_dtype("conv1_weight_DequantizeLinear") == "uint8"
    assert u8.reads_integers("relu0") == ""
    graph = quantize(make_network((8, 8)))
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear":
            del node.input[2]
    assert Source(graph).integers_of("r0_QuantizeLinear") == "uint8", "which ONNX takes where no zero point is given"


def test_only_the_ends_of_a_graph_are_its_border() -> None:
    source = Source(quantize(make_network((8, 8))))
    assert source.is_border("image_QuantizeLinear")
    assert not source.is_border("image_DequantizeLinear")
    assert not source.is_border("nobody")


def test_a_weight_is_float_where_it_is_not_dequantized() -> None:
    source = Source(quantize(make_network((8, 8)), ["conv1"]))
    assert source.has_weight("conv0")
    assert not source.has_float_weight("conv0")
    assert source.has_float_weight("conv1")
    assert not source.has_weight("relu0")
    known = [numpy_helper.to_array(tensor).dtype.name for tensor in source.graph.graph.initializer]
    assert "int8" in known
