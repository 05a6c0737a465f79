"""A small sound recipe, with files of the right names, to be spoilt in one place at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.errors import RecipeError
from edgeopt.recipe import load_recipe

SOUND = """\
edgeopt: 1
name: small
model:
  factory: network.py:Net
  weights: weights.safetensors
  inputs: {image: {shape: [1, 8, 8]}}
data:
  classes: [cat, dog]
  calibration: {path: calibration.npz}
  validation: {path: validation.npz}
  training: {path: training.npz}
passes:
  - prune_channels: {ratio: 0.5}
  - export_onnx: {}
targets:
  - name: x86
    backends: [onnxruntime_cpu]
    variants:
      fp32: []
      int8: [quantize_int8: {}]
budgets:
  accuracy: {max_drop_pp: 1.0}
"""

FILES = ("network.py", "weights.safetensors", "model.onnx", "calibration.npz", "validation.npz", "training.npz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[..., Path]:
    """Writes the sound recipe with one text in place of another."""

    def write(old: str = "", new: str = "", text: str = SOUND) -> Path:
        assert old in text, f"`{old}` is not in the recipe"
        path = folder / "recipe.yaml"
        path.write_text(text.replace(old, new, 1) if old else text, encoding="utf8")
        return path

    return write


@pytest.fixture
def faults_of(folder: Path) -> Callable[..., list[str]]:
    """The faults of a recipe, one a line, without its path."""

    def faults_of(path: Path, *overrides: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, overrides)
        assert caught.value.hint
        lines = caught.value.message.splitlines()
        assert all(line.startswith((f"{path}:", "--set ")) for line in lines), lines
        return [line.removeprefix(f"{path}:").replace(f"{folder}/", "") for line in lines]

    return faults_of
