"""INT8 beside the peers', on trained networks: accuracy, speed on two runtimes, and the time that quantizing takes.

Needs the data (recipes/README.md), named by `EDGEOPT_CIFAR10`; peers run in the Python that `EDGEOPT_PEERS` names,
with onnxruntime, nncf, openvino and aimet-onnx in it (see peers.py), and are left out where there is none. All start
from the same float ONNX file and the same 512 training images, and are judged on all 10,000 test images.

    python benchmarks/quantization.py [--only resnet20,mobilenetv2] [--sets 10] [--skip aimet]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from comparing import BACKENDS, OURS, SPEED_COLUMNS, Made, make_peers, speed_rows
from networks import export_recipe, recipe_splits
from tables import ROOT, describe_machine, show

from edgeopt import registry, workers
from edgeopt.backends import Arrays
from edgeopt.context import AccuracyGoal, Context
from edgeopt.data import Samples
from edgeopt.data.splits import Splits
from edgeopt.errors import WorkerError
from edgeopt.model import Model, TensorSpec
from edgeopt.passes import run_pass

PEERS = ("quantize_static", "nncf", "nncf_full", "aimet")

#: what edgeopt is asked for: as little as quantize_static does, as much as NNCF, more, and what a recipe would ask for
ASKED: dict[str, dict[str, Any]] = {
    OURS: {},
    f"{OURS}, bias correction": {"bias_correction": "full"},
    f"{OURS}, percentile and correction": {"method": "percentile", "bias_correction": "full"},
    f"{OURS}, auto": {"effort": "auto"},
}  # fmt: skip
MOST_DROP_PP = 1.0
BATCH = 50


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
    tools = [tool for tool in PEERS if tool not in skip]
    made = [*_ours(model, splits, scratch), *make_peers(model, _write_images(splits, scratch), scratch, tools)]
    exact, labels = guess(model.path, "onnxruntime_cpu", splits.validation), splits.validation.labels()
    title = f"{recipe.stem}: float {_percent(exact == labels):.2f} % of {len(exact):,} images · {describe_machine()}"
    rows = [_accuracy_row(one, exact, splits.validation) for one in made]
    show(title, ["made by", "for", "top-1 %", "drop pp", "changed %", "s", ""], rows)
    if sets:
        show("p50, one image, one thread, in turns", SPEED_COLUMNS, list(speed_rows(model, made, sets)))


def _ours(model: Model, splits: Splits, scratch: Path) -> Iterator[Made]:
    for backend in BACKENDS:
        for name, options in ASKED.items():
            folder = scratch / f"{backend} {name}"
            folder.mkdir()
            assert splits.tuning is not None
            context = Context(
                folder=folder, calibration=splits.calibration, tuning=splits.tuning,
                profile=registry.resolve("backends", backend)().profile(), accuracy=AccuracyGoal("top1", MOST_DROP_PP),
                progress=lambda text, share: None,
            )  # fmt: skip
            started = time.monotonic()
            found = run_pass("quantize_int8", options, model, context)
            note = str(found.facts["method"]) if "effort" in options else ""
            yield Made(name, found.model.path, backend, time.monotonic() - started, note)


def _write_images(splits: Splits, folder: Path) -> Path:
    """The prepared calibration images as peers.py reads them."""
    assert splits.calibration is not None
    (name,) = splits.calibration.inputs
    file = folder / "images.npz"
    np.savez(file, **{name: np.concatenate([batch.inputs[name] for batch in splits.calibration.batches(BATCH)])})
    return file


def _accuracy_row(one: Made, exact: np.ndarray, validation: Samples) -> list[object]:
    """`changed` is how many answers are not those of the float network: what turns right hides no loss there."""
    labels = validation.labels()
    try:
        found = workers.run("quantization:guess", one.path, one.backend, validation)
    except WorkerError as error:
        return [one.name, one.backend, "none", "", "", f"{one.seconds:.1f}", error.message]
    drop = _percent(exact == labels) - _percent(found == labels)
    figures = [f"{_percent(found == labels):.2f}", f"{drop:+.2f}", f"{_percent(found != exact):.2f}"]
    return [one.name, one.backend, *figures, f"{one.seconds:.1f}", one.note]


def guess(path: Path, backend: str, samples: Samples) -> np.ndarray:
    """What a worker runs, since some files crash a runtime: the class of each sample."""
    if backend == "onnxruntime_cpu":
        run = _run_onnxruntime(path)
    else:
        run = _run_openvino(path, next(iter(samples.batches(BATCH))).inputs)
    return np.concatenate([run(batch.inputs).argmax(axis=1) for batch in samples.batches(BATCH)])


def _percent(which: Any) -> float:
    return 100 * float(np.mean(which))


def _run_onnxruntime(path: Path) -> Any:
    from edgeopt.backends.onnxruntime_cpu import open_runtime

    session = open_runtime(str(path), 2)
    return lambda inputs: session.run(None, inputs)[0]


def _run_openvino(path: Path, first: Arrays) -> Any:
    from edgeopt.backends.openvino_cpu import open_runtime

    # as edgeopt opens it: for one batch size, and with what keeps OpenVINO from taking a scale twice
    inputs = tuple(TensorSpec(name=name, shape=array.shape) for name, array in first.items())
    compiled = open_runtime(path, inputs, 2)
    return lambda inputs: compiled(inputs)[0]


if __name__ == "__main__":
    main()
