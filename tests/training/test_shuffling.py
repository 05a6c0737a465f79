"""Samples come back in any order as they were prepared, and nothing of them stays."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeopt import files
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import MissingError
from edgeopt.training.shuffling import CHUNK, open_shuffled
from edgeopt.workers import ignore_progress

COUNT = 2 * CHUNK + 5


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (COUNT, 3, 4, 5)).astype(np.uint8)
    angle = generator.normal(0, 1, (COUNT, 2)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", image=image, angle=angle, labels=np.arange(COUNT) % 7)
    return Samples("npz", tmp_path / "samples.npz", ("image", "angle"), Preprocess(scale=0.5))


def test_any_order_gives_what_the_stream_gives(samples: Samples, tmp_path: Path) -> None:
    streamed = next(samples.batches(COUNT))
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    with open_shuffled(samples, tmp_path / "work", ignore_progress) as shuffled:
        image, angle = shuffled.take(order)
        assert len(shuffled) == COUNT
        assert shuffled.labels is not None
        np.testing.assert_array_equal(shuffled.labels[order], np.arange(COUNT)[order.numpy()] % 7)
    np.testing.assert_array_equal(image, streamed.inputs["image"][order.numpy()])
    np.testing.assert_array_equal(angle, streamed.inputs["angle"][order.numpy()])


def test_chosen_rows_keep_their_labels(samples: Samples, tmp_path: Path) -> None:
    with open_shuffled(replace(samples, rows=(0, 3, 6)), tmp_path, ignore_progress) as shuffled:
        assert len(shuffled) == 3
        assert shuffled.labels is not None
        assert shuffled.labels.tolist() == [0, 3, 6]


def test_batches_may_be_changed_by_whoever_takes_them(samples: Samples, tmp_path: Path) -> None:
    with open_shuffled(samples, tmp_path, ignore_progress) as shuffled:
        first = shuffled.take(torch.tensor([1]))[0]
        kept = first.clone()
        first += 1
        assert torch.equal(shuffled.take(torch.tensor([1]))[0], kept)


def test_nothing_has_a_name_while_it_is_open_nor_after(samples: Samples, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    with open_shuffled(samples, folder, ignore_progress):
        assert list(folder.iterdir()) == []
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_an_error_with_advice(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def fill(operation: str, _: Path) -> None:
        calls.append(operation)
        if calls.count("write") == 2:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(files, "observe", fill)
    with pytest.raises(MissingError, match="no space left"), open_shuffled(samples, tmp_path / "w", ignore_progress):
        pytest.fail("it was opened")
    assert list((tmp_path / "w").iterdir()) == []


def test_progress_ends_at_one(samples: Samples, tmp_path: Path) -> None:
    told: list[float | None] = []
    with open_shuffled(samples, tmp_path, lambda _, fraction: told.append(fraction)):
        assert told == sorted(told, key=lambda fraction: fraction or 0)
        assert told[-1] == 1.0
