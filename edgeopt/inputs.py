"""What a recipe names to be read: the network, as a source is asked for it, what runs and times it, and the splits."""

from __future__ import annotations

from typing import NamedTuple

from edgeopt import environment, registry
from edgeopt.data import Samples
from edgeopt.model import TensorSpec
from edgeopt.recipe import BackendEntry, Recipe, Target
from edgeopt.sources import SourceRequest

#: what runs a network as given where torch does not
CPU = "onnxruntime_cpu"


def source_request(recipe: Recipe) -> SourceRequest:
    """What the `model:` section asks a source for."""
    model = recipe.model
    inputs = tuple(
        TensorSpec(name=name, dtype=section.dtype, shape=tuple(section.shape)) for name, section in model.inputs.items()
    )
    return SourceRequest(
        root=recipe.folder.absolute(), factory=model.factory, options=model.options,
        weights=model.weights and model.weights.absolute(), key=model.key, strip_prefix=model.strip_prefix,
        onnx=model.onnx and model.onnx.absolute(), inputs=inputs,
    )  # fmt: skip


def split_samples(recipe: Recipe, inputs: tuple[str, ...]) -> dict[str, Samples]:
    """All samples of each split that the recipe names."""
    data, classes = recipe.data, recipe.data.classes
    return {
        name: Samples(
            format=data.format, path=section.path.absolute(), inputs=inputs, preprocess=data.preprocess,
            classes=tuple(classes) if classes else None,
        )
        for name in ("calibration", "validation", "training", "tuning")
        if (section := getattr(data, name)) is not None
    }  # fmt: skip


def original_backend(recipe: Recipe, target: Target) -> BackendEntry:
    """The backend that runs the network as given: on the NVIDIA GPU here, where all that the target races does so.

    A device has no torch: there it is the network as an ONNX graph in float, by ONNX Runtime where that races, too.
    """
    if target.device is not None:
        names = [entry.name for entry in target.backends]
        return BackendEntry.model_validate(CPU if any(name.startswith("onnxruntime") for name in names) else names[0])
    raced = [registry.resolve("backends", entry.name) for entry in target.backends]
    gpu = all(backend.on_nvidia for backend in raced) and bool(environment.gpus())
    if recipe.model.onnx:
        cuda = gpu and environment.library_version("onnxruntime-gpu") is not None
        return BackendEntry.model_validate("onnxruntime_cuda" if cuda else CPU)
    return BackendEntry.model_validate({"torch_eager": {"device": "cuda"}} if gpu else "torch_eager")


class Clocked(NamedTuple):
    """The backend whose clock a pass goes by, and how what is timed there computes: in integers, in float16."""

    backend: BackendEntry
    quantized: bool = False
    half: bool = False


def find_clock(recipe: Recipe, target: Target, named: str | None, backend: BackendEntry) -> Clocked:
    """The clock that a pass goes by.

    Args:
        named: the candidate, `backend/variant`; empty: the first; None: the one that the pass is run for, on `backend`.
    """
    if named is None:
        return Clocked(backend)
    name, _, variant = named.partition("/")
    chosen = next((entry for entry in target.backends if entry.name == name), backend)
    variant = variant if variant in target.variants else next(iter(target.variants))
    passes = [registry.resolve("passes", one.name) for one in recipe.passes_of(target, variant)]
    return Clocked(chosen, any(one.needs_profile for one in passes), any(one.halves for one in passes))
