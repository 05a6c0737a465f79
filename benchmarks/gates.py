"""Can a CI job trust the verdict? How often it is wrong on equal networks, right on a slower one, and what it costs.

Trials drive what `compile` drives, with the same protocol: sets of fresh processes, look by look, until the budget is
judged. Beside each the usual gate stands: as many runs of one network, then of the other, and their means compared.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import coverage
import faults
import numpy as np
import onnx
from neighbour import busy_neighbour
from onnx import helper
from tables import describe_machine, show

from edgeopt import environment, gates
from edgeopt.backends import Arrays, build_artifact
from edgeopt.context import Context
from edgeopt.model import Artifact, Model, OnnxValue
from edgeopt.onnx_graph import input_specs, load_graph, output_specs, save_graph
from edgeopt.recipe.budgets import Budgets, LatencyBudget
from edgeopt.validation.latency import measure_latency, measure_sets, ratio_interval
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.noise import CHANNELS, PIXELS, make_network
from edgeopt.validation.statistics import exact_bounds
from edgeopt.validation.subject import thread_environment
from edgeopt.workers import Worker

TRIALS = 60
LIMIT = 1.05
BUDGETS = Budgets(latency=LatencyBudget(max_ratio=LIMIT))
CONFIDENCE = 0.95

#: how much slower the slowed network is to be, and how near calibration must come
SLOWDOWN, NEAR = 0.10, 0.003
#: of its extra branch: two convolutions of so many channels, on up to so many copies of the image
BRANCH_CHANNELS, BRANCH_IMAGES = 16, 4
#: sets of workers of one step of calibration, and of the measurement that the true ratio is taken from
CALIBRATING_SETS, CONFIRMING_SETS = 20, 80

#: runs of sound jobs, in which no fault may be found
SOUND_RUNS = 20

Sides = dict[str, Artifact]


@dataclass(frozen=True)
class Trial:
    """One verdict of the gate, what it took, and what the means of two sequences of runs say instead."""

    seed: int
    verdict: gates.Outcome
    ratio: float
    sets: int
    inferences: int
    seconds: float
    mean_ratio: float

    @property
    def mean_verdict(self) -> gates.Outcome:
        return "fail" if self.mean_ratio > LIMIT else "pass"


@dataclass(frozen=True)
class Scene:
    """Trials under one condition, and what is asked of the gate there."""

    name: str
    asked: str
    trials: list[Trial]


def main() -> None:
    parts: dict[str, Callable[[Sides, int], Scene]] = {"aa": _quiet, "neighbour": _busy, "slow": _slowed}
    tables: dict[str, Callable[[], None]] = {"coverage": coverage.main, "faults": _show_faults}
    options = _options([*parts, *tables])
    with tempfile.TemporaryDirectory() as scratch:
        sides = dict.fromkeys(("original", "candidate"), _build(make_network(_fresh(scratch, "plain")), scratch))
        scenes = [part(sides, options.trials) for name, part in parts.items() if name in options.only]
    if scenes:
        _show(scenes)
    for name, show_table in tables.items():
        if name in options.only:
            show_table()


def _options(parts: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each condition")
    parser.add_argument("--only", type=lambda text: text.split(","), default=parts, help=",".join(parts))
    options = parser.parse_args()
    if unknown := set(options.only) - set(parts):
        parser.error(f"--only knows {', '.join(parts)}, not {', '.join(sorted(unknown))}")
    return options


# the conditions


def _quiet(sides: Sides, trials: int) -> Scene:
    return Scene("equal", "fail ≤ 2 %", _run_trials("equal", sides, trials, 0))


def _busy(sides: Sides, trials: int) -> Scene:
    return Scene("equal, busy neighbour", "fail ≤ 2 %", _run_trials("busy", sides, trials, 1000, neighbour=True))


def _slowed(sides: Sides, trials: int) -> Scene:
    with tempfile.TemporaryDirectory() as scratch:
        slowed, truth = _calibrate(sides["original"], scratch)
        name = f"slower by {truth}"
        return Scene(name, "pass 0, fail ≥ 90 %", _run_trials("slow", sides | {"candidate": slowed}, trials, 2000))


def _run_trials(name: str, sides: Sides, trials: int, first_seed: int, *, neighbour: bool = False) -> list[Trial]:
    done = []
    for seed in range(first_seed, first_seed + trials):
        with busy_neighbour(seed) if neighbour else contextlib.nullcontext():
            trial = _try(sides, seed)
        done.append(trial)
        _tell(f"{name} {seed}: {trial.verdict} {trial.ratio:.3f}, {trial.sets} sets, {trial.seconds:.1f} s; "
              f"means {trial.mean_verdict} {trial.mean_ratio:.3f}")  # fmt: skip
    return done


# one trial


def _try(sides: Sides, seed: int) -> Trial:
    """Judge look by look, then time as many runs in two sequences."""
    began = time.monotonic()
    protocol = Protocol(seed=seed)
    for samples in _looks(sides, protocol):
        verdict = _judge(samples)
        if verdict != "inconclusive" or samples.exhausted:
            break
    seconds = time.monotonic() - began
    turns = samples.protocol.discard + samples.protocol.iterations
    inferences = len(sides) * samples.sets * samples.protocol.blocks * turns
    ratio = ratio_interval(samples, "candidate", "original", protocol.alpha(CONFIDENCE)).value
    return Trial(
        seed, verdict, ratio or float("nan"), samples.sets, inferences, seconds, _compare_means(sides, inferences // 2)
    )


def _looks(sides: Sides, protocol: Protocol) -> Iterator[LatencySamples]:
    samples = None
    for sets in protocol.looks:
        samples = measure_sets(sides, [_image()], protocol, sets, environment.timing_lock(), so_far=samples)
        yield samples


def _judge(samples: LatencySamples) -> gates.Outcome:
    found = measure_latency(samples, "candidate", samples.protocol.alpha(CONFIDENCE), original="original")
    return next(one.verdict for one in gates.judge(BUDGETS, found) if one.budget == "latency.max_ratio")


def _compare_means(sides: Sides, runs: int) -> float:
    """The mean of so many runs of the candidate ÷ that of as many of the original, one after the other."""
    means = {}
    for name, artifact in sides.items():
        subject = ("edgeopt.validation.subject:Subject", artifact, [_image()])
        with Worker(*subject, environ=thread_environment(1)) as worker:
            worker.call("warm_up")
            means[name] = statistics.fmean(worker.call("time_block", 0, runs).times_ns)
    return means["candidate"] / means["original"]


# the networks


def _calibrate(plain: Artifact, scratch: str) -> tuple[Artifact, str]:
    """The network with an extra branch that makes it slower by `SLOWDOWN`, and by how much it truly is, with bounds."""
    rows = PIXELS
    for step in range(8):
        slowed = _build(_add_branch(plain, rows, _fresh(scratch, f"branch{step}")), scratch)
        excess = _measure(plain, slowed, CALIBRATING_SETS)[0] - 1.0
        _tell(f"calibrating: {rows} rows are slower by {100 * excess:.2f} %")
        wanted = min(BRANCH_IMAGES * PIXELS, max(4, round(rows * SLOWDOWN / max(excess, 0.01))))
        if abs(excess - SLOWDOWN) <= NEAR or wanted == rows:
            break
        rows = wanted
    value, low, high = (100 * (one - 1.0) for one in _measure(plain, slowed, CONFIRMING_SETS))
    return slowed, f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _measure(plain: Artifact, slowed: Artifact, sets: int) -> tuple[float, float, float]:
    protocol = Protocol(looks=(sets,), seconds=3600)
    sides = {"plain": plain, "slowed": slowed}
    samples = measure_sets(sides, [_image()], protocol, sets, environment.timing_lock())
    ratio = ratio_interval(samples, "slowed", "plain", 1 - CONFIDENCE)
    assert ratio.value is not None
    assert ratio.low is not None
    assert ratio.high is not None
    return ratio.value, ratio.low, ratio.high


def _add_branch(plain: Artifact, rows: int, folder: Path) -> Model:
    """The network with two more convolutions, on so many rows of the image repeated downwards, as a second output."""
    graph = load_graph(plain.folder / plain.files[0].path)
    random = np.random.default_rng(1)
    widths = (3, BRANCH_CHANNELS, BRANCH_CHANNELS)
    weights = {f"branch_weight{at}": random.standard_normal((widths[at + 1], widths[at], 3, 3)) / 9 for at in range(2)}
    integers = {"branch_start": [0], "branch_stop": [rows], "branch_axis": [2]}
    nodes = [
        helper.make_node("Concat", ["image"] * BRANCH_IMAGES, ["branch_images"], axis=2),
        helper.make_node("Slice", ["branch_images", *integers], ["branch0"]),
    ]
    for at, weight in enumerate(weights):
        nodes.append(helper.make_node("Conv", [f"branch{at}", weight], [f"branch_sum{at}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"branch_sum{at}"], [f"branch{at + 1}"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["branch2"], ["extra"]))
    graph.graph.node.extend(nodes)
    arrays = {name: np.array(values, np.int64) for name, values in integers.items()}
    arrays |= {name: values.astype(np.float32) for name, values in weights.items()}
    graph.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    shape = ["batch", BRANCH_CHANNELS, 1, 1]
    graph.graph.output.append(helper.make_tensor_value_info("extra", onnx.TensorProto.FLOAT, shape))
    save_graph(graph, folder / OnnxValue().file)
    return Model(value=OnnxValue(), inputs=input_specs(graph), outputs=output_specs(graph), folder=folder)


def _build(model: Model, scratch: str) -> Artifact:
    return build_artifact("onnxruntime_cpu", model, Context(folder=_fresh(scratch, f"{model.folder.name}-built")))


def _image() -> Arrays:
    return {"image": np.random.default_rng(0).standard_normal((1, 3, PIXELS, PIXELS)).astype(np.float32)}


def _fresh(scratch: str, name: str) -> Path:
    folder = Path(scratch) / name
    folder.mkdir()
    return folder


# the tables


def _show(scenes: Sequence[Scene]) -> None:
    network = f"{CHANNELS} channels, {PIXELS} × {PIXELS}"
    title = f"verdicts on `max_ratio: {LIMIT}` · {network} · {describe_machine()}"
    columns = ["networks", "seeds", "judged by", "pass", "inconclusive", "fail", "fail at most", "ratio", "sd", "asked"]
    show(title, columns, [row for scene in scenes for row in _verdict_rows(scene)])
    columns = ["networks", "inferences, median", "largest", "sets, median", "s, median", "looks 1 / 2 / 3", "asked"]
    show("what a verdict took, warm-up not counted", columns, [_cost_row(scene) for scene in scenes])


def _verdict_rows(scene: Scene) -> Iterator[list[object]]:
    seeds = f"{scene.trials[0].seed}–{scene.trials[-1].seed}"
    judges = {
        "edgeopt": ([one.verdict for one in scene.trials], [one.ratio for one in scene.trials], scene.asked),
        "means in sequence": ([one.mean_verdict for one in scene.trials], [one.mean_ratio for one in scene.trials], ""),
    }
    for judge, (verdicts, ratios, asked) in judges.items():
        counts = [verdicts.count(outcome) for outcome in ("pass", "inconclusive", "fail")]
        most = f"{100 * exact_bounds(counts[-1], len(verdicts), CONFIDENCE)[1]:.1f} %"
        middle, spread = statistics.median(ratios), statistics.stdev(ratios) if len(ratios) > 1 else 0.0
        yield [scene.name, seeds, judge, *counts, most, f"{middle:.3f}", f"{100 * spread:.1f} %", asked]


def _cost_row(scene: Scene) -> list[object]:
    inferences = [one.inferences for one in scene.trials]
    sets = [one.sets for one in scene.trials]
    looks = " / ".join(str(sets.count(look)) for look in Protocol().looks)
    seconds = statistics.median(one.seconds for one in scene.trials)
    middle = [f"{statistics.median(values):,.0f}" for values in (inferences, sets)]
    asked = "median ≤ 1,500" if scene.name == "equal" else ""
    return [scene.name, middle[0], f"{max(inferences):,}", middle[1], f"{seconds:.1f}", looks, asked]


def _show_faults() -> None:
    """Faults of labels and preprocessing: how many of those injected are named, and how many where there are none."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs = faults.make_jobs(Path(scratch))
        rows = [_fault_row(fault, jobs[fault.job], Path(scratch)) for fault in faults.FAULTS]
        per_job = SOUND_RUNS // len(jobs)
        sound = [(run, job.top1) for job in jobs.values() for run in faults.sound_runs(job, per_job)]
        worse = [(run, job.top1) for job in jobs.values() for run in faults.worse_runs(job, per_job)]
        alarms = [bool(faults.search(*one, Path(scratch))[0]) for one in sound]
        blamed = [
            found is not None and found.whole for _, found in (faults.search(*one, Path(scratch)) for one in worse)
        ]
    named = sum(row[-1] == "yes" for row in rows)
    show(f"injected faults: {named} of {len(rows)} named", ["fault", "job", "found", "named"], rows)
    rows = [
        ["sound", len(sound), sum(alarms)],
        ["noisy or mislabelled, with no fault to name", len(worse), sum(blamed)],
    ]
    show("jobs without a fault", ["jobs", "runs", "false alarms"], rows)


def _fault_row(fault: faults.Fault, job: faults.Job, scratch: Path) -> list[object]:
    error, found = faults.search(fault.inject(job), job.top1, scratch)
    return [fault.name, fault.job, "yes" if error else "no", "yes" if fault.is_named(found) else "no"]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
