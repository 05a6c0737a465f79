"""How samples are read and prepared: one file per format, and one preprocessing for compile and device.

A format opens a path as a `Dataset`, which streams raw samples: images channels first, (C, H, W), other arrays as they
are. `Samples` adds the choice of rows and the preprocessing, and gives batches that a network can be fed. Both are
cheap to make, hold no arrays, and can be iterated any number of times: memory does not grow with the number of images.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import registry
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import DataError

Arrays = dict[str, NDArray[Any]]


class Dataset(ABC):
    """One opened split: raw samples in a fixed order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def labels(self) -> NDArray[Any] | None:
        """(samples,) class indices, or (samples, …) integers for metrics that take them; None: the split has none."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a sample in a message: its file, or its row in a file."""

    @abstractmethod
    def read(self, indices: Sequence[int] | None = None) -> Iterator[Arrays]:
        """Stream raw samples (input name → array without the batch axis), all of them or those at increasing `indices`.

        Raises:
            DataError: a sample cannot be read; it is named.
        """

    @abstractmethod
    def digests(self) -> Iterator[str]:
        """The SHA-256 of each sample's content, in order: equal samples in two splits have equal digests."""


class DataFormat(ABC):
    """One way in which samples lie on the disk."""

    @abstractmethod
    def open(self, path: Path, inputs: Sequence[str], classes: Sequence[str] | None) -> Dataset:
        """Open a split that has the named inputs; `classes` gives the order of labels where the format has names.

        Raises:
            DataError: the path does not hold such a split, or a label is out of range.
        """

    def files(self, path: Path) -> list[Path]:
        """Every file that the split at `path` consists of: their digests go into the keys of steps."""
        return [path]


@dataclass(frozen=True)
class Batch:
    """`inputs`: name → array, batch axis first; `labels`: (batch, …) or None; `indices`: rows in the dataset."""

    inputs: Arrays
    labels: NDArray[Any] | None
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """A choice of rows of a split, preprocessed. Plain data until it is iterated; crosses to workers as it is."""

    format: str
    path: Path
    inputs: tuple[str, ...]
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    rows: tuple[int, ...] | None = None

    def open(self) -> Dataset:
        data_format: DataFormat = registry.resolve("data", self.format)()
        return data_format.open(self.path, self.inputs, self.classes)

    def __len__(self) -> int:
        return len(self.open()) if self.rows is None else len(self.rows)

    def spread(self, count: int) -> Samples:
        """`count` of these, or all, at even distances: the first ones of a folder are all of one class."""
        rows = range(len(self)) if self.rows is None else self.rows
        places = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
        return replace(self, rows=tuple(rows[place] for place in places))

    def labels(self) -> NDArray[Any] | None:
        labels = self.open().labels()
        return labels if labels is None or self.rows is None else labels[list(self.rows)]

    def batches(self, size: int) -> Iterator[Batch]:
        """Stream preprocessed batches in order; the last one may be smaller."""
        dataset = self.open()
        labels = dataset.labels()
        rows = range(len(dataset)) if self.rows is None else self.rows
        gathered: list[Arrays] = []
        for position, raw in enumerate(dataset.read(self.rows)):
            sample = self.preprocess.apply(raw, dataset.name(rows[position]))
            if gathered:
                _check_alike(sample, gathered[0], dataset.name(rows[position]))
            gathered.append(sample)
            if len(gathered) == size or position + 1 == len(rows):
                indices = np.asarray(rows[position + 1 - len(gathered) : position + 1], dtype=np.int64)
                yield Batch(_stack(gathered), None if labels is None else labels[indices], indices)
                gathered = []

    def mixed_batches(self, size: int) -> Iterator[Batch]:
        """Stream preprocessed batches of at most `size`, each of which spans all of these: a folder is sorted by class.

        Each is a pass over the data of its own, as some formats are read in order only.
        """
        rows = range(len(self)) if self.rows is None else self.rows
        count = math.ceil(len(rows) / size)
        for first in range(count):
            yield from replace(self, rows=tuple(rows[first::count])).batches(size)


def make_labels(
    values: Sequence[Any] | NDArray[Any], classes: Sequence[str] | None, name: Callable[[int], str]
) -> NDArray[Any]:
    """`values` as class indices; `name` says what to call sample `i`. Labels of more axes, such as masks, are left.

    Raises:
        DataError: names the first that is no integer, or out of range.
    """
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return values
    count = None if classes is None else len(classes)
    for index, value in enumerate(values):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise DataError(f"the label of {name(index)} is `{value!r}`, not an integer", "store class indices, from 0")
        if value < 0 or (count is not None and value >= count):
            allowed = "0 or more" if count is None else f"0 to {count - 1}"
            message = f"the label of {name(index)} is {value}, allowed: {allowed}"
            raise DataError(message, "see `classes:` in the recipe")
    return np.asarray(values, dtype=np.int64).reshape(-1)


def digest_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of one sample."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check_alike(sample: Arrays, first: Arrays, name: str) -> None:
    for key, array in sample.items():
        if array.shape != first[key].shape:
            message = f"{name} has shape {array.shape} once it is prepared, the one before it {first[key].shape}"
            raise DataError(message, "bring all samples to one size with `resize:` and `crop:` in `preprocess:`")


def read_spread(samples: Samples, count: int, batch: int) -> tuple[list[Arrays], list[Arrays]]:
    """What a worker runs: `count` samples as they were read, and as whole batches of `batch`, prepared."""
    some = samples.spread(count)
    raw = list(some.open().read(some.rows))
    return raw, [one.inputs for one in some.batches(batch) if len(one.indices) == batch]


def _stack(samples: list[Arrays]) -> Arrays:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
