from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.gates import (
    BEST_FIRST,
    WORST_FIRST,
    Outcome,
    Verdict,
    find,
    judge,
    judge_candidate,
    judge_run,
    judge_target,
    limits,
)
from edgeopt.recipe.budgets import Budgets
from edgeopt.validation import Measurement

EVERYTHING = {
    "accuracy": {"max_drop_pp": 2.0, "max_drop_baseline_pp": 1.0, "class_floor": {"8": 0.9}},
    "latency": {
        "max_ratio": 0.5,
        "max_ratio_fp32": 0.9,
        "max_ratio_baseline": 1.05,
        "p50_ms": 1.0,
        "p90_ms": 2.0,
        "p99_ms": 4.0,
    },
    "size": {"max_mb": 0.5},
    "memory": {"max_mb": 64.0},
    "energy": {"max_mj": 5.0},
    "throughput": {"min_per_s": 400.0},
}
TIMED = Measurement(metric="latency.p50_ms", unit="ms", value=0.24, low=0.23, high=0.25, confidence=0.99, samples=400)


def measured(
    metric: str, value: float | None, low: float | None = None, high: float | None = None, **fields: Any
) -> Measurement:
    """A measurement that may hold NaN, which the real type refuses: the gates do not rely on that."""
    given_fields = {"unit": "", "confidence": 0.95, "samples": 720, "note": "", "simulated": False, **fields}
    return Measurement.model_construct(metric=metric, value=value, low=low, high=high, **given_fields)


def judge_one(budgets: dict[str, Any], *measurements: Measurement) -> Verdict:
    (verdict,) = judge(Budgets.model_validate(budgets), [TIMED, *measurements])
    return verdict


def drop(value: float | None, low: float | None, high: float | None, **fields: Any) -> Verdict:
    return judge_one({"accuracy": {"max_drop_pp": 2.0}}, measured("accuracy.drop_pp", value, low, high, **fields))


def test_a_drop_whose_bound_is_within_the_budget_passes() -> None:
    verdict = drop(0.28, -0.3, 0.7)
    assert (verdict.budget, verdict.verdict, verdict.margin) == ("accuracy.max_drop_pp", "pass", 1.3)
    assert verdict.sentence == "drop 0.3 pp, at most 0.7 pp at 95 % confidence: within 2.0 pp"


def test_a_drop_whose_lower_bound_is_beyond_the_budget_fails() -> None:
    verdict = drop(4.6, 3.1, 6.2)
    assert (verdict.verdict, verdict.margin) == ("fail", -4.2)
    assert verdict.sentence == "drop 4.6 pp, at least 3.1 pp at 95 % confidence: over 2.0 pp"


def test_a_drop_whose_bounds_enclose_the_budget_is_not_decided_and_says_how_many_images_would_do() -> None:
    verdict = drop(0.2, -1.0, 2.4)
    assert verdict.verdict == "inconclusive"
    assert verdict.sentence.startswith("drop 0.2 pp, between -1.0 and 2.4 pp at 95 % confidence: 2.0 pp is not decided")
    agreement = measured("accuracy.agreement", 80.0)
    budgets = Budgets.model_validate({"accuracy": {"max_drop_pp": 2.0}})
    doubtful = measured("accuracy.drop_pp", 0.2, -1.0, 2.4)
    assert judge(budgets, [TIMED, doubtful, agreement])[0].sentence.endswith(", about 3,900 images would decide")


def test_a_bound_that_is_exactly_the_budget_passes() -> None:
    assert drop(1.0, 0.0, 2.0).verdict == "pass"
    assert drop(2.0, 2.0, 2.5).verdict == "inconclusive"


@pytest.mark.parametrize("bounds", [(-0.5, 0.0, 0.2), (5.0, 4.0, 6.0)])
def test_fewer_than_500_images_decide_nothing_whatever_they_show(bounds: tuple[float, float, float]) -> None:
    value, low, high = bounds
    verdict = drop(value, low, high, samples=499)
    assert verdict.verdict == "inconclusive"
    assert "499 images decide nothing, it takes " in verdict.sentence
    assert drop(value, low, high, samples=500).verdict != "inconclusive"


def test_the_number_of_images_that_it_takes_is_never_below_500_and_grows_with_disagreement() -> None:
    budgets = Budgets.model_validate({"accuracy": {"max_drop_pp": 2.0}})
    few = measured("accuracy.drop_pp", 0.0, -1.0, 1.0, samples=100)
    sentences = [
        judge(budgets, [TIMED, few, measured("accuracy.agreement", agreed)])[0].sentence for agreed in (100.0, 70.0)
    ]
    assert sentences[0].endswith("it takes 500 or more")
    assert sentences[1].endswith("it takes 4,700 or more")


