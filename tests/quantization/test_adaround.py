"""AdaRound: where bits are few the output is much closer to the float one than after nearest rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from edgeopt.model import Model, QuantizationProfile
from edgeopt.onnx_graph import load_graph, make_session, run_session
from edgeopt.quantization import adaround as machinery
from edgeopt.quantization.adaround import adaround
from edgeopt.quantization.arithmetic import sqnr_db
from edgeopt.quantization.calibration import collect_minmax
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import Scheme, make_scheme

Arrays = dict[str, NDArray[Any]]
Make = Callable[..., Any]

IMAGES = np.random.default_rng(0).standard_normal((96, 1, 16, 16)).astype(np.float32)
SEEN, UNSEEN = IMAGES[:64], IMAGES[64:]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def graph(onnx_model: Model) -> onnx.ModelProto:
    return fold(load_graph(onnx_model.path))


def batches() -> Iterator[Arrays]:
    for start in range(0, len(SEEN), 16):
        yield {"image": SEEN[start : start + 16]}


def scheme_of(
    graph: onnx.ModelProto, profile: QuantizationProfile, bits: int, *, per_channel: bool = True,
    keep_float: tuple[str, ...] = (),
) -> Scheme:  # fmt: skip
    profile = profile.model_copy(update={"weight_bits": bits})
    placement = make_placement(graph, profile, keep_float, per_channel)
    ranges = collect_minmax(graph, [pair.tensor for pair in placement.pairs], batches())
    return make_scheme(graph, placement, ranges, profile)


def fidelity(graph: onnx.ModelProto, scheme: Scheme) -> float:
    """SQNR of the output on images that were not calibrated with."""
    exact, coarse = (
        run_session(make_session(each), {"image": UNSEEN}) for each in (graph, insert_pairs(graph, scheme))
    )
    return sqnr_db(exact, coarse)


def nearest(graph: onnx.ModelProto, scheme: Scheme) -> Arrays:
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    return {each.node: scheme.weights[each.node].quantize(arrays[each.weight]) for each in scheme.placement.weighted}


def test_weights_that_are_zero_stay_zero(graph: onnx.ModelProto, profile: QuantizationProfile) -> None:
    sparse = onnx.ModelProto()
    sparse.CopyFrom(graph)
    for tensor in sparse.graph.initializer:
        if len(tensor.dims) > 1:
            weight = onnx.numpy_helper.to_array(tensor)
            few = np.where(np.abs(weight) < np.quantile(np.abs(weight), 0.7), np.float32(0), weight)
            tensor.CopyFrom(onnx.numpy_helper.from_array(few, tensor.name))
    scheme = scheme_of(sparse, profile, 4)
    integers, plain = adaround(sparse, scheme, batches, iterations=200), nearest(sparse, scheme)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in sparse.graph.initializer}
    for each in scheme.placement.weighted:
        zeros = arrays[each.weight] == 0
        assert np.array_equal(integers[each.node][zeros], plain[each.node][zeros])
    assert any(not np.array_equal(integers[name], plain[name]) for name in integers)


@pytest.mark.parametrize("per_channel", [True, False])
def test_at_four_bits_the_output_is_much_closer_than_after_nearest_rounding(
    graph: onnx.ModelProto, profile: QuantizationProfile, per_channel: bool
) -> None:
    scheme = scheme_of(graph, profile, 4, per_channel=per_channel)
    told: list[tuple[int, int]] = []
    integers = adaround(graph, scheme, batches, iterations=300, on_layer=lambda *layer: told.append(layer))
    chosen = replace(scheme, integers=integers)
    assert fidelity(graph, chosen) > fidelity(graph, scheme) + 2
    assert told == [(done, 7) for done in range(1, 8)]


def test_integers_are_of_the_scheme_and_at_most_one_from_the_nearest(
    graph: onnx.ModelProto, profile: QuantizationProfile
) -> None:
    scheme = scheme_of(graph, profile.model_copy(update={"weight_dtype": "uint8"}), 4)
    integers, plain = adaround(graph, scheme, batches, iterations=60), nearest(graph, scheme)
    assert list(integers) == [each.node for each in scheme.placement.weighted]
    changed = 0
    for node, found in integers.items():
        difference = np.abs(found.astype(int) - plain[node].astype(int))
        assert found.dtype == np.uint8
        assert found.shape == plain[node].shape
        assert difference.max() <= 1
        assert np.abs(found.astype(int) - 128).max() <= 8
        changed += int(difference.sum())
    assert changed > 0


def test_at_eight_bits_it_is_no_worse(graph: onnx.ModelProto, profile: QuantizationProfile) -> None:
    scheme = scheme_of(graph, profile, 8)
    chosen = replace(scheme, integers=adaround(graph, scheme, batches, iterations=150))
    assert fidelity(graph, chosen) > fidelity(graph, scheme) - 0.5


def test_the_same_seed_gives_the_same_integers(graph: onnx.ModelProto, profile: QuantizationProfile) -> None:
    scheme = scheme_of(graph, profile, 4)
    once, again, other = (adaround(graph, scheme, batches, iterations=20, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(array, again[node]) for node, array in once.items())
    assert not all(np.array_equal(array, other[node]) for node, array in once.items())


def test_layers_that_are_chosen_already_stay(graph: onnx.ModelProto, profile: QuantizationProfile) -> None:
    scheme = scheme_of(graph, profile, 4)
    plain = nearest(graph, scheme)
    first = next(iter(plain))
    kept = replace(scheme, integers={first: plain[first]})
    integers = adaround(graph, kept, batches, iterations=20)
    assert integers[first] is plain[first]
    assert set(integers) == set(plain)


def test_layers_in_float_are_run_as_they_are(graph: onnx.ModelProto, profile: QuantizationProfile) -> None:
    whole = scheme_of(graph, profile, 4)
    first, *others = (each.node for each in whole.placement.weighted)
    scheme = scheme_of(graph, profile, 4, keep_float=(first,))
    integers = adaround(graph, scheme, batches, iterations=60)
    assert list(integers) == others
    assert fidelity(graph, replace(scheme, integers=integers)) > fidelity(graph, whole)


def test_rows_do_not_grow_with_the_images(
    graph: onnx.ModelProto, profile: QuantizationProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, sizes = scheme_of(graph, profile, 4), []
    train = machinery._round_layer

    def look(task: Any, *arguments: Any) -> Any:
        sizes.append((len(task.rows), task.rows.numel()))
        return train(task, *arguments)

    monkeypatch.setattr(machinery, "_round_layer", look)
    monkeypatch.setattr(machinery, "NUMBERS", 2**15)
    adaround(graph, scheme, lambda: [*batches(), *batches()], iterations=1)
    assert all(rows <= machinery.ROWS and (numbers <= 2**15 or rows == 128) for rows, numbers in sizes)
    assert len(sizes) == 7


def test_depthwise_and_transposed_layers_are_rounded_too(
    make_graph: Make, weights: Make, profile: QuantizationProfile
) -> None:
    body = (
        "c = Conv <group = 3, pads = [1, 1, 1, 1]> (x, w1, b1) r = Clip (c, low, high) "
        "t = ConvTranspose <strides = [2, 2]> (r, w2) y = GlobalAveragePool (t)"
    )
    arrays = {"w1": weights(3, 1, 3, 3), "b1": weights(3), "w2": weights(3, 4, 2, 2)}
    graph = fold(make_graph(body, low=np.float32(0), high=np.float32(6), **arrays))
    axes = profile.weight_axes | {"ConvTranspose": 1}
    operators = (*profile.quantized_ops, "ConvTranspose")
    wanted = profile.model_copy(update={"weight_bits": 3, "weight_axes": axes, "quantized_ops": operators})
    images = [{"x": weights(32, 3, 8, 8, seed=seed)} for seed in range(2)]
    placement = make_placement(graph, wanted)
    scheme = make_scheme(
        graph, placement, collect_minmax(graph, [pair.tensor for pair in placement.pairs], images), wanted
    )
    chosen = replace(scheme, integers=adaround(graph, scheme, lambda: images, iterations=300))
    assert set(chosen.integers) == {"c", "t"}
    exact = run_session(make_session(graph), images[0])
    before, after = (run_session(make_session(insert_pairs(graph, each)), images[0]) for each in (scheme, chosen))
    assert sqnr_db(exact, after) > sqnr_db(exact, before)
