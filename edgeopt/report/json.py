"""`report.json`: the truth of a run, from which the other formats are made; written and read back here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgeopt.errors import TrustError, UsageError
from edgeopt.report import FORMAT, REPORT_FILE, Report, ReportFormat


class Json(ReportFormat):
    """Every field of the report, in the order of its definition."""

    file_name = REPORT_FILE

    def render(self, report: Report) -> str:
        data = report.model_dump(mode="json", by_alias=True)
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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


def _conclusions(stated: dict[str, Any], report: Report) -> Iterator[tuple[str, Any, Any]]:
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
