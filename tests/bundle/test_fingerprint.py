"""The fingerprint of a network that really runs, from a split on the disk to the manifest and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt.bundle.fingerprint import Reference, fingerprint_of, summarize, take_fingerprint
from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.pack import Contents, pack_bundle
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Artifact, TensorSpec, canonical_json, list_files

IMAGES = np.random.default_rng(0).normal(size=(230, 1, 4, 4)).astype(np.float32)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    np.savez(tmp_path / "calibration.npz", image=IMAGES)
    return Samples("npz", tmp_path / "calibration.npz", ("image",), Preprocess())


def artifact_in(folder: Path, axis: int | str) -> Artifact:
    """A network that says of an image its first three numbers, as scores."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "end", "axis"], ["scores"]),
    ]
    numbers = {"start": 0, "end": 3, "axis": 1}
    graph = helper.make_graph(
        nodes, "first", [helper.make_tensor_value_info("image", kind.FLOAT, [axis, 1, 4, 4])],
        [helper.make_tensor_value_info("scores", kind.FLOAT, [axis, 3])],
        [helper.make_tensor(name, kind.INT64, [1], [value]) for name, value in numbers.items()],
    )  # fmt: skip
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    return Artifact(
        target="x86", backend="onnxruntime_cpu", files=list_files(folder, ["model.onnx"]),
        inputs=(TensorSpec(name="image", shape=(axis, 1, 4, 4)),),
        outputs=(TensorSpec(name="scores", shape=(axis, 3)),),
        requires={}, settings={"threads": 1, "batch": 1}, folder=folder,
    )  # fmt: skip


def expected() -> dict[str, Reference]:
    """The same by hand."""
    scores = IMAGES.reshape(230, -1)[:, :3].astype(np.float64)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    values = {
        "input_mean": IMAGES.reshape(230, -1).mean(axis=1), "confidence": shares.max(axis=1),
        "entropy": -(shares * np.log(shares)).sum(axis=1),
    }  # fmt: skip
    found = {name: summarize(array.astype(np.float64)) for name, array in values.items()}
    return {name: one for name, one in found.items() if one is not None}


def same(one: dict[str, Reference], other: dict[str, Reference]) -> bool:
    assert one.keys() == other.keys()
    return all(
        one[name].counts == other[name].counts and np.allclose(one[name].edges, other[name].edges, rtol=1e-6)
        for name in one
    )


@pytest.mark.parametrize(("axis", "batch"), [("batch", 1), ("batch", 16), (1, 1), (16, 16)])
def test_every_calibration_sample_is_counted_once_whatever_the_batch(
    axis: int | str, batch: int, samples: Samples, tmp_path: Path
) -> None:
    found = take_fingerprint(artifact_in(tmp_path / "built", axis), samples, batch)
    assert {name: one.samples for name, one in found.items()} == dict.fromkeys(found, 230)
    assert same(found, expected())


def test_what_a_device_has_run_gives_the_same(samples: Samples, tmp_path: Path) -> None:
    artifact = artifact_in(tmp_path / "built", "batch")
    answers = [({"image": image[None]}, {"scores": image.reshape(1, -1)[:, :3]}) for image in IMAGES]
    assert same(fingerprint_of(artifact, answers), take_fingerprint(artifact, samples, 16))


def test_too_few_samples_have_no_fingerprint(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", image=IMAGES[:99])
    samples = Samples("npz", tmp_path / "few.npz", ("image",), Preprocess())
    assert take_fingerprint(artifact_in(tmp_path / "built", "batch"), samples, 1) == {}


def test_the_manifest_keeps_it_and_an_older_one_without_it_keeps_its_bytes(contents: Contents, tmp_path: Path) -> None:
    manifest = pack_bundle(replace(contents, fingerprint=expected()), tmp_path / "bundle").manifest
    assert Manifest.parse(manifest.to_bytes()).fingerprint == expected()
    older: dict[str, Any] = manifest.model_dump(mode="json", exclude={"fingerprint"})
    assert Manifest.parse(canonical_json(older)).to_bytes() == canonical_json(older)
