"""What is shifted around zero computes the same, and loses less where a range must be symmetric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt.errors import PassError
from edgeopt.model import QuantizationProfile
from edgeopt.onnx_graph import make_session, run_session
from edgeopt.quantization.arithmetic import sqnr_db
from edgeopt.quantization.bias_correction import add_biases
from edgeopt.quantization.calibration import Arrays, collect_minmax
from edgeopt.quantization.fold import fold
from edgeopt.quantization.lint import lint
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.profiles import TENSORRT
from edgeopt.quantization.quantize import Quantizing
from edgeopt.quantization.technique import Technique
from edgeopt.quantization.zero_shift import shift_zeros

Make = Callable[..., Any]

IMAGES = np.random.default_rng(0).uniform(0, 1, (64, 3, 8, 8)).astype(np.float32)
PROFILE = TENSORRT.model_copy(update={"weight_bits": 7, "least_channels": 0})  # the same on every CPU


def draw(count: int) -> Iterator[Arrays]:
    yield {"x": IMAGES[:count]}


def run(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return run_session(make_session(graph), {"x": IMAGES})


def shift(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    graph = add_biases(fold(graph))
    placement = make_placement(graph, PROFILE)
    return shift_zeros(graph, placement, collect_minmax(graph, [pair.tensor for pair in placement.pairs], draw(64)))


def shifted(graph: onnx.ModelProto) -> set[str]:
    return {node.input[0] for node in graph.graph.node if node.op_type == "Sub"}


@pytest.fixture
def one_sided(make_graph: Make, weights: Make) -> onnx.ModelProto:
    body = """
        c = Conv (x, w, b) r = Relu (c) d = Conv (r, v) s = Relu (d) e = Conv <group = 8> (s, u) t = Relu (e)
        g = GlobalAveragePool (t) f = Flatten (g) y = Gemm <transB = 1> (f, z, q)
    """
    return make_graph(
        body, w=weights(8, 3, 3, 3), b=weights(8), v=weights(8, 8, 1, 1, seed=1), u=weights(8, 1, 3, 3, seed=2),
        z=weights(5, 8, seed=3), q=weights(5, seed=4),
    )  # fmt: skip


def test_a_shifted_network_computes_the_same(one_sided: onnx.ModelProto) -> None:
    graph, count = shift(one_sided)
    assert shifted(graph) == {"x", "r", "s", "f"}
    assert count == 4
    np.testing.assert_allclose(run(graph)["y"], run(one_sided)["y"], rtol=1e-4, atol=1e-4)


def test_one_sided_activations_lose_a_bit_less(one_sided: onnx.ModelProto) -> None:
    exact, quantizing = run(one_sided), Quantizing(fold(one_sided), PROFILE, draw, 64)
    before, after = (quantizing.run(Technique(zero_shift=on)) for on in (False, True))
    assert (before.shifted, after.shifted) == (0, 4)
    assert sqnr_db(exact, run(after.graph)) > sqnr_db(exact, run(before.graph)) + 3
    assert not lint(after.graph, PROFILE)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("c = Conv (x, w) r = Relu (c) y = Conv <pads = [1, 1, 1, 1]> (r, v)", "zeros are padded"),
        ('c = Conv (x, w) r = Relu (c) y = Conv <auto_pad = "SAME_UPPER"> (r, v)', "zeros are padded"),
        ("c = Conv (x, w) r = Relu (c) d = Conv <pads = [1, 1, 1, 1]> (r, v) y = Add (d, r)", "a sum reads it"),
        ("c = Conv (x, w) d = Conv (c, v) y = Relu (d)", "it has two sides"),
    ],
)
def test_what_would_compute_something_else_is_let_alone(body: str, why: str, make_graph: Make, weights: Make) -> None:
    graph, _ = shift(make_graph(body, w=weights(8, 3, 1, 1), v=weights(8, 8, 3, 3, seed=1)))
    assert shifted(graph) == {"x"}, why


def test_names_that_the_graph_has_already_are_not_given_again(make_graph: Make, weights: Make) -> None:
    body = "c = Conv (x, w) x_shifted = Relu (c) d = Conv (x_shifted, v) x_zero = Relu (d) y = Conv (x_zero, v)"
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(4, 4, 1, 1))
    moved, count = shift(graph)
    assert count == 3
    np.testing.assert_allclose(run(moved)["y"], run(graph)["y"], rtol=1e-4, atol=1e-4)


def test_a_target_with_zero_points_refuses(one_sided: onnx.ModelProto, profile: QuantizationProfile) -> None:
    with pytest.raises(PassError, match="`zero_shift` is for targets without zero points, and `cpu` has them"):
        Quantizing(fold(one_sided), profile, draw, 64).run(Technique(zero_shift=True))
