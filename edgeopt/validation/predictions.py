"""What an artifact says of each image: run in a worker, streaming, and left in one file."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import backends, environment, files
from edgeopt.backends import Arrays, Session, backend_errors, opened
from edgeopt.data import Batch, Samples
from edgeopt.errors import BackendError, DataError
from edgeopt.model import Artifact
from edgeopt.workers import report_progress

PREDICTIONS_FILE = "predictions.npz"

#: the class of an image whose scores are not finite: none, so it is never right
NO_CLASS = -1


@dataclass(frozen=True)
class Predictions:
    """What one artifact said.

    Attributes:
        indices: (images,) rows in the dataset.
        labels: (images,) true classes; (0,) where the split has none.
        classes: (images,) predicted classes; `NO_CLASS` where scores are not finite.
        confidences: (images,) softmax of the best score; 0 where scores are not finite.
        constant: whether different images all got the very same scores.
        subject: digest of the artifact.
        environment: digest of the machine's fingerprint.
        simulated: whether the backend measures nothing real.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidences: NDArray[np.float32]
    constant: bool
    subject: str
    environment: str
    simulated: bool = False

    @property
    def nonfinite(self) -> int:
        """Images whose scores are not finite."""
        return int(np.count_nonzero(self.classes == NO_CLASS))

    def to_npz(self) -> bytes:
        """The bytes of an .npz file; equal predictions give equal bytes."""
        return pack_arrays(asdict(self))

    @classmethod
    def from_npz(cls, data: bytes) -> Predictions:
        """The predictions that `to_npz` gave."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            values = {name: archive[name] if archive[name].ndim else archive[name].item() for name in archive.files}
        return cls(**values)


def load_predictions(folder: Path) -> Predictions:
    """What `run_predictions` left in `folder`."""
    return Predictions.from_npz((folder / PREDICTIONS_FILE).read_bytes())


def pack_arrays(arrays: dict[str, Any]) -> bytes:
    """Arrays as the bytes of an .npz file, without a clock in it."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def run_predictions(artifact: Artifact, samples: Samples, batch: int, folder: Path) -> None:
    """What a worker runs: predict all samples and write `PREDICTIONS_FILE` into `folder`.

    Raises:
        BackendError: the artifact cannot be opened or run.
        DataError: a sample cannot be read, or a label is none of the network's classes.
    """
    total, watch = len(samples), _Constancy()
    parts: list[dict[str, Any]] = []
    done = 0
    with opened(artifact) as session:
        for given in samples.batches(_batch_size(artifact, batch)):
            scores = _scores(session, artifact, given.inputs)
            watch.see(given.inputs, scores)
            parts.append({"indices": given.indices, "labels": _labels(given, scores), **_decide(scores)})
            done += len(scores)
            report_progress("predict", done / total)
    if not parts:
        raise DataError(f"`{samples.path}` has no samples", "name a split that has some")
    found = Predictions(
        **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        constant=watch.constant,
        subject=artifact.digest(),
        environment=environment.fingerprint_digest(),
        simulated=backends.get(artifact.backend).simulated,
    )
    files.write_bytes(folder / PREDICTIONS_FILE, found.to_npz())


class _Constancy:
    """Watches whether scores stay the very same while inputs differ, as those of a dead network do."""

    def __init__(self) -> None:
        self._first: tuple[Arrays, NDArray[Any]] | None = None
        self._inputs_differ = False
        self._scores_differ = False

    def see(self, inputs: Arrays, scores: NDArray[Any]) -> None:
        if self._first is None:
            self._first = {name: array[:1].copy() for name, array in inputs.items()}, scores[:1].copy()
        first_inputs, first_scores = self._first
        self._inputs_differ |= any(bool((array != first_inputs[name]).any()) for name, array in inputs.items())
        self._scores_differ |= bool((scores != first_scores).any())

    @property
    def constant(self) -> bool:
        return self._inputs_differ and not self._scores_differ


def _batch_size(artifact: Artifact, batch: int) -> int:
    axis = artifact.inputs[0].shape[0]
    return axis if isinstance(axis, int) else batch


def _scores(session: Session, artifact: Artifact, inputs: Arrays) -> NDArray[Any]:
    """(images, classes) scores: the first output, flattened; a batch too small for a fixed batch axis is filled up."""
    count = len(next(iter(inputs.values())))
    size = _batch_size(artifact, count)
    rows = np.minimum(np.arange(size), count - 1)
    name = artifact.outputs[0].name
    filled = {key: array[rows] for key, array in inputs.items()} if size != count else inputs
    with backend_errors(artifact.backend, "run"):
        output = session.run(filled)[name]
    if len(output) != size or output[0].size < 2:
        raise BackendError(
            f"output `{name}` has shape {list(output.shape)} for {size} images, not one score per class",
            "top-1 accuracy needs a network whose first output is the scores of two classes or more",
        )
    return output.reshape(size, -1)[:count]


def _labels(given: Batch, scores: NDArray[Any]) -> NDArray[np.int64]:
    if given.labels is None:
        return np.empty(0, np.int64)
    wrong = np.flatnonzero((given.labels < 0) | (given.labels >= scores.shape[1]))
    if len(wrong):
        raise DataError(
            f"sample {given.indices[wrong[0]]} has label {given.labels[wrong[0]]}, "
            f"and the network has classes 0 to {scores.shape[1] - 1}",
            "check the labels, or the network's number of classes",
        )
    return given.labels


def _decide(scores: NDArray[Any]) -> dict[str, NDArray[Any]]:
    finite = np.isfinite(scores).all(axis=1)
    safe = np.where(finite[:, None], scores, 0).astype(np.float64)
    best = safe.max(axis=1)
    confidences = 1.0 / np.exp(safe - best[:, None]).sum(axis=1)
    return {
        "classes": np.where(finite, safe.argmax(axis=1), NO_CLASS).astype(np.int64),
        "confidences": np.where(finite, confidences, 0).astype(np.float32),
    }