def test_what_was_measured_with_less_confidence_than_asked_for_is_not_decided() -> None:
    verdict = drop(0.0, -0.1, 0.1, confidence=0.9)
    assert verdict.verdict == "inconclusive"
    assert verdict.sentence.endswith(": the budget asks for 95 % confidence")
    assert drop(0.0, -0.1, 0.1, confidence=None).verdict == "inconclusive"
    assert drop(0.0, -0.1, 0.1, confidence=0.975).verdict == "pass"


def test_what_is_missing_or_has_no_value_is_unmeasured_and_says_why() -> None:
    verdict = judge_one({"size": {"max_mb": 1}})
    assert (verdict.verdict, verdict.sentence) == ("unmeasured", "size was not measured")
    verdict = judge_one({"memory": {"max_mb": 1}}, measured("memory.peak_mb", None, note="no such counter"))
    assert (verdict.verdict, verdict.sentence) == ("unmeasured", "memory was not measured: no such counter")


def test_an_undersampled_percentile_is_not_decided_and_says_what_it_takes() -> None:
    one = measured("latency.p99_ms", 0.5, None, None, note="100 runs were timed, a bound takes 299")
    verdict = judge_one({"latency": {"p99_ms": 1.0}}, one)
    assert verdict.verdict == "inconclusive"
    assert verdict.sentence == "p99 0.50 ms: 1.0 ms is not decided, 100 runs were timed, a bound takes 299"


def test_sizes_are_judged_in_megabytes_of_a_million_bytes() -> None:
    assert judge_one({"size": {"max_mb": 0.5}}, measured("size.bytes", 500_000)).verdict == "pass"
    verdict = judge_one({"size": {"max_mb": 0.5}}, measured("size.bytes", 500_001))
    assert verdict.verdict == "fail"
    assert verdict.sentence == "size 0.500001 MB: over 0.5 MB"


def test_a_value_outside_its_own_bounds_decides_nothing() -> None:
    assert drop(3.0, -1.0, 1.0).verdict == "inconclusive"
    assert drop(1.0, 2.5, 3.0).verdict == "inconclusive"


def test_a_lower_limit_is_held_against_the_lower_bound() -> None:
    budget = {"throughput": {"min_per_s": 400}}
    outcomes = [
        judge_one(budget, measured("throughput.per_s", value, low, high)).verdict
        for value, low, high in [(450, 410, 480), (450, 390, 480), (350, 320, 390), (450, None, 480)]
    ]
    assert outcomes == ["pass", "inconclusive", "fail", "inconclusive"]


def test_the_floor_of_a_class_is_a_share_and_its_measurement_in_percent() -> None:
    budget = {"accuracy": {"class_floor": {"8": 0.9}}}
    verdict = judge_one(budget, measured("accuracy.class.8", 97.0, 93.0, 99.0, samples=80))
    assert (verdict.budget, verdict.verdict, verdict.margin) == ("accuracy.class_floor.8", "pass", 3.0)
    assert judge_one(budget, measured("accuracy.class.8", 97.0, 93.0, 99.0, samples=49)).verdict == "inconclusive"
    assert judge_one(budget, measured("accuracy.class.8", 70.0, 60.0, 80.0, samples=80)).verdict == "fail"


def test_outputs_that_are_no_answer_fail_whatever_the_recipe_says() -> None:
    broken = measured("accuracy.nonfinite", 3.0)
    (verdict,) = judge(Budgets(), [TIMED, broken])
    assert (verdict.budget, verdict.verdict) == ("accuracy.finite", "fail")
    assert verdict.sentence == "outputs are not finite on 3 of 720 images"
    fine = measured("accuracy.drop_pp", 0.0, -0.1, 0.1)
    budgets = Budgets.model_validate({"accuracy": {"max_drop_pp": 2.0}})
    assert judge_candidate(judge(budgets, [TIMED, broken, fine])) == "fail"
    assert judge(Budgets(), [TIMED, measured("accuracy.nonfinite", 0.0)]) == ()
    assert judge(Budgets(), [TIMED, measured("accuracy.nonfinite", math.nan)])[0].verdict == "fail"


def test_a_candidate_that_nobody_timed_is_unmeasured_even_without_a_budget() -> None:
    for unknown in (measured("latency.p50_ms", 0.1, simulated=True), measured("latency.p50_ms", None)):
        assert judge_candidate(judge(Budgets(), [unknown])) == "unmeasured"
    assert judge_candidate(judge(Budgets(), [])) == "unmeasured"
    assert judge(Budgets(), [TIMED]) == ()


def test_a_real_measurement_is_preferred_to_a_simulated_one() -> None:
    simulated, real = measured("size.bytes", 1, simulated=True), measured("size.bytes", 2)
    assert find([simulated, real], "size.bytes") is real
    assert find([simulated], "size.bytes") is simulated
    assert find([simulated], "memory.peak_mb") is None


