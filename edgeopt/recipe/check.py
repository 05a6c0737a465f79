"""What can be wrong in a recipe beyond its shape: unknown passes and options, forms that do not join, missing files.

Works on the document, not on the finished value, so that these faults are told together with those of the shape.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edgeopt import registry
from edgeopt.errors import UsageError, did_you_mean
from edgeopt.model import QuantizationProfile, canonical_json
from edgeopt.recipe.budgets import Budgets
from edgeopt.recipe.describe import describe_errors
from edgeopt.recipe.document import Document, Location
from edgeopt.recipe.sections import BackendEntry, PassStep, Recipe, Target, resolve_path

#: limits that are tightened by raising them
FLOORS = ("confidence", "min_per_s", "class_floor")


def check_names(document: Document, folder: Path) -> None:
    """Passes, backends, data formats and files that do not exist, and options that passes do not have."""
    for location in pass_locations(document):
        _check_pass(document, location)
    targets = _list(document.find(("targets",)))
    for index, target in enumerate(targets):
        for position, _ in enumerate(_list(target.get("backends") if isinstance(target, dict) else None)):
            _check_backend(document, ("targets", index, "backends", position))
    data = document.find(("data",))
    if isinstance(data, dict):
        _known(document, "data", data.get("format", "npz"), ("data", "format"))
    expected = document.find(("model", "expect"))
    for name in expected if isinstance(expected, dict) else ():
        _known(document, "metrics", name, ("model", "expect", name), at_key=True)
    for location in (("budgets",), *(("targets", at, "budgets") for at, _ in enumerate(targets))):
        _check_metric(document, (*location, "accuracy", "metric"), folder)
    _check_files(document, folder)


def check_budgets(document: Document, folder: Path) -> None:
    """Limits without a value, and metrics that do not exist, in a file that holds `budgets:` alone."""
    _check_nulls(document, ("budgets",))
    _check_metric(document, ("budgets", "accuracy", "metric"), folder)


def pass_locations(document: Document) -> Iterator[Location]:
    """The location of every entry of every list of passes."""
    yield from _entries(document, ("passes",))
    for index, target in enumerate(_list(document.find(("targets",)))):
        yield from _entries(document, ("targets", index, "passes"))
        variants = target.get("variants") if isinstance(target, dict) else None
        for name, variant in variants.items() if isinstance(variants, dict) else ():
            inner = ("passes",) if isinstance(variant, dict) else ()
            yield from _entries(document, ("targets", index, "variants", name, *inner))


def check_values(document: Document, recipe: Recipe) -> None:
    """What only a recipe of sound shape can be asked: forms that join, targets told apart, budgets that limit."""
    seen = set[str]()
    _check_nulls(document, ("budgets",))
    for index, target in enumerate(recipe.targets):
        if target.name in seen:
            document.fault(("targets", index, "name"), f"two targets are called `{target.name}`")
        seen.add(target.name)
        if target.device is not None:
            _check_device(document, index, recipe, target)
        _check_budgets(document, index, recipe, target)
        for variant in target.variants:
            _check_forms(document, recipe, index, variant)
            _check_profiles(document, recipe, index, variant)
            _check_clocks(document, recipe, index, variant)
    _check_splits(document, recipe)


def _check_device(document: Document, index: int, recipe: Recipe, target: Target) -> None:
    """A device must be pinned, and runs neither torch nor code of the user's."""
    place = ("targets", index, "device")
    if recipe.inventory is None:
        document.fault(place, "no inventory pins the keys of this device", "name one: `inventory: fleet.yaml`")
    for entry in target.backends:
        if entry.name in registry.names("backends") and registry.resolve("backends", entry.name).accepts == "torch":
            document.fault(place, f"`{entry.name}` takes torch, which a device has not", "name a backend for ONNX")
    budget = effective_budgets(recipe.budgets, target.budgets).accuracy
    for metric in [*recipe.model.expect, *([budget.metric] if budget else [])]:
        if ":" in metric:
            document.fault(place, f"the metric `{metric}` is in a file, which a device does not run", "take top1")


