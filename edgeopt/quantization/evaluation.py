"""How much a quantized graph loses on the tuning split: what techniques are chosen by. It judges nothing.

The figure is the metric that the recipe's budget names, on labels; without labels it is how often the quantized network
agrees with the float one. Which of two graphs is better is another question: answers that turn right make up for those
that turn wrong, so that of two drops the smaller is often luck. How many answers of a classifier changed at all tells
more, and the signal-to-noise ratio of the outputs tells apart what a few hundred images cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from edgeopt import metrics
from edgeopt.context import AccuracyGoal
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import TensorSpec
from edgeopt.onnx_graph import make_session, run_session
from edgeopt.quantization.arithmetic import SQNR_LIMIT_DB
from edgeopt.quantization.calibration import Arrays

BATCH_SIZE = 16


@dataclass(frozen=True)
class Loss:
    """What is lost against the float network: points of the metric, and the noise that the outputs have.

    Attributes:
        score: the metric in percent.
        sqnr_db: of all outputs together.
        changed: percent of the answers of a classifier; None of another network, and without labels, where it is the
            drop.
        divergence: how far a classifier's probabilities are from those of the float network (Kullback-Leibler, mean,
            nats); None of another network.
    """

    drop_pp: float
    score: float
    sqnr_db: float
    changed: float | None = None
    divergence: float | None = None

    def better_than(self, other: Loss) -> bool:
        """Whether this one loses less: answers, else points, and where those are equal, in noise."""
        mine, its = (one.drop_pp if one.changed is None else one.changed for one in (self, other))
        return (mine, -self.sqnr_db) < (its, -other.sqnr_db)


class Evaluation:
    """The float network on some samples, which quantized ones are compared with."""

    def __init__(
        self, graph: onnx.ModelProto, samples: Samples, inputs: tuple[TensorSpec, ...], goal: AccuracyGoal,
        threads: int = 1, *, as_written: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            as_written: compute each pair in float: see `make_session`.

        Raises:
            PassError: there are no labels, and the outputs are no scores of classes, of which the highest could agree.
        """
        self._samples, self._inputs, self._goal, self._threads = samples, inputs, goal, threads
        self._as_written = as_written
        self._metric = metrics.get(goal.metric, goal.root)
        self._labelled = samples.labels() is not None
        self._exact = [outputs for outputs, _ in self._run(graph)]
        self.score, first = 100.0, next(iter(self._exact[0].values()))
        scores = first.dtype.kind == "f" and first[0].size > 1
        self._classifies = self._metric.classification and scores
        if not self._labelled and not scores:
            what = "without labels, techniques are chosen by how often the highest score agrees, and there are none"
            raise PassError(what, "give labels, or choose the options of `quantize_int8` by hand")
        if self._labelled:
            self.score = self._score(zip(self._exact, self._labels(), strict=True))

    @property
    def labelled(self) -> bool:
        """Whether the figure is the metric, and not agreement."""
        return self._labelled

    @property
    def images(self) -> int:
        return len(self._samples)

    def with_fewer(self, graph: onnx.ModelProto, images: int) -> Evaluation:
        """The same of so many of the samples, for what needs no labels to be precise; `graph` is the float network."""
        samples = self._samples.spread(images)
        return Evaluation(graph, samples, self._inputs, self._goal, self._threads, as_written=self._as_written)

    def loss_of(self, graph: onnx.ModelProto) -> Loss:
        """What the quantized `graph` loses.

        Raises:
            PassError: it yields values that are not finite.
        """
        pairs, signal, noise, divergence = [], 0.0, 0.0, 0.0
        agreed = total = 0
        for exact, (outputs, labels) in zip(self._exact, self._run(graph), strict=True):
            _require_finite(outputs)
            for name, array in exact.items():
                wide = array.astype(np.float64)  # whatever type it has: bool and unsigned cannot be subtracted
                signal += float(np.square(wide).sum())
                noise += float(np.square(wide - outputs[name]).sum())
            first = next(iter(exact))
            fine, coarse = (each[first].reshape(len(each[first]), -1) for each in (exact, outputs))
            agreed, total = agreed + int((fine.argmax(1) == coarse.argmax(1)).sum()), total + len(fine)
            divergence += _divergence(fine, coarse) if self._classifies else 0.0
            pairs.append((outputs, labels))
        share = 100.0 * agreed / total
        score = self._score(iter(pairs)) if self._labelled else share
        ratio = SQNR_LIMIT_DB if noise == 0 else 10 * np.log10(max(signal, 1e-300) / noise)
        changed = 100.0 - share if self._labelled and self._classifies else None
        moved = divergence / total if self._classifies else None
        return Loss(self.score - score, score, float(min(SQNR_LIMIT_DB, ratio)), changed, moved)

    def _labels(self) -> Iterator[np.ndarray]:
        for batch in self._samples.batches(self._size):
            assert batch.labels is not None
            yield batch.labels

    @property
    def _size(self) -> int:
        first = self._inputs[0].shape[0]
        return first if isinstance(first, int) else BATCH_SIZE

    def _run(self, graph: onnx.ModelProto) -> Iterator[tuple[Arrays, np.ndarray | None]]:
        session = make_session(graph, self._threads, as_written=self._as_written)
        for batch in self._samples.batches(self._size):
            count = len(batch.indices)
            rows = np.minimum(np.arange(self._size), count - 1) if count < self._size else np.arange(count)
            outputs = run_session(session, {name: array[rows] for name, array in batch.inputs.items()})
            yield {name: array[:count] for name, array in outputs.items()}, batch.labels

    def _score(self, pairs: Iterator[tuple[Arrays, np.ndarray | None]]) -> float:
        records = [self._metric.record(outputs, labels) for outputs, labels in pairs if labels is not None]
        joined = {name: np.concatenate([record[name] for record in records]) for name in records[0]}
        return self._metric.score(joined, np.ones(len(next(iter(joined.values())))))


def _divergence(exact: np.ndarray, coarse: np.ndarray) -> float:
    """KL(softmax(exact) ‖ softmax(coarse)) of (samples, classes) scores, summed over the samples, in nats."""
    one, other = (_log_softmax(each.astype(np.float64)) for each in (exact, coarse))
    return float((np.exp(one) * (one - other)).sum())


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    moved = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(axis=1, keepdims=True)))


def _require_finite(outputs: Arrays) -> None:
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            raise PassError(f"the quantized network yields values that are not finite in `{name}`")
