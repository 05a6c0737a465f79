"""The false alarms that are promised, under no drift and for many windows, and how soon a shift is seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import stats

from edgeopt.bundle.fingerprint import BINS, Reference, signals, summarize
from edgeopt.device.drift import WINDOW, Drift, chi_square_point, chi_square_tail, stability_index, threshold

Floats = NDArray[np.float64]


def reference_of(values: Floats) -> Reference:
    found = summarize(values)
    assert found is not None
    return found


def false_alarms(usual: int, window: int, level: float, references: int, windows: int) -> Floats:
    """The share of windows that alert, for each of several references; there is no drift.

    A reference of M values cuts the line into bins whose true probabilities are those of its spacings, which are
    Dirichlet whatever the distribution, so no values need to be drawn.
    """
    random = np.random.default_rng(0)
    counts = np.full(BINS, usual // BINS)
    chances = np.repeat(random.dirichlet(counts, references), windows, axis=0)
    seen = random.multinomial(window, chances)
    alerts = stability_index(seen, np.broadcast_to(counts, seen.shape)) > threshold(window, usual, BINS, level)
    shares: Floats = alerts.reshape(references, windows).mean(axis=1)
    return shares


@pytest.mark.parametrize("usual", [100, 250, 1000, 50_000])
@pytest.mark.parametrize("window", [250, WINDOW, 1000])
@pytest.mark.parametrize("level", [1e-2, 1e-3])
def test_windows_without_drift_alert_as_often_as_the_level_says(usual: int, window: int, level: float) -> None:
    rate = false_alarms(usual, window, level, references=150_000, windows=1).mean()
    assert rate < 1.25 * level + 3 * (level / 150_000) ** 0.5
    assert rate > 0.6 * level  # and not because nothing ever does


@pytest.mark.parametrize("usual", [100, 50_000])
def test_the_rate_holds_over_many_windows_against_one_reference(usual: int) -> None:
    shares = false_alarms(usual, WINDOW, 1e-2, references=2000, windows=200)
    assert shares.mean() < 1.3e-2
    # that some reference is unlucky shows in all its windows, and such references are as rare
    assert (shares > 0.5).mean() < 1e-2


@pytest.mark.parametrize(("usual", "least"), [(256, 15), (1000, 20), (5000, 20)])
def test_a_shift_of_half_a_standard_deviation_is_seen_within_two_windows(usual: int, least: int) -> None:
    random = np.random.default_rng(1)
    seen = 0
    for _ in range(20):
        drift = Drift({"signal": reference_of(random.normal(size=usual))})
        for value in random.normal(0.5, 1.0, 2 * WINDOW):
            drift.see({"signal": float(value)})
        assert drift.windows == 2
        seen += drift.alerts["signal"] > 0
    assert seen >= least


def test_samples_of_the_same_kind_never_alert_in_a_hundred_windows_of_three_signals() -> None:
    random = np.random.default_rng(2)
    names = ("confidence", "entropy", "input_mean")
    drift = Drift({name: reference_of(random.beta(8, 1, 500)) for name in names})
    for row in random.beta(8, 1, (100 * WINDOW, 3)):
        drift.see(dict(zip(names, map(float, row), strict=True)))
    assert drift.windows == 100
    assert sum(drift.alerts.values()) == 0
    assert all(0 < score.value < score.threshold for score in drift.scores.values())


def test_the_threshold_is_shared_among_the_signals_and_grows_as_samples_are_fewer() -> None:
    one = reference_of(np.arange(500.0))
    alone, shared = Drift({"a": one}, window=100), Drift({"a": one, "b": one, "c": one}, window=100)
    for drift in (alone, shared):
        for value in range(100):
            drift.see(dict.fromkeys("abc", 5.0 * value))
    expected = (1 / 100 + 1 / 500) * stats.chi2.isf(1e-4 / 3, 9)
    assert shared.scores["a"].threshold == pytest.approx(expected, rel=1e-9)
    assert shared.scores["a"].threshold > alone.scores["a"].threshold
    assert threshold(100, 100, 10, 1e-4) > threshold(1000, 100, 10, 1e-4) > threshold(1000, 1000, 10, 1e-4)


@pytest.mark.parametrize("freedom", range(1, 40))
@pytest.mark.parametrize("level", [0.5, 1e-2, 1e-4, 1e-8])
def test_the_chi_square_points_are_scipys(freedom: int, level: float) -> None:
    assert chi_square_point(freedom, level) == pytest.approx(stats.chi2.isf(level, freedom), rel=1e-9)
    assert chi_square_tail(freedom, 3.7) == pytest.approx(stats.chi2.sf(3.7, freedom), rel=1e-9)


def test_a_window_alerts_on_its_own_samples_and_the_next_one_on_its_own() -> None:
    drift = Drift({"signal": reference_of(np.arange(500.0))}, window=100)
    for value in [499.0] * 100:
        drift.see({"signal": value})
    assert drift.scores["signal"].alerts
    for value in range(100):
        drift.see({"signal": 5.0 * value})
    assert not drift.scores["signal"].alerts
    assert (drift.windows, drift.alerts) == (2, {"signal": 1})


def test_a_sample_without_a_number_is_no_sample() -> None:
    drift = Drift({"signal": reference_of(np.arange(500.0))}, window=2)
    for value in (np.nan, np.inf, 1.0):
        drift.see({"signal": value})
    drift.see({"other": 1.0})
    assert drift.windows == 0
    drift.see({"signal": 2.0})
    assert drift.windows == 1


def test_without_a_fingerprint_nothing_is_counted() -> None:
    drift = Drift({})
    drift.see({"signal": 1.0})
    assert (drift.windows, drift.scores, drift.alerts) == (0, {}, {})


def test_a_reference_has_ten_bins_alike_and_counts_every_value() -> None:
    found = reference_of(np.random.default_rng(3).normal(size=1000))
    assert found.counts == (100,) * 10
    assert found.samples == 1000


def test_values_that_are_often_the_same_get_fewer_bins_none_of_them_empty() -> None:
    values = np.concatenate([np.ones(600), np.linspace(0.2, 0.9, 400)])
    found = reference_of(values)
    assert found.samples == 1000
    assert len(found.counts) < BINS
    assert min(found.counts) >= 50
    assert found.counts[-1] == 600


@pytest.mark.parametrize("values", [np.ones(500), np.arange(99.0), np.array([np.nan] * 200)])
def test_there_is_no_reference_of_values_that_say_nothing(values: Floats) -> None:
    assert summarize(values) is None


@pytest.mark.parametrize(
    ("edges", "counts"),
    [((), (5,)), ((1.0, 1.0), (1, 1, 1)), ((2.0, 1.0), (1, 1, 1)), ((1.0,), (1, 0)), ((1.0,), (1,))],
)
def test_a_reference_that_makes_no_sense_is_refused(edges: tuple[float, ...], counts: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        Reference(edges=edges, counts=counts)


def test_confidence_and_entropy_are_those_of_the_softmax_and_of_probabilities_as_they_are() -> None:
    scores = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [900.0, -900.0, 0.0]], np.float32)
    found = signals(np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2), scores)
    shares = np.exp(scores[0]) / np.exp(scores[0]).sum()
    assert found["input_mean"].tolist() == [1.5, 5.5, 9.5]
    assert found["confidence"] == pytest.approx([shares.max(), 1 / 3, 1.0], rel=1e-6)
    assert found["entropy"] == pytest.approx([stats.entropy(shares), np.log(3), 0.0], rel=1e-6)
    ready = signals(np.zeros((1, 2)), np.array([[0.1, 0.7, 0.2]], np.float32))
    assert ready["confidence"] == pytest.approx([0.7])
    assert ready["entropy"] == pytest.approx([stats.entropy([0.1, 0.7, 0.2])], rel=1e-6)


def test_a_network_that_does_not_classify_has_the_mean_of_its_input_alone() -> None:
    assert signals(np.zeros((2, 3)), np.zeros((2, 21, 8, 8))).keys() == {"input_mean"}
    assert signals(np.zeros((2, 3)), np.zeros((2, 1))).keys() == {"input_mean"}


def test_outputs_that_are_no_numbers_give_signals_that_are_none() -> None:
    found = signals(np.zeros((2, 3)), np.array([[np.nan, 1.0], [np.inf, 1.0]]))
    assert np.isnan(found["confidence"]).all()
    assert np.isnan(found["entropy"]).all()
