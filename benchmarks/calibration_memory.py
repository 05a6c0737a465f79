"""Peak memory of quantizing with 64 and with 1,024 images, by each calibrator: the second must not need more.

The wanted ratio is 1.05 at most. The images are random, which changes nothing about memory; the network is the digits
one, at 32×32 pixels and at 224×224.

    nice python benchmarks/calibration_memory.py [--only mse,kl]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from networks import export_digits
from tables import describe_machine, run, show

from edgeopt import registry
from edgeopt.quantization.calibrators import KIND

COUNTS = (64, 1024)
#: pixels at a side → the calibrators that are measured: at 32×32 little but the libraries takes memory
METHODS = {32: ("minmax",), 224: registry.names(KIND)}

#: what each measured process runs: the pass itself, on a model that was exported before
CHILD = """
import sys
from pathlib import Path
from edgeopt import registry
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import load_model
from edgeopt.passes import run_pass
model, data, out = (Path(argument) for argument in sys.argv[1:4])
options = {"method": sys.argv[4]}
samples = Samples(format="npz", path=data, inputs=("image",), preprocess=Preprocess(scale=0.00392157))
profile = registry.resolve("backends", "onnxruntime_cpu")().profile()
run_pass("quantize_int8", options, load_model(model), Context(folder=out, calibration=samples, profile=profile))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 1000)  # ru_maxrss would count the process that this one was forked from
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    known = registry.names(KIND)
    parser.add_argument("--only", type=lambda text: text.split(","), default=known, help=",".join(known))
    options = parser.parse_args()
    rows = []
    for size, methods in METHODS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            model = export_digits(folder, size).folder
            for count in COUNTS:
                _write_images(folder / f"{count}.npz", size, count)
            for method in (method for method in methods if method in options.only):
                peaks = [_peak(model, folder / f"{count}.npz", method) for count in COUNTS]
                figures = (f"{peak:.0f} MB" for peak in peaks)
                rows.append([f"{size}×{size}", method, *figures, f"{peaks[1] / peaks[0]:.3f}"])
    title = f"peak memory of quantize_int8 · {describe_machine()}"
    show(title, ["images", "method", *(f"{count:,} images" for count in COUNTS), "ratio"], rows)


def _write_images(file: Path, size: int, count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, size, size), np.uint8)
    np.savez(file, image=images, labels=np.arange(count) % 10)


def _peak(model: Path, images: Path, method: str) -> float:
    """MB that a process takes at most which does nothing but quantize."""
    with tempfile.TemporaryDirectory() as out:
        ran = run([sys.executable, "-c", CHILD, str(model), str(images), out, method])
    if ran.code:
        sys.exit(ran.output)
    return float(ran.output.split()[-1])


if __name__ == "__main__":
    main()
