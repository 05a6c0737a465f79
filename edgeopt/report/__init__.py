"""The whole run as one value, and the forms that it is shown in: one file per format.

`report.json` is the truth and the rest is made from it. What follows from the verdicts on budgets (those on candidate,
target and run, and the exit code) is computed, not stored: a file that states it otherwise is refused.

To add a format, write `report/<name>.py` with a class of that name in CamelCase; every run then writes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, computed_field

from edgeopt import files, gates, registry
from edgeopt.gates import Outcome, Verdict
from edgeopt.model import Artifact, Value
from edgeopt.recipe.budgets import Budgets
from edgeopt.select import Duel
from edgeopt.validation import Measurement
from edgeopt.validation.noise import NoiseFloor

FORMAT: Literal[1] = 1
REPORT_FILE = "report.json"

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 3, "unmeasured": 3}
NOTHING_BUILT = 5


class RecipeSource(Value):
    """The recipe that was run; `path` as it was given, `overrides` what `--set` laid over it."""

    name: str
    path: str
    sha256: str
    overrides: tuple[str, ...] = ()


class StepResult(Value):
    """One step. `scope` names the variant or candidate that it was run for, empty if it serves all."""

    id: str
    name: str
    key: str
    cached: bool
    seconds: float
    scope: str = ""
    facts: dict[str, str | int | float] = {}


class SideResult(Value):
    """A reference that stands beside the candidates: the original, the given network unchanged on `backend`, or the
    baseline, which is what was shipped before."""

    backend: str
    artifact: Artifact | None = None
    measurements: tuple[Measurement, ...] = ()


class CandidateResult(Value):
    """One candidate. `passes` are in the order that they ran; `error` says why it could not be built or run and `hint`
    what to do about it; `reason` says why it does not ship; `rebuilds` are the same, built again."""

    id: str
    backend: str
    variant: str
    passes: tuple[str, ...] = ()
    artifact: Artifact | None = None
    measurements: tuple[Measurement, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    error: str | None = None
    hint: str | None = None
    reason: str | None = None
    rebuilds: dict[str, SideResult] = {}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Outcome:
        """The worst of the verdicts; fail where there is nothing to judge."""
        return "fail" if self.error is not None else gates.judge_candidate(self.verdicts)


class TargetResult(Value):
    """One target: the references, the candidates, and what their race was decided by.

    `machine` is a line for people, `classes` their names in the order of the labels, `protocol` how latency was taken,
    `samples` the files of raw samples with their SHA-256 and `bundle` the one file to ship, relative to the report.
    `noise_floor` is what `doctor --aa` found of this machine last; `device` is the fingerprint of the device that
    everything was measured on, where that is not the machine that drove the run.
    """

    name: str
    winner: str | None = None
    threads: int
    batch: int
    machine: str = ""
    device: dict[str, Any] | None = None
    budgets: Budgets = Budgets()
    classes: tuple[str, ...] | None = None
    original: SideResult | None = None
    floats: dict[str, SideResult] = Field(default={}, alias="float")
    baseline: SideResult | None = None
    candidates: tuple[CandidateResult, ...] = ()
    duels: tuple[Duel, ...] = ()
    protocol: dict[str, str | int | float] = {}
    samples: dict[str, str] = {}
    bundle: str | None = None
    noise_floor: NoiseFloor | None = None
    notes: tuple[str, ...] = ()

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Outcome:
        """The best of the candidates' verdicts."""
        return gates.judge_target(candidate.verdict for candidate in self.candidates)

    @property
    def nothing_built(self) -> bool:
        return all(candidate.error is not None for candidate in self.candidates)

    def candidate(self, name: str | None) -> CandidateResult | None:
        return next((candidate for candidate in self.candidates if candidate.id == name), None)


class Report(Value):
    """The whole run; `environment` is the fingerprint of the machine that drove it, `notes` what a reader must know.

    `validation_uses` counts the sets of networks that the validation split has judged on that machine, with this one.
    """

    format: Literal[1] = FORMAT
    edgeopt: str
    recipe: RecipeSource
    seed: int = 0
    validation_images: int | None = None
    validation_uses: int = 0
    environment: dict[str, Any] = {}
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    steps: tuple[StepResult, ...] = ()
    targets: tuple[TargetResult, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Outcome:
        """The worst of the targets' verdicts."""
        return gates.judge_run(target.verdict for target in self.targets)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exit_code(self) -> int:
        """0 every budget met, 1 one missed, 3 one undecided, 5 nothing could be built for some target."""
        if any(target.nothing_built for target in self.targets):
            return NOTHING_BUILT
        return EXIT_CODES[self.verdict]


class ReportFormat(ABC):
    """A form that a report is written in."""

    #: where it lies in the output folder
    file_name: ClassVar[str]

    @abstractmethod
    def render(self, report: Report) -> str:
        """The text of the whole file."""


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write `report` into `folder` in every format that there is; returns the files."""
    written = []
    for name in registry.names("report"):
        kind: ReportFormat = registry.resolve("report", name)()
        files.write_text(folder / kind.file_name, kind.render(report))
        written.append(folder / kind.file_name)
    return written
