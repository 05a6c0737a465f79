"""Each calibrator that there is: sound ranges from whatever was seen, and the gain that it is there for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt import registry
from edgeopt.errors import UsageError
from edgeopt.model import QuantizationProfile
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.calibrators import BINS, KIND, Calibrator, make_calibrator, quantizer_of
from edgeopt.quantization.seen import Seen

NAMES = registry.names(KIND)
CLIPPING = ("kl", "mse", "percentile")


def see(values: np.ndarray) -> Seen:
    """What would be seen of these values, (samples, …)."""
    rows = values.reshape(len(values), -1)
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(rows, bins=BINS, range=(low, high) if high > low else (low, low + 1))
    halves = (Range(low, high), Range(low, high))
    return Seen(low, high, float(rows.min(1).mean()), float(rows.max(1).mean()), halves, counts)


def error(values: np.ndarray, found: Range, profile: QuantizationProfile) -> float:
    quantizer = quantizer_of(found, profile)
    return float(np.square(quantizer.dequantize(quantizer.quantize(values)) - values).mean())


@pytest.fixture
def symmetric(profile: QuantizationProfile) -> QuantizationProfile:
    return profile.model_copy(update={"activation_dtype": "int8", "activation_symmetric": True})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 10)), np.full((4, 10), 3.0), np.full((4, 10), -3.0), np.linspace(-5, -1, 40).reshape(4, 10),
        np.linspace(0, 7, 40).reshape(4, 10), np.linspace(-1e-30, 1e-30, 40).reshape(4, 10),
        np.linspace(-1e30, 1e30, 40).reshape(4, 10), np.asarray([[0.0, 1.0]]),
    ],
    ids=["zeros", "constant", "negative constant", "negative", "positive", "tiny", "huge", "two values"],
)  # fmt: skip
def test_every_calibrator_gives_a_range_within_what_was_seen(
    name: str, values: np.ndarray, profile: QuantizationProfile, symmetric: QuantizationProfile
) -> None:
    seen = see(values)
    for each in (profile, symmetric):
        found = make_calibrator(name).find_range(seen, each)
        assert np.isfinite([found.low, found.high]).all()
        assert seen.low - 1e-9 * abs(seen.low) <= found.low <= found.high <= seen.high + 1e-9 * abs(seen.high)
        assert found == make_calibrator(name).find_range(seen, each), "the same each time"
        assert quantizer_of(found, each).scale > 0


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5))
def test_mse_is_never_worse_than_the_whole_range(seed: int, scale: float, shift: float) -> None:
    profile = QuantizationProfile(
        name="test", activation_dtype="uint8", weight_dtype="int8", weight_axes={}, quantized_ops=()
    )
    values = scale * (np.random.default_rng(seed).standard_normal((8, 500)) + shift)
    seen = see(values)
    whole, found = (
        error(values, make_calibrator(name).find_range(seen, profile), profile) for name in ("minmax", "mse")
    )
    assert found <= 1.02 * whole, "the middles of bins stand for the values in them"


@pytest.mark.parametrize("name", CLIPPING)
@pytest.mark.parametrize("relu", [True, False])
def test_rare_outliers_are_cut_off_and_the_rest_is_finer(
    name: str, relu: bool, profile: QuantizationProfile, symmetric: QuantizationProfile
) -> None:
    values = np.random.default_rng(0).standard_normal((64, 65_536))
    values = np.maximum(values, 0) if relu else values
    values[5, 7] = 60.0  # so rare that even its square, cut off, is less than what all the others gain
    usual = values[np.abs(values) < 10]
    for each in (profile, symmetric):
        found = make_calibrator(name).find_range(see(values), each)
        assert found.high < 20
        assert error(usual, found, each) < 0.15 * error(usual, Range(values.min(), values.max()), each)


def test_the_moving_average_is_that_of_the_samples_and_not_of_the_one_with_an_outlier(
    profile: QuantizationProfile,
) -> None:
    values = np.random.default_rng(0).standard_normal((200, 1000))
    values[5, 7] = 60.0
    found = make_calibrator("moving_average").find_range(see(values), profile)
    assert 3 < found.high < 4


def test_the_moving_average_of_samples_sorted_by_class_is_that_of_all_classes(profile: QuantizationProfile) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (400, 100)) * np.repeat([1.0, 9.0], 200)[:, None]
    ends = [make_calibrator("moving_average").find_range(see(each), profile).high for each in (values, values[::-1])]
    assert ends == pytest.approx([5, 5], rel=0.02)


def test_nothing_is_cut_off_where_all_values_are_alike(profile: QuantizationProfile) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (64, 4096))
    for name in NAMES:
        assert make_calibrator(name).find_range(see(values), profile).high == pytest.approx(1, abs=0.02), name


def test_the_share_of_a_percentile_is_an_option(profile: QuantizationProfile) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (64, 4096))
    found = make_calibrator({"percentile": {"share": 90}}).find_range(see(values), profile)
    assert found.low == pytest.approx(-0.9, abs=0.01)
    assert found.high == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("method", "said", "hint"),
    [
        ("msee", "unknown calibrator `msee`", "`mse`"),
        ({"percentile": {"shre": 90}}, "`percentile`: `shre`", "share"),
        ({"percentile": {"share": 190}}, "`percentile`: `share`", "share"),
        ({"minmax": {"share": 90}}, "`minmax`: `share`", "none"),
    ],
)
def test_what_is_no_calibrator_or_no_option_is_named(method: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        make_calibrator(method)
    assert hint in caught.value.hint


def test_every_calibrator_says_what_it_is() -> None:
    for name in NAMES:
        assert issubclass(registry.resolve(KIND, name), Calibrator)
        assert registry.resolve(KIND, name).__doc__
