"""How right a network is on a split: one file per metric.

A metric keeps a little of each image (`record`, while the network runs) and makes one figure of what was kept
(`score`), so that a stored report is judged again without the network and without the data.

To add one, write `metrics/<name>.py` with a class of that name in CamelCase; a third party adds one by an entry point
in group `edgeopt.metrics`. For a figure that is a mean over images, a function in a file of the recipe's is enough.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeopt import registry, user_code
from edgeopt.errors import DataError

Arrays = dict[str, NDArray[Any]]
Weights = NDArray[np.float64]


class Metric(ABC):
    """One figure, in percent: more is better."""

    #: the labels are one class for each image, and the network's first output is a score for each class
    classification: ClassVar[bool] = True

    @abstractmethod
    def record(self, outputs: Arrays, labels: NDArray[Any]) -> Arrays:
        """What the figure takes of each image: name → (images, …), the same shapes but for the first axis every time.

        Args:
            outputs: of one batch, (images, …) each. Where they are not finite the image must count as wrong.
            labels: (images, …) as the data has them.

        Raises:
            DataError: outputs or labels are not what the metric takes.
        """

    @abstractmethod
    def score(self, records: Arrays, weights: Weights) -> float:
        """The figure over all images, each counted `weights` (images,) times: resampling counts some twice."""

    def hits(self, records: Arrays) -> NDArray[np.bool_] | None:
        """(images,) where the figure is a share of images: which of them count. None: it is no share.

        The bounds of a share are known; those of another figure are found by resampling.
        """
        return None


class Share(Metric):
    """A metric that is the share of images that hit: `record` gives `hit` (images,)."""

    def score(self, records: Arrays, weights: Weights) -> float:
        return 100.0 * float(records["hit"] @ weights / weights.sum())

    def hits(self, records: Arrays) -> NDArray[np.bool_]:
        return records["hit"].astype(bool)


class Mean(Metric):
    """A user's own figure: `file.py:callable`, called as `callable(outputs, labels)` for each batch.

    It returns one number from 0 to 1 for each image; the metric is their mean, in percent. The labels are what the
    data holds, so it serves networks that do not classify, too.
    """

    classification: ClassVar[bool] = False

    def __init__(self, name: str, root: Path | None = None) -> None:
        self._name, self._root = name, root
        self._function: Callable[[Arrays, NDArray[Any]], Any] | None = None

    def record(self, outputs: Arrays, labels: NDArray[Any]) -> Arrays:
        assert self._root is not None, "only a recipe can say where its files lie"
        if self._function is None:
            self._function = user_code.load(self._root, self._name, DataError)
        with user_code.named(self._root, self._name, DataError):
            given = self._function(outputs, labels)
        values = np.asarray(given)
        if values.shape != (len(labels),) or values.dtype.kind not in "biuf":
            what = f"`{self._name}` returned shape {list(values.shape)} of `{values.dtype}` for {len(labels)} images"
            raise DataError(what, "return one number from 0 to 1 for each image")
        finite = [np.isfinite(array.reshape(len(array), -1)).all(axis=1) for array in outputs.values()]
        values = np.where(np.logical_and.reduce(finite), values.astype(np.float64), 0.0)
        if not ((values >= 0) & (values <= 1)).all():
            wrong = values[~((values >= 0) & (values <= 1))][0]
            raise DataError(
                f"`{self._name}` returned {wrong:g}, allowed: 0 to 1", "give each image a number from 0 to 1"
            )
        return {"value": values}

    def score(self, records: Arrays, weights: Weights) -> float:
        return 100.0 * float(records["value"] @ weights / weights.sum())

    def hits(self, records: Arrays) -> NDArray[np.bool_] | None:
        values = records["value"]
        return values == 1 if np.isin(values, (0, 1)).all() else None


def get(name: str, root: Path | None = None) -> Metric:
    """The metric of that name, or of `file.py:callable`; `root` is the folder that such a file is relative to.

    Without `root` a user's metric can score what it recorded, and record nothing.
    """
    if ":" in name:
        return Mean(name, root)
    metric: Metric = registry.resolve("metrics", name)()
    return metric


def known() -> tuple[str, ...]:
    """The names of all metrics but those in files of the user's."""
    return registry.names("metrics")


def label(name: str) -> str:
    """What a metric is called in measurements: `top1`, or the callable of a user's file."""
    return name.rpartition(":")[2]


def predicted_classes(outputs: Arrays, labels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(images, classes) scores of the first output, and (images,) whether all of an image's are finite.

    Scores that are not finite become 0, so that an order of them exists; such an image is never right.

    Raises:
        DataError: the labels are no class indices.
    """
    if labels.ndim != 1:
        what = f"the labels have shape {list(labels.shape)}, not one class for each image"
        raise DataError(what, "choose a metric that takes such labels")
    first = next(iter(outputs.values()))
    scores = first.reshape(len(first), -1).astype(np.float64)
    finite = np.asarray(np.isfinite(scores).all(axis=1))
    return np.where(finite[:, None], scores, 0.0), finite
