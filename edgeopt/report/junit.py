"""`junit.xml`: for the test tab of a CI service. Something in it is red exactly when the exit code is not 0.

A suite per target, with a case that something ships and one per budget of the winner, or of the candidate that came
nearest. What is undecided or
unmeasured is a failure: a skipped case would be shown as green. A candidate that lost to a winner is a skipped case.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from edgeopt.gates import BEST_FIRST, Verdict
from edgeopt.report import CandidateResult, Report, ReportFormat, TargetResult
from edgeopt.report.table import tell_outcome

#: what no XML document may hold, escaped or not
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

COUNTS = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}


class Junit(ReportFormat):
    """The common subset of JUnit's XML that CI services read."""

    file_name = "junit.xml"

    def render(self, report: Report) -> str:
        root = ET.Element("testsuites", _attributes(name=f"edgeopt {report.recipe.name}", time=f"{report.seconds:.1f}"))
        for target in report.targets:
            _add_target(root, target)
        if not report.targets:
            suite = ET.SubElement(root, "testsuite", _attributes(name=report.recipe.name))
            _add(_case(suite, report.recipe.name, "targets"), "failure", report.verdict, "the report has no target")
        for suite in (*root, root):
            _count(suite)
        ET.indent(root)
        return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _add_target(root: ET.Element, target: TargetResult) -> None:
    suite = ET.SubElement(root, "testsuite", _attributes(name=target.name))
    ships = _case(suite, target.name, "ships")
    if target.winner is None:
        _add(ships, "failure", target.verdict, tell_outcome(target))
    shown = target.candidate(target.winner) or _nearest(target)
    if shown is not None:
        for verdict in shown.verdicts:
            _add_verdict(_case(suite, f"{target.name}.{shown.id}", verdict.budget), verdict)
    for candidate in target.candidates:
        if candidate is not shown:
            _add_loser(_case(suite, target.name, candidate.id), candidate, target)


def _nearest(target: TargetResult) -> CandidateResult | None:
    """Of the candidates that were built, the best one: by its verdict, then by how few budgets it does not meet."""
    built = [candidate for candidate in target.candidates if candidate.error is None]
    return min(built, key=lambda one: (BEST_FIRST.index(one.verdict), _unmet(one)), default=None)


def _unmet(candidate: CandidateResult) -> int:
    return sum(verdict.verdict != "pass" for verdict in candidate.verdicts)


def _add_verdict(case: ET.Element, verdict: Verdict) -> None:
    if verdict.verdict == "pass":
        ET.SubElement(case, "system-out").text = _clean(verdict.sentence)
    else:
        _add(case, "failure", verdict.verdict, verdict.sentence)


def _add_loser(case: ET.Element, candidate: CandidateResult, target: TargetResult) -> None:
    why = candidate.reason or candidate.error or candidate.verdict
    if target.winner is None and candidate.error is not None:
        _add(case, "error", "not built", candidate.error, candidate.hint or "")
    elif target.winner is None:
        _add(case, "failure", candidate.verdict, why)
    else:
        ET.SubElement(case, "skipped", _attributes(message=why))


def _case(suite: ET.Element, place: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", _attributes(classname=place, name=name))


def _add(case: ET.Element, tag: str, kind: str, sentence: str, hint: str = "") -> None:
    text = f"{sentence}\nhint: {hint}" if hint else sentence
    ET.SubElement(case, tag, _attributes(type=kind, message=sentence)).text = _clean(text)


def _count(suite: ET.Element) -> None:
    for name, tag in COUNTS.items():
        suite.set(name, str(len(suite.findall(f".//{tag}"))))


def _attributes(**values: str) -> dict[str, str]:
    return {name: _clean(value) for name, value in values.items()}


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