def effective_budgets(shared: Budgets, own: Budgets) -> Budgets:
    """The budgets of a target: its own limits laid over the shared ones."""
    merged = shared.model_dump(exclude_none=True)
    for name, limits in own.model_dump(exclude_unset=True, exclude_none=True).items():
        base = merged.setdefault(name, {})
        floors = base.get("class_floor", {}) | limits.get("class_floor", {})
        merged[name] = base | limits | ({"class_floor": floors} if floors else {})
    return Budgets.model_validate(merged)


def _check_pass(document: Document, location: Location) -> None:
    entry = document.find(location)
    if not isinstance(entry, dict) or len(entry) != 1:
        return  # a fault of the shape
    ((name, options),) = entry.items()
    found = _known(document, "passes", name, (*location, name), at_key=True)
    if found is None:
        return
    if options is None or isinstance(options, dict):  # else a fault of the shape
        _check_options(document, found, options or {}, (*location, name))


def _check_backend(document: Document, location: Location) -> None:
    entry = document.find(location)
    if not isinstance(entry, dict):
        _known(document, "backends", entry, location)
    elif len(entry) == 1:  # else a fault of the shape
        ((name, options),) = entry.items()
        found = _known(document, "backends", name, (*location, name), at_key=True)
        if found is not None and isinstance(options, dict):
            _check_options(document, found, options, (*location, name))


def _check_metric(document: Document, location: Location, folder: Path) -> None:
    name = document.find(location)
    if not isinstance(name, str):
        return  # absent, or a fault of the shape
    file, colon, callable_name = name.rpartition(":")
    if not colon:
        _known(document, "metrics", name, location)
    elif not file.endswith(".py") or not callable_name.isidentifier():
        document.fault(location, f"`{name}` is no metric", "write `file.py:callable`, or the name of a metric")
    elif callable_name in registry.names("metrics"):
        document.fault(location, f"`{callable_name}` is a metric of edgeopt's", f"call yours `own_{callable_name}`")
    elif not (folder / file).is_file():
        document.fault(location, f"there is no `{folder / file}`", "paths are relative to the recipe")


def _check_options(document: Document, fields: type[BaseModel], options: dict[str, Any], location: Location) -> None:
    try:
        fields.model_validate_json(canonical_json(options), strict=True)
    except ValidationError as error:
        describe_errors(document, error, location, fields)


def _known(document: Document, kind: str, name: Any, location: Location, *, at_key: bool = False) -> Any:
    if not isinstance(name, str):
        return None  # a fault of the shape
    try:
        return registry.resolve(kind, name)
    except UsageError as error:
        document.fault(location, error.message, error.hint, at_key=at_key)
        return None


def _known_or_none(kind: str, name: str) -> Any:
    """The class of that name; None for one that `check_names` has told of already."""
    try:
        return registry.resolve(kind, name)
    except UsageError:
        return None


def _check_files(document: Document, folder: Path) -> None:
    splits = [("data", split, "path") for split in ("calibration", "validation", "training", "tuning")]
    for location in [("model", "factory"), ("model", "weights"), ("model", "onnx"), *splits]:
        text = document.find(location)
        try:
            path = resolve_path(text, folder) if isinstance(text, str) else None
        except ValueError:
            continue  # a fault of the shape
        if path is None:
            continue
        file, colon, _ = str(path).partition(".py:")  # a callable is named after its file
        path = Path(f"{file}.py") if colon else path
        if not os.path.isfile(path) and not (location[0] == "data" and os.path.isdir(path)):
            what = f"`{path}` is a folder, not a file" if os.path.isdir(path) else f"there is no `{path}`"
            document.fault(location, what, "paths are relative to the recipe")


