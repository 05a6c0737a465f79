"""The causes of time: each constructed, run by ONNX Runtime and named; then the rules alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeopt.explain import Cause
from edgeopt.explain.layers import Source
from edgeopt.explain.machine import Machine, this_machine
from edgeopt.explain.profile import Node, Profile, take_profile
from edgeopt.explain.speed import find_causes
from tests.explain.conftest import AVX2, VNNI, make_network, on_x86, quantize, write_artifact

PASSES = ("simplify_onnx", "quantize_int8")


def explain(
    graph: onnx.ModelProto, folder: Path, machine: Machine = VNNI, passes: Sequence[str] = PASSES, threads: int = 1
) -> tuple[Cause, ...]:
    """The causes in a graph that is run here, as if it were on that machine; but for what only a clock can tell."""
    source = Source(graph)
    profile = take_profile(write_artifact(graph, folder, threads), source.graph, machine.cores)
    return find_causes(replace(profile, doubled_us=None), source, machine, passes, not_faster=True)


def rescale(graph: onnx.ModelProto, tensor: str, factor: float) -> onnx.ModelProto:
    """Give the pair of a tensor a scale of its own, as quantizers do that let no two tensors share one."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    known = {each.name: numpy_helper.to_array(each) for each in changed.graph.initializer}
    pair = [node for node in changed.graph.node if node.name.removesuffix("_QuantizeLinear") == tensor]
    pair += [node for node in changed.graph.node if node.name.removesuffix("_DequantizeLinear") == tensor]
    own = (known[pair[0].input[1]] * factor).astype(np.float32)
    changed.graph.initializer.append(numpy_helper.from_array(own, "own_scale"))
    for node in pair:
        node.input[1] = "own_scale"
    return changed


# each cause, constructed


@on_x86
def test_u8_weights_are_named(tmp_path: Path) -> None:
    first, *_ = explain(quantize(make_network(), weight_dtype="uint8", weight_bits=8), tmp_path)
    assert first.name == "u8_weights"
    assert first.share is not None
    assert first.share > 0.5
    assert {layer.layer for layer in first.layers} == {"conv0", "conv1", "conv2", "conv3", "head"}
    assert first.edit == "quantize_int8: {}"


@on_x86
@pytest.mark.parametrize("residual", [False, True])
def test_s8_activations_are_named_where_they_keep_layers_in_float(residual: bool, tmp_path: Path) -> None:
    network = make_network(residual=residual)
    s8 = {"activation_dtype": "int8", "activation_symmetric": True, "weight_bits": 8}
    found = explain(quantize(network, **s8), tmp_path)
    assert found[0].name == "s8_activations"
    assert {"conv1", "conv2", "conv3"} <= {layer.layer for layer in found[0].layers}
    assert not {"unfused_pairs", "float_operators"} & {cause.name for cause in found}, "it is one cause, told once"


@on_x86
def test_a_pair_that_is_not_fused_is_named_with_what_stands_in_it(tmp_path: Path) -> None:
    sound = quantize(make_network(between="MaxPool"))
    assert explain(sound, tmp_path / "sound") == (unknown(),)
    found = {cause.name: cause for cause in explain(rescale(sound, "r1", 1.5), tmp_path / "unsound")}
    cause = found["unfused_pairs"]
    assert "around MaxPool `between`" in cause.sentence
    assert cause.edit == "quantize_int8: {keep_float: [between]}"


@on_x86
def test_odd_channels_are_named_with_what_they_cost(tmp_path: Path) -> None:
    first, *_ = explain(make_network((25, 25, 25, 32, 32)), tmp_path, passes=("prune_channels", "export_onnx"))
    assert first.name == "odd_channels"
    assert first.edit == "prune_channels: {round_to: 8}"
    assert "times the time per product of those that fit" in first.sentence
    assert {layer.layer for layer in first.layers} == {"conv0", "conv1", "conv2", "conv3"}, "conv4 takes 32, makes 32"


@on_x86
def test_odd_channels_of_integer_layers_are_those_that_they_make(tmp_path: Path) -> None:
    (first,) = explain(quantize(make_network((20, 32, 20, 32))), tmp_path)
    assert first.name == "odd_channels"
    assert {layer.layer for layer in first.layers} == {"conv0", "conv2"}
    assert first.edit == ""
    assert "multiples of 8" in first.advice


