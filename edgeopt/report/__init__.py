"""The whole run as one value, and the forms that it is shown in: one file per format.

`report.json` is the truth and the rest is made from it. What follows from the verdicts on budgets (those on candidate,
target and run, and the exit code) is computed, not stored: a file that states it otherwise is refused.

To add a format, write `report/<name>.py` with a class of that name in CamelCase; every run then writes it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError, computed_field

from edgeopt import files, gates, registry
from edgeopt.errors import TrustError, UsageError
from edgeopt.gates import Outcome, Verdict
from edgeopt.model import ArtifactFile, Value
from edgeopt.recipe.budgets import Budgets
from edgeopt.select import Duel
from edgeopt.validation import Measurement

FORMAT: Literal[1] = 1
REPORT_FILE = "report.json"

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 3, "unmeasured": 3}
NOTHING_BUILT = 5


class RecipeSource(Value):
    """The recipe that was run; `path` as it was given."""

    name: str
    path: str
    sha256: str


class StepResult(Value):
    """One step. `scope` names the variant or candidate that it was run for, empty if it serves all."""

    id: str
    name: str
    key: str
    cached: bool
    seconds: float
    scope: str = ""
    facts: dict[str, str | int | float] = {}


class BuiltArtifact(Value):
    """What was built for a candidate, and what a machine must have to open it."""

    files: tuple[ArtifactFile, ...]
    requires: dict[str, str] = {}

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class SideResult(Value):
    """A reference that stands beside the candidates: the original, or the given network unchanged on `backend`."""

    backend: str
    measurements: tuple[Measurement, ...] = ()


class CandidateResult(Value):
    """One candidate. `passes` are in the order that they ran; `error` says why it could not be built or run and `hint`
    what to do about it; `reason` says why it does not ship."""

    id: str
    backend: str
    variant: str
    passes: tuple[str, ...] = ()
    artifact: BuiltArtifact | None = None
    measurements: tuple[Measurement, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    error: str | None = None
    hint: str | None = None
    reason: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Outcome:
        """The worst of the verdicts; fail where there is nothing to judge."""
        return "fail" if self.error is not None else gates.judge_candidate(self.verdicts)


class TargetResult(Value):
    """One target: the references, the candidates, and what their race was decided by.

    `machine` is a line for people, `protocol` how latency was taken, `samples` the files of raw samples and `bundle`
    the one file to ship, both relative to the report.
    """

    name: str
    winner: str | None = None
    threads: int
    batch: int
    machine: str = ""
    budgets: Budgets = Budgets()
    original: SideResult | None = None
    floats: dict[str, SideResult] = Field(default={}, alias="float")
    candidates: tuple[CandidateResult, ...] = ()
    duels: tuple[Duel, ...] = ()
    protocol: dict[str, str | int | float] = {}
    samples: tuple[str, ...] = ()
    bundle: str | None = None
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
    """The whole run; `environment` is the fingerprint of the machine that drove it, `notes` what a reader must know."""

    format: Literal[1] = FORMAT
    edgeopt: str
    recipe: RecipeSource
    seed: int = 0
    validation_images: int | None = None
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


def load_report(path: Path) -> Report:
    """Read a `report.json`, or the one in a folder.

    Raises:
        UsageError: there is no such file, or it is not a report that this edgeopt knows.
        TrustError: it states a verdict or an exit code that does not follow from the verdicts in it.
    """
    path = path / REPORT_FILE if path.is_dir() else path
    stated = _read_object(path)
    if stated.get("format") != FORMAT:
        found = json.dumps(stated.get("format"))
        raise UsageError(f"`{path}` has format `{found}`, known: `{FORMAT}`", "run `edgeopt compile` again")
    text = json.dumps(_without_computed(stated))
    try:
        report = Report.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise _no_report(path, _first_fault(error)) from error
    wrong = [place for place, said, follows in _conclusions(stated, report) if said != follows]
    if wrong:
        hint = "it was changed after it was written: run `edgeopt compile` again"
        raise TrustError(f"`{path}` contradicts itself: `{wrong[0]}` does not follow from its verdicts", hint)
    return report


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except OSError as error:
        why = f"cannot read the report `{path}`: {error.strerror}"
        raise UsageError(why, "give the path of a report.json") from error
    except RecursionError as error:
        raise _no_report(path, "it is nested too deep") from error
    except ValueError as error:
        raise _no_report(path, str(error)) from error
    if not isinstance(data, dict):
        raise _no_report(path, "it should be an object")
    return data


def _no_report(path: Path, why: str) -> UsageError:
    return UsageError(f"`{path}` is not a report of edgeopt: {why}", "give a report.json that `edgeopt compile` wrote")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"`{name}` is no number")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"`{'.'.join(str(part) for part in fault['loc'])}`: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _without_computed(stated: dict[str, Any]) -> dict[str, Any]:
    bare = {name: value for name, value in stated.items() if name not in ("verdict", "exit_code")}
    if isinstance(bare.get("targets"), list):
        bare["targets"] = [_without_verdict(target) for target in bare["targets"]]
    return bare


def _without_verdict(stated: Any) -> Any:
    if not isinstance(stated, dict):
        return stated
    bare = {name: value for name, value in stated.items() if name != "verdict"}
    if isinstance(bare.get("candidates"), list):
        bare["candidates"] = [_without_verdict(candidate) for candidate in bare["candidates"]]
    return bare


def _conclusions(stated: dict[str, Any], report: Report) -> Iterable[tuple[str, Any, Any]]:
    """(place, what the file states, what follows) for everything that is computed, and for the winner."""
    yield "verdict", stated.get("verdict"), report.verdict
    yield "exit_code", stated.get("exit_code"), report.exit_code
    for stated_target, target in zip(stated.get("targets", ()), report.targets, strict=True):
        yield f"targets.{target.name}.verdict", stated_target.get("verdict"), target.verdict
        winner = target.candidate(target.winner)
        ships = winner is not None and winner.verdict == "pass"
        yield f"targets.{target.name}.winner", ships, target.verdict == "pass"
        for stated_one, candidate in zip(stated_target.get("candidates", ()), target.candidates, strict=True):
            yield f"targets.{target.name}.{candidate.id}.verdict", stated_one.get("verdict"), candidate.verdict
