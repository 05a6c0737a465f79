"""Reports with everything in them: a winner, a slower loser, a missed budget, a crash, a simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgeopt.model import Artifact, ArtifactFile
from edgeopt.recipe.budgets import Budgets
from edgeopt.report import (
    CandidateResult,
    RecipeSource,
    Report,
    SideResult,
    StepResult,
    TargetResult,
)
from edgeopt.report.judging import judge_target
from edgeopt.select import Duel
from edgeopt.validation import Measurement

BUDGETS = Budgets.model_validate(
    {
        "accuracy": {"max_drop_pp": 2.0},
        "latency": {"max_ratio": 0.5, "p90_ms": 2.0},
        "size": {"max_mb": 0.5},
    }
)
MACHINE = "Xeon 2.5 GHz, AVX512-VNNI"


def measure(
    times_ms: tuple[float, float],
    size_bytes: int,
    top1: float = 98.6,
    drop: tuple[float, float, float] | None = None,
    ratio: tuple[float, float, float] | None = None,
    ratio_fp32: tuple[float, float, float] | None = None,
    simulated: bool = False,
) -> tuple[Measurement, ...]:
    """The measurements of one side; triples are value, low, high, ratios as in the tables (4.0 times as fast)."""

    def one(metric: str, unit: str, value: float, low: float | None, high: float | None, samples: int) -> Measurement:
        return Measurement(
            metric=metric, unit=unit, value=value, low=low, high=high, confidence=0.975, samples=samples,
            raw="samples/x86.npz", simulated=simulated,
        )  # fmt: skip

    found = [
        one("accuracy.top1", "%", top1, top1 - 1, top1 + 0.8, 720),
        one("latency.p50_ms", "ms", times_ms[0], 0.98 * times_ms[0], 1.02 * times_ms[0], 400),
        one("latency.p90_ms", "ms", times_ms[1], 0.98 * times_ms[1], 1.02 * times_ms[1], 400),
        one("size.bytes", "bytes", size_bytes, size_bytes, size_bytes, 1),
        one("memory.peak_mb", "MB", 10 + size_bytes / 1e5, None, None, 10),
    ]
    if drop is not None:
        found.append(one("accuracy.drop_pp", "pp", *drop, 720))
        found.append(one("accuracy.agreement", "%", 98.9, 97.9, 99.4, 720))
        found.append(one("accuracy.nonfinite", "images", 0, None, None, 720))
    for metric, times in (("latency.ratio", ratio), ("latency.ratio_fp32", ratio_fp32)):
        if times is not None:
            found.append(one(metric, "1", 1 / times[0], 1 / times[2], 1 / times[1], 10))
    return tuple(found)


def build_of(*files: ArtifactFile, **requires: str) -> Artifact:
    """An artifact that consists of these files."""
    return Artifact(target="x86", backend="onnxruntime_cpu", files=files, inputs=(), outputs=(), requires=requires)


def build(name: str, size_bytes: int) -> Artifact:
    file = ArtifactFile(path="model.onnx", sha256=f"{size_bytes:064x}", size_bytes=size_bytes)
    return build_of(file, onnxruntime="1.31.1", isa=name)


def make_candidate(variant: str, backend: str = "onnxruntime_cpu", **fields: Any) -> CandidateResult:
    passes = ("prune_channels", "fine_tune", "export_onnx")
    return CandidateResult(id=f"{backend}/{variant}", backend=backend, variant=variant, passes=passes, **fields)


FP32 = make_candidate(
    "fp32",
    artifact=build("avx2", 270_000),
    measurements=measure(
        (0.41, 0.43), 270_000, drop=(0.1, -0.4, 0.6), ratio=(8.5, 8.4, 8.7), ratio_fp32=(2.4, 2.3, 2.5)
    ),
)
INT8 = make_candidate(
    "int8",
    artifact=build("avx512_vnni", 90_000),
    measurements=measure(
        (0.24, 0.25), 90_000, drop=(0.28, -0.3, 0.7), ratio=(14.6, 14.3, 15.0), ratio_fp32=(4.0, 3.9, 4.1)
    ),
)
INT4 = make_candidate(
    "int4_first_layer_in_float",
    artifact=build("avx512_vnni", 60_000),
    measurements=measure(
        (0.22, 0.23), 60_000, 94.1, drop=(4.6, 3.1, 6.2), ratio=(16.0, 15.7, 16.3), ratio_fp32=(4.4, 4.3, 4.5)
    ),
)
CRASHED = make_candidate(
    "int8",
    "openvino_cpu",
    error="`openvino_cpu` is not installed",
    hint="pip install edgeopt[openvino]",
)
SIMULATED = make_candidate(
    "fp32",
    "null",
    artifact=build("none", 270_000),
    measurements=measure((0.01, 0.01), 270_000, 10.0, drop=(0.0, -0.1, 0.1), ratio=(352, 340, 360), simulated=True),
)


def make_target(*candidates: CandidateResult, name: str = "x86", **fields: Any) -> TargetResult:
    """A judged target."""
    duels = (Duel(first=FP32.id, second=INT8.id, ratio=1.71, low=1.66, high=1.75),)
    target = TargetResult(
        name=name,
        threads=1,
        batch=1,
        machine=MACHINE,
        budgets=BUDGETS,
        original=SideResult(backend="torch_eager", measurements=measure((3.52, 3.61), 1_080_000, 98.7)),
        float={
            "onnxruntime_cpu": SideResult(
                backend="onnxruntime_cpu", measurements=measure((0.96, 0.99), 1_090_000, 98.7, ratio=(3.7, 3.6, 3.8))
            )
        },
        candidates=candidates,
        duels=duels,
        protocol={"sets": 10, "blocks": 20, "iterations": 20},
        samples={"samples/x86.npz": "0" * 64},
        **fields,
    )
    return judge_target(target)


def make_report(*targets: TargetResult) -> Report:
    """A whole run with those targets."""
    return Report(
        edgeopt="0.1.0",
        recipe=RecipeSource(name="digits", path="recipes/digits.yaml", sha256="ab" * 32),
        validation_images=720,
        environment={"cpu": "Xeon 2.5 GHz", "isa": ["avx2", "avx512_vnni"], "libraries": {"onnxruntime": "1.31.1"}},
        seconds=62.3,
        steps=STEPS,
        targets=targets,
    )


STEPS = (
    StepResult(
        id="prune_channels", name="prune_channels", key="1" * 64, cached=True, seconds=2.1,
        facts={
            "macs_before": 41_200_000, "summary": "41.2 → 10.9 MMACs; 2 groups left whole: stem, head",
            "group": "channels · latency saved alone · divergence without 12, 25 %",
            "group blocks.10": "96 → 32 · 21.3 % · 0.001 0.02", "group blocks.9": "64 → 16 · 12.0 % · 0.0005 0.4",
        },
    ),
    StepResult(
        id="fine_tune", name="fine_tune", key="2" * 64, cached=False, seconds=31.04,
        facts={"summary": "6 epochs, 97.9 % → 98.6 % on the tuning split"},
    ),
    StepResult(
        id="x86/int8/quantize_int8", name="quantize_int8", key="3" * 64, cached=False, seconds=3.3,
        scope="onnxruntime_cpu/int8", facts={"images": 256, "method": "minmax", "convolutions": "21 of 21"},
    ),
)  # fmt: skip


@pytest.fixture
def passing() -> Report:
    return make_report(make_target(FP32, INT8, bundle="x86/digits.edgeopt"))


@pytest.fixture
def mixed() -> Report:
    """One target that ships in spite of a miss and a crash, one where only a simulation was run, one never built."""
    return make_report(
        make_target(FP32, INT8, INT4, CRASHED, bundle="x86/digits.edgeopt", notes=("2 groups were left whole",)),
        make_target(INT4, SIMULATED, name="board"),
    )


@pytest.fixture
def unbuilt() -> Report:
    return make_report(make_target(CRASHED))


@pytest.fixture
def target() -> Callable[..., TargetResult]:
    return make_target


@pytest.fixture
def run_report() -> Callable[..., Report]:
    return make_report
