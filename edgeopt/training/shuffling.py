"""Prepared training samples that can be read in any order, however many they are.

Samples stream in order from their files, and training wants them shuffled anew each epoch. So they are prepared once,
into a nameless file that is mapped into memory: the system keeps what fits, reads the rest again, and frees it after.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeopt import files
from edgeopt.data import Samples

CHUNK = 64


class ShuffledSamples:
    """Samples by number, in any order; `labels` has shape (samples,), or is None."""

    def __init__(self, records: NDArray[np.void], labels: torch.Tensor | None) -> None:
        self._records = records
        self.labels = labels

    def __len__(self) -> int:
        return len(self._records)

    def take(self, indices: torch.Tensor) -> list[torch.Tensor]:
        """The inputs of a batch, in the order in which the network takes them."""
        records = self._records[indices.numpy()]
        return [torch.from_numpy(np.ascontiguousarray(records[name])) for name in records.dtype.names or ()]


@contextlib.contextmanager
def open_shuffled(
    samples: Samples, folder: Path, progress: Callable[[str, float | None], None]
) -> Iterator[ShuffledSamples]:
    """Prepare `samples` into a nameless file in `folder`, which goes when the context ends."""
    labels, count = samples.labels(), len(samples)
    dtype = _record_dtype(samples)
    with files.spill(folder, _encode(samples, dtype, count, progress)) as stream:
        records: NDArray[np.void] = np.memmap(stream, dtype=dtype, mode="r", shape=(count,))
        yield ShuffledSamples(records, None if labels is None else torch.tensor(labels))


def _record_dtype(samples: Samples) -> np.dtype[np.void]:
    """One record holds all the inputs of one sample."""
    first = next(samples.spread(1).batches(1)).inputs
    return np.dtype([(name, first[name].dtype, first[name].shape[1:]) for name in samples.inputs])


def _encode(
    samples: Samples, dtype: np.dtype[np.void], count: int, progress: Callable[[str, float | None], None]
) -> Iterator[bytes]:
    done = 0
    for batch in samples.batches(CHUNK):
        records = np.empty(len(batch.indices), dtype)
        for name in samples.inputs:
            records[name] = batch.inputs[name]
        done += len(records)
        progress(f"preparing {count} training samples", done / count)
        yield records.tobytes()
