"""Where pairs go, for the patterns that convolutional networks are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt.errors import PassError
from edgeopt.model import QuantizationProfile
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.placement import Pair, Placement, make_placement
from edgeopt.quantization.profiles import LITERT, TENSORRT
from edgeopt.quantization.scheme import make_scheme

Make = Callable[..., Any]

RESIDUAL = """
    c1 = Conv (x, w) r1 = Relu (c1)
    c2 = Conv (r1, v) s = Add (c2, r1) r2 = Relu (s)
    y = Conv (r2, v)
"""


@pytest.fixture
def residual(make_graph: Make, weights: Make) -> onnx.ModelProto:
    return make_graph(RESIDUAL, w=weights(4, 3, 1, 1), v=weights(4, 4, 1, 1))


def tensors(placement: Placement) -> list[str]:
    return [pair.tensor for pair in placement.pairs]


def readers(placement: Placement) -> dict[str, tuple[str, ...]]:
    return {pair.tensor: pair.readers for pair in placement.pairs}


def test_the_pair_stands_behind_the_activation_and_never_before(
    residual: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    placement = make_placement(residual, profile)
    assert readers(placement) == {"x": ("c1",), "r1": ("c2", "s"), "c2": ("s",), "r2": ("y",), "y": ()}
    assert placement.integer_nodes == ("c1", "c2", "s", "y")
    assert placement.float_nodes == ()
    assert [pair.leaves for pair in placement.pairs] == [False, False, False, False, True]


def test_the_two_nodes_of_a_swish_are_one_activation(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    arrays = {"w": weights(4, 3, 1, 1), "v": weights(4, 4, 1, 1)}
    graph = make_graph("c = Conv (x, w) s = Sigmoid (c) m = Mul (c, s) y = Conv (m, v)", **arrays)
    fusing = profile.model_copy(update={"fused_activations": ("Swish",)})
    assert tensors(make_placement(graph, fusing)) == ["x", "m", "y"]
    assert make_placement(graph, fusing).float_nodes == ()
    assert "c" in tensors(make_placement(graph, fusing, keep_float=["s"]))
    assert "c" in tensors(make_placement(graph, profile))
    for other in ("m = Mul (c, s) t = Add (c, m) y = Conv (t, v)", "m = Mul (c, s) t = Add (s, m) y = Conv (t, v)"):
        graph = make_graph(f"c = Conv (x, w) s = Sigmoid (c) {other}", **arrays)
        assert "c" in tensors(make_placement(graph, fusing)), "somebody else reads a part of it"


def test_an_activation_that_is_not_fused_has_its_pair_on_both_sides(
    residual: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    placement = make_placement(residual, profile.model_copy(update={"fused_activations": ()}))
    assert tensors(placement) == ["x", "c1", "r1", "c2", "r2", "y"]
    assert placement.float_nodes == ("r1", "s", "r2")


def test_only_the_skip_branch_has_a_pair_where_the_profile_says_so(
    residual: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    one_sided = profile.model_copy(update={"quantize_residual": False, "float_output_ops": ("Conv",)})
    placement = make_placement(residual, one_sided)
    assert readers(placement) == {"x": ("c1",), "r1": ("c2", "s"), "r2": ("y",)}


def test_what_else_a_sum_reads_is_quantized_for_it(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    graph = make_graph("c = Conv (x, w) t = Tanh (x) s = Add (c, t) y = Conv (s, w)", w=weights(3, 3, 1, 1))
    placement = make_placement(graph, profile)
    assert readers(placement)["t"] == ("s",)
    assert readers(placement)["x"] == ("c",), "Tanh computes in float and reads the exact input"
    assert placement.float_nodes == ("t",)


def test_a_float_reader_of_a_fused_result_reads_what_was_quantized(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    placement = make_placement(make_graph("c = Conv (x, w) y = Tanh (c)", w=weights(3, 3, 1, 1)), profile)
    assert readers(placement) == {"x": ("c",), "c": ("y",)}


def test_an_operator_whose_integers_nobody_reads_stays_in_float(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    body = "c = Conv (x, w) s = Add (c, c) m = MaxPool <kernel_shape = [2, 2]> (s) y = Tanh (m)"
    placement = make_placement(make_graph(body, w=weights(3, 3, 1, 1)), profile)
    assert tensors(placement) == ["x", "c"]
    assert placement.float_nodes == ("s", "y")


def test_tensors_that_are_only_moved_share_a_scale(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    body = """
        c = Conv (x, w) m = MaxPool <kernel_shape = [2, 2]> (c) g = GlobalAveragePool (m)
        f = Flatten (g) y = Gemm (f, v)
    """
    placement = make_placement(make_graph(body, w=weights(3, 3, 1, 1), v=weights(3, 4)), profile)
    assert {pair.tensor: pair.root for pair in placement.pairs} == {
        "x": "x", "c": "c", "m": "c", "g": "g", "f": "g",
    }  # fmt: skip


def test_a_matrix_product_gives_floats_where_nobody_wants_integers(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    graph = make_graph("a = Gemm (x, v) r = Relu (a) y = Gemm (r, v)", "N,3", v=weights(3, 3))
    assert tensors(make_placement(graph, profile)) == ["x", "r"]
    assert tensors(make_placement(graph, profile.model_copy(update={"float_output_ops": ()}))) == ["x", "r", "y"]


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_scales_lie_along_the_outputs_of_a_matrix(
    make_graph: Make, weights: Make, profile: QuantizationProfile, transposed: int, axis: int
) -> None:
    graph = make_graph(f"y = Gemm <transB = {transposed}> (x, v)", "N,3", v=weights(3, 3))
    assert [weighted.axis for weighted in make_placement(graph, profile).weighted] == [axis]
    assert [weighted.axis for weighted in make_placement(graph, profile, per_channel=False).weighted] == [None]


@pytest.mark.parametrize(
    "body",
    [
        "k = Exp (w) y = Conv (x, k)",
        "k = Exp (b) y = Conv (x, w, k)",
    ],
)
def test_a_weight_or_bias_that_is_no_constant_keeps_its_node_in_float(
    make_graph: Make, weights: Make, profile: QuantizationProfile, body: str
) -> None:
    placement = make_placement(make_graph(body, w=weights(3, 3, 1, 1), b=weights(3)), profile)
    assert placement.pairs == placement.weighted == ()
    assert "y" in placement.float_nodes


@pytest.mark.parametrize("how", ["alpha = 0.5", "beta = 0.5", "transA = 1"])
def test_a_matrix_product_with_more_to_it_stays_in_float(
    make_graph: Make, weights: Make, profile: QuantizationProfile, how: str
) -> None:
    graph = make_graph(f"y = Gemm <{how}> (x, v, b)", "3,3", v=weights(3, 3), b=weights(3))
    assert make_placement(graph, profile).float_nodes == ("y",)


@pytest.mark.parametrize(
    ("pad", "moved"),
    [("(c, p)", True), ("(c, p, zero)", True), ("(c, p, one)", False), ("<mode = 'edge'> (c, p)", True)],
)
def test_padding_moves_values_unless_it_adds_some(
    make_graph: Make, weights: Make, profile: QuantizationProfile, pad: str, moved: bool
) -> None:
    arrays = {"p": np.array([0, 1, 0, 0, 0, 1, 0, 0]), "zero": np.float32(0), "one": np.float32(1)}
    body = f"c = Conv (x, w) d = Pad {pad} y = Conv (d, v)".replace("'", '"')
    graph = make_graph(body, w=weights(3, 3, 1, 1), v=weights(3, 5, 1, 1), **arrays)
    placement = make_placement(graph, profile)
    assert placement.integer_moves == (("d",) if moved else ())
    assert readers(placement)["c"] == (() if moved else ("d",))
    assert readers(placement)["d"] == ("y",)


@pytest.mark.parametrize("name", ["c2", "Conv"])
def test_a_node_or_an_operator_can_be_kept_in_float(
    residual: onnx.ModelProto, profile: QuantizationProfile, name: str
) -> None:
    placement = make_placement(residual, profile, keep_float=[name])
    kept = {"c2"} if name == "c2" else {"c1", "c2", "y"}
    assert kept <= set(placement.float_nodes)
    assert not kept & set(placement.integer_nodes)


def test_a_name_that_is_not_in_the_graph_is_refused(residual: onnx.ModelProto, profile: QuantizationProfile) -> None:
    with pytest.raises(PassError, match="`keep_float` names `Convv`") as caught:
        make_placement(residual, profile, keep_float=["Convv"])
    assert caught.value.hint == "did you mean `Conv`?"


def test_what_is_not_float32_is_let_alone(make_graph: Make, profile: QuantizationProfile) -> None:
    graph = make_graph("d = Cast <to = 11> (x) e = Conv (d, w) y = Cast <to = 1> (e)", w=np.ones((2, 3, 1, 1)))
    placement = make_placement(graph, profile)
    assert placement.pairs == ()
    assert placement.float_nodes == ("y",)


BOTTLENECK = """
    s = Conv (x, w1) r1 = Relu (s)
    c1 = Conv (r1, w2) r2 = Relu (c1) c2 = Conv (r2, w3) d = Conv (r1, w3) a = Add (d, c2) r3 = Relu (a)
    c3 = Conv (r3, w3) b = Add (c3, r3) r4 = Relu (b) g = GlobalAveragePool (r4) f = Flatten (g) y = Gemm (f, v)
