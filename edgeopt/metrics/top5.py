"""The share of images whose class is among the five best scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.metrics import Arrays, Share, predicted_classes

BEST = 5


class Top5(Share):
    """Top-5 accuracy."""

    def record(self, outputs: Arrays, labels: NDArray[Any]) -> Arrays:
        scores, finite = predicted_classes(outputs, labels)
        if scores.shape[1] <= BEST:
            what = f"`top5` says nothing of a network with {scores.shape[1]} classes"
            raise DataError(what, "take `metric: top1`")
        own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
        # Scores that are equal to its own count against it: a network of equal scores knows nothing.
        better = (scores >= own).sum(axis=1)
        return {"hit": finite & (better <= BEST)}
