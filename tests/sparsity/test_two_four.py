"""Two of four: the two largest of each four inputs stay, whatever the order of channels; a graph is looked at alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgeopt.model import Model
from edgeopt.network import make_network
from edgeopt.pruning.groups import find_groups
from edgeopt.reshaping.verdict import random_inputs
from edgeopt.sparsity.pattern import find_sparse, has_sparse
from edgeopt.sparsity.permutation import _rounds, find_order, permute_groups
from edgeopt.sparsity.two_four import keep_two_of_four, kept_magnitude, misfit
from edgeopt.sparsity.weights import find_layers


@pytest.mark.parametrize("shape", [(3, 8), (5, 4, 3, 3), (2, 12, 1)])
def test_the_two_largest_of_each_four_inputs_stay(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = keep_two_of_four(weight)
    for out in range(shape[0]):
        for place in np.ndindex(*shape[2:]):
            row = weight[(out, slice(None), *place)].abs().view(-1, 4)
            kept = mask[(out, slice(None), *place)].view(-1, 4)
            for four, stays in zip(row, kept, strict=True):
                assert set(four[stays].tolist()) == set(sorted(four.tolist())[2:])


def test_of_equal_weights_two_stay() -> None:
    assert keep_two_of_four(torch.zeros(1, 8)).tolist() == [[True, True, False, False] * 2]


def test_what_two_of_four_keep_is_summed_without_sorting() -> None:
    columns = torch.rand(6, 4, 50, generator=torch.Generator().manual_seed(0))
    expected = columns.sort(dim=1).values[:, 2:].sum((1, 2))
    torch.testing.assert_close(kept_magnitude(columns), expected)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.Conv2d(64, 64, 3), ""),
        (nn.Linear(64, 128), ""),
        (nn.Conv2d(66, 64, 3), "66 input channels are no multiple of 4"),
        (nn.Conv2d(64, 64, 3, groups=64), "1 input channels are no multiple"),
        (nn.Conv2d(64, 32, 3), "64 to 32 channels, fewer than 64"),
        (nn.ConvTranspose2d(64, 64, 3), "transposed"),
    ],
)
def test_layers_that_no_sparse_kernel_fits_say_why(layer: nn.Conv2d, told: str) -> None:
    assert misfit(layer, 64).startswith(told)
    assert bool(misfit(layer, 64)) == bool(told)


def test_each_pair_meets_once_and_nobody_is_in_two_pairs_of_a_round() -> None:
    for count in (2, 5, 8):
        rounds = list(_rounds(count))
        assert sorted(itertools.chain.from_iterable(rounds)) == list(itertools.combinations(range(count), 2))
        for pairs in rounds:
            assert len(set(itertools.chain.from_iterable(pairs))) == 2 * len(pairs)


def test_the_best_order_of_eight_channels_is_found() -> None:
    columns = torch.rand(8, 40, generator=torch.Generator().manual_seed(3)) ** 3

    def kept(order: list[int]) -> float:
        return float(kept_magnitude(columns[order].view(2, 4, -1)).sum())

    halves = itertools.combinations(range(8), 4)
    best = max(kept([*half, *(each for each in range(8) if each not in half)]) for half in halves)
    order = find_order(columns)
    assert order is not None
    assert sorted(order) == list(range(8))
    assert kept(order) == pytest.approx(best)


def test_large_channels_are_spread_over_the_stretches() -> None:
    """Eight of sixteen channels matter: in the order given they stand together, and half of them would go."""
    columns = torch.full((16, 10), 0.01)
    columns[:8] = 1.0
    order = find_order(columns)
    assert order is not None
    assert all(sum(channel < 8 for channel in order[at : at + 4]) == 2 for at in range(0, 16, 4))


def test_an_order_that_cannot_gain_is_left() -> None:
    assert find_order(torch.ones(16, 5)) is None
    assert find_order(torch.rand(4, 5)) is None


@pytest.mark.parametrize("name", ["make_plain", "make_mobile", "make_concatenated", "make_option_a", "make_attentive"])
def test_numbering_channels_anew_leaves_the_outputs(architecture: Callable[[str], Model], name: str) -> None:
    model = architecture(name)
    network, inputs = make_network(model), random_inputs(model.inputs, 0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    groups = find_groups(network, inputs)
    with torch.no_grad():
        expected = network(*inputs)
        sparse = [key for key, layer in find_layers(network).items() if not misfit(layer, 4)]
        permuted = permute_groups(network, groups, sparse, random_inputs(model.inputs, 1))
        found = network(*inputs)
    assert permuted > 0
    assert any(not torch.equal(before[key], value) for key, value in network.state_dict().items())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_two_of_four_keep_more_in_another_order(architecture: Callable[[str], Model]) -> None:
    model = architecture("make_plain")
    network, inputs = make_network(model), random_inputs(model.inputs, 0)
    sparse = [key for key, layer in find_layers(network).items() if not misfit(layer, 4)]

    def kept() -> float:
        weights = [network.get_submodule(name).weight.detach() for name in sparse]
        return sum(float(weight[keep_two_of_four(weight)].abs().sum()) for weight in weights)

    before = kept()
    permute_groups(network, find_groups(network, inputs), sparse, inputs)
    assert kept() > before


def make_graph(node: onnx.NodeProto, weight: np.ndarray, *more: onnx.NodeProto, **rest: np.ndarray) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(array, name) for name, array in {"w": weight, **rest}.items()]
    return helper.make_model(helper.make_graph([*more, node], "g", ends[:1], ends[1:], tensors))


SPARSE = np.tile(np.array([1, 0, 2, 0], np.float32), (6, 2))


@pytest.mark.parametrize(
    ("operator", "weight", "attributes", "expected"),
    [
        ("Gemm", SPARSE, {"transB": 1}, True),
        ("Gemm", SPARSE.T, {}, True),
        ("Gemm", SPARSE, {}, False),
        ("MatMul", SPARSE.T, {}, True),
        ("Conv", SPARSE[..., None, None], {}, True),
        ("Conv", np.ones((6, 8, 1, 1), np.float32), {}, False),
        ("Conv", np.zeros((6, 6, 1, 1), np.float32), {}, False),
    ],
)
def test_two_of_four_is_seen_along_the_inputs_of_a_layer(
    operator: str, weight: np.ndarray, attributes: dict[str, int], expected: bool
) -> None:
    graph = make_graph(helper.make_node(operator, ["x", "w"], ["y"], name="layer", **attributes), weight)
    assert find_sparse(graph) == {"layer": expected}


def test_integers_are_zero_where_they_equal_their_zero_point() -> None:
    pair = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["real"], axis=0)
    node = helper.make_node("Conv", ["x", "real"], ["y"])
    scale, points = np.ones(6, np.float32), np.full(6, 7, np.int8)
    weight = (SPARSE[..., None, None] + 7).astype(np.int8)
    assert has_sparse(make_graph(node, weight, pair, s=scale, z=points))
    assert not has_sparse(make_graph(node, weight, pair, s=scale, z=0 * points))