"""


def test_tensorrt_has_pairs_before_integer_operators_and_on_the_skip_branch_alone(
    make_graph: Make, weights: Make
) -> None:
    wide = weights(16, 16, 1, 1)
    graph = make_graph(BOTTLENECK, w1=weights(16, 3, 1, 1), w2=wide, w3=wide, v=weights(16, 10))
    placement = make_placement(graph, TENSORRT)
    assert readers(placement) == {"r1": ("c1", "d"), "r2": ("c2",), "d": ("a",), "r3": ("c3", "b")}
    assert not {"s", "y"} & set(placement.integer_nodes), "of 3 and of 10 channels"
    assert not any(pair.leaves for pair in placement.pairs)


@pytest.mark.parametrize(
    ("shape", "group", "integer"),
    [
        ((16, 16, 3, 3), 1, True), ((8, 8, 3, 3), 1, True), ((12, 16, 3, 3), 1, False), ((16, 12, 3, 3), 1, False),
        ((16, 1, 3, 3), 16, True), ((12, 1, 3, 3), 12, False), ((16, 1, 1, 1), 16, False),
    ],
)  # fmt: skip
def test_tensorrt_leaves_convolutions_of_few_channels_in_float(
    shape: tuple[int, ...], group: int, integer: bool, make_graph: Make, weights: Make
) -> None:
    body = f"p = Conv (x, w) y = Conv <group = {group}> (p, v)"
    graph = make_graph(body, w=weights(shape[1] * group, 3, 1, 1), v=weights(*shape))
    assert ("y" in make_placement(graph, TENSORRT).integer_nodes) == integer


def test_litert_is_in_integers_to_the_end_and_what_is_joined_shares_a_scale(make_graph: Make, weights: Make) -> None:
    body = "a = Conv (x, w) b = Conv (x, v) c = Concat <axis = 1> (a, b) s = Sigmoid (c) y = Mul (c, s)"
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(4, 3, 1, 1, seed=1))
    placement = make_placement(graph, LITERT)
    roots = {pair.tensor: pair.root for pair in placement.pairs}
    assert roots["a"] == roots["b"] == roots["c"]
    assert placement.float_nodes == ()
    assert placement.pairs[-1].leaves
    ranges = {pair.tensor: Range(-3, 3) for pair in placement.pairs}
    scheme = make_scheme(graph, placement, ranges, LITERT)
    assert (float(scheme.activations["s"].scale), int(scheme.activations["s"].zero_point)) == (1 / 256, -128)


def test_a_prescribed_range_has_a_second_pair_for_what_moves_it_beside_others(make_graph: Make, weights: Make) -> None:
    body = "a = Conv (x, w) s = Sigmoid (a) t = Concat <axis = 1> (s, a) z = Mul (a, s) c = Conv (t, v) y = Add (c, z)"
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(4, 8, 1, 1))
    placement = make_placement(graph, LITERT)
    assert readers(placement)["s"] == ("z",)
    assert placement.requantized == (Pair("s", "a", ("t",)),)
    roots = {pair.tensor: pair.root for pair in placement.pairs}
    assert (roots["s"], roots["a"], roots["t"]) == ("s", "a", "a")


@pytest.mark.parametrize("body", ["t = Concat <axis = 1> (s, h) y = Conv (t, v)", "y = Flatten (s)"])
def test_prescribed_ranges_that_are_the_same_need_none(body: str, make_graph: Make, weights: Make) -> None:
    start = "a = Conv (x, w) s = Sigmoid (a) h = Softmax <axis = 1> (a)"
    graph = make_graph(f"{start} {body}", w=weights(4, 3, 1, 1), v=weights(4, 8, 1, 1))
    assert not make_placement(graph, LITERT).requantized
