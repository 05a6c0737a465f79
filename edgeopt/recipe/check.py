"""What can be wrong in a recipe beyond its shape: unknown passes and options, forms that do not join, missing files.

Works on the document, not on the finished value, so that these faults are told together with those of the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edgeopt import registry
from edgeopt.errors import UsageError, did_you_mean
from edgeopt.model import canonical_json
from edgeopt.recipe.budgets import Budgets
from edgeopt.recipe.document import Document, Location
from edgeopt.recipe.sections import Recipe, Target


def check_names(document: Document) -> None:
    """Passes, backends and data formats that do not exist, and options that they do not have."""
    for location in pass_locations(document):
        _check_pass(document, location)
    for index, target in enumerate(_list(document.find(("targets",)))):
        for position, name in enumerate(_list(target.get("backends") if isinstance(target, dict) else None)):
            _known(document, "backends", name, ("targets", index, "backends", position))
    data = document.find(("data",))
    if isinstance(data, dict):
        _known(document, "data", data.get("format", "npz"), ("data", "format"))


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
    """What only a recipe of sound shape can be asked: files that exist, forms that join, targets told apart."""
    _check_files(document, recipe)
    seen = set[str]()
    for index, target in enumerate(recipe.targets):
        if target.name in seen:
            document.fault(("targets", index, "name"), f"two targets are called `{target.name}`")
        seen.add(target.name)
        if target.device is not None:
            document.fault(("targets", index, "device"), "measuring on a device is not built yet", "take `device` away")
        _check_tightened(document, index, recipe.budgets, target.budgets)
        for variant in target.variants:
            _check_forms(document, recipe, index, target, variant)
    _check_splits(document, recipe)
    _check_class_floor(document, recipe)


def effective_budgets(shared: Budgets, own: Budgets) -> Budgets:
    """The budgets of a target: its own limits laid over the shared ones."""
    merged = shared.model_dump(exclude_none=True)
    for name, limits in own.model_dump(exclude_unset=True, exclude_none=True).items():
        merged[name] = merged.get(name, {}) | limits
    return Budgets.model_validate(merged)


def describe_errors(document: Document, error: ValidationError, root: Location, fields: type[BaseModel]) -> None:
    """Record what pydantic found, in our words, at the place in the text."""
    for problem in error.errors(include_url=False):
        inner = problem["loc"]
        location, last = (*root, *inner), str(inner[-1]) if inner else ""
        if problem["type"] == "extra_forbidden":
            advice = did_you_mean(last, _fields_at(fields, inner[:-1]))
            document.fault(location, f"unknown key `{last}`", advice, at_key=True)
        elif problem["type"] == "missing":
            document.fault(location[:-1], f"missing key `{last}`")
        else:
            document.fault(location, _sentence(problem["msg"], location, problem["input"]))


def _sentence(text: str, location: Location, found: object) -> str:
    """`input should be …` → "`mean[0]` should be …, found …" """
    words = [str(step) for step in location if isinstance(step, str)][-1:]
    name = "".join([*words, *(f"[{step}]" for step in location[-1:] if isinstance(step, int))])
    text = text.removeprefix("Value error, ").removeprefix("Input ")
    text = f"`{name}` {text}" if name and text.startswith(("should", "must")) else text[:1].lower() + text[1:]
    return f"{text}, found `{_yaml(found)}`" if isinstance(found, str | int | float | None) else text


def _check_pass(document: Document, location: Location) -> None:
    entry = document.find(location)
    if not isinstance(entry, dict) or len(entry) != 1:
        return  # a fault of the shape
    ((name, options),) = entry.items()
    found = _known(document, "passes", name, (*location, name), at_key=True)
    if found is None:
        return
    if options is not None and not isinstance(options, dict):
        document.fault((*location, name), f"the options of `{name}` should be a mapping, such as `{{}}`")
        return
    _validate(document, found, options or {}, (*location, name))


def _validate(document: Document, fields: type[BaseModel], data: Any, location: Location) -> Any:
    try:
        return fields.model_validate_json(canonical_json(data), strict=True)
    except ValidationError as error:
        describe_errors(document, error, location, fields)
        return None


def _known(document: Document, kind: str, name: Any, location: Location, *, at_key: bool = False) -> Any:
    if not isinstance(name, str):
        return None  # a fault of the shape
    try:
        return registry.resolve(kind, name)
    except UsageError as error:
        document.fault(location, error.message, error.hint, at_key=at_key)
        return None


def _check_files(document: Document, recipe: Recipe) -> None:
    model, data = recipe.model, recipe.data
    wanted: list[tuple[Location, Path | None]] = [
        (("model", "weights"), model.weights),
        (("model", "onnx"), model.onnx),
        (("model", "factory"), recipe.folder / model.factory.partition(":")[0] if model.factory else None),
    ]
    for split in ("calibration", "validation", "training", "tuning"):
        section = getattr(data, split)
        if section is not None:
            file, colon, _ = str(section.path).partition(".py:")  # `python` names a callable after its file
            wanted.append((("data", split, "path"), Path(f"{file}.py") if colon else section.path))
    for location, path in wanted:
        if path is not None and not path.exists():
            document.fault(location, f"there is no `{path}`", "paths are relative to the recipe")


def _check_forms(document: Document, recipe: Recipe, index: int, target: Target, variant: str) -> None:
    """Follow the form of the model along the list of passes and into each backend."""
    form = "onnx" if recipe.model.onnx else "torch"
    where: Location = ("targets", index, "variants", variant)
    for step in recipe.passes_of(target, variant):
        found = registry.resolve("passes", step.name)
        if found.accepts != form:
            why = "; an ONNX file can be neither pruned nor trained" if recipe.model.onnx else ""
            what = f"`{step.name}` takes a {found.accepts} model, and here it is in {form} form{why}"
            document.fault(where, what, "put `export_onnx: {}` before it" if form == "torch" else "")
            return
        form = found.produces
    for position, name in enumerate(target.backends):
        accepts = registry.resolve("backends", name).accepts
        if accepts != form:
            what = f"`{name}` takes a {accepts} model, and variant `{variant}` ends in {form} form"
            advice = "add `export_onnx: {}` to its passes" if accepts == "onnx" else "take `export_onnx` out"
            document.fault(("targets", index, "backends", position), what, advice)


def _check_splits(document: Document, recipe: Recipe) -> None:
    """Splits that a pass reads must be in the recipe; an accuracy budget needs a validation split, which always is."""
    needed: dict[str, str] = {}
    for target in recipe.targets:
        for variant in target.variants:
            for step in recipe.passes_of(target, variant):
                reads: tuple[str, ...] = registry.resolve("passes", step.name).reads
                needed |= {split: step.name for split in reads if split in ("calibration", "training")}
    for split, name in needed.items():
        if getattr(recipe.data, split) is None:
            document.fault(("data",), f"`{name}` needs `data.{split}`", "add its path; no data is ever made up")


def _check_class_floor(document: Document, recipe: Recipe) -> None:
    floors = recipe.budgets.accuracy.class_floor if recipe.budgets.accuracy else None
    classes = recipe.data.classes or []
    for name in floors or {}:
        if name not in classes:
            where = ("budgets", "accuracy", "class_floor", name)
            document.fault(where, f"there is no class `{name}`", did_you_mean(name, classes), at_key=True)


def _check_tightened(document: Document, index: int, shared: Budgets, own: Budgets) -> None:
    for name, limits in own.model_dump(exclude_unset=True, exclude_none=True).items():
        base = (getattr(shared, name) or Budgets()).model_dump(exclude_none=True)
        for limit, value in limits.items():
            if not isinstance(value, float | int) or limit not in base:
                continue
            looser: Callable[[float, float], bool] = (
                float.__lt__ if limit in ("confidence", "min_per_s") else float.__gt__
            )
            if looser(float(value), float(base[limit])):
                where = ("targets", index, "budgets", name, limit)
                what = f"a target may tighten a budget, not loosen it: {value:g} against {base[limit]:g}"
                document.fault(where, what)


def _fields_at(fields: Any, location: tuple[str | int, ...]) -> list[str]:
    """The keys that are known at a location of the recipe, found by walking the types."""
    for step in location:
        inner = getattr(fields, "model_fields", {}).get(step)
        fields = _model_in(inner.annotation) if inner is not None else fields
    return list(getattr(fields, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(argument) for argument in getattr(annotation, "__args__", ())]
    return next((model for model in found if model is not None), None)


def _entries(document: Document, location: Location) -> Iterator[Location]:
    for index, _ in enumerate(_list(document.find(location))):
        yield (*location, index)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _yaml(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
