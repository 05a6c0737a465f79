"""The backend that is no device: it runs anywhere, and what it says can never pass for a measurement."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from edgeopt.backends.null import Null
from edgeopt.context import Context
from edgeopt.model import Artifact, Model, TensorSpec

BLOCKED = """
import sys
for name in ("torch", "onnx", "onnxruntime", "scipy"):
    sys.modules[name] = None
from pathlib import Path
from edgeopt.backends import build_artifact
from edgeopt.context import Context
from edgeopt.model import load_model
artifact = build_artifact("null", load_model(Path(sys.argv[1])), Context(folder=Path(sys.argv[2])))
assert artifact.backend == "null"
"""


def make_artifact(*outputs: TensorSpec) -> Artifact:
    inputs = (TensorSpec(name="image", shape=("batch", 3, "height", "width")),)
    return Artifact(target="", backend="null", files=(), inputs=inputs, outputs=outputs, settings={"batch": 4})


def test_outputs_are_zeros_as_large_as_the_inputs_say() -> None:
    mask = TensorSpec(name="mask", dtype="uint8", shape=("batch", "height", "width"))
    free = TensorSpec(name="boxes", shape=("found", 4))
    image = np.ones((2, 3, 5, 7), np.float32)
    found = Null().open(make_artifact(mask, free)).run({"image": image})
    assert (found["mask"].shape, found["mask"].dtype) == ((2, 5, 7), np.uint8)
    assert found["boxes"].shape == (4, 4), "an axis that no input has is as long as the batch"
    assert not any(array.any() for array in found.values())


def test_it_says_that_it_is_simulated_and_needs_nothing() -> None:
    assert Null().simulated
    assert Null().profile() is None
    Null().available()


def test_it_runs_where_no_heavy_library_is(onnx_model: Model, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BLOCKED, onnx_model.folder, tmp_path], check=True)


def test_the_graph_is_not_even_read(onnx_model: Model, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    model = onnx_model.at(tmp_path, tmp_path)
    artifact = Null().build(model, Context(folder=tmp_path / "built"), tmp_path / "built")
    assert artifact.size_bytes == len(b"no graph")