def test_two_threads_on_one_core_are_named_with_a_run_of_one_beside(one_core: None, tmp_path: Path) -> None:
    machine = this_machine()
    assert machine.cores == 1
    found = {cause.name: cause for cause in explain(make_network(), tmp_path, machine, ("export_onnx",), threads=2)}
    cause = found["more_threads_than_cores"]
    assert cause.edit == "threads: 1"
    assert "2 threads have 1 core between them" in cause.sentence
    assert cause.share is not None


@on_x86
def test_a_cpu_without_vnni_is_named_for_what_vnni_would_speed_up(tmp_path: Path) -> None:
    (only,) = explain(quantize(make_network()), tmp_path / "u8s8", AVX2)
    assert only.name == "no_integer_dot_product"
    assert "without VNNI" in only.sentence
    u8 = quantize(make_network(), weight_dtype="uint8", weight_bits=8)
    assert [cause.name for cause in explain(u8, tmp_path / "u8u8", AVX2)] == ["u8_weights"]


@pytest.mark.parametrize(("operator", "ran"), [("Softplus", "Softplus"), ("HardSwish", "HardSigmoid")])
def test_operators_without_an_integer_kernel_are_named(operator: str, ran: str, tmp_path: Path) -> None:
    """Also where the runtime takes them apart, and what it makes has no name of ours."""
    found = {cause.name: cause for cause in explain(quantize(make_network(between=operator)), tmp_path)}
    cause = found["float_operators"]
    assert ran in cause.sentence
    assert (cause.edit, f"{ran} has no integer kernel here" in cause.advice) == ("", True)
    assert f"around {operator} `between`" in found["unfused_pairs"].sentence


def test_a_layer_that_the_recipe_keeps_in_float_is_named_with_its_conversions(tmp_path: Path) -> None:
    """ONNX Runtime would quantize it all the same, with one scale for all channels, if the backend let it."""
    found = {cause.name: cause for cause in explain(quantize(make_network(), ["conv2"]), tmp_path)}
    cause = found["float_operators"]
    assert [layer.layer for layer in cause.layers] == ["conv2"]
    assert "`conv2` no longer in its `keep_float`" in cause.advice


# what is sound


def unknown() -> Cause:
    return Cause(
        name="unknown",
        sentence="not known: nothing that is known to cost time takes 2% of it",
        edit="fp32: []",
        advice="among `variants:`, if it is not there, keeps float in the race",
    )


@on_x86
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_sound_graph_has_no_cause_but_an_unknown_one(quantized: bool, residual: bool, tmp_path: Path) -> None:
    network = make_network(residual=residual)
    assert explain(quantize(network) if quantized else network, tmp_path) == (unknown(),)


# the rules alone


def judge(
    nodes: Sequence[Node], graph: onnx.ModelProto, machine: Machine = VNNI, **measured: float
) -> dict[str, Cause]:
    profile = Profile(tuple(nodes), **{"threads": 1, "run_us": 100.0} | measured)  # type: ignore[arg-type]
    found = find_causes(profile, Source(graph), machine, ("prune_channels",), not_faster=False)
    return {cause.name: cause for cause in found}


def test_what_takes_little_time_is_no_cause() -> None:
    ends = [Node(f"conv{index}_token_{index}", "QLinearConv", 500.0, "uint8", "int8") for index in (0, 1)]
    graph = quantize(make_network((32, 32)))
    for time_us, found in ((10.0, set()), (40.0, {"layout_conversions"})):
        move = Node("Transpose", "Transpose", time_us, "uint8")
        assert set(judge([ends[0], move, ends[1]], graph)) == found
        assert judge([move, *ends, move], graph) == {}, "at the ends, the layout must change"


def test_shares_are_of_the_time_of_all_nodes_and_the_largest_comes_first() -> None:
    graph = quantize(make_network((32, 32)), weight_dtype="uint8", weight_bits=8)
    nodes = [
        Node("conv1_token_4", "QLinearConv", 10.0, "uint8", "uint8"),
        Node("Transpose", "Transpose", 60.0, "uint8"),
        Node("conv0_token_1", "QLinearConv", 30.0, "uint8", "uint8"),
    ]
    found = judge(nodes, graph)
    assert list(found) == ["layout_conversions", "u8_weights"]
    assert found["u8_weights"].share == pytest.approx(0.4)
    assert [(layer.layer, layer.share) for layer in found["u8_weights"].layers] == [
        ("conv0", pytest.approx(0.3)),
        ("conv1", pytest.approx(0.1)),
    ]


