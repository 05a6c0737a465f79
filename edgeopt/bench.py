"""Two artifacts timed side by side, without a recipe: ONNX files, or bundles."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt import environment, registry, workers
from edgeopt.backends import Arrays
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import load_bundle
from edgeopt.context import Context
from edgeopt.errors import UsageError
from edgeopt.model import Artifact
from edgeopt.sources import SourceRequest
from edgeopt.validation.latency import Ratio, describe_waiting, measure_latency, measure_sets, ratio_interval
from edgeopt.validation.latency_samples import Protocol

CONFIDENCE = 0.95


def compare_files(first: Path, second: Path, *, backend: str, threads: int, batch: int, sets: int) -> dict[str, Any]:
    """Time two artifacts in turns on random inputs; plain data with both sides and the ratio second ÷ first.

    Bundles are opened for `threads` and `batch` too, whatever they were built for.

    Raises:
        UsageError: a file is neither an ONNX file nor a bundle, or the inputs of the two differ.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-bench-") as scratch:
        sides = {
            name: _artifact(path, Path(scratch) / name, backend, threads, batch)
            for name, path in (("a", first), ("b", second))
        }
        inputs = _inputs(sides["a"], batch)
        if {spec.name: spec.with_batch(batch) for spec in sides["b"].inputs} != _shapes(inputs):
            raise UsageError("the two take different inputs", "compare two forms of one network")
        protocol = Protocol(looks=(sets,), threads=threads)
        samples = measure_sets(sides, [inputs], protocol, sets, environment.timing_lock())
    ratio = ratio_interval(samples, "b", "a", 1 - CONFIDENCE)
    rows = {}
    for name, path in (("a", first), ("b", second)):
        found = {one.metric: one.value for one in measure_latency(samples, name, 1 - CONFIDENCE)}
        rows[name] = {"path": str(path), "p50_ms": found["latency.p50_ms"], "p90_ms": found["latency.p90_ms"]}
    bounds = {"value": ratio.value, "low": ratio.low, "high": ratio.high, "confidence": CONFIDENCE}
    return {**rows, "ratio": bounds, "sets": samples.sets, "sentence": _sentence(ratio),
            "note": describe_waiting(samples), "machine": environment.describe()}  # fmt: skip


def _artifact(path: Path, folder: Path, backend: str, threads: int, batch: int) -> Artifact:
    if not path.exists():
        raise UsageError(f"there is no `{path}`", "give an ONNX file or a bundle")
    if path.is_dir():
        return _set(load_bundle(path).artifact, threads, batch)
    if path.name.endswith((".edgeopt", ".edgeopt.xz")):
        return _set(unpack_bundle(path, folder).artifact, threads, batch)
    if registry.resolve("backends", backend).accepts != "onnx":
        raise UsageError(f"`{backend}` does not run ONNX files", "`edgeopt backends` lists what does")
    request = SourceRequest(root=path.parent.absolute(), onnx=path.absolute())
    for part in ("model", "artifact"):
        (folder / part).mkdir(parents=True)
    model, _ = workers.run("edgeopt.sources:load_source", "onnx_file", request, folder / "model")
    context = Context(folder=folder / "artifact", threads=threads, batch=batch, target="bench")
    artifact: Artifact = workers.run("edgeopt.backends:build_artifact", backend, model, context)
    return artifact


def _set(artifact: Artifact, threads: int, batch: int) -> Artifact:
    return artifact.model_copy(update={"settings": artifact.settings | {"threads": threads, "batch": batch}})


def _inputs(artifact: Artifact, batch: int) -> Arrays:
    random = np.random.default_rng(0)
    return {spec.name: random.standard_normal(spec.with_batch(batch)).astype(spec.dtype) for spec in artifact.inputs}


def _shapes(inputs: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in inputs.items()}


def _sentence(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return ratio.note
    if ratio.low > 1:
        return "B is slower"
    return "B is faster" if ratio.high < 1 else "no difference could be shown"
