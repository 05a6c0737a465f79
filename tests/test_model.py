"""Values are frozen, closed and canonical; a model is the same model wherever its files lie."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeopt.model import (
    ActivationRange,
    Artifact,
    Edit,
    Model,
    OnnxValue,
    TensorSpec,
    TorchValue,
    canonical_json,
    list_files,
    load_artifact,
    load_model,
    write_artifact,
    write_model,
)

IMAGE = TensorSpec(name="image", shape=("batch", 3, 32, 32))
LOGITS = TensorSpec(name="logits", shape=("batch", 10))

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé"\\\n☃'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé"), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"a graph")
    ranges = {"logits": ActivationRange(scale=(0.5,), zero_point=(3,))}
    return Model(value=OnnxValue(), inputs=(IMAGE,), outputs=(LOGITS,), ranges=ranges, folder=folder)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    folder = tmp_path / "built"
    (folder / "parts").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"a graph")
    (folder / "parts" / "weights").write_bytes(b"12345")
    listed = list_files(folder, ["parts/weights", "model.onnx"])
    return Artifact(target="x86", backend="null", files=listed, inputs=(IMAGE,), outputs=(LOGITS,), folder=folder)


@given(PLAIN)
def test_canonical_json_reads_back_as_what_it_was_made_from(data: Any) -> None:
    assert json.loads(canonical_json(data)) == data


@given(st.dictionaries(st.text(), st.integers(), max_size=5))
def test_canonical_json_does_not_depend_on_the_order_of_keys(data: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(data.items()))) == canonical_json(data)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_has_no_canonical_json(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"limit": number})


def test_a_value_is_frozen_closed_and_free_of_nan() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        IMAGE.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        TensorSpec(name="image", shape=(1,), colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="finite"):
        ActivationRange(scale=(math.nan,), zero_point=(0,))


@given(st.lists(st.integers(1, 9) | st.sampled_from(["batch", "n"])), st.integers(1, 64))
def test_only_symbolic_axes_take_the_batch(shape: list[int | str], batch: int) -> None:
    found = TensorSpec(name="x", shape=tuple(shape)).with_batch(batch)
    assert [axis if isinstance(axis, int) else batch for axis in shape] == list(found)


def test_a_model_is_loaded_as_it_was_written(model: Model, tmp_path: Path) -> None:
    written = write_model(model, tmp_path / "written")
    loaded = load_model(tmp_path / "written")
    assert written.folder == loaded.folder == tmp_path / "written"
    assert loaded.path.read_bytes() == b"a graph"
    assert loaded.ranges == model.ranges
    assert loaded.form == "onnx"
    assert loaded.digest() == written.digest() == model.digest()


def test_a_torch_model_keeps_its_edits_and_its_factorys_root(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"tensors")
    edit = Edit(kind="keep_channels", module="layer.0", arguments={"axis": "out", "channels": [0, 2]})
    value = TorchValue(factory="network.py:make", options={"width": 32}, edits=(edit,))
    model = Model(value=value, inputs=(IMAGE,), outputs=(LOGITS,), folder=tmp_path, sources=Path("recipes"))
    write_model(model, tmp_path / "written")
    loaded = load_model(tmp_path / "written", Path("elsewhere"))
    assert loaded.value == value
    assert loaded.sources == Path("elsewhere")
    assert load_model(tmp_path / "written").sources == tmp_path / "written"


def test_a_model_can_be_written_where_its_file_already_lies(model: Model) -> None:
    write_model(model, model.folder)
    assert load_model(model.folder).digest() == model.digest()


def test_another_file_or_description_is_another_model(model: Model) -> None:
    before = model.digest()
    assert model.model_copy(update={"outputs": (IMAGE,)}).digest() != before
    model.path.write_bytes(b"another graph")
    assert model.digest() != before


def test_files_are_listed_sorted_with_digest_and_size(artifact: Artifact) -> None:
    assert [(file.path, file.size_bytes) for file in artifact.files] == [("model.onnx", 7), ("parts/weights", 5)]
    assert artifact.size_bytes == 12
    assert all(len(file.sha256) == 64 for file in artifact.files)


def test_an_artifact_is_loaded_as_it_was_written(artifact: Artifact) -> None:
    write_artifact(artifact, artifact.folder)
    assert load_artifact(artifact.folder) == artifact


def test_facts_and_place_are_no_part_of_an_artifacts_identity(artifact: Artifact) -> None:
    moved = artifact.at(Path("elsewhere")).model_copy(update={"facts": {"build_seconds": 9}})
    assert moved.digest() == artifact.digest()
    assert artifact.model_copy(update={"settings": {"threads": 2}}).digest() != artifact.digest()
