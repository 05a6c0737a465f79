"""The A/A check, what it makes of a machine, and what an undecided budget is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt import environment, gates
from edgeopt.backends import build_artifact, opened
from edgeopt.context import Context
from edgeopt.errors import UsageError
from edgeopt.recipe.budgets import Budgets, LatencyBudget
from edgeopt.store import Store
from edgeopt.validation import Measurement
from edgeopt.validation.latency import measure_latency, ratio_interval
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.noise import (
    PIXELS,
    WIDEST,
    NoiseFloor,
    describe_floor,
    find_noise_floor,
    judge_copies,
    make_network,
    note_noise,
    remember_noise_floor,
    spread_of,
    time_copies,
    unfit,
)
from tests.validation.fabricated import samples_of
from tests.validation.test_latency import ALPHA, disturb, fabricate


def copies(sets: int = 40, noise: float = 0.02, process: float = 0.0, seed: int = 0) -> LatencySamples:
    """Samples of two equal networks."""
    samples = fabricate({"a": 1.0, "b": 1.0}, sets=sets, noise=noise, process=process, seed=seed)
    return replace(samples, environment=environment.fingerprint_digest())


def floor_of(low: float | None, high: float | None, note: str = "") -> NoiseFloor:
    ratio = None if low is None or high is None else (low * high) ** 0.5
    return NoiseFloor(
        ratio=ratio, low=low, high=high, first=0.02, sets=40, threads=1, environment="here", created=0.0, note=note
    )


def ratio(value: float, low: float | None, high: float | None) -> Measurement:
    return Measurement(
        metric="latency.ratio", unit="1", value=value, low=low, high=high, confidence=1 - ALPHA, samples=40,
        subject="digest of b", baseline="digest of a",
    )  # fmt: skip


def outcome(found: Measurement, limit: float) -> gates.Verdict:
    return gates.judge(Budgets(latency=LatencyBudget(max_ratio=limit)), [found])[-1]


# the floor


def test_more_sets_tell_smaller_differences() -> None:
    floor = judge_copies(copies())
    assert floor.half_width is not None
    assert floor.first is not None
    assert 0 < floor.half_width < floor.first
    assert floor.sets == 40
    assert floor.fit
    assert floor.sentence.startswith("fit for budgets down to ")


def test_a_machine_on_which_each_process_has_a_speed_of_its_own_is_unfit() -> None:
    floor = judge_copies(copies(process=0.2))
    assert not floor.fit
    assert floor.sentence.endswith(" apart, 5.0 % is allowed")


def test_a_throttled_machine_is_unfit_and_told_why() -> None:
    floor = judge_copies(disturb(copies(), blocks=10, sets=20))
    assert (floor.low, floor.half_width, floor.width, floor.fit) == (None, None, None, False)
    assert floor.sentence.startswith("unfit: 200 of 400 blocks were dropped for all sides: the CPU quota was spent")
    assert describe_floor(floor).endswith(f" over 20 sets; {floor.sentence}")


def test_an_interval_that_is_narrow_but_misses_the_truth_is_unfit() -> None:
    floor = floor_of(1.02, 1.03)
    assert not floor.fit
    assert floor.width == pytest.approx(0.03)


@given(st.floats(0.5, 2.0), st.floats(1.0, 2.0))
def test_only_a_narrow_interval_around_one_is_fit(low: float, width: float) -> None:
    floor = floor_of(low, low * width)
    assert floor.width is not None
    assert floor.width >= width - 1 - 1e-12
    assert floor.fit == (low <= 1 <= low * width and floor.width <= WIDEST)


def test_the_line_for_the_report_has_the_day_and_the_interval() -> None:
    said = (
        "A/A check of 1970-01-01: a network ÷ its copy 0.999 [0.990, 1.008] over 40 sets; fit for budgets down to 1.8 %"
    )
    assert describe_floor(floor_of(0.99, 1.008)) == said


# remembering it


def test_the_last_check_of_this_machine_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert find_noise_floor(store) is None
    for seed in range(2):
        last = judge_copies(copies(seed=seed))
        remember_noise_floor(last, store)
    assert find_noise_floor(Store(tmp_path)) == last


def test_a_check_in_another_power_mode_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember_noise_floor(judge_copies(copies()), Store(tmp_path))
    elsewhere = environment.fingerprint() | {"power_mode": "powersave"}
    monkeypatch.setattr(environment, "fingerprint", lambda: elsewhere)
    assert find_noise_floor(Store(tmp_path)) is None


@pytest.mark.parametrize("content", ["", "{", '{"aa": {"noise": "{}"}}', '{"aa": {"noise": "no JSON"}}'])
def test_a_check_that_cannot_be_read_is_left_out_with_a_note(content: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember_noise_floor(judge_copies(copies()), store)
    (path,) = (tmp_path / "latest").glob("noise-*.json")
    path.write_text(content)
    assert find_noise_floor(store) is None
    assert len(store.notes) == 1


# an undecided budget


def test_a_wide_noise_floor_makes_the_machine_unfit_for_the_budget() -> None:
    said = unfit(ratio(1.02, 0.97, 1.08), 1.05, None, floor_of(0.95, 1.04))
    expected = "this machine is too noisy for this budget: 2.9 % away, where two equal networks may seem 9.5 % apart"
    assert said == expected


def test_a_budget_tighter_than_the_noise_of_a_good_machine_is_too_much_to_ask_of_it() -> None:
    assert unfit(ratio(1.0, 0.99, 1.01), 1.005, None, floor_of(0.99, 1.01)).startswith("this machine is too noisy")


def test_a_ratio_beside_its_limit_is_not_laid_at_the_door_of_a_good_machine() -> None:
    said = unfit(ratio(0.498, 0.49, 0.506), 0.5, None, floor_of(0.99, 1.01))
    assert said == "it is too near to be told: 0.4 % away, where two equal networks may seem 2.0 % apart"


def test_sides_that_scatter_more_than_equal_networks_do_are_to_be_measured_again() -> None:
    said = unfit(ratio(0.9, 0.7, 1.2), 1.05, 0.03, floor_of(0.99, 1.01))
    assert said == "two equal networks seemed at most 2.0 % apart here: measure again while nothing else runs"


def test_where_no_check_was_made_it_is_named() -> None:
    assert unfit(ratio(0.9, 0.7, 1.2), 1.05, 0.03, None).startswith("`edgeopt doctor --aa` ")


def test_the_worse_of_check_and_samples_counts() -> None:
    noisy_now = unfit(ratio(1.02, 0.97, 1.08), 1.05, 0.08, floor_of(0.99, 1.01))
    assert noisy_now.endswith("two equal networks may seem 8.0 % apart")


@given(st.floats(0.1, 3), st.floats(0.5, 1), st.floats(1, 2), st.floats(0.1, 3), st.none() | st.floats(0, 1))
def test_exactly_the_undecided_are_told_and_no_verdict_changes(
    value: float, below: float, above: float, limit: float, spread: float | None
) -> None:
    found = ratio(value, value * below, value * above)
    said = unfit(found, limit, spread, floor_of(0.97, 1.02))
    verdict = outcome(found, limit)
    assert bool(said) == (verdict.verdict == "inconclusive")
    noted = outcome(found.model_copy(update={"note": said}), limit)
    assert (noted.verdict, noted.margin) == (verdict.verdict, verdict.margin)
    assert said in noted.sentence


def test_without_bounds_nothing_is_said() -> None:
    assert unfit(ratio(1.0, None, None), 1.05, 0.5, floor_of(0.5, 1.5)) == ""


# what samples tell of the noise themselves


def test_the_spread_within_processes_is_that_of_two_equal_networks() -> None:
    spreads, widths = [], []
    for seed in range(60):
        samples = copies(sets=20, seed=seed)
        spread, interval = spread_of(samples, *samples.digests, ALPHA), ratio_interval(samples, "b", "a", ALPHA)
        assert spread is not None
        assert interval.low is not None
        assert interval.high is not None
        spreads.append(spread)
        widths.append(interval.high / interval.low - 1)
    # The worse one of two sides is taken, so it is somewhat more.
    assert 0.9 < np.median(spreads) / np.median(widths) < 1.5


def test_a_true_difference_is_no_spread() -> None:
    samples = fabricate({"a": 1.0, "b": 4.0}, noise=0.001)
    spread = spread_of(samples, *samples.digests, ALPHA)
    assert spread is not None
    assert spread < 0.01


def test_too_few_sets_or_blocks_give_no_spread() -> None:
    few = copies(sets=3)
    assert spread_of(few, *few.digests, ALPHA) is None
    short = samples_of(np.full((2, 10, 1, 4), 1_000_000), ("a", "b"))
    assert spread_of(short, *short.digests, ALPHA) is None


def test_an_undecided_ratio_of_a_side_is_told_why_in_its_verdict() -> None:
    samples = fabricate({"a": 1.0, "b": 1.0}, noise=0.5)
    found = measure_latency(samples, "b", ALPHA, original="a")
    noted = note_noise(found, {"latency.ratio": 1.05, "latency.p50_ms": 1.0}, samples, None)
    changed = [(old, new) for old, new in zip(found, noted, strict=True) if old != new]
    assert [old.metric for old, _ in changed] == ["latency.ratio"]
    verdict = outcome(changed[0][1], 1.05)
    assert verdict.verdict == "inconclusive"
    assert "1.05× is not decided, this machine is too noisy for this budget: " in verdict.sentence


def test_a_check_with_other_threads_is_not_held_against_a_target() -> None:
    samples = fabricate({"a": 1.0, "b": 1.0}, noise=0.01)
    found = [ratio(1.049, 1.04, 1.06)]
    for threads, blamed in ((1, True), (2, False)):
        noisy = floor_of(0.5, 1.5).model_copy(update={"threads": threads})
        (noted,) = note_noise(found, {"latency.ratio": 1.05}, samples, noisy)
        assert noted.note.startswith("this machine is too noisy") == blamed


# the check itself


def test_the_network_is_the_same_each_time_and_tells_images_apart(tmp_path: Path) -> None:
    for name in ("one", "other", "built"):
        (tmp_path / name).mkdir()
    one, other = make_network(tmp_path / "one"), make_network(tmp_path / "other")
    assert one.digest() == other.digest()
    images = np.random.default_rng(1).standard_normal((2, 3, PIXELS, PIXELS)).astype(np.float32)
    with opened(build_artifact("onnxruntime_cpu", one, Context(folder=tmp_path / "built", batch=2))) as session:
        (scores,) = session.run({"image": images}).values()
    assert np.isfinite(scores).all()
    assert 0.01 < np.abs(scores).max() < 100
    assert not np.allclose(scores[0], scores[1])


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("null", "`null` is simulated, which says nothing of this machine"),
        ("torch_eager", "`torch_eager` does not run ONNX files"),
    ],
)
def test_a_backend_that_cannot_time_the_network_is_refused(backend: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        time_copies(backend)
    assert caught.value.message == message


@pytest.mark.slow
def test_a_network_is_timed_beside_its_copy() -> None:
    told: list[str] = []
    samples = time_copies("onnxruntime_cpu", lambda text, _: told.append(text), Protocol(looks=(1, 2)))
    assert samples.sides == ("a", "b")
    assert samples.digests[0] == samples.digests[1]
    assert [text for text in told if "waiting" not in text] == ["set 1 of 2", "set 2 of 2"]  # for another test's timing
    assert judge_copies(samples).sentence == "unfit: 2 sets of workers were timed, 7 are needed"
