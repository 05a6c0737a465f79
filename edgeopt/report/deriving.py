"""Raw samples → all measurements of a target: used when a report is made, and when it is judged again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from edgeopt import gates
from edgeopt.model import Artifact
from edgeopt.plan import BASELINE, ORIGINAL, float_side
from edgeopt.recipe.budgets import AccuracyBudget
from edgeopt.report import CandidateResult, SideResult, TargetResult
from edgeopt.select import Duel
from edgeopt.validation import Measurement
from edgeopt.validation.accuracy import measure_accuracy
from edgeopt.validation.energy import describe_energy, measure_energy, unmeasured_energy
from edgeopt.validation.evidence import ACCURACY_FILE, ENERGY_FILE, LATENCY_FILE, SUSTAINED_FILE, Evidence
from edgeopt.validation.latency import describe_conditions, measure_latency, ratio_interval
from edgeopt.validation.latency_samples import CLOCK, LatencySamples
from edgeopt.validation.memory import measure_memory
from edgeopt.validation.noise import note_noise
from edgeopt.validation.size import measure_size
from edgeopt.validation.sustained import describe_sustained, measure_sustained

#: the folder of raw samples, beside the report
SAMPLES = "samples"

#: of what no budget judges
CONFIDENCE = 0.95

#: what is told of several builds: metric, name, digits and unit
SPREADS = (
    ("latency.p50_ms", "p50", 3, " ms"), ("latency.ratio", "time against the original", 3, "×"),
    ("accuracy.drop_pp", "drop", 2, " pp"),
)  # fmt: skip


def derive_target(target: TargetResult, evidence: Evidence) -> TargetResult:
    """The target with every figure that follows from `evidence`; what is in it already is replaced.

    The error that a budget permits is shared among the candidates and, for latency, among the looks.

    Raises:
        DataError: the sides were not run on the same images.
    """
    floats = {name: _derive_side(side, float_side(name), target, evidence) for name, side in target.floats.items()}
    original = target.original and _derive_side(target.original, ORIGINAL, target, evidence)
    candidates = tuple(derive_candidate(candidate, target, evidence) for candidate in target.candidates)
    return target.model_copy(
        update={
            "original": original,
            "floats": floats,
            "baseline": target.baseline and _derive_side(target.baseline, BASELINE, target, evidence),
            "candidates": candidates,
            "duels": _duels(target, evidence.latency),
            "protocol": {} if evidence.latency is None else _describe(evidence.latency),
        }
    )


def derive_candidate(candidate: CandidateResult, target: TargetResult, evidence: Evidence) -> CandidateResult:
    """One candidate with its measurements; none where it could not be built or run."""
    if candidate.error is not None or candidate.artifact is None or candidate.id not in evidence.predictions:
        return candidate.model_copy(update={"measurements": ()})
    again = {name: _derive_side(side, name, target, evidence) for name, side in candidate.rebuilds.items()}
    accuracy, latency = target.budgets.accuracy, target.budgets.latency
    count = len(target.candidates)
    found = _measure_accuracy(candidate.id, target, evidence, _shared(accuracy, count))
    found.append(_measure_size(candidate.id, candidate.artifact, evidence))
    if evidence.latency is not None:
        sure = CONFIDENCE if latency is None else latency.confidence
        alpha = evidence.latency.protocol.alpha(sure, count)
        timed = _measure_latency(candidate.id, candidate.backend, alpha, target, evidence)
        limits = {one.metric: one.limit for one in gates.limits(target.budgets)}
        found += note_noise(timed, limits, evidence.latency, target.noise_floor)
    if evidence.sustained is not None and candidate.id in evidence.sustained.sides:
        raw, simulated = raw_file(target, SUSTAINED_FILE), evidence.predictions[candidate.id].simulated
        found += measure_sustained(evidence.sustained, candidate.id, 1 - CONFIDENCE, raw=raw, simulated=simulated)
    if target.budgets.energy is not None:
        found.append(_measure_energy(candidate.id, target.budgets.energy.confidence, target, evidence))
    return candidate.model_copy(update={"measurements": tuple(found), "rebuilds": again})


def describe_builds(candidate: CandidateResult) -> Iterator[str]:
    """How far the builds of one candidate differ; nothing of one that was built once."""
    built: list[SideResult | CandidateResult] = [candidate, *candidate.rebuilds.values()]
    sides = [side for side in built if side.measurements]
    if len(sides) < 2:
        return
    told = []
    for metric, what, digits, unit in SPREADS:
        found = [one.value for side in sides for one in side.measurements if one.metric == metric]
        values = [value for value in found if value is not None]
        if len(values) > 1:
            told.append(f"{what} {min(values):.{digits}f} to {max(values):.{digits}f}{unit}")
    artifacts = len({side.artifact.digest() for side in sides if side.artifact is not None})
    same = "all alike" if artifacts == 1 else f"{artifacts} different ones"
    yield f"{candidate.id}: {len(sides)} builds, {same}: {', '.join(told)}"


def _measure_energy(name: str, confidence: float, target: TargetResult, evidence: Evidence) -> Measurement:
    said = evidence.predictions[name]
    if evidence.energy is None or name not in evidence.energy.sides:
        return unmeasured_energy("no counter was read", said.subject)
    alpha, raw = (1 - confidence) / len(target.candidates), raw_file(target, ENERGY_FILE)
    return measure_energy(evidence.energy, name, alpha, raw=raw, simulated=said.simulated)


def notes_on(evidence: Evidence) -> Iterator[str]:
    """What a reader must know of the samples beside the figures."""
    if evidence.latency is not None:
        yield from describe_conditions(evidence.latency)
    if evidence.sustained is not None:
        yield from describe_sustained(evidence.sustained, 1 - CONFIDENCE)
    if evidence.energy is not None:
        yield describe_energy(evidence.energy)


def raw_file(target: TargetResult, name: str) -> str:
    """Where the raw samples of a target lie, relative to the report."""
    return f"{SAMPLES}/{target.name}/{name}"


def _derive_side(side: SideResult, name: str, target: TargetResult, evidence: Evidence) -> SideResult:
    """A reference with its measurements; none where it could not be built or run."""
    if name not in evidence.predictions or side.artifact is None:
        return side.model_copy(update={"measurements": ()})
    found = _measure_accuracy(name, target, evidence, CONFIDENCE, judged=False)
    found.append(_measure_size(name, side.artifact, evidence))
    if evidence.latency is not None:
        found += _measure_latency(name, None, evidence.latency.protocol.alpha(CONFIDENCE), target, evidence)
    return side.model_copy(update={"measurements": tuple(found)})


def _shared(budget: AccuracyBudget | None, count: int) -> float:
    """The confidence of one candidate's verdict, so that those of all together keep the budget's."""
    return 1 - (1 - (CONFIDENCE if budget is None else budget.confidence)) / count


def _measure_accuracy(
    name: str, target: TargetResult, evidence: Evidence, confidence: float, *, judged: bool = True
) -> list[Measurement]:
    budget, classes = target.budgets.accuracy, list(target.classes or ())
    asked = (budget.class_floor if budget and judged else None) or {}
    original = None if name == ORIGINAL else evidence.predictions.get(ORIGINAL)
    return measure_accuracy(
        evidence.predictions[name], original, confidence, metric=budget.metric if budget else "top1",
        baseline=evidence.predictions.get(BASELINE) if judged else None,
        floors={each: (classes.index(each), floor) for each, floor in asked.items()},
        raw=raw_file(target, ACCURACY_FILE),
    )  # fmt: skip


def _measure_size(name: str, artifact: Artifact, evidence: Evidence) -> Measurement:
    said = evidence.predictions[name]
    return measure_size(artifact.files, said.subject, simulated=said.simulated)


def _measure_latency(
    name: str, backend: str | None, alpha: float, target: TargetResult, evidence: Evidence
) -> list[Measurement]:
    """Latency and memory of one side; `backend` where it is to be compared with float on it."""
    samples = evidence.latency
    if samples is None or name not in samples.sides:
        return []
    raw, simulated = raw_file(target, LATENCY_FILE), evidence.predictions[name].simulated
    reference = None if backend is None or backend not in target.floats else float_side(backend)
    found = measure_latency(
        samples, name, alpha, original=None if name == ORIGINAL else ORIGINAL,
        float_side=reference if reference in samples.sides else None,
        baseline=BASELINE if backend is not None and BASELINE in samples.sides else None, raw=raw, simulated=simulated,
    )  # fmt: skip
    return [*found, measure_memory(samples, name, raw=raw, simulated=simulated)]


def _duels(target: TargetResult, samples: LatencySamples | None) -> tuple[Duel, ...]:
    if samples is None:
        return ()
    ran = [candidate.id for candidate in target.candidates if candidate.id in samples.sides]
    duels = []
    for first, second in itertools.combinations(ran, 2):
        ratio = ratio_interval(samples, first, second, samples.protocol.alpha(CONFIDENCE, len(target.candidates)))
        if ratio.value is not None:
            duels.append(Duel(first=first, second=second, ratio=ratio.value, low=ratio.low, high=ratio.high))
    return tuple(duels)


def _describe(samples: LatencySamples) -> dict[str, str | int | float]:
    protocol = samples.protocol
    return {
        "sets": samples.sets, "blocks": samples.blocks, "dropped_blocks": samples.dropped_blocks,
        "iterations": protocol.iterations, "threads": protocol.threads, "concurrency": protocol.concurrency,
        "clock": CLOCK, "seed": protocol.seed, "seconds": round(samples.seconds, 1),
    }  # fmt: skip
