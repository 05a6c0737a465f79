"""The means that quantization moves are put back, layer by layer, and the output is nearer to the float one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt.model import QuantizationProfile
from edgeopt.onnx_graph import make_session, run_session
from edgeopt.quantization.bias_correction import add_biases, correct_biases
from edgeopt.quantization.calibration import Arrays, collect_minmax
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import Scheme, make_scheme

Make = Callable[..., Any]

IMAGES = np.random.default_rng(0).uniform(0, 1, (64, 3, 8, 8)).astype(np.float32)


def batches() -> Iterator[Arrays]:
    for at in range(0, len(IMAGES), 16):
        yield {"x": IMAGES[at : at + 16]}


def run(graph: onnx.ModelProto) -> np.ndarray:
    return run_session(make_session(graph), {"x": IMAGES})["y"]


def scheme_of(graph: onnx.ModelProto, profile: QuantizationProfile) -> Scheme:
    placement = make_placement(graph, profile)
    ranges = collect_minmax(graph, [pair.tensor for pair in placement.pairs], batches())
    return make_scheme(graph, placement, ranges, profile)


@pytest.mark.parametrize("full", [True, False])
def test_the_mean_of_the_output_is_put_back(full: bool, biased: onnx.ModelProto, profile: QuantizationProfile) -> None:
    scheme, exact = scheme_of(biased, profile), run(biased)
    before = run(insert_pairs(biased, scheme))
    corrected = correct_biases(biased, scheme, batches, full=full)
    after = run(insert_pairs(corrected, scheme))
    moved, left = (np.abs((each - exact).mean(axis=0)) for each in (before, after))
    assert left.max() < 0.35 * moved.max()
    assert np.square(after - exact).mean() < 0.5 * np.square(before - exact).mean()


def test_full_correction_sees_what_the_layers_before_have_left(
    biased: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    """With ranges that cut activations off, the errors come from there, and only running the network shows them."""
    scheme, exact = scheme_of(biased, profile), run(biased)
    cut = {
        name: replace(one, scale=np.asarray(one.scale * 0.5, np.float32)) if name in ("r", "s") else one
        for name, one in scheme.activations.items()
    }
    scheme = replace(scheme, activations=cut)
    errors = {}
    for full in (True, False):
        corrected = correct_biases(biased, scheme, batches, full=full)
        errors[full] = np.square(run(insert_pairs(corrected, scheme)) - exact).mean()
    assert errors[True] < 0.5 * errors[False]


def test_runs_are_as_many_as_layers_are_deep(biased: onnx.ModelProto, profile: QuantizationProfile) -> None:
    told: list[tuple[int, int]] = []
    correct_biases(biased, scheme_of(biased, profile), batches, full=True, on_run=lambda *run: told.append(run))
    assert told == [(2, 5), (3, 5), (4, 5), (5, 5)]


def test_nothing_changes_where_nothing_is_rounded(make_graph: Make, profile: QuantizationProfile) -> None:
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[:, :, 0, 0] = np.random.default_rng(0).integers(-63, 64, (4, 3))
    weight[:, 0] = 64
    graph = add_biases(make_graph("y = Conv (x, w)", w=weight))
    corrected = correct_biases(graph, scheme_of(graph, profile), batches, full=False)
    bias = next(tensor for tensor in corrected.graph.initializer if tensor.name == "y_added_bias")
    np.testing.assert_allclose(onnx.numpy_helper.to_array(bias), 0, atol=1e-6)


def test_biases_of_zeros_are_added_where_there_are_none(make_graph: Make, weights: Make) -> None:
    body = "c = Conv (x, w) r = Relu (c) d = Conv (r, v, b) g = GlobalAveragePool (d) f = Flatten (g) y = Gemm (f, u)"
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(5, 4, 1, 1), b=weights(5), u=weights(5, 6))
    biased = add_biases(graph)
    np.testing.assert_array_equal(run(biased), run(graph))
    assert all(len(node.input) == 3 for node in biased.graph.node if node.op_type in ("Conv", "Gemm"))
