"""The whole of measuring on real sessions: torch beside ONNX Runtime, in workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeopt.backends import build_artifact
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Artifact, Model
from edgeopt.validation.accuracy import measure_accuracy
from edgeopt.validation.latency import measure_latency, measure_sets, ratio_interval
from edgeopt.validation.latency_samples import Protocol
from edgeopt.validation.memory import measure_memory
from edgeopt.validation.predicting import run_predictions
from edgeopt.validation.predictions import load_predictions
from edgeopt.validation.sustained import measure_sustained, run_sustained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sides(torch_model: Model, onnx_model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    built = {}
    for name, backend, model in (("original", "torch_eager", torch_model), ("float", "onnxruntime_cpu", onnx_model)):
        folder = tmp_path_factory.mktemp(name)
        built[name] = build_artifact(backend, model, Context(folder=folder)).at(folder)
    return built


def test_torch_and_onnxruntime_are_timed_beside_each_other(sides: dict[str, Artifact], tmp_path: Path) -> None:
    inputs = [{"image": np.full((1, 1, 16, 16), index, np.float32)} for index in range(2)]
    samples = measure_sets(sides, inputs, Protocol(looks=(2,)), 2, tmp_path / "lock")
    ratio = ratio_interval(samples, "float", "original", 0.5)
    assert ratio.value is not None
    assert ratio.value < 0.8
    peaks = {name: measure_memory(samples, name).value for name in sides}
    assert peaks["original"] is not None
    assert peaks["float"] is not None
    assert peaks["original"] > peaks["float"] > 1


def test_cold_starts_and_several_streams_are_measured_on_both(sides: dict[str, Artifact], tmp_path: Path) -> None:
    inputs = [{"image": np.full((3, 1, 16, 16), index, np.float32)} for index in range(2)]
    protocol = Protocol(looks=(2,), blocks=2, concurrency=3, stream_seconds=0.3)
    samples = measure_sets(sides, inputs, protocol, 2, tmp_path / "lock")
    for side in sides:
        found = {one.metric: one for one in measure_latency(samples, side, 0.5)}
        opened, first = found["latency.open_ms"].value, found["latency.first_ms"].value
        assert opened is not None
        assert first is not None
        assert opened > 1
        assert first > 0
        throughput = found["throughput.per_s"]
        assert throughput.note == "3 streams at once through one session"
        assert throughput.value is not None
        assert throughput.value > 3


def test_a_real_session_runs_on_for_as_long_as_asked(sides: dict[str, Artifact], tmp_path: Path) -> None:
    inputs = [{"image": np.zeros((1, 1, 16, 16), np.float32)}]
    samples = run_sustained("float", sides["float"], inputs, Protocol(), 3.0, tmp_path / "lock")
    assert len(samples.runs) == pytest.approx(3, abs=1)
    assert samples.runs.min() > 10
    (drift,) = measure_sustained(samples, "float", 0.05)
    assert drift.metric == "latency.drift_ratio"


def test_a_faithful_export_loses_no_image(sides: dict[str, Artifact], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "split.npz", image=random.random((90, 1, 16, 16), np.float32), labels=random.integers(0, 4, 90))
    split = Samples("npz", tmp_path / "split.npz", ("image",), Preprocess())
    for name, artifact in sides.items():
        run_predictions(artifact, split, 16, tmp_path / name)
    original, exported = (load_predictions(tmp_path / name) for name in ("original", "float"))
    found = {one.metric: one.value for one in measure_accuracy(exported, original, 0.95)}
    assert found["accuracy.agreement"] == 100
    assert found["accuracy.drop_pp"] == 0
    assert found["accuracy.nonfinite"] == 0
    assert original.confidences == pytest.approx(exported.confidences, abs=1e-5)
