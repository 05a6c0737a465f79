"""Ranges: those of the raw tensors, found without holding them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt.context import Memo
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import PassError
from edgeopt.model import TensorSpec
from edgeopt.onnx_graph import make_session
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.calibration import BATCH_SIZE, Arrays, collect_minmax, observe, stream_batches
from edgeopt.quantization.seen import Seen

Make = Callable[..., Any]

PEAK_MEMORY = """
import resource, sys
from pathlib import Path
import onnx
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.onnx_graph import input_specs
from edgeopt.quantization.calibration import observe, stream_batches

graph = onnx.load(sys.argv[1])
samples = Samples("npz", Path(sys.argv[2]), ("x",), Preprocess()).spread(int(sys.argv[3]))
observe(graph, ["x", "a", "b", "y"], lambda: stream_batches(samples, input_specs(graph)), bins=int(sys.argv[4]))
sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


@pytest.fixture
def network(make_graph: Make, weights: Make) -> onnx.ModelProto:
    body = "c = Conv (x, w) a = Relu (c) b = Conv (a, v) y = Tanh (b)"
    return make_graph(body, w=weights(8, 3, 1, 1), v=weights(4, 8, 1, 1))


def batches(count: int) -> Iterator[Arrays]:
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": generator.standard_normal((4, 3, 8, 8)).astype(np.float32)}


def save_samples(folder: Path, images: np.ndarray) -> Samples:
    np.savez(folder / "samples.npz", x=images)
    return Samples("npz", folder / "samples.npz", ("x",), Preprocess())


def test_the_range_is_that_of_all_batches_together(network: onnx.ModelProto) -> None:
    names = ["x", "a", "b", "y"]
    raw = onnx.ModelProto()
    raw.CopyFrom(network)
    for name in names[1:3]:
        raw.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = make_session(raw)
    seen = [dict(zip("yab", session.run(["y", "a", "b"], batch), strict=True)) | batch for batch in batches(3)]
    found = collect_minmax(network, names, batches(3))
    for name in names:
        every = np.concatenate([each[name].ravel() for each in seen])
        assert found[name].low == pytest.approx(float(every.min()), rel=1e-6), name
        assert found[name].high == pytest.approx(float(every.max()), rel=1e-6), name
    assert found["a"].low == 0.0


def test_each_batch_is_told_of(network: onnx.ModelProto) -> None:
    told: list[int] = []
    collect_minmax(network, ["a"], batches(3), on_batch=told.append)
    assert told == [4, 4, 4]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(network: onnx.ModelProto, value: float) -> None:
    def spoiled() -> Iterator[Arrays]:
        for index, batch in enumerate(batches(3)):
            if index == 1:
                batch["x"][2, 1, 5, 3] = value
            yield batch

    with pytest.raises(PassError, match="not finite in `x`"):
        collect_minmax(network, ["x", "a"], spoiled())


def test_the_first_tensor_that_is_not_finite_is_named(make_graph: Make) -> None:
    graph = make_graph("a = Relu (x) b = Log (a) y = Neg (b)")
    with pytest.raises(PassError, match="not finite in `b`"):
        collect_minmax(graph, ["x", "a", "b", "y"], batches(1))


def test_no_samples_at_all_is_a_named_failure(network: onnx.ModelProto) -> None:
    with pytest.raises(PassError, match="no calibration samples"):
        collect_minmax(network, ["a"], [])


def test_a_batch_that_the_graph_does_not_take_is_a_named_failure(network: onnx.ModelProto) -> None:
    with pytest.raises(PassError, match="does not run on 2 calibration samples"):
        collect_minmax(network, ["a"], [{"x": np.zeros((2, 1, 8, 8), np.float32)}])


def test_the_last_batch_may_be_short(tmp_path: Path) -> None:
    samples = save_samples(tmp_path, np.zeros((BATCH_SIZE + 3, 1), np.float32))
    sizes = [len(batch["x"]) for batch in stream_batches(samples, [TensorSpec(name="x", shape=("N", 1))])]
    assert sizes == [BATCH_SIZE, 3]


def test_a_graph_of_a_fixed_batch_gets_full_batches_of_real_samples(tmp_path: Path) -> None:
    samples = save_samples(tmp_path, np.arange(5, dtype=np.float32).reshape(5, 1))
    given = [batch["x"].ravel().tolist() for batch in stream_batches(samples, [TensorSpec(name="x", shape=(3, 1))])]
    assert given == [[0, 1, 2], [3, 4, 3]]


def test_a_constant_tensor_has_a_range_of_no_width(make_graph: Make) -> None:
    graph = make_graph("z = Mul (x, k) y = Add (z, five)", k=np.float32(0), five=np.float32(5))
    found = collect_minmax(graph, ["z", "y"], batches(2))
    assert found["y"] == Range(5.0, 5.0)
    assert abs(found["z"].low) == abs(found["z"].high) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("bins", [0, 2048])
