"""Files of a report are found where they lie now, by their digests, and nowhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import files
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.pack import Contents, pack_bundle
from edgeopt.data.preprocess import Preprocess
from edgeopt.explain.artifacts import SAMPLES, find_artifact, find_float, find_inputs
from edgeopt.model import ArtifactFile, Model, OnnxValue, write_model
from edgeopt.onnx_graph import input_specs, output_specs, save_graph
from edgeopt.report import CandidateResult, Report, StepResult, TargetResult
from edgeopt.store import Store
from tests.explain.conftest import make_network, write_artifact
from tests.report.conftest import build_of, make_candidate, make_report, make_target

CONTENT = b"a network"

RECIPE = """\
edgeopt: 1
name: small
model: {onnx: model.onnx}
data:
  format: npz
  preprocess: {scale: 0.5}
  calibration: {path: calibration.npz}
  validation: {path: calibration.npz}
passes: []
targets: [{name: x86, backends: [onnxruntime_cpu], variants: {fp32: []}}]
budgets: {size: {max_mb: 1.0}}
"""


def make(*passes: str) -> tuple[Report, TargetResult, CandidateResult]:
    """A report of one candidate whose artifact is `CONTENT`, and whose steps have keys like their names."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    built = build_of(ArtifactFile(path="model.onnx", sha256=sha256, size_bytes=len(CONTENT)))
    candidate = make_candidate("int8", artifact=built).model_copy(update={"passes": passes})
    target = make_target(candidate)
    step = StepResult(id="build [x86/onnxruntime_cpu/int8]", name="build", key="built", cached=False, seconds=1.0)
    return make_report(target).model_copy(update={"steps": (step,)}), target, candidate


def put(store: Store, key: str, step: str, content: bytes | Model, **needs: str) -> None:
    with store.workspace() as folder:
        if isinstance(content, bytes):
            files.write_bytes(folder / "model.onnx", content)
        else:
            write_model(content, folder)
        store.put(key, step, {f"step {name}": need for name, need in needs.items()}, {}, 1.0, folder)


@pytest.mark.parametrize("place", ["x86/bundle/model", "x86/onnxruntime_cpu/int8/build"])
def test_an_artifact_is_found_beside_the_report(place: str, tmp_path: Path) -> None:
    report, target, candidate = make()
    files.write_bytes(tmp_path / place / "model.onnx", CONTENT)
    assert find_artifact(report, target, candidate, tmp_path, Store(tmp_path / "store")) == (
        tmp_path / place / "model.onnx"
    )


def test_an_artifact_is_found_in_the_store_by_the_key_of_its_step(tmp_path: Path) -> None:
    report, target, candidate = make()
    store = Store(tmp_path / "store")
    assert find_artifact(report, target, candidate, tmp_path, store) is None
    put(store, "built", "build [x86/onnxruntime_cpu/int8]", CONTENT)
    found = find_artifact(report, target, candidate, tmp_path, store)
    assert found is not None
    assert found.read_bytes() == CONTENT


def test_a_file_with_another_digest_is_not_it(tmp_path: Path) -> None:
    report, target, candidate = make()
    files.write_bytes(tmp_path / "x86/bundle/model/model.onnx", CONTENT + b"!")
    assert find_artifact(report, target, candidate, tmp_path, Store(tmp_path / "store")) is None
    bare = candidate.model_copy(update={"artifact": None})
    assert find_artifact(report, target, bare, tmp_path, Store(tmp_path / "store")) is None


def as_model(graph: onnx.ModelProto, folder: Path) -> Model:
    save_graph(graph, folder / "model.onnx")
    return Model(value=OnnxValue(), inputs=input_specs(graph), outputs=output_specs(graph), folder=folder)


def test_the_float_graph_is_what_the_quantizing_step_was_given(tmp_path: Path) -> None:
    """Whatever comes after that step, and though it needs the data and the original too."""
    report, target, candidate = make()
    store, graph = Store(tmp_path / "store"), make_network((8,), size=8)
    put(store, "exported", "export_onnx", as_model(graph, tmp_path / "float"), **{"load original": "loaded"})
    data = {"read data": "split", "load original": "loaded"}
    put(store, "quantized", "quantize_int8 [int8]", as_model(make_network((16,)), tmp_path / "q"),
        **{"export_onnx": "exported"}, **data)  # fmt: skip
    put(store, "corrected", "correct_bias [int8]", b"corrected", **{"quantize_int8 [int8]": "quantized"}, **data)
    assert find_float(report, target, candidate, store, "quantize_int8") is None
    put(store, "built", "build [x86/onnxruntime_cpu/int8]", CONTENT, **{"correct_bias [int8]": "corrected"})
    found = find_float(report, target, candidate, store, "quantize_int8")
    assert found is not None
    assert found.read_bytes() == (tmp_path / "float/model.onnx").read_bytes()


