from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from edgeopt.gates import Outcome
from edgeopt.recipe.budgets import Budgets
from edgeopt.report import CandidateResult, Report, TargetResult
from edgeopt.report.judging import judge_target
from edgeopt.report.junit import Junit
from edgeopt.validation import Measurement


def render(report: Report) -> ET.Element:
    return ET.fromstring(Junit().render(report))


def is_red(report: Report) -> bool:
    root = render(report)
    return bool(root.findall(".//failure") or root.findall(".//error"))


def test_the_xml_is_a_golden(
    passing: Report, mixed: Report, unbuilt: Report, golden: Callable[[str, str], None]
) -> None:
    for name, report in (("passing", passing), ("mixed", mixed), ("unbuilt", unbuilt)):
        golden(f"junit_{name}.xml", Junit().render(report))


def test_the_winner_has_a_case_for_every_budget_and_the_losers_are_skipped(passing: Report) -> None:
    (suite,) = render(passing).findall("testsuite")
    assert suite.get("name") == "x86"
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {
        "ships": [],
        "accuracy.max_drop_pp": ["system-out"],
        "latency.max_ratio": ["system-out"],
        "latency.p90_ms": ["system-out"],
        "size.max_mb": ["system-out"],
        "onnxruntime_cpu/fp32": ["skipped"],
    }


def test_a_candidate_that_could_not_be_built_is_an_error_where_nothing_ships(unbuilt: Report) -> None:
    (error,) = render(unbuilt).findall(".//error")
    assert error.get("message") == "`openvino_cpu` is not installed"
    assert error.text == "`openvino_cpu` is not installed\nhint: pip install edgeopt[openvino]"


def test_what_is_undecided_is_a_failure_of_its_own_type(mixed: Report) -> None:
    types = {failure.get("type") for failure in render(mixed).findall(".//failure")}
    assert types == {"unmeasured", "fail"}


def test_the_counts_are_those_of_the_cases(mixed: Report) -> None:
    root = render(mixed)
    for suite in (root, *root):
        assert int(suite.get("tests", "")) == len(suite.findall(".//testcase"))
        assert int(suite.get("failures", "")) == len(suite.findall(".//failure"))
        assert int(suite.get("skipped", "")) == len(suite.findall(".//skipped"))


def candidate(name: str, outcome: Outcome | None) -> CandidateResult:
    """One whose size budget of 1 MB comes out like that; None: it could not be built."""
    values: dict[Outcome, tuple[float, float, float]] = {
        "pass": (0.5, 0.5, 0.5),
        "fail": (2.0, 2.0, 2.0),
        "inconclusive": (1.0, 0.5, 2.0),
    }
    measurements = [Measurement(metric="latency.p50_ms", unit="ms", value=0.5)]
    if outcome is not None and outcome in values:
        value, low, high = (1e6 * one for one in values[outcome])
        measurements.append(Measurement(metric="size.bytes", unit="bytes", value=value, low=low, high=high))
    error = "crashed" if outcome is None else None
    return CandidateResult(id=name, backend="b", variant=name, measurements=tuple(measurements), error=error)


def make_report(outcomes: list[tuple[Outcome | None, ...]]) -> Report:
    budgets = Budgets.model_validate({"size": {"max_mb": 1.0}})
    targets = [
        judge_target(
            TargetResult(
                name=f"t{at}",
                threads=1,
                batch=1,
                budgets=budgets,
                candidates=tuple(candidate(f"b/{order}", one) for order, one in enumerate(several)),
            )
        )
        for at, several in enumerate(outcomes)
    ]
    fields: dict[str, Any] = {"edgeopt": "0", "recipe": {"name": "n", "path": "p", "sha256": ""}, "targets": targets}
    return Report.model_validate(fields)


def test_something_is_red_exactly_when_the_exit_code_is_not_0() -> None:
    kinds: tuple[Outcome | None, ...] = ("pass", "fail", "inconclusive", "unmeasured", None)
    several = [pair for count in (1, 2) for pair in itertools.product(kinds, repeat=count)]
    seen = set()
    for pair in several:
        for report in (make_report([pair]), make_report([("pass",), pair])):
            assert is_red(report) == (report.exit_code != 0)
            seen.add(report.exit_code)
    assert seen == {0, 1, 3, 5}
    assert is_red(make_report([]))


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_gives_xml_that_parses(error: str, hint: str) -> None:
    crashed = CandidateResult(id="b/v", backend="b", variant="v", error=error, hint=hint)
    target = TargetResult(name="t", threads=1, batch=1, candidates=(crashed,))
    report = make_report([]).model_copy(update={"targets": (target,)})
    assert render(report).find(".//error") is not None
