"""Networks brought into ONNX form by edgeopt's own passes, for the benchmarks to start from."""

from __future__ import annotations

from pathlib import Path

from tables import ROOT

from edgeopt import registry
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.splits import Splits, make_splits
from edgeopt.inputs import source_request, split_samples
from edgeopt.model import Model, QuantizationProfile, TensorSpec
from edgeopt.passes import run_pass
from edgeopt.recipe import load_recipe
from edgeopt.sources import SourceRequest, load_source


def export_digits(folder: Path, size: int) -> Model:
    """The digits network for images of size × size pixels."""
    request = SourceRequest(
        root=ROOT / "recipes",
        factory="digits/network.py:DigitsNet",
        weights=ROOT / "recipes/digits/digits.safetensors",
        inputs=(TensorSpec(name="image", shape=(1, size, size)),),
    )
    return export(request, folder)


def export_recipe(path: Path, folder: Path) -> Model:
    """The network of a recipe, unchanged."""
    return export(source_request(load_recipe(path)), folder)


def recipe_splits(path: Path, **counts: int) -> Splits:
    """The data of a recipe, split as `compile` does; `counts`: how many samples of a split, not its own number."""
    recipe = load_recipe(path)
    whole = split_samples(recipe, tuple(recipe.model.inputs))
    return make_splits(whole, {name: getattr(recipe.data, name).samples for name in whole} | counts)


def export(request: SourceRequest, folder: Path) -> Model:
    model, _ = load_source("torch_factory", request, _fresh(folder / "load"))
    for name in ("export_onnx", "simplify_onnx"):
        model = run_pass(name, {}, model, Context(folder=_fresh(folder / name))).model
    return model


def quantize(model: Model, samples: Samples, folder: Path, backend: str = "onnxruntime_cpu") -> Model:
    """The model after `quantize_int8` for a backend on this machine."""
    return quantize_for(registry.resolve("backends", backend)().profile(), model, samples, folder)


def quantize_for(profile: QuantizationProfile, model: Model, samples: Samples, folder: Path) -> Model:
    """The model after `quantize_int8` for any target."""
    context = Context(folder=_fresh(folder / "quantize_int8"), calibration=samples, profile=profile)
    return run_pass("quantize_int8", {}, model, context).model


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
