"""One target compared: its candidates beside the original and float, in accuracy, latency, memory and size.

Steps that were stored give artifacts and predictions; here the sides that could be built are timed together, look by
look while a latency budget is undecided, and everything becomes measurements of the report.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgeopt import environment, files, gates, keys, workers
from edgeopt.backends import Arrays
from edgeopt.errors import EdgeoptError
from edgeopt.execute import Results
from edgeopt.model import Artifact
from edgeopt.plan import Side, Step, TargetPlan
from edgeopt.report import CandidateResult, SideResult, TargetResult
from edgeopt.report.deriving import derive_candidate, derive_target, describe_builds, notes_on, raw_file
from edgeopt.report.judging import judge_target
from edgeopt.store import Found, Store
from edgeopt.validation.energy import explain_absence, find_counter, run_energy
from edgeopt.validation.energy_samples import EnergyProtocol, EnergySamples
from edgeopt.validation.evidence import ENERGY_FILE, LATENCY_FILE, SUSTAINED_FILE, Evidence
from edgeopt.validation.latency import SideError, measure_sets
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.noise import NoiseFloor, describe_floor
from edgeopt.validation.predictions import Predictions, load_predictions
from edgeopt.validation.sustained import SustainedSamples, run_sustained
from edgeopt.workers import Progress

#: a latency is measured again after this: a machine changes
FRESH_SECONDS = 86_400.0

#: batches of validation images that every side is timed on, in turn
TIMED_BATCHES = 8


@dataclass(frozen=True)
class Timing:
    """Latency samples of a target, and those of long runs where they are asked for; whether they were stored, and the
    seconds that measuring took."""

    samples: LatencySamples
    sustained: SustainedSamples | None
    energy: EnergySamples | None
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """A target in the report, and the raw samples behind it: file name → bytes."""

    result: TargetResult
    raw: dict[str, bytes]


def make_protocol(target: TargetPlan, seed: int) -> Protocol:
    """How a target is timed."""
    measure = target.measure
    return Protocol(threads=target.threads, concurrency=measure.concurrency, seconds=measure.seconds, seed=seed)


def buildable(target: TargetPlan, results: Results) -> list[Side]:
    """The sides that were built and have predicted."""
    return [side for side in target.sides() if side.predict in results.found]


def timeable(target: TargetPlan, results: Results) -> list[Side]:
    """The sides that this machine can time: those that were built for it; none where no candidate was."""
    built = [side for side in buildable(target, results) if not results.artifact(side.build).unbuilt]
    return built if any(side in built for side in target.candidates) else []


def time_target(
    step: Step, target: TargetPlan, results: Results, store: Store, progress: Progress, *, fresh: bool
) -> Timing:
    """The latency samples of a target: stored ones of today that decided, or new ones.

    A candidate that cannot be timed is noted in `results.failed` and left out.

    Raises:
        BuildError: the original or float cannot be timed.
    """
    sides = {side.id: results.artifact(side.build) for side in timeable(target, results)}
    missing = [side.id for side in target.sides() if side.id not in sides]
    parts = step.parts | ({"sides left out": ", ".join(missing)} if missing else {})
    key = keys.digest(parts) if missing else step.key
    with store.hold(key):
        found = None if fresh else store.find(key)
        stored = None if found is None else _stored(found, sides, target, results)
        if stored is not None:
            return stored
        began = time.monotonic()
        samples = _measure(sides, target, results, progress)
        sustained = _sustain(samples, sides, target, results, progress)
        energy = _count_energy(samples, sides, target, results, progress)
        timing = Timing(samples, sustained, energy, False, time.monotonic() - began)
        failed = [side.id for side in timeable(target, results) if side.predict in results.failed]
        if not failed and _decided(samples, target, results):
            _keep(step, key, parts, timing, store)
    return timing


def _stored(found: Found, sides: dict[str, Artifact], target: TargetPlan, results: Results) -> Timing | None:
    """Stored samples, if they are of today, of these very artifacts, and decide what there is to decide."""
    if time.time() - found.entry.created > FRESH_SECONDS:
        return None
    samples = LatencySamples.from_npz((found.folder / LATENCY_FILE).read_bytes())
    built = {name: artifact.digest() for name, artifact in sides.items()}
    same = dict(zip(samples.sides, samples.digests, strict=True)) == built
    if not same or not _decided(samples, target, results):
        return None
    long_runs = found.folder / SUSTAINED_FILE
    sustained = SustainedSamples.from_npz(long_runs.read_bytes()) if long_runs.is_file() else None
    counted = found.folder / ENERGY_FILE
    energy = EnergySamples.from_npz(counted.read_bytes()) if counted.is_file() else None
    wanted = target.budgets.energy is not None and target.device is None
    if energy is None and wanted and find_counter() is not None:
        return None
    return Timing(samples, sustained, energy, True, found.entry.seconds)


def _inputs(target: TargetPlan, results: Results) -> list[Arrays]:
    count = TIMED_BATCHES * target.batch
    _, inputs = workers.run("edgeopt.data:read_spread", results.splits().validation, count, target.batch)
    return list(inputs)


def _measure(sides: dict[str, Artifact], target: TargetPlan, results: Results, progress: Progress) -> LatencySamples:
    protocol, inputs = make_protocol(target, results.plan.recipe.seed), _inputs(target, results)
    device = results.devices.get(target.name)
    measure = measure_sets if device is None else device.measure_sets
    samples: LatencySamples | None = None
    look = 0
    while True:
        try:
            sets, lock = protocol.looks[look], environment.timing_lock()
            samples = measure(sides, inputs, protocol, sets, lock, so_far=samples, progress=progress)
        except SideError as error:
            sides, samples = _without(error, sides, target, results), None
            continue
        look += 1
        if samples.exhausted or look == len(protocol.looks) or _decided(samples, target, results):
            return samples


def _without(error: SideError, sides: dict[str, Artifact], target: TargetPlan, results: Results) -> dict[str, Artifact]:
    """The sides but the one that failed; without the original, or the baseline, nothing can be compared."""
    failed = next(side for side in target.sides() if side.id == error.side)
    if failed in (target.original, target.baseline):
        raise error
    results.failed[failed.predict] = error
    return {name: artifact for name, artifact in sides.items() if name != error.side}


def _decided(samples: LatencySamples, target: TargetPlan, results: Results) -> bool:
    """Whether every latency budget of every candidate is decided that misses no other budget."""
    return not any(
        one.verdict == "inconclusive" and one.budget.startswith(("latency", "throughput"))
        for verdicts in _unbeaten(samples, target, results).values()
        for one in verdicts
    )


def _unbeaten(samples: LatencySamples, target: TargetPlan, results: Results) -> dict[str, tuple[gates.Verdict, ...]]:
    """The candidates that were timed and miss nothing, with their verdicts."""
    shape, evidence = _shape(target, results), _evidence(target, results, samples)
    timed = [candidate for candidate in shape.candidates if candidate.id in samples.sides]
    judged = {one.id: gates.judge(target.budgets, derive_candidate(one, shape, evidence).measurements) for one in timed}
    return {name: found for name, found in judged.items() if all(one.verdict != "fail" for one in found)}


def _sustain(
    samples: LatencySamples, sides: dict[str, Artifact], target: TargetPlan, results: Results, progress: Progress
) -> SustainedSamples | None:
    """The long runs of the candidates that miss nothing, one after the other; None where none is asked for.

    A candidate that cannot run for so long is noted in `results.failed`.
    """
    minutes, found = target.measure.minutes, None
    if minutes is None:
        return None
    device = results.devices.get(target.name)
    run = run_sustained if device is None else device.run_sustained
    inputs, lock = _inputs(target, results), environment.timing_lock()
    for name in _unbeaten(samples, target, results):
        try:
            one = run(name, sides[name], inputs, samples.protocol, 60 * minutes, lock, progress=progress)
        except SideError as error:
            _without(error, sides, target, results)
            continue
        found = one if found is None else found.extend(one)
    return found


def _count_energy(
    samples: LatencySamples, sides: dict[str, Artifact], target: TargetPlan, results: Results, progress: Progress
) -> EnergySamples | None:
    """What the candidates that miss nothing take of energy; None where no budget asks, or no counter answers."""
    device = results.devices.get(target.name)
    counter = find_counter() if device is None else None
    if target.budgets.energy is None or (device is None and counter is None):
        return None
    chosen = {name: sides[name] for name in _unbeaten(samples, target, results)}
    protocol = EnergyProtocol(threads=target.threads, seed=results.plan.recipe.seed)
    while chosen:
        try:
            inputs, lock = _inputs(target, results), environment.timing_lock()
            if counter is not None:
                return run_energy(chosen, inputs, counter, protocol, lock, progress=progress)
            assert device is not None
            found = device.run_energy(chosen, inputs, protocol, progress)
            return None if isinstance(found, str) else found
        except SideError as error:
            chosen = _without(error, chosen, target, results)
    return None


def _keep(step: Step, key: str, parts: dict[str, str], timing: Timing, store: Store) -> None:
    with store.workspace() as folder:
        files.write_bytes(folder / LATENCY_FILE, timing.samples.to_npz())
        if timing.sustained is not None:
            files.write_bytes(folder / SUSTAINED_FILE, timing.sustained.to_npz())
        if timing.energy is not None:
            files.write_bytes(folder / ENERGY_FILE, timing.energy.to_npz())
        store.put(key, step.id, parts, {"facts": {}}, timing.seconds, folder)


def predictions_of(side: Side, results: Results) -> Predictions:
    return load_predictions(results.found[side.predict].folder)


def compare(target: TargetPlan, results: Results, timing: Timing | None, floor: NoiseFloor | None = None) -> Comparison:
    """The whole target judged, with the raw samples that it is judged from, and the noise floor of the machine."""
    evidence = _evidence(target, results, timing.samples if timing else None)
    if timing is not None:
        evidence = replace(evidence, sustained=timing.sustained, energy=timing.energy)
    shape = _shape(target, results).model_copy(update={"noise_floor": floor})
    raw = {raw_file(shape, name): data for name, data in evidence.to_files().items()}
    derived = derive_target(shape, evidence)
    samples = {name: hashlib.sha256(data).hexdigest() for name, data in raw.items()}
    notes = [*_notes(target, results), *notes_on(evidence)]
    if target.budgets.energy is not None and evidence.energy is None and timing is not None:
        why = explain_absence() if target.device is None else "its device has no counter that could be read"
        notes.append(f"energy was not measured: {why}")
    notes += [describe_floor(floor)] if floor is not None else []
    notes += [note for candidate in derived.candidates for note in describe_builds(candidate)]
    return Comparison(judge_target(derived.model_copy(update={"samples": samples, "notes": tuple(notes)})), raw)


def _evidence(target: TargetPlan, results: Results, samples: LatencySamples | None) -> Evidence:
    return Evidence({side.id: predictions_of(side, results) for side in buildable(target, results)}, samples)


def _shape(target: TargetPlan, results: Results) -> TargetResult:
    """The target in the report, without its figures: what was built for each side, or why nothing was."""
    classes = results.plan.recipe.data.classes
    return TargetResult(
        name=target.name, threads=target.threads, batch=target.batch, machine=_machine(target, results),
        device=results.devices[target.name].environment if target.name in results.devices else None,
        budgets=target.budgets, classes=None if classes is None else tuple(classes),
        original=_reference(target.original, results),
        float={
            name: _reference(side, results) for name, side in target.floats.items() if side.predict in results.found
        },
        baseline=None if target.baseline is None else _reference(target.baseline, results),
        candidates=tuple(_candidate(side, target, results) for side in target.candidates),
    )  # fmt: skip


def _machine(target: TargetPlan, results: Results) -> str:
    """What the figures are of: the target's device, or this machine, unless all that was made is for another."""
    if target.name in results.devices:
        return results.devices[target.name].describe()
    built = [results.artifact(side.build) for side in target.candidates if side.build in results.found]
    return "a device that is not here" if built and all(one.unbuilt for one in built) else environment.describe()


