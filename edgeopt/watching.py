"""What a person sees of a run while it goes on: a line for each finished step, and the running one live."""

from __future__ import annotations

import click
from rich.progress import Progress

from edgeopt.errors import EdgeoptError
from edgeopt.pipeline import Watcher
from edgeopt.plan import Plan, Step
from edgeopt.report import StepResult, console

#: steps that are told with a line of their own, as are those with something to say; others are seen while they run
TOLD = ("load", "split", "pass", "time")


class LineWatcher(Watcher):
    """Prints through click; `bar` is disabled where stderr is no terminal. `quiet` leaves stdout to others."""

    def __init__(self, bar: Progress, *, quiet: bool, verbose: bool) -> None:
        self._bar, self._quiet, self._verbose = bar, quiet, verbose
        self._step = ""
        self._task = bar.add_task("", total=1.0, visible=False)

    def begin(self, plan: Plan) -> None:
        candidates = sum(len(target.candidates) for target in plan.targets)
        self._say(console.show_header(plan.recipe.name, len(plan.targets), candidates, None, plan.recipe.seed))
        self._say("")

    def start(self, step: Step) -> None:
        self._step = step.id
        self._bar.reset(self._task, total=None, description=f"  {step.id}", visible=True)

    def progress(self, text: str, fraction: float | None) -> None:
        self._bar.update(self._task, total=1.0 if fraction is not None else None, completed=fraction or 0.0)
        self._bar.update(self._task, description=f"  {self._step}: {text}")

    def done(self, step: Step, result: StepResult) -> None:
        self._bar.update(self._task, visible=False)
        if step.action in TOLD or "summary" in result.facts or self._verbose:
            self._say(console.show_step(result))
        for line in console.show_step_tables(result) if self._verbose else ():
            self._say(line)
        warning = result.facts.get("warning")
        if warning is not None:
            self.note(f"{step.id}: {warning}")

    def failed(self, step: Step, error: EdgeoptError) -> None:
        self.note(f"{step.id}: {error.message}")
        log = getattr(error, "log", "") or (str(error.__cause__) if error.__cause__ else "")
        if self._verbose and log:
            self.note(log)

    def note(self, text: str) -> None:
        self._print(f"note: {text}", err=True)

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._print(text, err=False)

    def _print(self, text: str, *, err: bool) -> None:
        """Print a line where the live one was: stopping clears it."""
        self._bar.stop()
        click.echo(text, err=err)
        self._bar.start()
