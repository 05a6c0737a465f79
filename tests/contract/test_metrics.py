"""What holds of every metric: a new file is tested the moment that it exists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeopt import metrics, registry
from edgeopt.metrics import Arrays, Metric

IMAGES, CLASSES = 60, 8
RANDOM = np.random.default_rng(0)
LABELS = np.arange(IMAGES) % CLASSES

pytestmark = pytest.mark.parametrize("name", registry.names("metrics"))


def make_scores(right: float, random: np.random.Generator) -> NDArray[Any]:
    """Scores that favour the true class on about that share of the images."""
    scores = random.standard_normal((IMAGES, CLASSES)).astype(np.float32)
    scores[np.arange(IMAGES), LABELS] += np.where(random.random(IMAGES) < right, 9.0, -9.0)
    return scores


def record(metric: Metric, scores: NDArray[Any], batch: int = IMAGES) -> Arrays:
    parts = [
        metric.record({"scores": scores[at : at + batch]}, LABELS[at : at + batch]) for at in range(0, IMAGES, batch)
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def classifier(name: str) -> Metric:
    metric = metrics.get(name)
    if not metric.classification:
        pytest.skip("it takes other labels than classes")
    return metric


def test_more_right_answers_score_more_and_all_right_score_100(name: str) -> None:
    metric, ones = classifier(name), np.ones(IMAGES)
    scores = [metric.score(record(metric, make_scores(right, RANDOM)), ones) for right in (0.0, 0.5, 1.0)]
    assert scores[0] < scores[1] < scores[2] == pytest.approx(100.0)


def test_the_batch_does_not_change_what_is_recorded(name: str) -> None:
    metric, scores = classifier(name), make_scores(0.7, np.random.default_rng(1))
    whole, parts = record(metric, scores), record(metric, scores, batch=7)
    assert whole.keys() == parts.keys()
    for key, array in whole.items():
        assert len(array) == IMAGES
        assert np.array_equal(array, parts[key])


def test_an_image_counted_twice_counts_as_two(name: str) -> None:
    metric, random = classifier(name), np.random.default_rng(2)
    kept = record(metric, make_scores(0.6, random))
    drawn = np.sort(random.integers(0, IMAGES, IMAGES))
    weights = np.bincount(drawn, minlength=IMAGES).astype(np.float64)
    again = {key: array[drawn] for key, array in kept.items()}
    assert metric.score(kept, weights) == pytest.approx(metric.score(again, np.ones(IMAGES)))


def test_a_share_is_the_share_of_its_hits(name: str) -> None:
    metric = classifier(name)
    kept = record(metric, make_scores(0.6, np.random.default_rng(3)))
    hits = metric.hits(kept)
    if hits is None:
        pytest.skip("it is no share of images")
    assert metric.score(kept, np.ones(IMAGES)) == pytest.approx(100.0 * hits.mean())


def test_scores_that_are_not_finite_are_never_right(name: str) -> None:
    metric, scores = classifier(name), make_scores(1.0, np.random.default_rng(4))
    for wrong in (np.nan, np.inf, -np.inf):
        broken = scores.copy()
        broken[np.arange(20), LABELS[:20]] = wrong
        assert metric.score(record(metric, broken), np.ones(IMAGES)) < 95.0
