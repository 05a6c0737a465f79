"""One target compared: its candidates beside the original and float, in accuracy, latency, memory and size.

Steps that were stored give artifacts and predictions; here the sides that could be built are timed together, look by
look while a latency budget is undecided, and everything becomes measurements of the report.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

from edgeopt import environment, files, gates, keys, workers
from edgeopt.backends import get
from edgeopt.errors import EdgeoptError
from edgeopt.execute import Results
from edgeopt.model import Artifact
from edgeopt.plan import Side, Step, TargetPlan
from edgeopt.report import BuiltArtifact, CandidateResult, SideResult, TargetResult
from edgeopt.report.judging import judge_target
from edgeopt.select import Duel
from edgeopt.store import Found, Store
from edgeopt.validation import Measurement
from edgeopt.validation.accuracy import Predictions, load_predictions, measure_accuracy, pack_samples
from edgeopt.validation.latency import SideError, describe_waiting, measure_latency, measure_sets, ratio_interval
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.memory import measure_memory
from edgeopt.validation.size import measure_size
from edgeopt.workers import Progress

SAMPLES, SAMPLES_FILE = "samples", "latency.npz"

#: a latency is measured again after this: a machine changes
FRESH_SECONDS = 86_400.0

#: batches of validation images that every side is timed on, in turn
TIMED_BATCHES = 8


@dataclass(frozen=True)
class Timing:
    """Latency samples of a target, whether they were stored, and the seconds that measuring took."""

    samples: LatencySamples
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """A target in the report, and the raw samples behind it: file name → bytes."""

    result: TargetResult
    raw: dict[str, bytes]


def make_protocol(target: TargetPlan, seed: int) -> Protocol:
    """How a target is timed."""
    return Protocol(threads=target.threads, seed=seed)


def buildable(target: TargetPlan, results: Results) -> list[Side]:
    """The sides that were built and have predicted."""
    return [side for side in target.sides() if side.predict in results.found]


def time_target(
    step: Step, target: TargetPlan, results: Results, store: Store, progress: Progress, *, fresh: bool
) -> Timing:
    """The latency samples of a target: stored ones of today that decided, or new ones.

    A candidate that cannot be timed is noted in `results.failed` and left out.

    Raises:
        BuildError: the original or float cannot be timed.
    """
    sides = {side.id: results.artifact(side.build) for side in buildable(target, results)}
    missing = [side.id for side in target.sides() if side.id not in sides]
    parts = step.parts | ({"sides left out": ", ".join(missing)} if missing else {})
    key = keys.digest(parts) if missing else step.key
    with store.hold(key):
        found = None if fresh else store.find(key)
        samples = None if found is None else _stored(found, sides, target, results)
        if found is not None and samples is not None:
            return Timing(samples, True, found.entry.seconds)
        samples = _measure(sides, target, results, progress)
        if set(samples.sides) == set(sides) and _decided(samples, target, results):
            _keep(step, key, parts, samples, store)
    return Timing(samples, False, samples.seconds)


def _stored(found: Found, sides: dict[str, Artifact], target: TargetPlan, results: Results) -> LatencySamples | None:
    """Stored samples, if they are of today, of these very artifacts, and decide what there is to decide."""
    if time.time() - found.entry.created > FRESH_SECONDS:
        return None
    samples = LatencySamples.from_npz((found.folder / SAMPLES_FILE).read_bytes())
    built = {name: artifact.digest() for name, artifact in sides.items()}
    same = dict(zip(samples.sides, samples.digests, strict=True)) == built
    return samples if same and _decided(samples, target, results) else None


def _measure(sides: dict[str, Artifact], target: TargetPlan, results: Results, progress: Progress) -> LatencySamples:
    protocol = make_protocol(target, results.plan.recipe.seed)
    count = TIMED_BATCHES * target.batch
    _, inputs = workers.run("edgeopt.data:read_first", results.splits().validation, count, target.batch)
    samples: LatencySamples | None = None
    look = 0
    while True:
        try:
            sets, lock = protocol.looks[look], environment.timing_lock()
            samples = measure_sets(sides, inputs, protocol, sets, lock, so_far=samples, progress=progress)
        except SideError as error:
            sides, samples = _without(error, sides, target, results), None
            continue
        look += 1
        if samples.exhausted or look == len(protocol.looks) or _decided(samples, target, results):
            return samples


def _without(error: SideError, sides: dict[str, Artifact], target: TargetPlan, results: Results) -> dict[str, Artifact]:
    """The sides but the one that failed; without the original nothing can be compared."""
    failed = next(side for side in target.sides() if side.id == error.side)
    if failed is target.original:
        raise error
    results.failed[failed.predict] = error
    return {name: artifact for name, artifact in sides.items() if name != error.side}


def _decided(samples: LatencySamples, target: TargetPlan, results: Results) -> bool:
    """Whether every latency budget of every candidate is decided that misses no other budget."""
    for side in target.candidates:
        if side.id not in samples.sides:
            continue
        verdicts = gates.judge(target.budgets, measure_candidate(side, target, results, samples))
        missed = any(one.verdict == "fail" for one in verdicts)
        if not missed and any(
            one.verdict == "inconclusive" and one.budget.startswith(("latency", "throughput")) for one in verdicts
        ):
            return False
    return True


def _keep(step: Step, key: str, parts: dict[str, str], samples: LatencySamples, store: Store) -> None:
    with store.workspace() as folder:
        files.write_bytes(folder / SAMPLES_FILE, samples.to_npz())
        store.put(key, step.id, parts, {"facts": {}}, samples.seconds, folder)


def measure_candidate(
    side: Side, target: TargetPlan, results: Results, samples: LatencySamples | None
) -> tuple[Measurement, ...]:
    """All measurements of one candidate, each budget's error shared among the candidates."""
    count = len(target.candidates)
    accuracy = target.budgets.accuracy
    confidence = 1 - (1 - (accuracy.confidence if accuracy else 0.95)) / count
    named = results.plan.recipe.data.classes or []
    floors = (accuracy.class_floor if accuracy else None) or {}
    found = measure_accuracy(
        predictions_of(side, results), predictions_of(target.original, results), confidence,
        classes={name: named.index(name) for name in floors}, raw=accuracy_file(target),
    )  # fmt: skip
    found.append(measure_size(results.artifact(side.build), simulated=get(side.backend).simulated))
    return tuple(found + _latency(side, target, samples, count))


