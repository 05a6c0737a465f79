"""Run one step of a plan: found in the store, or done in a worker and stored.

`Results` keeps what the steps gave, by id. A worker writes into a workspace of the store; what it returns is plain data
and becomes the entry's result. This file knows what each action calls; `pipeline.py` knows the order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgeopt import files, registry, tuning, workers
from edgeopt.baseline import load_preprocess
from edgeopt.context import BUILDS, AccuracyGoal, Checkpoints, Context, Memo, Timer
from edgeopt.data import Samples
from edgeopt.data.splits import Splits
from edgeopt.errors import EdgeoptError
from edgeopt.inputs import source_request, split_samples
from edgeopt.model import Artifact, Facts, Model, load_artifact, load_model, write_artifact
from edgeopt.passes import PassResult
from edgeopt.plan import LOAD, SPLIT, TIMER, Plan, Step, profile_of
from edgeopt.remote import RemoteDevice
from edgeopt.store import Found, Store
from edgeopt.validation.latency import measure_sets
from edgeopt.validation.latency_samples import Protocol
from edgeopt.validation.subject import thread_environment
from edgeopt.workers import Limits, Progress

#: of one step, unless the caller sets others: they stop what hangs, not what is slow
LIMITS = Limits(seconds=86_400.0)

#: batches of validation images that settings are tried on, in turn
TUNED_BATCHES = 8

#: the validation split as a device gets it
PREPARED = "prepared.npz"

#: waiting threads give their core away: on a shared machine, spinning costs a pass several times its time
YIELDING = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass
class Results:
    """What finished steps gave, by step id, the error of those that failed, and by target the device that it is on."""

    plan: Plan
    devices: Mapping[str, RemoteDevice] = field(default_factory=dict)
    found: dict[str, Found] = field(default_factory=dict)
    failed: dict[str, EdgeoptError] = field(default_factory=dict)

    @property
    def sources(self) -> Path:
        """The folder that the factory of the recipe is relative to."""
        return self.plan.recipe.folder.absolute()

    def facts(self, step: str) -> Facts:
        facts: Facts = self.found[step].entry.result.get("facts", {})
        return facts

    def model(self, step: str) -> Model:
        return load_model(self.found[step].folder, self.sources)

    def artifact(self, step: str) -> Artifact:
        return load_artifact(self.found[step].folder)

    def splits(self) -> Splits:
        """The splits of the recipe with the rows that `read data` chose."""
        whole = split_samples(self.plan.recipe, tuple(spec.name for spec in self.model(LOAD).inputs))
        rows = self.found[SPLIT].entry.result["rows"]
        chosen = {name: replace(whole[origin], rows=kept and tuple(kept)) for name, (origin, kept) in rows.items()}
        return Splits(**chosen)

    def cause(self, step: Step) -> EdgeoptError | None:
        """The error of a step that this one needs, if one failed."""
        return next((self.failed[need] for need in step.needs if need in self.failed), None)


@dataclass(frozen=True)
class Outcome:
    """How a step ended: whether it was found in the store, and the seconds that it took when it was done."""

    cached: bool
    seconds: float


@dataclass(frozen=True)
class Task:
    """A step to be done in a worker, into `folder`."""

    step: Step
    results: Results
    store: Store
    folder: Path
    limits: Limits
    progress: Progress

    @property
    def device(self) -> RemoteDevice | None:
        """The device that the step is done on, or whose clock it goes by; None: it is all done here."""
        target = self.step.options.get("device")
        return None if target is None else self.results.devices[target]

    def run(
        self, function: str, *arguments: Any, environ: dict[str, str] | None = None,
        lend: Callable[..., Any] | None = None,
    ) -> Any:  # fmt: skip
        """Run a named function in a worker under the limits of the step."""
        environ = YIELDING | (environ or {})
        return workers.run(
            function, *arguments, limits=self.limits, progress=self.progress, environ=environ, name=self.step.id,
            lend=lend,
        )  # fmt: skip


def run_step(
    step: Step, results: Results, store: Store, progress: Progress, *, fresh: bool = False, limits: Limits = LIMITS
) -> Outcome:
    """Find or do a step and note its result.

    Raises:
        EdgeoptError: the step failed; nothing of it is stored.
    """
    with store.hold(step.key):
        found = None if fresh else store.find(step.key)
        if found is not None:
            results.found[step.id] = found
            return Outcome(True, found.entry.seconds)
        if fresh:
            store.forget_checkpoints(step.key)
        started = time.monotonic()
        with store.workspace() as folder:
            result = ACTIONS[step.action](Task(step, results, store, folder, limits, progress))
            seconds = time.monotonic() - started
            results.found[step.id] = store.put(step.key, step.id, step.parts, result, seconds, folder)
    return Outcome(False, seconds)


def _load(task: Task) -> dict[str, Any]:
    request = source_request(task.results.plan.recipe)
    _, facts = task.run("edgeopt.sources:load_source", task.step.name, request, task.folder)
    return {"facts": dict(facts)}


def _split(task: Task) -> dict[str, Any]:
    recipe = task.results.plan.recipe
    model = task.results.model(LOAD)
    whole = split_samples(recipe, tuple(spec.name for spec in model.inputs))
    counts = {name: getattr(recipe.data, name).samples for name in whole}
    splits: Splits = task.run("edgeopt.data.splits:make_splits", whole, counts, model.inputs, model.outputs)
    named = splits.named()
    rows = {name: (_origin(name, samples, whole), samples.rows) for name, samples in named.items()}
    summary = ", ".join(f"{len(samples)} {name}" for name, samples in named.items())
    return {"rows": rows, "facts": {"summary": summary}}


def _origin(name: str, samples: Samples, whole: dict[str, Samples]) -> str:
    """The split of the recipe that these rows belong to: tuning may be cut from another one."""
    return name if name in whole else next(origin for origin, known in whole.items() if known.path == samples.path)


def _pass(task: Task) -> dict[str, Any]:
    step, model, device = task.step, task.results.model(task.step.needs[0]), task.device
    clock = None if device is None else partial(device.time_models, progress=task.progress)
    options, context = step.options["options"], _context(task)
    result: PassResult = task.run("edgeopt.passes:run_pass", step.name, options, model, context, lend=clock)
    return {"changed": result.changed, "facts": dict(result.facts)}


def _build(task: Task) -> dict[str, Any]:
    step, model = task.step, task.results.model(task.step.needs[0])
    options, device = step.options["options"], task.device
    if device is not None:
        built = device.build(step.name, options, model, step.options["context"], task.folder, task.progress)
        return {"facts": dict(built.facts)}
    memo = Memo(task.store.memos, BUILDS)
    context = Context(folder=task.folder, memo=memo, **step.options["context"])
    artifact: Artifact = task.run("edgeopt.backends:build_artifact", step.name, model, context, options)
    write_artifact(artifact, task.folder)
    return {"facts": dict(artifact.facts)}


def _tune(task: Task) -> dict[str, Any]:
    """The same files with the settings that were measured to be the fastest."""
    options, artifact = task.step.options, task.results.artifact(task.step.needs[0])
    facts: Facts = {"summary": "what is not built cannot be tuned"}
    if not artifact.unbuilt:
        validation, batch = task.results.splits().validation, options["batch"]
        _, inputs = task.run("edgeopt.data:read_spread", validation, TUNED_BATCHES * batch, batch)
        protocol = Protocol(threads=options["threads"], looks=(tuning.SETS,))
        measure = measure_sets if task.device is None else task.device.measure_sets
        choice = tuning.tune(artifact, list(inputs), protocol, task.progress, measure)
        artifact, facts = choice.artifact, choice.facts()
    for file in artifact.files:
        files.copy(artifact.folder / file.path, task.folder / file.path)
    write_artifact(artifact, task.folder)
    return {"facts": facts}


def _unpack(task: Task) -> dict[str, Any]:
    options, classes = task.step.options, task.step.options["classes"]
    summary: str = task.run(
        "edgeopt.baseline:take_artifact", Path(options["path"]), task.folder, options["target"],
        task.results.model(LOAD).inputs, None if classes is None else tuple(classes), options["settings"],
    )  # fmt: skip
    return {"facts": {"summary": summary}}


def _predict(task: Task) -> dict[str, Any]:
    options, artifact = task.step.options, task.results.artifact(task.step.needs[0])
    samples = task.results.splits().validation
    if task.results.plan.step(task.step.needs[0]).action == "unpack":
        samples = replace(samples, preprocess=load_preprocess(artifact.folder))
    if task.device is not None:
        return _predict_there(task, task.device, artifact, samples)
    task.run(
        "edgeopt.validation.predicting:run_predictions", artifact, samples,
        options["batch"], task.folder, options["metrics"], task.results.sources,
        environ=thread_environment(options["threads"]),
    )  # fmt: skip
    return {"facts": {}}


def _predict_there(task: Task, device: RemoteDevice, artifact: Artifact, samples: Samples) -> dict[str, Any]:
    options = {name: task.step.options[name] for name in ("batch", "threads", "metrics")}
    with task.store.workspace() as folder:
        task.run("edgeopt.data.npz:write_prepared", samples, folder / PREPARED)
        device.predict(artifact, folder / PREPARED, samples.inputs, options, task.folder, task.progress)
    return {"facts": {}}


ACTIONS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "load": _load, "split": _split, "pass": _pass, "build": _build, "tune": _tune, "unpack": _unpack,
    "predict": _predict,
}  # fmt: skip


def _who_times(device: RemoteDevice | None) -> dict[str, Any]:
    return {} if device is None else {"device": device.name, "machine": device.environment}


def _context(task: Task) -> Context:
    """A context with what the pass declares that it reads and no more: that is what its key covers."""
    step, results = task.step, task.results
    reads = registry.resolve("passes", step.name)(**step.options["options"]).lent() - {"validation"}
    lent: dict[str, Any] = {name: samples for name, samples in results.splits().named().items() if name in reads}
    if "original" in reads:
        lent["original"] = results.model(LOAD)
    if "accuracy" in reads:
        lent["accuracy"] = AccuracyGoal(**step.options["accuracy"], root=results.sources)
    if "timer" in reads:
        environ = thread_environment(step.options["timer"]["threads"])
        lent["timer"] = Timer(TIMER, **step.options["timer"], environ=environ, **_who_times(task.device))
    return Context(
        folder=task.folder, seed=results.plan.recipe.seed, profile=profile_of(step), half=step.options["half"],
        checkpoints=Checkpoints(task.store.checkpoints(step.key)),
        memo=Memo(task.store.memos, results.plan.step(SPLIT).key), **lent,
    )  # fmt: skip