def _check_forms(document: Document, recipe: Recipe, index: int, variant: str) -> None:
    """Follow the form of the model along the list of passes and into each backend."""
    form, target = "onnx" if recipe.model.onnx else "torch", recipe.targets[index]
    steps = recipe.passes_of(target, variant)
    for step, where in zip(steps, _step_locations(recipe, index, variant), strict=True):
        found = _known_or_none("passes", step.name)
        if found is None:
            return
        if found.accepts != form:
            why = "; an ONNX file can be neither pruned nor fine-tuned" if recipe.model.onnx else ""
            what = f"`{step.name}` takes a model in {found.accepts} form, and here it is in {form} form{why}"
            document.fault((*where, step.name), what, "put `export_onnx: {}` before it" if form == "torch" else "")
            return
        form = found.produces
    for position, entry in enumerate(target.backends):
        name, backend = entry.name, _known_or_none("backends", entry.name)
        if backend is not None and backend.accepts != form:
            what = f"`{name}` takes a model in {backend.accepts} form, and variant `{variant}` ends in {form} form"
            advice = "add `export_onnx: {}` to its passes" if form == "torch" else "take `export_onnx` out"
            document.fault(("targets", index, "backends", position), what, advice)


def _check_profiles(document: Document, recipe: Recipe, index: int, variant: str) -> None:
    """What a pass is asked for, each backend must be able to express."""
    target = recipe.targets[index]
    steps = recipe.passes_of(target, variant)
    for step, where in zip(steps, _step_locations(recipe, index, variant), strict=True):
        found = _known_or_none("passes", step.name)
        if found is None or not found.needs_profile:
            continue
        for position, entry in enumerate(target.backends):
            name, backend = entry.name, _known_or_none("backends", entry.name)
            if backend is None or backend.accepts != found.produces:
                continue  # a fault of the forms
            profile = _profile(backend, entry, target)
            if profile is None:
                what = f"`{name}` runs no integers, and variant `{variant}` has `{step.name}`"
                document.fault(
                    ("targets", index, "backends", position), what, "give it a variant without, or leave it out"
                )
            elif misfit := _misfit(found, step.options, profile):
                document.fault((*where, step.name), misfit)


def _check_clocks(document: Document, recipe: Recipe, index: int, variant: str) -> None:
    """A pass that goes by a clock must say whose, where a target has several candidates."""
    target = recipe.targets[index]
    candidates = [f"{entry.name}/{variant}" for entry in target.backends for variant in target.variants]
    steps = recipe.passes_of(target, variant)
    for step, where in zip(steps, _step_locations(recipe, index, variant), strict=True):
        named = _clock_of(step)
        if named is None or named in candidates or (not named and len(candidates) == 1):
            continue
        what = f"target `{target.name}` has several candidates, and `on` names none"
        if named:
            what = f"target `{target.name}` has no candidate `{named}`"
        document.fault((*where, step.name), what, did_you_mean(named, candidates))


def _clock_of(step: PassStep) -> str | None:
    """The candidate whose clock a pass goes by: see `Pass.clocked_by`; None where its options are at fault."""
    found = _known_or_none("passes", step.name)
    try:
        named: str | None = None if found is None else found.model_validate(step.options).clocked_by()
    except ValidationError:
        return None
    return named


def _profile(backend: Any, entry: BackendEntry, target: Target) -> QuantizationProfile | None:
    """That of the backend with its options, or without where they are at fault, which is told elsewhere."""
    try:
        chosen = backend.model_validate_json(canonical_json(entry.options), strict=True)
    except ValidationError:
        chosen = backend()
    profile: QuantizationProfile | None = chosen.profile(target.isa)
    return profile


def _misfit(found: Any, options: dict[str, Any], profile: QuantizationProfile) -> str:
    """What a pass with these options asks of a profile that has no word for it."""
    try:
        return str(found.model_validate_json(canonical_json(options), strict=True).misfit(profile))
    except ValidationError:
        return ""  # a fault of the options