def _latency(side: Side, target: TargetPlan, samples: LatencySamples | None, count: int) -> list[Measurement]:
    if samples is None or side.id not in samples.sides:
        return []
    simulated = get(side.backend).simulated
    raw = latency_file(target)
    confidence = target.budgets.latency.confidence if target.budgets.latency else 0.95
    reference = target.floats.get(side.backend)
    found = measure_latency(
        samples, side.id, samples.protocol.alpha(confidence, count), original=target.original.id,
        float_side=reference.id if reference and reference.id in samples.sides else None, raw=raw, simulated=simulated,
    )  # fmt: skip
    return [*found, measure_memory(samples, side.id, raw=raw, simulated=simulated)]


def predictions_of(side: Side, results: Results) -> Predictions:
    return load_predictions(results.found[side.predict].folder)


def accuracy_file(target: TargetPlan) -> str:
    """Where the report keeps what every side of a target said of each image."""
    return f"{SAMPLES}/{target.name}/accuracy.npz"


def latency_file(target: TargetPlan) -> str:
    """Where the report keeps every timed run of a target."""
    return f"{SAMPLES}/{target.name}/{SAMPLES_FILE}"


def compare(target: TargetPlan, results: Results, timing: Timing | None) -> Comparison:
    """The whole target judged, with the raw samples that it is judged from."""
    samples = timing.samples if timing else None
    protocol = samples.protocol if samples else make_protocol(target, results.plan.recipe.seed)
    raw: dict[str, bytes] = {}
    sides = {side.id: predictions_of(side, results) for side in buildable(target, results)}
    raw[accuracy_file(target)] = pack_samples(sides)
    if samples is not None:
        raw[latency_file(target)] = samples.to_npz()
    result = TargetResult(
        name=target.name, threads=target.threads, batch=target.batch, machine=environment.describe(),
        budgets=target.budgets, samples=tuple(raw),
        original=_reference(target.original, target, results, samples),
        float={
            name: _reference(side, target, results, samples)
            for name, side in target.floats.items() if side.predict in results.found
        },
        candidates=tuple(_candidate(side, target, results, samples) for side in target.candidates),
        duels=_duels(target, samples),
        protocol=_describe(protocol, samples),
        notes=tuple(_notes(target, results, samples)),
    )  # fmt: skip
    return Comparison(judge_target(result), raw)


