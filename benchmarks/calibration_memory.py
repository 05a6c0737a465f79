"""Peak memory of quantizing with 64 and with 1,024 images: the second must not need more.

The images are random, which changes nothing about memory; the network is the digits one at 32×32 and at 224×224.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from networks import export_digits
from tables import describe_machine, run, show

COUNTS = (64, 1024)
SIZES = (32, 224)

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
samples = Samples(format="npz", path=data, inputs=("image",), preprocess=Preprocess(scale=0.00392157))
profile = registry.resolve("backends", "onnxruntime_cpu")().profile()
run_pass("quantize_int8", {}, load_model(model), Context(folder=out, calibration=samples, profile=profile))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 1000)  # ru_maxrss would count the process that this one was forked from
"""


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            folder = Path(scratch) / str(size)
            model = export_digits(folder, size).folder
            peaks = [_peak(folder, model, size, count) for count in COUNTS]
            rows.append([f"{size}×{size}", *(f"{peak:.0f} MB" for peak in peaks), f"{peaks[1] / peaks[0]:.3f}"])
    title = f"peak memory of quantize_int8 · {describe_machine()}"
    show(title, ["images", *(f"{count:,} images" for count in COUNTS), "ratio"], rows)


def _peak(folder: Path, model: Path, size: int, count: int) -> float:
    data, out = folder / f"{count}.npz", folder / f"out{count}"
    images = np.random.default_rng(0).integers(0, 256, (count, 1, size, size), np.uint8)
    np.savez(data, image=images, labels=np.arange(count) % 10)
    out.mkdir()
    ran = run([sys.executable, "-c", CHILD, str(model), str(data), str(out)])
    if ran.code:
        sys.exit(ran.output)
    return float(ran.output.split()[-1])


if __name__ == "__main__":
    main()
