"""The means that quantization moves are put back, layer by layer, and the output is nearer to the float one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.model import QuantizationProfile
from edgeopt.onnx_graph import make_session, run_session
from edgeopt.quantization.bias_correction import _gates, add_biases, correct_biases
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


def bias_of(graph: onnx.ModelProto, name: str | None) -> np.ndarray:
    return onnx.numpy_helper.to_array(next(tensor for tensor in graph.graph.initializer if tensor.name == name))


def shifted(graph: onnx.ModelProto, bias: str | None, error: np.ndarray) -> onnx.ModelProto:
    moved = onnx.ModelProto()
    moved.CopyFrom(graph)
    (tensor,) = (tensor for tensor in moved.graph.initializer if tensor.name == bias)
    tensor.CopyFrom(onnx.numpy_helper.from_array((bias_of(graph, bias) - error).astype(np.float32), tensor.name))
    return moved


def means(graph: onnx.ModelProto, layers: list[str]) -> list[np.ndarray]:
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    results = [next(node.output[0] for node in graph.graph.node if node.name == name) for name in layers]
    known = {value.name for value in graph.graph.output}
    opened.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in results if name not in known
    )
    found = make_session(opened).run(results, {"x": IMAGES})
    return [array.mean(axis=(0, *range(2, array.ndim))) for array in found]


@pytest.mark.parametrize("full", [True, False])
def test_the_mean_of_the_output_is_put_back(full: bool, biased: onnx.ModelProto, profile: QuantizationProfile) -> None:
    scheme, exact = scheme_of(biased, profile), run(biased)
    before = run(insert_pairs(biased, scheme))
    corrected = correct_biases(biased, scheme, batches(), full=full)
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
        corrected = correct_biases(biased, scheme, batches(), full=full)
        errors[full] = np.square(run(insert_pairs(corrected, scheme)) - exact).mean()
    assert errors[True] < 0.5 * errors[False]


def test_one_run_corrects_as_going_from_layer_to_layer_does(
    biased: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    """Against a plain account of the method: one layer, all images, the network behind it run anew."""
    scheme, slow = scheme_of(biased, profile), biased
    layers = [each.node for each in scheme.placement.weighted]
    for at in range(len(layers)):
        (exact, moved) = (means(graph, layers)[at] for graph in (biased, insert_pairs(slow, scheme)))
        slow = shifted(slow, scheme.placement.weighted[at].bias, moved - exact)
    (fast, whole) = (correct_biases(biased, scheme, run, full=True) for run in (batches(), [{"x": IMAGES}]))
    for graph, tolerance in ((whole, 2e-3), (fast, 2e-2)):
        for each in scheme.placement.weighted:
            found, wanted, start = (bias_of(one, each.bias) for one in (graph, slow, biased))
            assert np.abs(found - wanted).max() <= tolerance * max(5e-3, np.abs(wanted - start).max()), each.node


@pytest.mark.parametrize("full", [True, False])
def test_a_bias_that_others_read_too_is_corrected_for_each_alone(
    full: bool, make_graph: Make, profile: QuantizationProfile
) -> None:
    """As exporters write it for equal ones; what else reads it goes on to read what it was."""
    steps = np.random.default_rng(0).integers(-20, 20, (3, 8, 8, 1, 1)) + 0.53
    steps[:, :, 0] = 64
    w, v, u = (steps / 256).astype(np.float32)
    body = (
        "c = Conv (x, w, b) r = Relu (c) d = Conv (r, v, b) s = Relu (d) e = Conv (s, u, b) "
        "q = Reshape (b, to) y = Mul (e, q)"
    )
    arrays = {"w": w[:, :3], "v": v, "u": u, "b": np.full(8, 0.5, np.float32), "to": np.array([1, 8, 1, 1])}
    graph = add_biases(make_graph(body, **arrays))
    exact, scheme = run(graph), scheme_of(graph, profile)
    before, after = (
        np.square(run(insert_pairs(each, scheme)) - exact).mean()
        for each in (graph, correct_biases(graph, scheme, batches(), full=full))
    )
    assert after < 0.2 * before


def test_names_that_the_graph_has_already_are_not_given_again(make_graph: Make, weights: Make) -> None:
    body = "c = Conv (x, w) c_added_bias = Relu (c) y = Conv (c_added_bias, v)"
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(4, 4, 1, 1))
    np.testing.assert_array_equal(run(add_biases(graph)), run(graph))


def test_a_layer_of_another_type_has_no_bias_added(make_graph: Make, weights: Make) -> None:
    body = (
        "c = Conv (x, w) g = GlobalAveragePool (c) f = Flatten (g) k = Cast <to = 11> (f) m = Gemm (k, z) "
        "y = Cast <to = 1> (m)"
    )
    graph = make_graph(body, w=weights(4, 3, 1, 1), z=weights(4, 2).astype(np.float64))
    np.testing.assert_array_equal(run(add_biases(graph)), run(graph))


def test_what_only_this_machine_saturates_is_not_corrected(make_graph: Make, weights: Make) -> None:
    """8-bit weights, as for arm or VNNI: sums of pairs of products overflow in a Gemm on a CPU without."""
    arm = OnnxruntimeCpu().profile(["asimd"])
    body = "g = GlobalAveragePool (x) f = Flatten (g) d = Gemm (f, w, b) r = Relu (d) y = Gemm (r, v, k)"
    arrays = {"w": np.abs(weights(3, 32)), "v": np.abs(weights(32, 32, seed=1)), "b": weights(32), "k": weights(32)}
    graph = make_graph(body, **arrays)
    scheme, exact = scheme_of(graph, arm), run(graph)
    errors = []
    for full in (False, True):
        quantized = insert_pairs(correct_biases(graph, scheme, batches(), full=full), scheme)
        made = run_session(make_session(quantized, as_written=True), {"x": IMAGES})["y"]
        errors.append(np.square(made - exact).mean())
    assert errors[1] < 2 * errors[0]


@pytest.mark.parametrize(
    "spelt",
    [
        "g = ReduceMean <axes = [2, 3], keepdims = 1> (c) r = Conv (g, w2, b2) e = Conv (r, w3, b3) s = Sigmoid (e)",
        "p = GlobalAveragePool (c) n = Shape (c) t = Expand (p, n) r = Conv (p, w2, b2) e = Conv (r, w3, b3) "
        "q = Sigmoid (e) s = Expand (q, n)",
    ],
)
def test_gates_are_found_however_they_are_spelt(spelt: str, make_graph: Make, weights: Make) -> None:
    body = f"c = Conv (x, w1, b1) {spelt} m = Mul (c, s) y = Conv (m, w4, b4)"
    shapes = {"w1": (8, 3, 1, 1), "w2": (2, 8, 1, 1), "w3": (8, 2, 1, 1), "w4": (8, 8, 1, 1)}
    arrays = {name: weights(*shape) for name, shape in shapes.items()}
    graph = make_graph(body, **arrays, **{f"b{at}": weights(shape[0]) for at, shape in enumerate(shapes.values(), 1)})
    assert _gates(graph) & {"c", "r", "e", "y"} == {"r", "e"}


def test_gates_are_left_alone(make_graph: Make, weights: Make, profile: QuantizationProfile) -> None:
    body = (
        "c = Conv (x, w1, b1) g = GlobalAveragePool (c) r = Conv (g, w2, b2) a = Relu (r) e = Conv (a, w3, b3) "
        "s = Sigmoid (e) m = Mul (c, s) d = Conv (m, w4, b4) p = GlobalAveragePool (d) y = Conv (p, w5, b5)"
    )
    shapes = {"w1": (8, 3, 1, 1), "w2": (2, 8, 1, 1), "w3": (8, 2, 1, 1), "w4": (8, 8, 1, 1), "w5": (4, 8, 1, 1)}
    arrays = {name: weights(*shape) for name, shape in shapes.items()}
    graph = make_graph(body, **arrays, **{f"b{at}": weights(shape[0]) for at, shape in enumerate(shapes.values(), 1)})
    corrected = correct_biases(graph, scheme_of(graph, profile), batches(), full=True)
    same = {f"b{at}": np.array_equal(bias_of(graph, f"b{at}"), bias_of(corrected, f"b{at}")) for at in range(1, 6)}
    assert same == {"b1": False, "b2": True, "b3": True, "b4": False, "b5": False}


def test_it_is_told_how_many_images_are_done(biased: onnx.ModelProto, profile: QuantizationProfile) -> None:
    for full in (True, False):
        told: list[int] = []
        correct_biases(biased, scheme_of(biased, profile), batches(), full=full, on_batch=told.append)
        assert told == [16, 16, 16, 16]


def test_nothing_changes_where_nothing_is_rounded(make_graph: Make, profile: QuantizationProfile) -> None:
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[:, :, 0, 0] = np.random.default_rng(0).integers(-63, 64, (4, 3))
    weight[:, 0] = 64
    graph = add_biases(make_graph("y = Conv (x, w)", w=weight))
    corrected = correct_biases(graph, scheme_of(graph, profile), batches(), full=False)
    bias = next(tensor for tensor in corrected.graph.initializer if tensor.name == "y_added_bias")
    np.testing.assert_allclose(onnx.numpy_helper.to_array(bias), 0, atol=1e-6)


def test_biases_of_zeros_are_added_where_there_are_none(make_graph: Make, weights: Make) -> None:
    body = "c = Conv (x, w) r = Relu (c) d = Conv (r, v, b) g = GlobalAveragePool (d) f = Flatten (g) y = Gemm (f, u)"
    graph = make_graph(body, w=weights(4, 3, 1, 1), v=weights(5, 4, 1, 1), b=weights(5), u=weights(5, 6))
    biased = add_biases(graph)
    np.testing.assert_array_equal(run(biased), run(graph))
    assert all(len(node.input) == 3 for node in biased.graph.node if node.op_type in ("Conv", "Gemm"))
