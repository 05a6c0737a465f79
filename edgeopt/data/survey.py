"""What a split holds, looked at before there is a recipe: how many samples, which labels, of what kind.

Opened by the format's own code, so that what is counted here is what a compile will read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeopt.data import Arrays, Samples

#: samples that are read, spread over the split
SEEN = 16

Shapes = dict[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        count: samples.
        labels: the largest class index, -1 where labels are something else; None: there are none.
        dtype: of the raw values.
        low, high: the smallest and largest raw value that was seen.
        raw, prepared: input name → the shapes that were seen, each once, before and after preprocessing.
    """

    count: int
    labels: int | None
    dtype: str
    low: float
    high: float
    raw: Shapes
    prepared: Shapes


def survey_split(samples: Samples) -> Survey:
    """What a worker runs: count a split, and read a few of its samples.

    Raises:
        DataError: it cannot be opened, a sample cannot be read, or it does not suit the preprocessing.
    """
    dataset, few = samples.open(), samples.spread(SEEN)
    labels = dataset.labels()
    largest = None if labels is None else int(labels.max(initial=0)) if labels.ndim == 1 else -1
    raw = list(dataset.read(few.rows))
    prepared = [samples.preprocess.apply(one, dataset.name(row)) for one, row in zip(raw, few.rows or (), strict=True)]
    arrays = [array for one in raw for array in one.values() if array.size]
    return Survey(
        count=len(dataset),
        labels=largest,
        dtype=", ".join(sorted({str(array.dtype) for array in arrays})),
        low=min((float(np.min(array)) for array in arrays), default=0.0),
        high=max((float(np.max(array)) for array in arrays), default=0.0),
        raw=_shapes(raw),
        prepared=_shapes(prepared),
    )


def _shapes(samples: list[Arrays]) -> Shapes:
    names = samples[0] if samples else ()
    return {name: tuple(sorted({one[name].shape for one in samples})) for name in names}
