"""The fingerprint: how the winner saw the calibration samples, so that a device notices when it sees another kind.

Three signals of a sample are looked at, none of which needs a label: the mean of the prepared input, and of a network
that classifies the confidence in its first choice and the entropy of all. Each is kept as the counts of about ten equal
parts. The same code finds the signals when a bundle is made and on the device, where `edgeopt.device.drift` compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgeopt.backends import Arrays, Session, backend_errors, opened
from edgeopt.data import Samples
from edgeopt.model import Artifact, Value

BINS = 10

#: fewer samples say too little of what is usual
LEAST_SAMPLES = 100

#: a bin that ties have left with less than this share joins its neighbour
LEAST_SHARE = 0.05

#: by how much the scores of one sample may miss a sum of 1 and be probabilities yet: 8 bits round each of them
ROUNDING = 0.05


class Reference(Value):
    """What is usual of one signal: of all samples, so many lie below the first of the edges, between them, and above.

    What equals an edge lies above it.
    """

    edges: tuple[float, ...] = Field(min_length=1, max_length=1_000)
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _check(self) -> Reference:
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 1:
            raise ValueError("should count something between any two edges")
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("should have edges that rise")
        return self

    @property
    def samples(self) -> int:
        return sum(self.counts)


def signals(inputs: NDArray[Any], outputs: NDArray[Any]) -> Arrays:
    """The signals of each sample, (samples,) each; not a number where the network's answer is none.

    Args:
        inputs: prepared, the network's first, batch axis first.
        outputs: its first, likewise; scores or probabilities where it classifies.
    """
    rows = inputs.reshape(len(inputs), -1)
    found: Arrays = {"input_mean": rows.mean(axis=1).astype(np.float64)}
    scores = outputs.reshape(len(outputs), -1)
    if outputs.ndim > 1 and scores.shape[1] == outputs.shape[1] >= 2:
        shares = _probabilities(scores.astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = np.where(shares > 0, shares * np.log(shares), np.where(np.isnan(shares), np.nan, 0.0))
        found |= {"confidence": shares.max(axis=1), "entropy": -parts.sum(axis=1)}
    return found


def _probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores of each row that are probabilities as they are, those of the others through softmax."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        softmax = powers / powers.sum(axis=1, keepdims=True)
        ready = (scores >= 0).all(axis=1) & (np.abs(scores.sum(axis=1) - 1.0) <= ROUNDING)
    made: NDArray[np.float64] = np.where(ready[:, None], scores, softmax)
    return made


def take_fingerprint(artifact: Artifact, samples: Samples, batch: int) -> dict[str, Reference]:
    """What a worker runs: the fingerprint of an artifact over `samples`.

    Raises:
        BackendError: the artifact cannot be opened or run.
    """
    with opened(artifact) as session:
        return fingerprint_of(artifact, _answers(artifact, session, samples, batch))


def _answers(artifact: Artifact, session: Session, samples: Samples, batch: int) -> Iterator[tuple[Arrays, Arrays]]:
    """Inputs and outputs, batch by batch; one that is too small for a fixed batch axis is filled up, and cut again."""
    axis = artifact.inputs[0].shape[0]
    for given in samples.batches(axis if isinstance(axis, int) else batch):
        count = len(given.indices)
        filling = np.minimum(np.arange(axis if isinstance(axis, int) else count), count - 1)
        with backend_errors(artifact.backend, "run"):
            outputs = session.run({name: array[filling] for name, array in given.inputs.items()})
        yield given.inputs, {name: array[:count] for name, array in outputs.items()}


def fingerprint_of(artifact: Artifact, answers: Iterable[tuple[Arrays, Arrays]]) -> dict[str, Reference]:
    """What is usual of each signal over batches of prepared inputs and outputs; none of one that is always the same."""
    image, scores = artifact.inputs[0].name, artifact.outputs[0].name
    seen = [signals(inputs[image], outputs[scores]) for inputs, outputs in answers]
    names = seen[0] if seen else ()
    made = {name: summarize(np.concatenate([part[name] for part in seen])) for name in names}
    return {name: reference for name, reference in made.items() if reference is not None}


def summarize(values: NDArray[Any]) -> Reference | None:
    """What is usual of (samples,) values; None where they are too few, not finite, or all the same."""
    if len(values) < LEAST_SAMPLES or not np.isfinite(values).all():
        return None
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
    while len(edges):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        least = int(counts.argmin())
        if counts[least] >= LEAST_SHARE * len(values):
            return Reference(edges=tuple(map(float, edges)), counts=tuple(map(int, counts)))
        edges = np.delete(edges, min(least, len(edges) - 1))
    return None
