"""The smoke test: does a release compute here what it computed where it was proven, in numbers, and in time.

It runs in processes of its own, so what crashes or hangs there takes nothing down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import workers
from edgeopt.backends import Arrays
from edgeopt.bundle import Bundle
from edgeopt.bundle.golden import Golden
from edgeopt.errors import DeviceError, EdgeoptError, MissingError
from edgeopt.model import Value
from edgeopt.validation.subject import thread_environment
from edgeopt.workers import Limits, Worker

#: an engine is opened in seconds; what takes longer hangs
SECONDS = 120.0

DISCARD, TIMED_RUNS = 5, 40

#: of a span of outputs: what rounding alone may do where all of them are the same
LEAST_SPAN = 1e-3


class SmokeResult(Value):
    """What was seen: the largest difference as a share of an output's span, and milliseconds of one batch."""

    samples: int
    difference: float
    p90_ms: float


def run_smoke(bundle: Bundle, max_ms: float | None = None) -> SmokeResult:
    """Run the golden samples of a release, and hold outputs and time against what the manifest allows.

    Args:
        max_ms: the p90 of one batch that is allowed, in place of that of the manifest.

    Raises:
        DeviceError: it crashes, hangs, gives NaN, computes something else, or is slower than its budget.
        MissingError: its runtime is not installed, or the disk is full.
    """
    artifact, smoke, golden = bundle.artifact, bundle.manifest.smoke, bundle.golden()
    if not golden:
        raise DeviceError("the smoke test failed: the bundle has no golden samples", "compile and sign it again")
    threads, batch = int(artifact.settings.get("threads", 1)), int(artifact.settings.get("batch", 1))
    limits, environ = Limits(seconds=SECONDS), thread_environment(threads)
    samples = [_prepared(sample, bundle) for sample in golden]
    try:
        outputs: list[Arrays] = workers.run(
            "edgeopt.backends:run_each", artifact, samples, batch, limits=limits, environ=environ, name="smoke test"
        )
        times_ms = _time(bundle, samples[0], batch, limits, environ)
    except MissingError:  # this device lacks something: nothing is known against the release
        raise
    except EdgeoptError as error:
        raise DeviceError(f"the smoke test failed: {error.message}", error.hint, error.log) from error
    difference = max(_difference(sample, made) for sample, made in zip(golden, outputs, strict=True))
    p90_ms = sorted(times_ms)[math.ceil(0.9 * len(times_ms)) - 1]
    bound = smoke.p90_ms if max_ms is None else max_ms
    for fault in _faults(difference, smoke.tolerance, p90_ms, bound):
        raise DeviceError(f"the smoke test failed: {fault}", "what was used before stays in use")
    return SmokeResult(samples=len(golden), difference=difference, p90_ms=round(p90_ms, 4))


def _faults(difference: float, tolerance: float, p90_ms: float, bound_ms: float | None) -> Iterator[str]:
    if not math.isfinite(difference):
        yield "it gives NaN or infinity, or an output of another shape"
    if not difference <= tolerance:
        yield f"its outputs differ by {100 * difference:.1f} % of their span, {100 * tolerance:g} % are allowed"
    if bound_ms is not None and not p90_ms <= bound_ms:
        yield f"its p90 is {p90_ms:.3f} ms, at most {bound_ms:g} ms are allowed"


def _prepared(sample: Golden, bundle: Bundle) -> Arrays:
    """The inputs of one sample with a batch axis of 1."""
    made = bundle.manifest.preprocess.apply(sample.inputs, "golden sample")
    wanted = {spec.name: np.dtype(spec.dtype) for spec in bundle.artifact.inputs}
    return {name: array.astype(wanted[name], copy=False)[None] for name, array in made.items()}


def _difference(sample: Golden, made: Mapping[str, NDArray[Any]]) -> float:
    """The largest difference of any output, as a share of what it spans."""
    return max(_share(expected, made[name]) for name, expected in sample.outputs.items())


def _share(expected: NDArray[Any], made: NDArray[Any]) -> float:
    """Infinite where the two cannot be compared, and never NaN, which `max` would lose."""
    if expected.shape != made.shape or not (np.isfinite(made).all() and np.isfinite(expected).all()):
        return math.inf
    span = max(float(np.ptp(expected)), LEAST_SPAN)
    return float(np.abs(made.astype(np.float64) - expected.astype(np.float64)).max()) / span


def _time(bundle: Bundle, sample: Arrays, batch: int, limits: Limits, environ: dict[str, str]) -> Sequence[float]:
    inputs = {name: np.repeat(array, batch, axis=0) for name, array in sample.items()}
    subject = "edgeopt.validation.subject:Subject"
    with Worker(subject, bundle.artifact, [inputs], limits=limits, environ=environ, name="smoke test") as worker:
        return [time_ns / 1e6 for time_ns in worker.call("time_block", DISCARD, TIMED_RUNS).times_ns]
