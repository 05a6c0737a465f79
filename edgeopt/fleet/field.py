"""What one device says of its answers: the metrics of `edgeopt.device.metrics`, read back.

They come as Prometheus' text, as it was scraped or as `edgeopt device metrics` prints it, or as what `edgeopt device
spool --json` prints. In a spool each process has counted from zero, so the last snapshots of all that ran the release
which runs now are added up.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from edgeopt.device.recording import Kept
from edgeopt.device.spool import Spooled
from edgeopt.errors import DataError, EdgeoptError, UsageError
from edgeopt.fleet.inventory import FleetDevice, Inventory
from edgeopt.fleet.reach import ask_status
from edgeopt.model import Value
from edgeopt.transports import DeviceTransport, device_transport

#: metric → its label that is the key of a figure; all others have one figure each
KEYED = {
    "edgeopt_inference_total": "outcome",
    "edgeopt_drift_score": "signal",
    "edgeopt_drift_threshold": "signal",
    "edgeopt_drift_alerts_total": "signal",
    "edgeopt_rollback_total": "reason",
    "edgeopt_throttle_seconds_total": "reason",
}

Figures = dict[str, float]


class Field(Value):
    """What a device says of the release that it runs.

    Attributes:
        digest, counter: of the release; empty and None where nothing ran yet, or it is not signed.
        buckets: upper end in seconds → answers up to there, of the infer stage; the last end is infinite, and is None.
        within: answers that kept to the budget.
        budget_s, gated_s: what the p90 is to keep to, and what it was before it shipped; None: unknown.
        outcomes, scores, thresholds, alerts, rollbacks, throttled: figures by the label that tells them apart.
        started: when the process began to count, in seconds since 1970.
        age_s: how old the figures were when they were fetched, where that is known.
    """

    digest: str = ""
    counter: int | None = None
    buckets: tuple[tuple[float | None, int], ...] = ()
    within: int = 0
    budget_s: float | None = None
    gated_s: float | None = None
    outcomes: Figures = {}
    scores: Figures = {}
    thresholds: Figures = {}
    alerts: Figures = {}
    rollbacks: Figures = {}
    throttled: Figures = {}
    started: float = 0.0
    age_s: float | None = None

    @property
    def answers(self) -> int:
        return self.buckets[-1][1] if self.buckets else 0


def read_field(path: Path) -> Field:
    """What a file holds: metrics as text, or what a device printed of them as JSON.

    Raises:
        UsageError: there is no such file.
        DataError: it holds something else.
    """
    try:
        text = path.read_text(encoding="utf8")
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}", "name a file of metrics") from error
    except UnicodeDecodeError as error:
        raise _no_metrics(f"`{path}`", "it is no text") from error
    if not text.lstrip().startswith("{"):
        return parse_field(text, f"`{path}`")
    try:
        return field_of(json.loads(text), f"`{path}`")
    except ValueError as error:
        raise _no_metrics(f"`{path}`", str(error)) from error


def field_of(printed: Any, name: str) -> Field:
    """What `edgeopt device metrics --json` or `edgeopt device spool --json` has printed.

    Raises:
        DataError: it is neither.
    """
    try:
        if isinstance(printed, dict) and "snapshots" in printed:
            return add_up([parse_field(one.text, name) for one in Spooled.model_validate(printed).snapshots])
        kept = Kept.model_validate(printed)
    except ValidationError as error:
        raise _no_metrics(name, error.errors()[0]["msg"]) from error
    return parse_field(kept.text, name).model_copy(update={"age_s": kept.age_s})


def ask_fields(inventory: Inventory) -> dict[str, Field | EdgeoptError]:
    """Ask every device of a fleet, a batch of them side by side; an error stands for one that gave no answer."""
    with ThreadPoolExecutor(max_workers=inventory.batches.size) as pool:
        asked = {name: pool.submit(_ask, name, device) for name, device in inventory.devices.items()}
        return {name: answer.result() for name, answer in asked.items()}


def _ask(name: str, device: FleetDevice) -> Field | EdgeoptError:
    try:
        with device_transport(device.url, device.pins()) as transport:
            assert isinstance(transport, DeviceTransport)
            return ask_field(name, transport)
    except EdgeoptError as error:
        return error


def ask_field(name: str, transport: DeviceTransport) -> Field:
    """What a device says of what it runs, or is to run once it starts.

    Raises:
        EdgeoptError: it cannot be reached, is another one than is pinned, or cannot read what it holds.
    """
    state = ask_status(transport, name).state
    field = field_of(transport.run("metrics"), f"what `{name}` says")
    if field.digest or state.current is None:
        return field
    return field.model_copy(update={"digest": state.current, "counter": state.releases[state.current].counter})


def parse_field(text: str, name: str) -> Field:
    """Metrics as Prometheus' text.

    Raises:
        DataError: the text is none.
    """
    plain: Figures = {}
    keyed: dict[str, Figures] = defaultdict(dict)
    buckets: dict[float, float] = {}
    release: dict[str, str] = {}
    if "edgeopt_" not in text:
        raise _no_metrics(name, "nothing of edgeopt's is in it")
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "edgeopt_inference_duration_seconds_bucket" and sample.labels["stage"] == "infer":
                    buckets[float(sample.labels["le"])] = sample.value
                elif sample.name == "edgeopt_release_info":
                    release = sample.labels
                elif sample.name in KEYED:
                    keyed[sample.name][sample.labels[KEYED[sample.name]]] = sample.value
                else:
                    plain[sample.name] = sample.value
        return _make(release, buckets, plain, keyed)
    except (ValueError, KeyError, OverflowError) as error:
        raise _no_metrics(name, str(error)) from error


def add_up(runs: Iterable[Field]) -> Field:
    """The figures of several snapshots, oldest first: of each process the last, of the release that runs now."""
    last = {one.started: one for one in runs}
    if not last:
        return Field()
    now = list(last.values())[-1]
    alike = [one for one in last.values() if (one.digest, one.budget_s) == (now.digest, now.budget_s)]
    alike = [one for one in alike if [end for end, _ in one.buckets] == [end for end, _ in now.buckets]]
    ends = [end for end, _ in now.buckets]
    counts = [sum(column) for column in zip(*([count for _, count in one.buckets] for one in alike), strict=True)]
    return now.model_copy(
        update={
            "buckets": tuple(zip(ends, counts, strict=True)),
            "within": sum(one.within for one in alike),
            "outcomes": _sum(one.outcomes for one in alike),
            "alerts": _sum(one.alerts for one in alike),
            "throttled": _sum(one.throttled for one in alike),
        }
    )


def _sum(figures: Iterable[Figures]) -> Figures:
    total: Figures = defaultdict(float)
    for one in figures:
        for name, value in one.items():
            total[name] += value
    return dict(total)


def _make(release: dict[str, str], buckets: dict[float, float], plain: Figures, keyed: dict[str, Figures]) -> Field:
    counter = release.get("counter", "")
    return Field(
        digest=release.get("digest", ""), counter=int(counter) if counter else None,
        buckets=tuple((None if math.isinf(end) else end, int(buckets[end])) for end in sorted(buckets)),
        within=int(plain.get("edgeopt_inference_within_budget_total", 0)),
        budget_s=plain.get("edgeopt_latency_budget_seconds"), gated_s=plain.get("edgeopt_latency_gated_seconds"),
        outcomes=keyed["edgeopt_inference_total"], scores=keyed["edgeopt_drift_score"],
        thresholds=keyed["edgeopt_drift_threshold"], alerts=keyed["edgeopt_drift_alerts_total"],
        rollbacks=keyed["edgeopt_rollback_total"], throttled=keyed["edgeopt_throttle_seconds_total"],
        started=plain.get("edgeopt_watch_start_time_seconds", 0.0),
    )  # fmt: skip


def _no_metrics(name: str, why: str) -> DataError:
    return DataError(
        f"{name} holds no metrics of a device: {why}", "scrape `/metrics`, or `edgeopt device spool --json`"
    )
