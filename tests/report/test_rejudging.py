from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt import files
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import Artifact, ArtifactFile
from edgeopt.recipe.budgets import Budgets
from edgeopt.report import Report
from edgeopt.report.json import load_report
from edgeopt.report.judging import conclusions
from edgeopt.report.rejudging import rejudge
from edgeopt.validation.evidence import ACCURACY_FILE, LATENCY_FILE, Evidence
from tests.report.conftest import build_of
from tests.report.proven import CLASSES, FP32, INT8, leave, make_evidence, predicted, prove


@pytest.fixture
def evidence() -> Evidence:
    return make_evidence()


@pytest.fixture
def report(evidence: Evidence, tmp_path: Path) -> Report:
    return load_report(leave(prove(evidence), evidence, tmp_path))


def change(report: Report, **fields: Any) -> Report:
    """The report with some fields of its first target replaced."""
    return report.model_copy(update={"targets": (report.targets[0].model_copy(update=fields),)})


def change_figure(report: Report, metric: str, **fields: Any) -> Report:
    """The report with one measurement of the int8 candidate replaced."""
    fp32, int8 = report.targets[0].candidates
    found = tuple(one.model_copy(update=fields if one.metric == metric else {}) for one in int8.measurements)
    return change(report, candidates=(fp32, int8.model_copy(update={"measurements": found})))


def test_a_report_that_follows_from_its_samples_is_judged_as_before(report: Report, tmp_path: Path) -> None:
    assert report.targets[0].winner == INT8
    assert rejudge(report, tmp_path) == report


def test_other_budgets_are_judged_from_the_samples_at_their_own_confidence(report: Report, tmp_path: Path) -> None:
    budgets = Budgets.model_validate({"latency": {"max_ratio": 0.1, "confidence": 0.9}, "size": {"max_mb": 0.2}})
    judged = rejudge(report, tmp_path, budgets)
    assert (judged.verdict, judged.targets[0].winner) == ("fail", None)
    ratios = [one for one in judged.targets[0].candidates[0].measurements if "ratio" in one.metric]
    assert {one.metric for one in ratios} == {"latency.ratio", "latency.ratio_fp32"}
    assert [one.confidence for one in ratios] == [pytest.approx(1 - 0.1 / 3 / 2)] * 2
    looser = rejudge(report, tmp_path, Budgets.model_validate({"accuracy": {"metric": "macro_f1", "max_drop_pp": 3}}))
    assert looser.verdict == "pass"
    assert "drop 0.3 pp" in looser.targets[0].candidates[1].verdicts[0].sentence


def test_a_metric_that_was_not_recorded_is_unmeasured(report: Report, tmp_path: Path) -> None:
    judged = rejudge(report, tmp_path, Budgets.model_validate({"accuracy": {"metric": "top5", "max_drop_pp": 3}}))
    assert judged.verdict == "unmeasured"
    assert "`top5` was not recorded" in judged.targets[0].candidates[0].verdicts[0].sentence


def test_a_class_that_the_report_does_not_know_is_named(report: Report, tmp_path: Path) -> None:
    budgets = Budgets.model_validate({"accuracy": {"class_floor": {"tow": 0.9}}})
    with pytest.raises(UsageError, match="knows no class `tow`") as caught:
        rejudge(report, tmp_path, budgets)
    assert "`two`" in caught.value.hint


FIGURES = ["accuracy.drop_pp", "accuracy.top1", "latency.ratio", "latency.p99_ms", "size.bytes", "memory.peak_mb"]


@pytest.mark.parametrize("metric", FIGURES)
@pytest.mark.parametrize("field", ["value", "low", "high", "samples", "subject"])
def test_a_figure_that_its_samples_contradict_is_refused(
    metric: str, field: str, report: Report, tmp_path: Path
) -> None:
    changed = change_figure(report, metric, **{field: {"samples": 9999, "subject": "other"}.get(field, 0.123)})
    with pytest.raises(TrustError, match=f"`{metric}` of {INT8} in target `x86` does not follow"):
        rejudge(changed, tmp_path)


def test_a_figure_that_is_missing_or_added_is_refused(report: Report, tmp_path: Path) -> None:
    fp32, int8 = report.targets[0].candidates
    for measurements in (
        int8.measurements[1:],
        (*int8.measurements, int8.measurements[0].model_copy(update={"metric": "energy.mj"})),
    ):
        changed = change(report, candidates=(fp32, int8.model_copy(update={"measurements": measurements})))
        with pytest.raises(TrustError, match="does not follow from the raw samples"):
            rejudge(changed, tmp_path)


def test_another_winner_verdict_budget_or_race_does_not_follow(report: Report, tmp_path: Path) -> None:
    fp32, int8 = report.targets[0].candidates
    duel = report.targets[0].duels[0]
    looser = Budgets.model_validate({"size": {"max_mb": 9.0}})
    for fields in (
        {"winner": FP32},
        {"candidates": (fp32.model_copy(update={"verdicts": fp32.verdicts[1:]}), int8)},
        {"budgets": looser},
        {"duels": (duel.model_copy(update={"high": 0.9, "low": 0.8, "ratio": 0.85}),)},
    ):
        with pytest.raises(TrustError, match="not follow"):
            rejudge(change(report, **fields), tmp_path)


