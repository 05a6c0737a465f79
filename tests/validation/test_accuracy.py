from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgeopt.errors import DataError
from edgeopt.validation import Measurement, statistics
from edgeopt.validation.accuracy import measure_accuracy
from edgeopt.validation.predictions import NO_CLASS, Predictions

IMAGES = 720
LABELS = np.arange(IMAGES) % 10


def said(wrong: range = range(0), nonfinite: range = range(0), **changes: object) -> Predictions:
    """Predictions that are right but for the named images."""
    classes = LABELS.copy()
    classes[list(wrong)] = (classes[list(wrong)] + 1) % 10
    classes[list(nonfinite)] = NO_CLASS
    labels = np.asarray(changes.get("labels", LABELS))
    plain = Predictions(
        indices=np.arange(IMAGES),
        labels=LABELS,
        classes=classes,
        confidences=np.ones(IMAGES, np.float32),
        finite=classes != NO_CLASS,
        records={"top1": {"hit": classes == labels}} if len(labels) else {},
        constant=False,
        subject="candidate",
        environment="machine",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def measured(candidate: Predictions, original: Predictions | None = None, **options: object) -> dict[str, Measurement]:
    found = measure_accuracy(candidate, original, 0.95, **options)  # type: ignore[arg-type]
    assert len({one.metric for one in found}) == len(found)
    return {one.metric: one for one in found}


def test_the_original_has_its_accuracy_alone() -> None:
    found = measured(said(range(9)), raw="samples/accuracy.npz")
    assert set(found) == {"accuracy.top1", "accuracy.nonfinite"}
    top1 = found["accuracy.top1"]
    assert (top1.value, top1.unit, top1.samples) == (pytest.approx(98.75), "%", IMAGES)
    assert (top1.low, top1.high) == pytest.approx((97.643, 99.342), abs=0.01)
    assert (top1.subject, top1.environment, top1.raw) == ("candidate", "machine", "samples/accuracy.npz")


def test_a_drop_is_paired_on_the_same_images() -> None:
    original, candidate = said(range(0, 7), subject="original"), said(range(4, 14))
    drop = measured(candidate, original)["accuracy.drop_pp"]
    assert drop.value == pytest.approx(100 * (7 - 4) / IMAGES)
    low, high = statistics.tango_bounds(7, 4, IMAGES, 0.95)
    assert (drop.low, drop.high) == (100 * low, 100 * high)
    assert (drop.unit, drop.samples, drop.confidence) == ("pp", IMAGES, 0.95)
    assert (drop.subject, drop.baseline) == ("candidate", "original")


def test_agreement_counts_equal_answers_right_or_wrong() -> None:
    found = measured(said(range(0, 14)), said(range(4, 18)))
    assert found["accuracy.agreement"].value == pytest.approx(100 * (IMAGES - 8) / IMAGES)
    assert found["accuracy.drop_pp"].value == 0
    assert found["accuracy.mcnemar_p"].value == 1.0


def test_mcnemar_is_told_beside_the_drop() -> None:
    p_value = measured(said(range(0, 12)), said(range(10, 13)))["accuracy.mcnemar_p"].value
    assert p_value == pytest.approx(stats.binomtest(1, 11).pvalue)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_the_drop_is_the_difference_of_the_two_accuracies(both: int, lost: int, gained: int) -> None:
    original = said(range(0, both + gained))
    candidate = said(range(gained, gained + both + lost))
    found = measured(candidate, original)
    drop, ours, theirs = found["accuracy.drop_pp"], found["accuracy.top1"], measured(original)["accuracy.top1"]
    assert None not in (drop.value, drop.low, drop.high, ours.value, theirs.value)
    assert drop.value == pytest.approx(theirs.value - ours.value)  # type: ignore[operator]
    assert drop.low <= drop.value <= drop.high  # type: ignore[operator]


def test_images_whose_scores_are_not_finite_are_counted_and_wrong() -> None:
    found = measured(said(nonfinite=range(3)), said())
    assert found["accuracy.nonfinite"].value == 3
    assert found["accuracy.nonfinite"].note == "the outputs of 3 of 720 images are not finite"
    assert found["accuracy.top1"].value == pytest.approx(100 * (IMAGES - 3) / IMAGES)


def test_finite_scores_are_said_to_be_finite() -> None:
    assert measured(said())["accuracy.nonfinite"].value == 0


def test_the_same_scores_for_all_images_are_of_no_use() -> None:
    dead = measured(said(constant=True), said())["accuracy.nonfinite"]
    assert dead.value == IMAGES
    assert dead.note == "all 720 images have the very same outputs"


def test_a_simulation_may_give_the_same_scores_and_marks_all_it_measures() -> None:
    found = measured(said(constant=True, simulated=True), said())
    assert found["accuracy.nonfinite"].value == 0
    assert all(one.simulated for one in found.values())


def test_a_simulated_original_proves_nothing_either() -> None:
    assert measured(said(), said(simulated=True))["accuracy.drop_pp"].simulated


def test_without_labels_only_agreement_is_measured() -> None:
    none = np.empty(0, np.int64)
    found = measured(said(range(9), labels=none), said(labels=none))
    assert found["accuracy.top1"].value is None
    assert found["accuracy.drop_pp"].value is None
    assert found["accuracy.drop_pp"].note == "the split has no labels"
    assert found["accuracy.agreement"].value == pytest.approx(98.75)


def test_a_class_has_bounds_that_hold_for_all_asked_classes_together() -> None:
    eights = said(range(8, 80, 10))
    found = measured(eights, floors={"eight": (8, 0.8), "nine": (9, 0.9)})
    eight, nine = found["accuracy.class.eight"], found["accuracy.class.nine"]
    assert (eight.value, eight.samples, eight.unit) == (pytest.approx(100 * 64 / 72), 72, "%")
    # 72 of 72 is the surer one, so it has the stricter level; Holm then gives the whole error to the other.
    expected = stats.binomtest(64, 72, alternative="greater").proportion_ci(0.95).low
    assert eight.low == pytest.approx(100 * expected, abs=1e-6)
    assert (nine.value, nine.high) == (100.0, 100.0)
    assert eight.confidence == 0.95


def test_a_class_without_images_is_not_measured() -> None:
    found = measured(said(), floors={"eleven": (11, 0.5)})["accuracy.class.eleven"]
    assert found.value is None
    assert found.note == "the split has no image of class `eleven`"


@pytest.mark.parametrize("change", [{"indices": np.arange(IMAGES)[::-1]}, {"labels": np.zeros(IMAGES, np.int64)}])
def test_sides_that_saw_different_images_are_never_paired(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not run on the same images"):
        measure_accuracy(said(**change), said(), 0.95)


def test_a_resampled_drop_of_equal_sides_is_not_known_to_be_nothing() -> None:
    kept = {"true": LABELS, "said": LABELS}
    same = said(records={"top1": {"hit": np.ones(IMAGES, bool)}, "macro_f1": kept})
    drop = measured(same, same, metric="macro_f1")["accuracy.drop_pp"]
    low, high = statistics.tango_bounds(0, 0, IMAGES, 0.95)
    assert drop.value == 0
    assert (drop.low, drop.high) == (100 * low, 100 * high)
    assert drop.high is not None
    assert drop.high > 0
