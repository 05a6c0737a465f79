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
from edgeopt.validation.accuracy import load_predictions, measure_accuracy, run_predictions
from edgeopt.validation.latency import measure_sets, ratio_interval
from edgeopt.validation.latency_samples import Protocol
from edgeopt.validation.memory import measure_memory

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