def test_samples_that_were_changed_moved_or_left_out_prove_nothing(
    report: Report, evidence: Evidence, tmp_path: Path
) -> None:
    latency = tmp_path / "samples" / "x86" / LATENCY_FILE
    with pytest.raises(TrustError, match="names no raw samples"):
        rejudge(change(report, samples={}), tmp_path)
    with pytest.raises(TrustError, match=r"outside its folder: `\.\./x`"):
        rejudge(change(report, samples={"../x": "0"}), tmp_path)
    latency.write_bytes(make_evidence(2, **{INT8: 0.1}).to_files()[LATENCY_FILE])
    with pytest.raises(TrustError, match="is not the file that the report was made from"):
        rejudge(report, tmp_path)
    latency.unlink()
    with pytest.raises(TrustError, match="there is no"):
        rejudge(report, tmp_path)
    accuracy = {name: digest for name, digest in report.targets[0].samples.items() if name.endswith(ACCURACY_FILE)}
    with pytest.raises(TrustError, match=r"`latency\.\w+` .* does not follow"):
        rejudge(change(report, samples=accuracy), tmp_path)


def test_an_artifact_that_is_not_the_measured_one_is_refused(report: Report, tmp_path: Path) -> None:
    fp32, int8 = report.targets[0].candidates
    assert int8.artifact is not None
    file = int8.artifact.files[0].model_copy(update={"sha256": "1" * 64})
    other = int8.model_copy(update={"artifact": int8.artifact.model_copy(update={"files": (file,)})})
    with pytest.raises(TrustError, match=f"the artifact of {INT8} in target `x86` is not the one that was measured"):
        rejudge(change(report, candidates=(fp32, other)), tmp_path)


def test_a_number_of_images_that_the_samples_do_not_have_is_refused(report: Report, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="are not of 9999 validation images"):
        rejudge(report.model_copy(update={"validation_images": 9999}), tmp_path)


def bundle(artifact: Artifact | None, content: bytes, candidate: str, folder: Path) -> str:
    """Pack a bundle of that artifact beside the report; returns its name."""
    assert artifact is not None
    files.write_bytes(folder / "built" / artifact.files[0].path, content)
    contents = Contents(
        name="digits", target="x86", candidate=candidate, artifact=artifact.at(folder / "built"),
        preprocess=Preprocess(), classes=CLASSES, compatible={}, recipe=b"edgeopt: 1\n",
        golden=(Golden(inputs={"image": np.zeros(4)}, outputs={"scores": np.zeros(4)}),), measurements=(), verdicts=(),
    )  # fmt: skip
    pack_bundle(contents, folder / "bundle")
    pack_file(folder / "bundle", folder / "x86.edgeopt")
    return "x86.edgeopt"


def test_a_bundle_that_holds_something_else_than_the_winner_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    content = b"the network"
    sha256 = hashlib.sha256(content).hexdigest()
    artifact = build_of(ArtifactFile(path="model.onnx", sha256=sha256, size_bytes=len(content)))
    said = evidence.predictions | {INT8: replace(evidence.predictions[INT8], subject=artifact.digest())}
    assert evidence.latency is not None
    digests = tuple(said[side].subject for side in evidence.latency.sides)
    evidence = replace(evidence, predictions=said, latency=replace(evidence.latency, digests=digests))
    proven = prove(evidence, artifacts={INT8: artifact})
    assert proven.targets[0].winner == INT8
    shipped = change(proven, bundle=bundle(artifact, content, INT8, tmp_path))
    report = load_report(leave(shipped, evidence, tmp_path))
    assert rejudge(report, tmp_path) == report
    bundle(artifact, content, FP32, tmp_path)
    with pytest.raises(TrustError, match="does not hold the winner of target `x86`"):
        rejudge(report, tmp_path)
    (tmp_path / "x86.edgeopt").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(TrustError, match=r"x86\.edgeopt"):
        rejudge(report, tmp_path)
    (tmp_path / "x86.edgeopt").unlink()
    assert rejudge(report, tmp_path) == report, "the report alone can be judged too"


def test_samples_of_other_candidates_are_refused(report: Report, tmp_path: Path) -> None:
    stranger = Evidence({"stranger": predicted("stranger")})
    other = leave(report, stranger, tmp_path / "other").parent
    digests = {f"samples/x86/{name}": hashlib.sha256(data).hexdigest() for name, data in stranger.to_files().items()}
    with pytest.raises(TrustError, match=r"does not follow|are not those of"):
        rejudge(change(report, samples=digests), other)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY"])
def test_files_that_are_no_samples_are_refused(data: bytes, report: Report, tmp_path: Path) -> None:
    (tmp_path / "samples" / "x86" / ACCURACY_FILE).write_bytes(data)
    samples = report.targets[0].samples | {f"samples/x86/{ACCURACY_FILE}": hashlib.sha256(data).hexdigest()}
    with pytest.raises(TrustError, match="cannot be read"):
        rejudge(change(report, samples=samples), tmp_path)


def test_no_figure_depends_on_what_the_report_said_before(report: Report, evidence: Evidence) -> None:
    assert conclusions(prove(evidence)) == conclusions(report)
