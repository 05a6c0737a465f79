"""The metrics of a device, as Prometheus reads them: over HTTP, or from a file beside those of the node.

    edgeopt_inference_duration_seconds{model,backend,stage}   histogram; stages pre, infer, post
    edgeopt_inference_total{outcome}                          batches: ok, nonfinite, timeout, error
    edgeopt_inference_within_budget_total                     those whose infer stage kept to the next line
    edgeopt_latency_budget_seconds                            what 90 % are to keep to: see `budget_s`
    edgeopt_latency_gated_seconds                             the p90 that was measured before it shipped
    edgeopt_release_info{model,digest,counter,precision,engine}
    edgeopt_rollback_total{reason}                            ever: operator, nonfinite, starts, damaged
    edgeopt_throttle_seconds_total{reason}                    while this process ran: quota, heat
    edgeopt_drift_score{signal}, edgeopt_drift_threshold{signal}, edgeopt_drift_alerts_total{signal},
    edgeopt_drift_windows_total                               see `edgeopt.device.drift`
    edgeopt_snapshot_failures_total                           snapshots that could not be kept
    edgeopt_watch_start_time_seconds                          since when all of this is counted, which tells runs apart

No series is about one image, so their number is fixed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from edgeopt import files
from edgeopt.backends import Arrays
from edgeopt.bundle import Bundle
from edgeopt.bundle.fingerprint import signals
from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.release import read_release
from edgeopt.device.drift import Drift
from edgeopt.device.home import Home
from edgeopt.device.traffic import Traffic
from edgeopt.device.watching import Outcome, Seconds
from edgeopt.validation.conditions import seconds_slowed

#: of what `render` gives
CONTENT_TYPE = CONTENT_TYPE_LATEST

#: between two samples whose signals are counted: those that follow one another closely resemble one another
SPACING_S = 1.0

#: by how much the p90 of a busy device may exceed what was measured before it shipped, where no budget says
SLACK = 1.25

P90 = "latency.p90_ms"


class MetricsWatch:
    """Counts all answers, and looks at one sample in a while for drift."""

    def __init__(self, bundle: Bundle, home: Home | None, spacing_s: float = SPACING_S) -> None:
        manifest = self._manifest = bundle.manifest
        self._home, self._release, self._spacing_s = home, _describe(bundle), spacing_s
        self._image, self._scores = manifest.artifact.inputs[0].name, manifest.artifact.outputs[0].name
        self._lock = threading.Lock()
        self._traffic, self._drift = Traffic(budget_s(manifest)), Drift(manifest.fingerprint)
        self._next_look, self._started, self._slowed = 0.0, time.time(), seconds_slowed()
        self._failures = 0

    def answered(self, inputs: Arrays, outputs: Arrays, seconds: Seconds) -> None:
        """One batch was answered; of a batch that is looked at, the first sample is."""
        now = time.monotonic()
        with self._lock:
            self._traffic.add(seconds)
            due = now >= self._next_look
            if due:
                self._next_look = now + self._spacing_s
        if due and self._manifest.fingerprint:
            found = signals(inputs[self._image][:1], outputs[self._scores][:1])
            with self._lock:
                self._drift.see({name: float(values[0]) for name, values in found.items()})

    def failed(self, outcome: Outcome) -> None:
        with self._lock:
            self._traffic.outcomes[outcome] += 1

    def snapshot_failed(self) -> None:
        """A snapshot of these metrics could not be kept."""
        with self._lock:
            self._failures += 1

    def render(self) -> bytes:
        """What `GET /metrics` answers, of type `CONTENT_TYPE`.

        Raises:
            TrustError: the device's state cannot be read.
        """
        return render(self.families())

    def write_textfile(self, path: Path) -> None:
        """Put the metrics where node_exporter's collector of text files reads them, as a whole."""
        files.write_bytes(path, self.render())

    def families(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        with self._lock:
            yield from [*self._traffic_families(), *self._drift_families()]
            failures = self._failures
        yield CounterMetricFamily("edgeopt_snapshot_failures", "Snapshots that could not be kept.", failures)
        yield GaugeMetricFamily("edgeopt_watch_start_time_seconds", "Since when it counts.", self._started)
        yield from release_families(self._manifest, self._release)
        slowed = self._slowed.until(seconds_slowed())
        throttled = CounterMetricFamily("edgeopt_throttle_seconds", "Seconds slowed down.", labels=["reason"])
        for reason, seconds in zip(slowed._fields, slowed, strict=True):
            throttled.add_metric([reason], seconds)
        yield throttled
        if self._home is not None:
            yield rollback_family(self._home)

    def _traffic_families(self) -> Iterator[Metric]:
        model, backend = self._manifest.name, self._manifest.artifact.backend
        durations = HistogramMetricFamily(
            "edgeopt_inference_duration_seconds", "Time of one batch.", labels=["model", "backend", "stage"]
        )
        for stage, total in self._traffic.sums.items():
            durations.add_metric([model, backend, stage], self._traffic.cumulative(stage), total)
        yield durations
        outcomes = CounterMetricFamily("edgeopt_inference", "Batches by how they ended.", labels=["outcome"])
        for outcome, count in self._traffic.outcomes.items():
            outcomes.add_metric([outcome], count)
        yield outcomes
        yield CounterMetricFamily(
            "edgeopt_inference_within_budget", "Batches within the latency budget.", self._traffic.within
        )

    def _drift_families(self) -> Iterator[Metric]:
        score = GaugeMetricFamily("edgeopt_drift_score", "Index of the last window.", labels=["signal"])
        bound = GaugeMetricFamily("edgeopt_drift_threshold", "An index above it alerts.", labels=["signal"])
        alerts = CounterMetricFamily("edgeopt_drift_alerts", "Windows that have alerted.", labels=["signal"])
        for signal, found in self._drift.scores.items():
            score.add_metric([signal], found.value)
            bound.add_metric([signal], found.threshold)
        for signal, count in self._drift.alerts.items():
            alerts.add_metric([signal], count)
        yield from (score, bound, alerts)
        yield CounterMetricFamily("edgeopt_drift_windows", "Windows that were full.", self._drift.windows)


def make_watch(bundle: Bundle, home: Home | None = None) -> MetricsWatch:
    """A watch of one release; with a home, rollbacks are told as well."""
    return MetricsWatch(bundle, home)


def render(families: Iterable[Metric]) -> bytes:
    """Metrics as Prometheus reads them, by a registry of their own: nothing of the process is among them."""
    registry = CollectorRegistry()
    registry.register(_Fixed(list(families)))
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def gated_s(manifest: Manifest) -> float | None:
    """The p90 that was measured before it shipped: its upper bound where there is one. None: it was not measured."""
    found = next((one for one in manifest.measurements if one.get("metric") == P90), {})
    value = found.get("value") if found.get("high") is None else found["high"]
    return None if value is None or found.get("simulated") else float(value) / 1e3


def budget_s(manifest: Manifest) -> float | None:
    """What nine of ten batches are to keep to: the recipe's budget, else a quarter more than was measured."""
    if manifest.smoke.p90_ms is not None:
        return manifest.smoke.p90_ms / 1e3
    gated = gated_s(manifest)
    return None if gated is None else SLACK * gated


def release_families(manifest: Manifest, release: dict[str, str]) -> Iterator[Metric]:
    """What runs, and what is expected of it."""
    yield InfoMetricFamily("edgeopt_release", "What runs.", release)
    told = {"budget": "What the p90 of a batch is to keep to.", "gated": "The p90 that was measured before it shipped."}
    for name, seconds in (("budget", budget_s(manifest)), ("gated", gated_s(manifest))):
        if seconds is not None:
            yield GaugeMetricFamily(f"edgeopt_latency_{name}_seconds", told[name], seconds)


def rollback_family(home: Home) -> Metric:
    """How often the release before was taken."""
    rollbacks = CounterMetricFamily("edgeopt_rollback", "Releases that were given up.", labels=["reason"])
    for reason, count in home.state().rollbacks.items():
        rollbacks.add_metric([reason], count)
    return rollbacks


def _describe(bundle: Bundle) -> dict[str, str]:
    """The labels of a release; a counter only where it is signed."""
    manifest = bundle.manifest
    counter = "" if bundle.release is None else str(read_release(bundle.release).counter)
    versions = [f"{name} {version}" for name, version in manifest.artifact.requires.items() if name != "isa"]
    return {
        "model": manifest.name, "digest": manifest.digest(), "counter": counter,
        "precision": manifest.candidate.rpartition("/")[2], "engine": ", ".join(versions) or manifest.artifact.backend,
    }  # fmt: skip
