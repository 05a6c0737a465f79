"""Other tools' INT8, made by themselves: run by a Python that has them, which `EDGEOPT_PEERS` names.

    python benchmarks/peers.py TOOL float.onnx images.npz out

`images.npz` holds the prepared calibration images, (N, C, H, W) under the name of the input. Each tool takes them one
by one, with the settings that its documentation advises for CNNs on a CPU. It writes `out.onnx`, or `out.xml` for
OpenVINO, and prints the seconds that quantizing took, with nothing of its own imports in them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ADAROUND_ITERATIONS = 1000


def main() -> None:
    if len(sys.argv) == 1:
        return  # `make bench` runs every table; this one is run by quantization.py
    tool, model, images, out = sys.argv[1:]
    with np.load(images) as arrays:
        (name,) = arrays.files
        batches = [{name: array[None]} for array in arrays[name]]
    seconds, path = TOOLS[tool](Path(model), batches, Path(out))
    print(json.dumps({"seconds": seconds, "path": str(path)}))


def quantize_static(model: Path, batches: list[dict[str, Any]], out: Path) -> tuple[float, Path]:
    """ONNX Runtime: u8 activations, s8 weights per channel, and its own preparation of the graph."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[dict[str, Any]] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    started, prepared, path = time.monotonic(), out.with_suffix(".prepared.onnx"), out.with_suffix(".onnx")
    quant_pre_process(str(model), str(prepared))
    quantize(
        str(prepared), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True},
    )  # fmt: skip
    return time.monotonic() - started, path


def nncf(model: Path, batches: list[dict[str, Any]], out: Path) -> tuple[float, Path]:
    """NNCF on ONNX with its usual, fast bias correction: the full one stops at networks with shortcuts there."""
    import nncf as tool
    import onnx

    graph, started = onnx.load(model), time.monotonic()
    quantized = tool.quantize(graph, tool.Dataset(batches), subset_size=len(batches))
    seconds = time.monotonic() - started
    path = out.with_suffix(".onnx")
    onnx.save(quantized, path)
    return seconds, path


def nncf_full(model: Path, batches: list[dict[str, Any]], out: Path) -> tuple[float, Path]:
    """NNCF on OpenVINO with full bias correction."""
    import nncf as tool
    import openvino

    graph, started = openvino.convert_model(str(model)), time.monotonic()
    quantized = tool.quantize(graph, tool.Dataset(batches), subset_size=len(batches), fast_bias_correction=False)
    seconds = time.monotonic() - started
    path = out.with_suffix(".xml")
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return seconds, path


def aimet(model: Path, batches: list[dict[str, Any]], out: Path) -> tuple[float, Path]:
    """AIMET on ONNX with cross-layer equalization and AdaRound, exported with its pairs."""
    import aimet_onnx
    import onnx
    from aimet_onnx import apply_adaround
    from aimet_onnx.cross_layer_equalization import equalize_model
    from aimet_onnx.quantsim import QuantizationSimModel

    graph, started = onnx.load(model), time.monotonic()
    equalize_model(graph)
    config = Path(aimet_onnx.__file__).parent / "common/quantsim_config/default_config_per_channel.json"
    simulated = QuantizationSimModel(graph, param_type="int8", activation_type="int8", config_file=str(config))
    apply_adaround(simulated, batches, num_iterations=ADAROUND_ITERATIONS)
    simulated.compute_encodings(batches)
    seconds = time.monotonic() - started
    path = out.with_suffix(".onnx")
    onnx.save(simulated.to_onnx_qdq(), path)
    return seconds, path


TOOLS: dict[str, Callable[[Path, list[dict[str, Any]], Path], tuple[float, Path]]] = {
    "quantize_static": quantize_static, "nncf": nncf, "nncf_full": nncf_full, "aimet": aimet,
}  # fmt: skip

if __name__ == "__main__":
    main()