def test_memory_does_not_grow_with_the_number_of_images(
    bins: int, make_graph: Make, weights: Make, tmp_path: Path
) -> None:
    body = "c = Conv (x, w) a = Relu (c) b = Conv (a, v) y = Tanh (b)"
    graph = make_graph(body, "N,3,64,64", w=weights(16, 3, 1, 1), v=weights(16, 16, 1, 1))
    onnx.save(graph, tmp_path / "model.onnx")
    samples = save_samples(tmp_path, np.zeros((1024, 3, 64, 64), np.float32))  # 50 MB, and 270 MB at `a`

    def peak(count: int) -> int:
        command = [sys.executable, "-c", PEAK_MEMORY, tmp_path / "model.onnx", samples.path, str(count), str(bins)]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    assert peak(1024) <= 1.05 * peak(64)


def observed(graph: onnx.ModelProto, names: list[str], count: int, **options: Any) -> dict[str, Seen]:
    return observe(graph, names, lambda: batches(count), **options)


def test_a_histogram_counts_every_value_once(network: onnx.ModelProto) -> None:
    found = observed(network, ["x", "a", "y"], 3, bins=64)
    for name, channels in (("x", 3), ("a", 8), ("y", 4)):
        seen = found[name]
        assert seen.counts is not None
        assert seen.counts.sum() == 12 * channels * 64
        assert (seen.counts[0] > 0, seen.counts[-1] > 0) == (True, True)
    values = np.concatenate([batch["x"].ravel() for batch in batches(3)])
    expected, _ = np.histogram(values, bins=64)
    assert np.abs(found["x"].counts - expected).sum() <= 4, "but for rounding at the edges of bins"


def test_what_is_seen_does_not_depend_on_the_size_of_batches(network: onnx.ModelProto) -> None:
    def singly() -> Iterator[Arrays]:
        for batch in batches(3):
            yield from ({"x": batch["x"][at : at + 1]} for at in range(len(batch["x"])))

    together, apart = observed(network, ["a"], 3, bins=64)["a"], observe(network, ["a"], singly, bins=64)["a"]
    assert (together.low, together.high) == pytest.approx((apart.low, apart.high))
    assert (together.mean_low, together.mean_high) == pytest.approx((apart.mean_low, apart.mean_high))
    assert np.abs(together.counts - apart.counts).sum() <= 4


def test_the_halves_are_of_every_second_sample(make_graph: Make) -> None:
    graph = make_graph("y = Neg (x)", "N,1")
    seen = observe(graph, ["x"], lambda: [{"x": np.asarray([[1.0], [-2.0], [3.0], [4.0]], np.float32)}])["x"]
    assert seen.halves == (Range(1.0, 3.0), Range(-2.0, 4.0))
    assert seen.mean_high == pytest.approx(1.5)


def test_what_was_seen_is_kept_for_the_same_graph_and_data_and_for_no_other(
    network: onnx.ModelProto, tmp_path: Path
) -> None:
    def nothing() -> Iterator[Arrays]:
        raise AssertionError("not asked for again")

    memo = Memo(tmp_path, "data")
    first = observed(network, ["x", "a"], 3, bins=64, memo=memo)
    again = observe(network, ["x", "a"], nothing, bins=64, memo=memo)
    assert first.keys() == again.keys()
    for name, seen in first.items():
        np.testing.assert_array_equal(seen.counts, again[name].counts)
        assert replace(seen, counts=None) == replace(again[name], counts=None)
    others = [
        (network, ["x"], 64, memo), (network, ["x", "a"], 32, memo), (network, ["x", "a"], 64, Memo(tmp_path, "other")),
    ]  # fmt: skip
    for graph, names, bins, kept in others:
        with pytest.raises(AssertionError, match="not asked for again"):
            observe(graph, names, nothing, bins=bins, memo=kept)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(AssertionError, match="not asked for again"):
        observe(network, ["x", "a"], nothing, bins=64, memo=memo)


def test_a_tensor_whose_first_axis_is_not_the_batch_is_observed(make_graph: Make, weights: Make) -> None:
    body = "t = Transpose <perm = [0, 2, 3, 1]> (x) m = Reshape (t, to) y = MatMul (m, w)"
    graph = make_graph(body, to=np.array([-1, 3]), w=weights(3, 2))
    images = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
    given = [{"x": images[:4]}, {"x": images[4:]}]
    found = collect_minmax(graph, ["m"], given)["m"]
    assert (found.low, found.high) == (images.min(), images.max())