def _step_locations(recipe: Recipe, index: int, variant: str) -> list[Location]:
    """Where each entry of `Recipe.passes_of` stands."""
    target = recipe.targets[index]
    chosen = target.variants[variant]
    shared: Location = ("passes",) if target.passes is None else ("targets", index, "passes")
    own: Location = ("targets", index, "variants", variant, *(["passes"] if chosen.replaces else []))
    count = len(recipe.passes_of(target, variant)) - len(chosen.passes)
    return [*((*shared, each) for each in range(count)), *((*own, each) for each in range(len(chosen.passes)))]


def _check_splits(document: Document, recipe: Recipe) -> None:
    """Splits that a pass reads must be in the recipe; an accuracy budget needs a validation split, which always is."""
    needed: dict[str, str] = {}
    for target in recipe.targets:
        for variant in target.variants:
            for step in recipe.passes_of(target, variant):
                needed |= {split: step.name for split in _required(step) if split in ("calibration", "training")}
    for split, name in needed.items():
        if getattr(recipe.data, split) is None:
            document.fault(("data",), f"`{name}` needs `data.{split}`", "add its path; no data is ever made up")


def _required(step: PassStep) -> tuple[str, ...]:
    """What a pass with these options cannot do without; nothing where they are at fault."""
    found = _known_or_none("passes", step.name)
    try:
        needed: tuple[str, ...] = () if found is None else found.model_validate(step.options).required()
    except ValidationError:
        return ()
    return needed


def _check_budgets(document: Document, index: int, recipe: Recipe, target: Target) -> None:
    """The budgets of one target: its own may not loosen the shared ones, and together each must limit something."""
    _check_nulls(document, ("targets", index, "budgets"))
    own = target.budgets.model_dump(exclude_unset=True, exclude_none=True)
    for name, limits in recipe.budgets.model_dump(exclude_none=True).items():
        for limit, value in _numbers(own.get(name, {})).items():
            base = _numbers(limits).get(limit)
            if base is not None and (value < base if limit[0] in FLOORS else value > base):
                what = f"a target may tighten a budget, not loosen it: {value:g} against {base:g}"
                document.fault(("targets", index, "budgets", name, *limit), what)
    for name, limits in effective_budgets(recipe.budgets, target.budgets).model_dump(exclude_none=True).items():
        where: Location = ("targets", index, "budgets", name) if name in own else ("budgets", name)
        empty = None in (document.find(where) or {}).values()  # which `_check_nulls` has told of
        if not limits.keys() - {"metric", "confidence"} and not empty and not document.has_fault(where):
            document.fault(where, f"`{name}` sets no limit", "see `edgeopt schema`", at_key=True)
        for each in limits.get("class_floor", {}).keys() - set(recipe.data.classes or []):
            inner = (*where, "class_floor", each)
            there = inner if document.has(inner) else ("budgets", name, "class_floor", each)
            advice = did_you_mean(each, recipe.data.classes or [])
            document.fault(there, f"there is no class `{each}`", advice, at_key=True)


def _check_nulls(document: Document, location: Location) -> None:
    """A budget without a value is most likely one that was meant to be filled in."""
    found = document.find(location)
    if found is None and document.has(location) and not document.has_fault(location):
        document.fault(location, f"`{location[-1]}` has no value", at_key=True)
    for key in found if isinstance(found, dict) else ():
        _check_nulls(document, (*location, key))


def _numbers(limits: dict[str, Any]) -> dict[Location, float]:
    """The numbers of one budget by their location in it."""
    flat: dict[Location, float] = {}
    for name, value in limits.items():
        inner = value.items() if isinstance(value, dict) else ()
        flat |= {(name, key): number for key, number in inner}
        if isinstance(value, int | float):
            flat[(name,)] = value
    return flat


def _entries(document: Document, location: Location) -> Iterator[Location]:
    for index, _ in enumerate(_list(document.find(location))):
        yield (*location, index)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
