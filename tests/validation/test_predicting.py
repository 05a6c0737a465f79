from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted_backend
from scripted_backend import CLASSES, script

from edgeopt import files, registry, workers
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import BackendError, DataError, MissingError
from edgeopt.model import Artifact, TensorSpec
from edgeopt.validation.predicting import run_predictions
from edgeopt.validation.predictions import NO_CLASS, Predictions, load_predictions

pytestmark = pytest.mark.usefixtures("scripted")

#: what the scripted backend reads its class from, and the label, which differs once
TOLD = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3]
LABELS = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 2]


def write_samples(folder: Path, labels: list[int] | None = LABELS, told: list[int] = TOLD) -> Samples:
    images = np.zeros((len(told), 1, 2, 2), np.uint8)
    images[:, 0, 0, 0] = told
    images[:, 0, 1, 1] = np.arange(len(told))
    arrays: dict[str, Any] = {"image": images} if labels is None else {"image": images, "labels": np.array(labels)}
    np.savez(folder / "split.npz", **arrays)
    return Samples("npz", folder / "split.npz", ("image",), Preprocess())


def predict(folder: Path, artifact: Artifact, samples: Samples | None = None, batch: int = 4) -> Predictions:
    run_predictions(artifact, write_samples(folder) if samples is None else samples, batch, folder / "out")
    return load_predictions(folder / "out")


def test_each_image_has_a_class_a_confidence_and_its_label(tmp_path: Path) -> None:
    found = predict(tmp_path, script())
    assert found.classes.tolist() == TOLD
    assert found.labels.tolist() == LABELS
    assert found.indices.tolist() == list(range(len(TOLD)))
    assert found.confidences == pytest.approx(np.e / (np.e + CLASSES - 1))
    assert (found.nonfinite, found.constant, found.simulated) == (0, False, False)
    assert found.subject == script().digest()


@pytest.mark.parametrize("batch", [1, 4, 5, 11, 64])
def test_the_batch_does_not_change_what_is_predicted(tmp_path: Path, batch: int) -> None:
    assert predict(tmp_path, script(), batch=batch).classes.tolist() == TOLD


def test_a_fixed_batch_axis_is_filled_up_and_the_filling_is_not_counted(tmp_path: Path) -> None:
    found = predict(tmp_path, script(batch=4), batch=1)
    assert found.classes.tolist() == TOLD
    assert len(found.confidences) == len(TOLD)


def test_chosen_rows_keep_their_place_in_the_dataset(tmp_path: Path) -> None:
    found = predict(tmp_path, script(), replace(write_samples(tmp_path), rows=(1, 4, 10)))
    assert found.indices.tolist() == [1, 4, 10]
    assert found.classes.tolist() == [1, 4, 3]
    assert found.labels.tolist() == [1, 4, 2]


def test_scores_that_are_not_finite_are_counted_and_never_right(tmp_path: Path) -> None:
    found = predict(tmp_path, script(answers="nan"))
    assert found.nonfinite == TOLD.count(3)
    assert found.classes[3] == NO_CLASS
    assert found.confidences[3] == 0
    assert found.classes[2] == 2


def test_the_same_scores_for_different_images_are_noticed(tmp_path: Path) -> None:
    assert predict(tmp_path, script(answers="dead")).constant


@pytest.mark.parametrize("count", [1, 3])
def test_the_same_scores_for_equal_images_are_right(tmp_path: Path, count: int) -> None:
    np.savez(tmp_path / "split.npz", image=np.zeros((count, 1, 2, 2), np.uint8), labels=np.zeros(count, np.int64))
    same = Samples("npz", tmp_path / "split.npz", ("image",), Preprocess())
    assert not predict(tmp_path, script(answers="dead"), same).constant


def test_what_a_simulation_says_is_marked(tmp_path: Path) -> None:
    assert predict(tmp_path, script("scripted_simulation")).simulated


def test_a_split_without_labels_can_be_predicted(tmp_path: Path) -> None:
    found = predict(tmp_path, script(), write_samples(tmp_path, labels=None))
    assert found.classes.tolist() == TOLD
    assert len(found.labels) == 0


@pytest.mark.parametrize("label", [CLASSES, CLASSES + 2])
def test_a_label_beyond_the_classes_is_named(tmp_path: Path, label: int) -> None:
    samples = write_samples(tmp_path, labels=[*LABELS[:6], label, *LABELS[7:]])
    with pytest.raises(DataError, match=f"sample 6 has label {label}, and the network has classes 0 to 4"):
        predict(tmp_path, script(), samples)
    assert not (tmp_path / "out").exists()


def test_a_split_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no samples"):
        predict(tmp_path, script(), replace(write_samples(tmp_path), rows=()))


def test_an_output_that_is_not_one_score_per_class_is_named(tmp_path: Path) -> None:
    one = script().model_copy(update={"outputs": (TensorSpec(name="scores", shape=("batch", 1)),)})
    artifact = one.model_copy(update={"settings": {"classes": 1}})
    with pytest.raises(BackendError, match=r"output `scores` has shape \[4, 1\] for 4 images"):
        predict(tmp_path, artifact)


@pytest.mark.parametrize("method", ["open", "run", "close"])
def test_a_backend_that_raises_without_foresight_is_named(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("division by zero")

    backend = registry.resolve("backends", "scripted")
    monkeypatch.setattr(backend if method == "open" else scripted_backend.ScriptedSession, method, fail)
    with pytest.raises(BackendError, match=f"`scripted` could not {method}.*: ZeroDivisionError: division by zero"):
        predict(tmp_path, script())


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(operation: str, path: Path) -> None:
        if operation == "write":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "observe", full)
    with pytest.raises(MissingError, match="no space left"):
        predict(tmp_path, script())
    assert list((tmp_path / "out").iterdir()) == []


def test_predicting_runs_in_a_worker_and_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[float | None] = []
    workers.run(
        "edgeopt.validation.predicting:run_predictions", script(), write_samples(tmp_path), 4, tmp_path / "out",
        progress=lambda text, fraction: told.append(fraction),
    )  # fmt: skip
    assert load_predictions(tmp_path / "out").classes.tolist() == TOLD
    assert told == [pytest.approx(4 / 11), pytest.approx(8 / 11), 1.0]
