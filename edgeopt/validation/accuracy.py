"""How right an artifact is, and what it lost against the original on the same images: arithmetic on predictions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeopt import metrics
from edgeopt.errors import DataError
from edgeopt.metrics import Weights
from edgeopt.validation import Measurement, statistics
from edgeopt.validation.predictions import Predictions
from edgeopt.validation.resampling import bootstrap_bounds

Measure = Callable[..., Measurement]

#: what is measured against the original → the name of the same against the baseline
AGAINST_BASELINE = {
    "accuracy.drop_pp": "accuracy.drop_baseline_pp",
    "accuracy.agreement": "accuracy.agreement_baseline",
}


def measure_accuracy(
    candidate: Predictions,
    original: Predictions | None,
    confidence: float,
    *,
    metric: str = "top1",
    baseline: Predictions | None = None,
    floors: Mapping[str, tuple[int, float]] | None = None,
    raw: str | None = None,
) -> list[Measurement]:
    """All that predictions say of one side; without `original` (for the original itself) nothing is paired.

    `accuracy.<metric>`, of each metric recorded, and `accuracy.agreement` are in percent, with two-sided Wilson
    intervals if they are shares. `accuracy.drop_pp` is that of `metric`, in points of it, with one-sided bounds:
    Tango's for a share, else those of a paired bootstrap over images. `accuracy.nonfinite` counts the images whose
    outputs are of no use: not finite, or all of them where different images got the very same. `floors` (class →
    index and least share) asks for `accuracy.class.<name>`, the percentage of that class's images that are right, with
    exact one-sided bounds that hold for all of them together (Holm). All at `confidence`. `baseline` asks for
    `accuracy.drop_baseline_pp` and `accuracy.agreement_baseline`: the same against another side.

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
    labels = dict.fromkeys([metrics.label(metric), *candidate.records])
    found = [_figure(label, candidate, confidence, measure) for label in labels]
    found.append(_nonfinite(candidate, measure))
    found += _classes(candidate, floors or {}, confidence, measure)
    if original is not None:
        found += _paired(candidate, original, metric, confidence, measure)
    if baseline is not None:
        paired = _paired(candidate, baseline, metric, confidence, measure)
        found += [
            one.model_copy(update={"metric": AGAINST_BASELINE[one.metric]})
            for one in paired
            if one.metric in AGAINST_BASELINE
        ]
    return found


def check_paired(sides: Sequence[Predictions]) -> None:
    """See that all sides were run on the same images.

    Raises:
        DataError: they were not.
    """
    for side in sides[1:]:
        if not (np.array_equal(side.indices, sides[0].indices) and np.array_equal(side.labels, sides[0].labels)):
            raise DataError("two sides were not run on the same images", "run again with `--fresh`")


def score(label: str, predictions: Predictions, weights: Weights | None = None) -> float:
    """A recorded metric in percent, each image counted once or `weights` times."""
    weights = np.ones(predictions.images) if weights is None else weights
    return _metric(label).score(predictions.records[label], weights)


def score_interval(label: str, predictions: Predictions, confidence: float) -> statistics.Bounds:
    """The two-sided interval of a recorded metric in percent: Wilson's for a share, else that of a bootstrap."""
    hits = _hits(label, predictions)
    if hits is None:
        draw = functools.partial(score, label, predictions)
        return bootstrap_bounds(draw, predictions.images, 0.5 + confidence / 2)
    low, high = statistics.wilson_interval(int(np.count_nonzero(hits)), len(hits), confidence)
    return 100.0 * low, 100.0 * high


def _metric(label: str) -> metrics.Metric:
    """The metric that recorded under `label`: one that is in no registry is a user's."""
    return metrics.get(label) if label in metrics.known() else metrics.Mean(label)


def _absence(label: str, predictions: Predictions) -> str:
    return f"`{label}` was not recorded" if predictions.records else "the split has no labels"


def _hits(label: str, predictions: Predictions) -> NDArray[np.bool_] | None:
    return _metric(label).hits(predictions.records[label])


def _figure(label: str, predictions: Predictions, confidence: float, measure: Measure) -> Measurement:
    measure = functools.partial(measure, metric=f"accuracy.{label}", unit="%")
    if label not in predictions.records:
        return measure(value=None, note=_absence(label, predictions))
    hits = _hits(label, predictions)
    if hits is None:
        return measure(value=score(label, predictions), samples=predictions.images)
    return _share(hits, confidence, measure)


