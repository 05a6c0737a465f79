"""How right an artifact is, and what it lost against the original on the same images: arithmetic on predictions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.validation import Measurement, statistics
from edgeopt.validation.predictions import Predictions, load_predictions, pack_arrays, run_predictions

__all__ = ["Predictions", "load_predictions", "measure_accuracy", "pack_samples", "run_predictions"]

Measure = Callable[..., Measurement]


def measure_accuracy(
    candidate: Predictions,
    original: Predictions | None,
    confidence: float,
    *,
    classes: Mapping[str, int] | None = None,
    raw: str | None = None,
) -> list[Measurement]:
    """All that predictions say of one side; without `original` (for the original itself) nothing is paired.

    `accuracy.top1` and `accuracy.agreement` are in percent with two-sided Wilson intervals, `accuracy.drop_pp` is in
    percentage points with Tango's one-sided bounds, each at `confidence`. `accuracy.nonfinite` counts the images whose
    scores are of no use: not finite, or all of them where different images got the very same scores. `classes` (name →
    index) asks for `accuracy.class.<name>`, the percentage of that class's images that are right, with exact one-sided
    bounds that hold for all of them together (Bonferroni).

    Raises:
        DataError: the two did not see the same images.
    """
    measure = functools.partial(
        Measurement,
        confidence=confidence,
        subject=candidate.subject,
        raw=raw,
        environment=candidate.environment,
        simulated=candidate.simulated or (original is not None and original.simulated),
    )
    found = [_top1(candidate, confidence, measure), _nonfinite(candidate, measure)]
    floors = (classes or {}).items()
    found += [_class(candidate, name, index, len(floors), confidence, measure) for name, index in floors]
    return found if original is None else found + _paired(candidate, original, confidence, measure)


def pack_samples(sides: Mapping[str, Predictions]) -> bytes:
    """The raw file of a comparison: what every side said of the same images, by their index in the dataset.

    Raises:
        DataError: the sides did not see the same images.
    """
    first = next(iter(sides.values()))
    arrays: dict[str, NDArray[np.generic]] = {"indices": first.indices, "labels": first.labels}
    for side, predictions in sides.items():
        _check_paired(predictions, first)
        arrays |= {f"{side}.classes": predictions.classes, f"{side}.confidences": predictions.confidences}
    return pack_arrays(arrays)


def _top1(predictions: Predictions, confidence: float, measure: Measure) -> Measurement:
    if not len(predictions.labels):
        return measure(metric="accuracy.top1", unit="%", value=None, note="the split has no labels")
    return _share("accuracy.top1", predictions.classes == predictions.labels, confidence, measure)


def _class(
    predictions: Predictions, name: str, index: int, together: int, confidence: float, measure: Measure
) -> Measurement:
    hits = predictions.classes[predictions.labels == index] == index
    measure = functools.partial(measure, metric=f"accuracy.class.{name}", unit="%", samples=len(hits))
    if not len(hits):
        return measure(value=None, note=f"the split has no image of class `{name}`")
    right = int(np.count_nonzero(hits))
    low, high = statistics.exact_bounds(right, len(hits), 1.0 - (1.0 - confidence) / together)
    return measure(value=100.0 * right / len(hits), low=100.0 * low, high=100.0 * high)


def _nonfinite(predictions: Predictions, measure: Measure) -> Measurement:
    images, count, note = len(predictions.classes), predictions.nonfinite, ""
    if count:
        note = f"the scores of {count} of {images} images are not finite"
    elif predictions.constant and not predictions.simulated:
        count, note = images, f"all {images} images have the very same scores"
    return measure(metric="accuracy.nonfinite", unit="images", value=float(count), samples=images, note=note)


def _paired(candidate: Predictions, original: Predictions, confidence: float, measure: Measure) -> list[Measurement]:
    _check_paired(candidate, original)
    measure = functools.partial(measure, baseline=original.subject)
    agreement = _share("accuracy.agreement", candidate.classes == original.classes, confidence, measure)
    if not len(original.labels):
        return [measure(metric="accuracy.drop_pp", unit="pp", value=None, note="the split has no labels"), agreement]
    was_right, is_right = original.classes == original.labels, candidate.classes == candidate.labels
    lost, gained = int(np.sum(was_right & ~is_right)), int(np.sum(~was_right & is_right))
    low, high = statistics.tango_bounds(lost, gained, len(was_right), confidence)
    drop = measure(
        metric="accuracy.drop_pp",
        unit="pp",
        value=100.0 * (lost - gained) / len(was_right),
        low=100.0 * low,
        high=100.0 * high,
        samples=len(was_right),
    )
    # Only told, never judged: that a drop is not significant does not make it small.
    p_value = statistics.mcnemar_p_value(lost, gained)
    return [drop, agreement, measure(metric="accuracy.mcnemar_p", unit="1", value=p_value, samples=lost + gained)]


def _share(metric: str, hits: NDArray[np.bool_], confidence: float, measure: Measure) -> Measurement:
    """The percentage of `hits` that are true, with a two-sided Wilson interval."""
    count, total = int(np.count_nonzero(hits)), len(hits)
    low, high = statistics.wilson_interval(count, total, confidence)
    return measure(
        metric=metric, unit="%", value=100.0 * count / total, low=100.0 * low, high=100.0 * high, samples=total
    )


def _check_paired(candidate: Predictions, original: Predictions) -> None:
    same = np.array_equal(candidate.indices, original.indices) and np.array_equal(candidate.labels, original.labels)
    if not same:
        raise DataError("two sides were not run on the same images", "run again with `--fresh`")
