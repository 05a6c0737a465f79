"""The mean over classes of F1, the harmonic mean of precision and recall: rare classes count as much as common ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.metrics import Arrays, Metric, Weights, predicted_classes


class MacroF1(Metric):
    """Macro-averaged F1 over the classes that the split has."""

    def record(self, outputs: Arrays, labels: NDArray[Any]) -> Arrays:
        scores, finite = predicted_classes(outputs, labels)
        # An image without a class of its own is a miss of its true class and a false alarm of none.
        said = np.where(finite, scores.argmax(axis=1), scores.shape[1])
        return {"true": labels.astype(np.int64), "said": said.astype(np.int64)}

    def score(self, records: Arrays, weights: Weights) -> float:
        true, said = records["true"], records["said"]
        classes = int(max(true.max(), said.max())) + 1
        right = np.bincount(true[true == said], weights[true == said], classes)
        total = np.bincount(true, weights, classes) + np.bincount(said, weights, classes)
        # A class that a resampling left out is judged by none of its images; F1 = 2 right ÷ (true + said).
        there = np.bincount(true, weights, classes) > 0
        return 100.0 * float(np.mean(2.0 * right[there] / total[there]))