def _notes(target: TargetPlan, results: Results, samples: LatencySamples | None) -> Iterator[str]:
    """What a reader must know beside the figures."""
    for name, side in target.floats.items():
        error = failure_of(side, results)
        if error is not None:
            yield f"float on {name} has no figures: {error.message}"
    waiting = describe_waiting(samples) if samples is not None else ""
    if waiting:
        yield waiting


def _reference(side: Side, target: TargetPlan, results: Results, samples: LatencySamples | None) -> SideResult:
    paired = None if side is target.original else predictions_of(target.original, results)
    simulated, raw = get(side.backend).simulated, latency_file(target)
    found = measure_accuracy(predictions_of(side, results), paired, 0.95, raw=accuracy_file(target))
    found.append(measure_size(results.artifact(side.build), simulated=simulated))
    if samples is not None and side.id in samples.sides:
        original, alpha = None if side is target.original else target.original.id, samples.protocol.alpha(0.95)
        found += measure_latency(samples, side.id, alpha, original=original, raw=raw, simulated=simulated)
        found.append(measure_memory(samples, side.id, raw=raw, simulated=simulated))
    return SideResult(backend=side.backend, measurements=tuple(found))


def _candidate(side: Side, target: TargetPlan, results: Results, samples: LatencySamples | None) -> CandidateResult:
    error = failure_of(side, results)
    common = CandidateResult(id=side.id, backend=side.backend, variant=side.variant, passes=side.passes)
    if error is not None:
        return common.model_copy(update={"error": error.message, "hint": error.hint or None})
    artifact = results.artifact(side.build)
    built = BuiltArtifact(files=artifact.files, requires=artifact.requires)
    found = measure_candidate(side, target, results, samples)
    return common.model_copy(update={"artifact": built, "measurements": found})


def failure_of(side: Side, results: Results) -> EdgeoptError | None:
    """Why a side has no result: the error of the first of its steps that failed."""
    return next(
        (results.failed[step] for step in (*side.steps, side.build, side.predict) if step in results.failed), None
    )


def _duels(target: TargetPlan, samples: LatencySamples | None) -> tuple[Duel, ...]:
    if samples is None:
        return ()
    ran = [side.id for side in target.candidates if side.id in samples.sides]
    duels = []
    for first, second in itertools.combinations(ran, 2):
        ratio = ratio_interval(samples, first, second, samples.protocol.alpha(0.95))
        if ratio.value is not None:
            duels.append(Duel(first=first, second=second, ratio=ratio.value, low=ratio.low, high=ratio.high))
    return tuple(duels)


def _describe(protocol: Protocol, samples: LatencySamples | None) -> dict[str, str | int | float]:
    sets = samples.sets if samples else 0
    return {
        "sets": sets, "blocks": sets * protocol.blocks, "iterations": protocol.iterations,
        "threads": protocol.threads, "seed": protocol.seed, "seconds": round(samples.seconds, 1) if samples else 0.0,
        "throttled_sets": sets - samples.kept_sets if samples else 0,
    }  # fmt: skip
