"""What an artifact says of each image of a split: run in a worker, streaming, and left in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import backends, environment, files, metrics
from edgeopt.backends import Arrays, Session, backend_errors, opened
from edgeopt.data import Batch, Samples
from edgeopt.errors import BackendError, DataError
from edgeopt.metrics import Metric
from edgeopt.model import Artifact
from edgeopt.validation.predictions import NO_CLASS, PREDICTIONS_FILE, Predictions
from edgeopt.workers import report_progress


def run_predictions(
    artifact: Artifact, samples: Samples, batch: int, folder: Path, names: Sequence[str] = (), root: Path | None = None
) -> None:
    """What a worker runs: predict all samples and write `PREDICTIONS_FILE` into `folder`.

    Args:
        names: metrics to record, beside top-1 of a network that classifies; it does unless one of them says otherwise.
        root: the folder that metrics in files of the user's are relative to.

    Raises:
        BackendError: the artifact cannot be opened or run.
        DataError: a sample cannot be read, or a label is none of the network's classes.
    """
    total, recorder = len(samples), _Recorder({metrics.label(name): metrics.get(name, root) for name in names})
    done = 0
    with opened(artifact) as session:
        for given in samples.batches(_batch_size(artifact, batch)):
            recorder.see(given, _outputs(session, artifact, given.inputs))
            done += len(given.indices)
            report_progress("predict", done / total)
    if not done:
        raise DataError(f"`{samples.path}` has no samples", "name a split that has some")
    files.write_bytes(folder / PREDICTIONS_FILE, recorder.predictions(artifact).to_npz())


class _Recorder:
    """Gathers, batch by batch, what is kept of each image."""

    def __init__(self, chosen: Mapping[str, Metric]) -> None:
        self._classifies = all(metric.classification for metric in chosen.values())
        self._metrics = {"top1": metrics.get("top1"), **chosen} if self._classifies else dict(chosen)
        self._watch = _Constancy()
        self._parts: list[Arrays] = []
        self._records: dict[str, list[Arrays]] = {label: [] for label in self._metrics}

    def see(self, given: Batch, outputs: Arrays) -> None:
        self._watch.see(given.inputs, outputs)
        empty = np.empty(0, np.int64)
        part: Arrays = {
            "indices": given.indices,
            "labels": empty,
            "classes": empty,
            "confidences": np.empty(0, np.float32),
            "finite": np.logical_and.reduce([_finite(array) for array in outputs.values()]),
        }
        if self._classifies:
            scores = _scores(outputs)
            part |= _decide(scores)
            if given.labels is not None:
                part["labels"] = _checked(given.labels, given.indices, scores.shape[1])
        if given.labels is not None:
            for label, metric in self._metrics.items():
                self._records[label].append(metric.record(outputs, given.labels))
        self._parts.append(part)

    def predictions(self, artifact: Artifact) -> Predictions:
        return Predictions(
            **_join(self._parts),
            records={label: _join(parts) for label, parts in self._records.items() if parts},
            constant=self._watch.constant,
            subject=artifact.digest(),
            environment=environment.fingerprint_digest(),
            simulated=backends.get(artifact.backend).simulated or bool(artifact.unbuilt),
        )


class _Constancy:
    """Watches whether outputs stay the very same while inputs differ, as those of a dead network do."""

    def __init__(self) -> None:
        self._first: tuple[Arrays, Arrays] | None = None
        self._inputs_differ = False
        self._outputs_differ = False

    def see(self, inputs: Arrays, outputs: Arrays) -> None:
        if self._first is None:
            self._first = _first_rows(inputs), _first_rows(outputs)
        first_inputs, first_outputs = self._first
        self._inputs_differ |= _differ(inputs, first_inputs)
        self._outputs_differ |= _differ(outputs, first_outputs)

    @property
    def constant(self) -> bool:
        return self._inputs_differ and not self._outputs_differ


def _first_rows(arrays: Arrays) -> Arrays:
    return {name: array[:1].copy() for name, array in arrays.items()}


def _differ(arrays: Arrays, first: Arrays) -> bool:
    return any(bool((array != first[name]).any()) for name, array in arrays.items())


def _join(parts: Sequence[Arrays]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _finite(array: NDArray[Any]) -> NDArray[np.bool_]:
    rows = array.reshape(len(array), -1)
    return np.isfinite(rows).all(axis=1) if rows.dtype.kind == "f" else np.ones(len(rows), bool)


def _batch_size(artifact: Artifact, batch: int) -> int:
    axis = artifact.inputs[0].shape[0]
    return axis if isinstance(axis, int) else batch


def _outputs(session: Session, artifact: Artifact, inputs: Arrays) -> Arrays:
    """All outputs, (images, …) each; a batch too small for a fixed batch axis is filled up, and cut again."""
    count = len(next(iter(inputs.values())))
    size = _batch_size(artifact, count)
    rows = np.minimum(np.arange(size), count - 1)
    filled = {key: array[rows] for key, array in inputs.items()} if size != count else inputs
    with backend_errors(artifact.backend, "run"):
        given = session.run(filled)
    outputs = {spec.name: given[spec.name] for spec in artifact.outputs}
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != size:
            what = f"output `{name}` has shape {list(array.shape)} for {size} images: its first axis is not the batch"
            raise BackendError(what, "edgeopt takes networks that answer for each image")
    return {name: array[:count] for name, array in outputs.items()}


def _scores(outputs: Arrays) -> NDArray[Any]:
    """(images, classes) scores: the first output, flattened."""
    name, output = next(iter(outputs.items()))
    if output[0].size < 2:
        raise BackendError(
            f"output `{name}` has shape {list(output.shape)} for {len(output)} images, not one score per class",
            "top-1 accuracy needs a network whose first output is the scores of two classes or more",
        )
    return output.reshape(len(output), -1)


def _checked(labels: NDArray[Any], indices: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The labels, each of which is one of the network's classes."""
    if labels.ndim != 1:
        what = f"the labels have shape {list(labels.shape)}, not one class for each image"
        raise DataError(what, "choose a metric that takes such labels: `budgets: {accuracy: {metric: …}}`")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"sample {indices[wrong[0]]} has label {labels[wrong[0]]}, and the network has classes 0 to {classes - 1}",
            "check the labels, or the network's number of classes",
        )
    return labels.astype(np.int64)


def _decide(scores: NDArray[Any]) -> Arrays:
    finite = np.isfinite(scores).all(axis=1)
    safe = np.where(finite[:, None], scores, 0).astype(np.float64)
    best = safe.max(axis=1)
    confidences = 1.0 / np.exp(safe - best[:, None]).sum(axis=1)
    return {
        "classes": np.where(finite, safe.argmax(axis=1), NO_CLASS).astype(np.int64),
        "confidences": np.where(finite, confidences, 0).astype(np.float32),
    }