def test_a_graph_that_was_quantized_at_once_leads_to_the_original(tmp_path: Path) -> None:
    report, target, candidate = make()
    store = Store(tmp_path / "store")
    put(store, "loaded", "load original", as_model(make_network((8,), size=8), tmp_path / "float"))
    put(store, "quantized", "quantize_int8 [int8]", b"q", **{"load original": "loaded", "read data": "split"})
    put(store, "built", "build [x86/onnxruntime_cpu/int8]", CONTENT, **{"quantize_int8 [int8]": "quantized"})
    found = find_float(report, target, candidate, store, "quantize_int8")
    assert found is not None
    assert found.read_bytes() == (tmp_path / "float/model.onnx").read_bytes()


# what it is run on


def run_recipe(folder: Path, text: str = RECIPE, rows: int = 20) -> Report:
    """A report of that recipe, with calibration samples that count up."""
    images = np.arange(rows, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 8), np.float32)
    np.savez(folder / "calibration.npz", image=images)
    onnx.save(make_network((8,), size=8), folder / "model.onnx")
    (folder / "recipe.yaml").write_text(text)
    report, _, _ = make()
    digest = hashlib.sha256(text.encode()).hexdigest()
    source = report.recipe.model_copy(update={"path": str(folder / "recipe.yaml"), "sha256": digest})
    return report.model_copy(update={"recipe": source})


def test_calibration_samples_are_taken_before_any_other(tmp_path: Path) -> None:
    report = run_recipe(tmp_path)
    batches, told = find_inputs(report, report.targets[0], tmp_path).load(make_network((8,), size=8))
    assert told == f"{SAMPLES} calibration samples"
    given = [float(batch["image"].max()) for batch in batches]
    assert (len(given), given[0], given[-1]) == (SAMPLES, 0.0, 9.5), "from all over, and prepared: halved"
    assert given == sorted(set(given))


def test_a_graph_of_a_fixed_batch_gets_whole_ones(tmp_path: Path) -> None:
    report = run_recipe(tmp_path, rows=7)
    graph = make_network((8,), size=8)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    batches, told = find_inputs(report, report.targets[0], tmp_path).load(graph)
    assert told == "7 calibration samples"
    assert [batch["image"].max(axis=(1, 2, 3)).tolist() for batch in batches] == [
        [0.0, 0.5, 1.0], [1.5, 2.0, 2.5], [3.0, 0.0, 0.5],
    ]  # fmt: skip


def pack(folder: Path) -> None:
    """The bundle of a winner with two golden samples."""
    network = make_network((8,), size=8)
    artifact = write_artifact(network, folder / "built")
    golden = tuple(
        Golden(inputs={"image": np.full((3, 8, 8), value, np.float32)}, outputs={"scores": np.zeros(4, np.float32)})
        for value in (2.0, 4.0)
    )
    contents = Contents(
        name="small", target="x86", candidate="onnxruntime_cpu/int8", artifact=artifact, golden=golden,
        preprocess=Preprocess(scale=0.5), classes=None, compatible={}, recipe=b"", measurements=(), verdicts=(),
    )  # fmt: skip
    pack_bundle(contents, folder / "x86" / "bundle")


def test_golden_samples_come_next_where_the_recipe_has_changed(tmp_path: Path) -> None:
    report = run_recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE + "# another day\n")
    pack(tmp_path)
    batches, told = find_inputs(report, report.targets[0], tmp_path).load(make_network((8,), size=8))
    assert told == f"2 golden samples of the bundle, since `{tmp_path / 'recipe.yaml'}` was changed"
    assert [float(batch["image"].max()) for batch in batches] == [1.0, 2.0]


def test_golden_samples_come_next_where_the_data_are_gone_and_it_says_so(tmp_path: Path) -> None:
    report = run_recipe(tmp_path)
    (tmp_path / "calibration.npz").unlink()
    pack(tmp_path)
    _, told = find_inputs(report, report.targets[0], tmp_path).load(make_network((8,), size=8))
    assert told.startswith("2 golden samples of the bundle, since ")
    assert "calibration.npz" in told


def test_data_that_cannot_be_read_lead_on(tmp_path: Path) -> None:
    report = run_recipe(tmp_path)
    inputs = find_inputs(report, report.targets[0], tmp_path)
    (tmp_path / "calibration.npz").write_bytes(b"torn")
    _, told = inputs.load(make_network((8,), size=8))
    assert told.startswith(f"{SAMPLES} random inputs, which are no images, since ")
    assert "calibration.npz" in told


def test_random_inputs_come_last_and_are_called_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report, target, _ = make()
    batches, told = find_inputs(report, target, tmp_path).load(make_network((8,), size=8))
    why = f"`{report.recipe.path}` cannot be read: no such file or directory"
    assert told == f"{SAMPLES} random inputs, which are no images, since {why}"
    assert {batch["image"].shape for batch in batches} == {(1, 3, 8, 8)}
    assert len({float(batch["image"].sum()) for batch in batches}) == SAMPLES
