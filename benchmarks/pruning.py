"""Pruned to milliseconds beside pruned uniformly: what is lost at which int8 latency, after the same fine-tuning.

Needs the data (recipes/README.md), named by `EDGEOPT_CIFAR10`. Sides that are each trained for as many epochs on the
same images in the same way: the network as it is, whose accuracy then is what drops are taken from; pruned by edgeopt's
`prune_channels: {goal: {latency: …}}` on the clock of ONNX Runtime in int8; the same with `retrain: 50`, or with
`factorize: {latency: …}` for a part of the way; and pruned by Torch-Pruning's uniform ratio, chosen so that the same
clock finds its network as fast. All are folded and quantized alike, judged on all 10,000 test images, and timed in
turns.

All start from, and learn from, a network that was trained by labels until it gained little more: the checkpoint of
ResNet-20, which comes from lossless images, for 20 epochs on these; the weights of `recipes/` of the MobileNetV2-like
for 30; and VGG-11 with normalizations for 30 from nothing: the one of `recipes/` is half as wide, to be small.

Training takes minutes an epoch on a CPU, less with `--precision bf16` where it has AMX. What is done is kept in
`--keep`, and another run goes on from there. So a machine with a GPU may train: `--until given` there, `--until pruned`
with a copy of that folder where the clock is, `--until trained` on the first again, and the rest where the clock is.

On a machine that others use, too, `OMP_WAIT_POLICY=PASSIVE` lets threads wait without spinning.

    python benchmarks/pruning.py [--only resnet20,mobilenetv2,vgg] [--points 0.5,0.65,0.8] [--epochs 5] [--sets 10]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import recipe_splits
from plots import Series, draw
from quantization import guess
from tables import ROOT, describe_machine, show
from uniform import prune_uniformly

from edgeopt import files, registry
from edgeopt.bench import compare_files
from edgeopt.clock import make_clock
from edgeopt.context import Checkpoints, Context, Memo, Timer
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.exporting import export_graph
from edgeopt.inputs import source_request, split_samples
from edgeopt.model import Edit, Model, TorchValue, load_model
from edgeopt.network import call_factory, make_network, write_network
from edgeopt.passes import run_pass
from edgeopt.plan import TIMER
from edgeopt.pruning.goal import apply_edits
from edgeopt.pruning.soundness import make_inputs
from edgeopt.recipe import load_recipe
from edgeopt.sources import SourceRequest, load_source
from edgeopt.validation.statistics import tango_bounds

BACKEND = "onnxruntime_cpu"
CONFIDENCE = 0.95

#: what each side is trained with, and int8 then made with
FINE_TUNE: dict[str, Any] = {
    "batch": 128, "learning_rate": 3e-3, "shift": 4, "flip": True, "distill_weight": 0.9,
}  # fmt: skip
PRUNE: dict[str, Any] = {"importance": "taylor"}
RETRAIN = 50  # steps
STEPS: dict[str, dict[str, Any]] = {
    "fold_branches": {"on": f"{BACKEND}/int8"}, "export_onnx": {}, "simplify_onnx": {},
    "quantize_int8": {"bias_correction": "full"},
}  # fmt: skip

#: modules that Torch-Pruning must leave: the classifier, and what hangs on shortcuts that pad with zeros
IGNORED = {
    "resnet20": ("linear", "conv1", *(f"layer{stage}.{block}.conv2" for stage in (1, 2, 3) for block in range(3))),
    "mobilenetv2": ("classifier",),
    "vgg": ("classifier",),
}

#: shares of the dense network's time that are the goals
POINTS = {"resnet20": (0.65, 0.5), "mobilenetv2": (0.6, 0.45), "vgg": (0.3, 0.2)}

#: where `factorize` goes the rest of the way: point → what is left of the time before, chosen by what answers lose
#: before any training (1: all of the way)
FACTORED = {"resnet20": {0.5: 0.6, 0.65: 0.8, 0.8: 1.0}}

#: what `fold_branches` leaves of the time where blocks were dropped: a goal is as much higher before
FOLDED = {"mobilenetv2": {0.6: 0.965, 0.45: 0.93}}

#: options of the factory, of a network that is to be wider than that of the recipe, and has no weights yet
WIDER = {"vgg": {"plan": (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512)}}

#: epochs by labels after which a network is what is given: trained to its end, on these images
GIVEN = {"resnet20": 20, "mobilenetv2": 30, "vgg": 30}

#: ratios that uniform pruning is tried at
RATIOS = [step / 32 for step in range(1, 31)]

#: times within this factor are taken for equal: one look at each
NOISE = 1.03


@dataclass(frozen=True)
class Pruned:
    """One network before its training: its share of the dense one's time as foreseen, and what was pruned."""

    name: str
    model: Model
    predicted: float | None = None
    pruned: str = ""


