"""A report → one `Explanation` for each candidate; whatever opens a session runs in a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeopt import environment, files, workers
from edgeopt.errors import EdgeoptError, UsageError, did_you_mean
from edgeopt.explain import Cause, Explanation
from edgeopt.explain.accuracy import lost_before
from edgeopt.explain.artifacts import find_artifact, find_float, find_inputs
from edgeopt.explain.edits import QUANTIZE
from edgeopt.gates import find, number
from edgeopt.report import CandidateResult, Report, TargetResult
from edgeopt.report.table import show_points
from edgeopt.select import show_ratio
from edgeopt.store import Store
from edgeopt.validation.subject import thread_environment

#: whose profile is read here
PROFILED = "onnxruntime_cpu"

#: passes that leave what is computed as it was
NEUTRAL = {"export_onnx", "simplify_onnx"}

Say = Callable[[str], None]


def explain_report(
    report: Report, folder: Path, candidate: str | None = None, store: Store | None = None, say: Say = lambda text: None
) -> list[Explanation]:
    """Explain the candidates of a report that lies in `folder`, all of them or those of that id.

    Args:
        store: where artifacts are looked for that are not beside the report.
        say: told a line where it must wait.

    Raises:
        UsageError: no candidate has that id.
    """
    known = [one.id for target in report.targets for one in target.candidates]
    if candidate is not None and candidate not in known:
        raise UsageError(f"the report has no candidate `{candidate}`", did_you_mean(candidate, set(known)))
    store = store or Store()
    with store.in_use():
        return [
            _Examiner(report, target, one, folder, store, say).explain()
            for target in report.targets
            for one in target.candidates
            if candidate in (None, one.id)
        ]


class _Examiner:
    """Examines one candidate."""

    def __init__(
        self, report: Report, target: TargetResult, candidate: CandidateResult, folder: Path, store: Store, say: Say
    ) -> None:
        self.report, self.target, self.candidate, self.folder = report, target, candidate, folder
        self.store, self.say, self.notes = store, say, list[str]()

    def explain(self) -> Explanation:
        target, candidate = self.target, self.candidate
        explained = Explanation(target=target.name, candidate=candidate.id, measured=_measured(candidate))
        if candidate.error is not None:
            return explained.model_copy(update={"notes": (f"it could not be built: {candidate.error}",)})
        before = lost_before(candidate, target)
        found: dict[str, Any] = {"inaccurate": () if before is None else (before,)}
        path = find_artifact(self.report, target, candidate, self.folder, self.store)
        if candidate.backend != PROFILED:
            self.notes.append(f"`{candidate.backend}` gives no profile: only `{PROFILED}` is examined")
        elif path is None:
            again = f"`edgeopt compile {self.report.recipe.path}` makes it again"
            self.notes.append(f"its artifact is neither beside the report nor in the store: {again}")
        else:
            found |= self._examine_speed(path)
            found |= self._examine_noise(path, found["inaccurate"])
        return explained.model_copy(update={**found, "notes": tuple(self.notes)})

    def _examine_speed(self, path: Path) -> dict[str, Any]:
        self._note_machine()
        changed = not set(self.candidate.passes) <= NEUTRAL
        if not changed:
            self.notes.append("it is the float network itself, so that it is as fast as float")
        not_faster = changed and not _is_faster(self.candidate)
        arguments = (path, self.target.threads, self.target.batch, self.candidate.passes, not_faster)
        with self._alone():
            ran = self._run("edgeopt.explain.examine:examine_speed", *arguments)
        return {} if ran is None else {"run_ms": ran[0], "slow": ran[1]}

    def _examine_noise(self, path: Path, before: tuple[Cause, ...]) -> dict[str, Any]:
        if QUANTIZE not in self.candidate.passes:
            return {}
        exact = find_float(self.report, self.target, self.candidate, self.store, QUANTIZE)
        if exact is None:
            again = f"`edgeopt compile {self.report.recipe.path}` makes it again"
            self.notes.append(f"the float network behind it is not in the store, so no noise was measured: {again}")
            return {}
        inputs = find_inputs(self.report, self.target, self.folder)
        ran = self._run("edgeopt.explain.examine:examine_noise", path, exact, inputs, self.target.threads)
        return {} if ran is None else {"noise": ran[0], "inaccurate": (*before, *ran[1])}

    def _run(self, function: str, *arguments: Any) -> Any:
        """What the function returns in a worker; None, with a note, where it fails: the others can still be told."""
        try:
            return workers.run(function, *arguments, environ=thread_environment(self.target.threads))
        except EdgeoptError as error:
            self.notes.append(f"it could not be examined: {error.message}")
            return None

    def _note_machine(self) -> None:
        here, there = environment.fingerprint(), self.report.environment
        if any(here[name] != there.get(name) for name in ("cpu", "isa")):
            made = there.get("cpu", "another machine")
            self.notes.append(f"profiled on {environment.describe()}; the report was made on {made}")
        elif here["cores"] != there.get("cores"):
            self.notes.append(
                f"profiled with {here['cores']} of its cores; the report was made with {there.get('cores')}"
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep everything else that times anything on this machine from doing so meanwhile."""
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(files.lock(environment.timing_lock(), wait=False)):
                self.say("waiting: something else on this machine is being timed")
                stack.enter_context(files.lock(environment.timing_lock()))
            yield


def _is_faster(candidate: CandidateResult) -> bool:
    """Whether it was shown to be faster than float."""
    found = find(candidate.measurements, "latency.ratio_fp32")
    high = None if found is None else number(found.high)
    return high is not None and high < 1.0


def _measured(candidate: CandidateResult) -> str:
    """`1.62× as fast as float [1.58, 1.66] · drop 0.3 pp, at most 0.7 · pass`."""
    parts = []
    ratio = find(candidate.measurements, "latency.ratio_fp32")
    value = None if ratio is None else number(ratio.value)
    if ratio is None or not value:
        parts.append("speed against float not measured")
    else:
        low, high = number(ratio.low), number(ratio.high)
        sure = f" [{show_ratio(1 / high)}, {show_ratio(1 / low)}]" if low and high else ""
        parts.append(f"{show_ratio(1 / value)}× as fast as float{sure}{' (simulated)' if ratio.simulated else ''}")
    drop = find(candidate.measurements, "accuracy.drop_pp")
    if drop is not None and (lost := number(drop.value)) is not None:
        bound = number(drop.high)
        parts.append(f"drop {show_points(lost)} pp" + ("" if bound is None else f", at most {show_points(bound)}"))
    return " · ".join([*parts, candidate.verdict if candidate.error is None else "not built"])
