"""From a network's outputs to what was asked for: the labels of a classifier with their scores, best first.

A network is a classifier where its first output has one score for each class. Any other one is answered with its
outputs as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.backends import Arrays

#: how far scores may miss a sum of 1 and be probabilities yet: integers of 8 bits round each of them
ROUNDED = 0.05


@dataclass(frozen=True)
class Choice:
    """One class: its place among the classes, its label, and how likely the network says that it is."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """What the network says of one sample.

    Attributes:
        top: the likeliest classes, best first; empty where the network is no classifier.
        outputs: name → output, without the batch axis, as the network gave it.
    """

    top: tuple[Choice, ...]
    outputs: Arrays

    @property
    def index(self) -> int | None:
        return self.top[0].index if self.top else None

    @property
    def label(self) -> str | None:
        return self.top[0].label if self.top else None

    @property
    def score(self) -> float | None:
        return self.top[0].score if self.top else None

    def to_plain(self) -> dict[str, Any]:
        """Plain data: the classes, or the outputs where there are none."""
        if self.top:
            best = self.top[0]
            return {
                "label": best.label,
                "index": best.index,
                "score": best.score,
                "top": [vars(one) for one in self.top],
            }
        return {"outputs": {name: array.tolist() for name, array in self.outputs.items()}}


class Answering:
    """How the outputs of one network are read.

    Args:
        examples: outputs of a few samples, with a batch axis: they tell whether its scores are probabilities already.
        classes: their labels; None: their numbers stand for them.
    """

    def __init__(self, examples: Sequence[Arrays], classes: Sequence[str] | None) -> None:
        self._scores = _find_scores(examples, classes)
        self._normalized = bool(examples) and self._scores is not None
        if self._scores is not None:
            self._normalized &= all(_are_probabilities(_rows(one[self._scores])) for one in examples)
            self._labels = list(classes or map(str, range(_rows(examples[0][self._scores]).shape[1])))

    @property
    def classifies(self) -> bool:
        return self._scores is not None

    def predictions(self, outputs: Arrays, top: int = 1) -> list[Prediction]:
        """One for each sample of a batch; `top` is how many classes each of them names, at most."""
        count = len(next(iter(outputs.values())))
        singles = [{name: array[row] for name, array in outputs.items()} for row in range(count)]
        if self._scores is None:
            return [Prediction((), single) for single in singles]
        rows = _rows(outputs[self._scores])
        return [Prediction(self._best(row, top), single) for row, single in zip(rows, singles, strict=True)]

    def _best(self, row: NDArray[np.float32], top: int) -> tuple[Choice, ...]:
        best = [int(row.argmax())] if top == 1 else np.argsort(-row, kind="stable")[:top].tolist()
        total = 1.0 if self._normalized else float(np.exp(row - row[best[0]]).sum())
        chances = [row[one] if self._normalized else math.exp(row[one] - row[best[0]]) / total for one in best]
        return tuple(Choice(one, self._labels[one], float(chance)) for one, chance in zip(best, chances, strict=True))


def are_finite(outputs: Arrays) -> bool:
    """Whether no output holds NaN or infinity."""
    return not any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in outputs.values())


def _find_scores(examples: Sequence[Arrays], classes: Sequence[str] | None) -> str | None:
    """The output that holds a score for each class, if any does."""
    if not examples:
        return None
    name, first = next(iter(examples[0].items()))
    count = first[0].size
    if first.dtype.kind != "f" or count < 2:
        return None
    if classes is not None:
        return name if count == len(classes) else None
    return name if first.ndim == 2 and len(examples[0]) == 1 else None


def _rows(scores: NDArray[Any]) -> NDArray[np.float32]:
    return scores.reshape(len(scores), -1).astype(np.float32, copy=False)


def _are_probabilities(rows: NDArray[np.float32]) -> bool:
    return bool((rows >= 0).all() and (rows <= 1 + ROUNDED).all() and (np.abs(rows.sum(axis=1) - 1) <= ROUNDED).all())
