"""Where the files of a report lie now, and what they are to be run on.

A report outlives what it tells of: bundles are moved, the store is cleared, recipes change. A file counts as found only
if it has the digest that the report gives; what is gone is said to be gone, never guessed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from edgeopt import files
from edgeopt.backends import Arrays
from edgeopt.bundle.verify import load_bundle
from edgeopt.data import Samples
from edgeopt.errors import DataError, EdgeoptError
from edgeopt.inputs import split_samples
from edgeopt.model import load_model
from edgeopt.onnx_graph import input_specs, random_inputs
from edgeopt.plan import LOAD, SPLIT
from edgeopt.recipe import load_recipe
from edgeopt.report import CandidateResult, Report, TargetResult
from edgeopt.store import Found, Store

#: samples that noise is measured on: its share of the signal settles early
SAMPLES = 16


@dataclass(frozen=True)
class Inputs:
    """What a graph may be run on, the best first: calibration samples of the recipe, golden samples of a bundle, and
    random ones where neither is to be had. Never the validation split, but for those few in the bundle.

    `fault` says why there are no calibration samples, where there are none.
    """

    calibration: Samples | None
    bundle: Path
    fault: str = ""

    def load(self, graph: onnx.ModelProto) -> tuple[list[Arrays], str]:
        """Batches of the size that the graph takes, of one where it takes any, and what they are."""
        specs, fault = input_specs(graph), self.fault
        names = tuple(spec.name for spec in specs)
        fixed = [spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)]
        size = int(fixed[0]) if fixed else 1
        if self.calibration is not None:
            try:
                rows = _prepared(replace(self.calibration, inputs=names).spread(SAMPLES))
                return _pack(rows, size), f"{len(rows)} calibration samples"
            except EdgeoptError as error:
                fault = error.message
        try:
            rows = _golden(self.bundle, names)
            return _pack(rows, size), f"{len(rows)} golden samples of the bundle, since {fault}"
        except EdgeoptError:  # that there is no bundle, as for a loser, is no news
            random = [random_inputs(specs, 1, seed) for seed in range(SAMPLES)]
        rows = [{name: array[0] for name, array in each.items()} for each in random]
        return _pack(rows, size), f"{SAMPLES} random inputs, which are no images, since {fault}"


def find_inputs(report: Report, target: TargetResult, folder: Path) -> Inputs:
    """What lies where the report, in `folder`, says; the recipe only if it is still the one that was run."""
    bundle = folder / target.name / "bundle"
    path = Path(report.recipe.path)
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != report.recipe.sha256:
            return Inputs(None, bundle, f"`{path}` was changed")
        recipe = load_recipe(path, report.recipe.overrides)
    except OSError as error:
        return Inputs(None, bundle, f"`{path}` cannot be read: {(error.strerror or '').lower()}")
    except EdgeoptError as error:
        return Inputs(None, bundle, error.message.splitlines()[0])
    return Inputs(split_samples(recipe, ()).get("calibration"), bundle, "the recipe names none for calibration")


def find_artifact(
    report: Report, target: TargetResult, candidate: CandidateResult, folder: Path, store: Store
) -> Path | None:
    """The first file of a candidate's artifact: in the bundle if it won, in its `build` folder, or in the store."""
    if candidate.artifact is None or not candidate.artifact.files:
        return None
    file = candidate.artifact.files[0]
    places = [folder / target.name / "bundle" / "model", folder / target.name / candidate.id / "build"]
    stored = _built(report, target, candidate, store)
    if stored is not None:
        places.append(stored.folder)
    for path in (place / file.path for place in places):
        if path.is_file() and files.hash_file(path) == file.sha256:
            return path
    return None


def find_float(
    report: Report, target: TargetResult, candidate: CandidateResult, store: Store, quantizing: str
) -> Path | None:
    """The graph that the candidate's pass named `quantizing` was given, from the store; None where it is gone."""
    entry = _built(report, target, candidate, store)
    while entry is not None:
        found = _model_before(entry, store)
        if found is not None and entry.entry.step.partition(" [")[0] == quantizing:
            return load_model(found.folder).path
        entry = found
    return None


def _built(report: Report, target: TargetResult, candidate: CandidateResult, store: Store) -> Found | None:
    name = f"build [{target.name}/{candidate.id}]"
    return next((store.find(step.key) for step in report.steps if step.id == name), None)


def _model_before(found: Found, store: Store) -> Found | None:
    """The step whose model a step was given: of those that it needed, the one that is no data or original, if any."""
    needs = {name.removeprefix("step "): key for name, key in found.entry.parts.items() if name.startswith("step ")}
    key = next((key for name, key in needs.items() if name not in (SPLIT, LOAD)), needs.get(LOAD))
    return None if key is None else store.find(key)


def _prepared(samples: Samples) -> list[Arrays]:
    return [{name: array[0] for name, array in batch.inputs.items()} for batch in samples.batches(1)]


def _golden(folder: Path, names: tuple[str, ...]) -> list[Arrays]:
    """The golden samples of the bundle in `folder`, prepared.

    Raises:
        EdgeoptError: there is none, it is not what it should be, or its samples are not of these inputs.
    """
    bundle = load_bundle(folder)
    prepare = bundle.manifest.preprocess.apply
    rows = [prepare(sample.inputs, f"golden sample {index}") for index, sample in enumerate(bundle.golden())]
    if not rows or any(row.keys() != set(names) for row in rows):
        raise DataError(f"the golden samples of `{folder}` are not of the inputs {', '.join(names)}")
    return rows


def _pack(samples: list[Arrays], size: int) -> list[Arrays]:
    """Batches of `size`; the last one is filled up with the first samples."""
    batches = []
    for start in range(0, len(samples), size):
        rows = [samples[index % len(samples)] for index in range(start, start + size)]
        batches.append({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    return batches
