"""Equalized weights compute the same, and what one scale for all channels costs is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeopt.model import QuantizationProfile
from edgeopt.onnx_graph import make_session, run_session
from edgeopt.quantization.arithmetic import sqnr_db
from edgeopt.quantization.calibration import collect_minmax
from edgeopt.quantization.equalization import equalize
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import make_scheme

Make = Callable[..., Any]

IMAGES = {"x": np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)}


def run(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return run_session(make_session(graph), IMAGES)


def fidelity(graph: onnx.ModelProto, exact: onnx.ModelProto, profile: QuantizationProfile) -> float:
    """SQNR of the graph in integers, with one scale for each weight."""
    placement = make_placement(graph, profile, per_channel=False)
    ranges = collect_minmax(graph, [pair.tensor for pair in placement.pairs], [IMAGES])
    return sqnr_db(run(exact), run(insert_pairs(graph, make_scheme(graph, placement, ranges, profile))))


def sizes(graph: onnx.ModelProto, name: str, axis: int) -> np.ndarray:
    weight = next(numpy_helper.to_array(each) for each in graph.graph.initializer if each.name == name)
    return np.abs(weight).max(axis=tuple(at for at in range(weight.ndim) if at != axis))


@pytest.fixture
def unequal(make_graph: Make, weights: Make) -> onnx.ModelProto:
    """Channels whose sizes differ a thousandfold, through a depthwise convolution and pooling to a Gemm."""
    spread = np.logspace(-1.5, 1.5, 8, dtype=np.float32)
    first, second = weights(8, 3, 3, 3) * spread[:, None, None, None], weights(8, 1, 3, 3, seed=1)
    last = weights(8, 5, seed=2) / spread[:, None]
    body = """
        c = Conv (x, w, b) r = Relu (c) d = Conv <group = 8> (r, v, b2) s = Relu (d)
        g = GlobalAveragePool (s) f = Flatten (g) y = Gemm (f, u)
    """
    return make_graph(body, w=first, v=second, u=last, b=weights(8, seed=3), b2=weights(8, seed=4))


def test_an_equalized_network_computes_the_same(unequal: onnx.ModelProto) -> None:
    equalized, pairs = equalize(unequal)
    assert pairs == 2
    np.testing.assert_allclose(run(equalized)["y"], run(unequal)["y"], rtol=1e-4, atol=1e-4)


def test_channels_have_one_size_on_both_sides_of_a_pair(unequal: onnx.ModelProto) -> None:
    equalized, _ = equalize(unequal)
    np.testing.assert_allclose(sizes(equalized, "v", 0), sizes(equalized, "u", 0), rtol=0.02)
    np.testing.assert_allclose(sizes(equalized, "w", 0), sizes(equalized, "v", 0), rtol=0.02)


def test_what_unequal_channels_lose_to_one_scale_is_won_back(
    unequal: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    equalized, _ = equalize(unequal)
    assert fidelity(equalized, unequal, profile) > fidelity(unequal, unequal, profile) + 6


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv (x, w) r = Clip (c, low, high) y = Conv (r, v)",  # a bound does not move with its channel
        "c = Conv (x, w) r = Sigmoid (c) y = Conv (r, v)",
        "c = Conv (x, w) r = Relu (c) y = Conv <group = 2> (r, u)",
        "c = Conv (x, w) a = Conv (c, v) b = Conv (c, v) y = Add (a, b)",
        "c = Conv (x, w) r = Relu (c) a = Conv (r, v) b = Conv (x, w) y = Add (a, b)",  # `w` is read twice
    ],
)
def test_what_a_factor_would_not_pass_is_left(body: str, make_graph: Make, weights: Make) -> None:
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(4, 4, 1, 1), u=weights(4, 2, 1, 1), **bounds)
    equalized, pairs = equalize(graph)
    assert pairs == 0
    assert equalized == graph


def test_dead_channels_stay_as_they_are(make_graph: Make, weights: Make) -> None:
    first, second = weights(4, 3, 1, 1), weights(4, 4, 1, 1, seed=1)
    first[1], second[:, 2] = 0, 0
    graph = make_graph("c = Conv (x, w) r = Relu (c) y = Conv (r, v)", w=first, v=second)
    equalized, pairs = equalize(graph)
    assert pairs == 1
    assert np.isfinite(run(equalized)["y"]).all()
    np.testing.assert_allclose(run(equalized)["y"], run(graph)["y"], rtol=1e-4, atol=1e-4)
