"""What zeros and shared values make of the download: bytes before and after compression, and what they cost in top-1.

Four networks of each kind, in float and in int8: as it is, with 70 % of its weights zero, with 16 values in each layer,
and with both. All start from the recipe's network, fine-tuned alike: the dense one, too, since what training gains by
itself is no merit of zeros. ResNet-20 needs the folder that `EDGEOPT_CIFAR10` names (recipes/README.md).

    python benchmarks/sharing.py                digits and ResNet-20
    python benchmarks/sharing.py ResNet-20      one of them
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from networks import quantize, recipe_splits
from tables import ROOT, describe_machine, show

from edgeopt.compression import compress
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.inputs import source_request
from edgeopt.model import Model
from edgeopt.onnx_graph import load_graph, make_session, run_session
from edgeopt.passes import run_pass
from edgeopt.recipe import load_recipe
from edgeopt.sources import load_source
from edgeopt.workers import ignore_progress

SPARSITY, BITS = 0.7, 4
#: most images that are trained and judged on: a few minutes on two cores
TRAINED, JUDGED = 3_000, 1_000


@dataclass(frozen=True)
class Case:
    """A network with the data that it is tuned, quantized and judged on."""

    name: str
    recipe: Path
    training: Samples
    calibration: Samples
    validation: Samples
    tuning: dict[str, Any]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for case in _cases():
            if case.name not in (sys.argv[1:] or [case.name]):
                continue
            rows = _measure(case, Path(scratch) / case.name)
            title = f"{case.name}, top-1 on {len(case.validation)} images · {describe_machine()}"
            show(title, ["weights", "zeros and values", "bytes", "compressed", "of dense float", "top-1 %"], rows)


def _cases() -> list[Case]:
    digits, resnet = ROOT / "recipes/digits.yaml", ROOT / "recipes/cifar10_resnet20.yaml"
    splits = recipe_splits(digits)
    assert splits.training is not None
    assert splits.calibration is not None
    cases = [
        Case("digits", digits, splits.training.spread(2_000), splits.calibration, splits.validation, {"epochs": 2}),
    ]
    if not os.environ.get("EDGEOPT_CIFAR10"):
        print("\nresnet20: skipped, `EDGEOPT_CIFAR10` does not name the folder of the data (recipes/README.md)")
        return cases
    splits, many = recipe_splits(resnet), recipe_splits(resnet, calibration=TRAINED)
    assert splits.calibration is not None
    assert many.calibration is not None
    validation = splits.validation.spread(JUDGED)
    tuning = {"epochs": 2, "flip": True, "batch": 64}
    return [*cases, Case("ResNet-20", resnet, many.calibration, splits.calibration, validation, tuning)]


def _measure(case: Case, folder: Path) -> list[list[object]]:
    network, _ = load_source("torch_factory", source_request(load_recipe(case.recipe)), _fresh(folder / "load"))
    context = Context(folder=folder, training=case.training, original=network, progress=ignore_progress)
    pruned = _run("prune_weights", {"sparsity": SPARSITY}, network, context, "pruned")
    found, rows = {}, list[list[object]]()
    for name, model in {"dense": network, f"{100 * SPARSITY:.0f} % zeros": pruned}.items():
        model = _run("fine_tune", case.tuning, model, context, f"{name} tuned")
        model = _run("export_onnx", {}, model, context, f"{name} exported")
        found["float", name] = _run("simplify_onnx", {}, model, context, f"{name} float")
        found["int8", name] = quantize(found["float", name], case.calibration, folder / f"{name} int8")
    for (kind, name), model in list(found.items()):
        found[kind, f"{name}, {2**BITS} values"] = _run(
            "share_weights", {"bits": BITS}, model, context, f"{kind} {name}"
        )
    whole = len(compress(found["float", "dense"].path.read_bytes()))
    for (kind, name), model in sorted(found.items()):
        content = model.path.read_bytes()
        packed = len(compress(content))
        top1 = f"{100 * _top1(model, case.validation):.2f}"
        rows.append([kind, name, f"{len(content):,}", f"{packed:,}", f"{100 * packed / whole:.1f} %", top1])
    return rows


def _run(name: str, options: dict[str, Any], model: Model, context: Context, folder: str) -> Model:
    return run_pass(name, options, model, replace(context, folder=_fresh(context.folder / folder))).model


def _top1(model: Model, samples: Samples) -> float:
    session, right = make_session(load_graph(model.path), threads=2), 0
    for batch in samples.batches(50):
        scores = next(iter(run_session(session, batch.inputs).values()))
        right += int(np.count_nonzero(scores.argmax(axis=1) == batch.labels))
    return right / len(samples)


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
