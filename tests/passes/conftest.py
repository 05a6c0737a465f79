"""Samples that suit the networks of `tests/networks`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Model


@pytest.fixture
def make_samples(tmp_path: Path) -> Callable[..., Samples]:
    """Makes a split for a model: the brighter an image, the higher its class; with or without labels."""

    def make(model: Model, name: str, count: int = 64, *, labelled: bool = True) -> Samples:
        generator = np.random.default_rng(len(name))
        labels = np.arange(count) % 4
        shape = (count, *model.inputs[0].shape[1:])
        arrays = {
            spec.name: generator.normal(labels[:, None, None, None], 1, shape).astype(np.float32)
            for spec in model.inputs
        }
        np.savez(tmp_path / f"{name}.npz", **arrays | ({"labels": labels} if labelled else {}))
        return Samples("npz", tmp_path / f"{name}.npz", tuple(arrays), Preprocess())

    return make
