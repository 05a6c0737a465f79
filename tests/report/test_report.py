from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeopt import registry
from edgeopt.report import CandidateResult, Report, TargetResult
from edgeopt.report.judging import judge_report, judge_target

Make = Callable[..., Any]


def test_the_formats_are_the_files_of_the_folder_and_the_console_is_none() -> None:
    assert set(registry.names("report")) == {"json", "junit", "markdown"}


def test_the_exit_code_says_pass_miss_undecided_or_nothing_built(
    passing: Report, mixed: Report, unbuilt: Report, run_report: Make
) -> None:
    assert (passing.verdict, passing.exit_code) == ("pass", 0)
    assert (mixed.verdict, mixed.exit_code) == ("unmeasured", 3)
    assert (unbuilt.verdict, unbuilt.exit_code) == ("fail", 5)
    assert run_report(*passing.targets, *unbuilt.targets).exit_code == 5
    assert run_report().exit_code == 3


def test_a_missed_budget_exits_with_1_and_an_undecided_one_with_3(
    mixed: Report, target: Make, run_report: Make
) -> None:
    fp32, _, int4, crashed = mixed.targets[0].candidates
    assert run_report(target(int4, crashed)).exit_code == 1
    vague = [
        one.model_copy(update={"high": 3.0}) if one.metric == "accuracy.drop_pp" else one for one in fp32.measurements
    ]
    undecided = run_report(target(fp32.model_copy(update={"measurements": tuple(vague)}), int4))
    assert (undecided.verdict, undecided.exit_code) == ("inconclusive", 3)


def test_a_target_passes_by_its_best_candidate_and_names_what_the_others_lack(mixed: Report) -> None:
    first = mixed.targets[0]
    assert (first.verdict, first.winner) == ("pass", "onnxruntime_cpu/int8")
    reasons = {candidate.id: candidate.reason for candidate in first.candidates}
    assert reasons["onnxruntime_cpu/int8"] is None
    assert reasons["onnxruntime_cpu/int4_first_layer_in_float"] == "missed accuracy.max_drop_pp"
    assert reasons["openvino_cpu/int8"] == "could not be built: `openvino_cpu` is not installed"


def test_a_stored_report_judged_again_is_the_same(mixed: Report) -> None:
    assert judge_report(mixed) == mixed


def test_judging_again_by_other_budgets_changes_the_verdict(passing: Report) -> None:
    target = passing.targets[0]
    strict = target.budgets.model_validate({"size": {"max_mb": 0.01}})
    assert judge_target(target.model_copy(update={"budgets": strict})).verdict == "fail"


def test_where_a_real_ratio_to_the_original_is_missing_the_race_is_run_in_milliseconds(passing: Report) -> None:
    target = passing.targets[0]
    fp32, int8 = target.candidates
    loose = target.budgets.model_validate({"size": {"max_mb": 0.5}})
    missing = tuple(one for one in int8.measurements if one.metric != "latency.ratio")
    simulated = tuple(
        one.model_copy(update={"simulated": True, "value": 0.9}) if one.metric == "latency.ratio" else one
        for one in int8.measurements
    )
    for measurements in (missing, simulated):
        candidates = (fp32, int8.model_copy(update={"measurements": measurements}))
        judged = judge_target(target.model_copy(update={"candidates": candidates, "budgets": loose, "duels": ()}))
        assert judged.winner == "onnxruntime_cpu/int8"


def test_a_candidate_that_was_built_on_nothing_measured_is_not_a_pass() -> None:
    bare = CandidateResult(id="null/fp32", backend="null", variant="fp32")
    judged = judge_target(TargetResult(name="x", threads=1, batch=1, candidates=(bare,)))
    assert (judged.verdict, judged.winner) == ("unmeasured", None)
