"""A report with the raw samples that it follows from, as `compile` leaves it: figures made up, the rest real."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeopt import files
from edgeopt.model import Artifact, ArtifactFile
from edgeopt.plan import ORIGINAL, float_side
from edgeopt.recipe.budgets import Budgets
from edgeopt.report import CandidateResult, RecipeSource, Report, SideResult, TargetResult
from edgeopt.report.deriving import derive_target, raw_file
from edgeopt.report.json import Json
from edgeopt.report.judging import judge_target
from edgeopt.validation.evidence import Evidence
from edgeopt.validation.predictions import Predictions
from tests.report.conftest import build_of
from tests.validation.test_latency import fabricate

IMAGES, CLASSES = 720, ("zero", "one", "two", "three")
FLOAT, FP32, INT8 = float_side("onnxruntime_cpu"), "onnxruntime_cpu/fp32", "onnxruntime_cpu/int8"
SIZES_BYTES = {FP32: 400_000, INT8: 100_000}
TIMES_MS = {ORIGINAL: 4.0, FLOAT: 2.0, FP32: 1.0, INT8: 0.6}
BUDGETS = Budgets.model_validate(
    {
        "accuracy": {"max_drop_pp": 2.0, "class_floor": {"two": 0.9}},
        "latency": {"max_ratio": 0.5},
        "size": {"max_mb": 0.5},
    }
)


def built(side: str) -> Artifact:
    """What was built for a side."""
    name, size_bytes = hashlib.sha256(side.encode()).hexdigest(), SIZES_BYTES.get(side, 1_000_000)
    return build_of(ArtifactFile(path="model.onnx", sha256=name, size_bytes=size_bytes))


def predicted(side: str, wrong: int = 0) -> Predictions:
    """What a side said that is wrong on the first `wrong` images."""
    labels = np.arange(IMAGES) % len(CLASSES)
    classes = np.where(np.arange(IMAGES) < wrong, (labels + 1) % len(CLASSES), labels)
    return Predictions(
        indices=np.arange(IMAGES), labels=labels, classes=classes, confidences=np.ones(IMAGES, np.float32),
        finite=np.ones(IMAGES, bool), constant=False, subject=built(side).digest(), environment="this machine",
        records={"top1": {"hit": classes == labels}, "macro_f1": {"true": labels, "said": classes}},
    )  # fmt: skip


def make_evidence(wrong: int = 2, **times_ms: float) -> Evidence:
    """Predictions and times of all sides; int8 is wrong on `wrong` images."""
    sides = TIMES_MS | times_ms
    said = {side: predicted(side, wrong if side == INT8 else 0) for side in sides}
    return Evidence(said, replace(fabricate(sides), digests=tuple(one.subject for one in said.values())))


def prove(evidence: Evidence, budgets: Budgets = BUDGETS, artifacts: Mapping[str, Artifact] | None = None) -> Report:
    """The report that follows from `evidence`; `artifacts` are those that are not the usual ones."""
    known = {id: built(id) for id in SIZES_BYTES} | dict(artifacts or {})

    shape = TargetResult(
        name="x86", threads=1, batch=1, budgets=budgets, classes=CLASSES,
        original=SideResult(backend="torch_eager", artifact=built(ORIGINAL)),
        float={"onnxruntime_cpu": SideResult(backend="onnxruntime_cpu", artifact=built(FLOAT))},
        candidates=tuple(
            CandidateResult(id=id, backend="onnxruntime_cpu", variant=id.split("/")[1], artifact=known[id])
            for id in SIZES_BYTES
        ),
        samples={
            f"samples/x86/{name}": hashlib.sha256(data).hexdigest() for name, data in evidence.to_files().items()
        },
    )  # fmt: skip
    target = judge_target(derive_target(shape, evidence))
    source = RecipeSource(name="digits", path="digits.yaml", sha256="0" * 64)
    return Report(edgeopt="0.1.0", recipe=source, validation_images=IMAGES, targets=(target,))


def leave(report: Report, evidence: Evidence, folder: Path) -> Path:
    """Write both as a run does; returns the path of the report."""
    for name, data in evidence.to_files().items():
        files.write_bytes(folder / raw_file(report.targets[0], name), data)
    files.write_text(folder / "report.json", Json().render(report))
    return folder / "report.json"
