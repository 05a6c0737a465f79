"""The TensorRT backend against the fakes whose boundary is held against the real modules, on both major versions."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import GpuInPlace
from fake_gpu import VERSIONS

from edgeopt import onnx_graph, workers
from edgeopt.backends import Arrays, build_artifact, build_planned, opened
from edgeopt.backends.tensorrt import Tensorrt
from edgeopt.context import BUILDS, Context, Memo
from edgeopt.engines.plan import ENGINE_FILE, GRAPH_FILE
from edgeopt.errors import BackendError, EdgeoptError, MissingError, PassError, TrustError, WorkerError
from edgeopt.model import Artifact, Model, list_files, write_model
from edgeopt.passes.cast_fp16 import CastFp16

BOTH = pytest.mark.parametrize("fake_gpu", [10, 11], indirect=True)


def images(batch: int = 2, seed: int = 0) -> Arrays:
    return {"image": np.random.default_rng(seed).standard_normal((batch, 1, 16, 16)).astype(np.float32)}


def build(model: Model, folder: Path, *, memo: Memo | None = None, **options: Any) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(folder=folder, target="orin", batch=2, memo=memo)
    return build_artifact("tensorrt", model, context, options)


def expected(model: Model, inputs: Arrays) -> np.ndarray[Any, Any]:
    session = onnx_graph.make_session(onnx_graph.load_graph(model.path), as_written=True)
    return onnx_graph.run_session(session, inputs)["output"]


def assert_close(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@BOTH
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_engine_gives_what_its_graph_does_and_frees_all_that_it_took(
    fake_gpu: GpuInPlace, onnx_model: Model, int8_model: Model, precision: str, tmp_path: Path
) -> None:
    model = int8_model if precision == "int8" else onnx_model
    artifact = build(model, tmp_path)
    assert [file.path for file in artifact.files] == [ENGINE_FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == [ENGINE_FILE]
    assert f"in {precision}" in str(artifact.facts["precision"])
    assert "note" not in artifact.facts
    with opened(artifact) as session:
        for seed in range(3):
            found = session.run(images(seed=seed))["output"]
            assert_close(found, expected(model, images(seed=seed)))
        milliseconds = session.device_ms(images())
    assert milliseconds is not None
    assert milliseconds > 0
    assert not any(fake_gpu.alive().values())


@BOTH
def test_an_engine_is_bound_to_what_it_was_built_on(fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path, memo=Memo(tmp_path.parent / f"{tmp_path.name}-memos", BUILDS))
    digest = artifact.requires["timing_cache"]
    assert len(digest) == 64
    assert artifact.requires == {
        "tensorrt": VERSIONS[fake_gpu.major], "cuda": artifact.requires["cuda"], "driver": "13.0",
        "compute_capability": "8.7", "gpu": "Fake Orin", "timing_cache": digest,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"name": "Fake Xavier", "capability": (7, 2)},
            "compute capability 8.7 and not 7.2, GPU Fake Orin and not Fake",
        ),
        ({"driver": 12060}, "driver 13.0 and not 12.6"),
        ({"version": VERSIONS[10]}, f"TensorRT {VERSIONS[11]} and not {VERSIONS[10]}"),
    ],
    ids=["gpu", "driver", "version"],
)
def test_elsewhere_an_engine_is_refused_with_all_that_differs(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    artifact = build(onnx_model, tmp_path)
    fake_gpu.set(**change)
    fake_gpu.reload()
    with pytest.raises(BackendError) as caught:
        Tensorrt().open(artifact)
    assert told in caught.value.message
    assert "edgeopt device build" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "change", "opens"),
    [
        ({"version_compatible": True}, {"driver": 13010}, True),
        ({"version_compatible": True}, {"driver": 12060}, False),
        ({"version_compatible": True}, {"name": "Other"}, False),
        ({"hardware_compatible": "ampere_plus"}, {"name": "Other", "capability": (8, 9)}, True),
        ({"hardware_compatible": "ampere_plus"}, {"name": "Other", "capability": (7, 5)}, False),
        ({"hardware_compatible": "same_compute_capability"}, {"name": "Other"}, True),
        ({"hardware_compatible": "same_compute_capability"}, {"name": "Other", "capability": (8, 9)}, False),
    ],
)
def test_what_an_engine_was_built_to_be_compatible_with_opens_it(
    fake_gpu: GpuInPlace,
    onnx_model: Model,
    tmp_path: Path,
    options: dict[str, Any],
    change: dict[str, Any],
    opens: bool,
) -> None:
    artifact = build(onnx_model, tmp_path, **options)
    fake_gpu.set(**change)
    if opens:
        with Tensorrt().open(artifact) as session:
            assert session.run(images())["output"].shape == (2, 4)
    else:
        with pytest.raises(BackendError, match="was built for"):
            Tensorrt().open(artifact)


def test_a_changed_engine_is_refused_before_a_byte_of_it_is_read(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = build(onnx_model, tmp_path)
    path = tmp_path / ENGINE_FILE
    path.write_bytes(path.read_bytes() + b"x")
    import tensorrt

    def read(*arguments: object) -> None:
        raise AssertionError("it was deserialized")

    monkeypatch.setattr(tensorrt.Runtime, "deserialize_cuda_engine", read)
    with pytest.raises(TrustError, match="is not the file that was built"):
        Tensorrt().open(artifact)
    path.unlink()
    with pytest.raises(TrustError, match="is not there"):
        Tensorrt().open(artifact)


def test_an_operator_that_tensorrt_refuses_is_named(fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path) -> None:
    fake_gpu.set(refuses=("Add",))
    with pytest.raises(BackendError) as caught:
        build(onnx_model, tmp_path)
    graph = onnx_graph.load_graph(onnx_model.path).graph
    assert next(node.name for node in graph.node if node.op_type == "Add") in caught.value.message
    assert "(Add)" in caught.value.message


@BOTH
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"build": "none"}, "could not build the engine"),
        ({"build": "out_of_memory"}, "emory"),
        ({"nan": True}, "output `output` of the engine is NaN or infinite in 8 places"),
        ({"no_context": True}, "could not make a context"),
        ({"memory_bytes": 64}, "out of memory"),
    ],
    ids=["none", "out_of_memory", "nan", "no_context", "little_memory"],
)
def test_a_build_that_fails_says_why_and_leaves_nothing_on_the_gpu(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    fake_gpu.set(**change)
    with pytest.raises(EdgeoptError) as caught:
        build(onnx_model, tmp_path)
    assert isinstance(caught.value, BackendError | MissingError)
    assert told in caught.value.message
    assert not any(fake_gpu.alive().values())


@pytest.mark.parametrize("how", ["segfault", "hang"])
def test_a_builder_that_dies_or_hangs_takes_its_worker_alone(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path, how: str
) -> None:
    fake_gpu.set(build=how)
    context = Context(folder=tmp_path, target="orin", batch=2)
    with pytest.raises(WorkerError) as caught:
        workers.run(
            "edgeopt.backends:build_artifact", "tensorrt", onnx_model, context, limits=workers.Limits(seconds=15)
        )
    assert ("SIGSEGV" if how == "segfault" else "15") in caught.value.message


@BOTH
def test_layers_in_float_are_told_and_the_engine_is_not_called_int8(
    fake_gpu: GpuInPlace, int8_model: Model, tmp_path: Path
) -> None:
    graph = onnx_graph.load_graph(int8_model.path).graph
    readers = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    layer = next(node.name for node in graph.node if node.op_type == "Conv" and node.input[0] in readers)
    fake_gpu.set(float_layers=(layer,))
    artifact = build(int8_model, tmp_path)
    assert "this is no int8 engine: 1 of" in str(artifact.facts["note"])
    assert layer in str(artifact.facts["note"])
    assert artifact.facts["above"] == 1


def test_a_graph_that_breaks_a_rule_is_refused_before_it_is_built(
    fake_gpu: GpuInPlace, int8_model: Model, tmp_path: Path
) -> None:
    graph = onnx_graph.load_graph(int8_model.path)
    zeros = {node.input[2] for node in graph.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    tensor = next(one for one in graph.graph.initializer if one.name in zeros and not one.dims)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(3, np.int8), tensor.name))
    onnx_graph.save_graph(graph, tmp_path / "model.onnx")
    broken = write_model(int8_model.at(tmp_path, tmp_path), tmp_path)
    with pytest.raises(PassError, match="activation_symmetric"):
        build(broken, tmp_path / "built")


def test_any_batch_in_the_range_runs_and_no_other(fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path) -> None:
    with opened(build(onnx_model, tmp_path, batches=[1, 2, 4])) as session:
        for batch in (1, 4, 2, 3, 1):
            found = session.run(images(batch, seed=batch))["output"]
            assert_close(found, expected(onnx_model, images(batch, seed=batch)))
        with pytest.raises(BackendError, match="takes no `image` of shape"):
            session.run(images(5))
        assert session.run(images(2))["output"].shape == (2, 4)
    assert not any(fake_gpu.alive().values())


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"axes": {"height": [1, 2, 3]}}, "no input has an axis `height`; known: batch"),
        ({"dla_core": 0}, "there is no deep learning accelerator 0 here"),
    ],
)
def test_options_that_do_not_fit_are_named(
    onnx_model: Model, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(BackendError) as caught:
        build(onnx_model, tmp_path, **options)
    assert told in f"{caught.value.message}; {caught.value.hint}"


@pytest.mark.usefixtures("fake_gpu")
def test_an_axis_of_no_fixed_size_needs_a_range(onnx_model: Model, tmp_path: Path) -> None:
    graph = onnx_graph.load_graph(onnx_model.path)
    graph.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    onnx_graph.save_graph(graph, tmp_path / "model.onnx")
    specs = {"inputs": onnx_graph.input_specs(graph)}
    model = write_model(onnx_model.model_copy(update=specs).at(tmp_path, tmp_path), tmp_path)
    with pytest.raises(BackendError) as caught:
        build(model, tmp_path / "built")
    assert "`image` has an axis `width` of no fixed size" in caught.value.message
    assert "axes: {width:" in caught.value.hint


@pytest.mark.parametrize("graph", [True, False])
def test_several_threads_share_the_lanes(fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path, graph: bool) -> None:
    with opened(build(onnx_model, tmp_path, streams=2, cuda_graph=graph)) as session, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: session.run(images(seed=seed % 3))["output"], range(12)))
    for seed, output in enumerate(found):
        assert_close(output, expected(onnx_model, images(seed=seed % 3)))
    assert not any(fake_gpu.alive().values())


@BOTH
def test_threads_may_ask_for_other_shapes_while_others_capture_theirs(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path
) -> None:
    cases = [images(1 + seed % 4, seed) for seed in range(16)]
    with (
        opened(build(onnx_model, tmp_path, batches=[1, 2, 4], streams=3)) as session,
        ThreadPoolExecutor(4) as pool,
    ):
        for given, found in zip(cases, pool.map(session.run, cases), strict=True):
            assert_close(found["output"], expected(onnx_model, given))
    assert not any(fake_gpu.alive().values())


@BOTH
def test_a_stripped_engine_gets_its_weights_from_the_graph_beside_it(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path
) -> None:
    artifact = build(onnx_model, tmp_path, strip_weights=True)
    assert [file.path for file in artifact.files] == [ENGINE_FILE, GRAPH_FILE]
    with opened(artifact) as session:
        np.testing.assert_allclose(
            session.run(images())["output"], expected(onnx_model, images()), rtol=1e-3, atol=1e-4
        )


def test_what_was_timed_is_kept_for_the_next_build_on_the_same_gpu(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo, given = Memo(tmp_path / "memos", BUILDS), list[bytes]()
    import tensorrt

    make = tensorrt.IBuilderConfig.create_timing_cache

    def create(config: Any, data: bytes) -> Any:
        given.append(bytes(data))
        return make(config, data)

    monkeypatch.setattr(tensorrt.IBuilderConfig, "create_timing_cache", create)
    build(onnx_model, tmp_path / "one", memo=memo)
    assert given[0] == b""
    given.clear()
    build(onnx_model, tmp_path / "two", memo=memo)
    assert given[0]


@pytest.mark.parametrize(
    ("change", "told"), [({"devices": 0}, "no NVIDIA GPU"), ({"driver": 0}, "no NVIDIA driver")], ids=["gpu", "driver"]
)
def test_without_a_gpu_everything_is_left_that_a_device_needs(
    fake_gpu: GpuInPlace, int8_model: Model, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    fake_gpu.set(**change)
    planned = build(int8_model, tmp_path / "planned")
    assert told in planned.unbuilt
    assert [file.path for file in planned.files] == ["build.json", "expected.npz", "model.onnx"]
    assert "int8" in json.loads((tmp_path / "planned/build.json").read_text())["asked"].values()
    with opened(planned) as session:
        np.testing.assert_array_equal(session.run(images())["output"], expected(int8_model, images()))
    fake_gpu.set(devices=1, driver=13000)
    (tmp_path / "built").mkdir()
    built = build_planned(planned, tmp_path / "built", tmp_path / "memos")
    assert not built.unbuilt
    with opened(built) as session:
        np.testing.assert_allclose(
            session.run(images())["output"], expected(int8_model, images()), rtol=1e-3, atol=1e-4
        )


def test_a_plan_that_was_changed_on_its_way_is_not_built(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path
) -> None:
    fake_gpu.set(devices=0)
    planned = build(onnx_model, tmp_path / "planned")
    path = tmp_path / "planned/build.json"
    path.write_text(path.read_text().replace('"optimization_level":3', '"optimization_level":5'))
    fake_gpu.set(devices=1)
    (tmp_path / "built").mkdir()
    with pytest.raises(TrustError, match=r"build\.json` is not the file"):
        build_planned(planned, tmp_path / "built", tmp_path / "memos")
    fine = planned.model_copy(
        update={"files": list_files(planned.folder, ["build.json", "expected.npz", "model.onnx"])}
    )
    assert not build_planned(fine, tmp_path / "built", tmp_path / "memos").unbuilt


def test_without_the_library_it_is_planned_too(
    onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    planned = build(onnx_model, tmp_path)
    assert "TensorRT, which is not installed" in planned.unbuilt


@BOTH
def test_a_graph_cast_to_float16_is_one_of_float16(fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path) -> None:
    half = CastFp16()(onnx_model, Context(folder=tmp_path / "half")).model
    built = build(half, tmp_path / "built")
    assert "in float16" in str(built.facts["precision"])
    assert "note" not in built.facts
    fake_gpu.set(devices=0)
    planned = build(half, tmp_path / "planned")
    with opened(planned) as session:
        found = session.run(images())["output"]
    assert not np.array_equal(found, expected(onnx_model, images())), "it is rounded as on a GPU"
    np.testing.assert_allclose(found, expected(onnx_model, images()), rtol=1e-2, atol=1e-2)


@BOTH
@pytest.mark.parametrize("how", ["refused", "invalidated"])
def test_what_no_cuda_graph_can_hold_is_said_and_runs_without_one(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path, how: str
) -> None:
    fake_gpu.set(capture=how)
    with pytest.raises(BackendError, match="CUDA graph cannot hold") as caught:
        build(onnx_model, tmp_path / "with")
    assert "cuda_graph: false" in caught.value.hint
    assert not any(fake_gpu.alive().values())
    with opened(build(onnx_model, tmp_path / "without", cuda_graph=False)) as session:
        assert_close(session.run(images())["output"], expected(onnx_model, images()))
        assert session.device_ms(images()) is not None


@BOTH
def test_the_clock_of_the_gpu_and_runs_do_not_disturb_each_other(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path
) -> None:
    with opened(build(onnx_model, tmp_path, batches=[1, 2, 4])) as session:
        for seed, batch in enumerate((2, 2, 4, 1)):
            assert (session.device_ms(images(batch, seed)) or 0) > 0
            assert_close(session.run(images(batch, seed))["output"], expected(onnx_model, images(batch, seed)))
    assert not any(fake_gpu.alive().values())


@BOTH
def test_an_accelerator_takes_what_it_can_and_the_rest_is_told(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path
) -> None:
    fake_gpu.set(dla_cores=2)
    artifact = build(onnx_model, tmp_path / "fallback", dla_core=1)
    assert artifact.settings["dla_core"] == 1
    assert "the accelerator does not take" in str(artifact.facts["note"])
    with pytest.raises(BackendError, match="is not supported on DLA"):
        build(onnx_model, tmp_path / "alone", dla_core=1, gpu_fallback=False)
    with pytest.raises(BackendError, match="takes one size only, and axis `batch` has"):
        build(onnx_model, tmp_path / "sizes", dla_core=1, batches=[1, 2, 4])


def test_a_build_tells_how_far_it_is(fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []
    context = Context(folder=tmp_path, target="orin", batch=2, progress=lambda text, share: told.append((text, share)))
    build_artifact("tensorrt", onnx_model, context, {})
    assert {text for text, _ in told} == {"building Engine"}
    shares = [share for _, share in told if share is not None]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


def test_a_driver_that_is_too_old_is_not_a_missing_one(fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path)
    fake_gpu.set(driver=11040)
    with pytest.raises(MissingError, match="driver is older than the CUDA") as caught:
        Tensorrt().open(artifact)
    assert "update the driver" in caught.value.hint


def test_a_lack_of_memory_is_met_with_advice_and_all_that_tensorrt_said(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path
) -> None:
    fake_gpu.set(build="out_of_memory")
    with pytest.raises(BackendError) as caught:
        build(onnx_model, tmp_path)
    assert "lower `batch`, `streams` or `workspace_mb`" in caught.value.hint
    assert "OutOfMemory" in caught.value.log


def test_an_engine_of_other_types_than_its_artifact_is_refused(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path
) -> None:
    artifact = build(onnx_model, tmp_path)
    specs = tuple(spec.model_copy(update={"dtype": "float16"}) for spec in artifact.outputs)
    with pytest.raises(BackendError, match="has `output` as FLOAT, and not as float16"):
        Tensorrt().open(artifact.model_copy(update={"outputs": specs}))
    assert not any(fake_gpu.alive().values())


def test_a_gpu_that_appears_or_gets_another_driver_makes_another_key(fake_gpu: GpuInPlace) -> None:
    found = [Tensorrt().machine()]
    for change in ({"devices": 0}, {"driver": 0}, {"devices": 1, "driver": 13010}, {"name": "Other"}):
        fake_gpu.set(**change)
        found.append(Tensorrt().machine())
    assert all(one not in found[:index] for index, one in enumerate(found))


def test_a_node_without_a_name_is_found_by_the_one_that_the_parser_gives_it(
    fake_gpu: GpuInPlace, onnx_model: Model, tmp_path: Path
) -> None:
    graph = onnx_graph.load_graph(onnx_model.path)
    for node in graph.graph.node:
        node.name = ""
    onnx_graph.save_graph(graph, tmp_path / "model.onnx")
    model = write_model(onnx_model.at(tmp_path, tmp_path), tmp_path)
    assert "note" not in build(model, tmp_path / "built").facts