def leaves(section: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    for name, part in section["properties"].items():
        kinds = part.get("anyOf", [part])
        reference = next((kind["$ref"] for kind in kinds if "$ref" in kind), None)
        if reference is None:
            yield name
        else:
            yield from (f"{name}.{leaf}" for leaf in leaves(schema["$defs"][reference.rsplit("/", 1)[1]], schema))


def test_every_limit_that_a_recipe_can_set_is_judged() -> None:
    schema = Budgets.model_json_schema()
    settable = {leaf for leaf in leaves(schema, schema) if leaf.rsplit(".", 1)[1] not in ("confidence", "metric")}
    judged = {limit.budget.removesuffix(".8") for limit in limits(Budgets.model_validate(EVERYTHING))}
    assert judged == settable


FIGURES = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
METRICS = [limit.metric for limit in limits(Budgets.model_validate(EVERYTHING))]
METRICS += ["accuracy.nonfinite", "accuracy.agreement"]
MEASUREMENTS = st.lists(
    st.builds(
        measured,
        st.sampled_from(METRICS),
        FIGURES,
        FIGURES,
        FIGURES,
        confidence=st.none() | st.floats(0, 1) | st.just(math.nan),
        samples=st.integers(0, 10_000),
        simulated=st.booleans(),
    ),
    max_size=12,
)


@given(MEASUREMENTS)
def test_a_pass_always_rests_on_a_finite_real_bound_within_the_limit(measurements: list[Measurement]) -> None:
    budgets = Budgets.model_validate(EVERYTHING)
    by_budget = {limit.budget: limit for limit in limits(budgets)}
    for verdict in judge(budgets, measurements):
        if verdict.verdict != "pass":
            continue
        limit = by_budget[verdict.budget]
        found = find(measurements, limit.metric)
        assert found is not None
        bound = found.low if limit.least else found.high
        bound = found.value if bound is None or not math.isfinite(bound) else bound
        assert not found.simulated
        assert bound is not None
        assert verdict.margin is not None
        assert verdict.margin >= 0
        scaled = bound * limit.scale
        assert scaled >= limit.limit if limit.least else scaled <= limit.limit


@given(MEASUREMENTS)
def test_what_is_only_simulated_is_never_better_than_unmeasured(measurements: list[Measurement]) -> None:
    simulated = [one.model_copy(update={"simulated": True}) for one in measurements]
    outcome = judge_candidate(judge(Budgets.model_validate(EVERYTHING), simulated))
    assert BEST_FIRST.index(outcome) >= BEST_FIRST.index("unmeasured")


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 5), st.floats(0, 10), st.floats(0, 10))
def test_a_looser_budget_is_never_judged_worse(
    value: float, below: float, above: float, one: float, other: float
) -> None:
    found = measured("accuracy.drop_pp", value, value - below, value + above)
    tight, loose = (
        judge_one({"accuracy": {"max_drop_pp": limit}}, found).verdict for limit in (min(one, other), max(one, other))
    )
    order = ["fail", "inconclusive", "pass"]
    assert order.index(loose) >= order.index(tight)


@given(st.floats(0.0, 4.0), st.floats(0.0, 4.0))
def test_a_sentence_never_shows_a_bound_on_the_wrong_side_of_its_limit(high: float, limit: float) -> None:
    verdict = judge_one({"accuracy": {"max_drop_pp": limit}}, measured("accuracy.drop_pp", high, high, high))
    if abs(high - limit) < 1e-5:
        return
    figures = [float(word) for word in verdict.sentence.replace(":", "").split() if word.replace(".", "").isdigit()]
    shown_bound, shown_limit = figures[1], figures[3]
    assert (shown_bound <= shown_limit) == (verdict.verdict == "pass")


def test_candidates_and_runs_are_as_bad_as_their_worst_and_targets_as_good_as_their_best() -> None:
    outcomes: tuple[Outcome, ...] = ("fail", "inconclusive", "unmeasured", "pass")
    for pair in itertools.product(outcomes, repeat=2):
        verdicts = [Verdict(budget="size.max_mb", verdict=one, margin=None, sentence="") for one in pair]
        worst = min(pair, key=WORST_FIRST.index)
        assert judge_candidate(verdicts) == judge_run(pair) == worst
        assert judge_target(pair) == min(pair, key=("pass", "inconclusive", "unmeasured", "fail").index)


def test_nothing_at_all_passes_for_a_candidate_but_not_for_a_target_or_a_run() -> None:
    assert judge_candidate([]) == "pass"
    assert judge_target([]) == judge_run([]) == "unmeasured"