@dataclass(frozen=True)
class Side:
    """One trained and quantized network: its int8 file, the class that it gives each image, what was pruned."""

    name: str
    path: Path
    guesses: np.ndarray
    predicted: float | None = None
    pruned: str = ""


def main() -> None:
    if not os.environ.get("EDGEOPT_CIFAR10"):
        print("\npruning: skipped, `EDGEOPT_CIFAR10` does not name the folder of the data (recipes/README.md)")
        return
    options = _options()
    series = []
    for name in options.only:
        bench = Bench(name, options.keep / f"{name}-{options.epochs}", options.epochs, options.precision)
        if options.until == "given":
            continue
        points = options.points or POINTS[name]
        made = [bench.dense(), *(each for point in points for each in bench.prune(point, options.sides))]
        if options.until == "pruned":
            continue
        for each in made:
            bench.train(each)
        if options.until == "trained":
            continue
        dense, *sides = map(bench.finish, made)
        series += _show(bench, bench.exact(), dense, sides, options.sets)
    if options.plot and series:
        files.write_text(options.plot, draw(series, "int8 latency, share of the dense network's", "drop, pp"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[name for name in IGNORED if recipe_of(name).exists()],
        help=",".join(IGNORED),
    )
    parser.add_argument(
        "--points", type=lambda text: [float(part) for part in text.split(",")], help="goals; default: two of each"
    )
    parser.add_argument(
        "--sides",
        type=lambda text: text.split(","),
        default=["pruned", "retrained", "factored", "uniform"],
        help="of these, some",
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="of products in training, for all sides"
    )
    parser.add_argument("--sets", type=int, default=10, help="sets of workers of each comparison")
    parser.add_argument(
        "--keep", type=Path, default=ROOT / "build/benchmarks/pruning", help="folder of what is trained"
    )
    parser.add_argument("--until", choices=["given", "pruned", "trained"], help="do no more than that")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    return parser.parse_args()


def recipe_of(name: str) -> Path:
    return ROOT / f"recipes/cifar10_{name}.yaml"


class Bench:
    """The sides of one network, each made once and kept."""

    def __init__(self, name: str, folder: Path, epochs: int, precision: str) -> None:
        self.name, self.folder, self.epochs = name, folder, epochs
        self.tuning = {**FINE_TUNE, "precision": precision}
        self.recipe = recipe_of(name)
        recipe = load_recipe(self.recipe)
        self.splits = recipe_splits(self.recipe)
        whole = split_samples(recipe, tuple(recipe.model.inputs))
        self.training: Samples = whole["training"] if "training" in whole else whole["calibration"]
        labels = self.splits.validation.labels()
        assert labels is not None
        self.labels = labels
        self.original = self._once("load", partial(self._load, source_request(recipe)))
        self.profile = registry.resolve("backends", BACKEND)().profile()
        options = {**self.tuning, "epochs": GIVEN[name], "distill": False}
        self.original = self._once("given", partial(self._run, "fine_tune", options, self.original))

    def _load(self, request: SourceRequest, folder: Path) -> None:
        model, _ = load_source("torch_factory", request, folder)
        if self.name in WIDER:
            assert isinstance(model.value, TorchValue)
            value = model.value.model_copy(update={"options": WIDER[self.name]})
            torch.manual_seed(0)
            network = call_factory(model.sources, value.factory, value.options)
            write_network(network, model.model_copy(update={"value": value}), folder)

    def dense(self) -> Pruned:
        """The network of which nothing is pruned."""
        return Pruned("dense", self.original)

    def exact(self) -> np.ndarray:
        """What the dense network answers in float once it was trained."""
        return self._guess("dense float", self.folder / "dense simplify_onnx/model.onnx")

    def prune(self, point: float, wanted: Sequence[str]) -> Iterator[Pruned]:
        """Ours at a goal, and the uniform one that is as fast as the fastest of these."""
        reached = [point]
        for side, more in {"pruned": {}, "retrained": {"retrain": RETRAIN}}.items():
            if side in wanted:
                folded = FOLDED.get(self.name, {}).get(point, 1.0)
                ours, facts = self._pruned(f"{side} {point}", point / folded, more)
                reached.append(folded * facts["measured"])
                yield Pruned(f"{side} {point}", ours, folded * facts["predicted"], facts["pruned"])
        before = FACTORED.get(self.name, {}).get(point)
        if before is not None and "factored" in wanted:
            try:
                yield self._factored(point, before)
            except PassError as error:  # it gets no further: that is a result, too
                print(f"factored {point}: {error}")
        if "uniform" in wanted:
            yield self._uniform(min(reached))

    def train(self, made: Pruned) -> Model:
        """Fine-tune it."""
        options = {**self.tuning, "epochs": self.epochs}
        return self._once(f"{made.name} fine_tune", partial(self._run, "fine_tune", options, made.model))

    def finish(self, made: Pruned) -> Side:
        """Fine-tune, fold, export, quantize, and guess every test image."""
        model = self.train(made)
        for step, chosen in STEPS.items():
            model = self._once(f"{made.name} {step}", partial(self._run, step, chosen, model))
        return Side(made.name, model.path, self._guess(made.name, model.path), made.predicted, made.pruned)

    def _uniform(self, share: float) -> Pruned:
        times = json.loads(self._time_uniform().read_text())
        enough = [ratio for ratio in times if times[ratio] <= NOISE * share]  # of two as fast, the one that keeps more
        ratio = min(enough, key=float) if enough else min(times, key=times.__getitem__)
        uniform = self._once(f"uniform {ratio}", partial(self._prune_uniformly, float(ratio)))
        return Pruned(f"uniform {ratio}", uniform, None, f"every layer by {float(ratio):.0%}")

    def _pruned(self, name: str, point: float, more: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
        goal = {"goal": {"latency": point}, **PRUNE, **more}
        made = self._once(name, partial(self._prune, goal))
        return made, json.loads((made.folder / "facts.json").read_text())

    def _factored(self, point: float, before: float) -> Pruned:
        """Channels go until so much of the time is left, and layers become two for the rest of the way."""
        model, share, told = self.original, 1.0, ""
        if before < 1:
            model, facts = self._pruned(f"before factors {point}", before, {})
            share, told = facts["measured"], facts["pruned"] + ", "
        options = {"latency": point / share, "on": f"{BACKEND}/int8"}
        made = self._once(f"factored {point}", partial(self._factorize, options, model))
        facts = json.loads((made.folder / "facts.json").read_text())
        return Pruned(f"factored {point}", made, share * facts["predicted"], told + facts["factored"])

    def _factorize(self, options: dict[str, Any], model: Model, folder: Path) -> None:
        facts = run_pass("factorize", options, model, self._context(folder)).facts
        count = f"{facts['layers_factored']} layers factored"
        files.write_text(folder / "facts.json", json.dumps({"predicted": facts["predicted"], "factored": count}))

    def given(self) -> float:
        """Per cent of the test images that the network as given has right, in float."""
        model = self._once("as given", partial(self._run, "export_onnx", {}, self.original))
        return 100 * float((self._guess("as given", model.path) == self.labels).mean())

    def _once(self, name: str, make: Any) -> Model:
        """What `make` leaves in a folder, unless another run has."""
        folder = self.folder / name
        if not (folder / "model.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder)
        return load_model(folder, self.recipe.parent)

    def _context(self, folder: Path) -> Context:
        return Context(
            folder=folder, calibration=self.splits.calibration, training=self.training, original=self.original,
            profile=self.profile, timer=Timer(TIMER, BACKEND, 1, 1), memo=Memo(self.folder.parent / "memos", self.name),
            checkpoints=Checkpoints(self.folder / "checkpoints" / folder.name),
        )  # fmt: skip

    def _prune(self, options: dict[str, Any], folder: Path) -> None:
        facts = run_pass("prune_channels", options, self.original, self._context(folder)).facts
        told = {name: facts[name] for name in ("predicted", "measured")} | {"pruned": _macs(facts)}
        files.write_text(folder / "facts.json", json.dumps(told))

    def _prune_uniformly(self, ratio: float, folder: Path) -> None:
        network, inputs = make_network(self.original), make_inputs(self.original.inputs, 2)
        edits = prune_uniformly(network, inputs, ratio, IGNORED[self.name])
        write_network(apply_edits(network, edits), self.original, folder, edits)

    def _time_uniform(self) -> Path:
        """A file of each ratio that gives a network of its own, and that network's share of the dense one's time."""
        file = self.folder / "uniform.json"
        if file.exists():
            return file
        network, inputs = make_network(self.original), make_inputs(self.original.inputs, 2)
        clock, whole = make_clock(self._context(self.folder)), export_graph(network, self.original)
        found, known = {}, list[tuple[Edit, ...]]()
        for ratio in RATIOS:
            edits = prune_uniformly(network, inputs, ratio, IGNORED[self.name])
            if edits not in known:
                known.append(edits)
                found[ratio] = clock.compare(whole, export_graph(apply_edits(network, edits), self.original))
        files.write_text(file, json.dumps(found))
        return file

    def _run(self, step: str, options: dict[str, Any], model: Model, folder: Path) -> None:
        run_pass(step, options, model, self._context(folder))

    def _guess(self, name: str, path: Path) -> np.ndarray:
        file = self.folder / f"{name}.npy"
        if not file.exists():
            np.save(file, guess(path, BACKEND, self.splits.validation))
        return np.load(file)


def _macs(facts: Any) -> str:
    dropped = facts.get("blocks_dropped")
    return f"{facts['macs_after'] / facts['macs_before']:.2f}× MACs" + (f", without {dropped}" if dropped else "")


def _show(bench: Bench, exact: np.ndarray, dense: Side, sides: Sequence[Side], sets: int) -> list[Series]:
    """The table of one network, and its curves for the plot."""
    right, rows = exact == bench.labels, list[list[object]]()
    curves: dict[str, list[tuple[float, float]]] = {
        "pruned": [], "retrained": [], "factored": [], "uniform": [],
    }  # fmt: skip
    for side in (dense, *sides):
        found = side.guesses == bench.labels
        lost, gained = int((right & ~found).sum()), int((~right & found).sum())
        drop, most = (lost - gained) / len(right), tango_bounds(lost, gained, len(right), CONFIDENCE)[1]
        ratio = _ratio(dense.path, side.path, sets) if side is not dense else {"value": 1.0, "low": None}
        if side is not dense:
            curves[side.name.split()[0]].append((ratio["value"], 100 * drop))
        between = "" if ratio["low"] is None else f"[{ratio['low']:.3f}, {ratio['high']:.3f}]"
        predicted = "" if side.predicted is None else f"{side.predicted:.3f}"
        top1, drops = f"{100 * found.mean():.2f}", [f"{100 * drop:+.2f}", f"{100 * most:+.2f}"]
        rows.append([side.name, top1, *drops, f"{ratio['value']:.3f}", between, predicted, side.pruned])
    reached = f"the dense one in float {100 * right.mean():.2f} %, as given {bench.given():.2f} %"
    title = f"{bench.name}, {bench.epochs} epochs in {bench.tuning['precision']}: {reached}"
    columns = ["side", "top-1 %", "drop pp", "at most", "latency", "95 % interval", "predicted", "pruned"]
    show(f"{title} · {describe_machine()}", columns, rows)
    return [Series(bench.name, name, sorted(points)) for name, points in curves.items() if points]


def _ratio(dense: Path, other: Path, sets: int) -> dict[str, Any]:
    """p50 of one image, one thread, in turns: the other's share of the dense one's."""
    found: dict[str, Any] = compare_files(dense, other, backend=BACKEND, threads=1, batch=1, sets=sets)["ratio"]
    return found


if __name__ == "__main__":
    main()
