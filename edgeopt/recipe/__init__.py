"""YAML → `Recipe`: every fault at once with line and column, and nothing written before the recipe is sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from edgeopt.errors import RecipeError, UsageError
from edgeopt.model import canonical_json
from edgeopt.recipe import check
from edgeopt.recipe.budgets import Budgets
from edgeopt.recipe.check import effective_budgets
from edgeopt.recipe.describe import describe_errors
from edgeopt.recipe.document import MAX_BYTES, Document, parse
from edgeopt.recipe.sections import (
    HIDDEN,
    BackendEntry,
    DataSection,
    MeasureSection,
    ModelSection,
    PassStep,
    Recipe,
    SplitSection,
    Target,
    Variant,
)

__all__ = [
    "BackendEntry", "Budgets", "DataSection", "MeasureSection", "ModelSection", "PassStep", "Recipe", "SplitSection",
    "Target", "Variant", "effective_budgets", "load_budgets", "load_recipe", "make_recipe",
]  # fmt: skip


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with `KEY=VALUE` overrides laid over it.

    Raises:
        UsageError: there is no such file.
        RecipeError: the recipe is not sound; the message has a line for each fault.
    """
    path = Path(path)
    return make_recipe(_read(path), path, overrides)


def make_recipe(text: str, path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that `text` is when it lies at `path`, which need not be there yet: paths are relative to its folder.

    Raises:
        RecipeError: the recipe is not sound; the message has a line for each fault.
    """
    document = parse(text)
    for override in overrides:
        document.override(override)
    recipe = _validate(document, path, text)
    _refuse(document, path)
    assert recipe is not None, "what is not valid has a fault"
    return recipe.model_copy(update={"overrides": tuple(overrides)})


def load_budgets(path: Path) -> Budgets:
    """Read a file that holds `budgets:` alone, written as in a recipe.

    Raises:
        UsageError: there is no such file.
        RecipeError: it is not sound; the message has a line for each fault.
    """
    document = parse(_read(path))
    data, budgets = document.data, Budgets()
    if not isinstance(data, dict) or set(data) != {"budgets"}:
        document.fault((), "a file of budgets holds `budgets:` and nothing else")
    else:
        check.check_budgets(document, path.parent)
        try:
            budgets = Budgets.model_validate_json(canonical_json(data["budgets"]), strict=True)
        except ValidationError as error:
            describe_errors(document, error, ("budgets",), Budgets)
    _refuse(document, path)
    return budgets


def _refuse(document: Document, path: Path) -> None:
    if document.faults:
        faults = sorted(document.faults, key=lambda fault: fault.order)
        lines = dict.fromkeys(str(fault) if fault.where.startswith("--set") else f"{path}:{fault}" for fault in faults)
        raise RecipeError("\n".join(lines), "`edgeopt schema` prints every key, pass and option")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)  # no more: by mistake it may be a network of gigabytes
        if len(data) > MAX_BYTES:
            raise RecipeError(f"{path}:1:1: larger than {MAX_BYTES // 1000} kB", "give the path of a YAML file")
        return data.decode("utf8")
    except OSError as error:
        what = f"cannot read the recipe `{path}`: {(error.strerror or '').lower()}"
        raise UsageError(what, "give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        what = f"{path}:1:1: not UTF-8 text: {error.reason} at byte {error.start}"
        raise RecipeError(what, "a recipe is a YAML file, saved as UTF-8") from error


def _validate(document: Document, path: Path, text: str) -> Recipe | None:
    if not isinstance(document.data, dict):
        if not document.faults:
            document.fault((), "a recipe is a mapping that begins with `edgeopt: 1`")
        return None
    data = {key: value for key, value in document.data.items() if key not in HIDDEN}
    for key in document.data.keys() - data.keys():
        document.fault((key,), f"unknown key `{key}`", at_key=True)
    check.check_names(document, path.parent)
    try:
        recipe = Recipe.model_validate_json(canonical_json(data), strict=True, context={"folder": path.parent})
    except ValidationError as error:
        describe_errors(document, error, (), Recipe)
        return None
    recipe = recipe.model_copy(update={"path": path, "text": text})
    check.check_values(document, recipe)
    return recipe
