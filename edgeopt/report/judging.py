"""Measurements → verdicts and winner of a whole target or report: used when it is made, and when it is judged again."""

from __future__ import annotations

from typing import Any

from edgeopt import gates
from edgeopt.report import CandidateResult, Report, TargetResult
from edgeopt.select import Entry, select

LATENCIES = ("latency.ratio", "latency.p50_ms")


def judge_target(target: TargetResult) -> TargetResult:
    """The target with the verdicts, winner and reasons that follow from its measurements, budgets and duels."""
    judged = [_judge_candidate(candidate, target) for candidate in target.candidates]
    able = [candidate for candidate in judged if candidate.verdict == "pass"]
    # All entries of a race are compared in one unit: ratios to the original, or milliseconds where one has no ratio.
    metric = next((metric for metric in LATENCIES if all(_real(one, metric) is not None for one in able)), LATENCIES[0])
    choice = select([_entry(candidate, metric) for candidate in judged], target.duels)
    reasoned = [candidate.model_copy(update={"reason": choice.reasons.get(candidate.id)}) for candidate in judged]
    return target.model_copy(update={"candidates": tuple(reasoned), "winner": choice.winner})


def judge_report(report: Report) -> Report:
    """The report judged again from its own measurements and budgets."""
    return report.model_copy(update={"targets": tuple(judge_target(target) for target in report.targets)})


def conclusions(report: Report) -> list[Any]:
    """What a report concludes, without its wording: that may change from one edgeopt to the next."""
    return [
        (target.name, target.winner, [(one.id, one.verdict, _outcomes(one)) for one in target.candidates])
        for target in report.targets
    ]


def _outcomes(candidate: CandidateResult) -> list[Any]:
    return [(verdict.budget, verdict.verdict, verdict.margin) for verdict in candidate.verdicts]


def _judge_candidate(candidate: CandidateResult, target: TargetResult) -> CandidateResult:
    verdicts = () if candidate.error is not None else gates.judge(target.budgets, candidate.measurements)
    return candidate.model_copy(update={"verdicts": verdicts})


def _entry(candidate: CandidateResult, metric: str) -> Entry:
    return Entry(
        id=candidate.id,
        verdict=candidate.verdict,
        verdicts=candidate.verdicts,
        latency=_real(candidate, metric),
        size_bytes=None if candidate.artifact is None else candidate.artifact.size_bytes,
        error=candidate.error,
    )


def _real(candidate: CandidateResult, metric: str) -> float | None:
    found = gates.find(candidate.measurements, metric)
    return None if found is None or found.simulated else gates.number(found.value)
