"""The `budgets:` section of a recipe: the limits that a candidate must be shown to keep."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from edgeopt.model import Value

#: beyond these a budget was written in another unit, such as per cent or bytes, and would be met by anything
MOST_RATIO, MOST_MB = 10.0, 1e5

Confidence = Field(default=0.95, gt=0.5, lt=1.0, description="how sure the verdict must be")


def _ratio(description: str) -> Any:
    return Field(default=None, gt=0, le=MOST_RATIO, description=description)


class AccuracyBudget(Value):
    """How much accuracy may be lost against the original on the same images."""

    metric: str = Field(default="top1", description="top1, top5, macro_f1, a third party's, or file.py:callable")
    max_drop_pp: float | None = Field(default=None, ge=0, le=100, description="largest drop, in percentage points")
    max_drop_baseline_pp: float | None = Field(
        default=None, ge=0, le=100, description="largest drop against the bundle given with --baseline, in points"
    )
    class_floor: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        default=None, description="class → least accuracy, from 0 to 1"
    )
    confidence: float = Confidence


class LatencyBudget(Value):
    """How slow the candidate may be, against a reference in the same run or in milliseconds."""

    max_ratio: float | None = _ratio("largest candidate ÷ original: 0.5 is twice as fast")
    max_ratio_fp32: float | None = _ratio("largest candidate ÷ float on its backend")
    max_ratio_baseline: float | None = _ratio("largest candidate ÷ the bundle given with --baseline")
    p50_ms: float | None = Field(default=None, gt=0, description="upper bound of the median, in milliseconds")
    p90_ms: float | None = Field(default=None, gt=0, description="upper bound of the 90th percentile, in milliseconds")
    p99_ms: float | None = Field(default=None, gt=0, description="upper bound of the 99th percentile, in milliseconds")
    confidence: float = Confidence


class SizeBudget(Value):
    max_mb: float = Field(gt=0, le=MOST_MB, description="the artifact's files, in MB of 10^6 bytes")


class MemoryBudget(Value):
    max_mb: float = Field(gt=0, le=MOST_MB, description="peak resident memory of a session beyond its process, in MB")


class EnergyBudget(Value):
    max_mj: float = Field(gt=0, description="energy of one inference beyond idle, in millijoules")
    confidence: float = Confidence


class ThroughputBudget(Value):
    min_per_s: float = Field(gt=0, description="least inferences per second")


class Budgets(Value):
    """All limits of one target; what is absent is not judged."""

    accuracy: AccuracyBudget | None = None
    latency: LatencyBudget | None = None
    size: SizeBudget | None = None
    memory: MemoryBudget | None = None
    energy: EnergyBudget | None = None
    throughput: ThroughputBudget | None = None
