"""A small real job: a trained-enough ONNX network, images that it can tell apart, and a recipe for both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

RECIPE = """\
edgeopt: 1
name: small
model:
  onnx: model.onnx
data:
  format: npz
  classes: [a, b, c, d]
  preprocess: {scale: 0.00392157, mean: [0.5], std: [0.25]}
  calibration: {path: calibration.npz}
  validation: {path: validation.npz}
passes: []
targets:
  - name: cpu
    backends: [onnxruntime_cpu]
    variants:
      fp32: []
      int8: [quantize_int8: {}]
budgets:
  accuracy: {max_drop_pp: 5.0}
  size: {max_mb: 1.0}
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Job:
    """A folder with a recipe and all that it names, and a store of its own."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def edit(self, old: str, new: str) -> None:
        """Change the recipe; the old text must be there."""
        text = self.recipe.read_text()
        assert old in text
        self.recipe.write_text(text.replace(old, new))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "edgeopt", *arguments]

    def environ(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(self.folder / "plugin"), os.environ.get("PYTHONPATH"))))
        scratch = {"EDGEOPT_CACHE": str(self.folder / "store"), "TMPDIR": str(self.folder / "tmp")}
        return os.environ | scratch | {"PYTHONPATH": path}

    def run(self, *arguments: str, timeout: float = 240) -> Ran:
        """Run edgeopt with these arguments from the folder of the job."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        ran = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def compile(self, *arguments: str) -> Ran:
        return self.run("compile", "recipe.yaml", "--out", "out", *arguments)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job that passes."""
    return make_job(tmp_path)


def make_job(folder: Path) -> Job:
    write_network(folder / "model.onnx")
    write_split(folder, "validation", 600, 1)
    write_split(folder, "calibration", 128, 2)
    (folder / "recipe.yaml").write_text(RECIPE)
    return Job(folder)


@pytest.fixture(scope="session")
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = make_job(tmp_path_factory.mktemp("compiled"))
    ran = job.compile()
    assert ran.code == 0, ran.out + ran.err
    return job.folder


@pytest.fixture
def done(_compiled_once: Path, tmp_path: Path) -> Job:
    """A job that passed, with its result and its store: a copy, so that it may be changed."""
    shutil.copytree(_compiled_once, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Job(tmp_path)


def write_network(path: Path, *, scale: float = 1.0) -> None:
    """Two convolutions and a linear layer with random weights; `scale` multiplies those of the last one."""
    random = np.random.default_rng(0)
    shapes = {"w1": (16, 1, 3, 3), "b1": (16,), "w2": (32, 16, 3, 3), "b2": (32,), "w3": (4, 32)}
    tensors = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["b3"] = np.zeros(4, np.float32)
    save_network(path, tensors)
    tensors["b3"] = -np.median(scores_of(path, draw_images(256, 0)), axis=0)  # so that it sees all four classes
    tensors["w3"] *= np.float32(scale)
    save_network(path, tensors)


def save_network(path: Path, tensors: dict[str, np.ndarray]) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 32, 32])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])
    constants = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "small", [image], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def draw_images(count: int, seed: int) -> np.ndarray:
    """Random textures, (count, 1, 32, 32) of uint8."""
    random = np.random.default_rng(seed)
    low = random.integers(0, 256, (count, 1, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    return np.clip(low + random.normal(0, 30, (count, 1, 32, 32)), 0, 255).astype(np.uint8)


def scores_of(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": ((images * np.float32(0.00392157) - 0.5) / 0.25).astype(np.float32)})[0]


def write_split(folder: Path, name: str, count: int, seed: int) -> None:
    """Images that are labelled as the network in the folder sees them: those of which it is surest, so int8 is too."""
    images = draw_images(4 * count, seed)
    scores = scores_of(folder / "model.onnx", images)
    ordered = np.sort(scores, axis=1)
    sure = np.sort(np.argsort(ordered[:, -2] - ordered[:, -1])[:count])
    np.savez(folder / f"{name}.npz", image=images[sure], labels=scores[sure].argmax(axis=1).astype(np.int64))