def _notes(target: TargetPlan, results: Results) -> Iterator[str]:
    """What a reader must know beside the figures."""
    for name, side in target.floats.items():
        error = failure_of(side, results)
        if error is not None:
            yield f"float on {name} has no figures: {error.message}"
    for side in target.candidates:
        if side.build in results.found:
            yield from _notes_on(target, side, results.artifact(side.build))


def _notes_on(target: TargetPlan, side: Side, artifact: Artifact) -> Iterator[str]:
    if artifact.unbuilt:
        build = f"`edgeopt device build {target.name}/{side.id}/build --out engine`"
        yield f"{side.id} is planned and not built: {artifact.unbuilt}; take that folder to the device and type {build}"
    if "note" in artifact.facts:
        yield f"{side.id}: {artifact.facts['note']}"


def _reference(side: Side, results: Results) -> SideResult:
    return SideResult(backend=results.artifact(side.build).backend, artifact=results.artifact(side.build))


def _candidate(side: Side, target: TargetPlan, results: Results) -> CandidateResult:
    error = failure_of(side, results)
    common = CandidateResult(id=side.id, backend=side.backend, variant=side.variant, passes=side.passes)
    if error is not None:
        return common.model_copy(update={"error": error.message, "hint": error.hint or None})
    again = [one for one in target.rebuilds.get(side.id, ()) if one.predict in results.found]
    rebuilds = {one.id: _reference(one, results) for one in again}
    return common.model_copy(update={"artifact": results.artifact(side.build), "rebuilds": rebuilds})


def failure_of(side: Side, results: Results) -> EdgeoptError | None:
    """Why a side has no result: the error of the first of its steps that failed."""
    return next(
        (results.failed[step] for step in (*side.steps, side.build, side.predict) if step in results.failed), None
    )
