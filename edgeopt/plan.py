"""Recipe → Plan: every step resolved, checked and keyed. Touches no model, imports no torch, runs no user code.

A step is told apart by its key, so two candidates that begin with the same passes share those steps. The order of
`Plan.steps` is an order in which they can run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edgeopt import environment, keys, registry
from edgeopt.errors import UsageError, did_you_mean
from edgeopt.inputs import find_clock, original_backend, split_samples
from edgeopt.model import QuantizationProfile, Value
from edgeopt.recipe import BackendEntry, Budgets, MeasureSection, PassStep, Recipe, Target, effective_budgets
from edgeopt.store import Store

#: what times the models that a pass chooses among
TIMER = "edgeopt.validation.ranking:time_models"

Action = Literal["load", "split", "pass", "build", "tune", "unpack", "predict", "time"]


#: the ids of the two steps that every plan begins with
LOAD, SPLIT = "load original", "read data"

#: the names of the side that is the network as given, and of the one that was shipped before
ORIGINAL, BASELINE = "original", "baseline"


class Step(Value):
    """One step whose result is stored.

    `id` is unique in the plan and steady between plans; `needs` are ids; `parts` are what
    the key was made of, by name. What it works on lies in `options`, by the step's action.
    """

    id: str
    action: Action
    needs: tuple[str, ...] = ()
    name: str = ""
    options: dict[str, Any] = {}
    parts: dict[str, str] = Field(repr=False)
    key: str

    @property
    def title(self) -> str:
        """The id without what it was run for."""
        return self.id.partition(" [")[0]

    @property
    def scope(self) -> str:
        """What the step was run for, such as a variant; empty where it serves all."""
        return self.id.partition(" [")[2].rpartition("]")[0]


class Side(Value):
    """One thing that is built and measured: a candidate, or one of the references beside them."""

    id: str
    backend: str
    variant: str = ""
    passes: tuple[str, ...] = ()
    steps: tuple[str, ...] = Field(default=(), description="the ids of its passes, in order")
    model: str = Field(description="the id of the step whose model is built")
    build: str
    predict: str


class TargetPlan(Value):
    """One target: its candidates, the original, and float on each backend."""

    name: str
    threads: int
    batch: int
    device: str | None = None
    isa: tuple[str, ...] | None = None
    board: str | None = None
    runtimes: dict[str, str] = {}
    budgets: Budgets
    measure: MeasureSection = MeasureSection()
    candidates: tuple[Side, ...]
    original: Side
    floats: dict[str, Side]
    baseline: Side | None = None
    rebuilds: dict[str, tuple[Side, ...]] = Field(default={}, description="candidate → the same, built again")
    time: str = Field(description="the id of the step that times all sides together")

    def sides(self) -> list[Side]:
        baselines = [] if self.baseline is None else [self.baseline]
        again = itertools.chain.from_iterable(self.rebuilds.values())
        return [self.original, *self.floats.values(), *baselines, *self.candidates, *again]


class Plan(Value):
    """All steps in order, and what of each target is built from which."""

    recipe: Recipe
    steps: tuple[Step, ...]
    targets: tuple[TargetPlan, ...]

    def step(self, step: str) -> Step:
        return next(found for found in self.steps if found.id == step)


def make_plan(
    recipe: Recipe,
    store: Store | None = None,
    targets: tuple[str, ...] = (),
    baselines: Mapping[str, Path] | None = None,
    machines: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Resolve and key every step of a recipe, for all targets or the named ones.

    Args:
        baselines: target → the bundle of an earlier release, which is measured beside the candidates.
        machines: target → the fingerprint of the device that it is built and measured on.

    Raises:
        UsageError: no target has that name, or a bundle cannot be read.
    """
    known = [target.name for target in recipe.targets]
    for name in (*targets, *(baselines or {})):
        if name not in known:
            raise UsageError(f"the recipe has no target `{name}`", did_you_mean(name, known))
    builder = _Builder(recipe, store or Store(), baselines or {}, machines or {})
    plans = tuple(builder.target(target) for target in recipe.targets if not targets or target.name in targets)
    builder.digests.save()
    return Plan(recipe=recipe, steps=tuple(builder.steps.values()), targets=plans)


def float_side(backend: str) -> str:
    """The name of the side that is the given network, unchanged, on a backend."""
    return f"float {backend}"


