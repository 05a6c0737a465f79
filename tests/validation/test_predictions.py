from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from edgeopt.validation.predictions import NO_CLASS, Predictions, pack_predictions, unpack_predictions


def said(*classes: int) -> Predictions:
    images = np.arange(len(classes))
    return Predictions(
        indices=images, labels=images % 3, classes=np.array(classes), confidences=np.ones(len(classes), np.float32),
        finite=np.array(classes) != NO_CLASS, constant=False, subject="subject", environment="machine",
        records={"top1": {"hit": np.array(classes) == images % 3}, "iou": {"a/b": np.ones((len(classes), 2))}},
    )  # fmt: skip


def same(first: Predictions, second: Predictions) -> bool:
    plain = [field.name for field in fields(first) if field.name != "records"]
    return (
        all(np.array_equal(getattr(first, name), getattr(second, name)) for name in plain)
        and first.records.keys() == second.records.keys()
        and all(
            np.array_equal(array, second.records[metric][name])
            for metric, kept in first.records.items() for name, array in kept.items()
        )
    )  # fmt: skip


def test_every_side_comes_back_as_it_was_packed_and_equal_ones_give_equal_bytes() -> None:
    sides = {"original": said(0, 1, 2, NO_CLASS), "a/record/b": replace(said(0, 2, 2, 1), constant=True)}
    data = pack_predictions(sides)
    read = unpack_predictions(data)
    assert list(read) == list(sides)
    assert all(same(read[name], one) for name, one in sides.items())
    assert read["a/record/b"].constant is True
    assert (read["original"].nonfinite, read["original"].images) == (1, 4)
    assert pack_predictions(read) == data


def test_bytes_that_are_no_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"magic string|no predictions|pickled"):
        unpack_predictions(b"no npz")
