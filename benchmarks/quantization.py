"""INT8 beside the peers', on trained networks: accuracy, speed on two runtimes, and the time that quantizing takes.

Needs the data (recipes/README.md), named by `EDGEOPT_CIFAR10`; peers run in the Python that `EDGEOPT_PEERS` names,
with onnxruntime, nncf, openvino and aimet-onnx in it (see peers.py), and are left out where there is none. All start
from the same float ONNX file and the same 512 training images, and are judged on all 10,000 test images.

    python benchmarks/quantization.py [--only resnet20,mobilenetv2] [--sets 10] [--skip aimet]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from networks import export_recipe, recipe_splits
from tables import ROOT, describe_machine, show

from edgeopt import registry
from edgeopt.bench import compare_files
from edgeopt.context import AccuracyGoal, Context
from edgeopt.data import Samples
from edgeopt.data.splits import Splits
from edgeopt.model import Model
from edgeopt.passes import run_pass

PEERS = ("quantize_static", "nncf", "nncf_full", "aimet")
BACKENDS = ("onnxruntime_cpu", "openvino_cpu")

#: what edgeopt is asked for: as little as quantize_static does, as much as NNCF, and what a recipe would ask for
OURS: dict[str, dict[str, Any]] = {
    "edgeopt": {},
    "edgeopt, bias correction": {"bias_correction": "full"},
    "edgeopt, auto": {"effort": "auto"},
}
TUNING_IMAGES, MOST_DROP_PP = 5000, 1.0
BATCH = 50


@dataclass(frozen=True)
class Made:
    """An INT8 network: what made it, its file, the runtime that it is for, the seconds that it took."""

    name: str
    path: Path
    backend: str
    seconds: float
    note: str = ""


def main() -> None:
    if not os.environ.get("EDGEOPT_CIFAR10"):
        print("\nquantization: skipped, `EDGEOPT_CIFAR10` does not name the folder of the data (recipes/README.md)")
        return
    options = _options()
    for recipe in options.recipes:
        with tempfile.TemporaryDirectory() as scratch:
            _show_network(recipe, Path(scratch), options.skip, options.sets)


def _options() -> argparse.Namespace:
    known = {path.stem.removeprefix("cifar10_"): path for path in sorted(ROOT.glob("recipes/cifar10_*.yaml"))}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(known), help=",".join(known))
    parser.add_argument("--skip", type=lambda text: text.split(","), default=[], help=",".join(PEERS))
    parser.add_argument("--sets", type=int, default=10, help="sets of workers of each comparison; 0: time nothing")
    options = parser.parse_args()
    options.recipes = [known[name] for name in options.only]
    return options


def _show_network(recipe: Path, scratch: Path, skip: Sequence[str], sets: int) -> None:
    model, splits = export_recipe(recipe, scratch / "float"), recipe_splits(recipe)
    made = [*_ours(model, splits, scratch), *_peers(model, splits, scratch, skip)]
    exact = _top1(model.path, "onnxruntime_cpu", splits.validation)
    title = f"{recipe.stem}: float {exact:.2f} % on 10,000 images · {describe_machine()}"
    rows = [_accuracy_row(one, exact, splits.validation) for one in made]
    show(title, ["made by", "for", "top-1 %", "drop pp", "s", ""], rows)
    if sets:
        rows = list(_speed_rows(model, made, sets))
        show("p50, one image, one thread, in turns", ["runtime", "ratio", "value", "95 % interval"], rows)


def _ours(model: Model, splits: Splits, scratch: Path) -> Iterator[Made]:
    for backend in BACKENDS:
        for name, options in OURS.items():
            folder = scratch / f"{backend} {name}"
            folder.mkdir()
            assert splits.tuning is not None
            context = Context(
                folder=folder, calibration=splits.calibration, tuning=splits.tuning.spread(TUNING_IMAGES),
                profile=registry.resolve("backends", backend)().profile(), accuracy=AccuracyGoal("top1", MOST_DROP_PP),
                progress=lambda text, share: None,
            )  # fmt: skip
            started = time.monotonic()
            found = run_pass("quantize_int8", options, model, context)
            note = str(found.facts["method"]) if "effort" in options else ""
            yield Made(name, found.model.path, backend, time.monotonic() - started, note)


def _peers(model: Model, splits: Splits, scratch: Path, skip: Sequence[str]) -> Iterator[Made]:
    python = os.environ.get("EDGEOPT_PEERS")
    if python is None:
        print("\nquantization: no peers, `EDGEOPT_PEERS` names no Python that has them")
        return
    assert splits.calibration is not None
    images = {spec.name: [] for spec in model.inputs}  # type: dict[str, list[Any]]
    for batch in splits.calibration.batches(BATCH):
        for name, array in batch.inputs.items():
            images[name].append(array)
    np.savez(scratch / "images.npz", **{name: np.concatenate(arrays) for name, arrays in images.items()})
    for tool in (tool for tool in PEERS if tool not in skip):
        command = [python, str(ROOT / "benchmarks/peers.py"), tool, str(model.path)]
        command += [str(scratch / "images.npz"), str(scratch / tool)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            print(f"\n{tool} failed: {ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else ran.returncode}")
            continue
        found = json.loads(ran.stdout.strip().splitlines()[-1])
        path = Path(found["path"])
        backends = BACKENDS if path.suffix == ".onnx" else BACKENDS[1:]
        for backend in backends:
            yield Made(tool, path, backend, found["seconds"])


def _accuracy_row(one: Made, exact: float, validation: Samples) -> list[object]:
    top1 = _top1(one.path, one.backend, validation)
    return [one.name, one.backend, f"{top1:.2f}", f"{exact - top1:+.2f}", f"{one.seconds:.1f}", one.note]


def _top1(path: Path, backend: str, samples: Samples) -> float:
    run = _run_onnxruntime(path) if backend == "onnxruntime_cpu" else _run_openvino(path)
    right = total = 0
    for batch in samples.batches(BATCH):
        right += int(np.count_nonzero(run(batch.inputs).argmax(axis=1) == batch.labels))
        total += len(batch.indices)
    return 100 * right / total


def _run_onnxruntime(path: Path) -> Any:
    from edgeopt.backends.onnxruntime_cpu import open_runtime

    session = open_runtime(str(path), 2)
    return lambda inputs: session.run(None, inputs)[0]


def _run_openvino(path: Path) -> Any:
    from edgeopt.backends.openvino_cpu import SETTINGS, _import_runtime

    core = _import_runtime().Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {**SETTINGS, "INFERENCE_NUM_THREADS": 2})
    return lambda inputs: compiled(inputs)[0]


def _speed_rows(model: Model, made: Sequence[Made], sets: int) -> Iterator[list[object]]:
    """Ours against float and each peer, on each runtime."""
    for backend in BACKENDS:
        ours = next(one for one in made if one.backend == backend and one.name == "edgeopt")
        others = {"float": model.path}
        others |= {
            one.name: one.path
            for one in made
            if one.backend == backend and one.name in PEERS and one.path.suffix == ".onnx"
        }
        for name, path in others.items():
            found = compare_files(path, ours.path, backend=backend, threads=1, batch=1, sets=sets)["ratio"]
            yield [backend, f"edgeopt ÷ {name}", f"{found['value']:.3f}", f"[{found['low']:.3f}, {found['high']:.3f}]"]


if __name__ == "__main__":
    main()
