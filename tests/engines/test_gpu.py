"""The TensorRT backend on a real GPU with a real TensorRT, of whichever major version is installed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt import onnx_graph
from edgeopt.backends import Arrays, build_artifact, opened
from edgeopt.backends.tensorrt import Tensorrt
from edgeopt.context import BUILDS, Context, Memo
from edgeopt.errors import BackendError, MissingError, TrustError
from edgeopt.model import Artifact, Model
from edgeopt.passes.cast_fp16 import CastFp16

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]


@pytest.fixture
def gpu() -> None:
    try:
        Tensorrt().available()
    except MissingError as error:
        pytest.skip(error.message)


def images(batch: int = 2, seed: int = 0) -> Arrays:
    return {"image": np.random.default_rng(seed).standard_normal((batch, 1, 16, 16)).astype(np.float32)}


def build(model: Model, folder: Path, *, memo: Memo | None = None, **options: Any) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    return build_artifact("tensorrt", model, Context(folder=folder, target="gpu", batch=2, memo=memo), options)


def expected(model: Model, inputs: Arrays) -> np.ndarray[Any, Any]:
    session = onnx_graph.make_session(onnx_graph.load_graph(model.path), as_written=True)
    return onnx_graph.run_session(session, inputs)["output"]


def assert_near(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], share: float) -> None:
    assert np.linalg.norm(found - wanted) <= share * np.linalg.norm(wanted)


@pytest.mark.parametrize(("precision", "share"), [("float32", 1e-3), ("float16", 2e-2), ("int8", 1e-1)])
def test_a_graph_runs_in_the_precision_that_it_asks_for_and_agrees(
    onnx_model: Model, int8_model: Model, precision: str, share: float, tmp_path: Path
) -> None:
    half = CastFp16()(onnx_model, Context(folder=tmp_path / "half")).model
    model = {"float32": onnx_model, "float16": half, "int8": int8_model}[precision]
    artifact = build(model, tmp_path / "built")
    assert f"in {precision}" in str(artifact.facts["precision"])
    with opened(artifact) as session:
        for seed in range(4):
            assert_near(session.run(images(seed=seed))["output"], expected(model, images(seed=seed)), share)


@pytest.mark.parametrize("graph", [True, False])
def test_batches_and_threads_get_their_own_answers(onnx_model: Model, graph: bool, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path, batches=[1, 2, 8], streams=2, cuda_graph=graph)
    cases = [images(1 + seed % 8, seed) for seed in range(24)]
    with opened(artifact) as session, ThreadPoolExecutor(4) as pool:
        for given, found in zip(cases, pool.map(session.run, cases), strict=True):
            assert_near(found["output"], expected(onnx_model, given), 1e-3)
        with pytest.raises(BackendError, match="takes no `image` of shape"):
            session.run(images(9))


def test_the_gpu_takes_no_longer_than_the_caller_waits(onnx_model: Model, tmp_path: Path) -> None:
    with opened(build(onnx_model, tmp_path)) as session:
        waited, device = [], []
        for seed in range(50):
            start = time.perf_counter()
            session.run(images(seed=seed))
            waited.append(1e3 * (time.perf_counter() - start))
            device.append(session.device_ms(images(seed=seed)) or np.nan)
    assert 0 < np.median(device) < np.median(waited)


def test_a_second_build_finds_what_the_first_one_timed(onnx_model: Model, tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memos", BUILDS)
    first, second = (build(onnx_model, tmp_path / name, memo=memo) for name in ("one", "two"))
    assert first.requires["timing_cache"]
    assert second.requires["timing_cache"] == first.requires["timing_cache"]


def test_a_stripped_engine_gets_its_weights_back(onnx_model: Model, tmp_path: Path) -> None:
    whole, stripped = build(onnx_model, tmp_path / "whole"), build(onnx_model, tmp_path / "less", strip_weights=True)
    sizes = [next(file.size_bytes for file in one.files if "engine" in file.path) for one in (whole, stripped)]
    assert sizes[1] < sizes[0]
    with opened(stripped) as session:
        assert_near(session.run(images())["output"], expected(onnx_model, images()), 1e-3)


@pytest.mark.parametrize("options", [{"version_compatible": True}, {"sparse": True}, {"optimization_level": 0}])
def test_other_ways_to_build_agree_too(onnx_model: Model, options: dict[str, Any], tmp_path: Path) -> None:
    with opened(build(onnx_model, tmp_path, **options)) as session:
        assert_near(session.run(images())["output"], expected(onnx_model, images()), 1e-3)


def test_an_engine_of_elsewhere_or_a_changed_one_is_refused(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path)
    elsewhere = artifact.model_copy(update={"requires": artifact.requires | {"gpu": "another one"}})
    with pytest.raises(BackendError, match="was built for GPU another one"):
        Tensorrt().open(elsewhere)
    path = tmp_path / "engine.plan"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrustError, match="is not the file that was built"):
        Tensorrt().open(artifact)
