"""A stored report held against its raw samples, and judged again: by its own budgets, or by others.

Nothing in the report is believed that its samples do not say: every figure is made anew from them.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from edgeopt.bundle.verify import verify_bundle
from edgeopt.errors import DataError, TrustError, UsageError, did_you_mean
from edgeopt.plan import BASELINE, ORIGINAL, float_side
from edgeopt.recipe.budgets import Budgets
from edgeopt.report import CandidateResult, Report, SideResult, TargetResult
from edgeopt.report.deriving import derive_target
from edgeopt.report.judging import conclusions, judge_report, judge_target
from edgeopt.validation import Measurement
from edgeopt.validation.evidence import Evidence

ANEW = "run `edgeopt compile` again"
CHANGED = f"it was changed after it was written: {ANEW}"

#: figures are stored in full, so they differ only by how another machine rounds a logarithm
TOLERANCE = 1e-6


def rejudge(report: Report, folder: Path, budgets: Budgets | None = None) -> Report:
    """The report judged again from the raw samples in `folder`, by `budgets` where they are given.

    Raises:
        TrustError: samples are missing or not those of the report, its figures or verdicts do not follow from them, or
            an artifact, or the bundle beside the report, is not the one that they are of.
        UsageError: `budgets` name a class that the report does not know.
    """
    seen = [load_evidence(target, folder) for target in report.targets]
    derived = [_derived(target, evidence) for target, evidence in zip(report.targets, seen, strict=True)]
    for target, found, evidence in zip(report.targets, derived, seen, strict=True):
        _check_figures(target, found, report.edgeopt)
        _check_artifacts(target, evidence)
        _check_bundle(target, folder)
    if report.validation_images not in (None, *(one.images for each in seen for one in each.predictions.values())):
        raise TrustError(f"the samples are not of {report.validation_images} validation images", CHANGED)
    judged = judge_report(report.model_copy(update={"targets": tuple(derived)}))
    if conclusions(judged) != conclusions(report):
        raise TrustError("the verdicts of the report do not follow from its measurements", CHANGED)
    if budgets is None:
        return judged
    targets = []
    for target, evidence in zip(report.targets, seen, strict=True):
        _check_classes(budgets, target)
        other = target.model_copy(update={"budgets": budgets})
        targets.append(judge_target(_derived(other, evidence)))
    return report.model_copy(update={"targets": tuple(targets)})


def load_evidence(target: TargetResult, folder: Path) -> Evidence:
    """The raw samples of a target, which lie in the folder of the report.

    Raises:
        TrustError: a file is missing, is not the one that the report was made from, or is no file of samples.
    """
    if not target.samples:
        what = f"the report names no raw samples of target `{target.name}`: nothing shows that its figures are true"
        raise TrustError(what, ANEW)
    found = {}
    for name, sha256 in target.samples.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise TrustError(f"the report names raw samples outside its folder: `{name}`", CHANGED)
        path = folder / name
        if not path.is_file():
            raise TrustError(f"there is no `{path}`: nothing shows that the report is true", "keep the folder whole")
        found[path.name] = path.read_bytes()
        if hashlib.sha256(found[path.name]).hexdigest() != sha256:
            raise TrustError(f"`{path}` is not the file that the report was made from", ANEW)
    try:
        return Evidence.from_files(found)
    except (ValueError, DataError) as error:
        raise TrustError(f"the raw samples of target `{target.name}` cannot be read: {error}", ANEW) from error


def _derived(target: TargetResult, evidence: Evidence) -> TargetResult:
    try:
        return derive_target(target, evidence)
    except (ValueError, KeyError, IndexError, DataError) as error:
        what = f"the raw samples of target `{target.name}` are not those of its candidates: {error}"
        raise TrustError(what, CHANGED) from error


def _check_figures(stated: TargetResult, derived: TargetResult, version: str) -> None:
    found = _sides(derived)
    for name, side in _sides(stated).items():
        wrong = _difference(side.measurements, found[name].measurements)
        if wrong:
            what = f"`{wrong}` of {name} in target `{stated.name}` does not follow from the raw samples"
            raise TrustError(what, f"it was changed, or edgeopt {version} measured otherwise: {ANEW}")
    if stated.duels != derived.duels and not _same_duels(stated, derived):
        raise TrustError(f"the race of target `{stated.name}` does not follow from the raw samples", CHANGED)


def _sides(target: TargetResult) -> dict[str, SideResult | CandidateResult]:
    """All that was measured, by its name in the samples."""
    sides: dict[str, SideResult | CandidateResult] = {one.id: one for one in target.candidates}
    sides |= {name: side for one in target.candidates for name, side in one.rebuilds.items()}
    sides |= {float_side(name): side for name, side in target.floats.items()}
    return sides | {
        name: side for name, side in ((ORIGINAL, target.original), (BASELINE, target.baseline)) if side is not None
    }


def _check_artifacts(target: TargetResult, evidence: Evidence) -> None:
    for name, side in _sides(target).items():
        said = evidence.predictions.get(name)
        if said is not None and (side.artifact is None or side.artifact.digest() != said.subject):
            what = f"the artifact of {name} in target `{target.name}` is not the one that was measured"
            raise TrustError(what, CHANGED)


def _check_bundle(target: TargetResult, folder: Path) -> None:
    """Hold the bundle against the report, where it lies beside it: a CI job may have kept the report alone."""
    path = None if target.bundle is None else folder / target.bundle
    if path is None or not path.is_file():
        return
    manifest, winner = verify_bundle(path).manifest, target.candidate(target.winner)
    shipped = (manifest.target, manifest.candidate, manifest.artifact.digest())
    if winner is None or winner.artifact is None or shipped != (target.name, winner.id, winner.artifact.digest()):
        raise TrustError(f"`{path}` does not hold the winner of target `{target.name}`", ANEW)


def _difference(stated: tuple[Measurement, ...], derived: tuple[Measurement, ...]) -> str:
    """The metric of the first measurement in which the two differ; empty if they agree."""
    said, found = ({one.metric: one for one in each} for each in (stated, derived))
    for metric in said | found:
        if metric not in said or metric not in found or not _alike(said[metric], found[metric]):
            return metric
    return ""


def _alike(first: Measurement, second: Measurement) -> bool:
    close = all(_close(getattr(first, name), getattr(second, name)) for name in ("value", "low", "high", "confidence"))
    exact = ("unit", "samples", "subject", "baseline", "simulated")
    return close and all(getattr(first, name) == getattr(second, name) for name in exact)


def _close(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _same_duels(stated: TargetResult, derived: TargetResult) -> bool:
    return len(stated.duels) == len(derived.duels) and all(
        (said.first, said.second) == (found.first, found.second)
        and all(_close(getattr(said, name), getattr(found, name)) for name in ("ratio", "low", "high"))
        for said, found in zip(stated.duels, derived.duels, strict=True)
    )


def _check_classes(budgets: Budgets, target: TargetResult) -> None:
    known = target.classes or ()
    for name in (budgets.accuracy.class_floor if budgets.accuracy else None) or {}:
        if name not in known:
            raise UsageError(f"the report knows no class `{name}`", did_you_mean(name, known))
