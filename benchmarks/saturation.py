"""The guard against saturation: ResNet-20 in int8 with 8-bit and 7-bit weights, on CPUs with and without VNNI.

Needs the data (recipes/README.md), named by `EDGEOPT_CIFAR10`, and `qemu-x86_64` (Debian: qemu-user), which emulates a
Haswell: AVX2 and no integer dot product. It is slow, so that a few hundred images are judged, the same ones everywhere.
Where this CPU has no VNNI either, its place in the table is taken by the graph with nothing fused, which computes each
pair in float: exact but for rounding, as VNNI is. `--keep DIR` keeps the files, to be judged by count_right.py on a CPU
that has it.

    python benchmarks/saturation.py [--images 500] [--only resnet20] [--keep DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from networks import export_recipe, recipe_splits
from tables import ROOT, describe_machine, show

from edgeopt import environment, registry
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.model import Model
from edgeopt.passes import run_pass

BACKEND = "onnxruntime_cpu"
#: what is declared of the CPU → whether the guard is on
WEIGHTS = {"8 bits": ("x86_64", "avx512_vnni"), "7 bits, guarded": ("x86_64", "avx2")}
HASWELL = ("qemu-x86_64", "-cpu", "Haswell")


def main() -> None:
    if not os.environ.get("EDGEOPT_CIFAR10"):
        print("\nsaturation: skipped, `EDGEOPT_CIFAR10` does not name the folder of the data (recipes/README.md)")
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["resnet20"])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory() as scratch:
            folder = options.keep / name if options.keep else Path(scratch)
            _show_network(name, options.images, folder)


def _show_network(name: str, count: int, folder: Path) -> None:
    recipe = ROOT / f"recipes/cifar10_{name}.yaml"
    model, splits = export_recipe(recipe, folder / "float"), recipe_splits(recipe, validation=count)
    assert splits.calibration is not None
    files = {"float": model.path}
    for bits, isa in WEIGHTS.items():
        files[bits] = _quantize(model, splits.calibration, isa, folder / bits.split()[0])
    _save_images(splits.validation, folder / "images.npz")
    rows = []
    for weights, file in files.items():
        rights = [_count_right(file, folder / "images.npz", *how) for how in ((), HASWELL)]
        rows.append(
            [
                weights,
                *(f"{100 * right / count:.2f}" for right in rights),
                f"{100 * (rights[0] - rights[1]) / count:+.2f}",
            ]
        )
    here = "this CPU" if environment.has_integer_dot_product() else "exact (nothing fused)"
    title = f"{name}: top-1 % of {count} images · {describe_machine()}"
    show(title, ["weights", here, "emulated Haswell", "lost, pp"], rows)


def _quantize(model: Model, samples: Samples, isa: Sequence[str], folder: Path) -> Path:
    folder.mkdir()
    profile = registry.resolve("backends", BACKEND)().profile(isa)
    return run_pass("quantize_int8", {}, model, Context(folder=folder, calibration=samples, profile=profile)).model.path


def _save_images(samples: Samples, file: Path) -> None:
    batches = list(samples.batches(100))
    (name,) = batches[0].inputs
    images = np.concatenate([batch.inputs[name] for batch in batches])
    np.savez(file, images=images, labels=np.concatenate([batch.labels for batch in batches]))


def _count_right(model: Path, images: Path, *emulator: str) -> int:
    exact = [] if emulator or environment.has_integer_dot_product() else ["--exact"]
    command = [*emulator, sys.executable, str(ROOT / "benchmarks/count_right.py"), str(model), str(images), *exact]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return int(json.loads(ran.stdout)["right"])


if __name__ == "__main__":
    main()
