"""How many images a network names rightly, counted in a process of its own: run by saturation.py, or by hand elsewhere.

    python benchmarks/count_right.py model.onnx images.npz [--exact]

`images.npz` holds prepared images (N, C, H, W) and their labels (N,), as `images` and `labels`. With
`--exact` nothing is fused, so that each pair rounds in float. Only numpy and onnxruntime are imported, so that it runs
under an emulator and on a machine without edgeopt.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime

BATCH = 20


def main() -> None:
    if len(sys.argv) == 1:
        return  # `make bench` runs every table; this one is run by saturation.py
    model, images, *exact = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with np.load(images) as arrays:
        inputs, labels = arrays["images"], arrays["labels"]
    logits = [session.run(None, {name: inputs[at : at + BATCH]})[0] for at in range(0, len(inputs), BATCH)]
    found = np.concatenate(logits)
    print(json.dumps({"right": int((found.argmax(axis=1) == labels).sum()), "images": len(labels)}))


if __name__ == "__main__":
    main()
