"""The order of a run: steps, comparison, verdicts, bundles, report. No other file knows it.

report = run_plan(make_plan(load_recipe("recipe.yaml")))
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import environment, keys, registry
from edgeopt.comparison import Comparison, compare, failure_of, predictions_of, time_target, timeable
from edgeopt.delivery import check_output, deliver
from edgeopt.errors import BuildError, DataError, DiskError, EdgeoptError, UsageError
from edgeopt.execute import LIMITS, Outcome, Results, run_step
from edgeopt.gates import limits
from edgeopt.model import Facts
from edgeopt.passes import find_debt
from edgeopt.plan import SPLIT, Plan, Side, Step, TargetPlan
from edgeopt.remote import RemoteDevice
from edgeopt.report import RecipeSource, Report, StepResult, TargetResult
from edgeopt.store import Store, recipe_slot
from edgeopt.validation.mistakes import explain, unexpected
from edgeopt.validation.noise import find_noise_floor
from edgeopt.validation.predictions import Predictions
from edgeopt.validation.statistics import wilson_interval
from edgeopt.workers import Limits

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

#: from this many sets of networks on, a validation split is said to be worn: about one in 20 passes by luck at 95 %
WORN = 20


class Watcher:
    """Told what a run is doing; this one does not care."""

    def begin(self, plan: Plan) -> None:
        """The run begins."""

    def start(self, step: Step) -> None:
        """A step begins."""

    def progress(self, text: str, fraction: float | None) -> None:
        """The running step tells how far it is."""

    def done(self, step: Step, result: StepResult) -> None:
        """A step ended well."""

    def failed(self, step: Step, error: EdgeoptError) -> None:
        """A step failed, and its candidate with it; the run goes on."""

    def note(self, text: str) -> None:
        """Something that must not pass in silence."""


def output_folder(plan: Plan, out: Path | None) -> Path:
    """Where a run leaves its result."""
    return out if out is not None else Path("build") / plan.recipe.name


def run_plan(
    plan: Plan,
    store: Store | None = None,
    *,
    out: Path | None = None,
    watcher: Watcher | None = None,
    fresh: bool = False,
    keep_going: bool = False,
    limits: Limits = LIMITS,
    signer: Signer | None = None,
    devices: Mapping[str, RemoteDevice] | None = None,
) -> Report:
    """Run a plan and leave its result in `out` (default `build/<name>`), whole or not at all.

    Args:
        out: replaced as a whole, if it is the result of an earlier run.
        watcher: told what the run is doing.
        fresh: use nothing that is stored.
        keep_going: go on with other targets where no candidate of one can be built.
        limits: of each step.
        signer: vouches for the report: see `edgeopt.bundle.signing`.
        devices: target → the device that it is built and measured on, for those that have one.

    Raises:
        UsageError: the recipe names something that cannot be used, or `out` holds something else.
        TrustError: a file wants to run code, or is not what it should be.
        BuildError: the original cannot be run, or no candidate of a target could be built.
    """
    folder, store, watcher = output_folder(plan, out), store or Store(), watcher or Watcher()
    devices = devices or {}
    unreached = [target.name for target in plan.targets if target.device is not None and target.name not in devices]
    if unreached:
        raise UsageError(f"the device of target `{unreached[0]}` was not reached", "reach it by `edgeopt.reaching`")
    return _Run(plan, store, folder, watcher, fresh, keep_going, limits, signer, devices).run()


@dataclass
class _Run:
    """The state of one run."""

    plan: Plan
    store: Store
    folder: Path
    watcher: Watcher
    fresh: bool
    keep_going: bool
    limits: Limits
    signer: Signer | None
    devices: Mapping[str, RemoteDevice]

    def __post_init__(self) -> None:
        self.results = Results(self.plan, self.devices)
        self.steps: list[StepResult] = []
        self.notes: list[str] = []

    def run(self) -> Report:
        started = time.monotonic()
        check_output(self.folder)
        with self.store.in_use():
            self.watcher.begin(self.plan)
            for target in self.plan.targets:
                if not limits(target.budgets):
                    self._tell(
                        f"target `{target.name}` has no budgets: whatever is fastest ships, and nothing is proven"
                    )
                for debt in self._debts(target):
                    self._tell(debt)
                if target.device is None and target.isa is not None and set(target.isa) != set(environment.cpu()[1]):
                    wanted = environment.isa_summary(target.isa)
                    what = f"target `{target.name}` is for {wanted}, and is measured on {environment.describe()}"
                    self._tell(f"{what}: how fast it is there, and how its sums round, is not known")
                for fault in self.devices[target.name].unfit if target.name in self.devices else ():
                    self._tell(f"the device of target `{target.name}` is not at rest: {fault}")
            for step in self.plan.steps:
                if step.action != "time":
                    self._run_step(step)
            comparisons = [self._compare(target) for target in self.plan.targets]
            self.store.remember(
                recipe_slot(self.plan.recipe.path, self.plan.recipe.name),
                {step.id: step.parts for step in self.plan.steps},
            )
            results = [comparison.result for comparison in comparisons]
            report = self._report(results, self._count_use(results), time.monotonic() - started)
            report = deliver(report, comparisons, self.results, self.folder, self.signer)
        for note in report.notes[len(self.notes) :]:
            self.watcher.note(note)
        return report

    def _run_step(self, step: Step) -> None:
        cause = self.results.cause(step)
        if cause is not None:
            self.results.failed[step.id] = cause
            return
        self.watcher.start(step)
        try:
            outcome = run_step(
                step, self.results, self.store, self.watcher.progress, fresh=self.fresh, limits=self.limits
            )
        except DiskError:
            raise  # no fault of a candidate: with room for it, it might have won
        except BuildError as error:
            self._fail(step, error)
        else:
            self._done(step, outcome, self.results.facts(step.id))
            self._check_batches(step)
            self._check_original(step)

    def _done(self, step: Step, outcome: Outcome, facts: Facts) -> None:
        done = StepResult(
            id=step.id, name=step.title, key=step.key, cached=outcome.cached, seconds=round(outcome.seconds, 3),
            scope=step.scope, facts=dict(facts),
        )  # fmt: skip
        self.steps.append(done)
        self.watcher.done(step, done)

    def _fail(self, step: Step, error: BuildError) -> None:
        """Note the failure of a candidate; raise where nothing can go on without the step."""
        self.results.failed[step.id] = error
        references = [side for target in self.plan.targets for side in (target.original, target.baseline) if side]
        if step.action in ("load", "split") or any(step.id in _steps(side) for side in references):
            raise error
        for target in () if self.keep_going else self.plan.targets:
            if all(_has_failed(side, self.plan, self.results) for side in target.candidates):
                raise error.at(step.id)
            # What does not take the network as given hardly takes it once it is pruned: nothing is trained to find out.
            if all(_has_failed(side, self.plan, self.results) for side in target.floats.values()):
                error.hint = "; ".join(filter(None, (error.hint, "`--keep-going` tries the candidates all the same")))
                raise error.at(step.id)
        self.watcher.failed(step, error)

    def _check_batches(self, step: Step) -> None:
        """There must be a batch to time, which is found out here, before anything is trained."""
        if step.action != "split":
            return
        images = len(self.results.splits().validation)
        for target in self.plan.targets:
            if images < target.batch:
                what = f"the validation split has {images} samples, target `{target.name}` takes {target.batch} at once"
                raise DataError(what, "lower its `batch`, or add samples")

            least = max((one.images for one in limits(target.budgets)), default=0)
            if least:
                self._check_judgeable(least)

    def _check_judgeable(self, least: int) -> None:
        """What an accuracy budget takes of the validation split."""
        validation = self.results.splits().validation
        images, labels = len(validation), validation.labels()
        if labels is None:
            self._tell("the validation split has no labels: the accuracy budget will stay unmeasured")
        elif labels.ndim == 1 and len(set(labels.tolist())) == 1:
            what = f"every sample of the validation split `{validation.path}` has label {labels[0]}"
            raise DataError(what, "add samples of the other classes: what always says the same would seem perfect here")
        elif images < least:
            what = f"the validation split has {images} samples"
            self._tell(f"{what}, and an accuracy budget takes {least} or more: it will stay undecided")

    def _debts(self, target: TargetPlan) -> Iterator[str]:
        """The candidates that no pass trains after one that took something away."""
        for side in target.candidates:
            steps = [self.plan.step(step) for step in side.steps]
            debt = find_debt(registry.resolve("passes", step.name)(**step.options["options"]) for step in steps)
            if debt:
                yield f"candidate `{target.name}/{side.id}`: {debt}"

    def _tell(self, note: str) -> None:
        """A note that a reader must have, told at once: what is left of the run may take hours."""
        self.notes.append(note)
        self.watcher.note(note)

    def _check_original(self, step: Step) -> None:
        """The original must give numbers, and those that the recipe expects of it."""
        target = next((target for target in self.plan.targets if target.original.predict == step.id), None)
        if target is None:
            return
        said = predictions_of(target.original, self.results)
        images = said.images
        if said.nonfinite:
            what = f"the original itself yields NaN or infinity on {said.nonfinite} of {images} images"
            raise BuildError(what, "check its weights and the preprocessing")
        expected = self.plan.recipe.model.expect
        for label in (label for label in expected if label in said.records):
            what = unexpected(said, label, expected[label])
            if what and label == "top1":
                raise DataError(what, self._explain(step, target, said, expected[label]))
            if what:
                raise DataError(what, "look at `preprocess`, the labels and the weights, or correct `expect`")
        if not expected and len(said.labels):
            self._check_chance(said)

    def _check_chance(self, said: Predictions) -> None:
        """An original that guesses is most often one whose images were not prepared as they were for its training."""
        classes = len(self.plan.recipe.data.classes or ()) or int(said.labels.max()) + 1
        right = int((said.classes == said.labels).sum())
        if wilson_interval(right, said.images, 0.99)[0] <= 1 / classes:
            what = (
                f"the original reaches {100 * right / said.images:.1f} % on {said.images} images of {classes} classes"
            )
            self._tell(f"{what}, no better than chance: look at `preprocess` and the order of `classes`")

    def _explain(self, step: Step, target: TargetPlan, said: Predictions, top1: float) -> str:
        self.watcher.start(step)
        return explain(
            said, top1, self.results.artifact(target.original.build), self.results.splits().validation,
            step.options["batch"], self.store.workspace, limits=self.limits, progress=self.watcher.progress,
        )  # fmt: skip

    def _compare(self, target: TargetPlan) -> Comparison:
        step, timing = self.plan.step(target.time), None
        if timeable(target, self.results):
            self.watcher.start(step)
            timing = time_target(step, target, self.results, self.store, self.watcher.progress, fresh=self.fresh)
            for side in target.sides():
                if side.predict in self.results.failed and side.predict in self.results.found:
                    self.watcher.failed(step, self.results.failed[side.predict])
            samples = timing.samples
            blocks = f"{samples.sets * samples.protocol.blocks} blocks × {samples.protocol.iterations}"
            summary = f"{blocks}, {samples.sets} sets of workers"
            self._done(step, Outcome(timing.cached, timing.seconds), {"summary": summary})
        floor = find_noise_floor(self.store) if target.device is None else None
        return compare(target, self.results, timing, floor)

    def _count_use(self, targets: Sequence[TargetResult]) -> int:
        """How many sets of networks the validation split has judged, this one included: each makes it prove less."""
        slot = f"uses-{self.plan.step(SPLIT).parts['validation split'][:16]}"
        judged = sorted(
            f"{target.name} {file.sha256}" for target in targets for one in target.candidates if one.artifact
            for file in one.artifact.files
        )  # fmt: skip
        with self.store.hold(slot):
            uses = self.store.recall(slot).get("judged", {})
            uses.setdefault(keys.digest(judged), self.plan.recipe.name)
            self.store.remember(slot, {"judged": uses})
        if len(uses) >= WORN:
            times = f"the validation split has judged {len(uses)} sets of networks on this machine"
            self.store.notes.append(f"{times}: what was chosen by its verdicts is no longer proven by them")
        return len(uses)

    def _images(self) -> int:
        return predictions_of(self.plan.targets[0].original, self.results).images

    def _report(self, targets: Sequence[TargetResult], uses: int, seconds: float) -> Report:
        recipe = self.plan.recipe
        return Report(
            edgeopt=environment.library_version("edgeopt") or "unknown",
            recipe=RecipeSource(
                name=recipe.name, path=str(recipe.path), sha256=hashlib.sha256(recipe.text.encode()).hexdigest(),
                overrides=recipe.overrides,
            ),
            seed=recipe.seed, validation_images=self._images(), validation_uses=uses,
            environment=environment.fingerprint(), seconds=round(seconds, 1), notes=(*self.notes, *self.store.notes),
            steps=tuple(self.steps), targets=tuple(targets),
        )  # fmt: skip


def _steps(side: Side) -> tuple[str, ...]:
    return (*side.steps, side.build, side.predict)


def _has_failed(side: Side, plan: Plan, results: Results) -> bool:
    """Whether a side cannot come any more: a step that it needs has failed, whether or not its own turn has come."""
    return failure_of(side, results) is not None or any(results.cause(plan.step(step)) for step in _steps(side))