def _classes(
    predictions: Predictions, floors: Mapping[str, tuple[int, float]], confidence: float, measure: Measure
) -> list[Measurement]:
    shown = {name: predictions.labels == index for name, (index, _) in floors.items()}
    right = [int(np.count_nonzero(predictions.classes[shown[name]] == index)) for name, (index, _) in floors.items()]
    totals = [int(np.count_nonzero(rows)) for rows in shown.values()]
    bounds = statistics.floor_bounds(right, totals, [floor for _, floor in floors.values()], confidence)
    found = []
    for name, hits, total, (low, high) in zip(floors, right, totals, bounds, strict=True):
        one = functools.partial(measure, metric=f"accuracy.class.{name}", unit="%", samples=total)
        if total:
            found.append(one(value=100.0 * hits / total, low=100.0 * low, high=100.0 * high))
        else:
            found.append(one(value=None, note=f"the split has no image of class `{name}`"))
    return found


def _nonfinite(predictions: Predictions, measure: Measure) -> Measurement:
    images, count, note = predictions.images, predictions.nonfinite, ""
    if count:
        note = f"the outputs of {count} of {images} images are not finite"
    elif predictions.constant and not predictions.simulated:
        count, note = images, f"all {images} images have the very same outputs"
    return measure(metric="accuracy.nonfinite", unit="images", value=float(count), samples=images, note=note)


def _paired(
    candidate: Predictions, original: Predictions, metric: str, confidence: float, measure: Measure
) -> list[Measurement]:
    check_paired([original, candidate])
    measure = functools.partial(measure, baseline=original.subject)
    found = _drop(candidate, original, metrics.label(metric), confidence, measure)
    if len(original.classes):
        same = functools.partial(measure, metric="accuracy.agreement", unit="%")
        found.append(_share(candidate.classes == original.classes, confidence, same))
    return found


def _drop(
    candidate: Predictions, original: Predictions, label: str, confidence: float, measure: Measure
) -> list[Measurement]:
    one = functools.partial(measure, metric="accuracy.drop_pp", unit="pp")
    if label not in candidate.records or label not in original.records:
        return [one(value=None, note=_absence(label, candidate))]
    one = functools.partial(one, samples=original.images)
    was_right, is_right = _hits(label, original), _hits(label, candidate)
    if was_right is None or is_right is None:
        return [_resampled_drop(candidate, original, label, confidence, one)]
    lost, gained = int(np.sum(was_right & ~is_right)), int(np.sum(~was_right & is_right))
    low, high = statistics.tango_bounds(lost, gained, len(was_right), confidence)
    drop = one(value=100.0 * (lost - gained) / len(was_right), low=100.0 * low, high=100.0 * high)
    # Only told, never judged: that a drop is not significant does not make it small.
    p_value = statistics.mcnemar_p_value(lost, gained)
    return [drop, measure(metric="accuracy.mcnemar_p", unit="1", value=p_value, samples=lost + gained)]


def _resampled_drop(
    candidate: Predictions, original: Predictions, label: str, confidence: float, measure: Measure
) -> Measurement:
    def drop(weights: Weights) -> float:
        return score(label, original, weights) - score(label, candidate, weights)

    low, high = bootstrap_bounds(drop, original.images, confidence)
    if "top1" in original.records and "top1" in candidate.records and _metric(label).classification:
        # No resampling shows images that were not seen: where hardly any answer changed, the lost ones bound it better.
        low, high = _widened(low, high, candidate, original, confidence)
    bounds = {"low": low if np.isfinite(low) else None, "high": high if np.isfinite(high) else None}
    value = drop(np.ones(original.images))
    return measure(value=value if np.isfinite(value) else None, **bounds)


def _widened(
    low: float, high: float, candidate: Predictions, original: Predictions, confidence: float
) -> statistics.Bounds:
    """The bounds, or those of the drop in top-1 where these are wider, in points."""
    was_right, is_right = original.records["top1"]["hit"], candidate.records["top1"]["hit"]
    lost, gained = int(np.sum(was_right & ~is_right)), int(np.sum(~was_right & is_right))
    least, most = statistics.tango_bounds(lost, gained, original.images, confidence)
    return min(low, 100.0 * least), max(high, 100.0 * most)


def _share(hits: NDArray[np.bool_], confidence: float, measure: Measure) -> Measurement:
    """The percentage of `hits` that are true, with a two-sided Wilson interval."""
    count, total = int(np.count_nonzero(hits)), len(hits)
    low, high = statistics.wilson_interval(count, total, confidence)
    return measure(value=100.0 * count / total, low=100.0 * low, high=100.0 * high, samples=total)
