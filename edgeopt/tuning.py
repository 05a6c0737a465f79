"""Session settings chosen by measurement: those that a backend thinks worth trying, beside the ones that it has.

The rules are those of a verdict: a fresh process for each side of each set, in turns, and the interval of the ratio.
Settings are taken only where they are faster beyond doubt, which all alternatives together share; else nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeopt import backends, environment
from edgeopt.backends import Arrays
from edgeopt.model import Artifact
from edgeopt.validation.latency import Ratio, SideError, measure_sets, ratio_interval
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.workers import Progress

#: the settings that an artifact was built with
OWN = "as built"

SETS = 10
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Choice:
    """The artifact with the settings that were chosen, and what was measured of each alternative.

    `failed` are those that could not be timed, with the reason.
    """

    artifact: Artifact
    name: str
    ratios: dict[str, Ratio]
    failed: dict[str, str]

    def facts(self) -> dict[str, str | int | float]:
        """For the report: each alternative with its time as a share of that of the settings as built."""
        facts: dict[str, str | int | float] = {name: _show(ratio) for name, ratio in self.ratios.items()}
        facts |= {name: f"failed: {why}" for name, why in self.failed.items()}
        tried = len(self.ratios) + len(self.failed)
        if not tried:
            return {"summary": "nothing to choose from"}
        kept = f"{OWN}: none of {tried} is faster beyond doubt" if self.name == OWN else ""
        return facts | {
            "summary": kept or f"{self.name}: {_show(self.ratios[self.name])} of the time, of {tried} tried"
        }


def tune(
    artifact: Artifact, inputs: Sequence[Arrays], protocol: Protocol, progress: Progress,
    measure: Callable[..., LatencySamples] = measure_sets,
) -> Choice:  # fmt: skip
    """Time the alternatives that the artifact's backend names, and choose.

    Args:
        measure: `measure_sets`, here or on a device.

    Raises:
        BuildError: the artifact as it was built cannot be timed.
    """
    sides = {OWN: artifact, **backends.get(artifact.backend).alternatives(artifact)}
    failed: dict[str, str] = {}
    while len(sides) > 1:
        try:
            samples = measure(sides, inputs, protocol, SETS, environment.timing_lock(), progress=progress)
        except SideError as error:
            if error.side == OWN:
                raise
            failed[error.side] = error.message
            sides = {name: side for name, side in sides.items() if name != error.side}
            continue
        others = [name for name in sides if name != OWN]
        ratios = {name: ratio_interval(samples, name, OWN, (1 - CONFIDENCE) / len(others)) for name in others}
        name = choose(ratios)
        return Choice(sides[name], name, ratios, failed)
    return Choice(artifact, OWN, {}, failed)


def choose(ratios: Mapping[str, Ratio]) -> str:
    """The fastest of those that are faster than the settings as built beyond doubt; these, where none is."""
    sure = {name: one.value for name, one in ratios.items() if one.high is not None and one.high < 1 and one.value}
    return min(sure, key=lambda name: sure[name], default=OWN)


def _show(ratio: Ratio) -> str:
    if ratio.value is None:
        return ratio.note
    bounds = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.value:.2f}×{bounds}"
