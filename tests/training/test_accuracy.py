"""The share of samples that a network names rightly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.training.accuracy import BATCH, measure_top1


def write_samples(folder: Path, labels: np.ndarray | None, count: int) -> Samples:
    logits = np.eye(3, dtype=np.float32)[np.arange(count) % 3]
    np.savez(folder / "x.npz", x=logits, **({} if labels is None else {"labels": labels}))
    return Samples("npz", folder / "x.npz", ("x",), Preprocess())


def test_every_batch_counts_alike(tmp_path: Path) -> None:
    count = BATCH + 2
    labels = np.arange(count) % 3
    labels[-2:] = (labels[-2:] + 1) % 3
    assert measure_top1(nn.Identity(), write_samples(tmp_path, labels, count)) == BATCH / count


def test_without_labels_nothing_is_measured(tmp_path: Path) -> None:
    assert measure_top1(nn.Identity(), write_samples(tmp_path, None, 6)) is None


def test_normalization_and_dropout_are_off(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)).train()
    assert measure_top1(network, write_samples(tmp_path, np.arange(60) % 3, 60)) == 1.0
