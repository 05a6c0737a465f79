"""The share of images whose best score is that of their class."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edgeopt.metrics import Arrays, Share, predicted_classes


class Top1(Share):
    """Top-1 accuracy."""

    def record(self, outputs: Arrays, labels: NDArray[Any]) -> Arrays:
        scores, finite = predicted_classes(outputs, labels)
        return {"hit": finite & (scores.argmax(axis=1) == labels)}
