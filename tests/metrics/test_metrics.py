from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeopt import metrics
from edgeopt.errors import DataError
from edgeopt.metrics import Metric

LABELS = np.array([0, 1, 2, 3])


def score(metric: Metric, scores: np.ndarray, labels: np.ndarray = LABELS) -> float:
    return metric.score(metric.record({"scores": scores}, labels), np.ones(len(labels)))


def test_top5_takes_the_five_best_and_gives_nothing_for_equal_scores() -> None:
    scores = np.tile(np.arange(8.0), (4, 1))  # class 3 is the fifth best
    assert score(metrics.get("top5"), scores) == 25.0
    assert score(metrics.get("top5"), np.zeros((4, 8))) == 0.0
    with pytest.raises(DataError, match="`top5` says nothing of a network with 5 classes"):
        score(metrics.get("top5"), np.zeros((4, 5)))


def test_macro_f1_is_that_of_the_textbook_and_counts_rare_classes_fully() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2])
    said = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 2])
    scores = np.eye(3)[said]
    f1 = [2 * 8 / (8 + 9), 0.0, 1.0]  # by class: right, false alarms and misses counted by hand
    assert score(metrics.get("macro_f1"), scores, labels) == pytest.approx(100 * sum(f1) / 3)
    assert score(metrics.get("top1"), scores, labels) == 90.0


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"the labels have shape \[4, 2\], not one class for each image"):
        score(metrics.get("top1"), np.zeros((4, 3)), np.zeros((4, 2), np.int64))


OWN = """
import numpy as np
from shares import half

def iou(outputs, labels):
    said = outputs["mask"] > 0
    return (said & (labels > 0)).sum((1, 2)) / np.maximum(1, (said | (labels > 0)).sum((1, 2)))

def flag(outputs, labels):
    return [True] * half(len(labels)) + [False] * (len(labels) - half(len(labels)))

def late(outputs, labels):
    from shares import half
    return np.full(len(labels), 0.25)

def total(outputs, labels):
    return 1.0

def percent(outputs, labels):
    return np.full(len(labels), 50.0)

def broken(outputs, labels):
    return outputs["no such"]

def nothing(outputs, labels):
    return np.full(len(labels), np.nan)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "shares.py").write_text("def half(count):\n    return count // 2\n")
    return tmp_path


def test_a_users_function_is_a_mean_over_images_of_any_labels(folder: Path) -> None:
    masks = np.zeros((4, 2, 2), np.int64)
    masks[:, 0] = 1
    said = {"mask": np.where(masks > 0, 1.0, -1.0)}
    said["mask"][0, 1] = 1.0  # all of the first image: half of it is right
    own = metrics.get("own.py:iou", folder)
    assert not own.classification
    kept = own.record(said, masks)
    assert own.score(kept, np.ones(4)) == pytest.approx(87.5)
    assert own.hits(kept) is None
    assert metrics.get("own.py:iou").score(kept, np.array([4.0, 0, 0, 0])) == 50.0, "scoring needs no code of the user"


def test_a_users_function_that_says_yes_or_no_is_a_share(folder: Path) -> None:
    own = metrics.get("own.py:flag", folder)
    assert own.hits(own.record({"scores": np.zeros((4, 2))}, LABELS)).tolist() == [True, True, False, False]  # type: ignore[union-attr]


def test_an_image_without_finite_outputs_is_wrong_whatever_the_function_says(folder: Path) -> None:
    scores = np.array([[0.0, np.nan], [0, 0], [0, 0], [np.inf, 0]])
    assert score(metrics.get("own.py:late", folder), scores) == 12.5


def test_files_beside_it_can_be_imported_while_it_is_called(folder: Path) -> None:
    assert score(metrics.get("own.py:late", folder), np.zeros((4, 2))) == 25.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("total", r"`own.py:total` returned shape \[\] of `float64` for 4 images"),
        ("percent", r"`own.py:percent` returned 50, allowed: 0 to 1"),
        ("nothing", r"`own.py:nothing` returned nan, allowed: 0 to 1"),
        ("broken", r"`own.py:broken` raised KeyError: 'no such' \(own.py, line 23\)"),
        ("absent", r"has no callable `absent`"),
    ],
)
def test_what_a_users_function_does_wrong_is_named(name: str, said: str, folder: Path) -> None:
    with pytest.raises(DataError, match=said):
        metrics.get(f"own.py:{name}", folder).record({"scores": np.zeros((4, 2))}, LABELS)
