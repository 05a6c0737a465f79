"""Codebooks: few values, close to what was there, zeros as they were; scales and everything else untouched."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeopt.errors import PassError
from edgeopt.sparsity.codebooks import find_codebook, find_weights, share

GENERATOR = np.random.default_rng(0)
WEIGHT = GENERATOR.normal(0, 0.1, (8, 16, 3, 3)).astype(np.float32)


def make_float(weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")]
    return make_graph(nodes, w=weight, b=np.zeros(8, np.float32))


def make_int8(dtype: type = np.int8, zero: int = 0) -> onnx.ModelProto:
    scale = np.linspace(0.001, 0.01, 8).astype(np.float32)
    whole = np.clip(np.round(WEIGHT / 0.002) + zero, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["real"], axis=0),
        helper.make_node("Conv", ["x", "real"], ["y"], name="conv"),
    ]
    return make_graph(nodes, w=whole, s=scale, z=np.full(8, zero, dtype))


def make_graph(nodes: list[onnx.NodeProto], **tensors: np.ndarray) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], stored))


def arrays(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


@pytest.mark.parametrize("bits", [2, 4, 7])
@pytest.mark.parametrize("graph", [make_float(), make_int8(), make_int8(np.uint8, 128)], ids=["float", "s8", "u8"])
def test_a_layer_has_as_many_values_as_were_asked_for_and_nothing_else_changes(
    graph: onnx.ModelProto, bits: int
) -> None:
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    (weight,) = find_weights(made)
    shared = share(weight, bits)
    before, after = arrays(graph), arrays(made)
    assert shared.values == len(np.unique(after["w"])) <= 2**bits
    assert after["w"].dtype == before["w"].dtype
    assert all(np.array_equal(before[name], after[name]) for name in before if name != "w")
    assert made.graph.node == graph.graph.node


def test_more_bits_are_closer() -> None:
    fidelities = []
    for bits in range(2, 9):
        (weight,) = find_weights(make_float())
        fidelities.append(share(weight, bits).sqnr_db)
    assert fidelities == sorted(fidelities)
    assert all(4.5 < after - before < 9 for before, after in itertools.pairwise(fidelities))


def test_zeros_stay_zeros_and_have_a_value_of_their_own() -> None:
    pruned = np.where(np.abs(WEIGHT) < 0.1, 0, WEIGHT).astype(np.float32)
    graph = make_float(pruned)
    (weight,) = find_weights(graph)
    share(weight, 2)
    after = arrays(graph)["w"]
    assert np.array_equal(after == 0, pruned == 0)
    assert len(np.unique(after)) == 4


def test_a_zero_point_is_zero() -> None:
    graph = make_int8(np.uint8, 128)
    before = arrays(graph)["w"]
    (weight,) = find_weights(graph)
    share(weight, 2)
    assert (arrays(graph)["w"][before == 128] == 128).all()


def test_integers_of_eight_bits_cannot_share_256_values() -> None:
    (weight,) = find_weights(make_int8())
    with pytest.raises(PassError, match="`conv` has integers of 8 bits"):
        share(weight, 8)


def test_zero_points_that_differ_are_refused() -> None:
    graph = make_int8(np.uint8, 128)
    graph.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.arange(120, 128, dtype=np.uint8), "z"))
    (weight,) = find_weights(graph)
    with pytest.raises(PassError, match="`conv` has integers with zero points that differ by channel"):
        share(weight, 2)


def test_a_weight_that_two_layers_read_is_shared_once_and_ignored_ones_are_left() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], [name], name=name) for name in ("a", "b")]
    graph = make_graph(
        [*nodes, helper.make_node("MatMul", ["a", "v"], ["y"], name="c")], w=WEIGHT[0, 0], v=WEIGHT[1, 0]
    )
    assert [weight.node for weight in find_weights(graph)] == ["a", "c"]
    assert [weight.node for weight in find_weights(graph, ["c"])] == ["a"]
    assert [weight.node for weight in find_weights(graph, ["b"])] == ["c"]
    with pytest.raises(PassError, match="no layer `d` to ignore"):
        find_weights(graph, ["d"])


def loss(values: np.ndarray, book: np.ndarray) -> float:
    return float(np.square(values[:, None] - book).min(1).sum())


@given(st.lists(st.integers(-50, 50), min_size=3, max_size=9, unique=True), st.integers(2, 4))
def test_no_other_values_are_nearer(values: list[int], count: int) -> None:
    rising = np.array(sorted(values), float)
    found = loss(rising, find_codebook(rising, np.ones(len(rising)), count))
    cuts = itertools.combinations(range(1, len(rising)), min(count, len(rising)) - 1)
    best = min(loss(rising, np.array([part.mean() for part in np.split(rising, cut)])) for cut in cuts)
    assert found == pytest.approx(best, abs=1e-6)


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=60, unique=True), st.integers(2, 16))
def test_a_codebook_rises_and_lies_within(values: list[float], count: int) -> None:
    rising = np.array(sorted(values))
    book = find_codebook(rising, np.ones(len(rising)), count)
    assert 0 < len(book) <= count or len(book) == len(rising)
    assert (np.diff(book) >= -1e-9).all()
    assert rising[0] - 1e-6 <= book[0]
    assert book[-1] <= rising[-1] + 1e-6


def test_what_is_there_often_counts_often() -> None:
    values, counts = np.array([0.0, 1.0, 10.0]), np.array([9.0, 1.0, 1.0])
    assert find_codebook(values, counts, 2) == pytest.approx([0.1, 10.0])


def test_a_few_that_lie_far_off_cost_the_others_two_values() -> None:
    """With 14 values left normal ones are served to 19.1 dB."""
    values = np.sort([*GENERATOR.normal(0, 1, 50_000), -300.0, 300.0])
    book = find_codebook(values, np.ones(50_002), 16)
    assert 10 * np.log10(np.square(values[1:-1]).sum() / loss(values, book)) == pytest.approx(19.1, abs=0.2)


def test_many_values_are_nearly_as_well_served_as_few() -> None:
    """Normal values with 16 to stand for them: 20.2 dB is the most that there is (Max, 1960)."""
    values = np.sort(GENERATOR.normal(0, 1, 50_000))
    book = find_codebook(values, np.ones(50_000), 16)
    assert 10 * np.log10(np.square(values).sum() / loss(values, book)) == pytest.approx(20.22, abs=0.1)
