"""`gate`: a report of an older edgeopt is judged by what it concludes, not by how it says so."""

from __future__ import annotations

from pathlib import Path

from edgeopt.report import Report
from edgeopt.report.json import Json
from tests.cli.test_cli import Run, run
from tests.report.conftest import FP32, INT8, make_report, make_target

__all__ = ["run"]


def write(report: Report, folder: Path) -> str:
    (folder / "report.json").write_text(Json().render(report), encoding="utf8")
    return str(folder / "report.json")


def test_other_words_for_the_same_verdicts_are_no_change(run: Run, tmp_path: Path) -> None:
    text = Json().render(make_report(make_target(FP32, INT8, bundle="x86/digits.edgeopt")))
    for now, before in (("at most 0.7 pp", "no more than 0.7 pp"), ("slower than", "not as fast as")):
        assert now in text
        text = text.replace(now, before)
    (tmp_path / "report.json").write_text(text, encoding="utf8")
    ran = run("gate", str(tmp_path))
    assert (ran.code, ran.err) == (0, "")
    assert "slower than" in ran.out, "what is shown is said in the words of today"


def test_another_winner_margin_or_budget_does_not_follow(run: Run, tmp_path: Path) -> None:
    sound = make_report(make_target(FP32, INT8))
    target, candidate = sound.targets[0], sound.targets[0].candidates[0]
    verdict = candidate.verdicts[0]
    changes = [{"winner": FP32.id}]
    for wrong in ((), (verdict.model_copy(update={"margin": 99.0}), *candidate.verdicts[1:])):
        changed = candidate.model_copy(update={"verdicts": wrong})
        changes.append({"candidates": (changed, *target.candidates[1:])})
    for change in changes:
        report = sound.model_copy(update={"targets": (target.model_copy(update=change),)})
        ran = run("gate", write(report, tmp_path))
        assert ran.code == 4, change
        assert "do not follow from its measurements" in ran.err