def test_odd_channels_that_cost_nothing_are_no_cause() -> None:
    graph = make_network((20, 32, 20, 32, 32))
    macs = {layer.name: layer.macs or 0 for layer in Source(graph).layers.values()}

    def ran(excess: float) -> list[Node]:
        odd = {"conv1", "conv2", "conv3"}
        times = {name: each * 1e-3 * (excess if name in odd else 1.0) for name, each in macs.items()}
        return [Node(f"r{name[-1]}_nchwc", "Conv", time, "float") for name, time in times.items()]

    assert "odd_channels" not in judge(ran(1.0), graph)
    assert "1.4 times the time per product" in judge(ran(1.4), graph)["odd_channels"].sentence


def test_a_wider_vector_asks_for_more_channels() -> None:
    nodes = [Node("r0_nchwc", "Conv", 10.0, "float"), Node("r1_nchwc", "Conv", 10.0, "float")]
    graph = make_network((24, 24))
    assert "odd_channels" not in judge(nodes, graph)
    wide = Machine("x86_64", ("avx2", "avx512f", "avx512_vnni"), cores=2)
    cause = judge(nodes, graph, wide)["odd_channels"]
    assert cause.edit == "prune_channels: {round_to: 16}"
    assert "not measured, as none of their kind fits" in cause.sentence


def test_s8_kernels_are_slow_on_x86_and_right_on_arm() -> None:
    graph = quantize(make_network((32,)), activation_dtype="int8")
    nodes = [Node("conv0_token_1", "QLinearConv", 10.0, "int8", "int8")]
    assert "1 integer layer run a slow kernel" in judge(nodes, graph)["s8_activations"].sentence
    assert judge(nodes, graph, Machine("aarch64", ("asimd", "asimddp"), cores=2)) == {}
    lacking = judge(nodes, graph, Machine("aarch64", ("asimd",), cores=2))["no_integer_dot_product"]
    assert "without dot products of int8" in lacking.sentence


def test_a_network_too_small_for_its_operators_is_named() -> None:
    nodes, graph = [Node("r0_nchwc", "Conv", 10.0, "float")], make_network((32,))
    assert judge(nodes, graph, run_us=100.0, doubled_us=160.0) == {}
    cause = judge(nodes, graph, run_us=100.0, doubled_us=120.0)["fixed_cost"]
    assert cause.share == pytest.approx(0.8)
    assert cause.edit == "batch: 4"


def test_threads_count_against_the_cores_allowed_and_cost_what_was_measured() -> None:
    nodes, graph = [Node("r0_nchwc", "Conv", 10.0, "float")], make_network((32,))
    assert judge(nodes, graph, threads=2) == {}
    single = Machine("x86_64", ("avx2",), cores=1)
    cause = judge(nodes, graph, single, threads=2, run_us=200.0, fewer_us=150.0)["more_threads_than_cores"]
    assert cause.share == pytest.approx(0.25)
    free = judge(nodes, graph, single, threads=2, run_us=200.0, fewer_us=210.0)["more_threads_than_cores"]
    assert free.share == 0.0, "it is named, since the report may come from a busier hour"


def test_a_graph_that_was_not_quantized_has_no_operators_that_run_in_float() -> None:
    assert judge([Node("r0_nchwc", "Conv", 10.0, "float")], make_network((32,))) == {}


def test_conversions_at_the_ends_of_a_graph_are_no_cause() -> None:
    graph = quantize(make_network((32,)))
    nodes = [
        Node("image_QuantizeLinear", "QuantizeLinear", 50.0, "float"),
        Node("conv0_token_1", "QLinearConv", 50.0, "uint8", "int8"),
    ]
    assert judge(nodes, graph) == {}
    inside = Node("r0_DequantizeLinear", "DequantizeLinear", 50.0, "uint8")
    assert set(judge([*nodes, inside], graph)) == {"unfused_pairs"}


def test_a_convolution_that_is_not_fused_is_first_simplified() -> None:
    graph = quantize(make_network((32, 32)))
    nodes = [
        Node("conv0_token_1", "QLinearConv", 10.0, "uint8", "int8"),
        Node("r0_DequantizeLinear", "DequantizeLinear", 10.0, "uint8"),
        Node("conv1", "FusedConv", 10.0, "float"),
    ]
    assert judge(nodes, graph)["unfused_pairs"].edit == "simplify_onnx: {}"
    profile = Profile(tuple(nodes), threads=1, run_us=30.0)
    found = find_causes(profile, Source(graph), VNNI, PASSES, not_faster=False)
    assert found[0].edit == "quantize_int8: {keep_float: [conv1]}"
