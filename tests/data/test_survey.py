"""`survey_split`: what is counted and seen is what the format itself reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.data.survey import SEEN, survey_split
from edgeopt.errors import DataError


def test_a_split_is_counted_and_some_of_it_is_seen(tmp_path: Path) -> None:
    images = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1).repeat(6, axis=3)
    np.savez(tmp_path / "split.npz", image=images, labels=np.arange(100) % 7)
    found = survey_split(Samples("npz", tmp_path / "split.npz", ("image",), Preprocess(scale=0.5)))
    assert (found.count, found.labels, found.dtype) == (100, 6, "uint8")
    assert (found.low, found.high) == (0.0, 99.0)  # the first and the last, and not the scaled ones
    assert found.raw == found.prepared == {"image": ((1, 1, 6),)}


def test_labels_that_are_missing_or_masks_are_told_apart(tmp_path: Path) -> None:
    images = np.zeros((3, 1, 2, 2), np.float32)
    np.savez(tmp_path / "none.npz", image=images)
    np.savez(tmp_path / "masks.npz", image=images, labels=np.ones((3, 2, 2), np.int64))
    found = [
        survey_split(Samples("npz", tmp_path / f"{name}.npz", ("image",), Preprocess())) for name in ("none", "masks")
    ]
    assert [one.labels for one in found] == [None, -1]


def test_every_shape_is_told_before_and_after_preprocessing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number, size in enumerate([(8, 6), (8, 6), (5, 9)]):
        Image.new("RGB", size).save(tmp_path / "a" / f"{number}.png")
    found = survey_split(Samples("image_folder", tmp_path, ("image",), Preprocess(crop=4)))
    assert found.raw == {"image": ((3, 6, 8), (3, 9, 5))}
    assert found.prepared == {"image": ((3, 4, 4),)}
    assert found.count < SEEN


def test_a_sample_that_does_not_suit_the_preprocessing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "a/0.png")
    with pytest.raises(DataError, match=r"a/0\.png` is 6x8 pixels, smaller than the crop"):
        survey_split(Samples("image_folder", tmp_path, ("image",), Preprocess(crop=7)))
