"""Samples: a choice of rows, preprocessed and batched."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeopt.data import Samples, digest_arrays, make_labels
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import DataError, UsageError

IMAGES = np.arange(7 * 4, dtype=np.uint8).reshape(7, 1, 2, 2)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    np.savez(tmp_path / "split.npz", image=IMAGES, labels=np.arange(7) % 3)
    return Samples("npz", tmp_path / "split.npz", ("image",), Preprocess(scale=0.5))


def test_batches_are_preprocessed_in_order_and_the_last_may_be_smaller(samples: Samples) -> None:
    batches = list(samples.batches(3))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert np.array_equal(np.concatenate([batch.inputs["image"] for batch in batches]), IMAGES / 2)
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_mixed_batches_each_span_all_samples(samples: Samples) -> None:
    batches = list(samples.mixed_batches(3))
    assert [batch.indices.tolist() for batch in batches] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [batch.indices.tolist() for batch in samples.spread(3).mixed_batches(2)] == [[0, 6], [3]]
    assert list(samples.spread(0).mixed_batches(2)) == []


def test_chosen_rows_keep_their_labels_and_indices(samples: Samples) -> None:
    chosen = Samples(samples.format, samples.path, samples.inputs, samples.preprocess, rows=(1, 4, 6))
    assert len(chosen) == 3
    labels = chosen.labels()
    assert labels is not None
    assert labels.tolist() == [1, 1, 0]
    (batch,) = chosen.batches(8)
    assert np.array_equal(batch.inputs["image"], IMAGES[[1, 4, 6]] / 2)
    assert batch.indices.tolist() == [1, 4, 6]


def test_a_few_of_a_split_that_is_sorted_by_class_are_of_all_classes(samples: Samples) -> None:
    assert samples.spread(3).rows == (0, 3, 6)
    assert replace(samples, rows=(1, 4, 5, 6)).spread(2).rows == (1, 6)
    assert [len(samples.spread(count)) for count in (1, 6, 7, 99)] == [1, 6, 7, 7]
    assert list(samples.spread(0).batches(2)) == []


def test_samples_cross_to_a_worker_as_they_are(samples: Samples) -> None:
    again = pickle.loads(pickle.dumps(samples))
    assert again == samples
    assert len(list(again.batches(7))) == 1


def test_samples_of_different_sizes_are_named(tmp_path: Path) -> None:
    text = "def split():\n    return [({'image': [[[0] * n]]}, 0) for n in (2, 2, 3)]\n"
    (tmp_path / "own.py").write_text(text)
    samples = Samples("python", tmp_path / "own.py:split", ("image",), Preprocess())
    with pytest.raises(
        DataError, match=r"item 2 of .* has shape \(1, 1, 3\) .* the one before it \(1, 1, 2\)"
    ) as caught:
        list(samples.batches(3))
    assert "`resize:`" in caught.value.hint


def test_an_unknown_format_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown data format `npy`") as caught:
        Samples("npy", tmp_path, ("image",), Preprocess()).open()
    assert caught.value.hint == "did you mean `npz`?"


def test_labels_must_be_integers_in_range() -> None:
    assert make_labels([0, np.uint8(2)], ["a", "b", "c"], str).tolist() == [0, 2]
    assert make_labels([5], None, str).dtype == np.int64
    for labels in ([3], [-1], [1.0], [True], ["a"], [None]):
        with pytest.raises(DataError, match="the label of 0 is"):
            make_labels(labels, ["a", "b", "c"], str)


def test_digests_depend_on_names_dtypes_shapes_and_content_but_not_on_memory_layout() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    digests = {
        digest_arrays({"a": array}),
        digest_arrays({"b": array}),
        digest_arrays({"a": array.astype(np.int8)}),
        digest_arrays({"a": array.reshape(3, 2)}),
        digest_arrays({"a": array + 1}),
    }
    assert len(digests) == 5
    assert digest_arrays({"a": np.asfortranarray(array)}) == digest_arrays({"a": array})
    assert digest_arrays({"a": array, "b": array}) == digest_arrays({"b": array, "a": array})
