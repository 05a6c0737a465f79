"""The pass that CONTRIBUTING.md shows is a pass: its text, taken as it stands, works and is as clean as the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeopt.passes
from edgeopt import registry
from edgeopt.context import Context
from edgeopt.model import Model, OnnxValue, TensorSpec

ROOT = Path(__file__).parents[1]


def shown() -> tuple[str, str]:
    """The name of the file that the example goes into, and its text."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    found = re.search(r"`edgeopt/passes/(\w+)\.py`.*?```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1], found[2]


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example's name, with its file where the registry looks."""
    name, text = shown()
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / f"{name}.py").write_text(text, encoding="utf8")
    monkeypatch.setattr(edgeopt.passes, "__path__", [*edgeopt.passes.__path__, str(tmp_path / "passes")])
    registry.names.cache_clear()
    yield name
    registry.names.cache_clear()
    sys.modules.pop(f"edgeopt.passes.{name}", None)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A matrix of ones with one weight far out."""
    weights = np.ones((8, 8), np.float32)
    weights[3, 4] = 1000
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8])
    node = helper.make_node("MatMul", ["image", "weights"], ["logits"])
    graph = helper.make_graph([node], "small", [image], [logits], [numpy_helper.from_array(weights, "weights")])
    folder = tmp_path / "given"
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), folder / "model.onnx")
    specs = [TensorSpec(name=name, shape=("batch", 8)) for name in ("image", "logits")]
    return Model(value=OnnxValue(), inputs=(specs[0],), outputs=(specs[1],), folder=folder)


def test_the_example_is_found_by_its_file_and_keeps_the_contract(name: str, model: Model, tmp_path: Path) -> None:
    assert name in registry.names("passes")
    results = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        step = registry.resolve("passes", name)(deviations=3.0)
        results.append(step(model, Context(folder=tmp_path / attempt)))
    assert results[0].changed
    assert results[0].facts["summary"] == "1 weights clipped"
    assert results[0].model.digest() == results[1].model.digest() != model.digest()


def test_the_example_is_clean(name: str, tmp_path: Path) -> None:
    path = tmp_path / "passes" / f"{name}.py"
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
