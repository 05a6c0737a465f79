"""ResNet-20 on CIFAR-10, quantize only, beside ONNX Runtime's `quantize_static` (u8 activations, s8 weights).

Needs the data: the folder that `EDGEOPT_CIFAR10` names, with the checkpoint, and `train/` and `test/` unpacked in it;
see recipes/README.md. Both models are made from the same ONNX file and the same 512 training images, judged on all
10,000 test images and timed in turns in fresh processes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from networks import export_recipe, quantize, recipe_splits
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from tables import EDGEOPT, ROOT, describe_machine, run, show

from edgeopt.bench import compare_files
from edgeopt.data import Samples

RECIPE = ROOT / "recipes/cifar10_resnet20.yaml"
PROTOCOL = {"backend": "onnxruntime_cpu", "threads": 1, "batch": 1, "sets": 20}


def main() -> None:
    if not os.environ.get("EDGEOPT_CIFAR10"):
        print("\nresnet20: skipped, `EDGEOPT_CIFAR10` does not name the folder of the data (recipes/README.md)")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [*EDGEOPT, "compile", str(RECIPE), "--out", f"{scratch}/out"]
        print(run(command, EDGEOPT_CACHE=f"{scratch}/store").output)
        files = _quantize_both(folder)
        top1 = {name: _top1(path) for name, path in files.items()}
        pairs = [("float", name) for name in ("quantize_static", "edgeopt")] + [("quantize_static", "edgeopt")]
        ratios = {pair: compare_files(*(files[name] for name in pair), **PROTOCOL) for pair in pairs}
    rows = [[name, f"{top1[name]:.2f}", f"{top1[name] - top1['float']:+.2f}"] for name in files]
    show(f"ResNet-20, 10,000 images · {describe_machine()}", ["model", "top-1 %", "against float, pp"], rows)
    said = [(one, other, found["ratio"]) for (one, other), found in ratios.items()]
    rows = [[f"{b} ÷ {a}", f"{r['value']:.3f}", f"[{r['low']:.3f}, {r['high']:.3f}]"] for a, b, r in said]
    show("p50 of one image, one thread, in turns in fresh processes", ["ratio", "value", "95 % interval"], rows)


def _quantize_both(folder: Path) -> dict[str, Path]:
    """The float ONNX, what ONNX Runtime's own tool makes of it, and what edgeopt does, from the same images."""
    model = export_recipe(RECIPE, folder / "float")
    samples = recipe_splits(RECIPE).calibration
    assert samples is not None
    prepared, static = folder / "prepared.onnx", folder / "static.onnx"
    quant_pre_process(str(model.path), str(prepared))
    quantize_static(
        str(prepared), str(static), _Reader(samples), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return {"float": model.path, "quantize_static": static, "edgeopt": quantize(model, samples, folder).path}


class _Reader(CalibrationDataReader):
    def __init__(self, samples: Samples) -> None:
        self._batches = samples.batches(1)

    def get_next(self) -> dict[str, object] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch.inputs)


def _top1(path: Path) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    right = total = 0
    for batch in recipe_splits(RECIPE).validation.batches(50):
        scores = session.run(None, batch.inputs)[0]
        right += int(np.count_nonzero(scores.argmax(axis=1) == batch.labels))
        total += len(batch.indices)
    return 100 * right / total


if __name__ == "__main__":
    main()