class _Builder:
    """Gathers the steps of one plan."""

    def __init__(
        self, recipe: Recipe, store: Store, baselines: Mapping[str, Path], machines: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.recipe, self._machines = recipe, machines
        self._baselines = baselines
        self.steps: dict[str, Step] = {}
        memo = keys.digest(str(recipe.path.absolute()))[:16]
        self.digests = keys.FileDigests(store.root / "digests" / f"{memo}.json")
        self._load = self._add_load()
        self._split = self._add_split()

    def target(self, target: Target) -> TargetPlan:
        """The candidates of one target and the references beside them."""
        target = self._for_its_cpu(target)
        # the references come first: a network that is not what the recipe says is found out before anything is trained
        given = original_backend(self.recipe, target)
        unchanged = [] if target.device is None else self._unchanged(given.name)
        original = self._side(target, given, ORIGINAL, "", unchanged)
        floats = {
            entry.name: self._side(target, entry, float_side(entry.name), "", self._unchanged(entry.name))
            for entry in target.backends
        }
        candidates = [
            self._side(target, entry, f"{entry.name}/{variant}", variant, self.recipe.passes_of(target, variant))
            for entry in target.backends
            for variant in target.variants
        ]
        rebuilds = {side.id: self._rebuilds(target, side) for side in candidates if target.builds > 1}
        budgets = effective_budgets(self.recipe.budgets, target.budgets)
        baseline = self._add_baseline(target) if target.name in self._baselines else None
        again = tuple(itertools.chain.from_iterable(rebuilds.values()))
        sides = (original, *floats.values(), *([baseline] if baseline else ()), *candidates, *again)
        builds = tuple(side.build for side in sides)
        return TargetPlan(
            name=target.name, threads=target.threads, batch=target.batch, budgets=budgets, device=target.device,
            isa=None if target.isa is None else tuple(target.isa), board=target.board,
            runtimes={str(name): version for name, version in target.runtimes.items()},
            measure=self.recipe.measure_of(target), candidates=tuple(candidates), original=original, floats=floats,
            baseline=baseline, rebuilds=rebuilds,
            time=self._add_time(target, budgets, builds),
        )  # fmt: skip

    def _for_its_cpu(self, target: Target) -> Target:
        """The target with the instruction set of its device, where that was asked and the recipe does not say."""
        isa = self._machines.get(target.name, {}).get("isa")
        return target if isa is None or target.isa is not None else target.model_copy(update={"isa": list(isa)})

    def _machine_parts(self, target: Target, own: str) -> dict[str, str]:
        """What stands in keys for the machine that does the work: this one's digest, or the device that does it."""
        if target.device is None:
            return {"machine": own}
        return {"device": target.device, "machine": keys.digest(dict(self._machines.get(target.name, {})))}

    def _unchanged(self, backend: str) -> list[PassStep]:
        """The passes that bring the given network, unchanged, into the form that a backend takes."""
        if self.recipe.model.onnx or registry.resolve("backends", backend).accepts == "torch":
            return []
        return [PassStep.model_validate({"export_onnx": {}}), PassStep.model_validate({"simplify_onnx": {}})]

    def _side(self, target: Target, entry: BackendEntry, id: str, variant: str, passes: list[PassStep]) -> Side:
        model, steps, backend = self._load, list[str](), entry.name
        own = len(passes) - len(target.variants[variant].passes) if variant else 0
        label = id if len(target.backends) > 1 else variant or "float"
        for position, step in enumerate(passes):
            labels = (label, f"{target.name}/{label}") if position >= own else ("", target.name)
            model = self._add_pass(step, model, target, entry, labels)
            steps.append(model)
        build = self._add_build(target, entry, model, f"{target.name}/{id}")
        if target.tune and variant:
            build = self._add_tune(target, backend, build, f"{target.name}/{id}")
        predict = self._add_predict(target, backend, build, f"{target.name}/{id}")
        names = tuple(step.name for step in passes)
        return Side(
            id=id, backend=backend, variant=variant, passes=names, steps=tuple(steps), model=model,
            build=build, predict=predict,
        )  # fmt: skip

    def _rebuilds(self, target: Target, side: Side) -> tuple[Side, ...]:
        """A candidate's builds beyond the first: each from the same model, and timed and judged beside it."""
        entry = next(entry for entry in target.backends if entry.name == side.backend)
        rebuilt = []
        for number in range(2, target.builds + 1):
            id = f"{side.id} #{number}"
            build = self._add_build(target, entry, side.model, f"{target.name}/{id}", number)
            predict = self._add_predict(target, side.backend, build, f"{target.name}/{id}")
            rebuilt.append(side.model_copy(update={"id": id, "build": build, "predict": predict}))
        return tuple(rebuilt)

    def _add_load(self) -> str:
        model, source = self.recipe.model, "onnx_file" if self.recipe.model.onnx else "torch_factory"
        parts = keys.code_parts([registry.module_of("sources", source)])
        parts["model section"] = keys.digest(model.model_dump(mode="json", exclude={"expect", "weights", "onnx"}))
        if model.factory:
            parts |= keys.user_parts((self.recipe.folder / model.factory.partition(":")[0]).resolve())
        weights = model.weights or model.onnx
        assert weights is not None
        parts[f"file {weights.name}"] = self.digests.of(weights)
        return self._add("load", LOAD, (), parts, name=source)

    def _add_split(self) -> str:
        parts = keys.code_parts(["edgeopt.data.splits", registry.module_of("data", self.recipe.data.format)])
        data = self.recipe.data
        parts["data section"] = keys.digest([data.format, data.classes, data.preprocess.model_dump(mode="json")])
        for name, samples in split_samples(self.recipe, tuple(self.recipe.model.inputs)).items():
            files = registry.resolve("data", data.format)().files(samples.path)
            count = getattr(data, name).samples
            parts[f"{name} split"] = keys.digest([self.digests.of_all(files, samples.path), count])
        return self._add("split", SPLIT, (self._load,), parts)

    def _add_pass(
        self, entry: PassStep, model: str, target: Target, backend: BackendEntry, labels: tuple[str, str]
    ) -> str:  # fmt: skip
        step = registry.resolve("passes", entry.name)(**entry.options)
        backend, quantized, half = find_clock(self.recipe, target, step.clocked_by(), backend)
        runs = registry.resolve("backends", backend.name)(**backend.options)
        profile = runs.profile(target.isa) if step.needs_profile or quantized else None
        named = [("passes", entry.name), *step.named()]
        parts = keys.code_parts([registry.module_of(kind, name) for kind, name in named])
        parts["options"] = keys.digest(step.model_dump(mode="json"))
        parts["seed"] = str(self.recipe.seed)
        needs = [model]
        if profile is not None:
            parts["quantization profile"] = keys.digest(profile.model_dump(mode="json"))
        if half:
            parts["float16"] = "yes"
        lent = step.lent()
        if lent & {"calibration", "tuning", "training"}:
            needs.append(self._split)
        if "original" in lent and self._load not in needs:
            needs.append(self._load)
        options = {
            "options": step.model_dump(mode="json"), "profile": profile and profile.model_dump(mode="json"),
            "half": half,
        }  # fmt: skip
        if "accuracy" in lent:
            options["accuracy"] = self._accuracy_goal(target, parts)
        if "timer" in lent:
            options["timer"] = {
                "backend": backend.name, "options": backend.options, "threads": target.threads, "batch": target.batch,
            }  # fmt: skip
            options["device"] = target.device and target.name
            machine = self._machine_parts(target, keys.digest([*environment.cpu(), runs.machine()]))
            parts["timer"] = keys.digest([options["timer"], machine])
            parts |= keys.code_parts([TIMER.partition(":")[0], registry.module_of("backends", backend.name)])
        key = self._key("pass", entry.name, needs, parts)
        shared = next((known.id for known in self.steps.values() if known.key == key), None)
        id = self._free_id(entry.name, labels)
        return shared or self._add("pass", id, tuple(needs), parts, name=entry.name, options=options)

    def _accuracy_goal(self, target: Target, parts: dict[str, str]) -> dict[str, Any]:
        """What the target's budget allows to lose, as plain data; it goes into the key."""
        budget = effective_budgets(self.recipe.budgets, target.budgets).accuracy
        goal = {"metric": budget.metric if budget else "top1", "max_drop_pp": budget.max_drop_pp if budget else None}
        parts["accuracy budget"] = keys.digest(goal)
        parts.update(self._metric_parts([str(goal["metric"])]))
        return goal

    def _metric_parts(self, names: list[str]) -> dict[str, str]:
        """The code of metrics in files of the user's."""
        found: dict[str, str] = {}
        for file in (name.rpartition(":")[0] for name in names if ":" in name):
            found |= keys.user_parts((self.recipe.folder / file).resolve())
        return found

    def _add_build(self, target: Target, backend: BackendEntry, model: str, side: str, number: int = 1) -> str:
        parts = keys.code_parts([registry.module_of("backends", backend.name)])
        parts["options"] = keys.digest(backend.options)
        here = keys.digest(registry.resolve("backends", backend.name)(**backend.options).machine())
        parts |= self._machine_parts(target, here)
        parts["instruction set"] = keys.digest(list(environment.cpu()[1] if target.isa is None else target.isa))
        parts["threads and batch"] = f"{target.threads} and {target.batch}"
        parts["target"] = target.name
        if number > 1:
            parts["number of the build"] = str(number)
        context = {"target": target.name, "threads": target.threads, "batch": target.batch, "isa": target.isa}
        options = {"options": backend.options, "context": context, "device": target.device and target.name}
        return self._add("build", f"build [{side}]", (model,), parts, name=backend.name, options=options)

    def _add_tune(self, target: Target, backend: str, build: str, side: str) -> str:
        parts = keys.code_parts(["edgeopt.tuning", registry.module_of("backends", backend)])
        parts |= self._machine_parts(target, environment.fingerprint_digest())
        options = {"threads": target.threads, "batch": target.batch, "device": target.device and target.name}
        return self._add("tune", f"tune [{side}]", (build, self._split), parts, options=options)

    def _add_baseline(self, target: Target) -> Side:
        """The side that was shipped before. Its backend is told by its bundle, which no plan opens."""
        path = self._baselines[target.name].absolute()
        parts = keys.code_parts(["edgeopt.baseline"])
        parts["bundle"] = self.digests.of(path / "manifest.json" if path.is_dir() else path)
        parts["target"] = target.name
        parts["threads and batch"] = f"{target.threads} and {target.batch}"
        classes = self.recipe.data.classes
        options = {
            "path": str(path), "target": target.name, "classes": classes,
            "settings": {"threads": target.threads, "batch": target.batch},
        }  # fmt: skip
        unpack = self._add("unpack", f"unpack [{target.name}/{BASELINE}]", (self._load,), parts, options=options)
        predict = self._add_predict(target, None, unpack, f"{target.name}/{BASELINE}")
        return Side(id=BASELINE, backend=BASELINE, model=unpack, build=unpack, predict=predict)

    def _add_predict(self, target: Target, backend: str | None, build: str, side: str) -> str:
        names = self._metrics(target)
        known = [registry.module_of("metrics", name) for name in names if ":" not in name]
        runs = [] if backend is None else [registry.module_of("backends", backend)]
        parts = keys.code_parts(["edgeopt.validation.predicting", *runs, *known])
        parts |= self._metric_parts(names)
        parts |= self._machine_parts(target, keys.digest(list(environment.cpu())))
        parts["metrics"] = ", ".join(names)
        options = {
            "threads": target.threads, "batch": target.batch, "metrics": names,
            "device": target.device and target.name,
        }  # fmt: skip
        return self._add("predict", f"predict [{side}]", (build, self._split), parts, options=options)

    def _metrics(self, target: Target) -> list[str]:
        """The metrics that the sides of a target record."""
        accuracy = effective_budgets(self.recipe.budgets, target.budgets).accuracy
        judged = "top1" if accuracy is None else accuracy.metric
        return list(dict.fromkeys([judged, *self.recipe.model.expect]))

    def _add_time(self, target: Target, budgets: Budgets, builds: tuple[str, ...]) -> str:
        parts = keys.code_parts(
            ["edgeopt.validation.energy", "edgeopt.validation.latency", "edgeopt.validation.sustained"]
        )
        parts |= self._machine_parts(target, environment.fingerprint_digest())
        parts["budgets"] = keys.digest(budgets.model_dump(mode="json"))
        parts["measure section"] = keys.digest(self.recipe.measure_of(target).model_dump(mode="json"))
        parts["threads, batch and seed"] = f"{target.threads}, {target.batch} and {self.recipe.seed}"
        return self._add("time", f"time [{target.name}]", (*builds, self._split), parts)

    def _key(self, action: str, name: str, needs: list[str] | tuple[str, ...], parts: dict[str, str]) -> str:
        return keys.digest([action, name, [self.steps[need].key for need in needs], parts])

    def _add(
        self, action: Action, id: str, needs: tuple[str, ...], parts: dict[str, str], *,
        name: str = "", options: dict[str, Any] | None = None,
    ) -> str:  # fmt: skip
        key = self._key(action, name, needs, parts)
        parts = parts | {f"step {need}": self.steps[need].key for need in needs}
        self.steps[id] = Step(id=id, action=action, needs=needs, name=name, options=options or {}, parts=parts, key=key)
        return id

    def _free_id(self, name: str, labels: tuple[str, str]) -> str:
        """The name with the short label, or with the long one where another target has taken that."""
        short, long = (f"{name} [{label}]" if label else name for label in labels)
        numbered = (f"{long[:-1]} {number}]" for number in itertools.count(2))
        return next(id for id in itertools.chain((short, long), numbered) if id not in self.steps)


def profile_of(step: Step) -> QuantizationProfile | None:
    """The quantization profile that a pass step was planned with."""
    profile = step.options.get("profile")
    return None if profile is None else QuantizationProfile.model_validate(profile)
